"""What a source says, held against what can be true: a price that is wrong is refused, and why is told. Sans-IO."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Final

from fastws._market import Instrument, PriceUpdate
from fastws.errors import FeedError
from fastws.feeds.sources.base import Day, Number, Quote
from fastws.market.daily_prices import DailyPrice

# Clocks differ, those of providers too.
_AHEAD_SECONDS: Final = 120.0
# Longer than any holidays of an exchange: what has not traded for so long does no more.
_CLOSED_SECONDS: Final = 14 * 86_400.0
_CENT: Final = Decimal("0.01")
_LONGEST_NUMBER: Final = 40


class RefusedError(FeedError):
    """A value is not used. `kind` is one of a few words: malformed, not positive, stale, early, currency."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind = kind


class Checks:
    """What is taken of a source's quotes.

    1. A price is a number above 0; no nan, no infinity, nothing that is only written like one.
    2. A price with a time is at most `max_age` seconds old, and as much more as its source is late by agreement. While
       its market is closed it is the last one, and taken unless it is older than two weeks. One from the future is
       refused.
    3. None is older than the one that was taken before: an answer out of some cache would turn time back.
    4. A price in another currency than the instrument's is refused, and so is one whose currency is known and the
       instrument's is not: a portfolio would count it as its own.
    5. What goes with the price and cannot be used is left out: a change, a volume, limits of the day which the price
       lies outside of.
    """

    def __init__(self, max_age: float) -> None:
        self._max_age = max_age
        self._taken_ms: dict[str, int] = {}

    def take(self, quote: Quote, instrument: Instrument, quality: str, now_ms: int) -> PriceUpdate:
        """Return the update of `quote`, which counts as taken.

        Raises:
            RefusedError: it is not used.
        """
        price = positive(quote.price, "price")
        self._check_time(quote, now_ms)
        _check_currency(quote.currency, instrument)
        change, percent = _change(quote, price)
        high, low = _usable(quote.high), _usable(quote.low)
        if (high is not None and high < price) or (low is not None and low > price):
            high = low = None
        try:
            update = PriceUpdate(
                instrument,
                price,
                change=change,
                change_percent=percent,
                volume=_whole(quote.volume),
                high=high,
                low=low,
                venue=quote.venue,
                quality=quality,
                event_time_ms=quote.time_ms or 0,
            )
        except ValueError as error:
            raise RefusedError("malformed", str(error)) from None
        if quote.time_ms is not None:
            self._taken_ms[quote.code] = quote.time_ms
        return update

    def _check_time(self, quote: Quote, now_ms: int) -> None:
        if quote.time_ms is None:
            return
        age = (now_ms - quote.time_ms) / 1000.0
        if age < -_AHEAD_SECONDS:
            raise RefusedError("early", f"its time is {-age:.0f} s ahead")
        limit = _CLOSED_SECONDS if quote.is_closed else self._max_age + quote.delay_s
        if age > limit:
            raise RefusedError("stale", f"it is {age:.0f} s old, more than {limit:.0f}")
        before = self._taken_ms.get(quote.code, 0)
        if quote.time_ms < before:
            raise RefusedError(
                "stale", f"it is {(before - quote.time_ms) / 1000:.0f} s older than the last one"
            )


def check_days(
    days: Iterable[Day],
    instrument: Instrument,
    first: datetime.date,
    last: datetime.date,
    today: datetime.date,
) -> tuple[list[DailyPrice], dict[datetime.date, str]]:
    """Return the usable ones of the daily prices that were asked for, oldest first, and why others are not.

    A close is a number above 0, in the currency of the instrument where it has one that is known (see `Checks`);
    another value that is none is left out. A date after `today`, UTC, is refused: no exchange ends a session before
    that date begins there. Of a day that comes twice the first counts.
    """
    taken: dict[datetime.date, DailyPrice] = {}
    refused: dict[datetime.date, str] = {}
    for day in days:
        if not first <= day.date <= last or day.date in taken:
            continue
        try:
            if day.date > today:
                raise RefusedError("early", "the day is not over")
            close = positive(day.close, "close")
            _check_currency(day.currency, instrument)
        except RefusedError as error:
            refused[day.date] = str(error)
            continue
        taken[day.date] = DailyPrice(
            symbol=instrument.code,
            date=day.date,
            open=_usable(day.open),
            high=_usable(day.high),
            low=_usable(day.low),
            close=close,
            volume=_whole(day.volume),
        )
    for date in taken:
        refused.pop(date, None)
    return sorted(taken.values(), key=lambda day: day.date), refused


def positive(value: object, name: str) -> int | Decimal:
    """Return a price as a number.

    Raises:
        RefusedError: it is none, or not above 0.
    """
    number = _number(value)
    if number is None:
        shown = "there is none" if value is None or value == "" else f"{str(value)[:40]!r} is no number"
        raise RefusedError("malformed", f"{name}: {shown}")
    if number <= 0:
        raise RefusedError("not positive", f"{name}: {str(value)[:40]}")
    return number


def _check_currency(currency: str | None, instrument: Instrument) -> None:
    # Yahoo has prices in pence as GBp: another currency than GBP, a hundred times as many.
    if not currency or currency == instrument.currency:
        return
    has = f"in {instrument.currency}" if instrument.currency else "has no currency; give it one"
    raise RefusedError("currency", f"the price is in {currency}, the instrument {has}")


def describe(refused: Sequence[tuple[str, str]]) -> str:
    """Name what is refused in one line."""
    return "; ".join(f"{code} {reason}" for code, reason in refused)


def _change(quote: Quote, price: int | Decimal) -> tuple[int | Decimal | None, int | Decimal | None]:
    """The change of the price and in percent, as the source says or from the close before."""
    change, percent = _number(quote.change), _number(quote.change_percent)
    before = _usable(quote.previous_close)
    if change is None and before is not None:
        change = price - before
    if percent is None and before is not None and change is not None:
        percent = (Decimal(change) * 100 / Decimal(before)).quantize(_CENT, ROUND_HALF_UP)
    return change, percent


def _usable(value: Number | None) -> int | Decimal | None:
    number = _number(value)
    return number if number is not None and number > 0 else None


def _number(value: object) -> int | Decimal | None:
    """`value` with its digits, None for what is no finite number."""
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        value = repr(value)
    elif isinstance(value, str):
        value = value.strip()
        # Decimal reads digits of every script, and 1_000.
        if not value.isascii() or "_" in value or len(value) > _LONGEST_NUMBER:
            return None
    elif not isinstance(value, Decimal):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    exponent = number.as_tuple().exponent
    # Not finite, or so far from what any price is that it is no number to work with.
    if not isinstance(exponent, int) or abs(exponent) > _LONGEST_NUMBER:
        return None
    return number if exponent < 0 else int(number)


def _whole(value: Number | None) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number >= 0 and number == int(number) else None
