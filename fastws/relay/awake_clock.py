"""Time as far as this process has run: nobody is late because it stood still itself. Sans-IO; the clock is given."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

STANDSTILL_SECONDS: Final = 0.4
"""A process in which nobody looks at the clock for so long has stood still: it was stopped, or had no turn."""

READING_SECONDS: Final = 0.25
"""For how long afterwards no time passes: what others have said meanwhile is still to be read."""

# What a standstill counts as, so that time passes also where one follows on another.
_COUNTED_SECONDS: Final = 0.05


class AwakeClock:
    """A monotonic `clock`, in seconds, less the time in which this process stood still.

    What others have said meanwhile waits in the sockets: who judges them by a clock that has gone on takes them for
    silent, and what they were asked for lost, before it has read their answers. It is to be asked several times within
    `STANDSTILL_SECONDS`, by whomever; what is compared with its times has to be of the same instance of it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at = clock()
        self._read_until = self._looked_at
        # What was left out so far.
        self._left_out = 0.0

    def __call__(self) -> float:
        now = self._clock()
        past, self._looked_at = now - self._looked_at, now
        if past > STANDSTILL_SECONDS:
            self._left_out += past - _COUNTED_SECONDS
            self._read_until = now + READING_SECONDS
        elif now - past < self._read_until:
            self._left_out += min(now, self._read_until) - (now - past)
        return now - self._left_out
