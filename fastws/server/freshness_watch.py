"""Has the freshness of all symbols looked at every second."""

from __future__ import annotations

import asyncio
import datetime
import time
from typing import TYPE_CHECKING, Final

import structlog

from fastws.logs import log_limited
from fastws.market.freshness import Freshness

if TYPE_CHECKING:
    from fastws.feeds.base import FeedSupervisor

_INTERVAL: Final = 1.0
# A look that is late by more than this says that the process stood still, or its loop was blocked: what has come
# meanwhile was not read, and its symbols were not silent.
_LATE: Final = 1.0
_LAST_DAYS: Final = datetime.timedelta(days=30)

_log = structlog.get_logger("fastws.freshness")


def warn_of_end(last_day: datetime.date, today: datetime.date) -> None:
    """Say that after `last_day`, which is near, no day off of the Korean markets is known."""
    if last_day - today < _LAST_DAYS:
        _log.warning(
            "after this day no day off of KRX and NXT is known: a newer fastws lists more, or name some in holidays",
            day=str(last_day),
        )


class FreshnessWatch:
    """Calls `freshness` once a second, and tells `supervisor` whether most symbols of its feed are stale.

    Only a feed that runs here is judged so. What begins and ends is logged, in one line for all symbols.
    """

    def __init__(self, freshness: Freshness, supervisor: FeedSupervisor | None) -> None:
        self._freshness = freshness
        self._supervisor = supervisor
        self._task: asyncio.Task[None] | None = None
        self._has_stale = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="fastws freshness")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(_INTERVAL)
            now = time.monotonic()
            late, looked_at = now - looked_at - _INTERVAL, now
            try:
                self._freshness.look(now, time.time(), late if late > _LATE else 0.0)
            except Exception:
                # A fault of ours. Prices go on, and the next look may succeed.
                log_limited(
                    _log, "look-failed", "looking for stale symbols failed", level="error", exc_info=True
                )
                continue
            if self._supervisor is not None:
                self._supervisor.note_symbols(self._freshness.are_most_stale)
            self._log_change()

    def _log_change(self) -> None:
        counts = self._freshness.counts
        if self._has_stale == bool(counts.stale):
            return
        self._has_stale = bool(counts.stale)
        if self._has_stale:
            log_limited(
                _log,
                "symbols-stale",
                "symbols have been silent for longer than they usually are",
                symbols=counts.stale,
                judged=counts.judged,
                first=self._freshness.stale_codes(5),
            )
        else:
            log_limited(_log, "symbols-fresh", "no symbol is stale any more", level="info")
