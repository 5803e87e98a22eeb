"""Which calendar each market has, as settings name them.

Korean days off are listed; those of other exchanges, and Korean ones beyond the list, may be those of the library
exchange_calendars (extra ``calendars``). It is asked once, at the start: what it takes a second and pandas for is a
list of times then.
"""

from __future__ import annotations

import datetime
import importlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from fastws.market.korean_days import KOREAN_DAYS
from fastws.market.sessions import (
    ALWAYS,
    DEFAULT_CALENDARS,
    KOREAN,
    KST,
    AlwaysOpen,
    Calendar,
    KoreanCalendar,
    ListedCalendar,
    SpecialDay,
    parse_day,
)

if TYPE_CHECKING:
    from types import ModuleType

KOREAN_EXCHANGE: Final = "XKRX"
# As far as such lists are made, and a little back: a server may run for a year.
_AHEAD: Final = datetime.timedelta(days=366)
_BACK: Final = datetime.timedelta(days=7)
_EXCHANGE: Final = re.compile(r"[A-Z0-9]{3,8}(?:/[A-Z0-9]+)?")


class CalendarError(Exception):
    """A calendar or a holiday that cannot be used; the text says which and why."""


def parse_calendar(text: str) -> tuple[str, str]:
    """Split ``MARKET=CALENDAR``.

    Raises:
        CalendarError: it is none.
    """
    market, mark, name = text.partition("=")
    if not mark or not market or not (name in KOREAN or name == ALWAYS or _EXCHANGE.fullmatch(name)):
        raise CalendarError(
            f"{text!r:.80} is not MARKET=CALENDAR with one of {', '.join(KOREAN)}, {ALWAYS}, or the code of an exchange"
        )
    return market, name


def parse_holiday(text: str) -> SpecialDay | None:
    """Read a day (see `parse_day`); None for `KOREAN_EXCHANGE`: those that the library knows.

    Raises:
        CalendarError: it is neither.
    """
    if text == KOREAN_EXCHANGE:
        return None
    try:
        return parse_day(text)
    except ValueError as error:
        raise CalendarError(f"{error}, or {KOREAN_EXCHANGE}") from None


def find_days(holidays: Iterable[str], today: datetime.date) -> dict[datetime.date, SpecialDay]:
    """Return the special days in Korea: `KOREAN_DAYS` and `holidays`.

    A day that is named holds against the list's and the library's. Takes seconds where the library is needed.

    Raises:
        CalendarError: one cannot be used.
    """
    special = {day.date: day for day in map(parse_day, KOREAN_DAYS)}
    for text in sorted(holidays, key=lambda text: text != KOREAN_EXCHANGE):
        day = parse_holiday(text)
        for each in _library_days(today) if day is None else (day,):
            special[each.date] = each
    return special


def make_calendars(
    calendars: Iterable[str], special: Iterable[SpecialDay], today: datetime.date
) -> dict[str, Calendar]:
    """Return the calendar of each market: `DEFAULT_CALENDARS`, and what ``MARKET=CALENDAR`` adds or replaces.

    `special` are days in Korea. Takes seconds where the library is needed.

    Raises:
        CalendarError: one cannot be used.
    """
    names = DEFAULT_CALENDARS | dict(map(parse_calendar, calendars))
    days = tuple(special)
    made: dict[str, Calendar] = {}
    for name in set(names.values()):
        if name in KOREAN:
            made[name] = KoreanCalendar(KOREAN[name], days)
        elif name == ALWAYS:
            made[name] = AlwaysOpen()
        else:
            made[name] = ListedCalendar(_sessions(name, today))
    return {market: made[name] for market, name in names.items()}


def _library_days(today: datetime.date) -> list[SpecialDay]:
    """Working days without a session, and sessions at other hours."""
    hours: dict[datetime.date, tuple[int, int]] = {}
    for opens, closes in _sessions(KOREAN_EXCHANGE, today):
        start, end = (datetime.datetime.fromtimestamp(at, KST) for at in (opens, closes))
        hours[start.date()] = start.hour * 60 + start.minute, end.hour * 60 + end.minute
    if not hours:
        raise CalendarError(
            f"the library exchange_calendars knows no days of {KOREAN_EXCHANGE} around {today}"
        )
    found = []
    for n in range((max(hours) - min(hours)).days):
        date = min(hours) + datetime.timedelta(days=n)
        if date in hours:
            if hours[date] != (9 * 60, 15 * 60 + 30):
                found.append(SpecialDay(date, *hours[date]))
        elif date.weekday() < 5:
            found.append(SpecialDay(date))
    return found


def _sessions(name: str, today: datetime.date) -> list[tuple[float, float]]:
    library = _library(name)
    try:
        # Its own end is a year from the day on which it is asked, or what is known of that exchange.
        schedule = library.get_calendar(name, start=(today - _BACK).isoformat()).schedule
    except library.errors.CalendarError as error:
        raise CalendarError(f"{name}: {' '.join(str(error).split())}") from None
    last = datetime.datetime.combine(today + _AHEAD, datetime.time(), datetime.UTC).timestamp()
    pairs = zip(schedule["open"], schedule["close"], strict=True)
    sessions = [(opens.timestamp(), closes.timestamp()) for opens, closes in pairs]
    return [(opens, closes) for opens, closes in sessions if opens <= last]


def _library(name: str) -> ModuleType:
    try:
        # Takes two seconds, and is for those who name such a calendar.
        library = importlib.import_module("exchange_calendars")
    except ImportError:
        raise CalendarError(
            f"{name} needs the library exchange_calendars: pip install 'fastws[calendars]'"
        ) from None
    return library
