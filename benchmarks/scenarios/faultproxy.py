"""A TCP proxy that breaks what goes through it: connections cut in the middle of a frame, or left standing deaf."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Self, cast

_END_SECONDS: Final = 10.0
_QUEUE_BYTES: Final = 16 * 1024
"""What may wait in one direction of a slow line; beyond, whoever sends is not read from."""
_PIECE_S: Final = 0.05
"""What a slow line lets pass at a time, as seconds of its rate."""


class _Side(asyncio.Protocol):
    """One of the two ends of a connection; what comes here goes to `other`."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None
        self.waiting: list[bytes] = []
        self.is_deaf = False
        self.ends_after: int | None = None
        # Of a slow line: what is on its way to `other`, each with when it arrives.
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queue_size = 0
        self._free_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # That of uvloop is no subclass.
        self.transport = cast(asyncio.Transport, transport)
        self.proxy.sides.add(self)
        for data in self.waiting:
            self.transport.write(data)
        self.waiting.clear()

    def data_received(self, data: bytes) -> None:
        other = self.other
        if other is None or self.is_deaf:
            return
        if self.ends_after is not None and len(data) >= self.ends_after:
            data, self.ends_after = data[: self.ends_after], -1
        elif self.ends_after is not None:
            self.ends_after -= len(data)
        if other.transport is not None and (self.proxy.delay_s or self.proxy.rate or self._queue):
            self._hold(data)
        elif other.transport is None:
            other.waiting.append(data)
        else:
            other.transport.write(data)
        if self.ends_after == -1:
            # What was written goes out first, so that the other side has part of a frame.
            self.proxy.end(self)

    def _hold(self, data: bytes) -> None:
        """Let data arrive later, behind all that is on its way."""
        loop = asyncio.get_running_loop()
        rate = self.proxy.rate
        size = max(1, int(rate * _PIECE_S)) if rate else len(data)
        for at in range(0, len(data), size):
            piece = data[at : at + size]
            now = loop.time()
            self._free_at = max(self._free_at, now + self.proxy.delay_s) + (
                len(piece) / rate if rate else 0.0
            )
            self._queue.append((self._free_at, piece))
        if self._queue_size == 0:
            loop.call_at(self._queue[0][0], self._let_through)
        self._queue_size += len(data)
        if rate and self._queue_size > _QUEUE_BYTES and self.transport is not None:
            self.transport.pause_reading()

    def _let_through(self) -> None:
        loop = asyncio.get_running_loop()
        # A line that is not slow any more lets go of everything.
        is_slow = self.proxy.delay_s or self.proxy.rate
        target = None if self.other is None else self.other.transport
        while self._queue and (not is_slow or self._queue[0][0] <= loop.time()):
            _, piece = self._queue.popleft()
            self._queue_size -= len(piece)
            if target is not None and not target.is_closing() and not self.is_deaf:
                target.write(piece)
        if self._queue:
            loop.call_at(min(self._queue[0][0], loop.time() + _PIECE_S), self._let_through)
        if (
            self._queue_size <= _QUEUE_BYTES
            and self.transport is not None
            and not self.transport.is_closing()
        ):
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.proxy.sides.discard(self)
        if self.other is not None and self.other.transport is not None and not self.is_deaf:
            self.other.transport.close()


class _Client(_Side):
    n_bytes: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.proxy.accept(self)


class FaultProxy:
    """Listens on a free port of the loopback address and passes everything on to the port `target` of `host`."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.target = port
        self.host = host
        self.port = 0
        self.n_accepted = 0
        self.is_open = True
        """False: whoever connects is cut off at once."""
        self.next_ends_after: int | None = None
        """The next connection that is accepted ends when so many bytes have come from the server."""
        self.delay_s = 0.0
        """How long everything takes in either direction, as behind a slow line; what ends does so at once."""
        self.rate = 0.0
        """Bytes per second and connection that pass in either direction; 0: as they come."""
        self.receive_buffer = 0
        """What the kernel may take from the server ahead of a slow line, for new connections; 0: its default."""
        self.sides: set[_Side] = set()
        self._clients: set[_Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def run(cls, port: int, host: str = "127.0.0.1") -> AsyncIterator[Self]:
        proxy = cls(port, host)
        server = await asyncio.get_running_loop().create_server(lambda: _Client(proxy), "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            await asyncio.gather(*proxy._tasks)
            for side in list(proxy.sides):
                assert side.transport is not None
                side.transport.abort()
            async with asyncio.timeout(_END_SECONDS):
                while proxy.sides:
                    await asyncio.sleep(0.001)

    def accept(self, client: _Client) -> None:
        self.n_accepted += 1
        assert client.transport is not None
        if not self.is_open:
            client.transport.abort()
            return
        self._clients = {known for known in self._clients if not _is_closing(known)}
        self._clients.add(client)
        client.n_bytes, self.next_ends_after = self.next_ends_after, None
        # Now: what the client sends may come before the task has its turn.
        server = _Side(self)
        client.other, server.other = server, client
        server.ends_after = client.n_bytes
        task = asyncio.ensure_future(self._connect(client, server))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, client: _Client, server: _Side) -> None:
        try:
            await self._reach(server)
        except OSError:
            if client.transport is not None:
                client.transport.abort()
            return
        if _is_closing(client) and server.transport is not None:
            # It has gone meanwhile, and nobody else would tell the server.
            server.transport.abort()

    async def _reach(self, server: _Side) -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        try:
            if self.receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
            sock.setblocking(False)
            await loop.sock_connect(sock, (self.host, self.target))
            await loop.create_connection(lambda: server, sock=sock)
        except BaseException:
            sock.close()
            raise

    @property
    def connections(self) -> list[_Client]:
        """Those that are open."""
        return [client for client in self._clients if not _is_closing(client) and client.other is not None]

    def end(self, side: _Side) -> None:
        """Send what was written, then end both sides."""
        for each in (side, side.other):
            if each is not None and each.transport is not None:
                each.transport.close()

    def kill(self) -> int:
        """Reset all connections; returns how many."""
        found = self.connections
        for client in found:
            for side in (client, client.other):
                if side is not None and side.transport is not None:
                    side.transport.abort()
        return len(found)

    def cut_after(self, n_bytes: int) -> None:
        """End all connections when so many more bytes have come from the server."""
        for client in self.connections:
            assert client.other is not None
            client.other.ends_after = n_bytes

    def strand(self) -> None:
        """Reset the clients' sides, and let the server believe that they are still there."""
        for client in self.stall():
            if client.transport is not None:
                client.transport.abort()

    def stall(self) -> list[_Client]:
        """Let nothing pass any more, and let both sides believe that the other is still there; returns the clients'."""
        found = self.connections
        for client in found:
            assert client.other is not None
            client.is_deaf = client.other.is_deaf = True
        return found


def _is_closing(side: _Side) -> bool:
    return side.transport is None or side.transport.is_closing()
