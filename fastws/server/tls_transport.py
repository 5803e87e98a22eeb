"""TLS on accepted connections.

The loops' own TLS transports hold unsent data in three places with a limit each, cannot end the sending side only, and
make the protocol wait until the handshake is done, so that half handshakes are nobody's. This one adds nothing to the
TCP transport but encryption: what holds for a plain connection holds for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, cast

import structlog

from fastws.logs import log_limited
from fastws.server.handshake import Refusal, refusal_response
from fastws.server.tls import TlsContext

# One buffer for the whole process: the loop calls `buffer_updated` before anyone else can ask for it. Not larger
# than a record, because OpenSSL keeps for each connection what it was once given at a time.
_READ_SIZE: Final = 16 << 10
_read_buffer: Final = bytearray(_READ_SIZE)
_read_view: Final = memoryview(_read_buffer)

# What OpenSSL says by itself, such as answers to key updates, while the peer reads nothing of it.
_UNASKED_SIZE: Final = 64 << 10

_PLAIN_HTTP: Final = Refusal(400, "TLS_REQUIRED", "this port speaks TLS: use https:// or wss://")

_log = structlog.get_logger("fastws.tls")


class _BufferedReceiver(Protocol):
    """The part of `asyncio.BufferedProtocol` that takes data."""

    def get_buffer(self, sizehint: int, /) -> memoryview: ...

    def buffer_updated(self, nbytes: int, /) -> None: ...


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """The server's side of one TLS connection: the transport of a protocol, and the protocol of a TCP transport.

    1. The protocol gets `connection_made` when the TCP connection is made, and data when the handshake is done. Until
       then it can only close.
    2. What is written is encrypted and with the TCP transport when `write` returns. Nothing unsent waits here, so
       limits, size and pauses of the write buffer are those of the TCP transport.
    3. Once the sending side is closed, which `write_eof` does without closing the other, what comes is dropped unread.
       A protocol that has `data_dropped` is told how many bytes.
    4. The peer's closure alert and the end of its TCP stream are the same: `eof_received`, once. What is written in
       answer still goes out.
    5. Who makes no handshake is closed, with an alert where OpenSSL has one, and told in plain where he speaks HTTP.
    """

    __slots__ = (
        "_buffered",
        "_has_begun",
        "_has_ended",
        "_has_eof",
        "_incoming",
        "_is_paused",
        "_is_ready",
        "_is_shut",
        "_n_unasked",
        "_on_dropped",
        "_outgoing",
        "_protocol",
        "_ssl",
        "_tcp",
        "_tls",
    )

    _tcp: asyncio.Transport

    def __init__(self, tls: TlsContext, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._tls = tls
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = tls.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._has_begun = False
        self._is_ready = False
        self._is_paused = False
        self._is_shut = False
        self._has_eof = False
        self._has_ended = False
        self._n_unasked = 0
        self.set_protocol(protocol)

    # The transport.

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        is_buffered = hasattr(protocol, "get_buffer") and not isinstance(protocol, asyncio.Protocol)
        self._buffered = cast(_BufferedReceiver, protocol) if is_buffered else None
        self._on_dropped: Callable[[int], None] | None = getattr(protocol, "data_dropped", None)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sslcontext":
            return self._ssl.context
        if name == "ssl_object":
            return self._ssl
        return self._tcp.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._tcp.is_closing()

    def is_reading(self) -> bool:
        return not self._is_paused and not self.is_closing()

    def pause_reading(self) -> None:
        self._is_paused = True
        self._tcp.pause_reading()

    def resume_reading(self) -> None:
        if self._is_paused and not self._tcp.is_closing():
            self._is_paused = False
            self._tcp.resume_reading()
            # What was read before the pause would wait for the peer to send more.
            asyncio.get_running_loop().call_soon(self._read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._tcp.set_write_buffer_limits(high, low)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._tcp.get_write_buffer_limits()

    def get_write_buffer_size(self) -> int:
        return self._tcp.get_write_buffer_size()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not data or self._is_shut or self._tcp.is_closing():
            return
        if not self._is_ready:
            raise RuntimeError("nothing can be said before the handshake")
        # OpenSSL takes a record at a time; taking it out at once keeps its buffer short, which it never gives back.
        try:
            n = self._ssl.write(data)
            if n == len(data):
                self._tcp.write(self._outgoing.read())
                return
            records = [self._outgoing.read()]
            view = memoryview(data)
            while n < len(data):
                n += self._ssl.write(view[n:])
                records.append(self._outgoing.read())
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._tcp.writelines(records)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._is_shut and not self._tcp.is_closing():
            self._shut()
            self._tcp.write_eof()

    def close(self) -> None:
        if not self._tcp.is_closing():
            self._shut()
            self._tcp.close()

    def abort(self) -> None:
        self._tcp.abort()

    # The protocol of the TCP transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._tcp = cast(asyncio.Transport, transport)
        self._protocol.connection_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._has_begun and not self._is_ready:
            self._count_failure("the client has left")
        protocol = self._protocol
        # They refer to each other, and this one is no longer needed.
        self.set_protocol(asyncio.Protocol())
        protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._n_unasked = 0
        self._protocol.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        return _read_view

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_shut:
            if self._on_dropped is not None:
                self._on_dropped(nbytes)
            return
        if not self._has_begun:
            self._has_begun = True
            if 0x41 <= _read_buffer[0] <= 0x5A:  # a method, where a handshake begins with 0x16
                self._refuse_plain_http()
                return
        self._incoming.write(_read_view[:nbytes])
        if self._is_ready or self._shake_hands():
            self._read()

    def eof_received(self) -> bool:
        if not self._is_ready:
            return False
        if self._is_shut:
            self._on_end()
        else:
            self._has_eof = True
            self._read()
        # Closed by now, unless the protocol still owes an answer.
        return True

    # In between.

    def _shake_hands(self) -> bool:
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            self._fail(error)
            return False
        self._is_ready = True
        self._flush()
        return True

    def _read(self) -> None:
        """Hand on what has arrived."""
        while not (self._is_paused or self._is_shut or self._has_ended or self._tcp.is_closing()):
            try:
                is_end = not self._hand_on()
            except ssl.SSLWantReadError:
                # OpenSSL is not told: an end without the alert would be a mistake to it, after which it writes nothing.
                if not self._has_eof:
                    break
                is_end = True
            except ssl.SSLZeroReturnError:
                is_end = True
            except ssl.SSLError as error:
                self._fail(error)
                return
            if is_end:
                self._on_end()
        self._flush()

    def _hand_on(self) -> int:
        """Decrypt what is ready, up to a record, give it to the protocol, and return its size: 0 at the end."""
        receiver = self._buffered
        if receiver is None:
            data = self._ssl.read(_READ_SIZE)
            if data:
                cast(asyncio.Protocol, self._protocol).data_received(data)
            return len(data)
        buffer = receiver.get_buffer(_READ_SIZE)
        n = cast(int, self._ssl.read(len(buffer), buffer))  # a size, where it reads into a buffer
        if n:
            receiver.buffer_updated(n)
        return n

    def _on_end(self) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        if not cast(asyncio.Protocol, self._protocol).eof_received():
            self.close()

    def _flush(self) -> None:
        """Send what OpenSSL has to say by itself."""
        data = self._outgoing.read()
        if not data or self._tcp.is_closing():
            return
        self._tcp.write(data)
        self._n_unasked += len(data)
        if self._n_unasked > _UNASKED_SIZE:
            if self._tcp.get_write_buffer_size():
                self.abort()
            self._n_unasked = 0

    def _shut(self) -> None:
        """Close the sending side of the TLS connection."""
        if self._is_ready and not self._is_shut:
            with contextlib.suppress(ssl.SSLError):  # the alert is written, and the peer's is not waited for
                self._ssl.unwrap()
            self._flush()
        self._is_shut = True

    def _fail(self, error: ssl.SSLError) -> None:
        """End the connection because the peer does not keep to the protocol."""
        if not self._is_ready:
            self._count_failure(error.reason or str(error))
            self._has_begun = False  # counted
        self._is_shut = True
        self._flush()
        self._tcp.close()

    def _refuse_plain_http(self) -> None:
        self._count_failure("plain HTTP")
        self._has_begun = False
        self._is_shut = True
        self._tcp.write(refusal_response(_PLAIN_HTTP))
        self._tcp.write_eof()  # and its protocol closes it in time, if not the client

    def _count_failure(self, reason: str) -> None:
        self._tls.n_failed += 1
        address = self._tcp.get_extra_info("peername")
        log_limited(
            _log,
            "no TLS",
            "a client made no TLS handshake",
            level="info",
            reason=reason,
            client=address[0] if address else None,
        )
