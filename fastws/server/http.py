"""The HTTP endpoints beside the WebSocket ones, as an aiohttp application.

Every body is JSON; every error, whoever finds it, is ``{"error":{"code":…,"message":…}}`` with a matching
status. Handlers read what is in memory and wait for nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import orjson
from aiohttp import web

from fastws._market import utc_text
from fastws._version import __version__
from fastws.clock import wall_ms
from fastws.errors import FastwsError
from fastws.server import asyncapi
from fastws.server.handshake import Refusal, error_body

MAX_BODY_SIZE: Final = 1 << 20

PUBLISHED_SECONDS: Final = 60
"""How long a server without a feed counts as supplied after something was published to it."""

# For a body to arrive and to be dealt with.
_REQUEST_SECONDS: Final = 30.0

_ENCODED: Final = Refusal(
    415,
    "UNSUPPORTED_MEDIA_TYPE",
    "compressed bodies are not accepted; send it without Content-Encoding",
    (("Accept-Encoding", "identity"),),
)
_LATE_BODY: Final = Refusal(408, "REQUEST_TIMEOUT", "the body took too long")
_MALFORMED_BODY: Final = Refusal(400, "BAD_REQUEST", "malformed or incomplete body")

_JSON: Final = {"Content-Type": "application/json; charset=utf-8"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ServerView(Protocol):
    """What the routes read of the server."""

    @property
    def is_draining(self) -> bool:
        """True once the server has begun to stop."""

    @property
    def is_cut_off(self) -> bool:
        """Whether other instances cannot be heard, where that matters to load balancers."""

    @property
    def n_connections(self) -> int:
        """Open WebSocket connections."""

    @property
    def feeds(self) -> Mapping[str, str]:
        """State of each upstream feed by name: live, stale, reconnecting or stopped."""

    @property
    def last_update_ms(self) -> int | None:
        """When the last price or book was published, ms since the Unix epoch; None before the first."""

    def stats(self) -> Mapping[str, Any]:
        """The body of ``/v1/ws/stats``."""

    def cluster_stats(self) -> Mapping[str, Any]:
        """The same of all instances together."""


class Endpoint(NamedTuple):
    """What answers `method` (GET: HEAD as well) at `path`, with and without a trailing slash, and what for.

    `is_for_pages`: whether pages of other origins that are allowed may have its answers; see
    :mod:`fastws.server.cors`.
    """

    method: str
    path: str
    handler: Handler
    about: str
    is_for_pages: bool = True


class HttpError(FastwsError):
    """Raised by a route to answer `refusal`, and `details` for programs, if any."""

    def __init__(self, refusal: Refusal, details: Mapping[str, object] | None = None) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
        self.details = details


_LISTED: Final = web.AppKey("listed", list[dict[str, str]])
_NOT_FOR_PAGES: Final = web.AppKey("not_for_pages", set[str])


def bare_app(websocket_paths: Sequence[str] = ()) -> web.Application:
    """Return an application that bounds bodies, answers errors as JSON, and lists at ``/`` what there is.

    `websocket_paths` are those that the listener serves itself, for the list.
    """
    app = web.Application(middlewares=[_answer_errors], client_max_size=MAX_BODY_SIZE)
    app.on_response_prepare.append(_set_headers)
    app[_NOT_FOR_PAGES] = set()
    app[_LISTED] = [{"path": path, "protocol": "websocket", "about": "prices"} for path in websocket_paths]

    async def root(request: web.Request) -> web.Response:
        return json_response({"name": "fastws", "version": __version__, "endpoints": app[_LISTED]})

    app.router.add_get("/", root)
    return app


def add_endpoints(app: web.Application, endpoints: Iterable[Endpoint]) -> None:
    """Add `endpoints` to an application of :func:`bare_app`, and to its list."""
    for endpoint in endpoints:
        app[_LISTED].append(
            {
                "path": endpoint.path,
                "protocol": "http",
                "method": endpoint.method,
                "about": endpoint.about,
            }
        )
        for variant in (endpoint.path, endpoint.path + "/"):
            if not endpoint.is_for_pages:
                app[_NOT_FOR_PAGES].add(variant)
            if endpoint.method == "GET":
                app.router.add_get(variant, endpoint.handler)
            else:
                app.router.add_route(endpoint.method, variant, endpoint.handler)


def is_for_pages(request: web.Request) -> bool:
    """Whether what is asked for may be had by pages of other origins, as far as the path goes."""
    return request.path not in request.app[_NOT_FOR_PAGES]


def add_probe_routes(app: web.Application, server: ServerView) -> None:
    """Add the endpoints that load balancers ask."""
    probes = _Probes(server)
    add_endpoints(
        app,
        (
            Endpoint(
                "GET", "/health", probes.health, "whether the server lives, its feed and its connections"
            ),
            Endpoint("GET", "/ready", probes.ready, "200, or 503 while the server stops, or is cut off"),
        ),
    )


def add_public_routes(app: web.Application, server: ServerView) -> None:
    """Add the endpoints that anybody may read."""
    routes = _Routes(server)
    add_endpoints(
        app,
        (
            Endpoint(
                "GET", "/v1/ws/stats", routes.stats, "statistics; ?scope=cluster of all instances together"
            ),
            Endpoint(
                "GET",
                "/v1/asyncapi.json",
                routes.contract,
                "the messages of /v1/ws, as an AsyncAPI document",
            ),
        ),
    )


class _Probes:
    def __init__(self, server: ServerView) -> None:
        self._server = server

    async def health(self, request: web.Request) -> web.Response:
        """Answer 200 whatever the prices do: a server without them still serves.

        `price_feed_running` is whether a feed is live or stale (then it runs, and has nothing to tell); on a server
        without a feed, whether a price or a book was published to it within the last `PUBLISHED_SECONDS`.
        """
        now, last = wall_ms(), self._server.last_update_ms
        if feeds := self._server.feeds:
            is_feed_running = any(status in ("live", "stale") for status in feeds.values())
        else:
            is_feed_running = last is not None and now - last < 1000 * PUBLISHED_SECONDS
        return json_response(
            {
                "status": "ok",
                "price_feed_running": is_feed_running,
                "active_connections": self._server.n_connections,
                "timestamp": utc_text(now),
            }
        )

    async def ready(self, request: web.Request) -> web.Response:
        status = (
            "draining" if self._server.is_draining else "relay away" if self._server.is_cut_off else "ready"
        )
        return json_response(
            {"status": status, "timestamp": utc_text(wall_ms())}, status=200 if status == "ready" else 503
        )


class _Routes:
    def __init__(self, server: ServerView) -> None:
        self._server = server
        self._contract = msgspec.json.encode(asyncapi.document())
        self._contract_tag = hashlib.sha256(self._contract).hexdigest()[:32]

    async def stats(self, request: web.Request) -> web.Response:
        scope = request.query.get("scope", "instance")
        if scope not in ("instance", "cluster"):
            raise HttpError(
                Refusal(400, "INVALID_PARAMETER", "scope must be instance or cluster, where all are added up")
            )
        return json_response(self._server.cluster_stats() if scope == "cluster" else self._server.stats())

    async def contract(self, request: web.Request) -> web.Response:
        # Kept by whoever fetches it, and asked for again: another version of the server may say something else.
        has_it = is_known(request, self._contract_tag)
        response = web.Response(status=304) if has_it else json_response(self._contract)
        response.etag = self._contract_tag
        response.headers["Cache-Control"] = "no-cache"
        return response


def json_response(body: Mapping[str, Any] | bytes, *, status: int = 200) -> web.Response:
    """Return a JSON response; `body` is encoded unless it is bytes."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return web.Response(body=data, status=status, headers=_JSON)


