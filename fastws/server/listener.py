"""The one port, and other places: accepts, reads the first head of every connection, and hands the connection on."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Final, Generic, TypeVar, cast

import msgspec
import structlog
from aiohttp import web

from fastws._core import send_followed
from fastws.deflate import negotiate
from fastws.errors import ErrorCode
from fastws.limits import Excess, Limits
from fastws.logs import log_limited
from fastws.server.acceptor import Acceptor
from fastws.server.handover import HttpConnections
from fastws.server.handshake import (
    HeadReader,
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
from fastws.server.places import Place
from fastws.server.tls import TlsContext
from fastws.server.tls_transport import TlsTransport
from fastws.server.waiting import Waiting

# A refused client may still be sending; closing on unread data would reset the connection and could cost it
# the answer. So the rest is read and dropped for a while.
_LINGER_SECONDS: Final = 1.0
_LINGER_SIZE: Final = 1 << 20

# How many connections that wait for their head may go for one that comes. Many come in one turn of the loop, and their
# descriptors are free only after it: one for one would leave as many as there were when accepting had to stop.
_SHED_WHEN_SCARCE: Final = 4

_log = structlog.get_logger("fastws.listener")

OpenConnection = Callable[[asyncio.Transport, Request, bytes, int], None]
"""Takes over a transport after the 101: ``(transport, request, leftover, window_bits)``, leftover being the
bytes that came right behind the head, window_bits what permessage-deflate was agreed with (0: it was not). It
sets the transport's protocol. Where an earlier response of the same connection is still on its way,
``transport.get_write_buffer_size()`` is not 0."""

_NOT_FOUND: Final = Refusal(404, "NOT_FOUND", "there is no WebSocket at this path")
_DRAINING: Final = Refusal(503, "SHUTTING_DOWN", "the server is stopping", (("Retry-After", "5"),))
_TIMED_OUT: Final = Refusal(408, "REQUEST_TIMEOUT", "the request head took too long")

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """Deadlines of equal length, in order of insertion, with one timer for all of them."""

    def __init__(self, seconds: float, on_expired: Callable[[K], None]) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._on_expired = on_expired
        self._since: dict[K, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._since)

    def add(self, key: K) -> None:
        self._since[key] = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._sweep)

    def discard(self, key: K) -> None:
        self._since.pop(key, None)

    def change(self, seconds: float) -> None:
        """Set another length, also for those that wait."""
        self._seconds = seconds
        if self._timer is not None:
            self._timer.cancel()
            self._sweep()

    def close(self) -> list[K]:
        """Stop the timer; return the keys whose deadlines are not met any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        keys = list(self._since)
        self._since.clear()
        return keys

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        expired = []
        for key, since in self._since.items():
            left = since + self._seconds - now
            if left > 0:
                # Never in quick succession: a storm of clients has a deadline every few microseconds.
                self._timer = self._loop.call_later(max(left, 0.05), self._sweep)
                break
            expired.append(key)
        for key in expired:
            self._since.pop(key, None)
            self._on_expired(key)


