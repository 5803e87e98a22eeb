"""A page of another origin asks a server over HTTP, as a browser lets it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp import web

from tests.browser.devtools import Page, browsing
from tests.conftest import StartServer

SECRET = "a secret of more than thirty-two bytes"

# An application's own script: the list of symbols, an alert made and taken away again, and a look at what is said
# about a wrong token.
SCRIPT = """
(async () => {
  const [base, token] = %s;
  const call = async (method, path, body, given = token) => {
    const headers = { Authorization: `Bearer ${given}`, "Content-Type": "application/json" };
    const response = await fetch(base + path, { method, headers, body, credentials: "include" });
    const text = await response.text();
    return [response.status, text && JSON.parse(text)];
  };
  const rule = JSON.stringify({ code: "005930", alert_type: "price_above", threshold: 75000 });
  try {
    const [created, { id }] = await call("POST", "/v1/alerts/", rule);
    const [listed, alerts] = await call("GET", "/v1/alerts");
    const [deleted] = await call("DELETE", `/v1/alerts/${id}`);
    const [refused, { error }] = await call("GET", "/v1/alerts", undefined, "x.y.z");
    return { created, listed, n: alerts.length, deleted, refused, code: error.code };
  } catch (error) {
    return { error: String(error) };
  }
})()
"""
DONE = {"created": 201, "listed": 200, "n": 1, "deleted": 204, "refused": 401, "code": "INVALID_TOKEN"}


@asynccontextmanager
async def application() -> AsyncIterator[int]:
    """An empty page at a free port; yields the port."""
    app = web.Application()

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>application</title>", content_type="text/html")

    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def asked(page: Page, url: str, base: str, token: str) -> Any:
    """What the script returns on the page at `url`."""
    await page.open(url)
    return await page.run(SCRIPT % json.dumps([base, token]))


@pytest.mark.plain("the page has no TLS, and a browser would have to mix")
async def test_a_named_page_uses_the_api_and_others_do_not(server: StartServer, tmp_path: Path) -> None:
    token = jwt.encode({"sub": "alice", "exp": time.time() + 600}, SECRET, "HS256")
    async with application() as port, browsing(tmp_path / "profile") as page:
        named, other = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        target = await asyncio.to_thread(server, "--feed", "none", jwt_secret=SECRET, allowed_origins=named)
        assert await asked(page, named, target.http_url, token) == DONE
        assert not [problem for problem in page.problems if "CORS" in problem]
        assert await asked(page, other, target.http_url, token) == {"error": "TypeError: Failed to fetch"}
        assert any("blocked by CORS policy" in problem for problem in page.problems)
