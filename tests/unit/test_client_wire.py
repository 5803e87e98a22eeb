"""What the client makes of the server's text."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws import messages as contract
from fastws.client import messages
from fastws.client import wire as client_wire
from fastws.client.wire import Received, decode

TIME = "2025-11-11T09:30:00.123Z"
PRICE = (
    f'{{"type":"price_update","code":"A","name":"a","price":1.90,"timestamp":"{TIME}","sequence":5,"seq":2}}'
)
GREETING = (
    '{"type":"connection","status":"connected","connection_id":"c","authenticated":false,"user_id":null,"epoch":"k",'
    '"sequence":1,"batch_interval_ms":30,"limits":{"subscriptions":1,"rate_limit":1,"message_bytes":1},"feeds":{},'
    f'"timestamp":"{TIME}"}}'
)


def test_a_batch_is_unwrapped() -> None:
    text = f'{{"type":"batch","batch_size":3,"messages":[{PRICE},{{"type":"new"}},{PRICE}],"sequence":9}}'
    received = decode(text.encode())
    assert isinstance(received, Received)
    assert (received.sequence, received.is_snapshot, len(received.items)) == (9, False, 2)
    first = received.items[0]
    assert isinstance(first, messages.PriceUpdate)
    assert (str(first.price), first.snapshot, first.extra, first.volume) == ("1.90", False, {}, None)
    snapshot = decode(text.replace('"batch_size"', '"snapshot":true,"batch_size"').encode())
    assert isinstance(snapshot, Received)
    assert [item.snapshot for item in snapshot.items if isinstance(item, messages.Update)] == [True, True]


def test_what_is_passed_through() -> None:
    found = decode(PRICE.replace('"seq"', '"extra":[1.10],"snapshot":"x","seq"').encode())
    assert isinstance(found, Received)
    (update,) = found.items
    assert isinstance(update, messages.PriceUpdate)
    assert update.extra == {"extra": [Decimal("1.10")], "snapshot": "x"}
    assert update.snapshot is False


@pytest.mark.parametrize(
    "name", ["PriceUpdate", "OrderbookUpdate", "MarketStatus", "FeedStatus", "Alert", "PortfolioUpdate"]
)
def test_no_field_of_the_contract_is_left_out(name: str) -> None:
    ours = set(getattr(messages, name).__struct_fields__) - {"snapshot", "extra"}
    assert ours == set(getattr(contract, name).__struct_fields__)


def test_what_cannot_be_read_is_told() -> None:
    for text in (PRICE.replace("1.90", '"x"'), PRICE.replace('"seq":2', '"seq":null')):
        found = decode(text.encode())
        assert isinstance(found, Received)
        (item,) = found.items
        assert isinstance(item, messages.Unreadable)
        assert "$." in item.reason
    for text in ("", "[]", "nothing", '{"type":"batch"}', '{"type":"connection"}', "[" * 100_000):
        assert isinstance(decode(text.encode()), messages.Unreadable)
    assert decode(b'{"type":"of tomorrow"}') is None


@given(st.binary())
def test_any_bytes(text: bytes) -> None:
    decode(text)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.sampled_from(["price_update", "batch", "error"]),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["type", "messages", "sequence", "code"]), inner)
        ),
    )
)
def test_any_json(value: object) -> None:
    decode(msgspec.json.encode(value))


@pytest.mark.parametrize(
    "number", ["1e20000000", "1e5000", "1" + "0" * 400, "9223372036854775808", "-1", "true", '"9"', "null"]
)
def test_no_number_that_a_server_cannot_count_to_is_a_cursor(number: str) -> None:
    for text in (
        f'{{"type":"batch","messages":[],"sequence":{number}}}',
        PRICE.replace('"sequence":5', f'"sequence":{number}'),
        PRICE.replace('"seq":2', f'"seq":{number}'),
        GREETING.replace('"sequence":1', f'"sequence":{number}'),
        f'{{"type":"server_shutdown","reconnect_after_ms":{number},"timestamp":"{TIME}"}}',
    ):
        found = decode(text.encode())
        item = found.items[0] if isinstance(found, Received) else found
        assert isinstance(item, messages.Unreadable), text


def test_times_that_cannot_be_are_told() -> None:
    assert isinstance(decode(GREETING.encode()), contract.Greeting)
    for text in (
        GREETING.replace(TIME, "2026-99-99T00:00:00.000Z"),
        '{"type":"pong","timestamp":"2026-02-30T00:00:00.000Z"}',
        '{"type":"error","code":"x","message":"","timestamp":"9999-12-31T23:59:59.999-23:59"}',
    ):
        assert isinstance(decode(text.encode()), messages.Unreadable), text
    for time in ("9999-12-31T23:59:59.999-23:59", "2025-11-11T09:30:00"):
        found = decode(PRICE.replace(TIME, time).encode())
        assert isinstance(found, Received)
        assert isinstance(found.items[0], messages.Unreadable)


def test_times_are_in_utc() -> None:
    text = PRICE.replace(TIME, "2025-11-11T09:30:00-23:59").replace(
        '"seq"', '"event_time":"2025-11-11T18:30:00+09:00","seq"'
    )
    found = decode(text.encode())
    assert isinstance(found, Received)
    (update,) = found.items
    assert isinstance(update, messages.PriceUpdate)
    assert update.event_time is not None
    assert update.timestamp.isoformat() == "2025-11-12T09:29:00+00:00"
    assert update.event_time.isoformat() == "2025-11-11T09:30:00+00:00"


def test_a_batch_of_what_cannot_be_read_is_told_once() -> None:
    some = decode(b'{"type":"batch","sequence":2,"messages":[' + b"{}," * 99 + b"{}]}")
    assert isinstance(some, Received)
    assert len(some.items) == 100
    many = decode(b'{"type":"batch","sequence":2,"messages":[' + b"{}," * 20_000 + b"{}]}")
    assert isinstance(many, messages.Unreadable)
    assert len(many.text) == 4096


def test_values_without_number_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b'{"type":"batch","sequence":2,"messages":[' + b"1," * 60 + b"1]}"
    assert isinstance(decode(text), Received)
    monkeypatch.setattr(client_wire, "_MOST_VALUES", 50)
    found = decode(text)
    assert isinstance(found, messages.Unreadable)
    assert "more than 50 values" in found.reason
