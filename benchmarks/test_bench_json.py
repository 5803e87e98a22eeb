"""A price and an order book as JSON, beside orjson and msgspec with the same content in a dict."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
import pytest

from benchmarks.conftest import Measure
from benchmarks.wiring import PUBLISHED_MS, instrument, price_of
from fastws._market import BookUpdate, PriceUpdate, encode_screener

N = 1000
INSTRUMENT = instrument(5930)
UPDATES: dict[str, list[PriceUpdate | BookUpdate]] = {
    "price": [price_of(INSTRUMENT, i) for i in range(N)],
    "book": [
        BookUpdate(
            INSTRUMENT,
            [(72_000 - 100 * level + i % 7 * 100, 1000 + i + level) for level in range(10)],
            [(73_000 + 100 * level + i % 7 * 100, 2000 + i + level) for level in range(10)],
            venue="KRX",
            quality="realtime",
            event_time_ms=PUBLISHED_MS,
        )
        for i in range(N)
    ],
}


def text_of(update: PriceUpdate | BookUpdate) -> bytes:
    return encode_screener(update, PUBLISHED_MS) + b"}"


def size_of(kind: str) -> int:
    return sum(len(text_of(update)) for update in UPDATES[kind])


def encode_all(updates: list[PriceUpdate | BookUpdate]) -> bytes:
    for update in updates:
        text = encode_screener(update, PUBLISHED_MS)
    return text


def encode_dicts(encode: Callable[[Any], bytes], documents: list[dict[str, Any]]) -> bytes:
    for document in documents:
        text = encode(document)
    return text


@pytest.mark.parametrize("kind", ["price", "book"])
def test_encode(measure: Measure, kind: str) -> None:
    """encode_screener, from the typed update"""
    text = measure(encode_all, UPDATES[kind], unit="messages", items=N, size=size_of(kind))
    message = json.loads(text + b"}")
    assert message["code"] == "005930"
    assert message["timestamp"] == "2025-11-11T00:00:00.000Z"
    if kind == "price":
        update = UPDATES[kind][-1]
        assert isinstance(update, PriceUpdate)
        assert (message["price"], message["volume"]) == (update.price, update.volume)
        assert b'"change_percent":%b,' % str(update.change_percent).encode() in text
    else:
        assert len(message["bids"]) == len(message["asks"]) == 10


@pytest.mark.parametrize("peer", ["orjson", "msgspec"])
@pytest.mark.parametrize("kind", ["price", "book"])
def test_encode_a_dict(measure: Measure, kind: str, peer: str) -> None:
    """orjson and msgspec, from a dict that is there already"""
    documents = [json.loads(text_of(update)) for update in UPDATES[kind]]
    encode = orjson.dumps if peer == "orjson" else msgspec.json.Encoder().encode
    text = measure(
        encode_dicts, encode, documents, unit="messages", items=N, size=size_of(kind), against=f"json.encode[{kind}]"
    )  # fmt: skip
    assert json.loads(text) == documents[-1]
