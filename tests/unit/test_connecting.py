"""Ways to a host: through proxies, with TLS, and what is in the way. On asyncio's loop and on uvloop's."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fastws.connecting import connect
from fastws.opening import Cause, OpenError
from fastws.upgrading import parse_url
from tests.certificates import Authority

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine on a loop of its own, which must have nothing to say in the end."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        said: list[dict[str, Any]] = []
        runner.get_loop().set_exception_handler(lambda loop, context: said.append(context))
        yield lambda coroutine: runner.run(asyncio.wait_for(coroutine, 30.0))
        # This is told to whoever connects, too.
        assert [context for context in said if context["message"] != "SSL handshake failed"] == []


class Echoed(asyncio.BufferedProtocol):
    """Takes what comes."""

    def __init__(self) -> None:
        self._room = bytearray(7)
        self.data = b""
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self._room[:nbytes]

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(error)


@asynccontextmanager
async def site(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that does `serve` with each connection, and ends it then; gives the port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # it has gone
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, onward: asyncio.StreamWriter
) -> None:
    while data := await reader.read(1000):
        onward.write(data)
    onward.transport.abort()


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    far, onward = await asyncio.open_connection(host, port)
    try:
        await asyncio.gather(_carry(reader, writer, onward), _carry(far, onward, writer))
    finally:
        onward.transport.abort()


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    if b"Proxy-Authorization: Basic bWU6c2VjcmV0\r\n" not in head:
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
        await writer.drain()
        return
    writer.write(b"HTTP/1.0 200 Connection established\r\n\r\n")
    host, _, port = head.split(b" ")[1].decode().rpartition(":")
    await _join(reader, writer, host, int(port))


async def socks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A proxy of RFC 1928 with passwords of RFC 1929."""
    assert b"\x02" in (await reader.readexactly((await reader.readexactly(2))[1]))
    writer.write(b"\x05\x02")
    user = await reader.readexactly((await reader.readexactly(2))[1])
    password = await reader.readexactly((await reader.readexactly(1))[0])
    is_known = (user, password) == (b"me", b"secret")
    writer.write(b"\x01" + bytes((not is_known,)))
    await writer.drain()
    if is_known:
        *_, kind = await reader.readexactly(4)
        assert kind == 1
        host = ".".join(map(str, await reader.readexactly(4)))
        port = int.from_bytes(await reader.readexactly(2))
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        await _join(reader, writer, host, port)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """What to trust, and what servers have."""
    home = tmp_path_factory.mktemp("certificates")
    authority = Authority()
    authority.issue(home / "site.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / "site.pem")
    return authority.write(home / "authority.pem"), context


PROXIES = {"http": http, "https": http, "socks5": socks}


@pytest.mark.parametrize("is_secure", [False, True])
@pytest.mark.parametrize("scheme", [None, *PROXIES])
def test_all_ways(
    scheme: str | None,
    is_secure: bool,
    run: Run,
    certificate: tuple[Path, ssl.SSLContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    authority, context = certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))

    async def check() -> None:
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(site(echo, context if is_secure else None))
            target = parse_url(f"{'wss' if is_secure else 'ws'}://127.0.0.1:{port}")
            proxy = None
            if scheme is not None:
                serve = site(PROXIES[scheme], context if scheme == "https" else None)
                proxy = f"{scheme}://me:secret@127.0.0.1:{await stack.enter_async_context(serve)}"
                with pytest.raises(OpenError) as caught:
                    await connect(Echoed(), target, proxy=proxy.replace("secret", "guessed"))
                assert caught.value.cause is Cause.OTHER
                assert "guessed" not in str(caught.value)
                with pytest.raises(OpenError) as caught:
                    await connect(Echoed(), target, proxy=f"{scheme}://me:secret@127.0.0.1:1")
                assert caught.value.cause is Cause.NO_LISTENER
            protocol = Echoed()
            transport = await connect(protocol, target, proxy=proxy)
            assert protocol.transport is transport
            transport.write(b"there and back again")
            async with asyncio.timeout(10.0):
                while len(protocol.data) < 20:
                    await asyncio.sleep(0.001)
            assert protocol.data == b"there and back again"
            transport.abort()
            await protocol.lost

    run(check())


async def _wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


def _saying(text: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        await writer.drain()

    return serve


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.example ESMTP\r\n")
    await reader.read()


PROXY_FAULTS = {
    "ends": (_saying(b""), Cause.OTHER, "ended"),
    "ends in its answer": (_saying(b"HTTP/1.1 200"), Cause.OTHER, "ended"),
    "refuses": (_saying(b"HTTP/1.1 502 Bad Gateway\r\n\r\n"), Cause.OTHER, "HTTP 502"),
    "another protocol": (_greet, Cause.OTHER, "does not speak HTTP"),
    "more than its answer": (_saying(b"HTTP/1.1 200 OK\r\n\r\nx"), Cause.NO_WEBSOCKET, "speaks first"),
}


@pytest.mark.parametrize("name", PROXY_FAULTS)
def test_proxies_that_are_none(name: str, run: Run) -> None:
    serve, cause, text = PROXY_FAULTS[name]

    async def check() -> None:
        async with site(serve) as port:
            with pytest.raises(OpenError) as caught:
                await connect(
                    Echoed(), parse_url("ws://127.0.0.1:1"), proxy=f"http://me:secret@127.0.0.1:{port}"
                )
            # Whoever speaks before it was asked may be heard before or after it was asked.
            assert caught.value.cause in {cause, Cause.NO_WEBSOCKET}
            assert text in str(caught.value) or "speaks first" in str(caught.value)

    run(check())


def test_certificates_that_are_not_trusted(run: Run, certificate: tuple[Path, ssl.SSLContext]) -> None:
    async def check() -> None:
        async with site(echo, certificate[1]) as port:
            protocol = Echoed()
            with pytest.raises(OpenError) as caught:
                await connect(protocol, parse_url(f"wss://127.0.0.1:{port}"))
            assert caught.value.cause is Cause.UNTRUSTED
            assert caught.value.detail

    run(check())


def test_who_ends_the_connection_in_the_tls_handshake(run: Run) -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async def check() -> None:
        async with site(end) as port:
            with pytest.raises(OpenError) as caught:
                await connect(Echoed(), parse_url(f"wss://127.0.0.1:{port}"))
            assert caught.value.cause is Cause.ENDED

    run(check())


@pytest.mark.parametrize("scheme", ["", "http", "https", "socks5"])
def test_who_gives_up_leaves_nothing_open(scheme: str, run: Run) -> None:
    """The other side has taken the connection and says nothing."""

    async def check() -> None:
        arrived, ended = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            arrived.set()
            try:
                await reader.read()
            finally:
                ended.set()

        async with site(serve) as port:
            url = "wss://127.0.0.1:1" if scheme else f"wss://127.0.0.1:{port}"
            proxy = f"{scheme}://127.0.0.1:{port}" if scheme else None
            connecting = asyncio.create_task(_connect(url, proxy))
            await arrived.wait()
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            await asyncio.wait_for(ended.wait(), 10.0)

    run(check())


async def _connect(url: str, proxy: str | None) -> None:
    await connect(Echoed(), parse_url(url), proxy=proxy)