class Listener:
    """Listens at some places and hands connections to WebSocket handlers and to aiohttp.

    1. Every accepted connection is in exactly one place: waiting for its head, lingering after a refusal,
       with aiohttp, or with the handler of its WebSocket path, from which it never comes back.
    2. A connection whose head is not complete `handshake_timeout` seconds after it was accepted is closed.
       With TLS its handshake is part of that time. It is closed earlier where its address has too many of them.
    3. After :meth:`stop_accepting` no connection is accepted and no upgrade granted; HTTP on open connections
       goes on until :meth:`close`.

    Counters: `n_accepted`, `n_upgraded`, `refusals` (heads and upgrades, by code), `n_timed_out`,
    `accept_pauses`.
    """

    def __init__(
        self,
        app: web.Application,
        paths: Mapping[str, OpenConnection],
        places: Sequence[Place],
        *,
        tls: TlsContext | None = None,
        handshake_timeout: float = 10.0,
        allowed_origins: Collection[str] = (),
        compression: bool = True,
        peers: Peers | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`paths` maps WebSocket paths, with or without trailing slash, to what opens a connection there.

        `app` must not have been started. `tls` is spoken at all places that other machines can reach. See
        :class:`fastws.settings.Settings` for the rest.
        """
        self._paths: dict[str, OpenConnection] = {}
        for path, open_connection in paths.items():
            bare = path.rstrip("/")
            self._paths[bare] = self._paths[bare + "/"] = open_connection
        self._tls = tls
        self._acceptors = [self._acceptor(place, None if place.is_local else tls) for place in places]
        self._handshake_timeout = handshake_timeout
        self._allowed_origins = tuple(allowed_origins)
        self._compression = compression
        self._peers = peers or Peers()
        self._limits = limits or Limits()
        self.app = app
        self._http = HttpConnections(app, self)
        self._unheard: Waiting[_Head] = Waiting()
        self._is_stopped = False
        self.n_accepted = 0
        self.n_upgraded = 0
        self.refusals: dict[str, int] = {}
        self.n_timed_out = 0

    def configure(
        self, *, handshake_timeout: float, allowed_origins: Collection[str], compression: bool
    ) -> None:
        """Change parameters of the constructor while it listens."""
        self._handshake_timeout = handshake_timeout
        self._allowed_origins = tuple(allowed_origins)
        self._compression = compression
        self._pending.change(handshake_timeout)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Host and port of every TCP socket listened on; with port 0 asked for, the port that was given."""
        return [address for acceptor in self._acceptors for address in acceptor.addresses]

    @property
    def port(self) -> int:
        """The TCP port listened on."""
        return self.addresses[0][1]

    @property
    def is_tls(self) -> bool:
        """Whether clients on other machines speak TLS."""
        return self._tls is not None

    @property
    def is_paused(self) -> bool:
        """Whether clients wait in the backlog for want of file descriptors."""
        return any(acceptor.is_paused for acceptor in self._acceptors)

    @property
    def accept_pauses(self) -> int:
        """How often that has begun."""
        return sum(acceptor.n_pauses for acceptor in self._acceptors)

    @property
    def n_pending(self) -> int:
        """Connections whose head is not complete yet."""
        return len(self._pending)

    @property
    def n_http(self) -> int:
        """Connections with aiohttp."""
        return self._http.n_open

    async def start(self) -> None:
        """Bind and listen.

        Raises:
            SettingsError: a place cannot be listened on; the text names the setting and the fix.
        """
        self._pending: Deadlines[_Head] = Deadlines(self._handshake_timeout, self._on_timeout)
        self._lingering: Deadlines[_Head] = Deadlines(_LINGER_SECONDS, lambda head: head.transport.abort())
        await self._http.start()
        try:
            for acceptor in self._acceptors:
                await acceptor.start()
        except BaseException:
            self.stop_accepting()
            await self._http.close()
            raise
        for acceptor in self._acceptors:
            for url in acceptor.urls(is_tls=self.is_tls):
                _log.info("listening", url=url)

    def stop_accepting(self) -> None:
        """Close the listening sockets; the kernel resets whoever waits in their backlog."""
        self._is_stopped = True
        for acceptor in self._acceptors:
            acceptor.stop()

    @property
    def sockets(self) -> list[tuple[Place, socket.socket]]:
        """What it listens at, with the places; they stay its own."""
        return [(acceptor.place, sock) for acceptor in self._acceptors for sock in acceptor.sockets]

    def pass_on(self) -> None:
        """Leave the places to another process, which has the sockets: who waits in their backlog finds that.

        Who was accepted already is served still.
        """
        for acceptor in self._acceptors:
            acceptor.pass_on()

    async def close(self) -> None:
        """Stop accepting and end every connection that is not with a WebSocket handler."""
        self.stop_accepting()
        for acceptor in self._acceptors:
            await acceptor.wait_stopped()
        for head in (*self._pending.close(), *self._lingering.close()):
            head.transport.abort()
        await self._http.close()

    # What others have accepted; see `fastws.server.mounting`.

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request that has come to somebody else's aiohttp; an upgrade takes the connection from it."""
        return await self._http.answer(request)

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

    # Connections.

    def _acceptor(self, place: Place, tls: TlsContext | None) -> Acceptor:
        def make() -> asyncio.BaseProtocol:
            head = _Head(self, acceptor)
            return head if tls is None else TlsTransport(tls, head)

        acceptor = Acceptor(make, place)
        return acceptor

    def on_accepted(self, head: _Head) -> None:
        self.n_accepted += 1
        self._pending.add(head)
        head.is_scarce = head.acceptor.on_accepted(head.transport)
        head.key = self._peers.key_of_socket(endpoint(head.transport)[0])
        if head.key is None:
            return
        now = time.monotonic()
        self._unheard.add(head, head.key, now)
        limit = self._limits.half_open_per_ip
        for _ in range(_SHED_WHEN_SCARCE if head.is_scarce else 1):
            excess = self._unheard.excess(head.key, limit, now, is_scarce=head.is_scarce)
            if excess is None:
                break
            self.note_half_open(excess.transport)
            self._settle(excess)
            excess.transport.abort()

    def on_head(self, head: _Head, request: Request, data: bytes, leftover: bytes) -> None:
        """Hand on a connection whose head is complete; `data` is all that was read from it."""
        self._settle(head)
        transport = head.transport
        if not request.is_upgrade:
            self._http.adopt(transport, data, head.key, is_scarce=head.is_scarce)
            return
        request = self.identify(transport, request)
        refusal = self.check(request)
        if refusal is None:
            self.open(transport, request, leftover)
        else:
            self.refuse(head, refusal)

    def refuse(self, head: _Head, refusal: Refusal) -> None:
        """Answer `refusal` and close the connection once the client has taken it."""
        self.count_refusal(refusal)
        self._settle(head)
        transport = head.transport
        if transport.is_closing():
            return
        head.reader = None
        self._lingering.add(head)
        transport.write(refusal_response(refusal))
        transport.write_eof()

    def count_refusal(self, refusal: Refusal) -> None:
        self.refusals[refusal.code] = self.refusals.get(refusal.code, 0) + 1

    def on_lost(self, head: _Head) -> None:
        self._settle(head)
        self._lingering.discard(head)

    def _settle(self, head: _Head) -> None:
        """It waits for its head no more."""
        self._pending.discard(head)
        self._unheard.discard(head)

    def _on_timeout(self, head: _Head) -> None:
        self.n_timed_out += 1
        reader = head.reader
        if reader is None or reader.is_empty:
            # Browsers open connections ahead of need; an answer to no question would confuse them.
            head.transport.abort()
        else:
            self.refuse(head, _TIMED_OUT)

    @property
    def half_open_per_ip(self) -> int:
        """How many connections of an address may wait for a request; 0: any number."""
        return self._limits.half_open_per_ip

    def note_half_open(self, transport: asyncio.Transport) -> None:
        """Note that `transport` is closed because too many of its address wait for a request."""
        self._limits.note_half_open()
        log_limited(
            _log,
            "half_open_per_ip closed",
            "an address has too many connections that wait for a request, the oldest are closed; "
            "if this peer is a proxy, name it in trusted_proxies",
            limit=f"half_open_per_ip {self._limits.half_open_per_ip}",
            peer=endpoint(transport)[0],
        )

    # Upgrades, also those that come later on a connection of aiohttp's.

    def is_websocket_path(self, path: str) -> bool:
        return path in self._paths

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
            self.n_upgraded += 1
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


class _Head(asyncio.Protocol):
    """A connection until its head is complete, or, after a refusal, until the client is gone."""

    __slots__ = ("_listener", "_n_dropped", "acceptor", "is_scarce", "key", "reader", "transport")

    transport: asyncio.Transport
    is_scarce: bool
    """Whether file descriptors were when it was accepted."""
    key: str | None
    """What limits count it by until its head tells more; see `Peers.key_of_socket`."""

    def __init__(self, listener: Listener, acceptor: Acceptor) -> None:
        self._listener = listener
        self.acceptor = acceptor
        self._n_dropped = 0
        self.reader: HeadReader | None = HeadReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._listener.on_accepted(self)

    def data_received(self, data: bytes) -> None:
        reader = self.reader
        if reader is None:
            self.data_dropped(len(data))
            return
        result = reader.feed(data)
        if result is None:
            return
        if isinstance(result, Refusal):
            self._listener.refuse(self, result)
            return
        is_whole = len(reader.head) + len(reader.body) == len(data)
        self._listener.on_head(self, result, data if is_whole else reader.head + reader.body, reader.body)

    def data_dropped(self, n_bytes: int) -> None:
        """Count what comes after a refusal, which TLS does not even decrypt."""
        self._n_dropped += n_bytes
        if self._n_dropped > _LINGER_SIZE:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.on_lost(self)


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
