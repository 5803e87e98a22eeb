"""The proxy that the tests of bad networks go through: what a slow line does to what passes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.scenarios.faultproxy import FaultProxy

SIZE = 60_000


@asynccontextmanager
async def line() -> AsyncIterator[tuple[FaultProxy, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A proxy, and both ends of a connection through it: what is written at one is read at the other."""
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), "127.0.0.1", 0)
    try:
        async with FaultProxy.run(server.sockets[0].getsockname()[1]) as proxy:
            reader, near = await asyncio.open_connection("127.0.0.1", proxy.port)
            far = await asyncio.wait_for(accepted.get(), 10)
            try:
                yield proxy, reader, far
            finally:
                near.close()
                far.close()
    finally:
        server.close()
        await server.wait_closed()


async def test_nothing_overtakes_when_a_line_gets_faster() -> None:
    async with line() as (proxy, reader, far):
        proxy.delay_s = 0.2
        far.write(b"a" * 1000)
        await until(lambda: any(side._queue for side in proxy.sides))
        proxy.delay_s = 0.0
        far.write(b"b" * 1000)
        assert await asyncio.wait_for(reader.readexactly(2000), 10) == b"a" * 1000 + b"b" * 1000


async def test_a_rate_is_kept_and_everything_comes() -> None:
    async with line() as (proxy, reader, far):
        proxy.rate = 100_000.0
        data = bytes(i % 251 for i in range(SIZE))
        began = time.monotonic()
        far.write(data)
        assert await asyncio.wait_for(reader.readexactly(SIZE), 10) == data
        assert time.monotonic() - began > 0.5 * SIZE / proxy.rate


async def test_whoever_sends_on_a_slow_line_is_not_read_ahead() -> None:
    async with line() as (proxy, reader, far):
        proxy.rate = 1000.0
        far.write(b"x" * (4 << 20))
        await until(lambda: any(side._queue_size > 16 * 1024 for side in proxy.sides))
        assert max(side._queue_size for side in proxy.sides) < 1 << 20
        proxy.rate = 0.0
        assert len(await asyncio.wait_for(reader.readexactly(4 << 20), 20)) == 4 << 20


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)
