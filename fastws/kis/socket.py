"""One socket to KIS, as picows' listener. The only module that knows picows."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final
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

from fastws.kis.errors import KISConnectionError

# Bursts of half a megabyte have been seen.
_MAX_MESSAGE_SIZE: Final = 4 << 20
FAREWELL: Final = 1.0
"""Seconds that the close handshake may take."""

# What picows says about every socket is said by the connection as events.
_picows_log = logging.getLogger("fastws.kis.socket")
_picows_log.setLevel(logging.CRITICAL)


class KISSocket(WSListener):
    """One socket. `failure` is set once, when it has ended, and then `wake` is."""

    def __init__(self, on_message: Callable[[KISSocket, bytes], None], wake: asyncio.Event) -> None:
        super().__init__()
        self.failure: KISConnectionError | None = None
        self._on_message = on_message
        self._wake = wake
        self._transport: WSTransport | None = None
        self._sock: socket.socket | None = None
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._gone = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(
        cls,
        url: str,
        time_limit: float,
        on_message: Callable[[KISSocket, bytes], None],
        wake: asyncio.Event,
    ) -> KISSocket:
        """Connect within `time_limit` seconds; `on_message` gets every text message from then on.

        Raises:
            KISConnectionError: it could not be done.
        """
        self = cls(on_message, wake)
        try:
            async with asyncio.timeout(time_limit):
                await ws_connect(
                    lambda: self,
                    url,
                    # KIS has no use for pings of RFC 6455, and has been seen to close because of them.
                    enable_auto_ping=False,
                    max_frame_size=_MAX_MESSAGE_SIZE,
                    max_redirects=0,
                    logger_name=_picows_log,
                    socket_factory=self._connect,
                    websocket_handshake_timeout=None,  # ours holds for all of it
                )
        except (WSError, OSError, TimeoutError) as error:
            await self._give_up()
            raise KISConnectionError(_explain(error, url, time_limit)) from None
        except asyncio.CancelledError:
            await self._give_up()
            raise
        return self

    async def _connect(self, url: WSParsedURL) -> socket.socket:
        """Connect by TCP, to one address after the other. The socket is kept for `_give_up`, and the error is of one
        address, which can be explained."""
        loop = asyncio.get_running_loop()
        failure: OSError | None = None
        for family, kind, protocol, _, address in await loop.getaddrinfo(
            url.host, url.port, type=socket.SOCK_STREAM
        ):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.setblocking(False)
                await loop.sock_connect(sock, address)
            except OSError as error:
                failure = error
                sock.close()
            except BaseException:
                sock.close()
                raise
            else:
                self._sock = sock
                return sock
        raise failure or OSError("it has no address")

    async def _give_up(self) -> None:
        """End what has been made so far: picows leaves a socket open when the handshake is given up."""
        self.abort()
        if self._transport is None and self._sock is not None:
            with contextlib.suppress(OSError):  # it has been closed meanwhile
                self._sock.shutdown(socket.SHUT_RDWR)
            for _ in range(10):  # the loop finds that it has ended, and closes it
                if self._sock.fileno() < 0:
                    break
                await asyncio.sleep(0.001)

    @property
    def is_over(self) -> bool:
        return self.failure is not None

    def fail(self, error: KISConnectionError) -> None:
        if self.failure is None:
            self.failure = error
            self._wake.set()

    def abort(self) -> None:
        """End the socket without a farewell."""
        self.fail(KISConnectionError("connection closed"))
        if self._transport is not None:
            self._transport.disconnect(False)

    async def say_goodbye(self) -> None:
        """Close the socket as RFC 6455 wants it, but do not wait long for the other side."""
        if self._transport is None:
            return
        self._transport.send_close(WSCloseCode.OK)
        await asyncio.wait((self._gone,), timeout=FAREWELL)

    def send(self, message: bytes) -> None:
        if self._transport is not None:
            self._transport.send(WSMsgType.TEXT, message)

    def answer_pingpong(self, message: bytes) -> None:
        """Answer in both ways that clients do, for it is not known that KIS takes either for ever: the text sent back,
        and a pong of RFC 6455 with it. In this order, the second one is never taken for a PINGPONG of ours."""
        if self._transport is not None:
            self._transport.send(WSMsgType.TEXT, message)
            if len(message) <= 125:
                self._transport.send_pong(message)

    # Called by picows

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self.failure is not None:  # given up while it was being made
            transport.disconnect(False)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if self.failure is not None:
            return
        if kind == WSMsgType.TEXT and frame.fin:
            self._on_message(self, frame.get_payload_as_bytes())
        elif kind in (WSMsgType.TEXT, WSMsgType.CONTINUATION, WSMsgType.BINARY):
            self._on_part(frame)
        elif kind == WSMsgType.CLOSE:
            code, reason = int(frame.get_close_code().value), frame.get_close_message() or b""
            text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
            text = "".join(char for char in text[:123] if char.isprintable())
            detail = f"code {code}{', ' + text if text else ''}" if code else "no code"
            self.fail(KISConnectionError(f"connection lost: KIS closed it ({detail})"))
            transport.send_close(WSCloseCode.OK)
            transport.disconnect(True)

    def _on_part(self, frame: WSFrame) -> None:
        self._parts.append(frame.get_payload_as_bytes())
        self._parts_size += len(self._parts[-1])
        if self._parts_size > _MAX_MESSAGE_SIZE:
            self.fail(
                KISConnectionError(
                    f"connection lost: KIS sent a message of over {_MAX_MESSAGE_SIZE >> 20} MiB"
                )
            )
        elif frame.fin:
            message = b"".join(self._parts)
            self._parts.clear()
            self._parts_size = 0
            self._on_message(self, message)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.fail(KISConnectionError("connection lost: it ended without a close frame"))
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        """What is sent is a request in `pace` and answers to PINGPONG: never enough to wait for."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""


def _explain(error: BaseException, url: str, time_limit: float) -> str:
    """One sentence about a connection that could not be made."""
    host = urlsplit(url).netloc
    if isinstance(error, TimeoutError):
        return f"no connection to KIS: {host} did not answer within {time_limit:g} s; check the network and KIS_WS_URL"
    if isinstance(error, socket.gaierror):
        return f"no connection to KIS: the host {host} is not known; check KIS_WS_URL and the network"
    if isinstance(error, ConnectionRefusedError):
        return f"connection refused: nothing listens at {host}; check KIS_WS_URL"
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"no connection to KIS: {host} is unreachable; check the network"
    if isinstance(error, WSHandshakeError):
        status: Any = getattr(error.response, "status", None)
        if isinstance(status, HTTPStatus):
            return f"connection refused: {host} answered the WebSocket upgrade with HTTP {status.value}"
        return f"connection refused: what listens at {host} does not speak WebSocket; check KIS_WS_URL"
    if isinstance(error, ssl.SSLError):
        return f"no connection to KIS: {host} does not answer by TLS as it should; check KIS_WS_URL"
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return f"no connection to KIS: {host}: {reason}"
