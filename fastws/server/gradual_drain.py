"""Lets the clients of a server go to another process that serves already: each at a moment of its own."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from random import SystemRandom
from typing import Final

from fastws._core import Connection, Hub
from fastws.errors import CloseCode

_LOOK_SECONDS: Final = 0.01
# Nobody has to wait: the other one listens. It only keeps those apart that leave in one moment.
_RETURN_MS: Final = 100
# Who has not taken everything when its moment has come gets so much longer.
_PATIENCE_SECONDS: Final = 2.0
# What is overdue is made up for at this pace. Chance gathers returns, too, and twice the even pace is to be the most.
_HASTE: Final = 1.5
# Of a longer time in which the process was held up, nothing is made up for at once.
_AT_ONCE_SECONDS: Final = 4 * _LOOK_SECONDS


class Pace:
    """How many may be told to go, where one is due every `step` seconds. The clock is given."""

    def __init__(self, step: float, now: float) -> None:
        self._step = step
        self._looked_at = now

    def most(self, now: float) -> int:
        """Return it for a look at `now`, at least 1."""
        elapsed = min(now - self._looked_at, _AT_ONCE_SECONDS)
        self._looked_at = now
        return 1 if self._step == 0 else int(_HASTE * elapsed / self._step) + 1


class GradualDrain:
    """Takes every client out, evenly over `spread` seconds, in an order of chance.

    1. A client is told to come back, and closed with 1012, when its moment has come and it has taken what waits for it;
       who takes longer than two seconds more is told and closed nevertheless, and finds in its session what it missed.
    2. What is published meanwhile goes to those who are still there.
    3. Where the process was held up, what is overdue is made up for at half as much again as the pace, and not at once.
    4. It ends early when `is_hurried` is set: the rest is left to a `Drain`.

    `announce` tells a client in how many milliseconds to come back.
    """

    def __init__(
        self,
        hub: Hub,
        announce: Callable[[Connection, int], None],
        *,
        spread: float,
        is_hurried: asyncio.Event,
    ) -> None:
        self._hub = hub
        self._announce = announce
        self._spread = spread
        self._is_hurried = is_hurried

    async def run(self) -> int:
        """Return how many clients were closed before they had taken everything."""
        connections = self._hub.connection_list()
        SystemRandom().shuffle(connections)
        began = time.monotonic()
        step = self._spread / max(1, len(connections))
        pace = Pace(step, began)
        # With when it was its turn.
        waiting = deque((began + i * step, connection) for i, connection in enumerate(connections))
        n_cut = 0
        while waiting and not self._is_hurried.is_set():
            now = time.monotonic()
            most = pace.most(now)
            late: list[tuple[float, Connection]] = []
            while waiting and most and (waiting[0][0] <= now or not self._spread):
                due, connection = waiting.popleft()
                if not connection.is_open:
                    continue
                is_busy = connection.is_restoring or connection.queued_bytes
                if is_busy and now - due < _PATIENCE_SECONDS:
                    late.append((due, connection))
                    continue
                n_cut += bool(is_busy)
                self._end(connection)
                most -= 1
            waiting.extendleft(reversed(late))
            await asyncio.sleep(_LOOK_SECONDS if self._spread or late else 0)
        ends = time.monotonic() + 2 * _PATIENCE_SECONDS
        while self._hub.n_connections and time.monotonic() < ends and not self._is_hurried.is_set():
            # Who was accepted before and came in meanwhile.
            for connection in self._hub.connection_list():
                if connection.is_open:
                    self._end(connection)
            await asyncio.sleep(_LOOK_SECONDS)
        return n_cut

    def _end(self, connection: Connection) -> None:
        self._announce(connection, secrets.randbelow(_RETURN_MS))
        connection.close(CloseCode.RESTART, CloseCode.RESTART.meaning)
