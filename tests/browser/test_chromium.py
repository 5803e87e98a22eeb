"""A page in headless Chromium gets what the transcripts say."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from tests import transcript
from tests.certificates import forced
from tests.conftest import StartServer
from tests.serving import require_program

DIRECTORY = Path(__file__).parent
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    # With `--tls` the servers have certificates of an authority that no browser knows.
    *(("--ignore-certificate-errors",) if forced else ()),
)


class Site:
    """Serves the page on a free port, tells it what to do, and waits for its result."""

    def __init__(self) -> None:
        self.orders: list[dict[str, Any]] = []
        self.result: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.origin = ""

    async def scripts(self, request: web.Request) -> web.Response:
        return web.json_response(self.orders)

    async def take_result(self, request: web.Request) -> web.Response:
        self.result.set_result(json.loads(await request.text()))
        return web.Response(status=204)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Site]:
        app = web.Application(client_max_size=16 << 20)
        app.router.add_get("/scripts", self.scripts)
        app.router.add_post("/result", self.take_result)
        for name in ("page.html", "play.mjs"):
            content = (DIRECTORY / name).read_text(encoding="utf-8")
            kind = "text/html" if name.endswith(".html") else "text/javascript"

            async def serve(request: web.Request, content: str = content, kind: str = kind) -> web.Response:
                return web.Response(text=content, content_type=kind)

            app.router.add_get(f"/{name}", serve)
        async with self.running(app):
            yield self

    @asynccontextmanager
    async def running(self, app: web.Application) -> AsyncIterator[None]:
        """Serve `app` on a free port, which `origin` has."""
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()


async def browse(program: str, site: Site, profile: Path, *flags: str) -> dict[str, Any]:
    """Open the page in a browser of its own; returns what the page posts."""
    async with chromium(program, profile, f"{site.origin}/page.html", *flags) as (browser, log):
        async with asyncio.timeout(60):
            ended = asyncio.create_task(browser.wait())
            await asyncio.wait((site.result, ended), return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
        assert site.result.done(), (
            f"the browser has ended by itself:\n{log.read_text(errors='replace')[-2000:]}"
        )
        return site.result.result()


@asynccontextmanager
async def chromium(
    program: str, profile: Path, address: str, *flags: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Path]]:
    """A browser that opens `address`, and the file of what it says; its own files are in the directory `profile`."""
    log = profile.with_suffix(".log")
    with log.open("wb") as output:
        browser = await asyncio.create_subprocess_exec(
            program, *FLAGS, *flags, f"--user-data-dir={profile}", address, stdout=output, stderr=output
        )
        try:
            yield browser, log
        finally:
            with contextlib.suppress(ProcessLookupError):
                browser.terminate()
            try:
                await asyncio.wait_for(browser.wait(), 10)
            except TimeoutError:
                browser.kill()
                await browser.wait()


async def test_a_page_in_chromium(server: StartServer, tmp_path: Path) -> None:
    program = require_program("chromium")
    async with Site().serving() as site:
        scripts = [transcript.load(name) for name in transcript.names(plain=True)]
        servers = {}
        for script in scripts:
            key = (script.flags, str(script.settings))
            if key not in servers:
                servers[key] = server(*script.flags, **script.settings, allowed_origins=site.origin)
            await asyncio.to_thread(servers[key].until_feed_is, script.feed_status)
            site.orders.append({"url": servers[key].url, "steps": script.for_client()})
        outcome = await browse(program, site, tmp_path / "profile")
    assert outcome["failure"] is None
    transcript.compare_all(scripts, outcome["received"])
    # What it was sent came compressed where it was long enough: it always offers that.
    assert all(extensions.startswith("permessage-deflate;") for extensions in outcome["extensions"])
    assert any(len(text) >= 256 for texts in outcome["received"] for text in texts)


async def test_a_page_of_another_origin_is_refused(server: StartServer, tmp_path: Path) -> None:
    program = require_program("chromium")
    target = server("--feed", "none", allowed_origins="https://app.example")
    async with Site().serving() as site:
        site.orders.append({"url": target.url, "steps": [{"receive": True}]})
        outcome = await browse(program, site, tmp_path / "profile")
    assert outcome["received"] == [[]]
    # A browser does not tell a page why.
    assert "closed with 1006" in outcome["failure"]
    assert target.stats()["connections_accepted"] == 0
