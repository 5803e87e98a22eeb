"""Sessions of an application, a real small HTTP service as Django would be, in handshakes of both dialects and HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from multidict import CIMultiDict
from realtime_site import Site, ask, get, serving, token

from fastws.errors import SettingsError
from fastws.server.reload import reload
from fastws.settings import Settings
from tests.clients import Client, client

ALICE = {"Cookie": "csrftoken=x; sessionid=alices-session"}


class App:
    """The application: its sessions, and how it behaves."""

    def __init__(self) -> None:
        self.sessions: dict[str, object] = {"alices-session": "alice", "mallorys-session": "mallory"}
        self.banned = {"mallory"}
        self.n_asked = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.status = 0

    async def whoami(self, request: web.Request) -> web.Response:
        self.n_asked += 1
        await self.answers.wait()
        if self.status:
            return web.Response(status=self.status, text="<html>")
        user_id = self.sessions.get(request.cookies.get("sessionid", ""))
        if request.headers.get("Authorization") == "Token bobs-key":
            user_id = "bob"
        if request.headers.get("Authorization") == "Bearer carols.key":
            user_id = "carol"
        if user_id is None:
            # As Django does to those who are not logged in: a new cookie for everybody.
            return web.json_response(
                {}, status=401, headers={"Set-Cookie": "sessionid=alices-session; Path=/"}
            )
        if user_id in self.banned:
            return web.json_response({}, status=403)
        return web.json_response({"user_id": user_id, "email": "a@example.com"})


@contextlib.asynccontextmanager
async def application() -> AsyncIterator[tuple[App, str]]:
    app = App()
    served = web.Application()
    served.router.add_get("/whoami", app.whoami)
    runner = web.AppRunner(served, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield app, f"http://127.0.0.1:{runner.addresses[0][1]}/whoami"
    finally:
        app.answers.set()
        await runner.cleanup()


@contextlib.asynccontextmanager
async def both(directory: Path, **settings: Any) -> AsyncIterator[tuple[Site, App]]:
    """A server whose users are the application's, and it alone knows them."""
    async with (
        application() as (app, url),
        serving(directory, **{"auth_url": url, "jwt_secret": None} | settings) as site,
    ):
        yield site, app


def joined(site: Site, path: str, headers: dict[str, str], *, greeted: bool = True, query: str = "") -> Any:
    offered = headers.get("Sec-WebSocket-Protocol", "")
    others = {name: value for name, value in headers.items() if name != "Sec-WebSocket-Protocol"}
    options: dict[str, Any] = {"subprotocols": offered.split(", ")} if offered else {}
    return client(site.url(path) + query, greeted=greeted, additional_headers=others, **options)


def send(site: Site, method: str, path: str, body: str, headers: Mapping[str, str]) -> tuple[int, Any]:
    """Status and JSON body of a request; `headers` may have one name several times."""
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    try:
        connection.putrequest(method, path)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode())
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def greeting_of(connection: Client) -> Any:
    return connection.greeting.get("data", connection.greeting)


def error_of(message: Any) -> Any:
    return message.get("data", message)


PATHS = pytest.mark.parametrize("path", ["/v1/ws", "/ws/realtime/"])


@PATHS
async def test_a_session_cookie_says_who_it_is(tmp_path: Path, path: str) -> None:
    async with both(tmp_path) as (site, app):
        for _ in range(3):
            async with joined(site, path, ALICE) as connection:
                assert greeting_of(connection)["authenticated"] is True
                assert greeting_of(connection)["user_id"] == "alice"
        assert app.n_asked == 1
        await site.import_portfolios("1,alice,Mine,USD")
        async with site.realtime() as anonymous, joined(site, "/ws/realtime/", ALICE) as connection:
            await ask(connection, "subscribe_portfolio", portfolio_id=1)
            assert (await connection.receive())["data"] == {"portfolio_id": 1}
            assert anonymous.greeting["data"]["user_id"] is None
        assert app.n_asked == 1, "nothing to ask with is nobody"


