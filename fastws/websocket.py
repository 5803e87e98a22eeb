"""A WebSocket that this program opens, as a protocol of asyncio's transports."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Final, NamedTuple, cast

from fastws._frames import OP_PING, OP_PONG, OP_TEXT, FrameReader, build_close, build_frame
from fastws.connecting import connect, drop
from fastws.deflate import InflateError, inflate
from fastws.opening import Cause, OpenError
from fastws.upgrading import HeadReader, check_upgrade, new_key, parse_url, upgrade_request

FAREWELL: Final = 1.0
"""Seconds that the close handshake may take."""

NO_CODE: Final = 1005
ABNORMAL: Final = 1006

_OK: Final = 1000
_INVALID_TEXT: Final = 1007
_TOO_BIG: Final = 1009
_RSV1: Final = 0x40
_MAX_REASON_SIZE: Final = 123  # RFC 6455, section 5.5
_ROOM_SIZE: Final = 256 << 10


class _Room(threading.local):
    """What the sockets of a thread read into, one after the other: nothing is left there between two calls."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_ROOM_SIZE))


_room: Final = _Room()


class Ending(NamedTuple):
    """How a socket has ended: with the code and the reason of a close frame, `NO_CODE` where it had none, or without
    such a frame, which is `ABNORMAL` with a reason of ours."""

    code: int
    reason: str


