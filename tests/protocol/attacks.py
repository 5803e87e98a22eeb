"""What the tests of broken, hostile and slow clients share.

Each of them runs beside a well-behaved subscriber whose stream may have no gap and no long pause, and under a bound
on the memory of the server.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.clients import Stream, client
from tests.conftest import StartServer
from tests.serving import Server, until

T = TypeVar("T")

CODES = [f"S{number:02}" for number in range(12)]
MESSAGE_BYTES = 65536
# What a server may grow by under any of this; what it held before a test is warm already.
MEMORY_BOUND = 24 << 20
LONGEST_PAUSE_S = 2.0
# AddressSanitizer keeps what was freed for a while, to see who still uses it.
IS_FREED_LATER = "libasan" in os.environ.get("LD_PRELOAD", "")


@asynccontextmanager
async def nobody_else_notices(server: Server, memory_bound: int = MEMORY_BOUND) -> AsyncIterator[None]:
    """Watch the stream of a well-behaved subscriber, and the memory of the server, from before to after."""
    async with client(server.url) as connection:
        stream = Stream()
        connection.on_message = stream.take
        await connection.subscribe("stock", *CODES)
        await connection.until_snapshot()
        while len(stream.seqs) < 2 * len(CODES):
            await connection.receive()
        rss, peak, longest_pause = server.rss, 0, 0.0
        is_over = False

        async def watch() -> None:
            nonlocal peak, longest_pause
            n_at_end = 0
            while not is_over or stream.n_updates < n_at_end + 200:
                started = time.monotonic()
                await connection.receive()
                longest_pause = max(longest_pause, time.monotonic() - started)
                peak = max(peak, server.rss)
                n_at_end = n_at_end if is_over else stream.n_updates

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            is_over = True
            await watching
    assert longest_pause < LONGEST_PAUSE_S
    assert IS_FREED_LATER or peak - rss < memory_bound, f"the server grew by {(peak - rss) >> 10} KiB"


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run what blocks beside the event loop; at least 80 at a time."""
    return await asyncio.get_running_loop().run_in_executor(_threads, function, *arguments)


_threads = ThreadPoolExecutor(80)


def start(launch: StartServer, directory: Path, *flags: str, **settings: object) -> Server:
    symbols = directory / "symbols.csv"
    if not symbols.exists():
        rows = [f"{code},{code},KOSPI,IT,10000,KRW" for code in CODES]
        symbols.write_text("\n".join(["symbol,name,market,sector,previous_close,currency", *rows, ""]))
    defaults: dict[str, object] = {
        "simulator_rate": 500,
        "simulator_seed": 5,
        "simulator_opening_burst": 1,
        # What is kept for sessions grows until it is full, and so with the time that a test takes.
        "history_bytes": 1 << 20,
    }
    return launch("--feed", "sim", "--symbols-file", str(symbols), *flags, **(defaults | settings))


def patient(launch: StartServer, directory: Path, **settings: object) -> Server:
    """A server with the limits as they are, except that many requests may come in one test."""
    symbols = directory / "attacks"
    symbols.mkdir(exist_ok=True)
    return start(launch, symbols, rate_limit=0, **settings)


def until_alone(server: Server) -> None:
    """Wait until only the watching subscriber is connected: what is gone is forgotten."""
    until(lambda: server.stats()["active_connections"] == 1, "the end of the other connections")
