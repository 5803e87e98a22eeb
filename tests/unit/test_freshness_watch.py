"""Looks once a second, and what is made of those that are late."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from fastws.market.freshness import Counts
from fastws.server import freshness_watch
from fastws.server.freshness_watch import FreshnessWatch


class Looks:
    """Notes how much of the time each look is to leave out; blocks the loop after the first."""

    are_most_stale = False
    counts = Counts(0, 0, 0)

    def __init__(self) -> None:
        self.left_out: list[float] = []
        self.are_enough = asyncio.Event()

    def look(self, now: float, wall: float, stood_still: float) -> None:
        self.left_out.append(stood_still)
        if len(self.left_out) == 1:
            time.sleep(0.4)
        else:
            self.are_enough.set()


async def test_the_time_of_a_late_look_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freshness_watch, "_INTERVAL", 0.1)
    monkeypatch.setattr(freshness_watch, "_LATE", 0.1)
    looks: Any = Looks()
    watch = FreshnessWatch(looks, None)
    watch.start()
    try:
        async with asyncio.timeout(10.0):
            await looks.are_enough.wait()
    finally:
        await watch.stop()
    # It is asleep for the interval after the 0.4 s.
    assert looks.left_out[1] >= 0.39
