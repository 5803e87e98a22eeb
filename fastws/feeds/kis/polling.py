"""Which symbols are asked for next by REST. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import itemgetter
from typing import Final, NamedTuple

_NEVER: Final = -float("inf")
# Of so many calls one is for a book while prices are due as well: a price says more.
_BOOK_TURN: Final = 4
# Of so many calls for prices one begins with those that come later, while the others are due as well.
_LATER_TURN: Final = 4
# What is refused alone is asked for again after so many seconds, twice as many each time.
_FIRST_PAUSE: Final = 5.0
_LAST_PAUSE: Final = 60.0


class Job(NamedTuple):
    """Ask for the prices of `codes`, or with `is_book` for the book of the only one."""

    codes: tuple[str, ...]
    is_book: bool


class _Lane:
    """Symbols and when each was asked for last, the longest ago first."""

    __slots__ = ("asked", "interval")

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.asked: dict[str, float] = {}

    def want(self, codes: Iterable[str], known: Mapping[str, float]) -> None:
        """Have these, the new ones before those of `known`, which were asked for then."""
        new: dict[str, float] = {}
        old: list[tuple[float, str]] = []
        for code in codes:
            at = known.get(code)
            if at is None:
                new[code] = _NEVER
            else:
                old.append((at, code))
        old.sort(key=itemgetter(0))
        self.asked = new | {code: at for at, code in old}

    def due(self, now: float, part: float = 1.0) -> Iterator[str]:
        """Those for which `part` of the interval is over."""
        for code, at in self.asked.items():
            if now < at + self.interval * part:
                return
            yield code

    def is_due(self, now: float) -> bool:
        return next(self.due(now), None) is not None

    def due_at(self) -> float:
        return next(iter(self.asked.values())) + self.interval if self.asked else float("inf")


class _Refused:
    """What is asked for alone: it was refused, or others together with it."""

    __slots__ = ("lane", "pause", "until")

    def __init__(self, lane: _Lane) -> None:
        self.lane = lane  # where it belongs otherwise
        self.pause = 0.0  # 0: it has not been refused alone
        self.until = _NEVER


class PollPlan:
    """What is polled, each symbol in its turn.

    1. A symbol is asked for again when `interval` seconds are over, or later, when there are more than the calls allow;
       then those are next that have waited longest.
    2. Prices come `batch_size` at a time, books one by one.
    3. While both are due, one call of four is for a book. Prices that are wanted `later` fill up calls for the others,
       and have one of four for themselves.
    4. `checks` are prices that are asked for every `check_interval` seconds only, before all others: of what should
       come by itself.
    5. When a call for several is refused, each of them is asked for alone, to find out which one is meant. What is
       refused alone is asked for again after a pause that grows, while the others go on. When it is answered after all,
       it was not for the symbol, and the others that were refused have their turns again, too.
    """

    def __init__(self, interval: float, batch_size: int, check_interval: float = 60.0) -> None:
        self.interval = interval
        self.batch_size = batch_size
        self._prices = _Lane(interval)
        self._later = _Lane(interval)
        self._checks = _Lane(check_interval)
        self._books = _Lane(interval)
        self._lanes = (self._prices, self._later, self._checks, self._books)
        self._refused: dict[tuple[str, bool], _Refused] = {}  # by code and whether it is the book
        self._n_prices = 0  # calls since the last book
        self._n_first = 0  # calls for prices since the last one that began with those that come later
        self._was_alone = False

    def __len__(self) -> int:
        """Symbols whose prices are polled; checks do not count."""
        n_refused = sum(refused.lane in (self._prices, self._later) for refused in self._refused.values())
        return len(self._prices.asked) + len(self._later.asked) + n_refused

    def want(
        self,
        prices: Iterable[str],
        books: Iterable[str],
        *,
        later: Iterable[str] = (),
        checks: Iterable[str] = (),
    ) -> None:
        """From now on poll these, those that are new before the others."""
        known = self._checks.asked | self._later.asked | self._prices.asked
        still_refused: dict[tuple[str, bool], _Refused] = {}
        for lane, codes, times in (
            (self._prices, prices, known),
            (self._later, later, known),
            (self._checks, checks, known),
            (self._books, books, self._books.asked),
        ):
            free = []
            for code in dict.fromkeys(codes):
                refused = self._refused.get((code, lane is self._books))
                if refused is None:
                    free.append(code)
                else:
                    refused.lane = lane
                    still_refused[code, lane is self._books] = refused
            lane.want(free, times)
        self._refused = still_refused

    def take(self, now: float) -> Job | None:
        """Return what is to be asked for now, and count it as asked for; None when nothing is due."""
        is_price_due = self._prices.is_due(now) or self._later.is_due(now)
        is_check_due, is_book_due = self._checks.is_due(now), self._books.is_due(now)
        if not (self._was_alone and (is_price_due or is_check_due or is_book_due)):
            alone = self._take_alone(now)
            if alone is not None:
                self._was_alone = True
                return alone
        self._was_alone = False
        if is_check_due:
            # What is nearly due goes along, so that they stay together.
            return self._take_prices(now, (self._checks,), 0.5)
        if is_book_due and (not is_price_due or self._n_prices >= _BOOK_TURN - 1):
            self._n_prices = 0
            code = next(iter(self._books.asked))
            _mark(self._books, code, now)
            return Job((code,), is_book=True)
        if not is_price_due:
            return None
        self._n_prices += 1
        if self._n_first >= _LATER_TURN - 1 and self._later.is_due(now):
            self._n_first = 0
            return self._take_prices(now, (self._later, self._prices))
        self._n_first += 1
        return self._take_prices(now, (self._prices, self._later))

    def due_at(self) -> float:
        """When something is due; infinity where nothing is polled."""
        ats = [lane.due_at() for lane in self._lanes]
        return min(ats + [refused.until for refused in self._refused.values()])

    def on_refused(self, job: Job, now: float) -> None:
        """KIS does not answer this as it is."""
        is_alone = len(job.codes) == 1
        for code in job.codes:
            refused = self._refused.get((code, job.is_book))
            if refused is None:
                lane = next((lane for lane in self._lanes_of(job) if code in lane.asked), None)
                if lane is None:
                    continue  # nobody wants it any more
                del lane.asked[code]
                refused = self._refused[code, job.is_book] = _Refused(lane)
            if is_alone:
                refused.pause = min(max(2.0 * refused.pause, _FIRST_PAUSE), _LAST_PAUSE)
                refused.until = now + refused.pause

    def on_answered(self, job: Job, now: float) -> None:
        """KIS has answered this."""
        refused = self._refused.get((job.codes[0], job.is_book))
        if refused is None or len(job.codes) > 1:
            return
        if refused.pause:
            released = [key for key in self._refused if key[1] is job.is_book]
        else:
            released = [(job.codes[0], job.is_book)]
        for key in released:
            # At the end, where the order by time is kept.
            self._refused.pop(key).lane.asked[key[0]] = now

    def _take_alone(self, now: float) -> Job | None:
        due = [key for key, refused in self._refused.items() if refused.until <= now]
        if not due:
            return None
        code, is_book = key = min(due, key=lambda key: self._refused[key].until)
        # Another app key may ask for the next one before this is answered.
        self._refused[key].until = now + max(self._refused[key].pause, _FIRST_PAUSE)
        return Job((code,), is_book=is_book)

    def _take_prices(self, now: float, lanes: Sequence[_Lane], part: float = 1.0) -> Job:
        due = ((lane, code) for lane in lanes for code in lane.due(now, part))
        taken = list(islice(due, self.batch_size))
        for lane, code in taken:
            _mark(lane, code, now)
        return Job(tuple(code for _, code in taken), is_book=False)

    def _lanes_of(self, job: Job) -> Sequence[_Lane]:
        return (self._books,) if job.is_book else (self._prices, self._later, self._checks)


def _mark(lane: _Lane, code: str, now: float) -> None:
    del lane.asked[code]
    lane.asked[code] = now
