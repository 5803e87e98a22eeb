"""Cost of a simulated update, up to a sink that drops it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws._simulator import SimulatedExchange
from fastws.feeds.simulator import SimulatorFeed

N = 100_000
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


def check_floor(benchmark: BenchmarkFixture) -> None:
    if benchmark.stats is not None:  # None with --benchmark-disable
        per_second = N / benchmark.stats.stats.min
        benchmark.extra_info["updates_per_s"] = round(per_second)
        assert per_second >= FLOOR_PER_S


@pytest.mark.parametrize("book_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_symbols", [1, 40, 2_500])
def test_exchange(benchmark: BenchmarkFixture, n_symbols: int, book_share: float) -> None:
    sink = NullSink(table(n_symbols))
    exchange = SimulatedExchange(sink.instruments, seed=1, book_share=book_share)
    benchmark(exchange.advance, sink.publish_price, sink.publish_book, N, 1_762_819_200_000)
    assert exchange.n_steps % N == 0
    assert exchange.n_steps > 0
    sink.check(book_share)
    check_floor(benchmark)


class OneSecondPassedError(Exception):
    pass


def test_feed_for_one_virtual_second_at_the_highest_rate(benchmark: BenchmarkFixture) -> None:
    """The whole feed with its schedule and slices; only the sleeping is left out."""
    sink = NullSink(table(40))
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now >= 1.0:
            raise OneSecondPassedError

    def run_one_second() -> SimulatorFeed:
        nonlocal now
        now = 0.0
        feed = SimulatorFeed(
            sink.instruments, rate=float(N), seed=1, opening_burst=1.0, clock=lambda: now, sleep=sleep
        )
        # Nothing in it waits for a loop, so it runs without one.
        with pytest.raises(OneSecondPassedError):
            feed.run(sink).send(None)
        return feed

    feed = benchmark(run_one_second)
    assert feed.n_published == pytest.approx(N, rel=0.002)
    assert feed.n_skipped == 0
    sink.check(0.5)
    check_floor(benchmark)
