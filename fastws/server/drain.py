"""Ends the connections of a server that stops: the last values, the announcement, the close."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Final

from fastws._core import Connection, Hub
from fastws.errors import CloseCode

# So long the loop is held at most; between two slices it reads, writes and answers.
_SLICE_SECONDS: Final = 0.002
_LOOK_SECONDS: Final = 0.01
# Clients come back from here on, so that the next process has begun to listen.
_LEAST_MS: Final = 500


class Drain:
    """Takes every client out.

    1. A client is told to come back, and closed with 1012, once all that was published has been handed to the
       kernel for it. So a slow one holds up nobody else.
    2. Who has not taken everything after half of the time is told and closed nevertheless: both go past what waits
       for it. So is a client that catches up with what a session missed.
    3. Who does not answer the close frame is let go of by the core, as at any close; and all that are left at
       `deadline`, which is a time of :func:`time.monotonic`, are cut off.
    4. No step holds the loop for more than 2 ms, however many clients there are.

    Nothing may be published, and nobody come, while it runs. `announce` tells a client in how many milliseconds to
    come back; they are random, up to `spread` seconds, so that not all come at once.
    """

    def __init__(
        self, hub: Hub, announce: Callable[[Connection, int], None], *, spread: float, deadline: float
    ) -> None:
        self._hub = hub
        self._announce = announce
        self._spread_ms = int(spread * 1000)
        self._deadline = deadline
        # Half of what is left now.
        self._patience = time.monotonic() + max(0.0, deadline - time.monotonic()) / 2

    async def run(self) -> int:
        """Return how many clients were closed before they had taken everything, or cut off at the deadline."""
        flusher = self._hub.flusher
        flusher.flush_all()
        while not flusher.is_idle and time.monotonic() < self._patience:
            await asyncio.sleep(_LOOK_SECONDS)
        waiting = self._hub.connection_list()
        while waiting and time.monotonic() < self._patience:
            waiting = await self._end(waiting, self._has_everything)
            if waiting:
                await asyncio.sleep(_LOOK_SECONDS)
        slow = set(waiting)
        await self._end(waiting, lambda connection: True)
        while self._hub.n_connections and time.monotonic() < self._deadline:
            await asyncio.sleep(_LOOK_SECONDS)
        left = self._hub.connection_list()
        async for connection in _paced(left):
            connection.abort(CloseCode.RESTART, CloseCode.RESTART.meaning)
        return len(slow.union(left))

    def _has_everything(self, connection: Connection) -> bool:
        return not (connection.is_restoring or connection.queued_bytes)

    async def _end(
        self, connections: list[Connection], is_due: Callable[[Connection], bool]
    ) -> list[Connection]:
        """Announce the stop to those that are due and close them; return the others that are still open."""
        others = []
        async for connection in _paced(connections):
            if not connection.is_open:
                continue
            if is_due(connection):
                self._announce(connection, _LEAST_MS + secrets.randbelow(self._spread_ms + 1))
                connection.close(CloseCode.RESTART, CloseCode.RESTART.meaning)
            else:
                others.append(connection)
        return others


async def _paced(connections: list[Connection]) -> AsyncIterator[Connection]:
    """Yield `connections`, and let the loop run after every slice of time that was spent on them."""
    slice_ends = time.monotonic() + _SLICE_SECONDS
    for connection in connections:
        yield connection
        if time.monotonic() >= slice_ends:
            await asyncio.sleep(0)
            slice_ends = time.monotonic() + _SLICE_SECONDS
