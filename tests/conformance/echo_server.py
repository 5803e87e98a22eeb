"""An echo endpoint of the real connection class, for protocol suites.

``python -m tests.conformance.echo_server --port N``

Echo stands in place of a dialect. Binary messages are allowed, there is no rate limit, a message may have 32 MiB and
an outbox 128 MiB.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

import uvloop
from aiohttp import web

from fastws import deflate, logs
from fastws._core import Connection, Dialect, Hub
from fastws.server.handshake import Request
from fastws.server.listener import Listener
from fastws.server.places import TcpPlace

MESSAGE_SIZE = 32 << 20
OUTBOX_SIZE = 128 << 20


class Echo:
    """A handler that sends back what it gets."""

    def on_open(self, connection: Connection) -> None:
        pass

    def on_message(self, connection: Connection, data: bytes, is_text: bool) -> None:
        connection.send(data, is_text)

    def on_rate_limited(self, connection: Connection) -> None:
        raise AssertionError("there is no rate limit")

    def on_close(self, connection: Connection, code: int) -> None:
        pass


async def main(host: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    hub = Hub(
        loop,
        epoch="echo",
        outbox_soft_size=OUTBOX_SIZE,
        outbox_hard_size=OUTBOX_SIZE,
        rate_limit=0,
        control_rate_limit=0,
        idle_timeout=0,
        compress=deflate.compress,
        inflate=deflate.inflate,
        deflate_threshold=0,
    )
    dialect = Dialect("echo", lambda payload, ms: b"{")
    echo = Echo()

    def open_connection(
        transport: asyncio.Transport, request: Request, leftover: bytes, window_bits: int
    ) -> None:
        connection = Connection(
            hub,
            transport,
            echo,
            dialect,
            max_message_size=MESSAGE_SIZE,
            allow_binary=True,
            window_bits=window_bits,
        )
        connection.open(leftover)

    listener = Listener(web.Application(), {"/": open_connection}, [TcpPlace(host, port)])
    await listener.start()
    print(f"echo on ws://{host}:{listener.port}/", flush=True)
    await stopped.wait()
    for connection in hub.connection_list():
        connection.close(1001, "going away")
    await listener.close()
    hub.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001)
    arguments = parser.parse_args()
    logs.configure("warning")
    uvloop.run(main(arguments.host, arguments.port))
