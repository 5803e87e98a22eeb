"""The Python client with servers that do not keep the contract."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from fastws.client import Client, ConnectError, RequestError, link

TIME = "2025-11-11T09:30:00.123Z"
PRICE = {"type": "price_update", "code": "A", "name": "a", "price": 1}
GREETING = {
    "type": "connection",
    "status": "connected",
    "connection_id": "550e8400-e29b-41d4-a716-446655440000",
    "authenticated": False,
    "user_id": None,
    "epoch": "k3f9",
    "sequence": 1,
    "batch_interval_ms": 30,
    "limits": {"subscriptions": 50, "rate_limit": 100, "message_bytes": 65536},
    "feeds": {},
}


@asynccontextmanager
async def faulty_server(talk: Callable[[ServerConnection], Awaitable[None]]) -> AsyncIterator[str]:
    async def accept(connection: ServerConnection) -> None:
        try:
            await talk(connection)
            await connection.wait_closed()
        except ConnectionClosed:
            # The test has ended.
            pass

    async with serve(accept, "127.0.0.1", 0, compression=None) as server:
        (listener,) = server.sockets
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"


async def tell(connection: ServerConnection, **message: Any) -> None:
    await connection.send(json.dumps({"timestamp": TIME, **message}))


async def test_a_full_queue_in_place_of_a_greeting_ends_the_opening() -> None:
    async def talk(connection: ServerConnection) -> None:
        for number in count(1):
            await tell(connection, **PRICE, sequence=number, seq=number)
            await asyncio.sleep(0.005)

    async with faulty_server(talk) as url, asyncio.timeout(60):
        client = Client(url, connect_timeout=1, queue_size=4)
        with pytest.raises(ConnectError, match="did not greet within 1 s"):
            await client.open()
        await client.close()


async def test_what_waits_is_sent_once_more_however_often_the_server_has_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "_ASK_AGAIN_SECONDS", 0.05)
    requests: list[Any] = []

    async def talk(connection: ServerConnection) -> None:
        await tell(connection, **GREETING)
        async for text in connection:
            request = json.loads(text)
            requests.append(request["type"])
            if request["type"] == "ping":
                await tell(connection, type="pong", id=request["id"])
            elif len(requests) == 1:
                for _ in range(20):
                    await tell(connection, type="error", code="RATE_LIMIT_EXCEEDED", message="too many")
            else:
                targets = {"subscription_type": "stock", "targets": request["targets"]}
                await tell(connection, type="subscribed", id=request["id"], **targets)

    async with faulty_server(talk) as url, Client(url, request_timeout=60) as client:
        assert (await client.subscribe("stock", ["A"])).targets == ["A"]
        await client.ping()
    assert requests == ["subscribe", "subscribe", "ping"]


@pytest.mark.parametrize("rejected", ["abc", None, [5], [{"target": "A"}]])
async def test_an_error_whose_details_make_no_sense_is_an_error(rejected: object) -> None:
    async def talk(connection: ServerConnection) -> None:
        await tell(connection, **GREETING)
        async for text in connection:
            number = json.loads(text)["id"]
            details = {"rejected": rejected}
            failed = {"type": "error", "code": "SUBSCRIPTION_FAILED", "message": "no"}
            await tell(connection, **failed, details=details, id=number)

    async with faulty_server(talk) as url, Client(url, request_timeout=60) as client:
        with pytest.raises(RequestError, match="no") as caught:
            await client.subscribe("stock", ["A"])
        assert caught.value.details == {"rejected": rejected}
