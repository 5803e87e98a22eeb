"""Order-book rings: contents against a plain model, views without copies, and their lifetime."""

from __future__ import annotations

import gc
import json
from collections import deque
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws._market import BookUpdate, Instrument, utc_text
from fastws._rings import Book, BookRing, BookWindow

APPLE = Instrument("AAPL", "Apple")
MS = 1_762_853_400_000


def book(i: int, n_bids: int = 10, n_asks: int = 10, scale: int = 0) -> BookUpdate:
    """A book in which every figure tells where it belongs."""
    unit = Decimal(1).scaleb(-scale)
    return BookUpdate(
        APPLE,
        [((1000 * i + 100 + level) * unit, 1000 * i + 200 + level) for level in range(n_bids)],
        [((1000 * i + 300 + level) * unit, 1000 * i + 400 + level) for level in range(n_asks)],
        event_time_ms=MS + i,
    )


def side(first: int, n: int) -> list[int]:
    return [first + level for level in range(n)] + [0] * (10 - n)


def columns(i: int, n_bids: int = 10, n_asks: int = 10, scale: int = 0) -> list[object]:
    """What the ring holds of `book` with the same arguments, published a second later."""
    start = 1000 * i
    return [
        side(start + 100, n_bids),
        side(start + 200, n_bids),
        side(start + 300, n_asks),
        side(start + 400, n_asks),
        MS + i,
        MS + i + 1000,
        scale if n_bids or n_asks else 0,
        n_bids,
        n_asks,
    ]


def rows(window: BookWindow) -> list[list[object]]:
    return [list(row) for row in zip(*(column.tolist() for column in window), strict=True)]


LEVEL_COLUMNS = ("bid_prices", "bid_quantities", "ask_prices", "ask_quantities")


def test_a_ring_without_books() -> None:
    ring = BookRing(64)
    assert (ring.depth, len(ring), ring.n_written, ring.memory_size) == (64, 0, 0, 0)
    assert ring.latest() is None
    assert ring.encode(5) == b"[]"
    window = ring.last(5)
    assert window.bid_prices.shape == (0, 10)
    assert window.times.shape == (0,)
    assert rows(window) == []
    assert ring.memory_size == 0


def test_shapes_and_types() -> None:
    ring = BookRing(4)
    for i in range(3):
        ring.push(book(i))
    window = ring.last(2)
    assert isinstance(window, BookWindow)
    for name in LEVEL_COLUMNS:
        assert getattr(window, name).shape == (2, 10)
        assert getattr(window, name).dtype == np.int64
    for name in ("times", "published_times"):
        assert getattr(window, name).shape == (2,)
        assert getattr(window, name).dtype == np.int64
    for name in ("price_scales", "bid_counts", "ask_counts"):
        assert getattr(window, name).shape == (2,)
        assert getattr(window, name).dtype == np.int8
    latest = ring.latest()
    assert isinstance(latest, Book)
    for name in LEVEL_COLUMNS:
        assert getattr(latest, name).shape == (10,)
    assert [type(value) for value in latest[4:]] == [int] * 5


@given(
    st.integers(1, 7),
    st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10), st.integers(0, 4)), max_size=30),
)
def test_a_ring_holds_the_last_books(depth: int, books: list[tuple[int, int, int]]) -> None:
    ring = BookRing(depth)
    model: deque[list[object]] = deque(maxlen=depth)
    for i, (n_bids, n_asks, scale) in enumerate(books):
        update = book(i, n_bids, n_asks, scale)
        ring.push(update, MS + i + 1000)
        model.append(columns(i, n_bids, n_asks, scale))
        assert (ring.n_written, len(ring)) == (i + 1, len(model))
        latest = ring.latest()
        assert latest is not None
        assert [value.tolist() if isinstance(value, np.ndarray) else value for value in latest] == model[-1]
        for n in (0, 1, 2, depth, depth + 1, 10**9):
            assert rows(ring.last(n)) == list(model)[max(len(model) - n, 0) :]


def test_every_window_is_a_contiguous_view_of_one_memory() -> None:
    ring = BookRing(5)
    for i in range(5):  # until it has grown to its depth
        ring.push(book(i))
    memory = ring.last(1).bid_prices.base
    for i in range(5, 23):
        ring.push(book(i))
        for n in range(1, 6):
            window = ring.last(n)
            for column in window:
                assert column.flags.c_contiguous
                assert not column.flags.owndata
            assert np.shares_memory(window.bid_prices, ring.last(5).bid_prices)
        assert ring.last(5).bid_prices.base is memory or np.shares_memory(ring.last(5).bid_prices, memory)


@pytest.mark.parametrize("depth", [1, 2, 5, 8])
def test_a_window_stays_as_it_is_for_depth_minus_n_pushes(depth: int) -> None:
    for n_before in range(depth, 3 * depth):
        for n in range(1, depth + 1):
            ring = BookRing(depth)
            for i in range(n_before):
                ring.push(book(i), 1)
            window = ring.last(n)
            before = rows(window)
            for i in range(depth - n):
                ring.push(book(n_before + i), 1)
                assert rows(window) == before
            # One more, and the oldest row has become the newest book, in the view too.
            newest = n_before + depth - n
            ring.push(book(newest), 1)
            assert rows(window)[1:] == before[1:]
            assert window.times[0] == MS + newest


