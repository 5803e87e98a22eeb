"""What outlives a server process, ended or killed: last prices and books, alert rules, and alerts nobody was told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed

from fastws.client import Client, PriceUpdate
from tests.clients import client
from tests.serving import Server, until

SECRET = "a secret of more than thirty-two bytes"
ADMIN = "the administrator"
CODE = "005930"


def token(sub: str = "alice") -> str:
    return jwt.encode({"sub": sub, "exp": time.time() + 600}, SECRET, "HS256")


def call(server: Server, method: str, path: str, body: object = None, bearer: str = ADMIN) -> Any:
    data = None if body is None else json.dumps(body).encode()
    status, text = server.get(path, method, data, {"Authorization": f"Bearer {bearer}"})
    assert 200 <= status < 300, (status, text)
    return json.loads(text)


def price(number: float, code: str = CODE) -> dict[str, object]:
    return {"type": "price_update", "code": code, "price": number, "volume": 7, "high": 80000, "note": "x"}


def book(best: int) -> dict[str, object]:
    return {"type": "orderbook_update", "code": CODE, "bids": [{"price": best, "quantity": 3}], "asks": []}


class House:
    """Servers of one database, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = directory / "fastws.db"
        self.servers: list[Server] = []

    def start(self, **settings: object) -> Server:
        server = Server(
            self.directory,
            *("--feed", "none", "--database", f"sqlite:///{self.database}"),
            jwt_secret=SECRET,
            admin_token=ADMIN,
            shutdown_spread=0,
            **settings,
        )
        self.servers.append(server)
        return server

    def kill(self, server: Server) -> None:
        """As by ``kill -9``."""
        server.process.kill()
        assert server.process.wait(10) == -9
        self.servers.remove(server)

    def saved(self) -> dict[tuple[str, str], dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            rows = connection.execute("SELECT code, kind, body FROM last_values").fetchall()
        return {(code, kind): json.loads(body) for code, kind, body in rows}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    for server in made.servers:
        server.end()


async def test_last_values_come_back_stale(house: House) -> None:
    first = house.start(save_interval=0)
    call(first, "POST", "/v1/publish", [price(73000), book(72900), price(1, "UNKNOWN1")])
    before = first.get_json(f"/v1/stocks/{CODE}")
    assert "stale" not in before
    assert house.saved() == {}
    first.end()

    second = house.start()
    assert "values=3" in second.log
    after = second.get_json(f"/v1/stocks/{CODE}")
    numbers = ("sequence", "seq")
    assert after == before | {"stale": True, **{name: after[name] for name in numbers}}
    assert second.get_json(f"/v1/stocks/{CODE}/orderbook")["stale"] is True
    # It is in no table.
    assert second.get_json("/v1/stocks/UNKNOWN1")["stale"] is True
    known = second.get_json(f"/v1/stocks/{CODE}/freshness")
    assert (known["status"], known["silent_ms"]) == ("restored", None)
    for value, shown in ((before, known["price"]), (None, known["orderbook"])):
        assert (shown["restored"], shown["received"], shown["flushed"], shown["sent"]) == (
            True, None, None, None,
        )  # fmt: skip
        assert value is None or shown["published"] == value["timestamp"]
    async with Client(second.url) as typed:
        await typed.subscribe("stock", [CODE])
        taken = await typed.take()
        assert all(value.stale for value in taken if isinstance(value, PriceUpdate))
        assert typed.is_stale(CODE)
    async with client(second.url) as connection:
        greeting = connection.greeting
        await connection.subscribe("stock", "UNKNOWN1")
        snapshot = await connection.until_snapshot()
        assert [(value["code"], value["price"]) for value in snapshot["messages"]] == [("UNKNOWN1", 1)]
        await connection.sync()
        await connection.subscribe("stock", CODE)
        await connection.subscribe("market", "KOSPI")
        snapshot = await connection.until_snapshot()
        # Both may be of one millisecond.
        shown = {value["type"]: value for value in snapshot["messages"]}
        assert sorted(shown) == ["orderbook_update", "price_update"]
        assert shown["price_update"] == after
        assert shown["orderbook_update"]["stale"] is True
        assert snapshot["sequence"] == greeting["sequence"] == 3
        call(second, "POST", "/v1/publish", price(73100))
        live = await connection.until_type("price_update")
        assert "stale" not in live
        assert (live["price"], live["seq"], live["sequence"]) == (73100, 2, 4)
        assert "stale" not in second.get_json(f"/v1/stocks/{CODE}")
        known = second.get_json(f"/v1/stocks/{CODE}/freshness")
        assert (known["status"], known["orderbook"]["restored"]) == ("unjudged", True)
        assert known["price"]["received"] is not None
        session_id = greeting["connection_id"]
    # They are no updates that anybody has missed.
    for cursor, missed, recovered in ((3, 1, True), (0, 1, False)):
        async with client(f"{second.url}?session_id={session_id}&last_sequence={cursor}") as connection:
            answer = await connection.receive()
            assert (answer["missed_messages_count"], answer["recovered"]) == (missed, recovered)


def test_a_kill_leaves_the_values_of_the_last_save(house: House) -> None:
    first = house.start(save_interval=0.1)
    call(first, "POST", "/v1/publish", [price(73000), book(72900)])
    until(lambda: len(house.saved()) == 2, "the first save")
    call(first, "POST", "/v1/publish", price(73100))
    until(lambda: house.saved()[CODE, "price_update"]["price"] == 73100, "the next save")
    house.kill(first)
    second = house.start()
    after = second.get_json(f"/v1/stocks/{CODE}")
    assert (after["price"], after["stale"], after["volume"], after["high"], after["note"]) == (
        73100, True, 7, 80000, "x",
    )  # fmt: skip


def test_stale_prices_fire_no_alert(house: House) -> None:
    first = house.start()
    call(first, "POST", "/v1/publish", price(73000))
    rule = {"code": CODE, "alert_type": "price_above", "threshold": 70000}
    call(first, "POST", "/v1/alerts", rule, token())
    first.end()
    second = house.start()
    assert second.get_json(f"/v1/stocks/{CODE}")["stale"] is True
    (waiting,) = call(second, "GET", "/v1/alerts", bearer=token())
    assert waiting["fired_at"] is None
    call(second, "POST", "/v1/publish", price(73000))
    until(lambda: call(second, "GET", "/v1/alerts", bearer=token())[0]["fired_at"], "the alert")


def test_alerts_of_symbols_that_nobody_knows_are_told_of(house: House) -> None:
    first = house.start(save_interval=0)
    call(first, "POST", "/v1/publish", [price(1, "UNKNOWN1"), price(1, "UNKNOWN2")])
    for code in ("UNKNOWN1", "UNKNOWN1", "UNKNOWN2", CODE):
        rule = {"code": code, "alert_type": "price_above", "threshold": 5}
        call(first, "POST", "/v1/alerts", rule, token())
    house.kill(first)  # before anything was saved
    second = house.start()
    (line,) = [line for line in second.log.splitlines() if "alerts wait for symbols" in line]
    assert "alerts=3" in line
    assert "symbols=2" in line
    assert "UNKNOWN2" in line
    call(second, "POST", "/v1/publish", price(6, "UNKNOWN2"))
    until(
        lambda: [
            rule["code"] for rule in call(second, "GET", "/v1/alerts", bearer=token()) if rule["fired_at"]
        ],
        "the alert",
    )
    second.end()
    # Its price is kept, and with it the instrument.
    assert "alerts=2" in house.start().log


@pytest.mark.parametrize("n_heard", [1, 3, 20])
async def test_after_a_kill_every_alert_is_told(house: House, n_heard: int) -> None:
    """Killed while alerts fire, the server has told each one, tells it after the start, or lets it wait."""
    n_rules = 60
    first = house.start()
    rules = [{"code": CODE, "alert_type": "price_above", "threshold": i} for i in range(1, n_rules + 1)]
    for rule in rules:
        call(first, "POST", "/v1/alerts", rule, token())
    killed = threading.Event()
    heard: list[int] = []

    def publish() -> None:
        # A few prices ahead of what is heard, so that the kill comes in between.
        with contextlib.suppress(OSError, urllib.error.URLError):  # the kill
            for i in range(1, n_rules + 1):
                while i > len(heard) + 10 and not killed.wait(0.001):
                    pass
                call(first, "POST", "/v1/publish", price(i + 0.5))

    async with client(f"{first.url}?token={token()}") as connection:
        publishing = asyncio.create_task(asyncio.to_thread(publish))
        while len(heard) < n_heard:
            heard.append((await connection.until_type("alert"))["threshold"])
        await asyncio.to_thread(house.kill, first)
        killed.set()
        with contextlib.suppress(ConnectionClosed):
            while True:
                heard.append((await connection.until_type("alert"))["threshold"])
        await publishing
    assert len(heard) == len(set(heard))
    assert len(heard) < n_rules

    second = house.start()
    listed = call(second, "GET", "/v1/alerts", bearer=token())
    assert [rule["threshold"] for rule in listed] == list(range(1, n_rules + 1))
    fired = {rule["threshold"] for rule in listed if rule["fired_at"] is not None}
    assert set(heard) <= fired
    again: list[int] = []
    session_id = connection.greeting["connection_id"]
    async with client(f"{second.url}?token={token()}&session_id={session_id}") as connection:
        connection.on_message = lambda message: (
            again.append(message["threshold"]) if message["type"] == "alert" else None
        )
        await connection.until_type("error")  # of the session, which has ended with its process
        await connection.sync()
        # What was fired and not told; and perhaps the last ones told, which the process could not note any more.
        assert fired - set(heard) <= set(again) <= fired
        twice = set(again) & set(heard)
        assert twice == set(heard[len(heard) - len(twice) :])
        assert len(again) == len(set(again))
        n_again = len(again)
        # The rest fires on the next price, once.
        call(second, "POST", "/v1/publish", price(n_rules + 1))
        await connection.until(lambda message: len(again) == n_again + n_rules - len(fired))
        await connection.sync()
        assert sorted(again[n_again:]) == sorted(set(range(1, n_rules + 1)) - fired)
    # Told now, they are not told again.
    second.end()
    third = house.start()
    async with client(f"{third.url}?token={token()}") as connection:
        messages: list[str] = []
        connection.on_message = lambda message: messages.append(message["type"])
        await connection.sync()
        assert messages == ["pong"]


async def test_an_alert_kept_for_a_session_outlives_a_restart(house: House) -> None:
    first = house.start()
    rule = {"code": CODE, "alert_type": "price_above", "threshold": 100}
    call(first, "POST", "/v1/alerts", rule, token())
    async with client(f"{first.url}?token={token()}"):
        pass
    until(lambda: first.stats()["saved_sessions"] == 1, "the session")
    call(first, "POST", "/v1/publish", price(101))
    until(lambda: call(first, "GET", "/v1/alerts", bearer=token())[0]["fired_at"], "the alert")
    first.end()
    second = house.start()
    async with client(f"{second.url}?token={token('bob')}") as other:
        await other.sync()
        async with client(f"{second.url}?token={token()}") as connection:
            alert = await connection.until_type("alert")
            assert (alert["threshold"], alert["current_price"]) == (100, 101)
            assert alert["sequence"] > connection.greeting["sequence"]


def test_a_database_of_the_first_version_is_upgraded(house: House) -> None:
    with contextlib.closing(sqlite3.connect(house.database)) as connection:
        connection.executescript(
            """
            CREATE TABLE alert_rules (
                id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, user_id VARCHAR(255) NOT NULL,
                code VARCHAR(64) NOT NULL, alert_type VARCHAR(32) NOT NULL, threshold VARCHAR(40) NOT NULL,
                created_at BIGINT NOT NULL, fired_at BIGINT, fired_price VARCHAR(40), fired_by VARCHAR(32));
            CREATE INDEX ix_alert_rules_user_id ON alert_rules (user_id);
            CREATE TABLE schema_version (version INTEGER NOT NULL, PRIMARY KEY (version));
            INSERT INTO schema_version VALUES (1);
            INSERT INTO alert_rules VALUES (1, 'alice', '005930', 'price_above', '75000', 1, NULL, NULL, NULL);
            """
        )
    server = house.start(save_interval=0.1)
    (rule,) = call(server, "GET", "/v1/alerts", bearer=token())
    assert (rule["id"], rule["threshold"]) == (1, 75000)
    call(server, "POST", "/v1/publish", price(75001))
    until(lambda: house.saved(), "the first save")
    until(lambda: call(server, "GET", "/v1/alerts", bearer=token())[0]["fired_at"], "the alert")
