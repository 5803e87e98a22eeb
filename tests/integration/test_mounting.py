"""A server at a path of somebody else's: of an aiohttp application, and of uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError, web

import fastws
from fastws.client import Client, PriceUpdate
from fastws.server.mounting import behind, check_prefix
from tests.docs.samples import read
from tests.serving import ROOT, require_module

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[str]:
    """Where `app` is served, by a runner of aiohttp's own with its access log."""
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def hear_price(url: str, server: fastws.Server, price: int) -> None:
    async with asyncio.timeout(20), Client(url) as client:
        await client.subscribe("stock", ["005930"])
        server.hub.publish_price("005930", price)
        async for message in client:
            if isinstance(message, PriceUpdate) and message.price == price:
                break


class TestAiohttp:
    async def test_all_of_it_is_below_the_prefix(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "aiohttp.access")
        server = fastws.Server(admin_token="the administrator's")

        async def home(request: web.Request) -> web.Response:
            return web.Response(text="home")

        seen = []

        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            seen.append(request.path)
            return await handler(request)

        app = web.Application(middlewares=[note])
        app.router.add_get("/", home)
        server.mount(app, "/prices/")
        async with running(app) as url, ClientSession(url) as session:
            await hear_price(f"{url.replace('http', 'ws')}/prices/v1/ws", server, 71500)
            async with session.get("/") as answer:
                assert (await answer.text(), "X-Content-Type-Options" in answer.headers) == ("home", False)
            async with session.get("/prices/v1/stocks/005930?x=%20") as answer:
                assert (await answer.json())["price"] == 71500
                assert (answer.headers["Server"], answer.headers["Cache-Control"]) == ("fastws", "no-store")
            update = {"type": "price_update", "code": "005930", "price": 71600}
            headers = {"Authorization": "Bearer the administrator's"}
            async with session.post("/prices/v1/publish", json=update, headers=headers) as answer:
                assert answer.status == 202
            for path, status in (
                ("/prices", 200),
                ("/prices/", 200),
                ("/prices/nowhere", 404),
                ("/price", 404),
            ):
                async with session.get(path) as answer:
                    assert answer.status == status, path
                    assert (path == "/price") == (answer.content_type == "text/plain")
            async with session.get("/prices/v1/ws") as answer:
                assert answer.status == 426
            with pytest.raises(WSServerHandshakeError) as refused:
                await session.ws_connect("/prices/v1/ws", headers={"Origin": "https://other.example"})
            assert refused.value.status == 403
            async with session.get("/prices/realtime/dashboard/") as answer:
                page = await answer.text()
                assert (answer.status, "<html" in page) == (200, True)
        assert "/prices/v1/ws" in seen
        assert '"GET /prices/v1/ws HTTP/1.1" 101' in caplog.text

    async def test_it_drains_with_the_application(self) -> None:
        server = fastws.Server(shutdown_spread=0.0)
        app = web.Application()
        server.mount(app)
        async with ClientSession() as session, contextlib.AsyncExitStack() as stack:
            url = await stack.enter_async_context(running(app))
            async with session.ws_connect(f"{url}/v1/ws") as socket, asyncio.timeout(20):
                assert (await socket.receive_json())["type"] == "connection"
                ending = asyncio.create_task(stack.aclose())
                assert (await socket.receive_json())["type"] == "server_shutdown"
                last = await socket.receive()
                assert (last.type, last.data) == (WSMsgType.CLOSE, 1012)
            await ending

    async def test_what_cannot_be_mounted(self) -> None:
        for prefix in ("prices", "/a b", "/{x}", "/a?b"):
            with pytest.raises(ValueError, match=r"^prefix: "):
                fastws.Server().mount(web.Application(), prefix)
        async with fastws.Server(port=0) as server:
            with pytest.raises(RuntimeError, match="mount it before"):
                server.mount(web.Application(), "/prices")


@pytest.mark.parametrize(
    ("prefix", "path", "rest"),
    [
        ("/a", "/a/v1?x", "/v1?x"),
        ("/a", "/a", "/"),
        ("/a", "/a?x", "/?x"),
        ("/a", "/ab", None),
        ("/a", "/b", None),
        ("", "/v1", "/v1"),
    ],
)
def test_what_is_behind_a_prefix(prefix: str, path: str, rest: str | None) -> None:
    assert behind(check_prefix(prefix + "/"), path) == rest


