"""A client that says exactly what it is told to: bytes on a blocking socket, frames right or wrong."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple

TEXT, BINARY, CLOSE, PING, PONG, CONTINUATION = 1, 2, 8, 9, 10, 0
ABNORMAL = 1006

# How a connection ends that is closed while one side still writes. Other mistakes of TLS are faults.
_ENDS = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_WAIT_SECONDS = 30.0


def upgrade_head(path: str = "/v1/ws", **headers: str | None) -> bytes:
    """The head of an opening handshake; `headers` replace or, being None, remove some: ``sec_websocket_key=None``."""
    fields: dict[str, str | None] = {
        "host": "localhost",
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": _KEY,
    }
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "\r\n"]).encode()


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x01\x02\x03\x04",
    size: int | None = None,
    size_bytes: int | None = None,
) -> bytes:
    """One frame. `size` lies about the length of the payload, `size_bytes` (0, 2, 8) writes it longer than need be."""
    n = len(payload) if size is None else size
    if size_bytes is None:
        size_bytes = 0 if n < 126 else 2 if n < 1 << 16 else 8
    masked = 0x80 if mask is not None else 0
    first = (0x80 if fin else 0) | rsv | opcode
    if size_bytes == 0:
        head = bytes((first, masked | n))
    elif size_bytes == 2:
        head = struct.pack(">BBH", first, masked | 126, n)
    else:
        head = struct.pack(">BBQ", first, masked | 127, n)
    if mask is None:
        return head + payload
    stream = (mask * (len(payload) // 4 + 1))[: len(payload)]
    body = (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(payload), "big")
    return head + mask + body


class Frame(NamedTuple):
    opcode: int
    payload: bytes
    is_final: bool

    @property
    def code(self) -> int:
        """The code of a close frame."""
        return int.from_bytes(self.payload[:2], "big") if self.payload else 1005


class RawClient:
    """A TCP connection to a server, with TLS where `tls` is given. A context manager, whose end closes it."""

    def __init__(
        self,
        port: int,
        *,
        receive_buffer: int | None = None,
        send_buffer: int | None = None,
        handshake: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.socket = socket.socket()
        try:
            if send_buffer is not None:
                # Or the kernel takes up to 4 MB that nobody has asked for.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
            self._open(port, receive_buffer, tls, handshake=handshake)
        except BaseException:
            # Or the next test would fail over it.
            self.socket.close()
            raise

    def _open(
        self, port: int, receive_buffer: int | None, tls: ssl.SSLContext | None, *, handshake: bool
    ) -> None:
        self.socket.settimeout(_WAIT_SECONDS)
        if receive_buffer is not None:
            # Before connecting: it decides the window that the peer is offered.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        self._received = bytearray()
        if handshake:
            self.send(upgrade_head())
            status, _, _ = self.read_response()
            assert status == 101

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close with a reset instead of an end of stream."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def half_close(self) -> None:
        """End the stream to the server, and go on reading."""
        # That of SSLSocket would make plain what is read from then on.
        socket.socket.shutdown(self.socket, socket.SHUT_WR)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_as_far_as_possible(self, data: bytes) -> int:
        """Send until the server closes; returns how many bytes went."""
        view, n = memoryview(data), 0
        with contextlib.suppress(*_ENDS):
            while n < len(data):
                n += self.socket.send(view[n : n + 65536])
        return n

    def send_message(self, **message: object) -> None:
        self.send(frame(TEXT, json.dumps(message).encode(), mask=os.urandom(4)))

    def read_some(self, n: int = 65536) -> bytes:
        """What has come, b"" at the end of the stream, however it ended."""
        try:
            return self.socket.recv(n)
        except _ENDS:
            return b""

    def read_to_end(self) -> bytes:
        while data := self.read_some():
            self._received += data
        return bytes(self._received)

    def read_response(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an HTTP response; status 0 when the server closed without one."""
        while b"\r\n\r\n" not in self._received:
            data = self.read_some()
            if not data:
                return 0, {}, b""
            self._received += data
        head, _, rest = bytes(self._received).partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        size = int(headers.get("content-length", 0))
        while len(rest) < size:
            data = self.read_some()
            if not data:
                break
            rest += data
        self._received[:] = rest[size:]
        return int(line.split(" ")[1]), headers, rest[:size]

    def _read_exactly(self, n: int) -> bytes | None:
        while len(self._received) < n:
            data = self.read_some()
            if not data:
                return None
            self._received += data
        taken = bytes(self._received[:n])
        del self._received[:n]
        return taken

    def read_frame(self) -> Frame | None:
        """The next frame, None at the end of the stream."""
        head = self._read_exactly(2)
        if head is None:
            return None
        size = head[1]
        assert size < 128, "a server does not mask"
        if size >= 126:
            extended = self._read_exactly(2 if size == 126 else 8)
            if extended is None:
                return None
            size = int.from_bytes(extended, "big")
        payload = self._read_exactly(size)
        return None if payload is None else Frame(head[0] & 0x0F, payload, bool(head[0] & 0x80))

    def frames(self) -> Iterator[Frame]:
        while (received := self.read_frame()) is not None:
            yield received

    def read_message(self) -> dict[str, Any]:
        """The next text message; control frames before it are passed over."""
        for received in self.frames():
            assert received.opcode != CLOSE, received
            if received.opcode == TEXT:
                message: dict[str, Any] = json.loads(received.payload)
                return message
        raise ConnectionResetError("the server closed")

    def read_close_code(self) -> int:
        """Read until the end; the code of the close frame, ABNORMAL when there was none."""
        for received in self.frames():
            if received.opcode == CLOSE:
                with contextlib.suppress(OSError):
                    self.send(frame(CLOSE, received.payload[:2]))
                self.read_to_end()
                return received.code
        return ABNORMAL
