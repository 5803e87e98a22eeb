"""A transport of a connection without a network, which takes as many bytes at a time as a test lets it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable
from typing import Any


class FakeTransport(asyncio.Transport):
    """What is written is in `received` once there is room for it; the rest waits, as with a slow reader.

    1. `room` is how many bytes are taken from now on, None for all of them. `take` makes more room.
    2. The protocol is paused while anything waits, as where the limit of the buffer is 0, and is told of the end from
       the loop, once.
    3. With `has_socket` it has a socket, to which the core sends by itself. What the kernel takes is in `received`
       when it is taken out by `take`, so `room` says nothing then.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, *, room: int | None = None, has_socket: bool = False
    ) -> None:
        super().__init__()
        self.received = bytearray()
        self.is_aborted = False
        self.has_ended = False
        self._loop = loop
        self._room = room
        self._buffer = bytearray()
        self._is_paused = False
        self._is_closing = False
        self._protocol: Any = None
        self._near: socket.socket | None = None
        self._far: socket.socket | None = None
        if has_socket:
            self._near, self._far = socket.socketpair()
            self._near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel's least
            self._near.setblocking(False)
            self._far.setblocking(False)

    # What the test does.

    def take(self, size: int | None = None) -> None:
        """Take up to `size` bytes more out of what waits; None for all of it, and from then on all that comes."""
        if self._far is None:
            self._room = None if size is None else (self._room or 0) + size
            self._fill()
        else:
            wanted = size
            while wanted is None or wanted > 0:
                try:
                    data = self._far.recv(65536 if wanted is None else wanted)
                except BlockingIOError:
                    data = b""
                self.received += data
                wanted = None if wanted is None else wanted - len(data)
                if not self._push() and not data:
                    break
        if not self._buffer:
            if self._is_paused:
                self._is_paused = False
                self._protocol.resume_writing()
            if self._is_closing:
                self._end()

    def deliver(self, pieces: Iterable[bytes]) -> None:
        """Give the protocol what the other side has sent, until it wants no more."""
        for piece in pieces:
            if self._is_closing:
                return
            self._protocol.data_received(piece)

    def release(self) -> None:
        """Close the sockets, where it has any; the end of a test."""
        for sock in (self._near, self._far):
            if sock is not None:
                sock.close()

    # What the core does.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._is_closing and not self._buffer:
            return
        self._buffer += data
        if self._far is None:
            self._fill()
        if self._buffer and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high == 0, "what is written has to be known to wait as soon as it does"

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._near if name == "socket" and self._near is not None else default

    def is_closing(self) -> bool:
        return self._is_closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """The other side would see the end; nothing here waits for it."""

    def close(self) -> None:
        self._is_closing = True
        if not self._buffer:
            self._end()

    def abort(self) -> None:
        self._is_closing = self.is_aborted = True
        self._buffer.clear()
        self._end()

    def _fill(self) -> None:
        """Take what there is room for."""
        size = len(self._buffer) if self._room is None else min(self._room, len(self._buffer))
        self.received += self._buffer[:size]
        del self._buffer[:size]
        if self._room is not None:
            self._room -= size

    def _push(self) -> bool:
        """Give the kernel what waits; whether it took any of it."""
        if self._near is None or not self._buffer:
            return False
        try:
            size = self._near.send(self._buffer)
        except BlockingIOError:
            return False
        del self._buffer[:size]
        return size > 0

    def _end(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            self._loop.call_soon(self._protocol.connection_lost, None)
