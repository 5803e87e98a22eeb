"""Last values over a restart: what is saved, when, what comes back, and that a broken database disturbs nothing."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog

from fastws import logs
from fastws._core import Hub
from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws.dialects.screener import encode
from fastws.market.instruments import Instruments
from fastws.market.market import Market, Stale
from fastws.market.store import Store
from fastws.market.value_store import ValueStore
from fastws.server.last_values import LastValues

MS = 1_762_853_400_000  # 2025-11-11T09:30:00.000Z


class Desk:
    """A market of one process, with its database."""

    def __init__(self, url: str | None, *codes: str, interval: float = 0.0) -> None:
        self.hub = Hub(asyncio.get_running_loop(), epoch="test")
        self.market = Market(self.hub, Instruments([Instrument(code, f"Name of {code}") for code in codes]))
        self.store = Store(url)
        self.values = LastValues(self.market, self.store, interval=interval)

    async def open(self) -> Desk:
        await self.store.open()
        return self

    async def close(self) -> None:
        await self.values.stop(5.0)
        await self.store.close()
        self.hub.stop()

    def price(self, code: str, price: Any, **members: Any) -> PriceUpdate:
        instrument = self.market.instrument(code)
        assert instrument is not None
        update = PriceUpdate(instrument, price, **members)
        self.market.publish_price(update)
        return update

    def book(self, code: str, best: Any) -> None:
        instrument = self.market.instrument(code)
        assert instrument is not None
        self.market.publish_book(BookUpdate(instrument, [(best, 5)], [], venue="KRX", event_time_ms=MS + 7))

    def stock(self, code: str) -> dict[str, Any]:
        body = self.market.stock_body(code)
        assert body is not None
        found: dict[str, Any] = json.loads(body)
        return found


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/fastws.db"


async def until(condition: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.002)
    except TimeoutError:
        pytest.fail(f"{what}: not within 10 s")


async def test_values_come_back_as_they_were_and_marked(url: str) -> None:
    first = await Desk(url, "A", "B", "C").open()
    first.price(
        "A", "1.90", change="-0.10", change_percent="-5.00", volume=2**62, trade_volume=3, high="2.00", low="1.80",
        venue="NXT", quality="polled", event_time_ms=MS, extra=b'"big":18446744073709551616,"k":"\\u0000 \xea\xb0\x80"',
    )  # fmt: skip
    first.price("B", 100)
    first.book("B", "10.50")
    before = [first.market.stock_body("A"), first.market.orderbook_body("B", history=0)]
    await first.close()

    second = await Desk(url, "A", "B", "D").open()
    crossed: list[PriceUpdate] = []
    second.market.on_price.append(crossed.append)
    assert await second.values.restore() == 3
    assert crossed == []
    after = [second.market.stock_body("A"), second.market.orderbook_body("B", history=0)]
    for then, now in zip(before, after, strict=True):
        assert then is not None
        assert now is not None
        head = then[: then.index(b',"sequence":')]
        assert now.startswith(head + b',"stale":true,"sequence":')
        assert now.endswith(b',"seq":1}')
    body = second.market.orderbook_body("B")
    assert body is not None
    (only,) = json.loads(body)["history"]
    assert only["bids"] == [{"price": 10.5, "quantity": 5}]
    assert only["timestamp"] == json.loads(body)["timestamp"]
    assert second.market.stock_body("D") is None
    assert second.market.book_ring("B") is None
    price = second.market.last_price("A")
    assert price is not None
    assert (str(price.price), price.volume, price.event_time_ms) == ("1.90", 2**62, MS)

    # In a snapshot it is the same text, without the numbers that the hub adds.
    topic = second.hub.find_topic("stock", "A")
    assert topic is not None
    payload = topic.channels[0].last_payload
    assert isinstance(payload, Stale)
    assert after[0] is not None
    assert after[0].startswith(encode(payload, 12345) + b',"sequence":')

    # Until newer ones come, one by one.
    second.price("A", 2)
    second.book("B", 11)
    assert "stale" not in second.stock("A")
    assert (second.stock("A")["seq"], second.stock("B")["stale"]) == (2, True)
    body = second.market.orderbook_body("B", history=10)
    assert body is not None
    assert "stale" not in json.loads(body)
    assert [book["bids"][0]["price"] for book in json.loads(body)["history"]] == [11]
    old = second.stock("B")["timestamp"]
    await second.close()

    # What was not replaced is as old as it was.
    third = await Desk(url, "A", "B").open()
    assert await third.values.restore() == 3
    assert (third.stock("A")["price"], third.stock("B")["timestamp"]) == (2, old)
    await third.close()


async def test_only_what_has_changed_is_saved(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await Desk(url, *(f"{i:04}" for i in range(1200))).open()
    saved: list[list[str]] = []
    save = ValueStore.save

    async def watched(self: ValueStore, values: Any) -> None:
        saved.append([value.code for value in values])
        await save(self, values)

    monkeypatch.setattr(ValueStore, "save", watched)
    for i in range(1200):
        desk.price(f"{i:04}", i)
    assert await desk.values.save()
    # In several transactions.
    assert [len(batch) for batch in saved] == [500, 500, 200]
    assert sorted(code for batch in saved for code in batch) == [f"{i:04}" for i in range(1200)]
    saved.clear()
    desk.price("0003", 4)
    desk.price("0007", 1)
    desk.price("0007", 7)
    assert await desk.values.save()
    assert saved == [["0003", "0007"]]
    saved.clear()
    assert await desk.values.save()
    assert saved in ([], [[]])
    await desk.close()


async def test_it_saves_by_itself_at_the_interval(url: str) -> None:
    desk = await Desk(url, "A", interval=0.02).open()
    desk.values.start()
    stored = ValueStore(desk.store)

    async def saved_prices() -> list[int]:
        return [json.loads(value.body)["price"] for value in await stored.load()]

    for price in (1, 2):
        desk.price("A", price)
        async with asyncio.timeout(30):
            while await saved_prices() != [price]:
                await asyncio.sleep(0.005)
    # An interval of 0 waits for the stop.
    desk.values.configure(interval=0)
    desk.price("A", 3)
    await asyncio.sleep(0.1)
    assert await saved_prices() == [2]
    desk.values.configure(interval=0.02)
    async with asyncio.timeout(30):
        while await saved_prices() != [3]:
            await asyncio.sleep(0.005)
    await desk.close()


async def test_prices_go_on_while_the_database_is_lost(url: str, tmp_path: Path) -> None:
    desk = await Desk(f"{url}?timeout=0.05", "A", "B", interval=0.02).open()
    desk.price("A", 1)
    assert await desk.values.save()
    other = sqlite3.connect(tmp_path / "fastws.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    desk.values.start()
    logs.limiter.__init__()  # type: ignore[misc]  # what earlier tests have logged
    with structlog.testing.capture_logs() as lines:
        slowest = 0.0
        for price in range(100):
            began = time.monotonic()
            desk.price("A", price)
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.005)
        assert slowest < 0.1
    # Several attempts have failed, and one line tells.
    (line,) = [line for line in lines if line["event"] == "last values are not saved"]
    assert "locked" in line["error"]
    other.execute("ROLLBACK")
    other.close()
    await desk.close()
    again = await Desk(url, "A", "B").open()
    await again.values.restore()
    assert again.stock("A")["price"] == 99
    await again.close()


async def test_a_stop_waits_for_a_database_only_so_long(url: str, tmp_path: Path) -> None:
    desk = await Desk(f"{url}?timeout=2", "A").open()
    desk.price("A", 1)
    other = sqlite3.connect(tmp_path / "fastws.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    with structlog.testing.capture_logs() as lines:
        await desk.values.stop(0.1)
    assert time.monotonic() - began < 1.5
    assert "takes too long" in lines[0]["event"]
    other.execute("ROLLBACK")
    other.close()
    await desk.store.close()


async def test_rows_that_make_no_value_are_left_out(url: str) -> None:
    desk = await Desk(url, "A", "B", "C", "D", "E").open()
    for code in "ABCDE":
        desk.price(code, 1)
    await desk.close()
    desk = await Desk(url, "A", "B", "C", "D", "E").open()
    changes = {
        "A": "body = 'no JSON'",
        "B": """body = '{"type":"market_status","market":"M","status":"open"}'""",
        "C": """body = '{"type":"price_update","code":"C"}'""",
        "D": "published_at = -5",
    }
    for code, change in changes.items():
        await desk.store.run(
            lambda connection, code=code, change=change: connection.execute(  # type: ignore[misc]
                sa.text(f"UPDATE last_values SET {change} WHERE code = '{code}'")
            )
        )
    logs.limiter.__init__()  # type: ignore[misc]
    with structlog.testing.capture_logs() as lines:
        assert await desk.values.restore() == 1
    assert desk.stock("E")["stale"] is True
    assert all(desk.market.stock_body(code) is None for code in "ABCD")
    (line,) = [line for line in lines if "left out" in line["event"]]
    assert line["code"] in "ABCD"
    await desk.close()


async def test_symbols_of_no_table_come_back_with_their_values(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = await Desk(url, "A", "B", "C", "D").open()
    for price, code in enumerate("ABCD"):
        desk.price(code, price)
        desk.book(code, price)
    await desk.close()
    monkeypatch.setattr("fastws.server.last_values.MAX_INSTRUMENTS", 3)
    desk = await Desk(url, "D").open()
    with structlog.testing.capture_logs() as lines:
        n_restored = await desk.values.restore()
    made = [instrument.code for instrument in desk.market.instruments]
    assert (made[0], len(made), n_restored) == ("D", 3, 6)
    for code in made:
        assert desk.stock(code)["stale"] is True
    assert desk.stock(made[1])["name"] == made[1]
    (line,) = lines
    assert (line["symbols"], line["limit"]) == (1, 3)
    assert line["first"] == [code for code in "ABC" if code not in made]
    await desk.close()


async def test_without_its_table_the_server_starts_without_values(url: str) -> None:
    desk = await Desk(url, "A").open()
    await desk.store.run(lambda connection: connection.execute(sa.text("DROP TABLE last_values")))
    with structlog.testing.capture_logs() as lines:
        assert await desk.values.restore() == 0
    assert lines[0]["event"] == "the last values of before are not there"
    await desk.close()


async def test_in_memory_nothing_is_kept() -> None:
    desk = await Desk(None, "A", interval=0.001).open()
    desk.values.start()
    desk.price("A", 1)
    assert await desk.values.save()
    assert await ValueStore(desk.store).load() == []
    assert await desk.values.restore() == 0
    await desk.close()


async def test_a_value_that_cannot_be_saved_keeps_no_other_from_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = await Desk(url, "A", "B", "C", interval=0.01).open()
    save = ValueStore.save

    async def failing(self: ValueStore, values: Any) -> None:
        if any(value.code == "B" for value in values):
            raise TypeError("no database can do this")
        await save(self, values)

    monkeypatch.setattr(ValueStore, "save", failing)
    for code in "ABC":
        desk.price(code, 1)
    desk.values.start()
    stored = ValueStore(desk.store)
    codes: list[str] = []
    async with asyncio.timeout(30):
        while codes != ["A", "C"]:
            codes = sorted(value.code for value in await stored.load())
    monkeypatch.undo()
    desk.price("B", 2)
    async with asyncio.timeout(30):
        while codes != ["A", "B", "C"]:
            codes = sorted(value.code for value in await stored.load())
    await desk.close()


async def test_a_save_that_fails_is_not_the_last(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await Desk(url, "A", interval=0.01).open()
    n_failed = 0

    def failing() -> Any:
        nonlocal n_failed
        n_failed += 1
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(desk.market, "live_values", failing)
    desk.price("A", 1)
    desk.values.start()
    await until(lambda: n_failed > 1, "another attempt")
    monkeypatch.undo()
    async with asyncio.timeout(30):
        while not await ValueStore(desk.store).load():
            pass
    await desk.close()


async def test_who_takes_saving_back_saves_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = await Desk(url, "A", interval=0.01).open()
    savers: list[asyncio.Task[None] | None] = []
    save = desk.values.save

    async def noted() -> bool:
        savers.append(asyncio.current_task())
        return await save()

    monkeypatch.setattr(desk.values, "save", noted)
    desk.values.start()
    await until(lambda: savers, "a save")
    # Nothing has stopped it before.
    desk.values.give_up()
    desk.values.take_back()
    savers.clear()
    await until(lambda: len(savers) > 3, "more of them")
    assert len(set(savers)) == 1
    await desk.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
