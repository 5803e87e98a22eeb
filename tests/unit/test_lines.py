"""Lines of a recording: what they say, and how they are written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate, encode_screener
from fastws.feeds.lines import LineError, decode_body, encode_line, split_line


def decode(text: str) -> PriceUpdate | BookUpdate | MarketStatus | None:
    return decode_body(text.encode(), Instrument)


def test_a_price_keeps_every_digit_and_every_member() -> None:
    update = decode(
        '{"type":"price_update","code":"AAPL","price":150.250,"change":-2.50,"change_percent":1.690,'
        '"volume":9223372036854775807,"trade_volume":5,"high":151.00,"note":{"a":[1, 2.50]},'
        '"\\u00e4\\"":null,"venue":"X"}'
    )
    assert isinstance(update, PriceUpdate)
    assert encode_screener(update, 0) == (
        b'{"type":"price_update","code":"AAPL","name":"AAPL","price":150.250,"change":-2.50,"change_percent":1.690,'
        b'"volume":9223372036854775807,"trade_volume":5,"high":151.00,"venue":"X","note":{"a":[1, 2.50]},'
        b'"\xc3\xa4\\"":null,"timestamp":"1970-01-01T00:00:00.000Z"'
    )


def test_a_book_is_read_as_it_is_written() -> None:
    update = decode(
        '{"type":"orderbook_update","code":"005930","bids":[{"price":72900,"quantity":1000},{"price":72800,"quantity":7}],'
        '"asks":[],"event_time":"2025-11-11T18:30:00.123+09:00","depth":2}'
    )
    assert isinstance(update, BookUpdate)
    assert update.bids == [(72900, 1000), (72800, 7)]
    assert update.asks == []
    assert update.event_time_ms == 1762853400123
    assert update.extra == b'"depth":2'


def test_what_the_server_adds_is_ignored() -> None:
    update = decode(
        '{"type":"price_update","code":"005930","name":"Samsung Electronics","price":73000,"change":null,'
        '"timestamp":"2025-11-11T09:30:00Z","sequence":12345,"seq":7,"snapshot":true}'
    )
    assert isinstance(update, PriceUpdate)
    assert (update.instrument.name, update.change, update.extra) == ("005930", None, None)


def test_a_market_status() -> None:
    update = decode('{"type":"market_status","market":"KOSPI","status":"open","timestamp":"x"}')
    assert isinstance(update, MarketStatus)
    assert (update.market, update.status) == ("KOSPI", "open")


def test_control_messages_of_kis_are_no_updates() -> None:
    assert decode('{"header":{"tr_id":"PINGPONG","datetime":"20260922140610"}}') is None


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("", "JSON", "truncated"),
        ("{", "JSON", "truncated"),
        ("[]", "JSON", "object"),
        ('{"x":' + "[" * 100_000 + "]" * 100_000 + "}", "JSON", "recursion"),
        ('{"type":1}', "value", "type: expected text"),
        ('{"type":null}', "message type", "None"),
        ('{"type":"price_update","price":1}', "value", "code: missing"),
        ('{"type":"price_update","code":"","price":1}', "value", "code"),
        ('{"type":"price_update","code":5,"price":1}', "value", "code: expected text"),
        ('{"type":"price_update","code":"A","price":null}', "value", "price: missing"),
        ('{"type":"price_update","code":"A","price":"1"}', "value", "price"),
        ('{"type":"price_update","code":"A","price":1e3}', "value", "price"),
        ('{"type":"price_update","code":"A","price":[1]}', "value", "price"),
        ('{"type":"price_update","code":"A","price":1,"volume":1.5}', "value", "volume"),
        ('{"type":"price_update","code":"A","price":1,"venue":7}', "value", "venue: expected text"),
        ('{"type":"price_update","code":"A","price":1,"event_time":"2025-11-11T09:30"}', "value", "event"),
        ('{"type":"price_update","code":"A","price":1,"event_time":"noon"}', "value", "event"),
        ('{"type":"price_update","code":"A","price":1,"event_time":"1900-01-01T00:00Z"}', "value", "event"),
        ('{"type":"orderbook_update","code":"A","bids":[]}', "value", "asks: missing"),
        ('{"type":"orderbook_update","code":"A","bids":1,"asks":[]}', "value", "bids"),
        ('{"type":"orderbook_update","code":"A","bids":[{"price":1}],"asks":[]}', "value", "bids"),
        ('{"type":"orderbook_update","code":"","bids":[],"asks":[]}', "value", "code"),
        ('{"type":"orderbook_update","bids":[],"code":"A","asks":[{"price":1,"quantity":{}}]}', "value", "a"),
        ('{"type":"market_status","market":"KOSPI"}', "value", "status: missing"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_used_says_why(text: str, kind: str, reason: str) -> None:
    with pytest.raises(LineError, match=reason) as caught:
        decode(text)
    assert caught.value.kind == kind


def test_a_body_that_is_no_utf8() -> None:
    for message in (b'{"type":"price_update","code":"\xff","price":1}', b'{"type":"x","note":["\xff"]}'):
        with pytest.raises(LineError, match="utf-8") as caught:
            decode_body(message, Instrument)
        assert caught.value.kind == "JSON"


@given(st.binary(max_size=100))
def test_any_line_is_read_or_refused(line: bytes) -> None:
    read_anything(line)
    read_anything(b"{" + line + b"}")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
MEMBERS = (
    "code",
    "price",
    "change",
    "volume",
    "bids",
    "asks",
    "venue",
    "event_time",
    "market",
    "status",
    "x",
)


@given(
    st.sampled_from(["price_update", "orderbook_update", "market_status"]),
    st.dictionaries(st.sampled_from(MEMBERS), JSON),
)
def test_any_json_is_read_or_refused(kind: str, members: dict[str, object]) -> None:
    read_anything(json.dumps({"type": kind, **members}).encode())


def read_anything(line: bytes) -> None:
    def read() -> None:
        _, message = split_line(line)
        decode_body(message, Instrument)

    try:
        read()
    except LineError as error:
        kinds = ("receive time", "JSON", "message type", "value")
        if error.kind not in kinds:
            raise


@given(
    st.integers(0, 10**13),
    st.decimals(-(10**9), 10**9, places=3),
    st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 2**63 - 1)), max_size=10),
    st.text(min_size=1, max_size=8),
)
def test_lines_come_back_as_they_went(
    received_ms: int, price: object, levels: list[tuple[int, int]], venue: str
) -> None:
    instrument = Instrument("005930")
    for update in (
        PriceUpdate(instrument, str(price), venue=venue, event_time_ms=received_ms, extra=b'"k":1.50'),
        BookUpdate(instrument, levels, levels[:3], venue=venue, quality="simulated"),
        MarketStatus("KOSPI", venue),
    ):
        line = encode_line(received_ms, update)
        assert line.count(b"\n") == 1
        assert b"timestamp" not in line
        at, message = split_line(line[:-1])
        again = decode_body(message, lambda code: instrument)
        assert at == received_ms
        assert again is not None
        assert encode_screener(again, 0) == encode_screener(update, 0)
