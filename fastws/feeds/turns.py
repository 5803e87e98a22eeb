"""Whose turn it is to be asked for. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_NEVER: Final = -float("inf")


class Turns:
    """Symbols that are asked for again and again; times are of any one monotonic clock, in seconds.

    1. A symbol has its turn when `interval` seconds are over since the last one, or later, when there are more than can
       be asked for; then those are next that have waited longest.
    2. One that is new is before all others, and so is one whose turn was in vain.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._taken_at: dict[str, float] = {}  # the longest ago first

    def want(self, codes: Iterable[str]) -> None:
        """From now on these have turns, in this order where they are new, and no others."""
        wanted = dict.fromkeys(codes)
        new = {code: _NEVER for code in wanted if code not in self._taken_at}
        self._taken_at = new | {code: at for code, at in self._taken_at.items() if code in wanted}

    def take(self, n: int, now: float) -> list[str]:
        """Return up to `n` whose turn it is, and count it as taken."""
        codes: list[str] = []
        for code, at in self._taken_at.items():
            if len(codes) == n or now < at + self.interval:
                break
            codes.append(code)
        for code in codes:
            del self._taken_at[code]
            self._taken_at[code] = now
        return codes

    def put_back(self, codes: Iterable[str]) -> None:
        """Let those be next again whose turn was in vain."""
        returned = {code: _NEVER for code in codes if code in self._taken_at}
        self._taken_at = returned | {code: at for code, at in self._taken_at.items() if code not in returned}

    def due_at(self) -> float:
        """When it is somebody's turn; infinity where there is nobody."""
        return next(iter(self._taken_at.values()), float("inf")) + self.interval
