"""The one port, and other places: accepts, reads the first head of every connection, and hands the connection on."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final, cast

import structlog
from aiohttp import web

from fastws.limits import Limits
from fastws.server.acceptor import Acceptor
from fastws.server.deadlines import Deadlines
from fastws.server.handover import HttpConnections
from fastws.server.handshake import (
    HeadReader,
    Refusal,
    Request,
    refusal_response,
)
from fastws.server.peers import Peers, endpoint
from fastws.server.places import Place
from fastws.server.tls import TlsContext
from fastws.server.tls_transport import TlsTransport
from fastws.server.waiting import Waiting, note_closed
from fastws.server.websocket_upgrades import OpenConnection, WebSocketUpgrades

# A refused client may still be sending; closing on unread data would reset the connection and could cost it
# the answer. So the rest is read and dropped for a while.
_LINGER_SECONDS: Final = 1.0
_LINGER_SIZE: Final = 1 << 20

# How many connections that wait for their head may go for one that comes. Many come in one turn of the loop, and their
# descriptors are free only after it: one for one would leave as many as there were when accepting had to stop.
_SHED_WHEN_SCARCE: Final = 4

_log = structlog.get_logger("fastws.listener")

_TIMED_OUT: Final = Refusal(408, "REQUEST_TIMEOUT", "the request head took too long")


class Listener:
    """Listens at some places and hands connections to WebSocket handlers and to aiohttp.

    1. Every accepted connection is in exactly one place: waiting for its head, lingering after a refusal,
       with aiohttp, or with the handler of its WebSocket path, from which it never comes back.
    2. A connection whose head is not complete `handshake_timeout` seconds after it was accepted is closed.
       With TLS its handshake is part of that time. It is closed earlier where its address has too many of them.
    3. After :meth:`stop_accepting` no connection is accepted and no upgrade granted; HTTP on open connections
       goes on until :meth:`close`.

    Counters: `n_accepted`, `n_timed_out`, `accept_pauses`; those of `upgrades`.
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
        """`paths` are those of :class:`fastws.server.websocket_upgrades.WebSocketUpgrades`.

        `app` must not have been started. `tls` is spoken at all places that other machines can reach. See
        :class:`fastws.settings.Settings` for the rest.
        """
        self._tls = tls
        self._acceptors = [self._acceptor(place, None if place.is_local else tls) for place in places]
        self._handshake_timeout = handshake_timeout
        self._peers = peers or Peers()
        self._limits = limits or Limits()
        self.upgrades = WebSocketUpgrades(
            paths,
            allowed_origins=allowed_origins,
            compression=compression,
            peers=self._peers,
            limits=self._limits,
        )
        self.app = app
        self._http = HttpConnections(app, self.upgrades, self._limits)
        self._unheard: Waiting[_Head] = Waiting()
        self._is_closed = False
        self.n_accepted = 0
        self.n_timed_out = 0

    def configure(
        self, *, handshake_timeout: float, allowed_origins: Collection[str], compression: bool
    ) -> None:
        """Change parameters of the constructor while it listens."""
        self._handshake_timeout = handshake_timeout
        self.upgrades.configure(allowed_origins=allowed_origins, compression=compression)
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
            # Somebody may have come to the first of them.
            await self.close()
            raise
        for acceptor in self._acceptors:
            for url in acceptor.urls(is_tls=self.is_tls):
                _log.info("listening", url=url)

    def stop_accepting(self) -> None:
        """Close the listening sockets; the kernel resets whoever waits in their backlog."""
        self.upgrades.stop()
        for acceptor in self._acceptors:
            acceptor.stop()

    @property
    def sockets(self) -> list[tuple[Place, socket.socket]]:
        """What it listens at, with the places; they stay its own."""
        return [(acceptor.place, sock) for acceptor in self._acceptors for sock in acceptor.sockets]

    def hold(self) -> None:
        """Accept nobody, and keep the places; who was accepted already is served still. See `Acceptor.hold`."""
        for acceptor in self._acceptors:
            acceptor.hold()

    def go_on(self) -> None:
        """Accept again."""
        for acceptor in self._acceptors:
            acceptor.go_on()

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
        self._is_closed = True
        for head in (*self._pending.close(), *self._lingering.close()):
            head.transport.abort()
        await self._http.close()

    # What others have accepted; see `fastws.server.mounting`.

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request that has come to somebody else's aiohttp; an upgrade takes the connection from it."""
        return await self._http.answer(request)

    # Connections.

    def _acceptor(self, place: Place, tls: TlsContext | None) -> Acceptor:
        def make() -> asyncio.BaseProtocol:
            head = _Head(self, acceptor)
            return head if tls is None else TlsTransport(tls, head)

        acceptor = Acceptor(make, place)
        return acceptor

    def on_accepted(self, head: _Head) -> None:
        if self._is_closed:
            # The loop has accepted it before, and tells of it some turns later.
            head.transport.abort()
            return
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
            note_closed(self._limits, endpoint(excess.transport)[0])
            self._settle(excess)
            excess.transport.abort()

    def on_head(self, head: _Head, request: Request, data: bytes, leftover: bytes) -> None:
        """Hand on a connection whose head is complete; `data` is all that was read from it."""
        self._settle(head)
        transport = head.transport
        if not request.is_upgrade:
            self._http.adopt(transport, data, head.key, is_scarce=head.is_scarce)
            return
        request = self.upgrades.identify(transport, request)
        refusal = self.upgrades.check(request)
        if refusal is None:
            self.upgrades.open(transport, request, leftover)
        else:
            self.refuse(head, refusal)

    def refuse(self, head: _Head, refusal: Refusal) -> None:
        """Answer `refusal` and close the connection once the client has taken it."""
        self.upgrades.count_refusal(refusal)
        self._settle(head)
        transport = head.transport
        if transport.is_closing():
            return
        head.reader = None
        self._lingering.add(head)
        transport.write(refusal_response(refusal))
        transport.write_eof()

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
