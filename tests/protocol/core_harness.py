"""A hub with real sockets and no handshake: what a connection gets is what the core sends, in plain or over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from listening import way

from fastws._core import CHANNEL_PRICE, Channel, Connection, Dialect, Hub, Options, Topic, debug_counters
from fastws._frames import OP_TEXT, FrameReader, build_frame
from fastws.server.tls import TlsContext
from fastws.server.tls_transport import TlsTransport
from fastws.settings import Settings
from tests.certificates import files

MASK = b"\x01\x02\x03\x04"

# Beside the mark `plain`. What is set for `make portable` is not asked of the build: one for Linux always sends so.
sends_past_transports = pytest.mark.skipif(
    os.environ.get("FASTWS_PORTABLE", "") not in ("", "0"), reason="it sends through the loop's transports"
)

# The log that pytest captures would keep tracebacks, and with them connections, alive.
_quiet = logging.getLogger("fastws.tests.core")
_quiet.disabled = True


def encode(payload: int, published_ms: int) -> bytes:
    return b'{"value":%d,"pad":"%s"' % (payload, b"x" * (payload % 7))


DIALECT = Dialect("test", encode)


class Handler:
    """Sends back what it gets, and keeps what happened to its connections."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.opened: list[Connection] = []
        self.closed: list[int] = []
        self.n_limited = 0

    def on_open(self, connection: Connection) -> None:
        self.opened.append(connection)

    def on_message(self, connection: Connection, data: bytes, is_text: bool) -> None:
        connection.send_control(b'{"echo":%s}' % data)

    def on_rate_limited(self, connection: Connection) -> None:
        self.n_limited += 1
        connection.send_control(b'{"limited":true}')

    def on_close(self, connection: Connection, code: int) -> None:
        self.closed.append(code)


