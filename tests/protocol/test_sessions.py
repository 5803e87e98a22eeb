"""Tokens, limits per user and restored sessions over real sockets (WIRE sections 2, 5 and 7)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import time
from typing import Any

import jwt
import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.clients import Client, client, updates
from tests.conftest import StartServer
from tests.rawclient import RawClient, upgrade_head
from tests.serving import Server

SECRET = "a secret of more than thirty-two bytes"
FAST = ("--feed", "sim", "--simulator-rate", "2000")
SETTINGS = {"jwt_secret": SECRET, "rate_limit": 0, "simulator_opening_burst": 1}


def token(sub: str | int = "user-123", seconds: float | None = 3600, **claims: Any) -> str:
    if seconds is not None:
        claims["exp"] = time.time() + seconds
    return jwt.encode({"sub": sub, **claims}, SECRET, "HS256")


@pytest.fixture
def target(shared_server: StartServer, over: dict[str, str]) -> Server:
    return shared_server(*FAST, **SETTINGS, **over)


# Tokens.


@pytest.mark.parametrize("way", ["header", "subprotocol", "query"])
async def test_a_token_comes_with_the_handshake(target: Server, way: str) -> None:
    given: dict[str, Any] = {}
    url = target.url
    if way == "header":
        given["additional_headers"] = {"Authorization": f"Bearer {token()}"}
    elif way == "subprotocol":
        given["subprotocols"] = ["fastws", f"bearer.{token()}"]
    else:
        url += f"?token={token()}"
    async with client(url, **given) as connection:
        assert connection.greeting["authenticated"] is True
        assert connection.greeting["user_id"] == "user-123"
        if way == "subprotocol":
            assert connection.connection.subprotocol == "fastws"


@pytest.mark.parametrize("absent", ["undefined", "null", ""])
async def test_literals_of_pages_without_a_token_count_as_absent(target: Server, absent: str) -> None:
    async with client(f"{target.url}?token={absent}&session_id={absent}") as connection:
        assert connection.greeting["authenticated"] is False
        await connection.send(type="ping")
        assert (await connection.receive())["type"] == "pong"


async def test_an_integer_sub_is_shown_as_it_came(target: Server) -> None:
    async with client(f"{target.url}?token={token_with_number(7)}") as connection:
        assert connection.greeting["user_id"] == 7


def token_with_number(sub: int) -> str:
    # PyJWT insists on a text when it encodes claims.
    return jwt.api_jws.encode(json.dumps({"sub": sub}).encode(), SECRET, "HS256")


BAD = {
    "signature": lambda: jwt.encode({"sub": "a"}, SECRET + "x", "HS256"),
    "algorithm": lambda: jwt.encode({"sub": "a"}, None, "none"),
    "expired": lambda: token(seconds=-1),
    "not_yet_valid": lambda: token(nbf=time.time() + 60),
    "malformed": lambda: "not.a.token",
    "claim": lambda: jwt.encode({"name": "a"}, SECRET, "HS256"),
}


@pytest.mark.parametrize("reason", sorted(BAD))
async def test_a_bad_token_is_told_and_closed(target: Server, reason: str) -> None:
    text = BAD[reason]()
    async with client(f"{target.url}?token={text}", greeted=False) as connection:
        error = await connection.receive()
        assert (error["type"], error["code"]) == ("error", "INVALID_TOKEN")
        assert error["details"]["reason"] == reason
        with pytest.raises(ConnectionClosed) as closed:
            await connection.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
    assert text not in target.log


async def test_a_token_that_runs_out_closes_within_a_second(target: Server) -> None:
    async with client(f"{target.url}?token={token(seconds=1.2)}") as connection:
        began = time.monotonic()
        error = await connection.until_type("error")
        assert 0.9 < time.monotonic() - began < 2.2
        assert error["details"] == {"reason": "expired"}
        with pytest.raises(ConnectionClosed) as closed:
            await connection.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401


async def test_a_refreshed_token_extends_the_connection(target: Server) -> None:
    async with client(f"{target.url}?token={token(seconds=1.2)}") as connection:
        await connection.send(type="refresh_token", token=token(seconds=600), id=1)
        answer = await connection.receive()
        assert list(answer) == ["type", "expires_at", "timestamp", "id"]
        assert answer["type"] == "token_refreshed"
        await asyncio.sleep(1.5)
        await connection.send(type="ping")
        assert (await connection.receive())["type"] == "pong"
        for wrong, reason in (
            (token("somebody else"), "user"),
            ("junk", "malformed"),
            (token(seconds=-5), "expired"),
        ):
            await connection.send(type="refresh_token", token=wrong)
            error = await connection.receive()
            assert (error["code"], error["details"]["reason"]) == ("TOKEN_REFRESH_ERROR", reason)
        await connection.sync()


async def test_auth_sets_the_user_later(target: Server) -> None:
    async with client(target.url) as connection:
        await connection.send(type="auth", token=token("late", seconds=None), id="a")
        answer = await connection.receive()
        assert {key: answer[key] for key in ("type", "user_id", "expires_at", "id")} == {
            "type": "authenticated",
            "user_id": "late",
            "expires_at": None,
            "id": "a",
        }
        await connection.send(type="auth", token="junk")
        assert (await connection.receive())["code"] == "INVALID_TOKEN"
        await connection.sync()


async def test_a_token_may_limit_topics(target: Server) -> None:
    async with client(f"{target.url}?token={token(topics=['stock:005930', 'market:*'])}") as connection:
        await connection.subscribe("stock", "005930", "000660", channels=["orderbook"])
        answer = await connection.until_type("subscribed")
        assert answer["targets"] == ["005930"]
        assert answer["rejected"] == [{"target": "000660", "reason": "forbidden"}]
        await connection.subscribe("stock", "000660")
        assert (await connection.until_type("error"))["code"] == "FORBIDDEN"


async def test_a_user_has_so_many_connections(target: Server) -> None:
    url = f"{target.url}?token={token('many')}"
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(client(url))
        async with client(url, greeted=False) as sixth:
            error = await sixth.receive()
            assert error["code"] == "LIMIT_EXCEEDED"
            assert error["details"] == {"limit": 5, "current": 5}
            with pytest.raises(ConnectionClosed) as closed:
                await sixth.receive()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 4429


async def test_the_oldest_can_be_evicted_instead(server: StartServer) -> None:
    target = server(
        "--feed", "none", jwt_secret=SECRET, connections_per_user=1, on_connection_limit="evict_oldest"
    )
    url = f"{target.url}?token={token()}"
    async with client(url) as first, client(url) as second:
        error = await first.receive()
        assert (error["type"], error["code"]) == ("error", "LIMIT_EXCEEDED")
        assert error["details"] == {"limit": 1, "current": 1}
        assert "a newer one has replaced this one" in error["message"]
        with pytest.raises(ConnectionClosed) as closed:
            await first.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4429
        await second.sync()


async def test_without_anonymous_access_a_token_is_demanded(server: StartServer) -> None:
    target = server("--feed", "none", jwt_secret=SECRET, allow_anonymous="false", auth_timeout=1)
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        assert (await connection.receive())["code"] == "AUTH_REQUIRED"
        assert (await connection.receive())["code"] == "AUTH_REQUIRED"
        with pytest.raises(ConnectionClosed) as closed:
            await connection.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4401
    async with client(target.url) as connection:
        await connection.send(type="auth", token=token())
        assert (await connection.receive())["type"] == "authenticated"
        await connection.subscribe("stock", "005930")
        assert (await connection.receive())["type"] == "subscribed"


# Sessions.


class Stream:
    """What one client of several connections has got, and its cursor."""

    def __init__(self) -> None:
        self.next_seq: dict[tuple[str, str], int] = {}
        self.cursor = 0
        self.n_updates = 0

    def take(self, message: dict[str, Any]) -> None:
        if message.get("snapshot"):
            for update in message["messages"]:
                if "seq" in update:
                    self.next_seq[(update["code"], update["type"])] = update["seq"] + 1
        for update in updates(message):
            if "seq" in update:
                key = (update["code"], update["type"])
                assert update["seq"] == self.next_seq.get(key, update["seq"]), (key, update)
                self.next_seq[key] = update["seq"] + 1
                self.n_updates += 1
        self.cursor = max(self.cursor, message.get("sequence", 0))


async def test_every_update_comes_once_over_cut_connections(shared_server: StartServer) -> None:
    target = shared_server(*FAST, **SETTINGS)
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    stream = Stream()
    async with client(target.url) as connection:
        session_id = connection.greeting["connection_id"]
        await connection.subscribe("stock", "005930", "000660", "AAPL", "JPM", "247540")
        stream.take(await connection.until_snapshot())
        for _ in range(rng.randint(1, 40)):
            stream.take(await connection.receive())
        connection.connection.transport.abort()
    for cycle in range(25):
        await asyncio.sleep(rng.choice((0, 0.01, 0.1)))
        url = f"{target.url}?session_id={session_id}&last_sequence={stream.cursor}"
        async with client(url) as connection:
            assert connection.greeting["connection_id"] == session_id
            answer = await connection.receive()
            assert answer["type"] == "reconnected", answer
            assert answer["recovered"] is True, f"cycle {cycle}, seed {seed}"
            assert answer["restored_subscriptions"] == {
                "stock": ["005930", "000660", "AAPL", "JPM", "247540"]
            }
            for _ in range(rng.randint(1, 40)):
                stream.take(await connection.receive())
            connection.connection.transport.abort()
    assert stream.n_updates > 100


async def test_reconnect_takes_over_a_session_and_keeps_both_sets(target: Server) -> None:
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
        session_id = connection.greeting["connection_id"]
    async with client(target.url) as connection:
        await connection.subscribe("market", "NYSE")
        await connection.until_snapshot()
        await connection.send(type="reconnect", session_id=session_id, id=5)
        answer = await connection.until_type("reconnected")
        assert list(answer) == [
            "type", "session_id", "restored_subscriptions", "missed_messages_count", "recovered", "timestamp", "id",
        ]  # fmt: skip
        assert answer["restored_subscriptions"] == {"stock": ["005930"]}
        await connection.send(type="list_subscriptions")
        held = (await connection.until_type("subscriptions"))["subscriptions"]
        assert held == {"stock": ["005930"], "market": ["NYSE"]}
    # It ended under the id of the session that it took over.
    async with client(f"{target.url}?session_id={session_id}") as connection:
        assert (await connection.receive())["restored_subscriptions"] == held


@pytest.mark.parametrize("way", ["query", "message"])
async def test_a_session_that_cannot_be_had(target: Server, way: str) -> None:
    async with client(f"{target.url}?token={token('owner')}") as owner:
        await owner.subscribe("stock", "005930")
        await owner.until_snapshot()
        live_id = owner.greeting["connection_id"]
        async with client(f"{target.url}?token={token('owner')}") as gone:
            await gone.subscribe("stock", "005930")
            await gone.until_snapshot()
        gone_id = gone.greeting["connection_id"]
        reading = asyncio.create_task(_read(owner))
        for session_id, user, reason in (
            ("550e8400-e29b-41d4-a716-446655440000", "owner", "unknown"),
            (gone_id, "stranger", "forbidden"),
            (live_id, "stranger", "forbidden"),
            (live_id, "owner", "in_use"),
        ):
            query = f"?token={token(user)}" + (f"&session_id={session_id}" if way == "query" else "")
            async with client(target.url + query) as connection:
                if way == "message":
                    await connection.send(type="reconnect", session_id=session_id)
                assert connection.greeting["connection_id"] != session_id
                error = await connection.receive()
                assert error["code"] == "SESSION_RESTORATION_FAILED"
                assert error["details"] == {"reason": reason}
                await connection.sync()
        reading.cancel()


async def _read(connection: Client) -> None:
    while True:
        await connection.receive()


async def test_a_session_moves_from_a_connection_that_only_looks_alive(target: Server) -> None:
    def dead() -> tuple[RawClient, str]:
        raw = RawClient(target.port, tls=target.tls)
        greeting = raw.read_message()
        raw.send_message(type="subscribe", subscription_type="stock", targets=["005930"])
        return raw, greeting["connection_id"]

    raw, session_id = await asyncio.to_thread(dead)
    try:
        began = time.monotonic()
        async with client(f"{target.url}?session_id={session_id}") as connection:
            # What it says before it is known again is done after the greeting.
            assert connection.greeting["connection_id"] == session_id
            assert 0.9 < time.monotonic() - began < 3
            assert (await connection.receive())["type"] == "reconnected"
            stream = Stream()
            for _ in range(5):
                stream.take(await connection.receive())
        assert target.stats()["closes"].get("4410") == 1
    finally:
        raw.close()


async def test_a_cursor_of_another_epoch_is_not_recovered(target: Server) -> None:
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
    url = f"{target.url}?session_id={connection.greeting['connection_id']}&last_sequence=5&epoch=other"
    async with client(url) as connection:
        answer = await connection.receive()
        assert answer["recovered"] is False
        assert (await connection.receive()).get("snapshot") is True


@pytest.mark.parametrize("text", ["abc", "-1", "1.5", "%20", "1%00", "%EF%BC%91", "9" * 5000, "NaN"])
async def test_a_cursor_that_is_no_number_is_not_recovered(target: Server, text: str) -> None:
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
    session_id = connection.greeting["connection_id"]
    async with client(f"{target.url}?session_id={session_id}&last_sequence={text}") as connection:
        answer = await connection.receive()
        assert (answer["type"], answer["recovered"]) == ("reconnected", False)
        assert (await connection.receive()).get("snapshot") is True


@pytest.mark.parametrize("text", ["", "undefined", "null"])
async def test_without_a_cursor_a_session_goes_on_where_it_ended(target: Server, text: str) -> None:
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
    session_id = connection.greeting["connection_id"]
    async with client(f"{target.url}?session_id={session_id}&last_sequence={text}") as connection:
        answer = await connection.receive()
        assert (answer["type"], answer["recovered"]) == ("reconnected", True)
        # What the kernel took may not have come, and a client that does not count would never know.
        last = (await connection.until_snapshot())["messages"]
        assert {message["code"] for message in last} == {"005930"}


async def test_who_is_kicked_may_be_back_before_the_farewell(
    shared_server: StartServer, over: dict[str, str]
) -> None:
    target = shared_server(*FAST, **SETTINGS, admin_token="the administrator", **over)

    def kicked() -> tuple[RawClient, str]:
        raw = RawClient(target.port, handshake=False, tls=target.tls)
        raw.send(upgrade_head(f"/v1/ws?token={token('kim')}"))
        raw.read_response()
        session_id = raw.read_message()["connection_id"]
        raw.send_message(type="subscribe", subscription_type="stock", targets=["005930"])
        body = json.dumps({"user_id": "kim"}).encode()
        headers = {"Authorization": "Bearer the administrator"}
        assert target.get("/v1/admin/kick", "POST", body, headers)[0] == 200
        return raw, session_id

    raw, session_id = await asyncio.to_thread(kicked)
    try:
        url = f"{target.url}?session_id={session_id}&token={token('kim')}"
        async with client(url) as connection:
            assert connection.greeting["connection_id"] == session_id
            assert (await connection.receive())["restored_subscriptions"] == {"stock": ["005930"]}
    finally:
        raw.close()


async def test_a_session_is_taken_from_one_dead_connection_after_the_other(target: Server) -> None:
    def dead() -> tuple[list[RawClient], str]:
        first = RawClient(target.port, tls=target.tls)
        session_id = first.read_message()["connection_id"]
        first.send_message(type="subscribe", subscription_type="stock", targets=["005930"])
        # It comes for the session of the first, and is as dead when it has it.
        second = RawClient(target.port, handshake=False, tls=target.tls)
        second.send(upgrade_head(f"/v1/ws?session_id={session_id}"))
        second.read_response()
        return [first, second], session_id

    raws, session_id = await asyncio.to_thread(dead)
    try:
        async with client(f"{target.url}?session_id={session_id}") as connection:
            assert connection.greeting["connection_id"] == session_id
            assert (await connection.receive())["restored_subscriptions"] == {"stock": ["005930"]}
    finally:
        for raw in raws:
            raw.close()


async def test_saved_sessions_are_counted_and_end(server: StartServer) -> None:
    target = server("--feed", "none", session_ttl=0.3)
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
    deadline = time.monotonic() + 5
    while not target.stats()["saved_sessions"]:
        assert time.monotonic() < deadline
    await asyncio.sleep(0.4)
    async with client(f"{target.url}?session_id={connection.greeting['connection_id']}") as connection:
        assert (await connection.receive())["details"] == {"reason": "unknown"}
    assert target.stats()["saved_sessions"] == 0


async def test_a_planned_stop_spreads_the_clients(server: StartServer) -> None:
    target = server("--feed", "none", shutdown_spread=20)
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(client(target.url)) for _ in range(20)]
        target.signal(signal.SIGTERM)
        delays = []
        for connection in connections:
            message = await connection.until_type("server_shutdown")
            assert list(message) == ["type", "reconnect_after_ms", "timestamp"]
            delays.append(message["reconnect_after_ms"])
            assert await connection.closed() == 1012
        assert all(500 <= delay <= 20_500 for delay in delays)
        assert len(set(delays)) > 15


def test_an_oversized_token_is_refused_before_it_is_read(target: Server) -> None:
    with pytest.raises(InvalidHandshake):
        asyncio.run(_connect(f"{target.url}?token={'x' * 9000}"))


async def _connect(url: str) -> None:
    async with client(url):
        pass
