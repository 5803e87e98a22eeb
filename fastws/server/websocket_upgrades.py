"""Requests that become WebSockets: whether they may, the answer, and who goes on with the connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec
import structlog

from fastws._core import send_followed
from fastws.deflate import negotiate
from fastws.errors import ErrorCode
from fastws.limits import Excess, Limits
from fastws.logs import log_limited
from fastws.server.handshake import (
    Refusal,
    Request,
    check_origin,
    check_upgrade,
    declines_compression,
    refusal_response,
    select_subprotocol,
    upgrade_response,
)
from fastws.server.peers import Peers, endpoint

_log = structlog.get_logger("fastws.listener")

OpenConnection = Callable[[asyncio.Transport, Request, bytes, int], None]
"""Takes over a transport after the 101: ``(transport, request, leftover, window_bits)``, leftover being the
bytes that came right behind the head, window_bits what permessage-deflate was agreed with (0: it was not). It
sets the transport's protocol. Where an earlier response of the same connection is still on its way,
``transport.get_write_buffer_size()`` is not 0."""

_NOT_FOUND: Final = Refusal(404, "NOT_FOUND", "there is no WebSocket at this path")
_DRAINING: Final = Refusal(503, "SHUTTING_DOWN", "the server is stopping", (("Retry-After", "5"),))


class WebSocketUpgrades:
    """Opens WebSockets for requests, whoever has read them: the listener, aiohttp, or another framework.

    1. What is not opened is answered why, and counted by its code.
    2. After :meth:`stop` nothing is opened any more.

    Counters: `n_opened`, `refusals` (heads and upgrades, by code).
    """

    def __init__(
        self,
        paths: Mapping[str, OpenConnection],
        *,
        allowed_origins: Collection[str],
        compression: bool,
        peers: Peers,
        limits: Limits,
    ) -> None:
        """`paths` maps paths, with or without trailing slash, to what opens a connection there."""
        self._paths: dict[str, OpenConnection] = {}
        for path, open_connection in paths.items():
            bare = path.rstrip("/")
            self._paths[bare] = self._paths[bare + "/"] = open_connection
        self.configure(allowed_origins=allowed_origins, compression=compression)
        self._peers = peers
        self._limits = limits
        self._is_stopped = False
        self.n_opened = 0
        self.refusals: dict[str, int] = {}

    def configure(self, *, allowed_origins: Collection[str], compression: bool) -> None:
        """Change parameters of the constructor."""
        self._allowed_origins = tuple(allowed_origins)
        self._compression = compression

    def stop(self) -> None:
        """Answer from now on that the server is stopping."""
        self._is_stopped = True

    def count_refusal(self, refusal: Refusal) -> None:
        self.refusals[refusal.code] = self.refusals.get(refusal.code, 0) + 1

    def has_path(self, path: str) -> bool:
        return path in self._paths

    def take(self, transport: asyncio.Transport, request: Request, leftover: bytes) -> None:
        """Open the WebSocket that a request asks for, or answer why not and close `transport`."""
        request = self.identify(transport, request)
        refusal = self.check(request)
        if refusal is None:
            self.open(transport, request, leftover)
        else:
            self.count_refusal(refusal)
            transport.write(refusal_response(refusal))
            transport.close()

    def identify(self, transport: asyncio.Transport, request: Request) -> Request:
        """Return `request` with its peer, who may be behind proxies."""
        address, is_tls = endpoint(transport)
        return msgspec.structs.replace(
            request, peer=self._peers.find(address, request.headers, is_tls=is_tls)
        )

    def check(self, request: Request) -> Refusal | None:
        """Return why an upgrade is refused, None when it is to be opened; charges it to the peer's rate."""
        if request.path not in self._paths:
            return _NOT_FOUND
        if self._is_stopped:
            return _DRAINING
        refusal = check_upgrade(request)
        if refusal is None:
            refusal = check_origin(request, self._allowed_origins)
            if refusal is not None:
                log_limited(
                    _log,
                    "origin refused",
                    "a page of another origin was refused; name it in allowed_origins if it may connect",
                    origin=request.headers.get("origin"),
                    host=request.peer.host or request.headers.get("host"),
                )
        if refusal is None:
            excess = self._limits.handshake(request.peer.key, time.monotonic_ns())
            if excess is not None:
                log_limited(
                    _log,
                    f"{excess.setting} refused",
                    "a handshake was refused; if this peer is a proxy, name it in trusted_proxies",
                    limit=f"{excess.setting} {excess.limit}",
                    peer=request.peer.address,
                )
                return refusal_of_excess(excess)
        return refusal

    def open(self, transport: asyncio.Transport, request: Request, leftover: bytes) -> None:
        """Answer 101 and give `transport` to the handler of the request's path; never raises."""
        try:
            extensions = request.headers.get("sec-websocket-extensions")
            agreed = None
            if self._compression and extensions is not None and not declines_compression(request):
                agreed = negotiate(extensions)
            response = upgrade_response(
                request,
                subprotocol=select_subprotocol(request),
                extensions=None if agreed is None else agreed.response,
            )
            if not write_now(transport, response):
                return
            self.n_opened += 1
            self._paths[request.path](
                transport, request, leftover, 0 if agreed is None else agreed.window_bits
            )
        except Exception as error:
            # A mistake of ours costs this connection, and says so, but never the server.
            log_limited(
                _log,
                "open failed",
                "cannot open a connection",
                level="error",
                path=request.path,
                exc_info=error,
            )
            transport.abort()


def refusal_of_excess(excess: Excess) -> Refusal:
    """Return what a handshake over a limit is answered: 503 where it is the server that is full."""
    status = 503 if excess.setting == "connection_limit" else 429
    code = ErrorCode.RATE_LIMIT_EXCEEDED if excess.setting == "handshake_rate" else ErrorCode.LIMIT_EXCEEDED
    return Refusal(status, code, excess.message, (("Retry-After", str(excess.retry_after)),))


def write_now(transport: asyncio.Transport, data: bytes) -> bool:
    """Write `data` so that nothing that is sent to the socket directly afterwards overtakes it.

    uvloop holds back what is written to a transport until the end of the turn, while the core sends past the
    transport, at once. Returns False when the client is gone. The kernel may keep the data for what follows, so that
    the answer and the greeting are one segment and one wake-up of the client; see `fastws._core.send_followed`.
    """
    if transport.is_closing():
        return False
    if transport.get_write_buffer_size() == 0 and transport.get_extra_info("sslcontext") is None:
        try:
            n_written = send_followed(transport.get_extra_info("socket").fileno(), data)
        except BlockingIOError:
            n_written = 0
        except OSError:
            transport.abort()
            return False
        data = data[n_written:]
    transport.write(data)
    return True
