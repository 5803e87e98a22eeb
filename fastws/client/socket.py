"""One WebSocket of a client, as picows' listener. The only module of the client that knows picows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from picows import (
    WSCloseCode,
    WSError,
    WSFrame,
    WSHandshakeError,
    WSListener,
    WSMsgType,
    WSParsedURL,
    WSTransport,
    ws_connect,
)

from fastws.client.errors import ConnectError, explain, explain_status

# A snapshot of all stocks of a market with their books is some ten megabytes.
_MAX_MESSAGE_SIZE: Final = 64 << 20
_FAREWELL_SECONDS: Final = 1.0

# What it says about each socket is said by the client's messages and exceptions.
_log = logging.getLogger("fastws.client.socket")
_log.setLevel(logging.CRITICAL)


class Socket(WSListener):
    """One socket. `ended` is set when it has ended, with the close code and the reason; 1006 where it had none.

    All of it is for the thread of its loop.
    """

    def __init__(self, on_text: Callable[[bytes], None]) -> None:
        super().__init__()
        self.ended: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self.heard_at = time.monotonic()
        self.is_paused = False
        self.transport: WSTransport | None = None
        self._on_text = on_text
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._close: tuple[int, str] | None = None
        self._sock: socket.socket | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        on_text: Callable[[bytes], None],
        *,
        time_limit: float,
        headers: Mapping[str, str],
        ssl_context: ssl.SSLContext | None,
    ) -> Socket:
        """Connect within `time_limit` seconds. Raises ConnectError."""
        self = cls(on_text)
        address = urlsplit(url)
        try:
            async with asyncio.timeout(time_limit):
                await ws_connect(
                    lambda: self,
                    url,
                    ssl_context=ssl_context,
                    extra_headers=headers,
                    # Ours know that a consumer that lets the server wait hears nothing.
                    enable_auto_ping=False,
                    max_frame_size=_MAX_MESSAGE_SIZE,
                    max_redirects=0,
                    logger_name=_log,
                    socket_factory=self._connect,
                    websocket_handshake_timeout=None,  # ours holds for all of it
                )
        except WSHandshakeError as error:
            await self._give_up()
            status = getattr(error.response, "status", None)
            if isinstance(status, HTTPStatus) and status != HTTPStatus.SWITCHING_PROTOCOLS:
                raise explain_status(status.value, address.netloc, address.path) from None
            text = f"what listens at {address.netloc} does not speak WebSocket: check url"
            raise ConnectError(text, may_retry=not error.raw_header) from None
        except (WSError, OSError, TimeoutError) as error:
            await self._give_up()
            raise explain(error, address.netloc, time_limit) from None
        except BaseException:
            await self._give_up()
            raise
        if self.transport is None:
            # picows takes the end of a connection in its handshake for the end of the handshake.
            raise ConnectError(
                f"{address.netloc} ended the connection in the handshake: check url, or try again"
            )
        return self

    async def _connect(self, url: WSParsedURL) -> socket.socket:
        """The first address that takes a TCP connection. The socket is kept: picows leaves it open where the handshake
        is given up."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        for place, (family, kind, protocol, _, address) in enumerate(found, 1):
            sock = socket.socket(family, kind, protocol)
            sock.setblocking(False)
            try:
                await loop.sock_connect(sock, address)
            except BaseException as error:
                sock.close()
                if place == len(found) or not isinstance(error, OSError):
                    raise
            else:
                self._sock = sock
                return sock
        raise OSError("the host has no address")

    async def _give_up(self) -> None:
        """End what has been made so far."""
        self.abort()
        if self.transport is None and self._sock is not None:
            with contextlib.suppress(OSError):  # it has been closed meanwhile
                self._sock.shutdown(socket.SHUT_RDWR)
            # Whoever owns it by now finds that it has ended, and closes it.
            for _ in range(10):
                if self._sock.fileno() < 0:
                    return
                await asyncio.sleep(0.001)
            self._sock.close()

    def send(self, text: bytes) -> None:
        if self.transport is not None:
            self.transport.send(WSMsgType.TEXT, text)

    def ping(self) -> None:
        if self.transport is not None:
            self.transport.send_ping()

    def pause(self) -> None:
        if self.transport is not None and not self.is_paused and not self.ended.done():
            self.is_paused = True
            self.transport.underlying_transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None and self.is_paused:
            self.is_paused = False
            self.heard_at = time.monotonic()
            if not self.ended.done():
                self.transport.underlying_transport.resume_reading()

    def abort(self, reason: str = "") -> None:
        """End it without a farewell."""
        if self.transport is not None:
            if reason and self._close is None:
                self._close = (1006, reason)
            self.transport.disconnect(False)

    async def close(self) -> None:
        """Say goodbye, and wait a moment for the other side's."""
        if self.transport is None:
            return
        # What waits to be read is in front of the server's answer.
        self.resume()
        self.transport.send_close(WSCloseCode.OK)
        try:
            await asyncio.wait((self.ended,), timeout=_FAREWELL_SECONDS)
        finally:
            self.transport.disconnect(False)

    # Called by picows.

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.heard_at = time.monotonic()
        kind = frame.msg_type
        if self._close is not None:
            return
        if kind == WSMsgType.TEXT and frame.fin:
            self._on_text(frame.get_payload_as_bytes())
        elif kind in (WSMsgType.TEXT, WSMsgType.CONTINUATION):
            self._parts.append(frame.get_payload_as_bytes())
            self._parts_size += len(self._parts[-1])
            if self._parts_size > _MAX_MESSAGE_SIZE:
                self.abort(f"the server sent a message of over {_MAX_MESSAGE_SIZE >> 20} MiB")
            elif frame.fin:
                text = b"".join(self._parts)
                self._parts.clear()
                self._parts_size = 0
                self._on_text(text)
        elif kind == WSMsgType.CLOSE:
            code = int(frame.get_close_code())  # type: ignore[call-overload]  # an IntEnum, or an int
            message = frame.get_close_message() or b""
            text_ = message.decode("utf-8", "replace") if isinstance(message, bytes) else str(message)
            self._close = (code or 1005, "".join(char for char in text_ if char.isprintable()))
            # Of its codes picows sends none that it does not know.
            transport.send_close(WSCloseCode.OK)
            transport.disconnect(True)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self.ended.done():
            self.ended.set_result(self._close or (1006, "the connection was lost"))

    def pause_writing(self) -> None:
        """Requests are few and small; the time limit of each is the bound."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""