def is_known(request: web.Request, tag: str) -> bool:
    """Whether the client has the representation with this entity tag already, to be answered 304."""
    return any(known.value in (tag, "*") for known in request.if_none_match or ())


def problem_response(refusal: Refusal, details: Mapping[str, object] | None = None) -> web.Response:
    """Return the response of `refusal`."""
    body = error_body(refusal.code, refusal.message, details)
    response = json_response(body, status=refusal.status)
    response.headers.extend(refusal.headers)
    return response


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        # Answered here, where nobody looks at the body: a decoder would have to be bounded, and nobody needs one.
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise HttpError(_ENCODED)
        async with asyncio.timeout(_REQUEST_SECONDS):
            return await handler(request)
    except TimeoutError:
        if request.content.is_eof():
            raise
        response = problem_response(_LATE_BODY)
        response.force_close()
        return response
    except HttpError as problem:
        return problem_response(problem.refusal, problem.details)
    except web.RequestPayloadError:
        response = problem_response(_MALFORMED_BODY)
        response.force_close()  # where the next request begins is unknown
        return response
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = problem_response(refusal_of(error.status))
        if "Allow" in error.headers:
            response.headers["Allow"] = error.headers["Allow"]
        return response


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    headers = response.headers
    headers["Server"] = "fastws"  # aiohttp would tell its version and Python's
    headers["X-Content-Type-Options"] = "nosniff"
    headers.setdefault("Cache-Control", "no-store")


def refusal_of(status: int) -> Refusal:
    """Return the refusal that goes with an HTTP status that aiohttp has chosen."""
    phrase = HTTPStatus(status).phrase
    code = phrase.upper().replace(" ", "_").replace("-", "_")
    return Refusal(status, code, _MESSAGES.get(status, phrase.lower()))


_MESSAGES: Final = {
    400: "malformed HTTP request",
    404: "there is nothing at this path",
    405: "this path does not support the method",
    413: f"the body is over {MAX_BODY_SIZE} bytes",
    417: "of all expectations only 100-continue is met",
    500: "internal error",
    504: "the request took too long",
}
