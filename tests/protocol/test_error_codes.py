"""Every error code and every close code of the tables, provoked over a real socket.

One provocation stands for each member; a new one without is a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import jwt
import msgspec
import pytest
from structlog.testing import capture_logs

from fastws.auth import AuthError
from fastws.errors import CloseCode, ErrorCode
from fastws.logs import limiter
from fastws.server.asyncapi import document
from fastws.server.server import Server as Embedded
from fastws.settings import Settings
from tests.clients import Client, Message, client
from tests.conftest import StartServer
from tests.contract import Contract
from tests.rawclient import ABNORMAL, BINARY, CLOSE, TEXT, RawClient, frame
from tests.serving import Server, until

SECRET = "a secret of more than thirty-two bytes"
ADMIN = "the administrator"
CONTRACT = Contract(json.loads(msgspec.json.encode(document())))


def token(sub: str = "user-123", **claims: Any) -> str:
    return jwt.encode({"sub": sub, "exp": time.time() + 3600, **claims}, SECRET, "HS256")


class Servers:
    """The servers that provocations need, each started when it is first asked for."""

    def __init__(self, start: StartServer) -> None:
        self._start = start

    @property
    def usual(self) -> Server:
        return self._start(
            "--feed",
            "none",
            jwt_secret=SECRET,
            admin_token=ADMIN,
            subscription_limit=3,
            connections_per_user=1,
        )

    @property
    def strict(self) -> Server:
        """Nobody without a token, and nobody who asks for nothing."""
        return self._start("--feed", "none", jwt_secret=SECRET, allow_anonymous="false", idle_timeout=1.5)

    @property
    def busy(self) -> Server:
        """Who does not take what comes is soon over the hard cap."""
        return self._start(
            "--feed",
            "sim",
            simulator_rate=5000,
            outbox_soft_bytes=65536,
            outbox_hard_bytes=65536,
            stall_timeout=2,
        )

    @property
    def ending(self) -> Server:
        """For one test only, which ends it."""
        return self._start("--feed", "none", shutdown_spread=0.5)


@pytest.fixture
def servers(shared_server: StartServer) -> Servers:
    return Servers(shared_server)


class Faulty:
    """Stands in for a part of a server and has a programming error in every method but these."""

    def __init__(self, *, verifies: bool = False) -> None:
        self.verifies = verifies

    def verify(self, token: str) -> None:
        if self.verifies:
            raise AuthError("unavailable")
        raise ZeroDivisionError("a fault of the server")

    def asks(self, token: str) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError("a fault of the server")


@contextlib.asynccontextmanager
async def embedded() -> AsyncIterator[tuple[Embedded, str]]:
    """A server inside this process, as an application has one, so that a part of it can be made to fail."""
    server = Embedded(Settings(port=0, jwt_secret=SECRET, shutdown_spread=0))
    await server.start()
    try:
        yield server, f"ws://127.0.0.1:{server.listener.port}/v1/ws"
    finally:
        await server.stop()


async def refusal(connection: Client) -> Message:
    """The next error, checked against the contract."""
    while True:
        message: Message = CONTRACT.check(await connection.receive_text())
        if message["type"] == "error":
            return message


# Error codes: the error that came, and the code that the connection was closed with after it, None: it goes on.

Refused = tuple[Message, int | None]


async def goes_on(connection: Client) -> Refused:
    error = await refusal(connection)
    await connection.sync()
    return error, None


async def ends(connection: Client) -> Refused:
    error = await refusal(connection)
    return error, await connection.closed()


async def invalid_message(servers: Servers) -> Refused:
    async with client(servers.usual.url) as connection:
        await connection.send(type="nonsense")
        return await goes_on(connection)


async def invalid_token(servers: Servers) -> Refused:
    async with client(f"{servers.usual.url}?token={token(exp=1)}", greeted=False) as connection:
        return await ends(connection)


async def subscription_failed(servers: Servers) -> Refused:
    async with client(servers.usual.url) as connection:
        await connection.subscribe("stock", "nowhere")
        return await goes_on(connection)


async def rate_limit_exceeded(servers: Servers) -> Refused:
    async with client(servers.usual.url) as connection:
        for _ in range(200):
            await connection.send(type="ping")
        error = await refusal(connection)
        # The bucket fills again.
        await asyncio.sleep(0.2)
        await connection.sync()
        return error, None


async def session_restoration_failed(servers: Servers) -> Refused:
    async with client(f"{servers.usual.url}?session_id=nobodys") as connection:
        return await goes_on(connection)


async def token_refresh_error(servers: Servers) -> Refused:
    async with client(f"{servers.usual.url}?token={token()}") as connection:
        await connection.send(type="refresh_token", token=token("somebody else"))
        return await goes_on(connection)


async def auth_required(servers: Servers) -> Refused:
    async with client(servers.strict.url) as connection:
        await connection.subscribe("stock", "005930")
        return await goes_on(connection)


async def forbidden(servers: Servers) -> Refused:
    async with client(f"{servers.usual.url}?token={token(topics=[])}") as connection:
        await connection.subscribe("stock", "005930")
        return await goes_on(connection)


async def limit_exceeded(servers: Servers) -> Refused:
    async with client(servers.usual.url) as connection:
        await connection.subscribe("stock", "005930", "000660", "AAPL")
        await connection.subscribe("stock", "MSFT")
        return await goes_on(connection)


async def internal_error(servers: Servers) -> Refused:
    async with embedded() as (server, url), client(url) as connection:
        server.targets.market = Faulty()  # type: ignore[assignment]
        await connection.subscribe("stock", "005930")
        return await ends(connection)


ERRORS: dict[ErrorCode, Callable[[Servers], Awaitable[Refused]]] = {
    ErrorCode.INVALID_MESSAGE: invalid_message,
    ErrorCode.INVALID_TOKEN: invalid_token,
    ErrorCode.SUBSCRIPTION_FAILED: subscription_failed,
    ErrorCode.RATE_LIMIT_EXCEEDED: rate_limit_exceeded,
    ErrorCode.SESSION_RESTORATION_FAILED: session_restoration_failed,
    ErrorCode.TOKEN_REFRESH_ERROR: token_refresh_error,
    ErrorCode.AUTH_REQUIRED: auth_required,
    ErrorCode.FORBIDDEN: forbidden,
    ErrorCode.LIMIT_EXCEEDED: limit_exceeded,
    ErrorCode.INTERNAL_ERROR: internal_error,
}


@pytest.mark.parametrize("code", ErrorCode)
async def test_every_error_code_can_be_had(servers: Servers, code: ErrorCode) -> None:
    error, closed_with = await ERRORS[code](servers)
    assert list(error)[:6] == ["type", "code", "error_code", "message", "details", "timestamp"]
    assert (error["code"], error["error_code"]) == (code, code)
    assert error["message"].strip()
    assert set(error["details"]) <= set(code.details)
    # A fault has no reason to tell; an outage of the application has.
    assert bool(error["details"]) == bool(code.details) or code is ErrorCode.INTERNAL_ERROR
    assert closed_with in (None, code.closes)


# Close codes.


def read_close(server: Server, *frames: bytes) -> int:
    """The code that a connection is closed with that sends `frames`."""
    with server.raw_client() as raw:
        raw.send(b"".join(frames))
        return raw.read_close_code()


def sending(*frames: bytes) -> Callable[[Servers], Awaitable[int]]:
    async def provoke(servers: Servers) -> int:
        return await asyncio.to_thread(read_close, servers.usual, *frames)

    return provoke


async def internal_failure(servers: Servers) -> int:
    _, code = await internal_error(servers)
    assert code is not None
    return code


async def restart(servers: Servers) -> int:
    server = servers.ending
    async with client(server.url) as connection:
        server.signal(signal.SIGTERM)
        return await connection.closed()


async def bad_token(servers: Servers) -> int:
    async with client(f"{servers.usual.url}?token=junk", greeted=False) as connection:
        return await connection.closed()


async def lesser_token(servers: Servers) -> int:
    async with client(f"{servers.usual.url}?token={token()}") as connection:
        await connection.subscribe("stock", "005930", "000660")
        await connection.send(type="refresh_token", token=token(topics=["stock:005930"]))
        error = await refusal(connection)
        assert error["code"] == "FORBIDDEN"
        assert error["details"] == {"rejected": [{"target": "000660", "reason": "forbidden"}]}
        return await connection.closed()


async def slow_consumer(servers: Servers) -> int:
    """What the client sees is mostly 1006: it has not read what comes before a close frame."""

    def listen() -> int:
        server = servers.busy
        with server.raw_client(receive_buffer=4096) as raw:
            raw.send_message(type="subscribe", subscription_type="stock", targets=["005930", "000660"])
            until(lambda: server.stats()["active_connections"] == 0, "the end of who reads nothing", 30)
            (code,) = server.stats()["closes"]
            assert raw.read_close_code() in (int(code), ABNORMAL)
        return int(code)

    return await asyncio.to_thread(listen)


async def idle(servers: Servers) -> int:
    async with client(servers.strict.url) as connection:
        return await connection.closed()


async def replaced(servers: Servers) -> int:
    """A client that answers no ping loses its session to one that comes for it."""
    server = servers.usual

    def hold() -> tuple[RawClient, str]:
        raw = server.raw_client()
        return raw, raw.read_message()["connection_id"]

    raw, session_id = await asyncio.to_thread(hold)
    with raw:
        await asyncio.to_thread(
            raw.send_message, type="subscribe", subscription_type="stock", targets=["AAPL"]
        )
        await asyncio.to_thread(raw.read_message)
        async with client(f"{server.url}?session_id={session_id}") as connection:
            assert (await connection.receive())["type"] == "reconnected"
        return await asyncio.to_thread(raw.read_close_code)


async def too_many(servers: Servers) -> int:
    url = f"{servers.usual.url}?token={token('many')}"
    async with client(url), client(url, greeted=False) as second:
        assert (await refusal(second))["code"] == "LIMIT_EXCEEDED"
        return await second.closed()


CLOSES: dict[CloseCode, Callable[[Servers], Awaitable[int]]] = {
    # These two are said by clients, and come back.
    CloseCode.NORMAL: sending(frame(CLOSE, b"\x03\xe8")),
    CloseCode.GOING_AWAY: sending(frame(CLOSE, b"\x03\xe9")),
    CloseCode.PROTOCOL_ERROR: sending(frame(TEXT, b"{}", mask=None)),
    CloseCode.UNSUPPORTED_DATA: sending(frame(BINARY, b"{}")),
    CloseCode.INVALID_TEXT: sending(frame(TEXT, b"\xff")),
    CloseCode.TOO_BIG: sending(frame(TEXT, b"x" * 65_537)),
    CloseCode.INTERNAL_ERROR: internal_failure,
    CloseCode.RESTART: restart,
    CloseCode.TOKEN_INVALID: bad_token,
    CloseCode.FORBIDDEN: lesser_token,
    CloseCode.SLOW_CONSUMER: slow_consumer,
    CloseCode.IDLE: idle,
    CloseCode.REPLACED: replaced,
    CloseCode.RATE_ABUSE: too_many,
}


@pytest.mark.parametrize("code", CloseCode)
async def test_every_close_code_can_be_had(servers: Servers, code: CloseCode) -> None:
    assert await CLOSES[code](servers) == code


# Faults of the server.


@pytest.mark.parametrize("place", ["request", "handshake", "handshake that waits", "token that waits"])
async def test_a_fault_is_logged_once_and_costs_one_connection(place: str) -> None:
    limiter._written.clear()
    async with embedded() as (server, url), client(url) as connection, client(url) as other:
        if place == "request":
            server.targets.market = Faulty()  # type: ignore[assignment]
        else:
            server.admission.credentials.authenticator = Faulty(verifies="waits" in place)  # type: ignore[assignment]
        with capture_logs() as lines:
            if "handshake" in place:
                async with client(f"{url}?token=x", greeted=False) as newcomer:
                    error, code = await ends(newcomer)
            else:
                if place == "request":
                    await connection.subscribe("stock", "AAPL", id=9)
                else:
                    await connection.send(type="auth", token="x", id=9)
                error, code = await ends(connection)
        assert (error["code"], code) == ("INTERNAL_ERROR", 1011)
        assert error.get("id") == (9 if place == "request" else None)
        assert "ZeroDivisionError" not in json.dumps(error)
        (line,) = [line for line in lines if line["log_level"] == "error"]
        assert line["event"] == "a request failed"
        assert line["request"] == {"request": "subscribe", "handshake": "handshake"}.get(place, "admission")
        assert line["exc_info"]
        # The server lives, and so do the others.
        await other.sync()


async def test_a_session_is_restored_only_as_far_as_the_new_token_allows(servers: Servers) -> None:
    async with client(f"{servers.usual.url}?token={token('heir')}") as connection:
        await connection.subscribe("stock", "005930", "000660")
        await connection.until_snapshot()
        session_id = connection.greeting["connection_id"]
    lesser = token("heir", topics=["stock:005930"])
    async with client(f"{servers.usual.url}?session_id={session_id}&token={lesser}") as connection:
        answer = await connection.until_type("reconnected")
        assert answer["restored_subscriptions"] == {"stock": ["005930"]}
        await connection.send(type="list_subscriptions")
        assert (await connection.until_type("subscriptions"))["subscriptions"] == {"stock": ["005930"]}


async def test_the_id_of_a_request_is_on_its_error(servers: Servers) -> None:
    async with client(servers.usual.url) as connection:
        for request in (
            {"type": "nonsense"},
            {"type": "subscribe", "subscription_type": "stock", "targets": ["nowhere"]},
            {"type": "reconnect", "session_id": "nobodys"},
            {"type": "auth", "token": "junk"},
            {"type": "refresh_token", "token": "junk"},
        ):
            await connection.send(**request, id="mine")
            assert (await refusal(connection))["id"] == "mine"
