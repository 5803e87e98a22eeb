"""Live portfolios over a database: who is valued, when values leave, and what becomes of changes."""

from __future__ import annotations

import asyncio
import datetime
import random
import time
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from alert_desk import until
from portfolio_desk import INSTRUMENTS, Held, Listener, members, worth

from fastws import logs
from fastws._core import Hub
from fastws._market import Instrument, PriceUpdate
from fastws.market import portfolios as module
from fastws.market.daily_prices import DailyPrice, DailyPrices
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.market.portfolio_store import PortfolioStore
from fastws.market.portfolios import Portfolio, Portfolios
from fastws.market.schema import PORTFOLIOS, POSITIONS
from fastws.market.store import Store, StoreError

SHELF = {
    1: Held({"AAPL": 10, "MSFT": Decimal("2.5"), "NEW": 3}),
    2: Held({"005930": 7, "AAPL": 1}, owner="lee", name="한국", currency="KRW"),
    3: Held({"AAPL": 1}, owner="lee"),
}


class Site:
    """Portfolios in a database, a market, and what was published of them."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.hub = Hub(asyncio.get_running_loop(), epoch="test")
        self.market = Market(
            self.hub,
            Instruments(
                Instrument(item.code, item.name, item.market, item.sector, item.previous_close, item.currency)
                for item in INSTRUMENTS.values()
            ),
        )
        self.store = Store(f"sqlite:///{path}/fastws.db")
        options = {"interval_ms": 0, "poll_interval": 0} | options
        self.portfolios = Portfolios(self.market, PortfolioStore(self.store), **options)
        self.shelf: dict[int, Held] = {}
        self.moved: list[int] = []
        self.n_wrong = 0  # sums that the test has spoilt
        self.portfolios.on_owner_changed = self.moved.extend

    async def open(self, shelf: dict[int, Held] = SHELF) -> Site:
        await self.store.open()
        await self.put(shelf)
        await self.portfolios.load()
        self.portfolios.start()
        return self

    async def close(self) -> None:
        self.portfolios._check(self.portfolios._order)
        assert self.portfolios.n_mismatches == self.n_wrong
        await self.portfolios.stop()
        await self.store.close()
        self.hub.stop()

    async def put(self, changed: dict[int, Held | None]) -> None:
        """Write portfolios as another program would; None deletes one."""

        def job(connection: sa.Connection) -> None:
            for number, held in changed.items():
                connection.execute(sa.delete(POSITIONS).where(POSITIONS.c.portfolio_id == number))
                connection.execute(sa.delete(PORTFOLIOS).where(PORTFOLIOS.c.id == number))
                if held is None:
                    continue
                row = {"id": number, "owner": held.owner, "name": held.name, "currency": held.currency}
                connection.execute(sa.insert(PORTFOLIOS), row)
                rows = [
                    {"portfolio_id": number, "symbol": code, "quantity": str(quantity)}
                    for code, quantity in held.quantities.items()
                ]
                if rows:
                    connection.execute(sa.insert(POSITIONS), rows)

        await self.store.run(job)
        for number, held in changed.items():
            self.shelf.pop(number, None)
            if held is not None:
                self.shelf[number] = held

    def price(self, code: str, price: Any, **fields: Any) -> None:
        instrument = self.market.instrument(code)
        assert instrument is not None
        self.market.publish_price(PriceUpdate(instrument, price, **fields))

    def last(self, number: int) -> dict[str, Any] | None:
        """What was published last of a portfolio."""
        topic = self.hub.find_topic("portfolio", str(number))
        if topic is None:
            return None
        (channel,) = topic.channels
        return members(channel.last_payload.members)

    def n_published(self, number: int) -> int:
        topic = self.hub.find_topic("portfolio", str(number))
        return 0 if topic is None else topic.channels[0].seq

    def expected(self, number: int) -> dict[str, Any]:
        prices = {code: price for code in INSTRUMENTS if (price := self.market.last_price(code)) is not None}
        held = self.shelf[number]
        return worth(held, prices).members(number, held)

    async def shows(self, *numbers: int) -> None:
        for number in numbers:
            await until(
                lambda number=number: self.last(number) == self.expected(number), f"portfolio {number}"
            )


@pytest.fixture
async def make_site(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    made: list[Site] = []

    async def make(shelf: dict[int, Held] = SHELF, **options: Any) -> Site:
        made.append(Site(tmp_path, **options))
        return await made[-1].open(shelf)

    yield make
    for site in made:
        await site.close()


async def test_what_is_watched_follows_prices(make_site: Callable[..., Any]) -> None:
    site = await make_site()
    assert (site.portfolios.n_portfolios, site.portfolios.n_positions, site.portfolios.n_watched) == (3, 6, 0)
    assert site.portfolios.find(2) == Portfolio(2, "lee", "한국", "KRW")
    assert site.portfolios.find(4) is None
    assert site.portfolios.find(2**70) is None
    with pytest.raises(KeyError):
        site.portfolios.ensure(4)
    site.price("AAPL", "270.10", change="0.67")
    topic = site.portfolios.ensure(1)
    assert topic is site.hub.topic("portfolio", "1")
    assert site.last(1) == site.expected(1)
    assert site.portfolios.codes() == {"AAPL", "MSFT", "NEW"}
    site.portfolios.ensure(1)
    assert site.n_published(1) == 1, "nothing was new"
    for price in range(100, 140):
        site.price("MSFT", price)
    await site.shows(1)
    assert site.n_published(1) == 2, "one for what came together"
    assert topic.channels[0].is_private
    assert site.n_published(2) == 0
    site.price("MSFT", 139)
    site.price("005930", 72_000)
    await asyncio.sleep(0.01)
    assert site.n_published(1) == 2, "the same price again is no news, and neither is what it does not hold"
    site.portfolios.ensure(2)
    assert site.last(2) == site.expected(2)
    assert site.last(2)["unpriced"] == ["AAPL"]


async def test_a_change_of_less_than_a_cent_is_not_published(make_site: Callable[..., Any]) -> None:
    site = await make_site({1: Held({"AAPL": Decimal("0.001")})})
    site.portfolios.ensure(1)
    site.price("AAPL", "270.00", change=0)
    await site.shows(1)
    n = site.n_published(1)
    site.price("AAPL", "270.01", change=0)
    site.price("AAPL", "271.01", change=0)
    site.price("AAPL", "279.01", change=0)
    await site.shows(1)
    assert site.n_published(1) == n + 1


async def test_the_interval_is_kept(make_site: Callable[..., Any]) -> None:
    """At once after a quiet interval, and then not before the interval is over, with everything until then."""
    site = await make_site(interval_ms=200)
    site.portfolios.ensure(3)
    await asyncio.sleep(0.25)
    began = time.monotonic()
    site.price("AAPL", 1)
    await site.shows(3)
    assert time.monotonic() - began < 0.15
    for price in range(2, 50):
        site.price("AAPL", price)
        await asyncio.sleep(0.001)
    assert site.n_published(3) == 2
    await site.shows(3)
    assert time.monotonic() - began >= 0.195
    assert site.n_published(3) == 3


async def test_what_is_not_listened_to_is_left_and_found_again(
    make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(module, "_KEPT_SECONDS", 0.05)
    site = await make_site()
    topic = site.portfolios.ensure(1)
    await until(lambda: site.portfolios.n_watched == 0, "left")
    assert site.market.on_price == [], "prices cost nothing where nobody watches"
    site.price("AAPL", 5)
    assert site.last(1) != site.expected(1)
    async with Listener(site.hub) as listener:
        # As a connection does that has caught up with what it had missed: nobody asks for it.
        listener.subscribe(topic)
        await site.shows(1)
        site.price("AAPL", 6)
        await site.shows(1)
        await asyncio.sleep(0.1)
        assert site.portfolios.n_watched == 1


async def test_values_follow_changes_in_the_database(make_site: Callable[..., Any]) -> None:
    site = await make_site(poll_interval=0.01)
    for number in SHELF:
        site.portfolios.ensure(number)
    site.price("AAPL", 300, change=10)
    await site.put({1: Held({"AAPL": 11, "005930": 4}, name="Renamed"), 2: None, 9: Held({"MSFT": 2})})
    await site.shows(1, 3)
    assert site.portfolios.find(2) is None
    assert site.moved == [2]
    site.portfolios.ensure(9)
    assert site.last(9) == site.expected(9)
    site.price("MSFT", 400)
    await site.shows(1, 3, 9)
    assert site.portfolios.n_watched == 3


async def test_a_new_close_counts_where_there_is_no_price(make_site: Callable[..., Any]) -> None:
    site = await make_site(poll_interval=0.01)
    site.portfolios.ensure(1)
    site.price("AAPL", 270, change=0)
    site.price("MSFT", 500, change=0)
    await site.shows(1)
    assert site.last(1)["total_value"] == "3950.00"
    await DailyPrices(site.store).write(
        [
            DailyPrice("NEW", datetime.date(2025, 11, 7), None, None, None, Decimal("7.25"), None),
            DailyPrice("AAPL", datetime.date(2025, 11, 7), None, None, None, 1, None),
            DailyPrice("OTHER", datetime.date(2025, 11, 7), None, None, None, 1, None),
        ]
    )
    await until(lambda: site.last(1)["total_value"] == "3971.75", "three times 7.25 more")
    assert site.last(1)["unpriced"] == ["NEW"]


async def test_a_reload_of_some_leaves_the_others(make_site: Callable[..., Any]) -> None:
    site = await make_site()
    for number in SHELF:
        site.portfolios.ensure(number)
    await site.put({1: Held({"AAPL": 11}), 3: Held({"AAPL": 22}, owner="lee")})
    before = site.last(3)
    done = await site.portfolios.reload([1, 77])
    assert (done.n_portfolios, done.n_positions, done.n_moved) == (3, 4, 0)
    await site.shows(1, 2)
    assert site.last(3) == before
    await site.portfolios.reload()
    await site.shows(1, 2, 3)


async def test_another_owner_hears_nothing_of_what_was_before(make_site: Callable[..., Any]) -> None:
    """From the call on nothing is published to who listened before; the new owner begins with `ensure`."""
    site = await make_site()
    at_change: list[Any] = []

    def on_owner_changed(ids: Any) -> None:
        at_change.append((list(ids), site.portfolios.find(3), site.n_published(3)))

    site.portfolios.on_owner_changed = on_owner_changed
    topic = site.portfolios.ensure(3)
    site.portfolios.ensure(1)
    async with Listener(site.hub) as listener:
        listener.subscribe(topic)
        await site.put({3: Held({"AAPL": 5}, owner="park")})
        n = site.n_published(3)
        assert (await site.portfolios.reload()).n_moved == 1
        assert at_change == [([3], Portfolio(3, "park", "Growth Portfolio", "USD"), n)]
        site.price("AAPL", 500)
        await site.shows(1)
        site.portfolios._sweep()
        await asyncio.sleep(0.01)
        assert site.n_published(3) == n
        site.portfolios.ensure(3)
        assert site.last(3) == site.expected(3)
        site.price("AAPL", 501)
        await site.shows(3)


async def test_one_that_is_looked_at_no_more_changes_its_owner_too(
    make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A paused connection is no listener, and still holds its subscription."""
    monkeypatch.setattr(module, "_SWEEP_SECONDS", 0.01)
    monkeypatch.setattr(module, "_KEPT_SECONDS", 0.0)
    site = await make_site()
    site.portfolios.ensure(3)
    await until(lambda: site.portfolios.n_watched == 0, "left")
    await site.put({3: Held({"AAPL": 5}, owner="park"), 1: Held({"AAPL": 5}, owner="park")})
    await site.portfolios.reload()
    assert site.moved == [3], "nobody has looked at 1"


