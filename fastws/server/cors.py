"""What pages of other origins may ask over HTTP, as the Fetch standard lets a server tell browsers (CORS).

Without it browsers send most of what such pages ask, and keep the answer from them. What they may do is decided
elsewhere, by tokens and by the origin itself; see :mod:`fastws.server.callers`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

from aiohttp import web

from fastws.server.handshake import ORIGIN_NOT_ALLOWED, is_named
from fastws.server.http import Handler, HttpError, is_for_pages

# A browser need not ask again for so long; what is no longer allowed by then does not get an answer that it may read.
_KEPT_SECONDS: Final = 600

# Beyond what every page may send. Authorization has to be named: a * would not include it.
_REQUEST_HEADERS: Final = "Authorization, Content-Type, If-None-Match"
# Beyond what every page may read.
_RESPONSE_HEADERS: Final = "ETag, Retry-After"


class OriginsView(Protocol):
    """What the rules need of the server."""

    @property
    def allowed_origins(self) -> Collection[str]:
        """Origins of pages, beside the server's own, that may connect; ``*`` is all of them."""


def add_cors(app: web.Application, server: OriginsView) -> None:
    """Let pages of the server's `allowed_origins` ask what is for pages in an application of :mod:`fastws.server.http`.

    1. A page of an origin that is named may bring what the browser keeps for the user, cookies above all, and is told
       so by its own name. All the others that a ``*`` lets in may not: they have what they bring themselves.
    2. A question before the question (``OPTIONS``) is answered for methods that the path has; nothing else is done.
    3. Every answer says that it depends on the origin, so that no cache gives one page the answer of another.

    The setting is looked at anew for every request. A response that names an origin already stays as it is.
    """

    async def describe(request: web.Request, response: web.StreamResponse) -> None:
        origins = server.allowed_origins
        if not origins or not is_for_pages(request) or "Access-Control-Allow-Origin" in response.headers:
            return
        response.headers.add("Vary", "Origin")
        origin = request.headers.get("Origin")
        if origin is None:
            return
        if is_named(origin, origins):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Credentials"] = "true"
        elif "*" in origins:
            response.headers["Access-Control-Allow-Origin"] = "*"
        else:
            return
        response.headers["Access-Control-Expose-Headers"] = _RESPONSE_HEADERS

    @web.middleware
    async def answer_preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        wanted = request.headers.get("Access-Control-Request-Method")
        refused = request.match_info.http_exception
        if (
            request.method != "OPTIONS"
            or origin is None
            or wanted is None
            or not isinstance(refused, web.HTTPMethodNotAllowed)
            or wanted not in refused.allowed_methods
            or not is_for_pages(request)
        ):
            return await handler(request)
        origins = server.allowed_origins
        if "*" not in origins and not is_named(origin, origins):
            raise HttpError(ORIGIN_NOT_ALLOWED)
        return web.Response(
            status=204,
            headers={
                "Access-Control-Allow-Methods": ", ".join(sorted(refused.allowed_methods)),
                "Access-Control-Allow-Headers": _REQUEST_HEADERS,
                "Access-Control-Max-Age": str(_KEPT_SECONDS),
            },
        )

    app.middlewares.append(answer_preflight)
    app.on_response_prepare.append(describe)
