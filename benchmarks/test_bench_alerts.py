"""What alert rules cost: for prices that cross none, for prices that cross many, and at a steady 1,000 prices/s."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.conftest import Measure
from fastws._alerts import ALERT_TYPES, AlertIndex
from fastws._market import Instrument, PriceUpdate
from fastws.market.alert_messages import Alert
from fastws.market.alert_store import Rule
from fastws.market.alerts import AlertBook
from fastws.market.instruments import Instruments
from fastws.market.store import Store

SAMSUNG = Instrument("005930", "Samsung Electronics", "KOSPI", "IT", 72000, "KRW")
APPLE = Instrument("AAPL", "Apple", "NASDAQ", "IT", "269.43", "USD")
N_RULES = 10_000
N_PRICES = 1_000  # per round, and per second in the steady run
SHARE = 0.05  # of a core, at N_PRICES a second
STEADY_SECONDS = 5
ALERTS_PER_S = 10

# Far above and below everything that UPDATES holds.
FAR = {
    "price_above": 1_000,
    "price_below": 200,
    "change_percent_above": 30,
    "change_percent_below": -30,
    "volume_above": 10**12,
}
UPDATES = [
    PriceUpdate(APPLE, f"{250 + i % 40}.{i % 100:02d}", change_percent=f"{i % 7 - 3}.25", volume=10**6 + i)
    for i in range(N_PRICES)
]


def nothing(user_id: str, alert: Alert) -> None:
    raise AssertionError("nothing was to fire")


def far_rules(n_rules: int) -> AlertBook:
    """A book with rules of every type on one instrument, none of which `UPDATES` cross."""
    book = AlertBook(Store(), Instruments([APPLE]), nothing)
    for i in range(n_rules):
        alert_type = ALERT_TYPES[i % len(ALERT_TYPES)]
        away = i // len(ALERT_TYPES) * (-1 if alert_type.endswith("below") else 1)
        threshold = max(FAR[alert_type] + away, 1) if alert_type == "price_below" else FAR[alert_type] + away
        book.admit(Rule(i + 1, f"user{i}", "AAPL", alert_type, threshold, 1))
    assert book.n_waiting == n_rules
    return book


def hold_against(on_price: Callable[[PriceUpdate], None]) -> None:
    for update in UPDATES:
        on_price(update)


@pytest.mark.parametrize("n_rules", [0, 5, 100, N_RULES, 100_000])
def test_prices_that_cross_nothing(measure: Measure, n_rules: int) -> None:
    """Prices held against so many rules that none of them crosses"""
    book = far_rules(n_rules)
    measure(hold_against, book.on_price, unit="prices", items=N_PRICES, at_least=N_PRICES / SHARE)
    assert (book.n_waiting, book.n_crossed) == (n_rules, 0)


@pytest.mark.once
def test_the_cost_does_not_grow_with_the_rules() -> None:
    def best(on_price: Callable[[PriceUpdate], None]) -> float:
        times = []
        for _ in range(50):
            before = time.perf_counter()
            hold_against(on_price)
            times.append(time.perf_counter() - before)
        return min(times)

    few, many = far_rules(5).on_price, far_rules(200_000).on_price
    assert best(many) < 1.5 * best(few)


def test_a_price_that_crosses_ten_thousand(measure: Measure) -> None:
    """A price that crosses 10,000 rules: the index alone"""
    update = PriceUpdate(SAMSUNG, N_RULES + 1)
    index = AlertIndex()

    def fill() -> None:
        for i in range(1, N_RULES + 1):
            index.add("005930", "price_above", str(i * 7919 % N_RULES + 1), i)

    taken = measure(lambda: index.take(update), unit="rules", items=N_RULES, setup=fill, rounds=15)
    assert taken is not None
    assert len(taken) == len(set(taken)) == N_RULES


class Desk:
    """A book on a SQLite file with one user's rules at the thresholds 1 to `n_rules`."""

    def __init__(self, path: Path) -> None:
        self.told: list[Alert] = []
        self.store = Store(f"sqlite:///{path}/fastws.db")
        self.book = AlertBook(self.store, Instruments([SAMSUNG]), lambda _, alert: self.told.append(alert))

    async def open(self, n_rules: int) -> None:
        def fill(connection: sa.Connection) -> None:
            row = {"user_id": "kim", "code": "005930", "alert_type": "price_above", "created_at": 1}
            rows = [row | {"threshold": str(i)} for i in range(1, n_rules + 1)]
            connection.execute(sa.insert(sa.table("alert_rules", *map(sa.column, rows[0]))), rows)

        await self.store.open()
        await self.store.run(fill)
        assert await self.book.load() == n_rules

    async def close(self) -> None:
        await self.book.stop()
        await self.store.close()


@pytest.mark.once
def test_ten_thousand_alerts_at_once(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """From one price to the last of the alerts, committed and told; and how long the loop was held up."""

    desk = Desk(tmp_path)
    longest = 0.0

    async def burst() -> None:
        nonlocal longest
        start = last = time.perf_counter()
        desk.book.on_price(PriceUpdate(SAMSUNG, N_RULES + 1))
        while len(desk.told) < N_RULES:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
            assert now - start < 30

    with asyncio.Runner() as runner:
        runner.run(desk.open(N_RULES))
        benchmark.pedantic(lambda: runner.run(burst()), rounds=1)  # type: ignore[no-untyped-call]
        runner.run(desk.close())
    assert [alert.threshold for alert in desk.told] == list(range(1, N_RULES + 1))
    what = "From one price that crosses 10,000 rules to the last alert, committed and told"
    benchmark.extra_info.update(what=what, unit="alerts/s", items=N_RULES)
    benchmark.extra_info["longest_pause_of_the_loop_ms"] = round(longest * 1000, 1)
    assert longest < 0.25


@pytest.mark.once
def test_a_steady_thousand_prices_a_second(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """CPU of the whole process, database thread and all, over that of the same schedule without alerts.

    10,000 rules wait, and ten a second are crossed, committed and told.
    """

    async def steady(second: int, on_price: Callable[[PriceUpdate], None]) -> float:
        """The share of a core that one second of prices takes."""
        loop = asyncio.get_running_loop()
        start, cpu = loop.time(), time.process_time()
        for tick in range(100):
            for i in range(N_PRICES // 100):
                number = second * N_PRICES + tick * (N_PRICES // 100) + i
                on_price(PriceUpdate(SAMSUNG, number * ALERTS_PER_S // N_PRICES + 1, volume=number))
            await asyncio.sleep(start + (tick + 1) / 100 - loop.time())
        return (time.process_time() - cpu) / (loop.time() - start)

    async def run() -> tuple[float, float]:
        desk = Desk(tmp_path)
        await desk.open(N_RULES)
        # In turns, and the median of each: what else the machine does in one of the seconds is no matter then.
        without, shares = [], []
        for second in range(STEADY_SECONDS):
            without.append(await steady(second, lambda update: None))
            shares.append(await steady(second, desk.book.on_price))
        await desk.close()
        assert len(desk.told) == ALERTS_PER_S * STEADY_SECONDS - 1
        return statistics.median(without), statistics.median(shares)

    without, share = benchmark.pedantic(lambda: asyncio.run(run()), rounds=1)  # type: ignore[no-untyped-call]
    benchmark.extra_info["what"] = "1,000 prices/s for 5 s, 10 alerts/s, 10,000 rules waiting"
    benchmark.extra_info["share_of_a_core"] = round(share - without, 4)
    benchmark.extra_info["share_without_alerts"] = round(without, 4)
    assert share - without < SHARE
