"""Connections to hosts that this program opens: TCP, proxies and TLS."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

import aiofastnet
from python_socks import ProxyConnectionError, ProxyError
from python_socks.async_.asyncio import Proxy

from fastws.opening import Cause, OpenError
from fastws.upgrading import Head, HeadReader, Target, connect_request

# The caller has a time limit; what asks for one gets more than any.
_A_DAY: Final = 86_400.0
_USUAL_PORTS: Final = {"http": 80, "https": 443}


async def connect(
    protocol: asyncio.BufferedProtocol,
    target: Target,
    *,
    ssl_context: ssl.SSLContext | None = None,
    proxy: str | None = None,
) -> asyncio.Transport:
    """Connect `protocol` to `target`, by TLS where that is secure, through `proxy` where there is one. It takes as long
    as it takes; whoever is cancelled, or gets an error, leaves nothing open.

    With TLS the other side's first words may come before `connection_made`.

    Raises:
        OpenError: it could not be done.
    """
    transport: asyncio.Transport | None = None
    way = _Way()
    try:
        if proxy is None:
            transport = await _attach(way, await _open_tcp(target.host, target.port))
        elif proxy.startswith("socks5:"):
            sock = await Proxy.from_url(proxy).connect(target.host, target.port, timeout=_A_DAY)
            transport = await _attach(way, sock)
        else:
            transport, way = await _open_tunnel(target, proxy)
        if target.is_secure:
            context = ssl_context or ssl.create_default_context()
            transport = await _start_tls(transport, way, protocol, context, target.host)
            protocol.connection_made(transport)
        else:
            way.check(transport, Cause.NO_WEBSOCKET)
            # Buffered protocols are read for in another way, which begins with reading.
            transport.pause_reading()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            transport.resume_reading()
        return transport
    except (ProxyError, OSError, UnicodeError) as error:
        _abort(transport)
        raise _explain(error) from None
    except BaseException:
        _abort(transport)
        raise


async def _open_tcp(host: str, port: int) -> socket.socket:
    """The first address that takes a connection; the error is that of the last one, as the one of all of them cannot be
    explained."""
    loop = asyncio.get_running_loop()
    failure = OSError("the host has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
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
            return sock
    raise failure


class _Way(asyncio.Protocol):
    """Has a connection until the one does that it is for. The other side has nothing to say in the meantime."""

    def __init__(self) -> None:
        self.has_spoken = False

    def data_received(self, data: bytes) -> None:
        self.has_spoken = True

    def check(self, transport: asyncio.Transport, cause: Cause) -> None:
        """Raises OpenError where the connection is of no use."""
        if self.has_spoken:
            raise OpenError(cause, "it speaks first")
        if transport.is_closing():
            raise OpenError(Cause.ENDED)


class _Tunnel(_Way):
    """The way to a proxy, and through it when it has agreed."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: asyncio.Future[Head] = asyncio.get_running_loop().create_future()
        self._reader = HeadReader()

    def data_received(self, data: bytes) -> None:
        if self.answer.done():
            super().data_received(data)
            return
        try:
            head = self._reader.feed(data)
        except OpenError:
            self.answer.set_exception(OpenError(Cause.OTHER, "the proxy does not speak HTTP"))
            return
        if head is not None:
            self.has_spoken = bool(head.body)
            self.answer.set_result(head)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(OpenError(Cause.OTHER, "the proxy ended the connection"))


async def _open_tunnel(target: Target, proxy: str) -> tuple[asyncio.Transport, _Way]:
    address = urlsplit(proxy)
    host = address.hostname or ""
    way = _Way()
    tunnel = _Tunnel()
    transport = await _attach(way, await _open_tcp(host, address.port or _USUAL_PORTS[address.scheme]))
    try:
        if address.scheme == "https":
            context = ssl.create_default_context()
            transport = await _start_tls(transport, way, tunnel, context, host)
        else:
            way.check(transport, Cause.OTHER)
            transport.set_protocol(tunnel)
        transport.write(connect_request(target, address.netloc.rpartition("@")[0]))
        head = await tunnel.answer
        if not 200 <= head.status < 300:
            raise OpenError(Cause.OTHER, f"the proxy answered with HTTP {head.status}")
    except BaseException:
        drop(tunnel.answer)
        transport.abort()
        raise
    return transport, tunnel


async def _attach(protocol: asyncio.Protocol, sock: socket.socket) -> asyncio.Transport:
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=sock)
    return transport


async def _start_tls(
    transport: asyncio.Transport,
    way: _Way,
    protocol: asyncio.BaseProtocol,
    context: ssl.SSLContext,
    host: str,
) -> asyncio.Transport:
    way.check(transport, Cause.NO_TLS)
    # The loops' own TLS takes up to a half more time for what comes.
    loop = asyncio.get_running_loop()
    return await aiofastnet.start_tls(loop, transport, protocol, context, server_hostname=host)


def drop(future: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more, and what it failed with, or would, is of no interest."""
    if not future.cancel() and not future.cancelled():
        future.exception()


def _abort(transport: asyncio.Transport | None) -> None:
    if transport is not None:
        transport.abort()


def _explain(error: Exception) -> OpenError:
    match error:
        case ProxyConnectionError(__cause__=OSError() as cause):
            return _explain(cause)
        case socket.gaierror() | UnicodeError():  # the latter for what can be no name of a host
            return OpenError(Cause.UNKNOWN_HOST)
        case ConnectionRefusedError():
            return OpenError(Cause.NO_LISTENER)
        case ConnectionError():
            return OpenError(Cause.ENDED)
        case ssl.SSLCertVerificationError():
            return OpenError(Cause.UNTRUSTED, error.verify_message)
        case ssl.SSLError():
            return OpenError(Cause.NO_TLS, error.reason or str(error))
        case OSError(errno=errno.ENETUNREACH | errno.EHOSTUNREACH):
            return OpenError(Cause.UNREACHABLE)
        case OSError(strerror=str(reason)):
            return OpenError(Cause.OTHER, reason)
        case _:
            return OpenError(Cause.OTHER, str(error) or type(error).__name__)
