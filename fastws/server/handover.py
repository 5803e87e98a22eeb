"""Connections between the listener and aiohttp: handed over with their first request, and taken back.

The listener reads the first head of a connection. What is no WebSocket upgrade goes on in aiohttp, which
keeps the connection for further requests. When one of those asks for a WebSocket after all, the transport is
taken from aiohttp and goes the way it would have gone at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from aiohttp import StreamReader, web
from aiohttp.http import RawRequestMessage

from fastws.limits import Limits
from fastws.logs import log_limited
from fastws.server.handshake import (
    MAX_HEAD_SIZE,
    MAX_HEADERS,
    UPGRADE_REQUIRED,
    Refusal,
    parse_head,
)
from fastws.server.http import problem_response, refusal_of
from fastws.server.peers import endpoint
from fastws.server.waiting import Waiting, note_closed
from fastws.server.websocket_upgrades import WebSocketUpgrades
from fastws.upgrading import has_token

_KEEP_ALIVE_SECONDS: Final = 60.0
# What a client that has closed its sending side may wait for its answer.
_HALF_CLOSED_SECONDS: Final = 10.0

_log = structlog.get_logger("fastws.http")


class HttpConnections:
    """aiohttp on transports that somebody else has accepted.

    1. Between :meth:`adopt` and its end, or its upgrade, a transport belongs to aiohttp.
    2. An upgrade leaves no byte, no task and no timer of the connection with aiohttp.
    3. Where an address comes with more than `half_open_per_ip` of them, one that is idle is closed for each more.
    """

    def __init__(self, app: web.Application, upgrades: WebSocketUpgrades, limits: Limits) -> None:
        """`app` must not have been started; it gets one more middleware."""
        self._upgrades = upgrades
        self._limits = limits
        app.middlewares.insert(0, self._take_back)
        self._app = app
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        self._server: web.Server | None = None
        self._kept: Waiting[HttpProtocol] = Waiting()

    async def start(self) -> None:
        await self._runner.setup()
        self._server = self._runner.server

    async def close(self) -> None:
        """Close idle connections, give the others two seconds, and end the application."""
        await self._runner.cleanup()
        self._server = None

    @property
    def n_open(self) -> int:
        """Connections that aiohttp has now."""
        return 0 if self._server is None else len(self._server.connections)

    def adopt(self, transport: asyncio.Transport, data: bytes, key: str | None, *, is_scarce: bool) -> None:
        """Go on with `transport` in aiohttp; `data` is everything read from it so far.

        `key` is what limits count it by, None: not at all; `is_scarce` says whether file descriptors are.
        """
        if self._server is None:  # on the way down
            transport.abort()
            return
        protocol = HttpProtocol(self._server, asyncio.get_running_loop(), self._kept)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if key is not None:
            self._keep(protocol, key, is_scarce)
        protocol.data_received(data)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request that has come to another application of aiohttp, with the path that it has here."""
        if self._server is None:  # on the way down
            return problem_response(refusal_of(503))
        try:
            response = await self._server.request_handler(request)
        except (web.RequestPayloadError, ConnectionError):
            raise
        except Exception as error:
            log_limited(
                _log,
                "http request failed",
                "request failed",
                level="error",
                path=request.path,
                exc_info=error,
            )
            response = problem_response(refusal_of(500))
        # aiohttp asks only the application that the request has come to.
        if not response.prepared:
            await self._app.on_response_prepare.send(request, response)
        return response

    def _keep(self, protocol: HttpProtocol, key: str, is_scarce: bool) -> None:
        now = time.monotonic()
        self._kept.add(protocol, key, now)
        excess = self._kept.excess(
            key,
            self._limits.half_open_per_ip,
            now,
            is_scarce=is_scarce,
            is_idle=lambda kept: kept.is_idle,
        )
        if excess is not None:
            self._kept.discard(excess)
            if (transport := excess.transport) is not None:
                note_closed(self._limits, endpoint(transport)[0])
                if is_scarce:
                    # What it has not taken of its last answer would keep the descriptor.
                    transport.abort()
            excess.force_close()

    @web.middleware
    async def _take_back(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        headers = request.headers
        # No list here: only after exactly this value has aiohttp left what follows unparsed.
        is_upgrade = headers.get("Upgrade", "").lower() == "websocket" and has_token(
            ",".join(headers.getall("Connection", ())), "upgrade"
        )
        if not is_upgrade:
            if self._upgrades.has_path(request.path):
                return problem_response(UPGRADE_REQUIRED)
            return await handler(request)
        # The same strict parser as for a first head, so that both ways accept the same.
        head = parse_head(_head_of(request))
        transport = request.transport
        if transport is not None and not isinstance(head, Refusal):
            head = self._upgrades.identify(transport, head)
        refusal = head if isinstance(head, Refusal) else self._upgrades.check(head)
        if refusal is not None:
            self._upgrades.count_refusal(refusal)
        if refusal is not None or isinstance(head, Refusal):
            response = problem_response(refusal or UPGRADE_REQUIRED)
            response.force_close()  # what follows may be WebSocket frames
            return response
        protocol = request.protocol
        if transport is not None and not transport.is_closing():
            leftover = _detach(protocol)
            # Its end has been read, nobody would see it again.
            if isinstance(protocol, HttpProtocol) and protocol.is_half_closed:
                transport.close()
            else:
                self._upgrades.open(transport, head, leftover)
        return _NoResponse(status=101)


def _head_of(request: web.Request) -> bytes:
    version = request.version
    line = f"{request.method} {request.raw_path} HTTP/{version.major}.{version.minor}\r\n"
    fields = [name + b": " + value + b"\r\n" for name, value in request.raw_headers]
    return line.encode("utf-8", "surrogateescape") + b"".join(fields) + b"\r\n"


def _detach(protocol: web.RequestHandler) -> bytes:
    """End aiohttp's part in a connection without closing it; return what came after the upgrade's head."""
    tail = _Tail()
    # aiohttp keeps what follows an upgrade for whoever parses it, and resumes reading if that was too much.
    protocol.set_parser(tail)  # type: ignore[arg-type]
    # Without a transport there is nothing that it could close at the end of the connection as it sees it.
    protocol.transport = None
    protocol.connection_lost(None)
    return bytes(tail.data)


class _Tail:
    """Takes the place of aiohttp's WebSocket parser."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        pass


class _NoResponse(web.StreamResponse):
    """What the route of an upgraded connection returns: there is nothing left to answer, or nobody."""

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class HttpProtocol(web.RequestHandler):
    """aiohttp's connection, with errors as JSON and answers for clients that close their sending side."""

    __slots__ = ("_body", "_kept", "is_half_closed")

    def __init__(
        self, server: web.Server, loop: asyncio.AbstractEventLoop, kept: Waiting[HttpProtocol]
    ) -> None:
        """`kept` is where it may be counted, and then notes when it is heard from and when it ends."""
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=_KEEP_ALIVE_SECONDS,
            access_log=None,  # type: ignore[arg-type]  # aiohttp's own runner passes None to switch it off
            max_field_size=MAX_HEAD_SIZE,
            max_headers=MAX_HEADERS,
            auto_decompress=False,
        )
        self.is_half_closed = False
        self._body: StreamReader | None = None
        self._kept = kept

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request."""
        return self._waiter is not None and not self._waiter.done()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what no middleware can: heads that aiohttp refuses, and exceptions of a route."""
        if status >= 500 and not isinstance(exc, ConnectionError):  # the client has left
            log_limited(
                _log, "http request failed", "request failed", level="error", path=request.path, exc_info=exc
            )
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun; it cannot become an error any more")
        response = problem_response(refusal_of(status))
        response.headers["Server"] = "fastws"
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response; what aiohttp answers past the middlewares, such as 417, gets the shape of the others."""
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            resp = problem_response(refusal_of(resp.status))
        return await super().finish_response(request, resp, start_time)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Say once in a while what aiohttp would say each time, and nothing where the client is to blame."""
        error = kw.get("exc_info")
        if not isinstance(error, (web.RequestPayloadError, ConnectionError)):
            log_limited(
                _log, "http failed", "a connection failed", level="error", reason=str(args[0]), exc_info=error
            )

    def data_received(self, data: bytes) -> None:
        self._kept.touch(self, time.monotonic())
        super().data_received(data)
        for message, body in self._messages:
            if isinstance(message, RawRequestMessage):
                self._body = body
            else:
                # What cannot be parsed is answered when the request before it is done; but where it is in the body
                # of that request, that would never be.
                self._end_body()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._kept.discard(self)
        super().connection_lost(exc)
        self._end_body()  # behind an answer, aiohttp would go on waiting for it

    def _end_body(self) -> None:
        """Tell whoever waits for the rest of the last request's body that it will not come."""
        if self._body is not None and not self._body.is_eof():
            self._body.set_exception(web.RequestPayloadError("the body is malformed or incomplete"))

    def eof_received(self) -> bool | None:  # type: ignore[override]  # as asyncio.Protocol allows
        """Keep a half-closed connection until its request is answered."""
        self._end_body()
        if self.is_idle:  # nothing is owed
            return None
        self.is_half_closed = True
        self.close()
        self._loop.call_later(_HALF_CLOSED_SECONDS, self.force_close)
        return True
