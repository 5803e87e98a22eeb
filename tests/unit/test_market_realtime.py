"""Prices in the realtime dialect, to the letter, and the range of a day."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastws._market import (
    BookUpdate,
    DayRange,
    FeedStatus,
    Instrument,
    MarketStatus,
    PriceUpdate,
    encode_realtime,
)

APPLE = Instrument("AAPL", "Apple", "NASDAQ", "IT", "147.75", "USD")
SAMSUNG = Instrument("005930", "Samsung Electronics", "KOSPI", "IT", 72000, "KRW")
MS = 1_762_853_400_000  # 2025-11-11T09:30:00.000Z
DAY_MS = 86_400_000


def day_of(*updates: PriceUpdate) -> DayRange:
    day = DayRange()
    for update in updates:
        day.take(update, MS)
    return day


def test_the_example_of_the_contract() -> None:
    update = PriceUpdate(
        APPLE, "150.25", change="2.50", change_percent="1.69", volume=50000000, high="151.00", low="148.50"
    )
    assert encode_realtime(update, MS) == (
        b'{"type":"asset_update","data":{"symbol":"AAPL","price":150.25,"change":2.50,"change_percent":1.69,'
        b'"volume":50000000,"high":151.00,"low":148.50},"timestamp":"2025-11-11T09:30:00.000Z"}'
    )


def test_what_is_not_known_is_left_out() -> None:
    assert encode_realtime(PriceUpdate(SAMSUNG, 73000), MS) == (
        b'{"type":"asset_update","data":{"symbol":"005930","price":73000},"timestamp":"2025-11-11T09:30:00.000Z"}'
    )


def test_the_day_has_what_the_update_lacks_and_the_update_counts() -> None:
    day = day_of(PriceUpdate(SAMSUNG, 74000), PriceUpdate(SAMSUNG, 72000))
    assert (day.high, day.low) == (74000, 72000)
    data = json.loads(encode_realtime(PriceUpdate(SAMSUNG, 73000, high=75000), MS, day))["data"]
    assert data == {"symbol": "005930", "price": 73000, "high": 75000, "low": 72000}


def test_marks() -> None:
    update = PriceUpdate(SAMSUNG, 73000, quality='sim"', extra=b'"symbol":"x"')
    assert encode_realtime(update, MS, stale=True) == (
        b'{"type":"asset_update","data":{"symbol":"005930","price":73000,"quality":"sim\\"","stale":true},'
        b'"timestamp":"2025-11-11T09:30:00.000Z"}'
    )


def test_the_state_of_a_feed() -> None:
    assert encode_realtime(FeedStatus('k"is', "live"), MS) == (
        b'{"type":"feed_status","data":{"feed":"k\\"is","status":"live"},"timestamp":"2025-11-11T09:30:00.000Z"}'
    )


def test_long_texts_and_symbols_are_written_whole() -> None:
    code, quality = '"' * 64, "\x01" * 4000
    message = json.loads(encode_realtime(PriceUpdate(Instrument(code), 1, quality=quality), MS))
    assert message["data"] == {"symbol": code, "price": 1, "quality": quality}


@pytest.mark.parametrize("payload", [MarketStatus("KOSPI", "open"), BookUpdate(SAMSUNG, [], []), None])
def test_nothing_else_is_written(payload: Any) -> None:
    with pytest.raises(TypeError, match="no realtime message"):
        encode_realtime(payload, MS)


@pytest.mark.parametrize("published_ms", [-1, 253_402_300_800_000])
def test_times_out_of_the_calendar_are_refused(published_ms: int) -> None:
    with pytest.raises(ValueError, match="published_ms"):
        encode_realtime(PriceUpdate(SAMSUNG, 1), published_ms)


def test_what_was_never_initialised_is_refused() -> None:
    update = PriceUpdate.__new__(PriceUpdate)
    with pytest.raises(ValueError, match="instrument"):
        encode_realtime(update, MS)
    with pytest.raises(ValueError, match="instrument"):
        DayRange().take(update)


def test_a_day_without_prices_has_no_range() -> None:
    assert (DayRange().high, DayRange().low) == (None, None)
    assert repr(DayRange()) == "DayRange(high=None, low=None)"


PRICES = st.decimals(
    allow_nan=False, allow_infinity=False, places=None, min_value=-(10**9), max_value=10**9
).filter(lambda value: abs(int(value.as_tuple().exponent)) <= 6)


@given(st.lists(PRICES, min_size=1, max_size=8))
@example([Decimal("1.90"), Decimal("1.9"), Decimal("1.900001")])
def test_the_range_is_that_of_the_prices(prices: list[Decimal]) -> None:
    day = day_of(*(PriceUpdate(APPLE, f"{price:f}") for price in prices))
    assert (day.high, day.low) == (max(prices), min(prices))


@given(*[st.integers(-(2**63) + 2, 2**63 - 1), st.integers(0, 18)] * 2)
@example(2**63 - 1, 0, 2**63 - 1, 18)
@example(-(2**63) + 2, 0, -(2**63) + 2, 18)
def test_prices_that_no_common_scale_holds_are_compared_too(
    a: int, a_scale: int, b: int, b_scale: int
) -> None:
    prices = [(a, a_scale), (b, b_scale)]
    updates = [
        PriceUpdate(APPLE, f"{Decimal(mantissa).scaleb(-scale):.{scale}f}") for mantissa, scale in prices
    ]
    day = day_of(*updates)
    values = [Fraction(mantissa, 10**scale) for mantissa, scale in prices]
    assert Fraction(str(day.high)) == max(values)
    assert Fraction(str(day.low)) == min(values)


def test_what_the_feed_says_counts() -> None:
    day = day_of(PriceUpdate(APPLE, 150), PriceUpdate(APPLE, 149, high=155, low=140))
    assert (day.high, day.low) == (155, 140)
    day.take(PriceUpdate(APPLE, 156), MS)
    assert (day.high, day.low) == (156, 140)
    day.take(PriceUpdate(APPLE, 150, high=152, low=145), MS)
    assert (day.high, day.low) == (152, 145)


@pytest.mark.parametrize(
    ("currency", "begins"),
    [
        ("KRW", "2025-11-10T15:00"),
        ("USD", "2025-11-11T05:00"),
        ("EUR", "2025-11-11T00:00"),
        (None, "2025-11-11T00:00"),
    ],
)
def test_a_day_begins_at_midnight_where_the_instrument_is_traded(currency: str | None, begins: str) -> None:
    begin = int(datetime.fromisoformat(begins).replace(tzinfo=UTC).timestamp() * 1000)
    instrument = Instrument("X", currency=currency)
    day = DayRange()
    day.take(PriceUpdate(instrument, 10), begin - 1)
    day.take(PriceUpdate(instrument, 5), begin)
    assert (day.high, day.low) == (5, 5)
    day.take(PriceUpdate(instrument, 7), begin + DAY_MS - 1)
    assert (day.high, day.low) == (7, 5)
    day.take(PriceUpdate(instrument, 1), begin - 1)
    assert (day.high, day.low) == (7, 5), "of the day before"
    day.take(PriceUpdate(instrument, 6), begin + DAY_MS)
    assert (day.high, day.low) == (6, 6)


def test_the_time_of_the_exchange_counts_before_that_of_the_server() -> None:
    day = DayRange()
    day.take(PriceUpdate(APPLE, 10, event_time_ms=MS), MS + 5 * DAY_MS)
    day.take(PriceUpdate(APPLE, 20), MS)
    assert (day.high, day.low) == (20, 10)


def test_without_a_time_it_is_now() -> None:
    day = DayRange()
    day.take(PriceUpdate(APPLE, 10, event_time_ms=MS))
    day.take(PriceUpdate(APPLE, 20))
    assert (day.high, day.low) == (20, 20)
