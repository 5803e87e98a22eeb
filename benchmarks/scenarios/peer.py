"""A WebSocket client on asyncio that can die in every way a client dies."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
import zlib
from collections.abc import Callable
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

ABNORMAL = 1006
_MASK = b"\x00\x00\x00\x00"


class PeerError(Exception):
    """The server did what it must not do."""


class Peer(asyncio.Protocol):
    """One connection. Every text message goes to `on_message`, parsed; after a reset nothing does.

    `n_wire` counts the bytes of data frames as they came, `n_plain` as they would have come uncompressed. `closed` has
    the close code once the connection has ended, `ABNORMAL` without a close frame.
    """

    def __init__(self, path: str, host: str, on_message: Callable[[Any], None], *, deflate: bool) -> None:
        self.on_message = on_message
        self.is_open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.n_wire = self.n_plain = 0
        self.n_compressed = 0
        self._close_code = ABNORMAL
        self._is_ended = False
        self._deflate = deflate
        self._received = bytearray()
        lines = [
            f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade",
            "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        ]  # fmt: skip
        if deflate:
            lines.append("Sec-WebSocket-Extensions: permessage-deflate")
        self._request = "\r\n".join([*lines, "", ""]).encode()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._is_ended:
            return
        self._received += data
        if not self.is_open.done() and not self._take_response():
            return
        try:
            self._take_frames()
        except BaseException as error:
            self._end(error)
            raise

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)

    def _end(self, error: BaseException | None) -> None:
        self._is_ended = True
        if not self.is_open.done():
            self.is_open.set_exception(
                error or ConnectionResetError("closed before the upgrade was answered")
            )
        if not self.closed.done():
            self.closed.set_result(self._close_code)

    def _take_response(self) -> bool:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._received[:end])
        del self._received[: end + 4]
        if not head.startswith(b"HTTP/1.1 101 "):
            self._end(PeerError(f"the upgrade was answered with {head.splitlines()[0]!r}"))
            return False
        if self._deflate and b"permessage-deflate" not in head:
            self._end(PeerError("permessage-deflate was not agreed to"))
            return False
        self.is_open.set_result(None)
        return True

    def _take_frames(self) -> None:
        received = self._received
        at, n_received = 0, len(received)
        while n_received - at >= 2 and not self._is_ended:
            first, size = received[at], received[at + 1]
            start = at + 2
            if size == 126:
                start += 2
                if n_received < start:
                    break
                size = int.from_bytes(received[at + 2 : start], "big")
            elif size == 127:
                start += 8
                if n_received < start:
                    break
                size = int.from_bytes(received[at + 2 : start], "big")
            if n_received < start + size:
                break
            payload = bytes(received[start : start + size])
            self._take_frame(first, payload, start + size - at)
            at = start + size
        del received[:at]

    def _take_frame(self, first: int, payload: bytes, wire_size: int) -> None:
        if first in (0x81, 0xC1):
            self.n_wire += wire_size
            if first == 0xC1:
                self.n_compressed += 1
                payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
            self.n_plain += len(payload) + (2 if len(payload) < 126 else 4 if len(payload) < 65536 else 10)
            self.on_message(orjson.loads(payload))
        elif first == 0x89:
            self._send_frame(10, payload)
        elif first == 0x88:
            self._close_code = int.from_bytes(payload[:2], "big") if payload else 1005
            self._send_frame(8, payload[:2])
        elif first != 0x8A:
            raise PeerError(f"a frame that begins with {first:#x}")

    # What its owner does.

    def _send_frame(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        extended = b"" if size < 126 else size.to_bytes(2, "big")
        head = bytes((0x80 | opcode, 0x80 | (size if size < 126 else 126))) + extended
        if not self.transport.is_closing():
            self.transport.write(head + _MASK + payload)

    def send(self, **message: object) -> None:
        self._send_frame(1, orjson.dumps(message))

    def stop_reading(self) -> None:
        """Look alive to the kernel of the other side, and to nobody else."""
        self.transport.pause_reading()
        self._is_ended = True

    def reset(self) -> None:
        """Be gone in this moment, without a word but the kernel's RST."""
        self._is_ended = True
        if not self.transport.is_closing():
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def close(self) -> int:
        """Say goodbye and take everything that is still on its way; returns the close code of the answer."""
        self._send_frame(8, struct.pack(">H", 1000))
        return await self.closed


async def connect(
    url: str, on_message: Callable[[Any], None], *, query: str = "", deflate: bool = False
) -> Peer:
    """Connect to a ws:// URL; the upgrade has been answered when this returns.

    Raises:
        OSError: the server cannot be reached or closes at once.
        PeerError: it answers with something else.
    """
    parts = urlsplit(url)
    path = parts.path + (f"?{query}" if query else "")
    loop = asyncio.get_running_loop()
    _, peer = await loop.create_connection(
        lambda: Peer(path, parts.netloc, on_message, deflate=deflate), parts.hostname or "", parts.port or 80
    )
    await peer.is_open
    return peer
