"""Messages of types that a program adds to those of `/v1/ws`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse

import fastws


@pytest.fixture
async def server() -> AsyncIterator[fastws.Server]:
    async with fastws.Server(port=0, authenticator=lambda request: request.token) as server:
        yield server


@pytest.fixture
async def socket(server: fastws.Server) -> AsyncIterator[ClientWebSocketResponse]:
    async with (
        asyncio.timeout(20),
        ClientSession() as session,
        session.ws_connect(server.url + "?token=ann") as socket,
    ):
        await socket.receive_json()
        yield socket


async def ask(socket: ClientWebSocketResponse, **message: Any) -> dict[str, Any]:
    await socket.send_json(message)
    answer: dict[str, Any] = await socket.receive_json()
    return answer


async def test_one_is_answered_with_its_id(server: fastws.Server, socket: ClientWebSocketResponse) -> None:
    seen = []

    def quote(caller: fastws.Caller, message: dict[str, Any]) -> dict[str, Any]:
        seen.append((caller.user_id, caller.address, caller.is_open, message))
        return {"type": "quote", "price": 71500}

    server.hub.answer("get_quote", quote)
    assert await ask(socket, type="get_quote", code="005930", id=7) == {
        "type": "quote",
        "price": 71500,
        "id": 7,
    }
    assert await ask(socket, type="get_quote") == {"type": "quote", "price": 71500}
    assert seen[0] == ("ann", "127.0.0.1", True, {"type": "get_quote", "code": "005930", "id": 7})
    # The others are as they were.
    assert (await ask(socket, type="ping"))["type"] == "pong"
    assert (await ask(socket, type="get_quotes", id=8))["code"] == "INVALID_MESSAGE"
    assert (await ask(socket, type=["get_quote"]))["code"] == "INVALID_MESSAGE"


async def test_messages_wait_for_one_that_waits(
    server: fastws.Server, socket: ClientWebSocketResponse
) -> None:
    gate = asyncio.Event()
    callers = []

    async def look_up(caller: fastws.Caller, message: dict[str, Any]) -> dict[str, Any]:
        callers.append(caller)
        await gate.wait()
        return {"type": "found", "n": message["n"]}

    server.hub.answer("look_up", look_up)
    for n in range(3):
        await socket.send_json({"type": "look_up", "n": n})
    await socket.send_json({"type": "ping"})
    async with asyncio.timeout(20):
        while not callers:
            await asyncio.sleep(0.001)
    # By the program itself, in the meantime and later.
    assert callers[0].send({"type": "news"})
    assert (await socket.receive_json())["type"] == "news"
    gate.set()
    assert [(await socket.receive_json()).get("n") for _ in range(4)] == [0, 1, 2, None]
    await socket.close()
    async with asyncio.timeout(20):
        while callers[0].is_open:
            await asyncio.sleep(0.001)
    assert not callers[0].send({"type": "news"})


async def test_what_a_handler_raises(server: fastws.Server, socket: ClientWebSocketResponse) -> None:
    def refuse(caller: fastws.Caller, message: dict[str, Any]) -> None:
        raise ValueError("code: there is no such stock")

    async def refuse_later(caller: fastws.Caller, message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        raise ValueError("later")

    async def fail(caller: fastws.Caller, message: dict[str, Any]) -> None:
        raise KeyError("table")

    for kind, handler in (("refuse", refuse), ("refuse_later", refuse_later), ("fail", fail)):
        server.hub.answer(kind, handler)
    refusal = await ask(socket, type="refuse", id="a")
    assert (refusal["code"], refusal["message"], refusal["id"]) == (
        "INVALID_MESSAGE", "code: there is no such stock", "a",
    )  # fmt: skip
    assert (await ask(socket, type="refuse_later"))["message"] == "later"
    assert (await ask(socket, type="fail"))["code"] == "INTERNAL_ERROR"
    assert (await socket.receive()).data == 1011


async def test_who_has_to_bring_a_token_is_not_heard_before() -> None:
    secret = "s" * 32
    async with (
        asyncio.timeout(20),
        fastws.Server(port=0, allow_anonymous=False, jwt_secret=secret) as server,
        ClientSession() as session,
        session.ws_connect(server.url) as socket,
    ):
        server.hub.answer("get_quote", lambda caller, message: {"type": "quote"})
        await socket.receive_json()
        assert (await ask(socket, type="get_quote"))["code"] == "AUTH_REQUIRED"


@pytest.mark.parametrize("kind", ["subscribe", "ping", "auth", "", "taken"])
async def test_types_that_cannot_be_added(server: fastws.Server, kind: str) -> None:
    server.hub.answer("taken", lambda caller, message: None)
    with pytest.raises(ValueError, match=r"^type: "):
        server.hub.answer(kind, lambda caller, message: None)
