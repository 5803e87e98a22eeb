"""How long to wait before the next try. Sans-IO."""

from __future__ import annotations

import random
from typing import Final

_FACTOR: Final = 2.0


class Backoff:
    """Delays between `first` and a ceiling that doubles with every failure up to `last`, in seconds.

    They are drawn evenly, so that the clients of a server that was gone do not come back all at once. `first` is at
    least what KIS wants between closing and connecting.
    """

    def __init__(self, first: float = 1.0, last: float = 45.0, rng: random.Random | None = None) -> None:
        if not 0.0 < first <= last:
            raise ValueError(f"first must be above 0 and at most last, not {first} and {last}")
        self.n_failures = 0
        self._first = first
        self._last = last
        # Jitter protects nothing, so a fast predictable generator is enough.
        self._rng = rng if rng is not None else random.Random()  # noqa: S311

    def next_delay(self) -> float:
        """Count a failure and return the seconds to wait after it."""
        self.n_failures += 1
        # The exponent is bounded: endless failures must not end in an overflow.
        ceiling = min(self._last, self._first * _FACTOR ** min(self.n_failures, 32))
        return self._rng.uniform(self._first, ceiling)

    def reset(self) -> None:
        """Begin anew, after a success."""
        self.n_failures = 0