@PATHS
@pytest.mark.parametrize(
    ("headers", "query", "user_id"),
    [
        ({"Cookie": "sessionid=ended"}, "", None),
        ({"Cookie": "theme=dark"}, "", None),
        ({"Authorization": "Token bobs-key"}, "", "bob"),
        ({"Authorization": "Bearer carols.key"}, "", "carol"),
        ({}, "&token=carols.key", "carol"),
        ({"Sec-WebSocket-Protocol": "fastws, bearer.carols.key"}, "", "carol"),
    ],
)
async def test_what_else_the_application_may_know_users_by(
    tmp_path: Path, path: str, headers: dict[str, str], query: str, user_id: str | None
) -> None:
    async with both(tmp_path) as (site, app), joined(site, path, headers, query=query) as connection:
        assert greeting_of(connection)["user_id"] == user_id
        assert app.n_asked == 1


@PATHS
@pytest.mark.parametrize(
    ("headers", "status", "code", "closed_with"),
    [
        ({"Cookie": "sessionid=mallorys-session"}, 0, "FORBIDDEN", 4403),
        ({"Authorization": "Bearer wrong"}, 0, "INVALID_TOKEN", 4401),
        (ALICE, 500, "INTERNAL_ERROR", 1011),
        (ALICE, 302, "INTERNAL_ERROR", 1011),
    ],
)
async def test_who_is_not_let_in_is_told_why(
    tmp_path: Path, path: str, headers: dict[str, str], status: int, code: str, closed_with: int
) -> None:
    async with both(tmp_path) as (site, app):
        app.status = status
        async with joined(site, path, headers, greeted=False) as connection:
            error = error_of(await connection.receive())
            assert error["code"] == code
            assert set(error["details"]) == {"reason"}
            assert await connection.closed() == closed_with


async def test_one_users_cookie_is_never_sent_for_another(tmp_path: Path) -> None:
    async with both(tmp_path, auth_cache_ttl=0) as (site, _):
        for _ in range(3):
            # The application gives everybody a session in its answer, and nobody is to have it from us.
            async with joined(site, "/ws/realtime/", {"Cookie": "theme=dark"}) as connection:
                assert greeting_of(connection)["user_id"] is None


async def test_a_slow_application_holds_up_nobody_else_and_is_given_up(tmp_path: Path) -> None:
    async with both(tmp_path, auth_url_timeout=0.3) as (site, app), site.realtime() as other:
        app.answers.clear()
        async with joined(site, "/ws/realtime/", ALICE, greeted=False) as connection:
            await ask(connection, "ping", "early")
            began = time.monotonic()
            for _ in range(20):
                await ask(other, "ping")
                assert (await other.receive())["type"] == "pong"
            assert time.monotonic() - began < 0.3
            assert (await connection.receive())["data"]["details"] == {"reason": "application"}
            assert await connection.closed() == 1011
        status, body = await get(site, "/api/v1/users/me", **ALICE)
        assert (status, body["error"]["details"]) == (503, {"reason": "application"})
        app.answers.set()
        async with joined(site, "/ws/realtime/", ALICE) as connection:
            assert greeting_of(connection)["user_id"] == "alice"


async def test_messages_that_come_while_it_is_asked_are_obeyed_after(tmp_path: Path) -> None:
    async with both(tmp_path) as (site, app):
        app.answers.clear()
        async with joined(site, "/ws/realtime/", ALICE, greeted=False) as connection:
            await ask(connection, "ping", 1)
            await ask(connection, "subscribe_asset", 2, symbol="AAPL")
            app.answers.set()
            assert [(await connection.receive())["type"] for _ in range(3)] == [
                "connection",
                "pong",
                "subscribed",
            ]