@pytest.mark.parametrize("is_late", [False, True])
async def test_one_that_was_only_given_to_somebody_changes_its_owner_too(
    make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, *, is_late: bool
) -> None:
    """Also where it was given while others are carried over, by what was known before."""
    monkeypatch.setattr(module, "_SLICE", -1.0)
    site = await make_site()
    site.portfolios.ensure(1)
    site.portfolios.ensure(2)
    if not is_late:
        site.portfolios.note(3)
    await site.put({3: Held({"AAPL": 5}, owner="park")})
    reload = asyncio.create_task(site.portfolios.reload())
    if is_late:
        async with asyncio.timeout(5):
            while site.portfolios._next is None:
                await asyncio.sleep(0)
        site.portfolios.note(3)
    assert (await reload).n_moved == 1
    assert (site.moved, site.portfolios.n_watched, site.n_published(3)) == ([3], 2, 0)


async def test_a_reload_while_prices_flow(make_site: Callable[..., Any]) -> None:
    """Positions change again and again, watchers come and prices never stop: at the end every value is right, none was
    of two states at once, and the loop never stood still."""
    generator = random.Random(1)

    def shelf(factor: int) -> dict[int, Held]:
        # By one factor for all, so that a mixture would be no multiple of it.
        return {
            number: Held({code: factor * (number + i) for i, code in enumerate(INSTRUMENTS)}, currency=None)
            for number in range(1, 401)
        }

    site = await make_site(shelf(1), interval_ms=5)
    for number in range(1, 301):
        site.portfolios.ensure(number)
    longest, is_done = 0.0, False

    async def flow() -> None:
        nonlocal longest
        last = time.thread_time()
        while not is_done:
            for code in INSTRUMENTS:
                site.price(code, generator.randint(1, 1000), change=0)
            await asyncio.sleep(0.001)
            # What this thread works, not what others keep it from working.
            now = time.thread_time()
            longest, last = max(longest, now - last), now

    flowing = asyncio.create_task(flow())
    for i, factor in enumerate((1009, 10_007, 100_003)):
        await site.put(shelf(factor))
        reloading = asyncio.create_task(site.portfolios.reload(None if i % 2 else list(range(1, 401))))
        while not reloading.done():
            site.portfolios.ensure(generator.randint(1, 400))
            await asyncio.sleep(0.001)
        await reloading
        for number in range(1, 401):
            found = site.last(number)
            if found is not None and site.portfolios.n_watched:
                site.portfolios.ensure(number)
                assert Decimal(site.last(number)["total_value"]) % factor == 0
    is_done = True
    await flowing
    for number in range(1, 401):
        site.portfolios.ensure(number)
    await site.shows(*range(1, 401))
    assert site.portfolios.n_mismatches == 0
    assert longest < 0.25, "the loop stood still"


