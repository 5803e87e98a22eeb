"""When markets trade: by the clock, by a list of days, and by what feeds say. Sans-IO.

Sources: trading hours of KRX since 2026-09-14 and of Nextrade (NXT), as published by them; both are in Korea, where
there is no daylight-saving time. Phases are named as `market_status` names them.
"""

from __future__ import annotations

import bisect
import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

PRE_MARKET: Final = "pre_market"
OPENING_AUCTION: Final = "opening_auction"
OPEN: Final = "open"
CLOSING_AUCTION: Final = "closing_auction"
AFTER_MARKET: Final = "after_market"
CLOSED: Final = "closed"
HALTED: Final = "halted"

KST: Final = datetime.timezone(datetime.timedelta(hours=9), "KST")

REGULAR: Final = 0
EXTENDED: Final = 1
QUIET: Final = -1
# Trading without a break, in which silence means something. Auctions, halts and whatever else is said do not.
_KINDS: Final = {OPEN: REGULAR, PRE_MARKET: EXTENDED, AFTER_MARKET: EXTENDED}

Changes = tuple[tuple[int, str], ...]
"""(minute of the day from which on, phase), in order, the first at 0."""

KOREAN: Final[Mapping[str, Changes]] = {
    "KRX": (
        (0, CLOSED),
        (8 * 60 + 30, OPENING_AUCTION),
        (9 * 60, OPEN),
        (15 * 60 + 20, CLOSING_AUCTION),
        (15 * 60 + 30, CLOSED),
        (16 * 60, AFTER_MARKET),
        (20 * 60, CLOSED),
    ),
    "NXT": (
        (0, CLOSED),
        (8 * 60, PRE_MARKET),
        (8 * 60 + 50, CLOSED),
        (9 * 60, OPEN),
        (15 * 60 + 20, CLOSED),
        (15 * 60 + 40, AFTER_MARKET),
        (20 * 60, CLOSED),
    ),
    # Both together, as one sees a stock that is traded on either.
    "UN": (
        (0, CLOSED),
        (8 * 60, PRE_MARKET),
        (8 * 60 + 50, OPENING_AUCTION),
        (9 * 60, OPEN),
        (15 * 60 + 20, CLOSING_AUCTION),
        (15 * 60 + 30, CLOSED),
        (15 * 60 + 40, AFTER_MARKET),
        (20 * 60, CLOSED),
    ),
}
DEFAULT_CALENDARS: Final = {"KOSPI": "UN", "KOSDAQ": "UN", "KONEX": "KRX"}
ALWAYS: Final = "always"

_USUAL_OPEN: Final = 9 * 60
_USUAL_CLOSE: Final = 15 * 60 + 30
_DAY: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?: ([01]\d|2[0-3]):([0-5]\d)(?:-([01]\d|2[0-3]):([0-5]\d))?)?", re.ASCII
)


class SpecialDay(NamedTuple):
    """A day that is not as others: a holiday, or one on which the regular session has other hours (minutes of the day,
    the closing auction included)."""

    date: datetime.date
    opens: int | None = None
    closes: int | None = None

    @property
    def is_holiday(self) -> bool:
        return self.opens is None


def parse_day(text: str) -> SpecialDay:
    """Read ``2026-12-25``, a holiday, or ``2026-11-19 10:00-16:30``, other hours; ``10:00`` alone is a later opening.

    Raises:
        ValueError: it is neither.
    """
    match = _DAY.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a day such as 2026-12-25 or 2026-11-19 10:00-16:30, got {text!r:.60}")
    date = datetime.date.fromisoformat(match[1])
    if match[2] is None:
        return SpecialDay(date)
    opens = int(match[2]) * 60 + int(match[3])
    closes = _USUAL_CLOSE if match[4] is None else int(match[4]) * 60 + int(match[5])
    if opens >= closes:
        raise ValueError(f"expected an opening before the close, got {text!r}")
    return SpecialDay(date, opens, closes)