async def test_an_application_that_is_away(tmp_path: Path) -> None:
    async with application() as (_, url):
        pass
    async with serving(tmp_path, auth_url=url) as site:
        async with joined(site, "/ws/realtime/", ALICE, greeted=False) as connection:
            assert (await connection.receive())["data"]["details"] == {"reason": "application"}
            assert await connection.closed() == 1011
        # Whoever needs no word of it goes on.
        async with site.realtime(token=token()) as connection:
            assert greeting_of(connection)["user_id"] == "alice"
        assert site.server.authenticator.failures == {"application": 1}


async def test_a_token_that_can_be_verified_needs_nobodys_word(tmp_path: Path) -> None:
    async with application() as (app, url), serving(tmp_path, auth_url=url) as site:
        async with joined(site, "/ws/realtime/", ALICE, query="token=" + token("dora")) as connection:
            assert greeting_of(connection)["user_id"] == "dora"
        assert app.n_asked == 0
        async with joined(site, "/ws/realtime/", ALICE) as connection:
            assert greeting_of(connection)["user_id"] == "alice"
            await ask(connection, "auth", token=token("dora"))
            assert (await connection.receive())["data"]["user_id"] == "dora"
            await ask(connection, "auth", token="carols.key")
            assert (await connection.receive())["data"]["details"] == {"reason": "malformed"}
        assert app.n_asked == 1


@PATHS
async def test_auth_is_decided_by_the_application_where_there_are_no_keys(tmp_path: Path, path: str) -> None:
    async with both(tmp_path) as (site, _), joined(site, path, {}) as connection:
        for bearer, expected in (("carols.key", "authenticated"), ("wrong", "error")):
            if path == "/v1/ws":
                await connection.send(type="auth", token=bearer)
            else:
                await ask(connection, "auth", token=bearer)
            answer = await connection.receive()
            assert answer["type"] == expected
        assert error_of(answer)["details"] == {"reason": "refused"}
        assert connection.connection.close_code is None


async def test_http_calls_know_the_session_too(tmp_path: Path) -> None:
    async with both(tmp_path, allow_anonymous=False) as (site, _):
        status, body = await get(site, "/api/v1/users/me", **ALICE)
        assert (status, body["user_id"]) == (200, "alice")
        assert (await get(site, "/v1/stocks", **ALICE))[0] == 200
        assert (await get(site, "/v1/stocks"))[0] == 401
        assert (await get(site, "/v1/stocks", Cookie="sessionid=ended"))[0] == 401
        assert (await get(site, "/v1/stocks", Cookie="sessionid=mallorys-session"))[0] == 403
        assert "user_stats" in (await get(site, "/realtime/status/", **ALICE))[1]
        assert "user_stats" not in (await get(site, "/realtime/status/"))[1]
        info = (await get(site, "/realtime/websocket-info/"))[1]["connection_info"]
        assert info["authentication"] == "session-based"


async def test_another_sites_page_cannot_act_for_a_user(tmp_path: Path) -> None:
    rule = json.dumps({"code": "AAPL", "alert_type": "price_above", "threshold": 1})

    def post(site: Site, headers: dict[str, str]) -> int:
        return send(site, "POST", "/v1/alerts", rule, headers)[0]

    async with both(tmp_path, allowed_origins=("https://app.example",)) as (site, _):
        for origin, status in (
            ("https://evil.example", 403),
            ("null", 403),
            ("https://app.example", 201),
            (f"http://127.0.0.1:{site.port}", 201),
        ):
            assert await asyncio.to_thread(post, site, ALICE | {"Origin": origin}) == status
        assert await asyncio.to_thread(post, site, ALICE) == 201
        # What no browser sends by itself is nobody's forgery.
        bearer = {"Authorization": "Bearer carols.key", "Origin": "https://evil.example"}
        assert await asyncio.to_thread(post, site, bearer) == 201