@pytest.mark.parametrize("depth", [1, 3, 4, 5, 64, 100])
def test_a_ring_grows_with_its_books_up_to_its_depth(depth: int) -> None:
    ring = BookRing(depth)
    for n_books in range(1, 1000):
        ring.push(book(n_books), MS + n_books + 1000)
        n_places = min(depth, next(4 << power for power in range(10) if 4 << power >= n_books))
        assert ring.memory_size == n_places * 678
    assert ring.n_written == 999


def test_a_view_keeps_its_books_when_the_ring_grows() -> None:
    ring = BookRing(64)
    kept = []
    for n_books in range(1, 65):
        ring.push(book(n_books), MS + n_books + 1000)
        kept.append((n_books, ring.last(64)))
    for n_books, window in kept:
        assert rows(window) == [columns(i) for i in range(1, n_books + 1)]


def test_views_cannot_be_written() -> None:
    ring = BookRing(3)
    ring.push(book(1))
    latest = ring.latest()
    assert latest is not None
    arrays: list[Any] = [*ring.last(1), *latest[:4]]
    arrays += [array.base for array in arrays if isinstance(array.base, np.ndarray)]
    for array in arrays:
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    owner = arrays[0]
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert memoryview(owner).readonly
    with pytest.raises(TypeError, match="read-only"):
        memoryview(owner)[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        np.frombuffer(owner, np.uint8)[0] = 1
    assert rows(ring.last(1))[0][0] == side(1100, 10)


def test_a_view_outlives_its_ring() -> None:
    ring = BookRing(64)
    for i in range(100):
        ring.push(book(i))
    window = ring.last(64)
    before = rows(window)
    del ring
    gc.collect()
    # What would now lie in freed memory is overwritten here.
    others = [BookRing(64) for _ in range(20)]
    for other in others:
        other.push(book(7))
    assert rows(window) == before


def test_the_scale_belongs_to_the_row() -> None:
    ring = BookRing(4)
    ring.push(BookUpdate(APPLE, [(270, 1)], []))
    ring.push(BookUpdate(APPLE, [("269.43", 1), ("269.4", 1)], []))
    ring.push(BookUpdate(APPLE, [("269.5", 1)], []))
    window = ring.last(4)
    assert window.price_scales.tolist() == [0, 2, 1]
    assert window.bid_prices[:, 0].tolist() == [270, 26943, 2695]
    prices = window.bid_prices[:, 0] / 10.0**window.price_scales
    assert prices.tolist() == [270.0, 269.43, 269.5]


def test_encode() -> None:
    ring = BookRing(3)
    ring.push(BookUpdate(APPLE, [("1.50", 1)], [], event_time_ms=MS))
    ring.push(BookUpdate(APPLE, [(2, 3), (1, 4)], [(5, 6), (7, 8)]), MS + 1)
    assert ring.encode(5, 1) == (
        b'[{"bids":[{"price":1.50,"quantity":1}],"asks":[],"event_time":"2025-11-11T09:30:00.000Z"},'
        b'{"bids":[{"price":2,"quantity":3}],"asks":[{"price":5,"quantity":6}],'
        b'"timestamp":"2025-11-11T09:30:00.001Z"}]'
    )
    assert ring.encode(0) == b"[]"
    for i in range(7):
        ring.push(book(i, scale=18), MS + i)
    books = json.loads(ring.encode(10, 99))
    assert [item["timestamp"] for item in books] == [utc_text(MS + i) for i in (4, 5, 6)]
    assert all(len(item["bids"]) == len(item["asks"]) == 10 for item in books)
    assert [len(item["asks"]) for item in json.loads(ring.encode(2, 4))] == [4, 4]


def test_encode_has_room_for_the_longest_book() -> None:
    ring = BookRing(2)
    level = ("-9.223372036854775807", -(2**63) + 1)
    update = BookUpdate(APPLE, [level] * 10, [level] * 10, event_time_ms=253_402_300_799_999)
    ring.push(update, 253_402_300_799_999)
    ring.push(update, 253_402_300_799_999)
    text = ring.encode(2)
    assert text.count(b'{"price":-9.223372036854775807,"quantity":-9223372036854775807}') == 40
    assert len(json.loads(text)) == 2


@pytest.mark.parametrize("depth", [0, -1, 1_000_001])
def test_a_wrong_depth_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=r"^depth: expected 1 to 1000000 books, got "):
        BookRing(depth)


def test_wrong_arguments_are_refused() -> None:
    ring = BookRing(2)
    ring.push(book(0))
    with pytest.raises(ValueError, match=r"^n: expected 0 or more books, got -1"):
        ring.last(-1)
    with pytest.raises(ValueError, match=r"^n: expected 0 or more books, got -1"):
        ring.encode(-1)
    with pytest.raises(ValueError, match=r"^depth: expected at least 1 level, got 0"):
        ring.encode(1, 0)
    with pytest.raises(ValueError, match=r"^published_ms: "):
        ring.push(book(1), -1)
    for other in (None, 5, APPLE):
        with pytest.raises(TypeError):
            ring.push(other)  # type: ignore[arg-type]
    assert ring.n_written == 1
