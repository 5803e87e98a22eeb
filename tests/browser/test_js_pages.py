"""The JavaScript client in pages: a tab that is hidden, and the hook of React."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.browser.publishing import SETTINGS, price, publish
from tests.browser.test_chromium import Site, browse
from tests.clients_js.node import PACKAGE, SCRIPTS, end, require_package, start_node
from tests.conftest import StartServer
from tests.serving import Server, require_program, until


class ClientSite(Site):
    """Serves a page that imports the client from here, and hears how far it is."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.progress: asyncio.Queue[str] = asyncio.Queue()
        self.has_published = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ClientSite]:
        app = web.Application(client_max_size=16 << 20)
        app.router.add_post("/result", self.take_result)
        app.router.add_post("/progress", self.take_progress)
        app.router.add_get("/target", self.target)
        app.router.add_get("/published", self.published)
        app.router.add_static("/clients/", PACKAGE)
        app.router.add_static("/", SCRIPTS / "pages")
        async with self.running(app):
            yield self

    async def target(self, request: web.Request) -> web.Response:
        return web.json_response(self.server.url)

    async def published(self, request: web.Request) -> web.Response:
        """Answers when the page may go on."""
        await self.has_published.wait()
        return web.Response(status=204)

    async def take_progress(self, request: web.Request) -> web.Response:
        self.progress.put_nowait(await request.text())
        return web.Response(status=204)

    async def until(self, progress: str) -> None:
        async with asyncio.timeout(30):
            assert await self.progress.get() == progress


async def test_a_hidden_tab_pauses(shared_server: StartServer, tmp_path: Path) -> None:
    program = require_program("chromium")
    target = shared_server("--feed", "none", **SETTINGS)
    publish(target, price("005930", 73000))
    site = ClientSite(target)
    async with site.serving():
        # The page opens another tab, and nobody has clicked.
        browsing = asyncio.create_task(
            browse(program, site, tmp_path / "profile", "--disable-popup-blocking")
        )
        try:
            await site.until("shown")
            await site.until("paused")
            publish(target, price("005930", 73100), price("005930", 73200))
            # All of them are flushed, and passed over.
            until(lambda: target.stats()["queued_messages"] == 0, "the flush")
            await site.until("asked")
            publish(target, price("005930", 73300))
            site.has_published.set()
            await site.until("resumed")
            publish(target, price("005930", 73400))
            outcome = await browsing
        finally:
            browsing.cancel()
            with contextlib.suppress(asyncio.CancelledError):  # it was its own failure that is told
                await browsing
    assert outcome["failure"] is None
    assert outcome["prices"] == [[73000, True], [73300, True], [73400, False]]
    assert outcome["faults"] == []
    assert outcome["states"] == ["connecting", "open"]


async def test_the_hook_of_react(shared_server: StartServer, tmp_path: Path) -> None:
    for package in ("react", "react-test-renderer"):
        require_package(package)
    target = shared_server("--feed", "none", **SETTINGS)
    publish(target, price("005930", 73000), price("000660", 250500))
    process = await start_node(tmp_path, "react.mjs", target.url)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None

        def show(*symbols: str) -> None:
            process.stdin.write(json.dumps({"show": {"stock": symbols}}).encode() + b"\n")

        async def until_shown(**wanted: int) -> dict[str, Any]:
            async with asyncio.timeout(15):
                while True:
                    shown = json.loads(await process.stdout.readline())
                    if shown["state"] == "open" and shown["prices"] == {
                        key[1:]: wanted[key] for key in wanted
                    }:
                        return shown

        show("005930")
        first = await until_shown(_005930=73000)
        n_published = 300
        for i in range(n_published):
            publish(target, price("005930", 73001 + i))
        last = await until_shown(_005930=73000 + n_published)
        # Once a frame at most.
        assert last["renders"] - first["renders"] < n_published
        show("005930", "000660")
        await until_shown(_005930=73000 + n_published, _000660=250500)
        show("000660")
        await until_shown(_000660=250500)
        until(lambda: target.stats()["subscriptions_by_type"]["stock"] == 1, "the unsubscription")
        await end(process)
        until(lambda: target.stats()["active_connections"] == 0, "the end of the connection")
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended, as it should
            process.kill()
        await process.wait()
