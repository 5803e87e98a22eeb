"""The price-feed service: polls a source and publishes what comes to servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import structlog

from fastws.feeds.base import LIVE, RECONNECTING, STALE, STOPPED, FeedState
from fastws.feeds.poller import SourcePoller
from fastws.feeds.together import run_together

if TYPE_CHECKING:
    from fastws._market import Instrument, PriceUpdate
    from fastws.feeds.publisher import Publisher

SUMMARY_INTERVAL: Final = 60.0
FLUSH_SECONDS: Final = 3.0
_PROGRESS_INTERVAL: Final = 0.5
_SHOWN: Final = 10

Keep: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, None]]], Coroutine[Any, Any, None]]

_log = structlog.get_logger("fastws.feeds")


class Progress(NamedTuple):
    """How a service is doing. `state` is ``live``, ``away`` (the source is), ``starting``, or ``standby`` while another
    process polls."""

    state: str
    n_symbols: int
    n_fresh: int
    n_published: int
    n_waiting: int


class PriceFeedService:
    """Polls with `poller` for `instruments`, and offers what comes to all of `publishers`.

    1. Polling and publishing do not wait for each other: a server that is away does not slow the polling down, and gets
       the newest price of each symbol once it is back.
    2. It runs until cancelled, and then brings away what waits, for up to 3 seconds. A source that cannot be used, or
       a server that refuses the token, ends it.
    3. An unchanged price is published as well: it says that it still holds, also to a server that has just started.
    4. A line tells how it is doing after the first answer, then once a minute; what goes stale is told when it does.

    With `is_verbose` every answer gets a line. `on_progress` is called twice a second. `keep` runs the polling whenever
    it is this process's turn, where there are several of which one polls.
    """

    def __init__(
        self,
        poller: SourcePoller,
        instruments: Iterable[Instrument],
        publishers: Sequence[Publisher],
        *,
        is_verbose: bool = False,
        on_progress: Callable[[Progress], object] = lambda progress: None,
        keep: Keep | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._sleep = sleep
        self._poller = poller
        self._publishers = publishers
        self._is_verbose = is_verbose
        self._on_progress = on_progress
        self._keep = keep
        self._is_polling = False
        self._clock = clock
        self._summary_at = -float("inf")
        self._stale: set[str] = set()
        poller.want(instruments)

    @property
    def progress(self) -> Progress:
        poller = self._poller
        state = "away" if poller.is_away else "starting" if poller.last_answer_at is None else "live"
        if self._keep is not None and not self._is_polling:
            state = "standby"
        return Progress(
            state,
            len(poller.wanted),
            poller.n_fresh(),
            sum(publisher.counts["published"] for publisher in self._publishers),
            sum(publisher.n_waiting for publisher in self._publishers),
        )

    @property
    def status(self) -> FeedState:
        """The same, as the state of a feed."""
        if not self._is_polling:
            return STOPPED
        if self._poller.is_away or self._poller.last_answer_at is None:
            return RECONNECTING
        return LIVE if self._poller.n_fresh() else STALE

    async def run(self) -> None:
        """Run until cancelled.

        Raises:
            SourceSetupError: the source cannot be used.
            PublishRefusedError: a server takes nothing from here.
        """
        try:
            await run_together(
                self._poll() if self._keep is None else self._keep(self._poll),
                *(publisher.run() for publisher in self._publishers),
                self._watch(),
            )
        finally:
            await self._poller.asker.source.close()
            await asyncio.gather(*(publisher.flush(FLUSH_SECONDS) for publisher in self._publishers))

    async def _poll(self) -> None:
        self._poller.excuse()
        self._is_polling = True
        try:
            await self._poller.run(self._offer, on_batch=self._on_batch)
        finally:
            self._is_polling = False

    def _offer(self, updates: Sequence[PriceUpdate]) -> None:
        for publisher in self._publishers:
            publisher.offer(updates)

    def _on_batch(self, codes: Sequence[str], n_failed: int, seconds: float) -> None:
        if self._is_verbose:
            _log.info(
                "batch polled",
                symbols=len(codes),
                first=codes[0],
                prices=len(codes) - n_failed,
                refused=n_failed,
                seconds=round(seconds, 3),
            )

    async def _watch(self) -> None:
        while True:
            self._watch_stale()
            progress = self.progress
            self._on_progress(progress)
            now = self._clock()
            if progress.state != "starting" and now >= self._summary_at + SUMMARY_INTERVAL:
                self._summary_at = now
                self._tell(progress)
            await self._sleep(_PROGRESS_INTERVAL)

    def _tell(self, progress: Progress) -> None:
        counts = self._poller.asker.counts
        _log.info(
            "price feed",
            source=self._poller.asker.source.name,
            state=progress.state,
            symbols=progress.n_symbols,
            fresh=progress.n_fresh,
            stale=len(self._stale),
            calls=counts["answered"],
            failed_calls=counts["failed"] + counts["limited"],
            refused=counts["refused"],
            published=progress.n_published,
            waiting=progress.n_waiting,
        )

    def _watch_stale(self) -> None:
        stale = set(self._poller.stale()) if self._is_polling else set()
        if not self._is_polling:
            self._stale = stale
        if gone := stale - self._stale:
            _log.warning("prices are stale", symbols=len(gone), first=sorted(gone)[:_SHOWN])
        if back := self._stale - stale:
            _log.info("prices are fresh again", symbols=len(back), first=sorted(back)[:_SHOWN])
        self._stale = stale
