"""Cost of a simulated update, up to a sink that drops it."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator

import pytest

from benchmarks.conftest import Measure
from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws._simulator import SimulatedExchange
from fastws.feeds.simulator import SimulatorFeed

# As many as the exchange draws random numbers for at a time, so that every call draws once.
N = 2_048
RATE = 100_000  # updates/s, the highest that the feed takes
FLOOR_PER_S = 150_000  # what the feed must sustain on one core


def table(n: int) -> list[Instrument]:
    return [
        Instrument(f"{i:06d}", market="KOSPI", currency="KRW", previous_close=1_000 + 977 * i)
        if i % 2
        else Instrument(f"US{i}", market="NASDAQ", currency="USD", previous_close=f"{20 + i}.25")
        for i in range(n)
    ]


class NullSink:
    """Drops updates but keeps the last of each kind, to see that they were real."""

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self.instruments = instruments
        self.received_ns = 0
        self.price: PriceUpdate | None = None
        self.book: BookUpdate | None = None

    def publish_price(self, update: PriceUpdate) -> int:
        self.price = update
        return 1

    def publish_book(self, update: BookUpdate) -> int:
        self.book = update
        return 1

    def set_received(self, at_ns: int) -> None:
        self.received_ns = at_ns

    def set_status(self, market: str, status: str) -> int:
        return 1

    def instrument(self, code: str) -> Instrument | None:
        return None

    def ensure_instrument(self, code: str) -> Instrument:
        return Instrument(code)

    def check(self, book_share: float) -> None:
        if book_share < 1.0:
            assert self.price is not None
            assert self.price.quality == "simulated"
            assert self.price.price > 0
        if book_share > 0.0:
            assert self.book is not None
            assert len(self.book.bids) == len(self.book.asks) == 10


@pytest.mark.parametrize("book_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_symbols", [1, 40, 2_500])
def test_exchange(measure: Measure, n_symbols: int, book_share: float) -> None:
    """The exchange: so many symbols, and this share of order books among the updates"""
    sink = NullSink(table(n_symbols))
    exchange = SimulatedExchange(sink.instruments, seed=1, book_share=book_share)
    # Past the opening, in which every symbol moves for the first time.
    exchange.advance(sink.publish_price, sink.publish_book, 10 * N, 1_762_819_200_000)
    measure(
        exchange.advance,
        sink.publish_price,
        sink.publish_book,
        N,
        1_762_819_200_000,
        unit="updates",
        items=N,
        at_least=FLOOR_PER_S,
    )
    assert exchange.n_steps % N == 0
    assert exchange.n_steps > 10 * N
    sink.check(book_share)


@types.coroutine
def until_resumed() -> Iterator[None]:
    yield


def test_feed(measure: Measure) -> None:
    """The whole feed at its highest rate, with its schedule and slices; only the sleeping is left out"""
    sink = NullSink(table(40))
    now = 0.0

    async def sleep(delay: float) -> None:
        nonlocal now
        now += delay
        await until_resumed()

    feed = SimulatorFeed(
        sink.instruments, rate=float(RATE), seed=1, opening_burst=1.0, clock=lambda: now, sleep=sleep
    )
    # Nothing in it waits for a loop, so it runs without one.
    running = feed.run(sink)
    # Slices end where they end: from the middle of one block to that of the next, with one draw in between.
    until = N // 2

    def run_on() -> None:
        nonlocal until
        until += N
        while feed.n_published < until:
            running.send(None)

    run_on()
    measure(run_on, unit="updates", items=N, at_least=FLOOR_PER_S)
    running.close()
    assert until <= feed.n_published < until + N // 4
    assert feed.n_published == pytest.approx(now * RATE, abs=300)
    assert feed.n_skipped == 0
    sink.check(0.5)
