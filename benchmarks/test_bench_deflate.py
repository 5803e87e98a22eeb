"""permessage-deflate of a batch of 20 prices, and of one price; MB/s are of what is not compressed."""

from __future__ import annotations

import zlib

import pytest

from benchmarks.conftest import Measure
from benchmarks.wiring import PUBLISHED_MS, instrument, price_of
from fastws._market import encode_screener
from fastws.deflate import compress, inflate

PRICES = [encode_screener(price_of(instrument(i), i * 7919), PUBLISHED_MS) + b"}" for i in range(20)]
BATCH = b'{"type":"batch","batch_size":20,"messages":[' + b",".join(PRICES) + b"]}"
N = 20


def repeat_compress(payload: bytes, level: int) -> bytes:
    for _ in range(N):
        compressed = compress(payload, 15, level)
    return compressed


def repeat_zlib(payload: bytes) -> bytes:
    for _ in range(N):
        compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
        compressed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return compressed[:-4]


def repeat_inflate(payload: bytes) -> bytes:
    for _ in range(N):
        expanded = inflate(payload, 65536)
    return expanded


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_compress_20_prices(measure: Measure, level: int) -> None:
    """20 prices, 6.5 kB, by level; level 1 is what is sent"""
    compressed = measure(repeat_compress, BATCH, level, unit="batches", items=N, size=N * len(BATCH))
    measure.benchmark.extra_info["percent_saved"] = round(100 - 100 * len(compressed) / len(BATCH), 1)
    assert inflate(compressed, 65536) == BATCH


def test_compress_20_prices_with_zlib(measure: Measure) -> None:
    """zlib, level 1"""
    compressed = measure(
        repeat_zlib, BATCH, unit="batches", items=N, size=N * len(BATCH),
        against="deflate.compress_20_prices[1]",
    )  # fmt: skip
    measure.benchmark.extra_info["percent_saved"] = round(100 - 100 * len(compressed) / len(BATCH), 1)
    assert inflate(compressed, 65536) == BATCH


def test_compress_1_price(measure: Measure) -> None:
    """One price of 300 bytes at level 1"""
    compressed = measure(repeat_compress, PRICES[0], 1, unit="prices", items=N, size=N * len(PRICES[0]))
    assert inflate(compressed, 65536) == PRICES[0]


@pytest.mark.parametrize("payload", [PRICES[0], BATCH], ids=["1 price", "20 prices"])
def test_inflate(measure: Measure, payload: bytes) -> None:
    """A compressed message of a client"""
    compressed = compress(payload, 15)
    assert measure(repeat_inflate, compressed, unit="messages", items=N, size=N * len(payload)) == payload
