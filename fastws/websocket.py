"""A WebSocket that this program opens, as picows' listener. The only module that knows picows."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import time
from collections.abc import Mapping
from enum import Enum
from http import HTTPStatus
from typing import Final, NamedTuple

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
from python_socks import ProxyError

from fastws.deflate import InflateError, inflate
from fastws.errors import FastwsError

FAREWELL: Final = 1.0
"""Seconds that the close handshake may take."""

NO_CODE: Final = 1005
ABNORMAL: Final = 1006

_MAX_REASON_SIZE: Final = 123  # RFC 6455, section 5.5

# No window is kept from message to message, so that each can be expanded by itself.
_DEFLATE: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

# What it says about each socket is said by errors and endings.
_log = logging.getLogger("fastws.websocket")
_log.setLevel(logging.CRITICAL)


class Cause(Enum):
    """Why a WebSocket could not be opened."""

    TIMEOUT = "no answer in time"
    UNKNOWN_HOST = "the host has no address"
    NO_LISTENER = "nothing listens there"
    UNREACHABLE = "no way to the host"
    UNTRUSTED = "the certificate is not trusted"
    NO_TLS = "no TLS, or not as it should be"
    STATUS = "an HTTP status instead of the upgrade"
    NO_WEBSOCKET = "an answer that is no upgrade"
    ENDED = "the other side ended the connection in the handshake"
    OTHER = "something else"


class OpenError(FastwsError):
    """A WebSocket could not be opened.

    `status` is that of the answer where the cause is STATUS, and 0 elsewhere. `detail` are the words of the system or
    of the TLS library, where there are any.
    """

    def __init__(self, cause: Cause, detail: str = "", status: int = 0) -> None:
        super().__init__(f"{cause.value}: {detail or status}".removesuffix(": 0"))
        self.cause = cause
        self.detail = detail
        self.status = status

    def statement(self, place: str, time_limit: float, path: str = "") -> str:
        """What has happened, as a sentence that advice can follow.

        It is of a connection to `place`, a host and its port, that had `time_limit` seconds and was to be upgraded at
        `path`.
        """
        match self.cause:
            case Cause.TIMEOUT:
                return f"{place} did not answer within {time_limit:g} s"
            case Cause.UNKNOWN_HOST:
                return f"the host of {place} is not known"
            case Cause.NO_LISTENER:
                return f"nothing listens at {place}"
            case Cause.UNREACHABLE:
                return f"{place} cannot be reached"
            case Cause.UNTRUSTED:
                return f"the certificate of {place} is not trusted ({self.detail})"
            case Cause.NO_TLS:
                return f"{place} does not speak TLS as it should ({self.detail})"
            case Cause.STATUS:
                upgrade = f"the WebSocket upgrade of {path}" if path else "the WebSocket upgrade"
                return f"{place} answered {upgrade} with HTTP {self.status}"
            case Cause.NO_WEBSOCKET:
                return f"what listens at {place} does not speak WebSocket"
            case Cause.ENDED:
                return f"{place} ended the connection in the handshake"
            case Cause.OTHER:
                return f"connecting to {place} failed: {self.detail}"


class Ending(NamedTuple):
    """How a socket has ended: with the code and the reason of a close frame, `NO_CODE` where it had none, or without
    such a frame, which is `ABNORMAL` with a reason of ours."""

    code: int
    reason: str


class WebSocket(WSListener):
    """One WebSocket. Subclasses take what comes by `on_message`, and may follow its end by `on_over`.

    1. :meth:`connect` returns when it is open, and otherwise raises and leaves nothing open.
    2. `on_message` gets every text message whole, and with `takes_binary` every binary one; a message of more than
       `max_message_size` bytes ends the socket. `peer` is what the other side is called in the reason for that.
    3. The end is decided by a close frame, by :meth:`abort` with a reason, or by the loss of the connection, whichever
       is first: then `on_over` is called, once, and nothing is delivered any more. `ended` follows, with the same
       `Ending`, when the connection is gone.
    4. What is sent before it is open, or after its end, is dropped.

    All of it is for the thread of its loop.
    """

    def __init__(self, *, max_message_size: int, peer: str, takes_binary: bool = False) -> None:
        super().__init__()
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.heard_at = time.monotonic()
        """When the last frame came, of any kind."""
        self.is_paused = False
        self._max_message_size = max_message_size
        self._peer = peer
        self._takes_binary = takes_binary
        self._transport: WSTransport | None = None
        self._sock: socket.socket | None = None
        self._is_given_up = False
        self._ending: Ending | None = None
        self._parts: list[bytes] = []
        self._parts_size = 0
        self._is_left_out = False  # the message whose parts are coming
        self._is_compressed = False
        self._may_inflate = False

    def on_message(self, message: bytes) -> None:
        """Take a message."""
        raise NotImplementedError

    def on_over(self, ending: Ending) -> None:
        """Its end is decided."""

    async def connect(
        self,
        url: str,
        *,
        time_limit: float,
        headers: Mapping[str, str] | None = None,
        deflate: bool = False,
        proxy: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Connect by TCP, TLS and the upgrade, all within `time_limit` seconds. `on_message` may be called before it
        returns: what the other side says first can come together with the upgrade. With `deflate` the other side may
        compress what it sends (RFC 7692); what is sent goes as it is. `proxy` is the URL of one to go through,
        ``http``, ``https`` or ``socks5``.

        Raises:
            OpenError: it could not be done.
        """
        self._may_inflate = deflate
        if deflate:
            headers = {**(headers or {}), "Sec-WebSocket-Extensions": _DEFLATE}
        try:
            async with asyncio.timeout(time_limit):
                await ws_connect(
                    lambda: self,
                    url,
                    ssl_context=ssl_context,
                    extra_headers=headers,
                    # Who wants pings sends them: they must not be sent while reading is paused, nor to everybody.
                    enable_auto_ping=False,
                    max_frame_size=self._max_message_size,
                    max_redirects=0,
                    logger_name=_log,
                    socket_factory=self._connect,
                    websocket_handshake_timeout=None,  # ours holds for all of it
                    proxy=proxy,
                )
        except (WSError, ProxyError, OSError, TimeoutError, UnicodeError) as error:
            await self._give_up()
            raise _explain(error) from None
        except BaseException:
            await self._give_up()
            raise
        if self._transport is None:
            # picows takes the end of a connection in its handshake for the end of the handshake.
            raise OpenError(Cause.ENDED)

    async def _connect(self, url: WSParsedURL) -> socket.socket:
        """The first address that takes a TCP connection; the error is that of the last one, as the one of all of them
        cannot be explained. The socket is kept: picows leaves it open where the handshake is given up."""
        loop = asyncio.get_running_loop()
        failure = OSError("the host has no address")
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
        raise failure

    async def _give_up(self) -> None:
        """End what has been made so far."""
        self._is_given_up = True
        self.abort()
        if self._transport is None and self._sock is not None:
            with contextlib.suppress(OSError):  # it has been closed meanwhile
                self._sock.shutdown(socket.SHUT_RDWR)
            # Whoever owns it by now finds that it has ended, and closes it.
            for _ in range(10):
                if self._sock.fileno() < 0:
                    return
                await asyncio.sleep(0.001)
            self._sock.close()

    def send(self, message: bytes) -> None:
        """Send a text message. It never waits: what the network does not take yet is kept."""
        if self._transport is not None:
            self._transport.send(WSMsgType.TEXT, message)

    def ping(self) -> None:
        if self._transport is not None:
            self._transport.send_ping()

    def pong(self, payload: bytes) -> None:
        """Send a pong that nobody has asked for, of up to 125 bytes."""
        if self._transport is not None:
            self._transport.send_pong(payload)

    def pause(self) -> None:
        """Leave what comes to the network, so that the other side sees that nobody reads."""
        if self._transport is not None and not self.is_paused and not self.ended.done():
            self.is_paused = True
            self._transport.underlying_transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self.is_paused:
            self.is_paused = False
            self.heard_at = time.monotonic()
            if not self.ended.done():
                self._transport.underlying_transport.resume_reading()

    def abort(self, reason: str = "") -> None:
        """End it without a farewell; with a reason that is decided now, without one when the connection is gone."""
        if self._transport is not None:
            if reason:
                self._decide(ABNORMAL, reason)
            self._transport.disconnect(False)

    async def close(self) -> None:
        """Say goodbye, and wait for the other side's for `FAREWELL` seconds at most."""
        if self._transport is None:
            return
        # What waits to be read is in front of the answer.
        self.resume()
        self._transport.send_close(WSCloseCode.OK)
        try:
            await asyncio.wait((self.ended,), timeout=FAREWELL)
        finally:
            self._transport.disconnect(False)

    def _decide(self, code: int, reason: str) -> None:
        if self._ending is None:
            self._ending = Ending(code, reason)
            self.on_over(self._ending)

    # Called by picows.

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self._is_given_up:
            transport.disconnect(False)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.heard_at = time.monotonic()
        if self._ending is not None:
            return
        kind = frame.msg_type
        if frame.payload_size > self._max_message_size:
            # picows is about to end the connection for it, and delivers it if the rest comes before that.
            self._refuse_size()
        elif kind == WSMsgType.TEXT and frame.fin and not frame.rsv1:
            self.on_message(frame.get_payload_as_bytes())
        elif kind in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            self._on_part(kind, frame)
        elif kind == WSMsgType.CLOSE:
            code = int(frame.get_close_code())  # type: ignore[call-overload]  # an IntEnum, or an int
            reason = (frame.get_close_message() or b"").decode("utf-8", "replace")
            printable = "".join(char for char in reason[:_MAX_REASON_SIZE] if char.isprintable())
            self._decide(code or NO_CODE, printable)
            # Of its codes picows sends none that it does not know.
            transport.send_close(WSCloseCode.OK)
            transport.disconnect(True)

    def _on_part(self, kind: WSMsgType, frame: WSFrame) -> None:
        if kind != WSMsgType.CONTINUATION:
            self._is_left_out = kind == WSMsgType.BINARY and not self._takes_binary
            self._is_compressed = frame.rsv1
        if self._is_left_out:
            return
        self._parts.append(frame.get_payload_as_bytes())
        self._parts_size += len(self._parts[-1])
        if self._parts_size > self._max_message_size:
            self._refuse_size()
        elif frame.fin:
            message = b"".join(self._parts)
            self._parts.clear()
            self._parts_size = 0
            if self._is_compressed:
                self._on_compressed(message)
            else:
                self.on_message(message)

    def _refuse_size(self) -> None:
        self.abort(f"{self._peer} sent a message of over {self._max_message_size >> 20} MiB")

    def _on_compressed(self, message: bytes) -> None:
        if not self._may_inflate:
            self.abort(f"{self._peer} has compressed what it was not asked to")
            return
        try:
            whole = inflate(message, self._max_message_size)
        except InflateError as error:
            self.abort(f"{self._peer} sent what cannot be expanded: {error.args[1]}")
        else:
            self.on_message(whole)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._decide(ABNORMAL, "it ended without a close frame")
        if self._ending is not None and not self.ended.done():
            self.ended.set_result(self._ending)

    def pause_writing(self) -> None:
        """Requests are few and small; who waits for their answers has a time limit."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""


def _explain(error: Exception) -> OpenError:
    match error:
        case TimeoutError():
            return OpenError(Cause.TIMEOUT)
        case socket.gaierror() | UnicodeError():  # the latter for what can be no name of a host
            return OpenError(Cause.UNKNOWN_HOST)
        case ConnectionRefusedError():
            return OpenError(Cause.NO_LISTENER)
        case ssl.SSLCertVerificationError():
            return OpenError(Cause.UNTRUSTED, error.verify_message)
        case ssl.SSLError():
            return OpenError(Cause.NO_TLS, error.reason or str(error))
        case OSError(errno=errno.ENETUNREACH | errno.EHOSTUNREACH):
            return OpenError(Cause.UNREACHABLE)
        case WSHandshakeError():
            status = getattr(error.response, "status", None)
            if isinstance(status, HTTPStatus) and status != HTTPStatus.SWITCHING_PROTOCOLS:
                return OpenError(Cause.STATUS, status=status.value)
            return OpenError(Cause.NO_WEBSOCKET if error.raw_header else Cause.ENDED)
        case OSError(strerror=str(reason)):
            return OpenError(Cause.OTHER, reason)
        case _:
            return OpenError(Cause.OTHER, str(error) or type(error).__name__)
