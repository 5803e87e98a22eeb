"""Rings of order books: writing one, looking at the last ones, writing them as JSON."""

from __future__ import annotations

import json

import pytest

from benchmarks.conftest import Measure
from benchmarks.wiring import PUBLISHED_MS, instrument
from fastws._market import BookUpdate
from fastws._rings import BookRing, BookWindow

INSTRUMENT = instrument(5930)
N = 1000


def book(number: int) -> BookUpdate:
    best = 72_000 + 100 * (number % 50)
    return BookUpdate(
        INSTRUMENT,
        [(best - 100 * level, 1000 + number * 7 + level) for level in range(10)],
        [(best + 100 + 100 * level, 2000 + number * 3 + level) for level in range(10)],
        event_time_ms=PUBLISHED_MS + number,
    )


BOOKS = [book(i) for i in range(N)]


@pytest.mark.parametrize("depth", [64, 1024])
def test_push(measure: Measure, depth: int) -> None:
    """A book of ten levels a side written to a full ring of so many"""
    ring = BookRing(depth)

    def push_all() -> None:
        push = ring.push
        for update in BOOKS:
            push(update, PUBLISHED_MS)

    push_all()
    measure(push_all, unit="books", items=N)
    assert len(ring) == min(depth, ring.n_written)
    window = ring.last(3)
    assert window.bid_prices[:, 0].tolist() == [72_000 + 100 * (i % 50) for i in range(N - 3, N)]
    assert window.ask_quantities[-1].tolist() == [2000 + (N - 1) * 3 + level for level in range(10)]


def test_last(measure: Measure) -> None:
    """The last 20 books as numpy arrays, without copying"""
    ring = BookRing(64)
    for update in BOOKS:
        ring.push(update, PUBLISHED_MS)

    def look() -> BookWindow:
        for _ in range(100):
            window = ring.last(20)
        return window

    window = measure(look, unit="windows", items=100, like="python")
    assert window.bid_prices.shape == (20, 10)
    assert not window.bid_prices.flags.owndata


def test_encode(measure: Measure) -> None:
    """The last 20 books as JSON, as the HTTP API answers"""
    ring = BookRing(64)
    for update in BOOKS:
        ring.push(update, PUBLISHED_MS)
    text = measure(ring.encode, 20, unit="books", items=20)
    found = json.loads(text)
    assert len(found) == 20
    assert found[-1]["asks"][9] == {
        "price": 72_000 + 100 * ((N - 1) % 50) + 1000,
        "quantity": 2000 + (N - 1) * 3 + 9,
    }
