"""How long to wait before Redis is tried again. Sans-IO."""

from __future__ import annotations

import random
from typing import Final

FIRST_SECONDS: Final = 0.05
LAST_SECONDS: Final = 0.5
"""Instances are few and an attempt is cheap; what heals is to be noticed soon."""


class Delays:
    """Seconds that grow with every failure in a row, from `FIRST_SECONDS` up to `LAST_SECONDS`.

    Each is drawn from the upper half of its range, so that instances do not all come back in one moment, and none
    tries again at once.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._n_failures = 0
        # Jitter protects nothing, so a fast predictable generator is enough.
        self._rng = rng if rng is not None else random.Random()  # noqa: S311

    def next_delay(self) -> float:
        most = min(LAST_SECONDS, FIRST_SECONDS * 2.0 ** min(self._n_failures, 16))
        self._n_failures += 1
        return self._rng.uniform(most / 2, most)

    def reset(self) -> None:
        self._n_failures = 0
