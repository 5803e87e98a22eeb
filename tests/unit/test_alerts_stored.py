"""Alert rules on real databases: restarts, outages, and who is told what after them."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from alert_desk import APPLE, SAMSUNG, Desk, price, until

from fastws.market import alerts as alerts_module
from fastws.market.alert_messages import Alert
from fastws.market.alert_store import AlertStore
from fastws.market.alerts import AlertBook
from fastws.market.instruments import Instruments
from fastws.market.store import Store, StoreError
from tests.serving import ROOT


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    desk = await Desk().open()
    yield desk
    await desk.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/fastws.db"


async def test_rules_survive_a_restart(url: str) -> None:
    desk = await Desk(url).open()
    await desk.book.add("kim", "005930", "price_above", 75000)
    await desk.book.add("lee", "AAPL", "price_below", "200.50")
    await desk.book.add("kim", "005930", "volume_above", 100)
    desk.book.on_price(price(75100))
    assert len(await desk.settle()) == 1
    await desk.close()

    again = Desk(url)
    await again.store.open()
    assert await again.book.load() == 2
    again.book.on_price(price(76000, volume=101))
    again.book.on_price(price("200.49", APPLE))
    assert [(user_id, alert.alert_type) for user_id, alert in await again.settle()] == [
        ("kim", "volume_above"),
        ("lee", "price_below"),
    ]
    assert [rule.fired_price for rule in await again.book.list("kim")] == [75100, 76000]
    await again.close()


async def test_an_alert_is_told_after_its_commit(url: str, tmp_path: Path) -> None:
    seen = []
    store = Store(url)
    await store.open()

    def look(user_id: str, alert: Alert) -> None:
        with sqlite3.connect(tmp_path / "fastws.db") as other:
            seen.append(other.execute("SELECT fired_price FROM alert_rules").fetchall())
        other.close()

    book = AlertBook(store, Instruments([SAMSUNG]), look)
    await book.add("kim", "005930", "price_above", 75000)
    book.on_price(price("75100.50"))
    await until(lambda: book.n_fired == 1, "the alert")
    assert seen == [[("75100.50",)]]
    await book.stop()
    await store.close()


async def test_the_database_decides_which_of_two_instances_fires(url: str) -> None:
    desks = [await Desk(url).open() for _ in range(2)]
    rules = [await desks[0].book.add(f"user{i}", "005930", "price_above", 1000 + i) for i in range(200)]
    for rule in rules:
        desks[1].book.admit(rule)
        desks[1].book.admit(rule)
    assert desks[1].book.n_waiting == 200
    for number in range(1001, 1202):
        for desk in desks if number % 2 else desks[::-1]:
            desk.book.on_price(price(number))
        await asyncio.sleep(0)
    told = [await desk.settle() for desk in desks]
    assert [desk.book.n_waiting for desk in desks] == [0, 0]
    users = [user_id for part in told for user_id, _ in part]
    assert sorted(users) == sorted(rule.user_id for rule in rules)
    assert sum(desk.book.n_fired for desk in desks) == 200
    for desk in desks:
        await desk.close()


async def test_prices_go_on_while_the_database_is_lost_and_alerts_come_when_it_is_back(
    url: str, tmp_path: Path
) -> None:
    desk = await Desk(f"{url}?timeout=0.01").open()
    for threshold in (100, 200, 300):
        await desk.book.add("kim", "005930", "price_above", threshold)
    other = sqlite3.connect(tmp_path / "fastws.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with structlog.testing.capture_logs() as lines:
        desk.book.on_price(price(150))
        await until(lambda: lines, "a line about the database")
        desk.book.on_price(price(250))
        for _ in range(1000):
            desk.book.on_price(price(50))
        with pytest.raises(StoreError, match="database is locked"):
            await desk.book.add("kim", "005930", "price_above", 400)
        with pytest.raises(StoreError, match="database is locked"):
            await desk.book.list("kim")
    assert (desk.book.n_waiting, desk.book.n_crossed, desk.told) == (1, 2, [])
    assert lines[0]["event"] == "alerts wait for the database"
    assert "database is locked" in lines[0]["error"]
    other.execute("ROLLBACK")
    other.close()
    # With the prices that crossed them, which are long gone.
    assert [(alert.threshold, alert.current_price) for _, alert in await desk.settle()] == [
        (100, 150),
        (200, 250),
    ]
    assert [rule.fired_price for rule in await desk.book.list("kim")] == [150, 250, None]
    await desk.close()


async def test_what_could_not_fire_before_the_end_fires_after_the_next_start(
    url: str, tmp_path: Path
) -> None:
    desk = await Desk(f"{url}?timeout=0.01").open()
    await desk.book.add("kim", "005930", "price_above", 100)
    other = sqlite3.connect(tmp_path / "fastws.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    desk.book.on_price(price(150))
    with structlog.testing.capture_logs() as lines:
        await desk.book.stop(0.05)
    assert lines[-1] == {"event": "alerts wait for the next start", "rules": 1, "log_level": "warning"}
    await desk.store.close()
    assert desk.told == []
    other.execute("ROLLBACK")
    other.close()
    again = await Desk(url).open()
    again.book.on_price(price(151))
    assert [alert.current_price for _, alert in await again.settle()] == [151]
    await again.close()


async def test_a_rule_that_cannot_be_fired_keeps_no_other_from_firing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = await Desk(url).open()
    rules = [await desk.book.add("u", "005930", "price_above", number) for number in range(1, 6)]
    fire = AlertStore.fire_rules

    async def failing(self: AlertStore, firings: Any, *args: Any, **kwargs: Any) -> set[int]:
        if any(firing.rule_id == rules[2].id for firing in firings):
            raise TypeError("no database can do this")
        return await fire(self, firings, *args, **kwargs)

    monkeypatch.setattr(AlertStore, "fire_rules", failing)
    desk.book.on_price(price(10))
    assert [alert.threshold for _, alert in await desk.settle()] == [1, 2, 4, 5]
    await desk.book.add("u", "005930", "price_above", 20)
    desk.book.on_price(price(21))
    assert [alert.threshold for _, alert in await desk.settle()] == [20]
    await until(lambda: not desk.book._told, "what was told is stored")
    await desk.close()
    monkeypatch.undo()
    # It waits again after the next start.
    again = await Desk(url).open()
    again.book.on_price(price(10))
    assert [alert.threshold for _, alert in await again.settle()] == [3]
    await again.close()


async def test_stopping_waits_for_what_was_crossed(url: str) -> None:
    desk = await Desk(url).open()
    await desk.book.add("kim", "005930", "price_above", 100)
    adding = asyncio.ensure_future(desk.book.add("kim", "005930", "price_above", 1000))
    await asyncio.sleep(0)
    desk.book.on_price(price(150))
    await desk.book.stop()
    assert len(desk.told) == 1
    assert (await adding).threshold == 1000
    # Nothing fires any more.
    desk.book.on_price(price(1500))
    assert desk.book.n_crossed == 1
    await desk.close()
    assert len(desk.told) == 1


async def test_a_request_does_not_wait_forever(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    blocked = asyncio.ensure_future(desk.store.run(lambda connection: go.wait(30)))
    await asyncio.sleep(0)
    monkeypatch.setattr(alerts_module, "ANSWER_SECONDS", 0.05)
    with pytest.raises(StoreError, match=r"has not answered within 0\.05 s"):
        await desk.book.add("kim", "005930", "price_above", 100)
    assert desk.book.n_waiting == 0
    go.set()
    await blocked
    await until(lambda: desk.book.n_waiting == 1, "the rule that was asked for")


async def test_a_receiver_that_fails_keeps_no_other_from_being_told() -> None:
    store = Store()
    await store.open()
    told = []

    def deliver(user_id: str, alert: Alert) -> None:
        if user_id == "bad":
            raise RuntimeError("no such user")
        told.append(user_id)

    book = AlertBook(store, Instruments([SAMSUNG]), deliver)
    for user_id in ("a", "bad", "b"):
        await book.add(user_id, "005930", "price_above", 100)
    with structlog.testing.capture_logs() as lines:
        book.on_price(price(101))
        await until(lambda: book.n_fired == 3 and book._firing is None, "three alerts")
    assert told == ["a", "b"]
    assert [(line["event"], line["log_level"]) for line in lines] == [("alert not delivered", "error")]
    await book.stop()
    await store.close()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("alert_type = 'moon_above'", "alert_type: expected one of price_above"),
        ("threshold = '99999999999999999999'", "threshold: expected a plain decimal number"),
        ("threshold = 'x'", "holds what is no number"),
    ],
)
async def test_a_row_that_makes_no_rule_is_named_at_the_start(url: str, change: str, text: str) -> None:
    desk = await Desk(url).open()
    rule = await desk.book.add("kim", "005930", "price_above", 100)
    await desk.store.run(lambda connection: connection.execute(sa.text(f"UPDATE alert_rules SET {change}")))
    await desk.close()
    again = Desk(url)
    await again.store.open()
    with pytest.raises(StoreError, match=rf"row {rule.id} of alert_rules.*correct or delete it$") as caught:
        await again.book.load()
    assert text in str(caught.value)
    await again.close()


SERVER = """
import asyncio, sys
from fastws._market import Instrument, PriceUpdate
from fastws.market.alerts import AlertBook
from fastws.market.instruments import Instruments
from fastws.market.store import Store