class TestUvicorn:
    @staticmethod
    @contextlib.asynccontextmanager
    async def running(app: Any, **config: Any) -> AsyncIterator[str]:
        uvicorn = require_module("uvicorn")
        server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="on", log_level="warning", **config))
        serving = asyncio.create_task(server.serve())
        try:
            async with asyncio.timeout(20):
                while not server.started:
                    assert not serving.done()
                    await asyncio.sleep(0.005)
            yield f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving

    @staticmethod
    def application(server: fastws.Server) -> Any:
        """An ASGI application with a lifespan, a page, and a WebSocket of its own."""

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                assert (await receive())["type"] == "lifespan.startup"
                async with server:
                    await send({"type": "lifespan.startup.complete"})
                    assert (await receive())["type"] == "lifespan.shutdown"
                await send({"type": "lifespan.shutdown.complete"})
            elif scope["type"] == "http":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send(
                    {"type": "http.response.body", "body": str(server.hub.last_price("005930")).encode()}
                )
            else:
                assert (await receive())["type"] == "websocket.connect"
                await send({"type": "websocket.accept"})
                while (message := await receive())["type"] == "websocket.receive":
                    await send({"type": "websocket.send", "text": message["text"].upper()})

        return app

    async def test_websockets_of_both_on_one_port(self) -> None:
        server = fastws.Server()
        ws = server.for_uvicorn("/prices")
        async with self.running(self.application(server), ws=ws) as url, ClientSession() as session:
            await hear_price(f"{url}/prices/v1/ws", server, 71500)
            http = url.replace("ws", "http", 1)
            # Also on a connection that has asked for something else before.
            async with session.get(f"{http}/page") as answer:
                assert "005930" in await answer.text()
            async with session.ws_connect(f"{url}/prices/v1/ws?x=1") as socket:
                assert (await socket.receive_json())["status"] == "connected"
                # One that stays open does not keep uvicorn from ending.
                async with session.ws_connect(f"{url}/own") as own:
                    await own.send_str("hello")
                    assert await own.receive_str() == "HELLO"
                for path, status in (("/prices/v1/ws", 403),):
                    with pytest.raises(WSServerHandshakeError) as refused:
                        await session.ws_connect(url + path, headers={"Origin": "https://other.example"})
                    assert refused.value.status == status

    async def test_while_it_does_not_run(self) -> None:
        ws = fastws.Server().for_uvicorn("/prices")
        other = fastws.Server(port=0)
        async with self.running(self.application(other), ws=ws) as url, ClientSession() as session:
            with pytest.raises(WSServerHandshakeError) as refused:
                await session.ws_connect(f"{url}/prices/v1/ws")
            assert refused.value.status == 503

    async def test_without_a_package_for_websockets_others_are_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        auto = require_module("uvicorn.protocols.websockets.auto")
        monkeypatch.setattr(auto, "AutoWebSocketsProtocol", None)
        server = fastws.Server()
        ws = server.for_uvicorn("/prices")
        async with self.running(self.application(server), ws=ws) as url, ClientSession() as session:
            with pytest.raises(WSServerHandshakeError) as refused:
                await session.ws_connect(f"{url}/own")
            assert refused.value.status == 404
            await hear_price(f"{url}/prices/v1/ws", server, 71500)

    async def test_the_sample_of_the_documentation(self) -> None:
        require_module("starlette")
        [sample] = [each for each in read(ROOT / "docs" / "embedding.md") if each.title == "shop.py"]
        names: dict[str, Any] = {"__name__": "shop"}
        exec(sample.text, names)
        ws = names["server"].for_uvicorn("/prices")
        async with self.running(names["app"], ws=ws) as url, ClientSession() as session, asyncio.timeout(20):
            async with session.post(
                f"{url.replace('ws', 'http', 1)}/trades", json={"code": "005930", "price": 71500}
            ) as answer:
                assert await answer.json() == {"sequence": 1}
            await hear_price(f"{url}/prices/v1/ws", names["server"], 71600)
