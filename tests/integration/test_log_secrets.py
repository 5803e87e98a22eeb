"""Whatever is done to a server that logs everything: no token, secret or session id is in what it writes."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from tests.clients import client
from tests.conftest import StartServer
from tests.rawclient import upgrade_head
from tests.serving import Server, until

SECRET = "5ecret-of-the-tokens-which-nobody-may-ever-see"
PREVIOUS = "5ecret-of-the-tokens-before-the-last-change"
ADMIN = "5ecret-of-the-administrator"


class Secrets:
    """Everything that must not be written, as it is made."""

    def __init__(self) -> None:
        self.all: set[str] = {SECRET, PREVIOUS, ADMIN}

    def token(self, sub: str = "alice", *, key: str = SECRET, **claims: Any) -> str:
        made = jwt.encode(
            {"sub": sub, "exp": time.time() + 600, "jti": f"id of {sub}", **claims}, key, "HS256"
        )
        return self.note(made)

    def note(self, token: str) -> str:
        # Each part on its own: a log that cuts a token short has its signature all the same.
        self.all |= {token, *(part for part in token.split(".") if len(part) > 8)}
        return token

    def session(self, session_id: str) -> str:
        self.all.add(session_id)
        return session_id

    def found_in(self, text: str) -> list[str]:
        return [secret for secret in self.all if secret in text]


def ask(server: Server, method: str, path: str, bearer: str, body: object = None) -> tuple[int, Any]:
    connection = server.http_connection()
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Authorization": f"Bearer {bearer}"})
        response = connection.getresponse()
        answer = response.read()
        return response.status, json.loads(answer) if answer else None
    finally:
        connection.close()


async def connect_in_every_way(server: Server, token: str, secrets: Secrets) -> None:
    for url, options in (
        (server.url, {"additional_headers": {"Authorization": f"Bearer {token}"}}),
        (server.url, {"subprotocols": ["fastws", f"bearer.{token}"]}),
        (f"{server.url}?token={token}", {}),
        (f"{server.url}?session_id={secrets.session('no-session-at-all')}&token={token}&epoch={token}", {}),
    ):
        async with client(url, greeted=False, **options) as connection:
            first = await connection.receive()
            if first["type"] == "connection":
                secrets.session(first["connection_id"])
    async with client(server.url) as connection:
        secrets.session(connection.greeting["connection_id"])
        for message in (
            {"type": "auth", "token": token},
            {"type": "refresh_token", "token": token},
            {"type": "auth", "token": [token]},
            {"type": token},
            {"type": "subscribe", "subscription_type": token, "targets": [token]},
            {"type": "subscribe", "subscription_type": "stock", "targets": [token[:64]]},
            {"type": "reconnect", "session_id": token[:64]},
        ):
            await connection.send(**message)
            await connection.receive()
        await connection.connection.send(json.dumps({"type": "auth", "token": token})[:-2])
        await connection.sync()


async def live(server: Server, secrets: Secrets) -> None:
    """A session with all that tokens are for, which is cut, restored, and ended by the administrator."""
    token = secrets.token()
    async with client(f"{server.url}?token={token}") as connection:
        session_id = secrets.session(connection.greeting["connection_id"])
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
        await connection.send(type="refresh_token", token=secrets.token(exp=time.time() + 700))
        await connection.until_type("token_refreshed")
        await connection.send(type="refresh_token", token=secrets.token("bob"))
        await connection.until_type("error")
        connection.connection.transport.abort()
    async with client(f"{server.url}?session_id={session_id}&token={token}") as connection:
        await connection.until_type("reconnected")
        await asyncio.to_thread(administer, server, secrets, token)
        await connection.until_type("alert")
        assert (
            await asyncio.to_thread(
                ask, server, "POST", "/v1/admin/kick", ADMIN, {"connection_id": session_id}
            )
        )[1] == {"closed": 1}
        assert await connection.closed() == 4401
    async with client(f"{server.url}?token={secrets.token('carol', exp=time.time() + 1.2)}") as connection:
        assert await connection.closed() == 4401


def administer(server: Server, secrets: Secrets, token: str) -> None:
    rule = {"code": "005930", "alert_type": "price_above", "threshold": 1}
    assert ask(server, "POST", "/v1/alerts", token, rule)[0] == 201
    assert ask(server, "GET", f"/v1/alerts?token={token}", token)[0] == 200
    assert ask(server, "POST", "/v1/alerts", token, {"code": token})[0] == 400
    assert ask(server, "DELETE", f"/v1/alerts/{token}", token)[0] == 404
    price = {"type": "price_update", "code": "005930", "price": 73000}
    assert ask(server, "POST", "/v1/publish", ADMIN, price)[0] == 202
    assert ask(server, "POST", "/v1/publish", ADMIN, price | {"code": token})[0] == 400
    assert ask(server, "POST", "/v1/publish", token, price)[0] == 401
    status, listed = ask(server, "GET", "/v1/ws/connections", ADMIN)
    assert status == 200
    for item in listed:
        secrets.session(item["connection_id"])
    assert ask(server, "POST", "/v1/admin/kick", ADMIN, {"jti": "id of dave"})[1] == {"closed": 0}
    for bearer in (token, secrets.token(key=PREVIOUS)):
        assert ask(server, "GET", "/api/v1/users/me", bearer)[0] == 200
    for bearer in (secrets.token(exp=1), ADMIN):
        assert ask(server, "GET", "/api/v1/users/me", bearer)[0] == 401
    assert ask(server, "GET", f"/nothing/{token}?token={token}", ADMIN)[0] == 404


def malform(server: Server, token: str) -> None:
    """Heads and bodies that are wrong, with tokens in all places."""
    path = f"/v1/ws?token={token}"
    for head in (
        upgrade_head(path, sec_websocket_key="short"),
        upgrade_head(path, origin="https://elsewhere.example", authorization=f"Bearer {token}"),
        upgrade_head(path, sec_websocket_version="8"),
        upgrade_head(path, sec_websocket_protocol=f"bearer.{token},,\x01"),
        upgrade_head(f"/{token}"),
        f"GET {path} HTTP/9.9\r\n\r\n".encode(),
        f"GET {path} {token}\r\n\r\n".encode(),
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization Bearer {token}\r\n\r\n".encode(),
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n".encode() + b"X: y\r\n" * 5000,
        f"POST /v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
        f"Transfer-Encoding: chunked\r\n\r\n{token}\r\n\r\n".encode(),
        f"POST /v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN}\r\n"
        f"Content-Length: {token}\r\n\r\n".encode(),
    ):
        with server.raw_client(handshake=False) as raw:
            raw.send_as_far_as_possible(head)
            status, _, _ = raw.read_response()
            assert status == 0 or status >= 400
    with server.raw_client(handshake=False) as raw:
        # An end in the middle of everything.
        raw.send(f"GET {path} HTTP/1.1\r\nAuthorization: Bearer {token}".encode())
        raw.reset()


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_nothing_secret_is_logged(server: StartServer, log_format: str) -> None:
    target = server(
        "--feed", "none", "--log-level", "debug",
        log_format=log_format, jwt_secret=SECRET, jwt_previous_secret=PREVIOUS, admin_token=ADMIN,
    )  # fmt: skip
    secrets = Secrets()
    makers: list[Callable[[], str]] = [
        secrets.token,
        lambda: secrets.token(key=PREVIOUS),
        lambda: secrets.token(key="5ecret-of-somebody-else, which is long enough"),
        lambda: secrets.token(exp=1),
        lambda: secrets.token(nbf=time.time() + 600),
        lambda: secrets.token(aud="another"),
        lambda: secrets.note(jwt.encode({"sub": "alice"}, None, "none")),
        lambda: secrets.note("no-token-but-who-knows.what-it-is.really"),
    ]
    for make in makers:
        await connect_in_every_way(target, make(), secrets)
    await live(target, secrets)
    for make in (secrets.token, lambda: secrets.token(exp=1)):
        await asyncio.to_thread(malform, target, make())
    async with client(f"{target.url}?token={secrets.token('erin')}") as connection:
        session_id = secrets.session(connection.greeting["connection_id"])
        target.signal(signal.SIGTERM)
        assert await connection.closed() == 1012
    await asyncio.to_thread(target.wait)
    log = target.log
    assert secrets.found_in(log) == []
    # It was all written: the end of each connection by the beginning of its id, which is no secret, and the stop.
    until(lambda: session_id[:8] in target.log, "the last connection in the log")
    assert log.count("connection ended") + log.count("connection closed") > 12
    assert all(text in log for text in ("4401", "origin refused", "stopped"))


def test_what_is_looked_for_would_be_found() -> None:
    secrets = Secrets()
    token = secrets.token()
    for text in (f"GET /v1/ws?token={token}", f"…{token.rpartition('.')[2]}", ADMIN):
        assert secrets.found_in(f"a line with {text} in it")
