"""What prices come from in this process, and how it ends: the feed, and whatever was loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from fastws.server.feed_runner import FeedRunner

_log = structlog.get_logger("fastws")


class Sources:
    """Ends what publishes here. `endings` are called once the feed has ended: what publishes besides it publishes its
    last then."""

    def __init__(self, feed_runner: FeedRunner) -> None:
        self.endings: list[Callable[[], Awaitable[None] | None]] = []
        self._feed_runner = feed_runner

    async def end(self, seconds: float) -> None:
        """Take some of the `seconds` that a whole stop has: a quarter for the feed, and an eighth for each ending."""
        await self._feed_runner.stop(seconds / 4)
        # Each is called once, also where one that takes too long is waited for no more.
        while self.endings:
            await _end(self.endings.pop(0), seconds / 8)


async def _end(end: Callable[[], Awaitable[None] | None], seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            if (ending := end()) is not None:
                await ending
    except TimeoutError:
        _log.warning("what was loaded did not end and was left behind", seconds=seconds)
    except Exception:
        _log.exception("what was loaded failed while it was stopped")
