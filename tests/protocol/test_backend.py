"""Alerts, publishing and the administrator's endpoints against a real server (WIRE sections 7 to 9)."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed

from tests.clients import client
from tests.conftest import StartServer
from tests.serving import Server

SECRET = "a secret of more than thirty-two bytes"
ADMIN = "the administrator"


def token(sub: str) -> str:
    return jwt.encode({"sub": sub, "exp": time.time() + 600}, SECRET, "HS256")


@pytest.fixture
def target(shared_server: StartServer, over: dict[str, str]) -> Server:
    return shared_server("--feed", "none", jwt_secret=SECRET, admin_token=ADMIN, **over)


def call(server: Server, method: str, path: str, body: object = None, bearer: str = ADMIN) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    status, text = server.get(path, method, data, {"Authorization": f"Bearer {bearer}"})
    return status, json.loads(text) if text else None


def price(value: int, code: str = "005930") -> dict[str, object]:
    return {"type": "price_update", "code": code, "price": value, "change": value - 72000}


async def test_published_prices_reach_subscribers_exactly(target: Server) -> None:
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
        body = [price(73000) | {"big": 2**62, "note": "x"}, price(73100)]
        status, answer = await asyncio.to_thread(call, target, "POST", "/v1/publish", body)
        assert status == 202
        assert answer["accepted"] == 2
        assert answer["last_sequence"] == answer["first_sequence"] + 1
        batch = await connection.until_type("batch")
        assert [update["price"] for update in batch["messages"]] == [73000, 73100]
        assert batch["messages"][0]["big"] == 2**62
        status, answer = await asyncio.to_thread(
            call, target, "POST", "/v1/publish", [price(1), {"type": "price_update", "code": "005930"}]
        )
        assert status == 400
        assert answer["error"]["details"]["index"] == 1
        await connection.sync()


async def test_an_alert_fires_once_for_every_connection_of_its_user(target: Server) -> None:
    url = f"{target.url}?token={token('alice')}"
    async with (
        client(url) as first,
        client(url) as second,
        client(f"{target.url}?token={token('bob')}") as other,
    ):
        rule = {"code": "005930", "alert_type": "price_above", "threshold": 75000}
        status, made = await asyncio.to_thread(call, target, "POST", "/v1/alerts", rule, token("alice"))
        assert status == 201
        for value in (74900, 75100, 75200):
            status, _ = await asyncio.to_thread(call, target, "POST", "/v1/publish", price(value))
            assert status == 202
        for connection in (first, second):
            alert = await connection.receive()
            assert {
                key: alert[key] for key in ("type", "code", "alert_type", "threshold", "current_price")
            } == {
                "type": "alert",
                "code": "005930",
                "alert_type": "price_above",
                "threshold": 75000,
                "current_price": 75100,
            }
            assert alert["message"] == "Samsung Electronics exceeded 75,000 KRW"
            assert list(alert)[-2:] == ["timestamp", "sequence"]
            await connection.sync()
        await other.sync()
        status, rules = await asyncio.to_thread(call, target, "GET", "/v1/alerts", None, token("alice"))
        assert [rule["id"] for rule in rules] == [made["id"]]
        assert rules[0]["fired_at"] is not None
        status, rules = await asyncio.to_thread(call, target, "GET", "/v1/alerts", None, token("bob"))
        assert rules == []


def test_alerts_survive_a_restart(server: StartServer, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/fastws.db"
    rule = {"code": "005930", "alert_type": "price_below", "threshold": 70000}
    first = server("--feed", "none", "--database", database, jwt_secret=SECRET)
    assert call(first, "POST", "/v1/alerts", rule, token("alice"))[0] == 201
    first.end()
    second = server("--feed", "none", "--database", database, jwt_secret=SECRET)
    status, rules = call(second, "GET", "/v1/alerts", None, token("alice"))
    assert status == 200
    assert [rule["threshold"] for rule in rules] == [70000]


async def test_an_administrator_lists_and_ends_connections(target: Server) -> None:
    async with client(f"{target.url}?token={token('carol')}") as connection:
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
        status, listed = await asyncio.to_thread(call, target, "GET", "/v1/ws/connections")
        assert status == 200
        (found,) = [item for item in listed if item["user_id"] == "carol"]
        assert list(found) == [
            "connection_id", "user_id", "peer", "connected_at", "subscriptions", "message_count", "last_activity",
            "dialect", "subscription_count", "updates_delivered", "updates_lost", "queued_messages", "queued_bytes",
        ]  # fmt: skip
        assert (found["dialect"], found["subscription_count"]) == ("screener", 1)
        assert (found["updates_lost"], found["queued_messages"], found["queued_bytes"]) == (0, 0, 0)
        assert found["subscriptions"] == {"stock": ["005930"]}
        assert found["connection_id"] == connection.greeting["connection_id"]
        status, answer = await asyncio.to_thread(call, target, "POST", "/v1/admin/kick", {"user_id": "carol"})
        assert (status, answer) == (200, {"closed": 1})
        with pytest.raises(ConnectionClosed) as closed:
            await connection.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


def test_without_the_administrators_token_nothing_is_done(target: Server, shared_server: StartServer) -> None:
    for method, path in (("GET", "/v1/ws/connections"), ("POST", "/v1/publish"), ("POST", "/v1/admin/kick")):
        assert call(target, method, path, {} if method == "POST" else None, bearer="wrong")[0] == 401
    closed = shared_server("--feed", "none")
    assert call(closed, "GET", "/v1/ws/connections")[0] == 403


def test_who_a_token_is(target: Server) -> None:
    status, answer = call(target, "GET", "/api/v1/users/me", None, token("dave"))
    assert (status, answer["user_id"]) == (200, "dave")
    assert call(target, "GET", "/api/v1/users/me", None, "junk")[0] == 401
