"""What pages of other origins may ask over HTTP: what browsers are told, and what is done anyway."""

from __future__ import annotations

import asyncio
import http.client
import json
from email.message import Message
from pathlib import Path

import pytest
from realtime_site import ADMIN, Site, serving, token

from fastws.server.reload import reload
from fastws.settings import Settings

APP = "https://app.example"
OTHER = "https://other.example"
EVIL = "https://evil.example"
RULE = json.dumps({"code": "AAPL", "alert_type": "price_above", "threshold": 1})
# For everybody who may connect; of the administrator; pages; files that all may load.
OPEN = ("/health", "/v1/ws/stats", "/v1/stocks", "/realtime/status/", "/v1/asyncapi.json", "/missing", "/")
CLOSED = (
    "/v1/ws/connections",
    "/v1/ws/ledger",
    "/v1/admin/kick",
    "/v1/publish/",
    "/v1/portfolios/reload",
    "/metrics",
)
PAGES = ("/realtime/dashboard/", "/realtime/test")


async def ask(
    site: Site,
    path: str,
    origin: str | None = APP,
    method: str = "GET",
    body: str | None = None,
    **headers: str,
) -> tuple[int, Message, dict[str, str]]:
    """Status, headers, and what they say to browsers about origins."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if origin is not None:
        given["Origin"] = origin

    def read() -> tuple[int, Message]:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
        try:
            connection.request(method, path, body, given)
            response = connection.getresponse()
            response.read()
            return response.status, response.headers
        finally:
            connection.close()

    status, found = await asyncio.to_thread(read)
    prefix = "access-control-allow-"
    said = {
        name.lower(): value for name, value in found.items() if name.lower().startswith("access-control-")
    }
    return status, found, {name.removeprefix(prefix): value for name, value in said.items()}


async def preflight(
    site: Site, path: str, origin: str | None, method: str = "GET"
) -> tuple[int, Message, dict[str, str]]:
    wanted = {"Access_Control_Request_Method": method, "Access_Control_Request_Headers": "authorization"}
    return await ask(site, path, origin, "OPTIONS", **wanted)


NAMED = {
    "origin": APP,
    "credentials": "true",
    "access-control-expose-headers": "ETag, Retry-After",
}


async def test_named_pages_may_read_what_is_for_them(tmp_path: Path) -> None:
    async with serving(tmp_path, allowed_origins=(APP, OTHER)) as site:
        for path in OPEN:
            status, headers, said = await ask(site, path)
            assert status == (404 if path == "/missing" else 200)
            assert said == NAMED, path
            assert "Origin" in headers.get_all("Vary", [])
            # As a browser writes it, so that it knows its own name again.
            assert (await ask(site, path, "HTTPS://APP.example:443"))[2][
                "origin"
            ] == "HTTPS://APP.example:443"
            assert (await ask(site, path, OTHER))[2]["origin"] == OTHER
            for origin in (EVIL, "null", "http://app.example", f"{APP}.evil.example", f"{APP}/", None):
                status, headers, said = await ask(site, path, origin)
                assert (said, status) == ({}, 404 if path == "/missing" else 200)
                # Or a cache would give this answer to the page that may have it.
                assert "Origin" in headers.get_all("Vary", [])
        # Also what goes wrong is to be read.
        status, _, said = await ask(site, "/v1/alerts")
        assert (status, said) == (401, NAMED)
        etag = (await ask(site, "/v1/asyncapi.json"))[1]["ETag"]
        assert (await ask(site, "/v1/asyncapi.json", If_None_Match=etag))[::2] == (304, NAMED)


async def test_what_is_the_administrators_is_for_no_page(tmp_path: Path) -> None:
    async with serving(tmp_path, allowed_origins=(APP,)) as site:
        for path in (*CLOSED, *PAGES):
            for method in ("GET", "POST"):
                _, _, said = await ask(site, path, method=method, Authorization=f"Bearer {ADMIN}")
                assert said == {}, path
                status, _, said = await preflight(site, path, APP, method)
                assert (status, said) == (405, {}), path
        for path in ("/static/fastws.js", "/static/common/dom.js"):
            for origin in (APP, EVIL):
                assert (await ask(site, path, origin))[2] == {"origin": "*"}


async def test_the_question_before_the_question(tmp_path: Path) -> None:
    async with serving(tmp_path, allowed_origins=(APP,)) as site:
        for path, method, methods in (
            ("/v1/stocks", "GET", "GET, HEAD"),
            ("/v1/alerts", "POST", "GET, HEAD, POST"),
            ("/v1/alerts/", "GET", "GET, HEAD, POST"),
            ("/v1/alerts/17", "DELETE", "DELETE"),
            ("/api/realtime/force_price_update/", "POST", "POST"),
        ):
            status, headers, said = await preflight(site, path, APP, method)
            assert status == 204
            assert said == NAMED | {
                "methods": methods,
                "headers": "Authorization, Content-Type, If-None-Match",
                "access-control-max-age": "600",
            }
            assert headers.get_all("Vary") == ["Origin"]
            status, _, said = await preflight(site, path, EVIL, method)
            assert (status, said) == (403, {})
            # No such method; no question before another one.
            assert (await preflight(site, path, APP, "PATCH"))[0] == 405
            assert (await ask(site, path, APP, "OPTIONS"))[0] == 405
            assert (await preflight(site, path, None, method))[0] == 405
        assert (await preflight(site, "/missing", APP))[0] == 404
        # It has asked, and nothing has been done.
        assert (await preflight(site, "/v1/alerts", APP, "POST"))[0] == 204
        assert await site.server.alerts.list("alice") == ()


async def test_all_pages_get_no_credentials(tmp_path: Path) -> None:
    async with serving(tmp_path, allowed_origins=("*", APP)) as site:
        for origin in (EVIL, "null", "chrome-extension://abc"):
            said = (await ask(site, "/v1/stocks", origin))[2]
            assert said == {"origin": "*", "access-control-expose-headers": "ETag, Retry-After"}
            status, headers, said = await preflight(site, "/v1/alerts", origin, "POST")
            assert (status, said["origin"], said.get("credentials")) == (204, "*", None)
            assert headers["Vary"] == "Origin"
        assert (await ask(site, "/v1/stocks", APP))[2] == NAMED
        # What a page brings itself counts: the browser adds nothing to it.
        status, _, _ = await ask(site, "/v1/alerts", EVIL, "POST", RULE, Authorization=f"Bearer {token()}")
        assert status == 201


async def test_without_the_setting_nothing_is_said(tmp_path: Path) -> None:
    async with serving(tmp_path) as site:
        for path in OPEN:
            _, headers, said = await ask(site, path)
            assert said == {}
            assert "Origin" not in headers.get_all("Vary", [])
        assert (await preflight(site, "/v1/stocks", APP))[0] == 403
        # Another setting holds from the next request on.
        settings = {"port": site.server.settings.port, "database": site.server.settings.database}
        await reload(site.server, Settings(**settings, allowed_origins=(APP,)))
        assert (await ask(site, "/v1/stocks"))[2] == NAMED
        assert (await preflight(site, "/v1/stocks", APP))[0] == 204


@pytest.mark.parametrize("origins", [(), (APP,), ("*",)])
async def test_an_answer_never_lets_everybody_in_with_credentials(
    tmp_path: Path, origins: tuple[str, ...]
) -> None:
    async with serving(tmp_path, allowed_origins=origins) as site:
        for path in (*OPEN, *CLOSED, *PAGES, "/static/fastws.js"):
            for origin in (APP, EVIL, "null", "*", None):
                for answer in (ask(site, path, origin), preflight(site, path, origin)):
                    said = (await answer)[2]
                    assert (said.get("origin"), said.get("credentials")) != ("*", "true")
                    assert said.get("origin") in (None, "*") or said["origin"] in origins
