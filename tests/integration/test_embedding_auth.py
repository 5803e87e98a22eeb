"""Who clients of a server within a program are, by the word of a function of the program."""

from __future__ import annotations

import asyncio
from typing import Any

import jwt
import pytest
from aiohttp import ClientSession

import fastws


async def test_by_what_it_brings_over_both() -> None:
    asked: list[fastws.AuthRequest] = []

    async def who(request: fastws.AuthRequest) -> dict[str, object] | None:
        asked.append(request)
        key = request.headers.get("x-api-key") or request.query.get("key")
        if key == "over":
            raise fastws.AuthError("forbidden", "the subscription has ended")
        return {"user_id": "ann", "topics": ["stock:005930"]} if key == "good" else None

    async with (
        fastws.Server(port=0, authenticator=who, allow_anonymous=False) as server,
        ClientSession() as session,
        asyncio.timeout(20),
    ):
        server.hub.publish_price("005930", 71500)
        good = {"X-API-Key": "good"}
        async with session.ws_connect(server.url, headers=good) as socket:
            greeting = await socket.receive_json()
            assert (greeting["authenticated"], greeting["user_id"]) == (True, "ann")
            await socket.send_json({"type": "subscribe", "subscription_type": "stock", "targets": ["AAPL"]})
            assert (await socket.receive_json())["details"]["rejected"] == [
                {"target": "AAPL", "reason": "forbidden"}
            ]
        async with session.ws_connect(server.url + "?key=over") as socket:
            refusal = await socket.receive_json()
            assert (refusal["code"], refusal["message"]) == ("FORBIDDEN", "the subscription has ended")
            assert (await socket.receive()).data == 4403
        price = f"{server.http_url}/v1/stocks/005930"
        for headers, status in ((good, 200), ({}, 401), ({"X-API-Key": "over"}, 403)):
            async with session.get(price, headers=headers) as answer:
                assert answer.status == status
        async with session.get(f"{server.http_url}/v1/stocks/AAPL", headers=good) as answer:
            assert answer.status == 403
    assert [request.path for request in asked] == ["/v1/ws"] * 2 + ["/v1/stocks/005930"] * 3 + [
        "/v1/stocks/AAPL"
    ]
    assert {request.address for request in asked} == {"127.0.0.1"}
    assert not any(request.token for request in asked)


async def test_tokens_that_only_it_can_read() -> None:
    def who(request: fastws.AuthRequest) -> str | None:
        if request.token not in (None, "opaque-ann", "opaque-bob"):
            raise fastws.AuthError("refused", "there is no such session")
        return request.token and request.token.removeprefix("opaque-")

    async with (
        fastws.Server(port=0, authenticator=who) as server,
        ClientSession() as session,
        asyncio.timeout(20),
    ):
        async with session.ws_connect(server.url + "?token=opaque-ann") as socket:
            assert (await socket.receive_json())["user_id"] == "ann"
            await socket.send_json({"type": "refresh_token", "token": "wrong"})
            refusal = await socket.receive_json()
            assert (refusal["code"], refusal["message"]) == (
                "TOKEN_REFRESH_ERROR", "there is no such session",
            )  # fmt: skip
        async with session.ws_connect(server.url) as socket:
            assert (await socket.receive_json())["authenticated"] is False
            await socket.send_json({"type": "auth", "token": "opaque-bob"})
            assert (await socket.receive_json())["user_id"] == "bob"


async def test_a_token_that_can_be_verified_needs_nobodys_word() -> None:
    def who(request: fastws.AuthRequest) -> str:
        return "by word"

    secret = "s" * 32
    token = jwt.encode({"sub": "by token"}, secret)
    async with (
        fastws.Server(port=0, authenticator=who, jwt_secret=secret) as server,
        ClientSession() as session,
        asyncio.timeout(20),
    ):
        for query, user_id in ((f"?token={token}", "by token"), ("", "by word")):
            async with session.ws_connect(server.url + query) as socket:
                assert (await socket.receive_json())["user_id"] == user_id


async def test_one_that_takes_too_long_refuses_the_one_client() -> None:
    async def who(request: fastws.AuthRequest) -> str:
        await asyncio.Event().wait()
        return "nobody"

    async with (
        fastws.Server(port=0, authenticator=who, auth_url_timeout=0.05) as server,
        ClientSession() as session,
        asyncio.timeout(20),
        session.ws_connect(server.url) as socket,
    ):
        assert (await socket.receive_json())["code"] == "INTERNAL_ERROR"
        assert (await socket.receive()).data == 1011


@pytest.mark.parametrize("authenticator", [3, "module:function", lambda: "ann"])
def test_what_is_none(authenticator: Any) -> None:
    with pytest.raises(fastws.SettingsError, match=r"^authenticator: "):
        fastws.Server(port=0, authenticator=authenticator)


def test_what_it_does_not_go_with() -> None:
    def who(request: fastws.AuthRequest) -> None:
        return None

    with pytest.raises(fastws.SettingsError, match=r"^auth_url: "):
        fastws.Server(port=0, authenticator=who, auth_url="http://127.0.0.1:1/who")
    with pytest.raises(fastws.SettingsError, match=r"^allowed_origins: "):
        fastws.Server(port=0, authenticator=who, allowed_origins=["*"])
