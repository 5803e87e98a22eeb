"""What live portfolios cost: loading them, a price of what they hold, and a value that leaves."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import Measure
from benchmarks.scenarios.portfolios import make_portfolios
from benchmarks.wiring import PUBLISHED_MS, Wiring, instrument, price_of
from fastws._core import CHANNEL_PRICE, Channel, Dialect, Hub
from fastws._market import Instrument
from fastws._portfolios import PortfolioTable, encode_realtime, encode_screener
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.market.portfolio_merge import merge
from fastws.market.portfolio_store import Loaded, PortfolioStore
from fastws.market.portfolios import Portfolios
from fastws.market.store import Store

N_PORTFOLIOS = 100_000
N_EACH = 20
N_SYMBOLS = 2_500
N_WATCHED = 5_000
N_PRICES = 2_000
LOAD_SECONDS = 10.0
LOAD_BYTES = 1 << 30
LONGEST_PAUSE = 0.02

SYMBOLS = [instrument(number) for number in range(N_SYMBOLS)]
BY_CODE: dict[str, Instrument] = {item.code: item for item in SYMBOLS}


def made(n_portfolios: int = N_PORTFOLIOS, seed: int = 1) -> Loaded:
    """Portfolios of `N_EACH` different symbols each, in fractions of shares."""
    generator = np.random.default_rng(seed)
    # Any `N_EACH` numbers in a row of a shuffled circle are different.
    circle = generator.permutation(N_SYMBOLS).astype(np.int32)
    begins = generator.integers(0, N_SYMBOLS, n_portfolios)
    places = (begins[:, None] + np.arange(N_EACH)[None, :]) % N_SYMBOLS
    n = n_portfolios * N_EACH
    return Loaded(
        version=1,
        ids=np.arange(1, n_portfolios + 1, dtype=np.int64),
        owners=[f"user-{i}" for i in range(n_portfolios)],
        names=[f"Portfolio {i}" for i in range(n_portfolios)],
        currencies=["KRW"] * n_portfolios,
        symbols=[item.code for item in SYMBOLS],
        position_portfolios=np.repeat(np.arange(n_portfolios, dtype=np.int32), N_EACH),
        position_symbols=circle[places].reshape(n),
        quantities=generator.integers(1, 10**12, n),
        closes={},
        n_orphans=0,
    )


def channel_of(hub: Hub, index: int) -> Channel:
    """What a portfolio is published to."""
    topic = hub.topic("portfolio", str(index))
    return hub.channel(str(index), "portfolio", (topic,), bit=CHANNEL_PRICE, numbered=False, private=True)


def table_of(hub: Hub, n_watched: int) -> PortfolioTable:
    """A table that has published its watched portfolios."""
    table = PortfolioTable(made(), lambda code: None, BY_CODE.get, lambda: PUBLISHED_MS)
    for index in range(n_watched):
        table.watch(index, channel_of(hub, index))
    table.take_due()
    table.publish_due(hub, 60.0)
    return table


@pytest.mark.parametrize("n_watched", [0, 500, N_WATCHED, 50_000])
def test_prices(measure: Measure, wiring: Callable[..., Wiring], n_watched: int) -> None:
    """Prices added to the sums of the watched holders, of 100,000 portfolios with 20 of 2,500 symbols each"""
    table = table_of(wiring().hub, n_watched)
    rounds = [[price_of(item, number) for item in SYMBOLS[:500]] for number in (1, 2)]
    turn = 0

    def take_over() -> None:
        nonlocal turn
        turn ^= 1
        for update in rounds[turn]:
            table.set_price(update)

    measure(take_over, unit="prices", items=500)
    assert all(table.check(index) for index in range(0, n_watched, 97))
    assert (table.n_dirty > 0) == (n_watched > 0)


def test_values(measure: Measure, wiring: Callable[..., Wiring]) -> None:
    """Values of portfolios, that nobody reads"""
    table = table_of(wiring().hub, 1000)
    for item in SYMBOLS:
        table.set_price(price_of(item, 7))
    values = measure(lambda: [table.value(index) for index in range(1000)], unit="values", items=1000)
    assert values[0].portfolio_id == 1
    assert values[0].members.startswith(b'"portfolio_id":1,"name":"Portfolio 0","total_value":')
    assert b"unpriced" not in values[0].members


@pytest.mark.parametrize("encode", [encode_screener, encode_realtime])
def test_messages(measure: Measure, wiring: Callable[..., Wiring], encode: Callable[..., bytes]) -> None:
    """Messages of one dialect from values"""
    table = table_of(wiring().hub, 1000)
    values = [table.value(index) for index in range(1000)]
    texts = measure(lambda: [encode(value, PUBLISHED_MS) for value in values], unit="messages", items=1000)
    assert all(text.startswith(b'{"type":"portfolio_update",') for text in texts)


def test_watching(measure: Measure, wiring: Callable[..., Wiring]) -> None:
    """Portfolios of 20 positions that come to be watched, and go again"""
    hub = wiring().hub
    table = table_of(hub, N_WATCHED)
    channels = {index: channel_of(hub, index) for index in range(N_WATCHED, N_WATCHED + 200)}

    def come_and_go() -> None:
        for index, channel in channels.items():
            table.watch(index, channel)
        for index in channels:
            table.unwatch(index)

    measure(come_and_go, unit="portfolios", items=200)
    assert table.n_watched == N_WATCHED


@pytest.mark.parametrize("n_connections", [100, 1000])
def test_updates_to_their_owners(measure: Measure, wiring: Callable[..., Wiring], n_connections: int) -> None:
    """Portfolio updates from the price to the socket, one portfolio to a connection"""
    wired = wiring()
    wired.dialect = Dialect("screener", encode_screener, 0)
    table = table_of(wired.hub, n_connections)
    for number, connection in enumerate(wired.connect(n_connections)):
        topic = wired.hub.topic("portfolio", str(number))
        connection.set_subscriptions({topic: wired.hub.options(latest=True, channels=CHANNEL_PRICE)})
    wired.turn()
    rounds = [[price_of(item, number) for item in SYMBOLS] for number in (1, 2)]
    turn = 0

    def prepare() -> None:
        nonlocal turn
        wired.drain()
        turn ^= 1
        for update in rounds[turn]:
            table.set_price(update)
        assert table.n_dirty == n_connections

    def publish() -> None:
        table.take_due()
        table.publish_due(wired.hub, 60.0)
        wired.turn()

    measure(publish, unit="updates", items=n_connections, setup=prepare, like="kernel")
    assert all(b'"type":"portfolio_update"' in data for data in wired.drain())


@pytest.mark.once
def test_loading_everything(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """From SQLite to the first value: 100,000 portfolios with 20 positions each."""
    path = tmp_path / "portfolios.db"
    asyncio.run(make_portfolios(f"sqlite:///{path}", N_PORTFOLIOS, N_EACH, [item.code for item in SYMBOLS]))

    async def load() -> tuple[float, float]:
        """Seconds, and how long the loop was held up at most."""
        hub = Hub(asyncio.get_running_loop(), epoch="benchmark")
        store = Store(f"sqlite:///{path}")
        portfolios = Portfolios(Market(hub, Instruments(SYMBOLS)), PortfolioStore(store))
        await store.open()
        longest = 0.0
        is_loaded = False

        async def watch() -> None:
            nonlocal longest
            last = time.perf_counter()
            while not is_loaded:
                await asyncio.sleep(0.001)
                now = time.perf_counter()
                longest, last = max(longest, now - last - 0.001), now

        watching = asyncio.create_task(watch())
        began = time.perf_counter()
        await portfolios.load()
        seconds = time.perf_counter() - began
        is_loaded = True
        await watching
        assert (portfolios.n_portfolios, portfolios.n_positions) == (N_PORTFOLIOS, N_PORTFOLIOS * N_EACH)
        portfolios.ensure(1)
        await store.close()
        hub.stop()
        return seconds, longest

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds, longest = benchmark.pedantic(lambda: asyncio.run(load()), rounds=1)  # type: ignore[no-untyped-call]
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    benchmark.extra_info.update(
        what="100,000 portfolios with 20 positions each, from SQLite", unit="positions/s", items=2_000_000
    )
    benchmark.extra_info["megabytes_more"] = round(size / 1e6)
    benchmark.extra_info["longest_pause_of_the_loop_ms"] = round(longest * 1000, 1)
    if seconds > LOAD_SECONDS or size > LOAD_BYTES or longest > LONGEST_PAUSE:
        benchmark.extra_info["missed"] = (
            f"{seconds:.1f} s, {size / 1e6:.0f} MB, a pause of {longest * 1e3:.0f} ms"
        )


@pytest.mark.once
def test_reloading_some(benchmark: BenchmarkFixture) -> None:
    """Two changed portfolios put in their places among 100,000, and the table of that."""
    old = made()
    part = made(2, seed=2)

    def reload() -> PortfolioTable:
        return PortfolioTable(merge(old, [1, 2], part), lambda code: None, BY_CODE.get, lambda: PUBLISHED_MS)

    table = benchmark.pedantic(reload, rounds=3)  # type: ignore[no-untyped-call]
    assert table.n_positions == N_PORTFOLIOS * N_EACH
    benchmark.extra_info.update(
        what="Two changed of 100,000 portfolios put in their places", unit="reloads/s", items=1
    )
