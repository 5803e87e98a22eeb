"""TLS of the listening sockets: the certificate that new connections get, and the transport that encrypts them.

The loops' own TLS transports hold unsent data in three places with a limit each, cannot end the sending side only, and
make the protocol wait until the handshake is done, so that half handshakes are nobody's. This one adds nothing to the
TCP transport but encryption: what holds for a plain connection holds for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol, cast

import structlog
from cryptography import x509

from fastws.logs import log_limited
from fastws.server.handshake import Refusal, refusal_response
from fastws.settings import Settings

# Forward secrecy and authenticated encryption; those of TLS 1.3 are all of that kind.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"

# One buffer for the whole process: the loop calls `buffer_updated` before anyone else can ask for it. Not larger
# than a record, because OpenSSL keeps for each connection what it was once given at a time.
_READ_SIZE: Final = 16 << 10
_read_buffer: Final = bytearray(_READ_SIZE)
_read_view: Final = memoryview(_read_buffer)

# What OpenSSL says by itself, such as answers to key updates, while the peer reads nothing of it.
_UNASKED_SIZE: Final = 64 << 10

_PLAIN_HTTP: Final = Refusal(400, "TLS_REQUIRED", "this port speaks TLS: use https:// or wss://")

_log = structlog.get_logger("fastws.tls")


class TlsContext:
    """The certificate and the rules of new TLS connections.

    `n_failed` counts connections that sent something and came to no handshake.
    """

    def __init__(self, settings: Settings) -> None:
        """Read `certfile` and `keyfile`; see :func:`make_tls`."""
        self.n_failed = 0
        self.context, self._certificate = _load(settings)

    @property
    def expires_at(self) -> datetime:
        """When the certificate ends."""
        return self._certificate.not_valid_after_utc

    def adopt(self, other: TlsContext) -> bool:
        """Give new connections what `other` has read later; the open ones go on as they are.

        Returns whether that is another certificate.
        """
        is_other = other._certificate != self._certificate
        self.context, self._certificate = other.context, other._certificate
        return is_other


def make_tls(settings: Settings) -> TlsContext | None:
    """What the settings say of TLS, None without a certificate.

    Raises:
        SettingsError: naming `certfile` or `keyfile` and the fix.
    """
    if settings.certfile is not None:
        return TlsContext(settings)
    if settings.keyfile is not None:
        raise settings.error(
            "keyfile", "there is no certfile that it is the key of", "set certfile as well or unset it"
        )
    return None


class _EncryptedKeyError(Exception):
    """The key asks for a password."""


def _load(settings: Settings) -> tuple[ssl.SSLContext, x509.Certificate]:
    certfile = cast(str, settings.certfile)
    keyfile = certfile if settings.keyfile is None else settings.keyfile
    key_setting = "certfile" if settings.keyfile is None else "keyfile"
    chain = _read(settings, "certfile", certfile)
    key = _read(settings, key_setting, keyfile)
    if b"-----BEGIN CERTIFICATE-----" not in chain:
        raise settings.error(
            "certfile", f"{certfile} holds no certificate in PEM", "name the file of the chain"
        )
    if b"PRIVATE KEY-----" not in key:
        fix = "name the file of the key" + (" in keyfile" if settings.keyfile is None else "")
        raise settings.error(key_setting, f"{keyfile} holds no private key in PEM", fix)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A peer that could renegotiate could make the server work without end on one connection.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certfile, keyfile, password=_refuse_password)
        certificate = x509.load_pem_x509_certificate(chain)
    except _EncryptedKeyError:
        raise settings.error(
            key_setting,
            f"the key in {keyfile} is encrypted",
            "decrypt it (openssl pkey -in FILE -out NEW) and let only this user read it",
        ) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise settings.error(
                key_setting,
                f"the key in {keyfile} does not belong to the first certificate in {certfile}",
                "name the key that it was issued for, and put the server's certificate before the others",
            ) from None
        raise settings.error(
            "certfile",
            f"{certfile} and the key in {keyfile} cannot be used ({error.reason or error})",
            "look at them with openssl x509 -in FILE and openssl pkey -in FILE",
        ) from None
    except (OSError, ValueError) as error:
        raise settings.error(
            "certfile", f"{certfile} cannot be used ({error})", "look at it with openssl x509 -in FILE"
        ) from None
    if certificate.not_valid_after_utc < datetime.now(UTC):
        _log.warning(
            "the certificate has expired, and clients will refuse it",
            certfile=certfile,
            expired=f"{certificate.not_valid_after_utc:%Y-%m-%d}",
        )
    return context, certificate


def _refuse_password() -> str:
    raise _EncryptedKeyError


def _read(settings: Settings, setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise settings.error(
            setting, f"cannot read {path} ({reason})", "check the path and its permissions"
        ) from None


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
    4. The peer's closure alert and the end of its TCP stream are the same: `eof_received`, once.
    5. Who makes no handshake is closed, with an alert where OpenSSL has one, and told in plain where he speaks HTTP.
    """

    __slots__ = (
        "_buffered",
        "_has_begun",
        "_has_ended",
        "_incoming",
        "_is_paused",
        "_is_ready",
        "_is_shut",
        "_n_unasked",
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
        self._has_ended = False
        self._n_unasked = 0
        self.set_protocol(protocol)

    # The transport.

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        is_buffered = hasattr(protocol, "get_buffer") and not isinstance(protocol, asyncio.Protocol)
        self._buffered = cast(_BufferedReceiver, protocol) if is_buffered else None

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
            self._incoming.write_eof()
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
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
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
        self._tcp.write_eof()  # and the deadline of its handshake closes it, if not the client

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