async def test_a_close_that_cannot_be_used_any_more_stays_as_it_was(
    make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "limiter", logs.LogLimiter())
    site = await make_site({1: Held({"NEW": 10})})

    async def write(close: str) -> None:
        statement = (
            "INSERT OR REPLACE INTO daily_prices (symbol, date, close) VALUES ('NEW', '2025-11-10', ?)"
        )
        await site.store.run(lambda connection: connection.exec_driver_sql(statement, (close,)))

    await write("7")
    await site.portfolios.refresh()
    site.portfolios.ensure(1)
    assert (await last_of(site, 1))["total_value"] == "70.00"
    await write("much")
    with structlog.testing.capture_logs() as logged:
        await site.portfolios.refresh()
        await site.portfolios.reload()
    assert logged[0]["event"].startswith("closes were left out")
    assert (await last_of(site, 1))["total_value"] == "70.00"
    await write("8")
    await site.portfolios.refresh()
    assert (await last_of(site, 1))["total_value"] == "80.00"


async def last_of(site: Site, number: int) -> dict[str, Any]:
    site.portfolios.ensure(number)
    found = site.last(number)
    assert found is not None
    return found


async def test_a_database_that_fails_stops_no_value(make_site: Callable[..., Any]) -> None:
    site = await make_site()
    site.portfolios.ensure(1)
    await site.store.close()
    with structlog.testing.capture_logs() as logged:
        site.portfolios.configure(interval_ms=0, poll_interval=0.01)
        await until(lambda: site.portfolios.n_failures > 1, "noticed")
        with pytest.raises(StoreError):
            await site.portfolios.reload()
        site.price("AAPL", 123)
        await site.shows(1)
    assert [entry["event"] for entry in logged if "portfolios" in entry["event"]] == [
        "portfolios cannot be read again; values go on with the positions of before"
    ]