async def main():
    instrument = Instrument("005930")
    store = Store(sys.argv[1])
    await store.open()

    def deliver(user_id, alert):
        print("told", user_id, flush=True)
        book.told(alert.rule_id)

    book = AlertBook(store, Instruments([instrument]), deliver)
    await book.load()
    number = 0
    while True:
        number += 1
        rule = await book.add(f"user{number}", "005930", "price_above", number)
        print("stored", rule.id, flush=True)
        if number % 3 == 0:
            book.on_price(PriceUpdate(instrument, number))

asyncio.run(main())
"""


def killed_after(n_told: int, url: str) -> tuple[list[int], list[str]]:
    """Let a process store and fire rules, kill it after so many alerts; the ids stored and the users told."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SERVER, url], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    lines: list[str] = []
    while sum(line.startswith("told") for line in lines) < n_told:
        lines.append(process.stdout.readline())
        assert lines[-1]
    process.kill()
    lines += process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    assert process.wait(10) == -9
    words = [line.split() for line in lines if line.endswith("\n")]
    return [int(word) for kind, word in words if kind == "stored"], [w for kind, w in words if kind == "told"]


@pytest.mark.parametrize("n_told", [1, 4, 25])
async def test_after_a_kill_every_rule_is_there_and_none_fires_twice(url: str, n_told: int) -> None:
    stored, told = killed_after(n_told, url)
    desk = await Desk(url).open()
    rules = {
        rule.id: rule for user in range(1, len(stored) + 2) for rule in await desk.book.list(f"user{user}")
    }
    assert set(stored) <= set(rules)
    fired = {rule.user_id for rule in rules.values() if rule.fired_ms is not None}
    assert set(told) <= fired
    # Nobody is forgotten; who was told in the last moment, of one or two prices, may hear it again.
    untold = [user_id for user_id, _ in await desk.book.untold(600)]
    assert {*told, *untold} == fired
    assert len(untold) == len(set(untold))
    assert set(told) & set(untold) <= set(told[-6:])
    desk.book.on_price(price(10**6))
    told_now = [user_id for user_id, _ in await desk.settle()]
    assert set(told_now) == {rule.user_id for rule in rules.values()} - fired
    assert len(told_now) == len(set(told_now))
    assert len(told) == len(set(told))
    await desk.close()


