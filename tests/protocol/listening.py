"""A listener on a real socket for tests, and a client that says exactly what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import os
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, NamedTuple

import pytest
import uvloop
from aiohttp import web

from fastws.server.handshake import Request
from fastws.server.listener import Listener
from fastws.server.places import TcpPlace, UnixPlace
from fastws.server.tls import TlsContext
from fastws.settings import Settings
from tests.certificates import files, forced

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3


WAYS = ("tcp", "tls", "unix")
"""How a listener is reached."""

way: ContextVar[str] = ContextVar("way", default="tcp")
"""The one of the scenario that runs."""

Scenario = Callable[..., Coroutine[Any, Any, None]]


def scenario(function: Scenario) -> Callable[..., None]:
    """Run an async test on uvloop and on asyncio; fail it for leftover tasks and for errors nobody caught.

    What `listening` starts is reached over TCP, with ``pytest --tls`` over TLS.
    """
    return _scenario(function, ("tls",) if forced else ("tcp",))


def scenario_over(*ways: str) -> Callable[[Scenario], Callable[..., None]]:
    """Like `scenario`, in each of several ways of reaching what `listening` starts."""
    return functools.partial(_scenario, ways=ways)


def over_both(function: Scenario) -> Callable[..., None]:
    """Like `scenario`, over TCP and over TLS."""
    return _scenario(function, ("tls",) if forced else ("tcp", "tls"))


def everywhere(function: Scenario) -> Callable[..., None]:
    """Like `scenario`, in every way of reaching what `listening` starts."""
    return _scenario(function, WAYS)


def _scenario(function: Scenario, ways: tuple[str, ...]) -> Callable[..., None]:
    def test(
        loop_factory: Callable[[], asyncio.AbstractEventLoop], way_name: str, **arguments: object
    ) -> None:
        async def main() -> None:
            way.set(way_name)
            errors: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
            async with asyncio.timeout(100):
                await function(**arguments)
                await until(lambda: len(asyncio.all_tasks()) == 1)
            assert errors == []

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    functools.update_wrapper(test, function)
    del test.__wrapped__
    own = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("loop_factory", "way_name")]
    test.__signature__ = inspect.Signature([*inspect.signature(function).parameters.values(), *own])
    loops = [("uvloop", uvloop.new_event_loop), ("asyncio", asyncio.new_event_loop)]
    cases = [
        pytest.param(factory, way_name, id=name if way_name == "tcp" else f"{name}-{way_name}")
        for way_name in ways
        for name, factory in loops
    ]
    return pytest.mark.parametrize(("loop_factory", "way_name"), cases)(test)


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for `condition`; fail when it does not come true in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


class Echo(asyncio.Protocol):
    """Stands where a WebSocket connection will: records what it gets and sends it back."""

    def __init__(self, transport: asyncio.Transport, request: Request, leftover: bytes) -> None:
        self.transport = transport
        self.request = request
        self.leftover = leftover
        self.received = bytearray(leftover)
        self.is_lost = False
        transport.set_protocol(self)
        if leftover:
            transport.write(leftover)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self, *, has_body: bool = True) -> Response:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head[:-4].split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        size = int(headers.get("content-length", "0")) if has_body else 0
        return Response(int(status_line.split()[1]), headers, await self.reader.readexactly(size))

    async def rest(self) -> bytes:
        """Read to the end of the connection; a reset counts as one."""
        data = bytearray()
        with contextlib.suppress(ConnectionError):  # what was read before the reset is what is wanted
            while piece := await self.reader.read(65536):
                data += piece
        return bytes(data)

    async def half_close(self) -> None:
        """End the stream to the server, and go on reading; over TLS without the closure alert."""
        if self.writer.can_write_eof():
            self.writer.write_eof()
            return
        # The loops' own TLS cannot. What was written goes out with the end of a turn.
        while self.writer.transport.get_write_buffer_size():
            await asyncio.sleep(0)
        for _ in range(2):
            await asyncio.sleep(0)
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as twin:
            twin.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        self.writer.close()
        # The server may have closed first, or still be saying something.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await self.writer.wait_closed()


class Harness:
    """A started listener whose WebSocket path ``/v1/ws`` leads to `Echo`. `path` is that of its Unix socket, if any."""

    def __init__(self, listener: Listener, opened: list[Echo], path: str | None) -> None:
        self.listener = listener
        self.opened = opened
        self.path = path
        self._clients: list[Client] = []

    async def connect(self, data: bytes = b"") -> Client:
        context = files().authority.client_context() if way.get() == "tls" else None
        if self.path is not None:
            client = Client(*await asyncio.open_unix_connection(self.path))
        else:
            client = Client(*await asyncio.open_connection("127.0.0.1", self.listener.port, ssl=context))
        self._clients.append(client)
        if data:
            client.send(data)
        return client

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        for echo in self.opened:
            echo.transport.abort()
        await self.listener.close()


def plain_app() -> web.Application:
    """An application that answers GET /hello, and POST /size with the size of the body."""

    async def hello(request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def size(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    app = web.Application(client_max_size=1 << 20)
    app.router.add_get("/hello", hello)
    app.router.add_post("/size", size)
    return app


@contextlib.asynccontextmanager
async def listening(app: web.Application | None = None, **options: Any) -> AsyncIterator[Harness]:
    opened: list[Echo] = []

    def open_connection(
        transport: asyncio.Transport, request: Request, leftover: bytes, window_bits: int
    ) -> None:
        opened.append(Echo(transport, request, leftover))

    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/socket" if way.get() == "unix" else None
        place = TcpPlace("127.0.0.1", 0) if path is None else UnixPlace(path)
        if way.get() == "tls":
            options.setdefault("tls", TlsContext(Settings(certfile=str(files().certfile))))
        listener = Listener(app or plain_app(), {"/v1/ws": open_connection}, [place], **options)
        await listener.start()
        harness = Harness(listener, opened, path)
        try:
            yield harness
        finally:
            await harness.close()


def upgrade(path: str = "/v1/ws", **headers: str | None) -> bytes:
    """Return an upgrade request; keyword ``sec_websocket_key=None`` leaves that header out."""
    fields: dict[str, str | None] = {
        "host": "localhost:8000",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
    }
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")