class WebSocket(asyncio.BufferedProtocol):
    """One WebSocket. Subclasses take what comes by `on_message`, and may follow its end by `on_over`.

    1. :meth:`connect` returns when it is open, and otherwise raises and leaves nothing open.
    2. `on_message` gets every text message whole, and with `takes_binary` every binary one; a message of more than
       `max_message_size` bytes ends the socket, and so does one that breaks the protocol. `peer` is what the other side
       is called in the reason for that.
    3. The end is decided by a close frame, by :meth:`abort` with a reason, or by the loss of the connection, whichever
       is first: then `on_over` is called, once, and nothing is delivered any more. `ended` follows, with the same
       `Ending`, when the connection is gone.
    4. What is sent before it is open, or after its end or its farewell, is dropped. What the network does not take yet
       is kept; where that is more than `max_message_size` bytes when something else is to be sent, it ends.

    All of it is for the thread of its loop.
    """

    def __init__(self, *, max_message_size: int, peer: str, takes_binary: bool = False) -> None:
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self.heard_at = time.monotonic()
        """When something came last, of any kind."""
        self.is_paused = False
        self._max_message_size = max_message_size
        self._peer = peer
        self._takes_binary = takes_binary
        self._room = _room.view
        self._transport: asyncio.Transport | None = None
        # In the handshake: what reads the answer, what was asked for, and whether that was granted.
        self._head: HeadReader | None = HeadReader()
        self._key = new_key()
        self._may_inflate = False
        self._granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # From then on.
        self._reader = FrameReader(is_client=True, max_message_size=max_message_size)
        self._may_send = False
        self._ending: Ending | None = None
        self._patience: asyncio.TimerHandle | None = None

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
            ValueError: one of `headers` is none.
        """
        target = parse_url(url)
        request = upgrade_request(target, self._key, headers or {}, deflate=deflate)
        self._may_inflate = deflate
        try:
            async with asyncio.timeout(time_limit):
                transport = await connect(self, target, ssl_context=ssl_context, proxy=proxy)
                transport.write(request)
                await self._granted
        except BaseException as error:
            if self._transport is not None:
                self._transport.abort()
            drop(self._granted)
            if isinstance(error, TimeoutError):
                raise OpenError(Cause.TIMEOUT) from None
            raise

    def send(self, message: bytes) -> None:
        """Send a text message. It never waits."""
        self._send(OP_TEXT, message)

    def ping(self) -> None:
        self._send(OP_PING, b"")

    def pong(self, payload: bytes) -> None:
        """Send a pong that nobody has asked for, of up to 125 bytes."""
        self._send(OP_PONG, payload)

    def pause(self) -> None:
        """Leave what comes to the network, so that the other side sees that nobody reads. What was read with the last
        message still comes."""
        if self._transport is not None and not self.is_paused and not self.ended.done():
            self.is_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and self.is_paused:
            self.is_paused = False
            self.heard_at = time.monotonic()
            if not self.ended.done():
                self._transport.resume_reading()

    def abort(self, reason: str = "") -> None:
        """End it without a farewell; with a reason that is decided now, without one when the connection is gone."""
        if self._transport is not None:
            if reason:
                self._decide(ABNORMAL, reason)
            self._may_send = False
            self._transport.abort()

    async def close(self) -> None:
        """Say goodbye, and wait for the other side's for `FAREWELL` seconds at most."""
        if self._transport is None:
            return
        # What waits to be read is in front of the answer.
        self.resume()
        self._say_goodbye(_OK)
        try:
            await asyncio.wait((self.ended,), timeout=FAREWELL)
        finally:
            self._transport.abort()

    def _send(self, opcode: int, payload: bytes) -> None:
        if self._may_send and self._transport is not None:
            if self._transport.get_write_buffer_size() > self._max_message_size:
                # Also whoever pings and does not read has everything answered.
                self.abort(f"{self._peer} does not read what it is sent")
                return
            self._transport.write(build_frame(opcode, payload, mask=os.urandom(4)))

    def _say_goodbye(self, code: int) -> None:
        if self._may_send and self._transport is not None:
            self._may_send = False
            self._transport.write(build_close(code, mask=os.urandom(4)))

    def _leave(self, code: int) -> None:
        """Say goodbye unless that was done, and go when it is on its way. The other side may read nothing."""
        if self._transport is not None:
            self._say_goodbye(code)
            self._transport.close()
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(FAREWELL, self._transport.abort)

    def _decide(self, code: int, reason: str) -> None:
        if self._ending is None:
            self._ending = Ending(code, reason)
            self.on_over(self._ending)

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.heard_at = time.monotonic()
        if self._head is None:
            self._receive(self._room[:nbytes])
        elif not self._granted.done():
            self._take_head(self._head, self._room[:nbytes])

    def connection_lost(self, error: Exception | None) -> None:
        self._may_send = False
        if self._patience is not None:
            self._patience.cancel()
        if self._head is not None:
            if not self._granted.done():
                self._granted.set_exception(OpenError(Cause.ENDED))
            return
        self._decide(ABNORMAL, "it ended without a close frame")
        if self._ending is not None and not self.ended.done():
            self.ended.set_result(self._ending)

    def _take_head(self, reader: HeadReader, data: memoryview) -> None:
        try:
            head = reader.feed(data)
            if head is None:
                return
            self._may_inflate = check_upgrade(head, self._key, deflate=self._may_inflate)
        except OpenError as error:
            self._granted.set_exception(error)
            return
        if self._may_inflate:
            self._reader = FrameReader(
                is_client=True, max_message_size=self._max_message_size, rsv_allowed=_RSV1
            )
        self._head = None
        self._may_send = True
        self._granted.set_result(None)
        self._receive(head.body)

    def _receive(self, data: bytes | memoryview) -> None:
        for event in self._reader.feed(data):
            if self._ending is not None:
                return
            if event[0] == "message":
                _, opcode, is_compressed, message = event
                self._take_message(opcode, is_compressed, message)
            elif event[0] == "ping":
                self._send(OP_PONG, event[1])
            elif event[0] == "close":
                printable = "".join(char for char in event[2][:_MAX_REASON_SIZE] if char.isprintable())
                self._leave(event[1])
                self._decide(event[1], printable)
            elif event[0] == "violation":
                self._on_violation(event[1], event[2])

    def _on_violation(self, code: int, what: str) -> None:
        if code == _TOO_BIG:
            self._refuse(code, f"sent a message of over {self._max_message_size >> 20} MiB")
        else:
            self._refuse(code, f"broke the protocol: {what}")

    def _take_message(self, opcode: int, is_compressed: bool, message: bytes) -> None:
        if opcode != OP_TEXT and not self._takes_binary:
            return
        if is_compressed:
            try:
                message = inflate(message, self._max_message_size)
                if opcode == OP_TEXT and not message.isascii():
                    message.decode()
            except InflateError as error:
                self._refuse(error.args[0], f"sent what cannot be expanded: {error.args[1]}")
                return
            except UnicodeDecodeError:
                self._on_violation(_INVALID_TEXT, "text is not UTF-8")
                return
        self.on_message(message)

    def _refuse(self, code: int, what: str) -> None:
        """End it because of what the other side has done, which is told it by `code`."""
        self._leave(code)
        self._decide(ABNORMAL, f"{self._peer} {what}")
