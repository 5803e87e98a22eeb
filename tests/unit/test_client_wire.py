"""What the client makes of the server's text."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws import messages as contract
from fastws.client import messages
from fastws.client.wire import Received, decode

TIME = "2025-11-11T09:30:00.123Z"
PRICE = (
    f'{{"type":"price_update","code":"A","name":"a","price":1.90,"timestamp":"{TIME}","sequence":5,"seq":2}}'
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
