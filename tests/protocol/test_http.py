"""The HTTP endpoints over a real socket: bodies, parameters, errors, and their one shape."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from listening import Client, Response, everywhere, listening, scenario, until, upgrade, way

from fastws._core import Hub
from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws._version import __version__
from fastws.auth import Authenticator
from fastws.auth.tokens import sign
from fastws.clock import wall_ms
from fastws.limits import Limits
from fastws.market.freshness import Freshness
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.server.http import MAX_BODY_SIZE, PUBLISHED_SECONDS, add_probe_routes, add_public_routes, bare_app
from fastws.server.listener import Listener
from fastws.server.peers import Peers
from fastws.server.stocks import add_stock_routes
from fastws.settings import Settings
from tests.certificates import files

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
SECRET = "a secret of at least thirty-two bytes"
SAMSUNG = Instrument("005930", "Samsung Electronics", "KOSPI", "Tech", 72000, "KRW")
APPLE = Instrument("AAPL", "Apple", "NASDAQ", "Tech", "150.00", "USD")


class View:
    """A server as the routes see it, with a real market."""

    def __init__(self) -> None:
        self.is_draining = False
        self.is_cut_off = False
        self.n_connections = 12
        self.hub = Hub(asyncio.get_running_loop(), epoch="test")
        self.market = Market(self.hub, Instruments([SAMSUNG, APPLE]))
        self.feeds: dict[str, str] = {}
        self.last_update_ms: int | None = None
        self.is_broken = False
        self.allow_anonymous = True
        self.authenticator = Authenticator(Settings(jwt_secret=SECRET))
        self.peers = Peers(())
        self.limits = Limits()

    def describe_freshness(self, code: str) -> dict[str, Any] | None:
        return Freshness(self.market, {}, least=10.0, most=600.0, learning=0.0).describe(
            code, time.monotonic(), time.time()
        )

    async def hear(self, code: str) -> None:
        """It is alone."""

    def cluster_stats(self) -> Mapping[str, Any]:
        return self.stats()

    def stats(self) -> Mapping[str, Any]:
        if self.is_broken:
            raise RuntimeError("this text is not for clients")
        return {"active_connections": 12, "subscriptions_by_type": {"stock": 1}}


class Site:
    """The routes, asked over one kept-alive connection, so that an answer out of step would be seen."""

    def __init__(self, view: View, listener: Listener, client: Client) -> None:
        self.view = view
        self.listener = listener
        self.client = client

    async def ask(self, path: str, method: str = "GET", body: bytes = b"") -> Response:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
        if body:
            head += f"Content-Length: {len(body)}\r\n"
        self.client.send(f"{head}\r\n".encode() + body)
        return await self.client.response(has_body=method != "HEAD")

    async def json(self, path: str, status: int = 200) -> Any:
        response = await self.ask(path)
        assert response.status == status
        assert response.headers["content-type"] == "application/json; charset=utf-8"
        return json.loads(response.body)

    async def error(self, path: str, status: int) -> str:
        body = await self.json(path, status)
        assert set(body) == {"error"}
        assert set(body["error"]) == {"code", "message"}
        assert body["error"]["message"]
        code: str = body["error"]["code"]
        return code


def public_app(view: View) -> web.Application:
    app = bare_app(("/v1/ws",))
    add_probe_routes(app, view)
    add_public_routes(app, view)
    add_stock_routes(app, view)
    return app


@contextlib.asynccontextmanager
async def site() -> AsyncIterator[Site]:
    view = View()
    try:
        async with listening(public_app(view)) as harness:
            yield Site(view, harness.listener, await harness.connect())
    finally:
        view.hub.stop()


@everywhere
async def test_health() -> None:
    async with site() as server:
        body = await server.json("/health")
        assert TIMESTAMP.fullmatch(body.pop("timestamp"))
        assert body == {"status": "ok", "price_feed_running": False, "active_connections": 12}
        for status, is_running in (
            ("live", True),
            ("stale", True),
            ("reconnecting", False),
            ("stopped", False),
        ):
            server.view.market.set_feed_status("kis", status)
            server.view.feeds = server.view.market.feeds
            assert (await server.json("/health"))["price_feed_running"] is is_running


@everywhere
async def test_health_without_a_feed_tells_whether_prices_are_published() -> None:
    async with site() as server:
        for seconds, is_running in (
            (1, True),
            (PUBLISHED_SECONDS - 10, True),
            (PUBLISHED_SECONDS + 1, False),
        ):
            server.view.last_update_ms = wall_ms() - 1000 * seconds
            assert (await server.json("/health"))["price_feed_running"] is is_running
        # A feed speaks for itself, whatever others publish.
        server.view.feeds = {"kis": "reconnecting"}
        server.view.last_update_ms = wall_ms()
        assert (await server.json("/health"))["price_feed_running"] is False


@everywhere
async def test_ready_until_draining() -> None:
    async with site() as server:
        assert (await server.json("/ready"))["status"] == "ready"
        server.view.is_draining = True
        assert (await server.json("/ready", 503))["status"] == "draining"
        assert (await server.json("/health"))["status"] == "ok"


@everywhere
async def test_stats() -> None:
    async with site() as server:
        assert await server.json("/v1/ws/stats") == {
            "active_connections": 12,
            "subscriptions_by_type": {"stock": 1},
        }


@everywhere
async def test_the_root_lists_every_endpoint() -> None:
    async with site() as server:
        body = await server.json("/")
        assert list(body) == ["name", "version", "endpoints"]
        assert (body["name"], body["version"]) == ("fastws", __version__)
        assert {(endpoint["protocol"], endpoint["path"]) for endpoint in body["endpoints"]} == {
            ("websocket", "/v1/ws"),
            ("http", "/health"),
            ("http", "/ready"),
            ("http", "/v1/ws/stats"),
            ("http", "/v1/asyncapi.json"),
            ("http", "/v1/stocks"),
            ("http", "/v1/stocks/{code}"),
            ("http", "/v1/stocks/{code}/freshness"),
            ("http", "/v1/stocks/{code}/orderbook"),
        }
        assert all(endpoint["about"] for endpoint in body["endpoints"])
        server.view.market.publish_price(PriceUpdate(SAMSUNG, 73000))
        server.view.market.publish_book(BookUpdate(SAMSUNG, [(72900, 1)], [(73000, 1)]))
        for endpoint in body["endpoints"]:
            response = await server.ask(endpoint["path"].format(code="005930"))
            assert response.status == (426 if endpoint["protocol"] == "websocket" else 200)


@everywhere
async def test_stocks_are_listed_by_market_and_sector() -> None:
    samsung = {
        "code": "005930",
        "name": "Samsung Electronics",
        "market": "KOSPI",
        "sector": "Tech",
        "currency": "KRW",
    }
    apple = {"code": "AAPL", "name": "Apple", "market": "NASDAQ", "sector": "Tech", "currency": "USD"}
    bare = {"code": "0074K0", "name": "0074K0", "market": None, "sector": None, "currency": None}
    async with site() as server:
        assert await server.json("/v1/stocks") == {"stocks": [samsung, apple]}
        server.view.market.ensure_instrument("0074K0")
        assert await server.json("/v1/stocks") == {"stocks": [samsung, apple, bare]}
        assert await server.json("/v1/stocks?market=KOSPI") == {"stocks": [samsung]}
        assert await server.json("/v1/stocks?sector=Tech") == {"stocks": [samsung, apple]}
        assert await server.json("/v1/stocks?sector=Tech&market=NASDAQ") == {"stocks": [apple]}
        server.view.market.instruments.add(Instrument("KO", "Coca-Cola", "NYSE", "Food & Drink", None, "USD"))
        assert await server.json("/v1/stocks?market=KOSPI&sector=Food%20%26%20Drink") == {"stocks": []}
        for name, value, known in (
            ("market", "LSE", "KOSPI, NASDAQ, NYSE"),
            ("market", "kospi", "KOSPI, NASDAQ, NYSE"),
            ("market", "", "KOSPI, NASDAQ, NYSE"),
            ("sector", "Mining", "Tech, Food & Drink"),
        ):
            body = await server.json(f"/v1/stocks?{name}={value}", 400)
            assert body["error"] == {
                "code": "INVALID_PARAMETER",
                "message": f"{name} must be one of {known}",
            }


@everywhere
async def test_no_stock_has_a_sector() -> None:
    async with site() as server:
        server.view.market.instruments = Instruments([Instrument("A")])
        body = await server.json("/v1/stocks?sector=Tech", 400)
        assert body["error"]["message"] == "sector must be left out: the instruments have none"


@everywhere
async def test_the_last_price_with_the_digits_of_its_source() -> None:
    async with site() as server:
        assert await server.error("/v1/stocks/AAPL", 404) == "NO_DATA"
        server.view.market.publish_price(PriceUpdate(APPLE, "150.250", change="-0.50", volume=50_000_000))
        response = await server.ask("/v1/stocks/AAPL")
        assert b'"price":150.250,"change":-0.50,"volume":50000000' in response.body
        body = json.loads(response.body)
        assert (body["type"], body["code"], body["name"]) == ("price_update", "AAPL", "Apple")
        assert TIMESTAMP.fullmatch(body["timestamp"])


@everywhere
async def test_the_last_books() -> None:
    async with site() as server:
        path = "/v1/stocks/005930/orderbook"
        assert await server.error(path, 404) == "NO_DATA"
        for index in range(5):
            server.view.market.publish_book(
                BookUpdate(
                    SAMSUNG,
                    [(72900 - level, index * 100 + level) for level in range(10)],
                    [(73000 + level, index * 100 + level) for level in range(10)],
                )
            )
        body = await server.json(path)
        assert body["code"] == "005930"
        assert body["bids"][0] == {"price": 72900, "quantity": 400}
        assert (len(body["bids"]), len(body["asks"]), len(body["history"])) == (10, 10, 1)
        body = await server.json(f"{path}?depth=3&history=4")
        assert (len(body["bids"]), len(body["asks"])) == (3, 3)
        assert [book["bids"][0]["quantity"] for book in body["history"]] == [100, 200, 300, 400]
        assert {len(book["asks"]) for book in body["history"]} == {3}
        assert len((await server.json(f"{path}?history=1000"))["history"]) == 5
        assert "history" not in await server.json(f"{path}?history=0")


@pytest.mark.parametrize(
    "query",
    ["depth=0", "depth=11", "depth=-1", "depth=x", "depth=", "depth=1.5", "depth=%EF%BC%91",
     "depth=" + "1" * 5000, "history=-1", "history=1001", "history=x"],
)  # fmt: skip
@everywhere
async def test_wrong_parameters(query: str) -> None:
    async with site() as server:
        path = f"/v1/stocks/005930/orderbook?{query}"
        body = await server.json(path, 400)
        assert body["error"]["code"] == "INVALID_PARAMETER"
        assert body["error"]["message"].startswith(query.partition("=")[0] + " must be a whole number from ")


@everywhere
async def test_unknown_symbols() -> None:
    async with site() as server:
        for code in ("999999", "%EC%82%BC", "%FF", "a%20b", "x" * 300, "%3Cscript%3E"):
            assert await server.error(f"/v1/stocks/{code}", 404) == "UNKNOWN_SYMBOL"
            assert await server.error(f"/v1/stocks/{code}/orderbook", 404) == "UNKNOWN_SYMBOL"


STOCK_PATHS = ("/v1/stocks", "/v1/stocks/005930", "/v1/stocks/005930/orderbook", "/v1/stocks/NOBODY")


def token(**claims: object) -> str:
    return sign({"sub": "user-1", **claims}, SECRET.encode(), "HS256")


@everywhere
async def test_without_anonymous_callers_stocks_want_a_token() -> None:
    async with site() as server:
        server.view.market.publish_price(PriceUpdate(SAMSUNG, 73000))
        server.view.allow_anonymous = False
        for path in STOCK_PATHS:
            response = await server.ask(path)
            assert (response.status, response.headers["www-authenticate"]) == (401, "Bearer")
            assert json.loads(response.body)["error"]["code"] == "AUTH_REQUIRED"
            body = await server.json(f"{path}?token=nonsense", 401)
            assert body["error"]["code"] == "INVALID_TOKEN"
            assert body["error"]["details"] == {"reason": "malformed"}
        body = await server.json(f"/v1/stocks/005930?token={token()}")
        assert body["price"] == 73000
        assert len((await server.json(f"/v1/stocks?token={token()}"))["stocks"]) == 2
        for path in ("/health", "/ready", "/v1/ws/stats", "/v1/asyncapi.json"):
            assert (await server.ask(path)).status == 200


@pytest.mark.parametrize("allows", [True, False])
@everywhere
async def test_a_token_that_is_brought_counts_and_so_do_its_topics(allows: bool) -> None:
    async with site() as server:
        server.view.allow_anonymous = allows
        server.view.market.publish_price(PriceUpdate(SAMSUNG, 73000))
        server.view.market.publish_book(BookUpdate(SAMSUNG, [(72900, 1)], [(73000, 1)]))
        expired = token(exp=1)
        for path in STOCK_PATHS:
            body = await server.json(f"{path}?token={expired}", 401)
            assert body["error"]["details"] == {"reason": "expired"}
        apple = token(topics=["stock:AAPL", "market:KOSPI"])
        assert await server.error(f"/v1/stocks/AAPL?token={apple}", 404) == "NO_DATA"
        listed = (await server.json(f"/v1/stocks?token={apple}"))["stocks"]
        assert [stock["code"] for stock in listed] == ["AAPL"]
        # Whether there is such a symbol is no business of this token either.
        for path in STOCK_PATHS[1:]:
            assert await server.error(f"{path}?token={apple}", 403) == "FORBIDDEN"


@everywhere
async def test_a_trailing_slash_changes_nothing() -> None:
    async with site() as server:
        server.view.market.publish_price(PriceUpdate(SAMSUNG, 73000))
        for path in ("/health", "/ready", "/v1/ws/stats", "/v1/stocks", "/v1/stocks/005930"):
            for variant in (path, path + "/"):
                assert (await server.ask(variant)).status == 200


@everywhere
async def test_head_answers_like_get_without_a_body() -> None:
    async with site() as server:
        for path, status in (("/health", 200), ("/health/", 200), ("/nothing", 404), ("/v1/stocks/1", 404)):
            get = await server.ask(path)
            head = await server.ask(path, "HEAD")
            assert (head.status, get.status) == (status, status)
            assert head.headers["content-length"] == get.headers["content-length"]
            assert head.headers["content-type"] == get.headers["content-type"]


@everywhere
async def test_every_error_is_json_of_one_shape() -> None:
    async with site() as server:
        for path in (
            "//",
            "/nothing",
            "/v1",
            "/v1/ws/stats/x",
            "/health//",
            "/%2e%2e/etc/passwd",
            "/static/x",
        ):
            assert await server.error(path, 404) == "NOT_FOUND"
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"):
            response = await server.ask("/health", method, b"x" * 10)
            if method == "BREW":  # unknown to aiohttp's parser, which closes
                assert response.status == 400
                break
            assert response.status == 405
            assert response.headers["allow"] == "GET,HEAD"
            assert json.loads(response.body)["error"]["code"] == "METHOD_NOT_ALLOWED"


@everywhere
async def test_a_failing_route_tells_nothing_of_its_failure() -> None:
    async with site() as server:
        server.view.is_broken = True
        response = await server.ask("/v1/ws/stats")
        assert response.status == 500
        assert json.loads(response.body) == {
            "error": {"code": "INTERNAL_SERVER_ERROR", "message": "internal error"}
        }
        assert response.headers["server"] == "fastws"


@everywhere
async def test_no_answer_tells_versions() -> None:
    async with site() as server:
        for path in ("/health", "/nothing"):
            headers = (await server.ask(path)).headers
            assert headers["server"] == "fastws"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"


@everywhere
async def test_large_bodies_are_read_away_and_too_large_ones_refused() -> None:
    async with site() as server:
        response = await server.ask("/nothing", "POST", b"x" * 500_000)
        assert response.status == 404
        assert (await server.ask("/health")).status == 200

    async def read(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    view = View()
    app = public_app(view)
    app.router.add_post("/read", read)
    async with listening(app) as harness:
        server = Site(view, harness.listener, await harness.connect())
        assert (await server.ask("/read", "POST", b"x" * MAX_BODY_SIZE)).body == str(MAX_BODY_SIZE).encode()
        response = await server.ask("/read", "POST", b"x" * (MAX_BODY_SIZE + 1))
        assert response.status == 413
        assert json.loads(response.body)["error"]["message"] == f"the body is over {MAX_BODY_SIZE} bytes"
        assert (await server.ask("/health")).status == 200
    view.hub.stop()


@everywhere
async def test_compressed_bodies_are_refused_and_the_connection_stays_in_step() -> None:
    async with site() as server:
        for encoding in ("gzip", "br", "GZIP, deflate", "x"):
            for method, path in (("GET", "/health"), ("POST", "/health"), ("POST", "/nothing")):
                server.client.send(
                    f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Encoding: {encoding}\r\n"
                    "Content-Length: 4\r\n\r\njunk".encode()
                )
                response = await server.client.response()
                assert (response.status, response.headers["accept-encoding"]) == (415, "identity")
                assert json.loads(response.body)["error"]["code"] == "UNSUPPORTED_MEDIA_TYPE"
        server.client.send(b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Encoding: identity\r\n\r\n")
        assert (await server.client.response()).status == 200


@everywhere
async def test_expectations_that_nobody_knows() -> None:
    async with site() as server:
        server.client.send(b"GET /health HTTP/1.1\r\nHost: a\r\nExpect: <b>\r\n\r\n")
        response = await server.client.response()
        assert response.status == 417
        assert json.loads(response.body)["error"]["code"] == "EXPECTATION_FAILED"


CHUNKED = b"Transfer-Encoding: chunked\r\n"
BAD_BODIES = [
    (CHUNKED, b"zz\r\n"),
    (CHUNKED, b"5\r\nhelloXX\r\n"),
    (CHUNKED, b"0\r\nbad trailer\r\n\r\n"),
    (CHUNKED, b"FFFFFFFFFFFFFFFFFFFF\r\nx"),
]
HALF_BODIES = [
    (CHUNKED, b"5\r\nhe"),
    (CHUNKED, b""),
    (b"Content-Length: 500\r\n", b"half"),
    (b"Content-Encoding: gzip\r\nContent-Length: 40\r\n", b"junk"),
    (b"Expect: 100-continue\r\nContent-Length: 5\r\n", b"half"),
]


@pytest.mark.parametrize("path", ["/size", "/hello", "/nothing"])
@everywhere
async def test_bodies_that_are_wrong_or_end_early_are_answered_and_no_news(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However often a client sends one; read by a route, or read away behind its answer."""
    caplog.set_level("DEBUG")
    async with listening(wrong_body_app()) as server:

        async def begin(header: bytes, body: bytes) -> Client:
            client = await server.connect(f"POST {path} HTTP/1.1\r\nHost: a\r\n".encode() + header + b"\r\n")
            # The head first: with it, the parser would refuse both as one.
            await until(lambda: server.listener.n_http == 1)
            client.send(body)
            return client

        for header, body in BAD_BODIES:
            client = await begin(header, body)
            answer = await client.rest()
            assert answer.startswith(
                {"/size": b"HTTP/1.1 400 ", "/hello": b"HTTP/1.1 405 "}.get(path, b"HTTP/1.1 404 ")
            )
            assert answer.count(b"HTTP/1.1 ") == 1
            await until(lambda: server.listener.n_http == 0)
        for header, body in HALF_BODIES:
            client = await begin(header, body)
            await client.half_close()
            answer = await client.rest()
            if path == "/size" and b"gzip" not in header:
                assert b"HTTP/1.1 400 " in answer
            await client.close()
            await until(lambda: server.listener.n_http == 0)
            client = await begin(header, body)
            client.writer.transport.abort()
            await until(lambda: server.listener.n_http == 0)
    assert [
        record.name for record in caplog.records if record.name not in ("asyncio", "fastws.listener")
    ] == []
    assert [
        record for record in caplog.records if record.levelname != "DEBUG" and record.name == "asyncio"
    ] == []