@pytest.mark.parametrize("path", ["/v1/alerts", "/api/realtime/force_price_update/"])
@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("?token=x", ALICE),
        ("?token=carols.key", ALICE),
        ("", {"Authorization": "Basic YWxpY2U6c2VjcmV0"}),
        ("", ALICE | {"Authorization": "basic YWxpY2U6c2VjcmV0"}),
    ],
)
async def test_nothing_that_a_page_can_say_by_itself_opens_the_way_of_a_cookie(
    tmp_path: Path, path: str, query: str, headers: dict[str, str]
) -> None:
    def post(site: Site, origin: dict[str, str]) -> tuple[int, Any]:
        plain = {"Content-Type": "text/plain"}
        return send(site, "POST", path + query, "{}", headers | plain | origin)

    async with both(tmp_path) as (site, app):
        status, body = await asyncio.to_thread(post, site, {"Origin": "https://evil.example"})
        assert (status, body["error"]["code"]) == (403, "ORIGIN_NOT_ALLOWED")
        assert app.n_asked == 0
        status, _ = await asyncio.to_thread(post, site, {})
        assert status != 403
        assert app.n_asked == 1


@PATHS
async def test_cookies_in_several_headers_are_those_of_one(tmp_path: Path, path: str) -> None:
    async with both(tmp_path) as (site, _):
        fields = [("Cookie", "theme=dark"), ("Cookie", "sessionid=alices-session"), ("Cookie", "a=b")]
        async with client(site.url(path), additional_headers=fields) as connection:
            assert greeting_of(connection)["user_id"] == "alice"
        several = CIMultiDict(fields)
        _, body = await asyncio.to_thread(send, site, "GET", "/api/v1/users/me", "", several)
        assert body["user_id"] == "alice"


@PATHS
async def test_a_logout_reaches_an_open_connection(tmp_path: Path, path: str) -> None:
    async with both(tmp_path, auth_cache_ttl=0, auth_session_ttl=1) as (site, app):
        async with joined(site, path, ALICE) as connection:
            assert greeting_of(connection)["user_id"] == "alice"
            del app.sessions["alices-session"]
            # A client may come back, and is told by the greeting who it is now.
            assert await connection.closed() == 1001
        async with joined(site, path, ALICE) as connection:
            assert greeting_of(connection)["user_id"] is None
            await connection.sync()
            assert connection.connection.close_code is None
        assert site.server.authenticator.failures == {}


async def test_all_pages_and_sessions_do_not_go_together() -> None:
    with pytest.raises(SettingsError, match="allowed_origins"):
        Settings(auth_url="https://app.example/whoami", allowed_origins=("*",))


async def test_nothing_of_it_is_logged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with both(tmp_path, log_level="debug") as (site, app):
        async with joined(site, "/ws/realtime/", ALICE):
            assert "alices-session" not in repr(site.server.authenticator._application.__dict__)
            (served,) = site.server.admission.presence.by_id.values()
            assert not served.arrival.asked_with, "what it was asked with is not kept"
        app.status = 500
        async with joined(site, "/ws/realtime/", {"Cookie": "sessionid=other"}, greeted=False) as connection:
            await connection.closed()
    out = "".join(capfd.readouterr())
    for secret in ("alices-session", "sessionid", "a@example.com"):
        assert secret not in out


async def test_another_application_by_a_reload(tmp_path: Path) -> None:
    async with both(tmp_path) as (site, app), application() as (other, url):
        other.sessions["alices-session"] = "another alice"
        async with joined(site, "/ws/realtime/", ALICE) as connection:
            assert greeting_of(connection)["user_id"] == "alice"
        settings = {name: getattr(site.server.settings, name) for name in Settings.__struct_fields__}
        await reload(site.server, Settings(**settings | {"auth_url": url}))
        async with joined(site, "/ws/realtime/", ALICE) as connection:
            assert greeting_of(connection)["user_id"] == "another alice"
        await reload(site.server, Settings(**settings | {"auth_url": None}))
        async with joined(site, "/ws/realtime/", ALICE) as connection:
            assert greeting_of(connection)["user_id"] is None
        assert (app.n_asked, other.n_asked) == (1, 1)
