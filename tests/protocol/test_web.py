"""The pages and their files over a real socket: types, caching, compression, headers, and what is not there."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import AsyncIterator

import pytest
from listening import Client, Response, everywhere, listening, scenario

from fastws.server.http import bare_app
from fastws.web.assets import page, static_files
from fastws.web.routes import add_web_routes

PAGES = ("/realtime/dashboard", "/realtime/test")


class Site:
    """The routes, asked over one kept-alive connection, so that an answer out of step would be seen."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def ask(self, path: str, method: str = "GET", **headers: str) -> Response:
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        self._client.send(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{''.join(lines)}\r\n".encode())
        return await self._client.response(has_body=method != "HEAD")


@contextlib.asynccontextmanager
async def site(*, has_pages: bool = True) -> AsyncIterator[Site]:
    app = bare_app()
    add_web_routes(app, has_pages=has_pages)
    async with listening(app) as harness:
        yield Site(await harness.connect())


@everywhere
async def test_every_file_is_served_as_it_is() -> None:
    async with site() as server:
        for name, asset in static_files().items():
            response = await server.ask(f"/static/{name}")
            assert (response.status, response.body) == (200, asset.body)
            assert response.headers["content-type"] == asset.content_type
            assert response.headers["x-content-type-options"] == "nosniff"
            assert "content-encoding" not in response.headers


@scenario
async def test_what_a_browser_has_is_not_sent_again() -> None:
    async with site() as server:
        for path in ("/static/fastws.js", "/realtime/test/"):
            first = await server.ask(path)
            tag = first.headers["etag"]
            assert tag.startswith('"')  # a strong one
            assert first.headers["cache-control"] == "no-cache"
            for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
                again = await server.ask(path, if_none_match=known)
                assert (again.status, again.body) == (304, b"")
                assert again.headers["etag"] == tag
                assert again.headers["cache-control"] == "no-cache"
                assert again.headers["vary"] == "Accept-Encoding"
            assert (await server.ask(path, if_none_match='"other"')).body == first.body


@scenario
async def test_a_client_that_takes_gzip_gets_it() -> None:
    async with site() as server:
        for path in ("/static/fastws.js", "/realtime/test/"):
            plain = await server.ask(path)
            packed = await server.ask(path, accept_encoding="gzip, deflate, br")
            assert packed.headers["content-encoding"] == "gzip"
            assert packed.headers["content-type"] == plain.headers["content-type"]
            assert gzip.decompress(packed.body) == plain.body
            assert len(packed.body) < len(plain.body) / 2
            # Different bytes, different strong tags: a cache must not answer one by the other.
            assert packed.headers["etag"] != plain.headers["etag"]
            assert plain.headers["vary"] == packed.headers["vary"] == "Accept-Encoding"
            tag = packed.headers["etag"]
            assert (await server.ask(path, accept_encoding="gzip", if_none_match=tag)).status == 304
            assert (await server.ask(path, if_none_match=tag)).status == 200
            assert (await server.ask(path, accept_encoding="gzip;q=0")).body == plain.body


@scenario
async def test_head_says_what_get_would() -> None:
    async with site() as server:
        for path in ("/static/fastws.js", "/realtime/test", "/realtime/test/"):
            whole = await server.ask(path)
            head = await server.ask(path, "HEAD")
            assert (head.status, head.body) == (200, b"")
            for name in ("content-type", "content-length", "etag", "cache-control"):
                assert head.headers[name] == whole.headers[name]
        refused = await server.ask("/static/fastws.js", "POST")
        assert (refused.status, refused.headers["allow"]) == (405, "GET,HEAD")


@everywhere
async def test_nothing_else_can_be_had() -> None:
    async with site() as server:
        for path in (
            "/static/",
            "/static/common",
            "/static/common/",
            "/static/missing.js",
            "/static/../routes.py",
            "/static/../../server/http.py",
            "/static/%2e%2e/routes.py",
            "/static/..%2froutes.py",
            "/static/..%5croutes.py",
            "/static/common/../../routes.py",
            "/static//etc/passwd",
            "/static/%2fetc%2fpasswd",
            "/static/fastws.js%00",
            "/static/pages/test.html",
            "/static/" + "a" * 4000,
        ):
            response = await server.ask(path)
            assert response.status == 404, path
            assert response.headers["content-type"] == "application/json; charset=utf-8"
            assert json.loads(response.body)["error"]["code"] == "NOT_FOUND"


@scenario
async def test_pages_are_there_with_and_without_the_slash() -> None:
    async with site() as server:
        for path in PAGES:
            name = f"{path.rpartition('/')[2]}.html"
            assert (await server.ask(path + "/")).body == page(name).with_slash.body
            assert (await server.ask(path)).body == page(name).without_slash.body
            assert (await server.ask(f"{path}/?lang=ko")).status == 200


@scenario
async def test_pages_may_load_nothing_but_what_is_here() -> None:
    async with site() as server:
        for path in PAGES:
            headers = (await server.ask(path)).headers
            policy = dict(
                directive.strip().partition(" ")[::2]
                for directive in headers["content-security-policy"].split(";")
            )
            assert policy["default-src"] == "'none'"
            for name in ("script-src", "style-src", "connect-src", "font-src"):
                assert policy[name] == "'self'"
            assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["x-content-type-options"] == "nosniff"
            assert "camera=()" in headers["permissions-policy"]
            # The answer that only says that nothing has changed renews the headers of what is kept.
            again = await server.ask(path, if_none_match="*")
            assert again.headers["content-security-policy"] == headers["content-security-policy"]


@scenario
async def test_pages_of_others_may_load_the_client_library() -> None:
    async with site() as server:
        headers = (await server.ask("/static/fastws.js", origin="https://app.example")).headers
        assert headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-origin" not in (await server.ask("/realtime/test/")).headers


@scenario
async def test_without_pages_there_is_only_the_client_library() -> None:
    async with site(has_pages=False) as server:
        for path in (*PAGES, "/static/testpage/main.js", "/static/common/theme.css"):
            assert (await server.ask(path)).status == 404
        for name in ("fastws.js", "fastws.d.ts", "react.js", "react.d.ts"):
            assert (await server.ask(f"/static/{name}")).status == 200
        listed = json.loads((await server.ask("/")).body)["endpoints"]
        assert [endpoint["path"] for endpoint in listed] == ["/static/fastws.js"]


@scenario
async def test_what_is_listed_is_there() -> None:
    async with site() as server:
        listed = json.loads((await server.ask("/")).body)["endpoints"]
        assert {endpoint["path"] for endpoint in listed} == {*PAGES, "/static/fastws.js"}
        for endpoint in listed:
            assert (await server.ask(endpoint["path"])).status == 200


def test_files_of_a_process_are_read_once() -> None:
    assert static_files() is static_files()
    assert page("test.html") is page("test.html")
    with pytest.raises(FileNotFoundError):
        page("missing.html")