@everywhere
async def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastws.server.http._REQUEST_SECONDS", 0.2)
    async with listening(wrong_body_app()) as server:
        client = await server.connect(b"POST /size HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\nhalf")
        response = await client.response()
        assert (response.status, response.headers["connection"]) == (408, "close")
        assert json.loads(response.body)["error"]["code"] == "REQUEST_TIMEOUT"


def wrong_body_app() -> web.Application:
    async def size(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = bare_app()
    app.router.add_post("/size", size)
    app.router.add_get("/hello", hello)
    return app


@everywhere
async def test_a_websocket_after_health_on_the_same_connection() -> None:
    async with site() as server:
        assert (await server.ask("/health")).status == 200
        server.client.send(upgrade() + b"frame")
        assert (await server.client.response()).status == 101
        assert await server.client.reader.readexactly(5) == b"frame"
        await until(lambda: server.listener.n_http == 0)


@scenario
async def test_aiohttp_and_the_standard_library_as_clients() -> None:
    async with site() as server:
        port = server.listener.port
        tls = files().authority.client_context() if way.get() == "tls" else None
        scheme = "http" if tls is None else "https"
        connector = aiohttp.TCPConnector(ssl=True if tls is None else tls)
        async with aiohttp.ClientSession(f"{scheme}://127.0.0.1:{port}", connector=connector) as session:
            for _ in range(3):
                async with session.get("/health") as response:
                    assert (await response.json())["status"] == "ok"
            async with session.post("/health", data=b"x" * 500_000) as refused:
                assert refused.status == 405

        def ask() -> list[int]:
            if tls is None:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            else:
                connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=tls)
            statuses = []
            for method, path in (
                ("GET", "/health"),
                ("HEAD", "/health"),
                ("GET", "/nothing"),
                ("GET", "/ready"),
            ):
                connection.request(method, path)
                answer = connection.getresponse()
                answer.read()
                statuses.append(answer.status)
            connection.close()
            return statuses

        assert await asyncio.to_thread(ask) == [200, 200, 404, 200]
