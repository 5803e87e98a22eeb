"""When a source that fails is asked again. Sans-IO."""

from __future__ import annotations

import random
from typing import Final

from fastws.kis.retry import Backoff

_LONGEST_HOLD: Final = 3600.0


class Breaker:
    """A circuit breaker for one source; times are those of any one monotonic clock, in seconds.

    1. Closed, calls are made. After `threshold` failures in a row it opens.
    2. Open, no call is made for a delay, drawn evenly, whose ceiling doubles from `first` up to `last` seconds with
       every time that it opens.
    3. When that is over, calls are made again: the first that succeeds closes it, the first that fails opens it anew.
    4. A source that asks to be left alone is, for as long as it says, up to an hour; where it does not say, for a delay
       as of 2. This is no failure of it: the breaker opens, and counts nothing.
    """

    def __init__(
        self,
        *,
        threshold: int = 3,
        first: float = 2.0,
        last: float = 120.0,
        rng: random.Random | None = None,
    ) -> None:
        self._threshold = threshold
        self._backoff = Backoff(first, last, rng)
        self._n_failures = 0
        self._until = -float("inf")
        self.is_open = False
        self.reason = ""

    def wait(self, now: float) -> float:
        """How many seconds no call may be made for, 0.0 when one may."""
        return max(0.0, self._until - now) if self.is_open else 0.0

    def succeed(self) -> None:
        """A call was answered."""
        self._n_failures = 0
        self._backoff.reset()
        self.is_open = False
        self.reason = ""

    def fail(self, reason: str, now: float) -> None:
        """A call failed."""
        self._n_failures += 1
        self.reason = reason
        if self.is_open or self._n_failures >= self._threshold:
            self.is_open = True
            self._until = now + self._backoff.next_delay()

    def hold(self, reason: str, now: float, seconds: float | None) -> None:
        """The source takes no calls for now; None where it did not say for how long."""
        self.reason = reason
        self.is_open = True
        delay = self._backoff.next_delay() if seconds is None else min(seconds, _LONGEST_HOLD)
        self._until = now + delay