class Cipher:
    """TLS of a client on plain streams, because what is under the loops' own goes on reading while they are paused."""

    def __init__(self) -> None:
        self.has_ended = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = files().authority.client_context()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    @classmethod
    async def agreed(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Cipher:
        """That of a connection that has made its handshake, and said so to the server."""
        cipher = cls()
        while not cipher._is_agreed():
            writer.write(cipher._outgoing.read())
            cipher._incoming.write(await reader.read(65536))
        writer.write(cipher.encrypted(b"!"))
        return cipher

    def _is_agreed(self) -> bool:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
            return True
        return False

    def encrypted(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._outgoing.read()

    def decrypted(self, data: bytes) -> bytes:
        self._incoming.write(data)
        pieces = []
        with contextlib.suppress(ssl.SSLWantReadError):  # it is all
            while piece := self._tls.read(65536):
                pieces.append(piece)
            self.has_ended = True
        return b"".join(pieces)


class Client:
    """The other end of a connection: raw bytes in, messages out."""

    def __init__(
        self,
        connection: Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        cipher: Cipher | None,
    ) -> None:
        self._cipher = cipher
        self.connection = connection
        self.frames = FrameReader(is_client=True, max_message_size=16 << 20)
        self.reader = reader
        self.writer = writer
        self.messages: list[Any] = []
        self.close_code: int | None = None
        self.n_pings = 0

    async def read(self, size: int = 65536) -> bool:
        """Take in what comes next; False at the end of the stream."""
        data = await self.reader.read(size)
        for event in self.frames.feed(data if self._cipher is None else self._cipher.decrypted(data)):
            if event[0] == "message":
                self.messages.append(json.loads(event[3]))
            elif event[0] == "close":
                self.close_code = event[1]
            elif event[0] == "ping":
                self.n_pings += 1
            else:
                assert event[0] == "pong", event
        return bool(data) and not (self._cipher and self._cipher.has_ended)

    async def next(self) -> Any:
        """The next message."""
        async with asyncio.timeout(30):
            while not self.messages:
                assert await self.read(), "the connection ended"
        return self.messages.pop(0)

    async def drain(self) -> None:
        """Read until a message sent now has come back, so that all before it is here."""
        self.send({"mark": 1})
        async with asyncio.timeout(30):
            while not any("echo" in message for message in self.messages):
                assert await self.read(), "the connection ended"
        self.messages = [message for message in self.messages if "echo" not in message]

    def send(self, message: object) -> None:
        self.send_raw(build_frame(OP_TEXT, json.dumps(message).encode(), mask=MASK))

    def send_raw(self, data: bytes) -> None:
        self.writer.write(data if self._cipher is None else self._cipher.encrypted(data))


def updates(messages: list[Any]) -> list[Any]:
    """The updates in messages, those of batches taken out; snapshots and other messages left out."""
    found = []
    for message in messages:
        if message.get("type") == "batch":
            if not message.get("snapshot"):
                found += message["messages"]
        elif "seq" in message:
            found.append(message)
    return found


class Bench:
    """The hub, its channels by name, and a way to connect."""

    def __init__(self, hub: Hub, server: asyncio.Server) -> None:
        self.hub = hub
        self.server = server
        self.handler = Handler(self)
        self.channels: dict[str, Channel] = {}
        # Of the connections that are made from now on.
        self.dialect = DIALECT
        self.clients: list[Client] = []

    def channel(self, name: str, market: str = "M") -> Channel:
        if name not in self.channels:
            topics = (self.hub.topic("stock", name), self.hub.topic("market", market))
            self.channels[name] = self.hub.channel(name, "price", topics, bit=CHANNEL_PRICE, numbered=True)
        return self.channels[name]

    async def flushed(self) -> None:
        """Have what is pending sent, sooner than its interval ends."""
        self.hub.flusher.flush_all()
        async with asyncio.timeout(30):
            while not self.hub.flusher.is_idle:
                await asyncio.sleep(0)

    def publish(self, name: str, value: int) -> int:
        return self.hub.publish(self.channel(name), value)

    def topic(self, name: str) -> Topic:
        self.channel(name)
        return self.hub.topic("stock", name)

    def subscribe(self, client: Client, *names: str, **options: Any) -> dict[Topic, Options]:
        wanted = {self.topic(name): self.hub.options(**options) for name in names}
        client.connection.set_subscriptions(wanted)
        return wanted

    async def connect(self, *, receive_buffer: int = 0) -> Client:
        n_open = len(self.handler.opened)
        sock = socket.socket()
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.server.sockets[0].getsockname())
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 16)
        cipher = await Cipher.agreed(reader, writer) if way.get() == "tls" else None
        async with asyncio.timeout(30):
            while len(self.handler.opened) == n_open:
                await asyncio.sleep(0)
        client = Client(self.handler.opened[-1], reader, writer, cipher)
        self.clients.append(client)
        return client

    def forget(self) -> None:
        """Let go of everything that keeps the hub's objects alive, also through the variables of a test."""
        for client in self.clients:
            del client.connection
        self.clients.clear()
        self.channels.clear()
        self.handler.opened.clear()
        del self.hub

    def check_ledger(self) -> dict[str, int]:
        """The conservation law holds; returns it."""
        ledger = self.hub.ledger()
        parts = ("delivered", "conflated", "lost", "undelivered", "waiting")
        assert ledger["published"] == sum(ledger[part] for part in parts), ledger
        assert all(value >= 0 for value in ledger.values()), ledger
        assert self.hub.audit()["faults"] == []
        return ledger


@contextlib.asynccontextmanager
async def bench(send_buffer: int = 0, window_bits: int = 0, **settings: Any) -> AsyncIterator[Bench]:
    loop = asyncio.get_running_loop()
    gc.collect()
    live = debug_counters()
    hub = Hub(loop, epoch="test", logger=_quiet, **settings)

    class Front(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)
            if send_buffer:
                transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer
                )
            if tls is None:
                self.open()

        def data_received(self, data: bytes) -> None:
            # Over TLS the client speaks first, which tells that there is something to write to.
            assert data == b"!"
            self.open()

        def open(self) -> None:
            Connection(
                made.hub,
                self.transport,
                made.handler,
                made.dialect,
                max_message_size=65536,
                window_bits=window_bits,
            ).open()

    tls = TlsContext(Settings(certfile=str(files().certfile))) if way.get() == "tls" else None
    server = await loop.create_server(
        lambda: Front() if tls is None else TlsTransport(tls, Front()), "127.0.0.1", 0
    )
    made = Bench(hub, server)
    try:
        yield made
        made.check_ledger()
    finally:
        for client in made.clients:
            client.writer.close()
        async with asyncio.timeout(30):
            while hub.n_connections:
                await asyncio.sleep(0.001)
        made.check_ledger()
        assert hub.cohorts == {}
        hub.stop()
        server.close()
        await server.wait_closed()
        # In a debug build: nothing of the core outlives its hub.
        made.forget()
        for _ in range(3):
            await asyncio.sleep(0)  # the loop's own last calls to the connections
        del hub
        gc.collect()
        assert debug_counters() == live
