"""A WebSocket that this program opens, as picows' listener. The only module that knows picows."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import errno
import logging
import socket
import ssl
import time
from collections.abc import Mapping
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
from fastws.opening import Cause, OpenError

FAREWELL: Final = 1.0
"""Seconds that the close handshake may take."""

NO_CODE: Final = 1005
ABNORMAL: Final = 1006

_MAX_REASON_SIZE: Final = 123  # RFC 6455, section 5.5

# No window is kept from message to message, so that each can be expanded by itself.
_DEFLATE: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"

_utf8_decoder: Final = codecs.getincrementaldecoder("utf-8")

# What it says about each socket is said by errors and endings.
_log = logging.getLogger("fastws.websocket")
_log.setLevel(logging.CRITICAL)


class Ending(NamedTuple):
    """How a socket has ended: with the code and the reason of a close frame, `NO_CODE` where it had none, or without
    such a frame, which is `ABNORMAL` with a reason of ours."""

    code: int
    reason: str


class WebSocket(WSListener):
    """One WebSocket. Subclasses take what comes by `on_message`, and may follow its end by `on_over`.

    1. :meth:`connect` returns when it is open, and otherwise raises and leaves nothing open.
    2. `on_message` gets every text message whole, and with `takes_binary` every binary one; a message of more than
       `max_message_size` bytes ends the socket, and so does one that breaks the protocol. `peer` is what the other side
       is called in the reason for that.
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
        # Of the message whose parts are coming.
        self._is_under_way = False
        self._is_left_out = False
        self._is_compressed = False
        self._decoder: codecs.IncrementalDecoder | None = None
        self._may_inflate = False
        self._over: asyncio.Future[None] | None = None

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
        elif frame.rsv1 and not self._may_inflate:
            self._refuse(WSCloseCode.PROTOCOL_ERROR, "has compressed what it was not asked to")
        elif frame.rsv2 or frame.rsv3 or (frame.rsv1 and kind not in (WSMsgType.TEXT, WSMsgType.BINARY)):
            self._refuse(WSCloseCode.PROTOCOL_ERROR, "set reserved bits of a frame")
        elif kind == WSMsgType.TEXT and frame.fin and not frame.rsv1 and not self._is_under_way:
            self._take_text(frame.get_payload_as_bytes())
        elif kind in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            if self._is_under_way == (kind == WSMsgType.CONTINUATION):
                self._on_part(kind, frame)
            elif self._is_under_way:
                self._refuse(WSCloseCode.PROTOCOL_ERROR, "began a message inside another")
            else:
                self._refuse(WSCloseCode.PROTOCOL_ERROR, "went on with a message that it had not begun")
        elif kind == WSMsgType.CLOSE:
            self._on_close(transport, frame)

    def _on_close(self, transport: WSTransport, frame: WSFrame) -> None:
        code = int(frame.get_close_code())  # type: ignore[call-overload]  # an IntEnum, or an int
        if frame.payload_size and (code == ABNORMAL or not 1000 <= code < 5000):
            # The others that nobody may send (RFC 6455, section 7.4) are known to picows.
            self._refuse(WSCloseCode.PROTOCOL_ERROR, f"closed with the code {code}, which nobody may send")
            return
        reason = (frame.get_close_message() or b"").decode("utf-8", "replace")
        printable = "".join(char for char in reason[:_MAX_REASON_SIZE] if char.isprintable())
        self._decide(code or NO_CODE, printable)
        if not transport.is_close_frame_sent:
            # Of its codes picows sends none that it does not know.
            transport.send_close(WSCloseCode.OK)
        transport.disconnect(True)

    def _take_text(self, message: bytes) -> None:
        if not message.isascii():
            try:
                message.decode()
            except UnicodeDecodeError:
                self._refuse_text()
                return
        self.on_message(message)

    def _on_part(self, kind: WSMsgType, frame: WSFrame) -> None:
        self._is_under_way = not frame.fin
        if kind != WSMsgType.CONTINUATION:
            self._is_left_out = kind == WSMsgType.BINARY and not self._takes_binary
            self._is_compressed = bool(frame.rsv1)
            self._decoder = _utf8_decoder() if kind == WSMsgType.TEXT else None
        if self._is_left_out:
            return
        part = frame.get_payload_as_bytes()
        self._parts.append(part)
        self._parts_size += len(part)
        if self._parts_size > self._max_message_size:
            self._refuse_size()
        elif not self._is_compressed and not self._is_utf8(part, is_last=bool(frame.fin)):
            self._refuse_text()
        elif frame.fin:
            message = b"".join(self._parts)
            self._parts.clear()
            self._parts_size = 0
            if self._is_compressed:
                self._on_compressed(message)
            else:
                self.on_message(message)

    def _is_utf8(self, part: bytes, *, is_last: bool) -> bool:
        """Whether the parts of a text are one so far: what is wrong is told at once, not with the last part."""
        if self._decoder is None:
            return True
        try:
            self._decoder.decode(part, is_last)
        except UnicodeDecodeError:
            return False
        return True

    def _refuse_size(self) -> None:
        self._refuse(
            WSCloseCode.MESSAGE_TOO_BIG, f"sent a message of over {self._max_message_size >> 20} MiB"
        )

    def _refuse_text(self) -> None:
        self._refuse(WSCloseCode.INVALID_TEXT, "sent a text that is not UTF-8")

    def _refuse(self, code: WSCloseCode, what: str) -> None:
        """End it because of what the other side has done, which is told it by `code`."""
        if self._transport is not None:
            self._decide(ABNORMAL, f"{self._peer} {what}")
            if not self._transport.is_close_frame_sent:
                self._transport.send_close(code)
            self._transport.disconnect(True)
            # It may read nothing.
            asyncio.get_running_loop().call_later(FAREWELL, self._transport.disconnect, False)

    def _on_compressed(self, message: bytes) -> None:
        try:
            whole = inflate(message, self._max_message_size)
        except InflateError as error:
            self._refuse(WSCloseCode(error.args[0]), f"sent what cannot be expanded: {error.args[1]}")
            return
        if self._decoder is None:
            self.on_message(whole)
        else:
            self._take_text(whole)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._decide(ABNORMAL, "it ended without a close frame")
        # What picows has ended it for, which nobody else asks about: asyncio would log that nobody did.
        over = asyncio.ensure_future(transport.wait_disconnected())
        over.add_done_callback(_take_failure)
        self._over = over
        if self._ending is not None and not self.ended.done():
            self.ended.set_result(self._ending)

    def pause_writing(self) -> None:
        """Requests are few and small; who waits for their answers has a time limit."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""


def _take_failure(over: asyncio.Future[None]) -> None:
    if not over.cancelled():
        over.exception()


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
