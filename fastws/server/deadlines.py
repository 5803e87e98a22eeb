"""Deadlines of many things with one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """Deadlines of equal length, in order of insertion, with one timer for all of them."""

    def __init__(self, seconds: float, on_expired: Callable[[K], None]) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._on_expired = on_expired
        self._since: dict[K, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._since)

    def add(self, key: K) -> None:
        self._since[key] = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._sweep)

    def discard(self, key: K) -> None:
        self._since.pop(key, None)

    def change(self, seconds: float) -> None:
        """Set another length, also for those that wait."""
        self._seconds = seconds
        if self._timer is not None:
            self._timer.cancel()
            self._sweep()

    def close(self) -> list[K]:
        """Stop the timer; return the keys whose deadlines are not met any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        keys = list(self._since)
        self._since.clear()
        return keys

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        expired = []
        for key, since in self._since.items():
            left = since + self._seconds - now
            if left > 0:
                # Never in quick succession: a storm of clients has a deadline every few microseconds.
                self._timer = self._loop.call_later(max(left, 0.05), self._sweep)
                break
            expired.append(key)
        for key in expired:
            self._since.pop(key, None)
            self._on_expired(key)
