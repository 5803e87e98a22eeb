"""The routes of the pages and of what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiohttp import web

from fastws.server.http import Endpoint, Handler, HttpError, add_endpoints, is_known, refusal_of
from fastws.web.assets import Asset, accepts_gzip, page, static_files

DASHBOARD_PATH: Final = "/realtime/dashboard/"
TEST_PATH: Final = "/realtime/test/"

_STATIC: Final = "/static/"
_PAGES: Final = (
    (DASHBOARD_PATH, "dashboard.html", "live dashboard: prices, order books, alerts"),
    (TEST_PATH, "test.html", "test page: send messages, watch what comes"),
)

_PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        # Of the same host and port ws: and wss: as well (CSP 3).
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Permissions-Policy": (
        "accelerometer=(), camera=(), display-capture=(), geolocation=(), gyroscope=(), magnetometer=(), "
        "microphone=(), midi=(), payment=(), usb=()"
    ),
    "Referrer-Policy": "no-referrer",
}
_STATIC_HEADERS: Final = {
    # Pages of any origin may load the client library; there is nothing of a user in these files.
    "Access-Control-Allow-Origin": "*",
    # For a drawing or a text that is opened by itself.
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def add_web_routes(app: web.Application, *, has_pages: bool) -> None:
    """Add what browsers load to an application of :mod:`fastws.server.http`; without pages only the client library."""
    files = static_files()
    if has_pages:
        add_endpoints(
            app,
            [
                Endpoint("GET", path.rstrip("/"), _page_handler(name), about, is_for_pages=False)
                for path, name, about in _PAGES
            ],
        )
    else:
        files = {name: file for name, file in files.items() if "/" not in name}
    serve = _StaticFiles(files).serve
    add_endpoints(app, [Endpoint("GET", f"{_STATIC}fastws.js", serve, "the client library for JavaScript")])
    app.router.add_get(_STATIC + "{name:.+}", serve)


class _StaticFiles:
    def __init__(self, files: Mapping[str, Asset]) -> None:
        self._files = files

    async def serve(self, request: web.Request) -> web.Response:
        # Nothing but what was read at the start can be asked for, whatever the path is.
        file = self._files.get(request.path.removeprefix(_STATIC).removesuffix("/"))
        if file is None:
            raise HttpError(refusal_of(404))
        return _answer(request, file, _STATIC_HEADERS)


def _page_handler(name: str) -> Handler:
    shown = page(name)

    async def serve(request: web.Request) -> web.Response:
        asset = shown.with_slash if request.path.endswith("/") else shown.without_slash
        return _answer(request, asset, _PAGE_HEADERS)

    return serve


def _answer(request: web.Request, asset: Asset, headers: Mapping[str, str]) -> web.Response:
    """Answer with `asset`, or with 304 where the client has it already.

    Names stay what they are from version to version, so browsers keep files but ask each time whether they are new.
    """
    body, tag, encoding = asset.body, asset.tag, {}
    if asset.packed is not None and accepts_gzip(",".join(request.headers.getall("Accept-Encoding", ()))):
        body, tag, encoding = asset.packed, asset.packed_tag, {"Content-Encoding": "gzip"}
    if is_known(request, tag):
        response = web.Response(status=304)
    else:
        response = web.Response(body=body, headers={"Content-Type": asset.content_type, **encoding})
    response.headers.update(headers)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["Vary"] = "Accept-Encoding"
    response.etag = tag
    return response
