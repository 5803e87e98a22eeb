"""Values of the market: exact numbers, refusals, and the JSON text to the letter."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastws._market import (
    BookUpdate,
    FeedStatus,
    Instrument,
    MarketStatus,
    PriceUpdate,
    encode_book,
    encode_screener,
    utc_text,
)

SAMSUNG = Instrument("005930", "Samsung Electronics", "KOSPI", "IT", 72000, "KRW")
APPLE = Instrument("AAPL", "Apple", "NASDAQ", "IT", "269.43", "USD")
MS = 1_762_853_400_000  # 2025-11-11T09:30:00.000Z
MAX = 2**63 - 1
LAST_MS = 253_402_300_799_999


def decode(body: bytes) -> Any:
    """Parse a message whose rest the hub would splice in, with numbers as the text they are written with."""
    return json.loads(
        body + b',"sequence":1}', parse_int=lambda text: f"int:{text}", parse_float=lambda text: f"dec:{text}"
    )


def price_text(number: object) -> str:
    """How a price is written."""
    value = decode(encode_screener(PriceUpdate(SAMSUNG, number), MS))["price"]  # type: ignore[arg-type]
    assert isinstance(value, str)
    return value.partition(":")[2]


@pytest.mark.parametrize(
    ("given_number", "text"),
    [
        (73000, "73000"),
        (0, "0"),
        (-184000, "-184000"),
        ("73000", "73000"),
        ("+1000", "1000"),
        ("-8.44", "-8.44"),
        ("007", "7"),
        ("000.50", "0.50"),
        (".5", "0.5"),
        ("-.25", "-0.25"),
        ("1.90", "1.90"),
        ("1.00", "1.00"),
        ("-0", "0"),
        ("-0.00", "0.00"),
        ("0.05", "0.05"),
        ("-0.05", "-0.05"),
        ("10.01", "10.01"),
        (Decimal("1.390"), "1.390"),
        (Decimal("1E+3"), "1000"),
        (Decimal("5E-3"), "0.005"),
        (Decimal("-0"), "0"),
        (1.39, "1.39"),
        (0.1, "0.1"),
        (-2.5, "-2.5"),
        (73000.0, "73000.0"),
        (1e-7, "0.0000001"),
        (1e16, "10000000000000000"),
        (np.float64(1.69), "1.69"),
        (np.int64(42), "42"),
        (MAX, "9223372036854775807"),
        (-MAX, "-9223372036854775807"),
        (str(MAX), "9223372036854775807"),
        ("9.223372036854775807", "9.223372036854775807"),
        ("0.000000000000000001", "0.000000000000000001"),
        ("-0.000000000000000001", "-0.000000000000000001"),
        ("00000000000000000000000000000000000001", "1"),
    ],
)
def test_a_number_keeps_the_digits_of_its_source(given_number: object, text: str) -> None:
    assert price_text(given_number) == text
    price = PriceUpdate(SAMSUNG, given_number).price  # type: ignore[arg-type]
    assert price == Decimal(text)
    assert type(price) is (Decimal if "." in text else int)


@pytest.mark.parametrize(
    "number",
    [
        "", "-", "+", ".", "1.", "-.", "1e5", "1E-5", "nan", "NaN", "inf", "-Infinity", " 1", "1 ", "1,000",
        "1_000", "0x10", "1.2.3", "--1", "+-1", "1-", "\uff11", "1\0", "\ud800", "9223372036854775808",
        "92233720368547758070", "99999999999999999999", "0.0000000000000000001", "9.2233720368547758080",
        "1" * 5000, float("nan"), float("inf"), float("-inf"), 1e19, 1e300, 1e-19, 5e-324,
        Decimal("nan"), Decimal("sNaN"), Decimal("inf"), Decimal("1E+999999"), Decimal("1E-999999"),
        Decimal("1E+19"), Decimal("1E-19"), 2**63, -(2**63), 10**5000, np.float64("nan"),
        None, True, False, [], (1,), {}, b"1", 1j, np.array([1, 2]), np.bool_(True), object(),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_number_is_refused_and_named(number: object) -> None:
    with pytest.raises(ValueError, match=r"^price: expected ") as caught:
        PriceUpdate(SAMSUNG, number)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "field", ["change", "change_percent", "volume", "trade_volume", "high", "low", "event_time_ms"]
)
def test_a_refusal_names_the_field(field: str) -> None:
    wrong: Any
    for wrong in ("x", float("nan"), [], 2**70, True):
        with pytest.raises(ValueError, match=rf"^{field}: expected "):
            PriceUpdate(SAMSUNG, 1, **{field: wrong})


@given(st.integers(-MAX, MAX), st.integers(0, 18))
@example(-MAX, 18)
@example(0, 18)
def test_every_decimal_survives(mantissa: int, scale: int) -> None:
    number = Decimal((mantissa < 0, tuple(map(int, str(abs(mantissa)))), -scale))
    text = price_text(number)
    assert text == format(number, "f")
    update = PriceUpdate(SAMSUNG, text)
    assert update.price == number
    assert price_text(update.price) == text


@given(st.from_regex(r"[+-]?[0-9]{0,25}(\.[0-9]{0,20})?", fullmatch=True))
def test_text_is_read_exactly_or_refused(text: str) -> None:
    digits = text.lstrip("+-")
    whole, point, fraction = digits.partition(".")
    is_number = (whole or fraction) and (not point or fraction) and len(fraction) <= 18
    if is_number and int(whole + fraction) <= MAX:
        written = price_text(text)
        assert Decimal(written) == Decimal(text)
        assert written.partition(".")[2] == fraction
    else:
        with pytest.raises(ValueError, match=r"^price: "):
            PriceUpdate(SAMSUNG, text)


@given(st.floats(-1e15, 1e15).filter(lambda number: abs(number) > 1e-4 or number == 0))
def test_a_float_is_written_as_its_shortest_text(number: float) -> None:
    try:
        text = price_text(number)
    except ValueError:  # more digits than fit: 17 of them behind a point and zeros
        assert len(repr(number)) > 18
        return
    assert float(text) == number
    assert text == ("0.0" if number == 0 else format(Decimal(repr(number)), "f"))


def test_a_price_does_not_pass_through_the_decimal_context() -> None:
    with localcontext(prec=3):
        assert str(PriceUpdate(SAMSUNG, "12345678.12345678").price) == "12345678.12345678"


def test_volumes_are_whole() -> None:
    update = PriceUpdate(SAMSUNG, 1, volume=1000.0, trade_volume=Decimal("5.00"))
    assert (update.volume, update.trade_volume) == (1000, 5)
    assert type(update.volume) is int
    with pytest.raises(ValueError, match=r"^volume: expected a whole number, got '0.5'"):
        PriceUpdate(SAMSUNG, 1, volume="0.5")
    with pytest.raises(ValueError, match=r"^trade_volume: expected a whole number"):
        PriceUpdate(SAMSUNG, 1, trade_volume=1.5)


def test_the_price_message_of_the_contract() -> None:
    update = PriceUpdate(SAMSUNG, 73000, change=1000, change_percent="1.39", volume=12345678)
    assert encode_screener(update, MS) + b',"sequence":12345}' == (
        b'{"type":"price_update","code":"005930","name":"Samsung Electronics","price":73000,"change":1000,'
        b'"change_percent":1.39,"volume":12345678,"timestamp":"2025-11-11T09:30:00.000Z","sequence":12345}'
    )


def test_the_order_of_all_price_members() -> None:
    update = PriceUpdate(
        APPLE,
        "150.25",
        change="2.50",
        change_percent="-1.69",
        volume=50_000_000,
        trade_volume=10,
        high="151.00",
        low="148.50",
        venue="KRX",
        quality="realtime",
        event_time_ms=MS - 1,
        extra=b'"k":9007199254740993,"s":"x"',
    )
    assert encode_screener(update, MS + 30) == (
        b'{"type":"price_update","code":"AAPL","name":"Apple","price":150.25,"change":2.50,"change_percent":-1.69,'
        b'"volume":50000000,"trade_volume":10,"high":151.00,"low":148.50,"venue":"KRX","quality":"realtime",'
        b'"event_time":"2025-11-11T09:29:59.999Z","k":9007199254740993,"s":"x",'
        b'"timestamp":"2025-11-11T09:30:00.030Z"'
    )
    assert encode_screener(PriceUpdate(APPLE, "1"), MS) == (
        b'{"type":"price_update","code":"AAPL","name":"Apple","price":1,"timestamp":"2025-11-11T09:30:00.000Z"'
    )


def test_the_book_message_of_the_contract() -> None:
    book = BookUpdate(SAMSUNG, [(72900, 1000)], [(73000, 800)])
    assert encode_screener(book, MS) + b',"sequence":12346}' == (
        b'{"type":"orderbook_update","code":"005930","bids":[{"price":72900,"quantity":1000}],'
        b'"asks":[{"price":73000,"quantity":800}],"timestamp":"2025-11-11T09:30:00.000Z","sequence":12346}'
    )
    asks: Any = iter([("1.5", "7"), [Decimal("1.25"), 8.0]])
    book = BookUpdate(APPLE, [], asks, venue="UN", event_time_ms=MS, extra=b'"a":1')
    assert encode_screener(book, MS) == (
        b'{"type":"orderbook_update","code":"AAPL","bids":[],"asks":[{"price":1.50,"quantity":7},'
        b'{"price":1.25,"quantity":8}],"venue":"UN","event_time":"2025-11-11T09:30:00.000Z","a":1,'
        b'"timestamp":"2025-11-11T09:30:00.000Z"'
    )
    assert book.asks == [(Decimal("1.50"), 7), (Decimal("1.25"), 8)]
    assert (book.bids, book.n_bids, book.n_asks, book.price_scale) == ([], 0, 2, 2)
    assert encode_screener(BookUpdate(APPLE, [], []), 0) == (
        b'{"type":"orderbook_update","code":"AAPL","bids":[],"asks":[],"timestamp":"1970-01-01T00:00:00.000Z"'
    )


def test_a_book_can_be_cut() -> None:
    book = BookUpdate(SAMSUNG, [(10 - i, i) for i in range(3)], [(11 + i, i) for i in range(10)])
    for depth in (1, 2, 5, 10, 99):
        message = json.loads(encode_book(book, MS, depth) + b"}")
        assert [level["price"] for level in message["bids"]] == [10, 9, 8][:depth]
        assert [level["quantity"] for level in message["asks"]] == list(range(10))[:depth]
    assert encode_book(book, MS) == encode_screener(book, MS)
    with pytest.raises(ValueError, match=r"^depth: "):
        encode_book(book, MS, 0)
    with pytest.raises(ValueError, match=r"^published_ms: "):
        encode_book(book, -1)
    with pytest.raises(TypeError):
        encode_book(None, MS)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(-MAX, MAX), st.integers(-MAX, MAX)), max_size=10),
    st.lists(st.tuples(st.integers(-MAX, MAX), st.integers(-MAX, MAX)), max_size=10),
    st.text(max_size=200),
)
def test_every_book_is_json(bids: list[tuple[int, int]], asks: list[tuple[int, int]], venue: str) -> None:
    book = BookUpdate(
        SAMSUNG, bids, asks, venue=venue, quality=venue, event_time_ms=LAST_MS, extra=b'"x":"y"'
    )
    message = json.loads(encode_screener(book, LAST_MS) + b"}")
    assert [(level["price"], level["quantity"]) for level in message["bids"]] == bids == book.bids
    assert [(level["price"], level["quantity"]) for level in message["asks"]] == asks == book.asks
    assert message["venue"] == message["quality"] == venue
    assert message["event_time"] == message["timestamp"] == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize("side", ["bids", "asks"])
@pytest.mark.parametrize(
    ("levels", "problem"),
    [
        ([(1, 1)] * 11, "{side}: a book has at most 10 levels a side"),
        ([(1, 1), (1,)], "{side}[1]: expected a pair of price and quantity, got (1,)"),
        ([5], "{side}[0]: expected a pair of price and quantity, got 5"),
        ([(1, 1), ("x", 1)], "{side}[1].price: expected a plain decimal number"),
        ([(1, 1), (1, float("nan"))], "{side}[1].quantity: expected a plain decimal number"),
        ([(1, "1.5")], "{side}[0].quantity: expected a whole number, got '1.5'"),
        ([(2**62, 1), ("0.01", 1)], "{side}[0].price: 4611686018427387904 is too large for a book with 2"),
    ],
)
def test_a_wrong_level_is_refused_and_named(side: str, levels: list[object], problem: str) -> None:
    sides: dict[str, list[object]] = {"bids": [], "asks": [], side: levels}
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        BookUpdate(SAMSUNG, sides["bids"], sides["asks"])  # type: ignore[arg-type]
    assert str(caught.value).startswith(problem.format(side=side))


def test_statuses() -> None:
    assert encode_screener(MarketStatus("KOSPI", "open"), MS) + b',"sequence":12347}' == (
        b'{"type":"market_status","market":"KOSPI","status":"open","timestamp":"2025-11-11T09:30:00.000Z",'
        b'"sequence":12347}'
    )
    assert encode_screener(MarketStatus("KOSPI", "open", extra=b'"phase":2'), MS) == (
        b'{"type":"market_status","market":"KOSPI","status":"open","phase":2,"timestamp":"2025-11-11T09:30:00.000Z"'
    )
    assert encode_screener(FeedStatus("kis", "live"), MS) == (
        b'{"type":"feed_status","feed":"kis","status":"live","timestamp":"2025-11-11T09:30:00.000Z"'
    )
    for make in (MarketStatus, FeedStatus):
        with pytest.raises(ValueError, match=r"^status: must not be empty"):
            make("a", "")
        with pytest.raises(ValueError, match=r"^(market|feed): expected text, got int"):
            make(5, "a")  # type: ignore[arg-type]


@given(st.text(min_size=1, max_size=300))
@example('"\\\b\f\n\r\t\x00\x1f\x7f/')
@example("삼성전자 \U0001f4c8")
@example("\x01" * 5000)  # more than the stack buffer holds
def test_names_are_escaped(name: str) -> None:
    instrument = Instrument("005930", name)
    status = MarketStatus(name, name)
    assert json.loads(encode_screener(PriceUpdate(instrument, 1), MS) + b"}")["name"] == name
    message = json.loads(encode_screener(status, MS) + b"}")
    assert message["market"] == message["status"] == name
    update = PriceUpdate(instrument, 1, venue=name, quality=name, extra=b'"e":"%b"' % (b"x" * len(name)))
    message = json.loads(encode_screener(update, MS) + b"}")
    assert message["venue"] == message["quality"] == name
    assert message["e"] == "x" * len(name)


def test_utf8_is_not_escaped() -> None:
    assert '"name":"삼성전자"'.encode() in encode_screener(
        PriceUpdate(Instrument("005930", "삼성전자"), 1), MS
    )


@pytest.mark.parametrize("field", ["venue", "quality"])
def test_text_that_utf8_cannot_carry_is_refused(field: str) -> None:
    for make in (
        lambda **more: PriceUpdate(SAMSUNG, 1, **more),
        lambda **more: BookUpdate(SAMSUNG, [], [], **more),
    ):
        with pytest.raises(ValueError, match=rf"^{field}: holds a lone surrogate"):
            make(**{field: "\ud800"})
        with pytest.raises(ValueError, match=rf"^{field}: expected text, got bytes"):
            make(**{field: b"KRX"})


@pytest.mark.parametrize(
    "extra", [b"{}", b'{"a":1}', b'"a":1,', b',"a":1', b"a", "x", bytearray(b'"a":1'), 5]
)
def test_wrong_extra_is_refused(extra: object) -> None:
    for make in (
        lambda: PriceUpdate(SAMSUNG, 1, extra=extra),  # type: ignore[arg-type]
        lambda: BookUpdate(SAMSUNG, [], [], extra=extra),  # type: ignore[arg-type]
        lambda: MarketStatus("a", "b", extra=extra),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r"^extra: expected bytes of JSON members"):
            make()


def test_no_extra_is_none() -> None:
    assert PriceUpdate(SAMSUNG, 1, extra=b"").extra is None
    assert PriceUpdate(SAMSUNG, 1, extra=b'"a":1').extra == b'"a":1'


def test_instrument() -> None:
    assert (APPLE.code, APPLE.name, APPLE.market, APPLE.sector, APPLE.currency) == (
        "AAPL",
        "Apple",
        "NASDAQ",
        "IT",
        "USD",
    )
    assert APPLE.previous_close == Decimal("269.43")
    assert SAMSUNG.previous_close == 72000
    bare = Instrument("0074K0")
    assert (bare.name, bare.market, bare.sector, bare.currency, bare.previous_close) == (
        "0074K0",
        None,
        None,
        None,
        None,
    )
    assert bare.price_head == b'{"type":"price_update","code":"0074K0","name":"0074K0","price":'
    assert bare.book_head == b'{"type":"orderbook_update","code":"0074K0","bids":['
    assert Instrument('A"B', "x").book_head == rb'{"type":"orderbook_update","code":"A\"B","bids":['


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("",), "code: must not be empty"),
        (("A B",), "code: expected up to 64 printable"),
        (("A\n",), "code: expected up to 64 printable"),
        (("x" * 65,), "code: expected up to 64 printable"),
        ((5930,), "code: expected text, got int"),
        ((None,), "code: must not be empty"),
        (("\ud800",), "code: holds a lone surrogate"),
        (("A", ""), "name: must not be empty"),
        (("A", "\udfff"), "name: holds a lone surrogate"),
        (("A", "n", ""), "market: must not be empty"),
        (("A", "n", "m", 5), "sector: expected text, got int"),
        (("A", "n", "m", "s", "x"), "previous_close: expected a plain decimal number"),
        (("A", "n", "m", "s", 1, ""), "currency: must not be empty"),
    ],
)
def test_a_wrong_instrument_is_refused(arguments: tuple[object, ...], problem: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - compared below
        Instrument(*arguments)  # type: ignore[arg-type]
    assert str(caught.value).startswith(problem)


def test_a_str_subclass_is_stored_as_str() -> None:
    class Venue(str):
        __slots__ = ()

    assert type(PriceUpdate(SAMSUNG, 1, venue=Venue("KRX")).venue) is str
    assert PriceUpdate(SAMSUNG, Venue("5")).price == 5


@pytest.mark.parametrize(
    "value",
    [
        SAMSUNG,
        PriceUpdate(SAMSUNG, 1),
        BookUpdate(SAMSUNG, [], []),
        MarketStatus("a", "b"),
        FeedStatus("a", "b"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_are_immutable(value: Any) -> None:
    arguments: tuple[object, ...] = {
        Instrument: ("x",),
        PriceUpdate: (APPLE, 2),
        BookUpdate: (APPLE, [], []),
        MarketStatus: ("x", "y"),
        FeedStatus: ("x", "y"),
    }[type(value)]
    with pytest.raises(TypeError, match="immutable"):
        value.__init__(*arguments)
    for name in ("instrument", "code", "market", "feed", "status", "price", "bids", "new"):
        with pytest.raises(AttributeError):
            setattr(value, name, None)
    # Half a copy would be worse than none.
    with pytest.raises(TypeError):
        pickle.dumps(value)
    with pytest.raises(TypeError):
        copy.copy(value)


def test_only_finished_values_are_encoded() -> None:
    other: Any
    for cls in (PriceUpdate, BookUpdate):
        other = cls.__new__(cls)
        with pytest.raises(ValueError, match=r"^instrument: "):
            encode_screener(other, MS)
    for other in (None, SAMSUNG, {}, b"{}"):
        with pytest.raises(TypeError, match="no screener message is written from a "):
            encode_screener(other, MS)
    for other in (None, "005930"):
        with pytest.raises(TypeError, match="instrument"):
            PriceUpdate(other, 1)
        with pytest.raises(TypeError, match="instrument"):
            BookUpdate(other, [], [])
    for ms in (-1, LAST_MS + 1):
        with pytest.raises(ValueError, match=r"^published_ms: "):
            encode_screener(PriceUpdate(SAMSUNG, 1), ms)


def test_repr_shows_what_matters() -> None:
    assert repr(SAMSUNG) == "Instrument('005930', 'Samsung Electronics', market='KOSPI', sector='IT')"
    assert repr(PriceUpdate(SAMSUNG, "1.90")) == "PriceUpdate('005930', 1.90)"
    assert repr(BookUpdate(SAMSUNG, [(1, 2)], [])) == "BookUpdate('005930', bids=[(1, 2)], asks=[])"
    assert repr(MarketStatus("KOSPI", "open")) == "MarketStatus('KOSPI', 'open')"
    assert repr(FeedStatus("kis", "live")) == "FeedStatus('kis', 'live')"
    assert "None" in repr(PriceUpdate.__new__(PriceUpdate))
    assert "None" in repr(BookUpdate.__new__(BookUpdate))


@given(st.integers(0, LAST_MS))
@example(0)
@example(LAST_MS)
@example(951_782_400_000)  # 2000-02-29
@example(4_107_542_399_999)  # 2100-02-28, the end of it
def test_utc_text(ms: int) -> None:
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    text = utc_text(ms)
    assert text == expected.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert decode(encode_screener(PriceUpdate(SAMSUNG, 1, event_time_ms=ms), MS)).get("event_time") == (
        text if ms else None
    )


def test_the_two_clocks_of_a_message_do_not_mix() -> None:
    for i in range(5):
        body = encode_screener(PriceUpdate(SAMSUNG, 1, event_time_ms=MS - 60_000 + i), MS + 1000 * i)
        assert (b'"event_time":"2025-11-11T09:29:00.00%dZ"' % i) in body
        assert (b'"timestamp":"2025-11-11T09:30:0%d.000Z"' % i) in body


@pytest.mark.parametrize("ms", [-1, LAST_MS + 1, 1.5, "0", None, True, 10**400])
def test_utc_text_refuses_other_times(ms: object) -> None:
    with pytest.raises(ValueError, match=r"^ms: expected "):
        utc_text(ms)  # type: ignore[arg-type]