class Calendar(Protocol):
    """Says which phase a market is in."""

    def phase_at(self, unix_seconds: float, /) -> str: ...


class KoreanCalendar:
    """The days of a market in Korea: `changes` on every working day that is not special.

    On a day of other hours the opening auction moves with the opening, and what follows with the close, up to the end
    of the day's last phase, which stays. Where the opening is later there is no pre-market.
    """

    def __init__(self, changes: Changes, special: Iterable[SpecialDay] = ()) -> None:
        self._changes = changes
        self._special = {
            day.date: ((0, CLOSED),) if day.is_holiday else _moved(changes, day) for day in special
        }

    def phase_at(self, unix_seconds: float, /) -> str:
        now = datetime.datetime.fromtimestamp(unix_seconds, KST)
        changes = self._special.get(now.date())
        if changes is None:
            if now.weekday() >= 5:
                return CLOSED
            changes = self._changes
        return _phase_in(changes, now.hour * 60 + now.minute)


class ListedCalendar:
    """Sessions from a list of (opening, close), Unix seconds, in order. What is beyond the list is closed."""

    def __init__(self, sessions: Sequence[tuple[float, float]]) -> None:
        self._opens = [opens for opens, _ in sessions]
        self._closes = [closes for _, closes in sessions]

    def phase_at(self, unix_seconds: float, /) -> str:
        i = bisect.bisect_right(self._opens, unix_seconds) - 1
        return OPEN if i >= 0 and unix_seconds < self._closes[i] else CLOSED


class AlwaysOpen:
    """The calendar of what is traded day and night."""

    def phase_at(self, unix_seconds: float, /) -> str:
        return OPEN


class MarketSessions:
    """Which phase each market is in. `now` is Unix time in seconds.

    1. What was said of a market (`market_status`) holds until its calendar comes to another phase than it was in then.
       So a halt lasts as long as nobody says otherwise, and a market whose feed has died with it does not stay open.
    2. Of a market of which nothing was said the calendar speaks; without a calendar its phase is not known.
    """

    def __init__(self, calendars: Mapping[str, Calendar]) -> None:
        self._calendars = dict(calendars)
        self._said: dict[str, tuple[str, str | None]] = {}

    def on_status(self, market: str, status: str, now: float) -> None:
        """Note what was said."""
        calendar = self._calendars.get(market)
        self._said[market] = status, None if calendar is None else calendar.phase_at(now)

    def phase(self, market: str, now: float) -> tuple[str | None, bool]:
        """The phase of a market, None where it is not known, and whether that was said and is not of the clock only."""
        calendar, said = self._calendars.get(market), self._said.get(market)
        by_clock = None if calendar is None else calendar.phase_at(now)
        if said is None:
            return by_clock, False
        if said[1] == by_clock:
            return said[0], True
        # Or it would hold again tomorrow, when the calendar has come back to that phase.
        del self._said[market]
        return by_clock, False

    def pass_on(self, now: float) -> None:
        """Let end what was said, where it does; to be called at least once in each phase."""
        for market in self._calendars:
            self.phase(market, now)


def kind_of(phase: str | None) -> int:
    """What silence in a phase is compared with: `REGULAR`, `EXTENDED`, or nothing, `QUIET`."""
    return QUIET if phase is None else _KINDS.get(phase, QUIET)


def _phase_in(changes: Changes, minute: int) -> str:
    return next(phase for start, phase in reversed(changes) if minute >= start)


def _moved(changes: Changes, day: SpecialDay) -> Changes:
    if day.opens is None or day.closes is None:
        return changes
    end = changes[-1][0]
    before, after = day.opens - _USUAL_OPEN, day.closes - _USUAL_CLOSE
    moved = {0: CLOSED}
    for start, phase in changes[1:-1]:
        if phase == PRE_MARKET and before > 0:
            continue
        moved[min(max(start + (before if start <= _USUAL_OPEN else after), 0), end)] = phase
    moved[end] = changes[-1][1]
    return tuple(sorted(moved.items()))
