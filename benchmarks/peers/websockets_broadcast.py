"""The `websockets` library with its `broadcast`, on uvloop."""

from __future__ import annotations

import asyncio

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

from benchmarks.peers.publication import SUBSCRIBED, announce, publish_evenly


async def main() -> None:
    readers: set[ServerConnection] = set()

    async def on_connection(connection: ServerConnection) -> None:
        try:
            async for _ in connection:
                await connection.send(SUBSCRIBED)
                readers.add(connection)
        finally:
            readers.discard(connection)

    async with serve(on_connection, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        announce(next(iter(server.sockets)).getsockname()[1])
        publish_evenly(asyncio.get_running_loop(), lambda text: broadcast(readers, text))
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