async def test_other_instruments_count_after_a_rebuild(make_site: Callable[..., Any]) -> None:
    site = await make_site()
    site.portfolios.ensure(1)
    site.price("NEW", 100)
    await site.shows(1)
    instrument = site.market.instrument("NEW")
    instrument.become(Instrument("NEW", "Just listed", currency="KRW"))
    await site.portfolios.rebuild()
    await until(lambda: sorted(site.last(1)["unpriced"]) == ["AAPL", "MSFT", "NEW"], "named")


async def test_a_wrong_sum_is_logged_and_corrected(make_site: Callable[..., Any]) -> None:
    site = await make_site()
    site.portfolios.ensure(3)
    site.price("AAPL", 100)
    await site.shows(3)
    index = site.portfolios._table.find(3)
    loaded = site.portfolios._loaded
    place = loaded.position_portfolios.tolist().index(index)
    loaded.quantities[place] *= 2  # behind the back of what was counted
    site.shelf[3] = Held({"AAPL": 2}, owner="lee")
    with structlog.testing.capture_logs() as logged:
        site.portfolios._sweep()
        await site.shows(3)
    site.n_wrong = 1
    assert site.portfolios.n_mismatches == 1
    assert logged[0]["portfolio"] == 3
    assert logged[0]["log_level"] == "error"


async def test_what_is_due_leaves_at_the_stop(make_site: Callable[..., Any]) -> None:
    site = await make_site(interval_ms=60_000)
    site.portfolios.ensure(3)
    site.price("AAPL", 1)
    await site.shows(3)
    site.price("AAPL", 2)
    await site.portfolios.stop()
    assert site.last(3) == site.expected(3)
