"""Tokens that are no longer accepted although they have not expired. Sans-IO."""

from __future__ import annotations

import heapq
import math
from typing import Final

MAX_REVOKED: Final = 100_000


class Revocations:
    """The ids (jti) of revoked tokens, each until its token would have expired anyway.

    At most `max_size` are kept: when there would be more, those that have ended go, and if that does not make
    room, the sixteenth that end soonest. Times are seconds since the Unix epoch.
    """

    __slots__ = ("_ends", "_max_size")

    def __init__(self, max_size: int = MAX_REVOKED) -> None:
        self._max_size = max_size
        self._ends: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, jti: str, until: float | None, now: float) -> int:
        """Revoke `jti` until a moment, None: for good; returns how many were forgotten to make room.

        A moment earlier than one given before changes nothing.
        """
        ends = self._ends
        forgotten = 0
        if jti not in ends and len(ends) >= self._max_size:
            self._ends = ends = {known: end for known, end in ends.items() if end > now}
            if len(ends) >= self._max_size:
                # Many at once, or each further one would cost a search through all of them.
                forgotten = self._max_size // 16 + 1
                for known in heapq.nsmallest(forgotten, ends, key=ends.__getitem__):
                    del ends[known]
        ends[jti] = max(ends.get(jti, -math.inf), math.inf if until is None else until)
        return forgotten

    def has(self, jti: str, now: float) -> bool:
        """Whether `jti` is revoked."""
        end = self._ends.get(jti)
        return end is not None and end > now