async def test_who_was_told_nothing_is_found_after_the_next_start(url: str) -> None:
    desk = await Desk(url).open()
    for number in (100, 200, "300.50"):
        await desk.book.add(f"user{number}", "005930", "price_above", number)
    desk.book.on_price(price(101))
    assert [user_id for user_id, _ in await desk.settle()] == ["user100"]
    desk.is_heard = False
    desk.book.on_price(price("300.70"))
    assert await desk.settle() == []
    await desk.close()

    again = await Desk(url).open()
    found = await again.book.untold(600)
    assert [user_id for user_id, _ in found] == ["user200", "user300.50"]
    message = "Samsung Electronics exceeded 300.50 KRW"
    assert found[1][1] == Alert(
        "005930", "price_above", Decimal("300.50"), Decimal("300.70"), message, rule_id=3
    )
    assert await again.book.untold(0) == []
    # Told at last, they are not found again.
    for _, alert in found[:1]:
        assert alert.rule_id is not None
        again.book.told(alert.rule_id)
    await again.settle()
    assert [user_id for user_id, _ in await again.book.untold(600)] == ["user300.50"]
    await again.close()


async def test_that_somebody_was_told_is_stored_once_the_database_is_back(url: str, tmp_path: Path) -> None:
    desk = await Desk(f"{url}?timeout=0.1").open()
    await desk.book.add("kim", "005930", "price_above", 100)
    desk.is_heard = False
    desk.book.on_price(price(101))
    await desk.settle()
    ((_, alert),) = await desk.book.untold(600)
    other = sqlite3.connect(tmp_path / "fastws.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    assert alert.rule_id is not None
    desk.book.told(alert.rule_id)
    with pytest.raises(StoreError, match="locked"):
        await desk.book.list("kim")
    other.execute("ROLLBACK")
    other.close()
    await desk.settle()
    assert await desk.book.untold(600) == []
    await desk.close()
