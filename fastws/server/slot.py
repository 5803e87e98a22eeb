"""The place of one of several processes that serve one port, as their parent sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Final

from fastws.relay.delays import Delays
from fastws.server.workers import Failure, Ready

# A worker that has lived so long has not died of how it starts.
_LIVED_SECONDS: Final = 10.0


class Slot:
    """A worker's place. `pid` is None while nobody has it, and `restart_at` says when somebody gets it.

    `ready` and `failure` are what the worker that has it told, and `is_killed` whether the parent has ended it.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid: int | None = None
        self.restart_at: float | None = None
        self.n_restarts = 0
        self.started_at = 0.0
        self.ready: Ready | None = None
        self.failure: Failure | None = None
        self.is_killed = False
        self._delays = Delays()

    @property
    def age(self) -> float:
        """Seconds since its worker was started."""
        return time.monotonic() - self.started_at

    def begin(self) -> None:
        """A worker is about to get it."""
        self.restart_at = self.ready = self.failure = None
        self.is_killed = False
        self.started_at = time.monotonic()

    def restart_later(self) -> float:
        """Let another worker have it: after how many seconds is returned, more with every one that lives shortly."""
        if self.age >= _LIVED_SECONDS:
            self._delays.reset()
        delay = self._delays.next_delay()
        self.restart_at = time.monotonic() + delay
        return delay

    def kill(self, number: signal.Signals) -> None:
        """Send a signal to its worker, if there is one."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and is about to be reaped
                os.kill(self.pid, number)
