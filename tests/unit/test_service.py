"""The price-feed service on virtual time: what it tells, what it offers, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from structlog.testing import capture_logs
from test_feed_supervisor import VirtualTime
from test_poll import INSTRUMENTS, ScriptedSource, asker_of

from fastws._market import PriceUpdate
from fastws.feeds.poller import SourcePoller
from fastws.feeds.publisher import PublishRefusedError
from fastws.feeds.service import PriceFeedService, Progress
from fastws.feeds.sources import SourceSetupError


class Shelf:
    """A publisher that keeps what it is offered, until it is told to take it."""

    name = "shelf"

    def __init__(self) -> None:
        self.counts = {"published": 0, "refused": 0, "expired": 0}
        self.waiting: dict[str, PriceUpdate] = {}
        self.refusal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.flushed: list[float] = []

    @property
    def n_waiting(self) -> int:
        return len(self.waiting)

    def offer(self, updates: Iterable[PriceUpdate]) -> None:
        self.waiting |= {update.instrument.code: update for update in updates}

    async def run(self) -> None:
        await self.refusal

    async def flush(self, seconds: float) -> None:
        self.flushed.append(seconds)


@asynccontextmanager
async def serving(
    source: ScriptedSource, **options: Any
) -> AsyncIterator[tuple[Shelf, asyncio.Task[None], list[Progress]]]:
    time = source.time
    poller = SourcePoller(
        asker_of(source), interval=10.0, batch_size=50, fresh=60.0, clock=time.clock, sleep=time.sleep
    )
    shelf = Shelf()
    seen: list[Progress] = []
    service = PriceFeedService(
        poller,
        INSTRUMENTS.values(),
        [shelf],
        on_progress=seen.append,
        clock=time.clock,
        sleep=time.sleep,
        **options,
    )
    task = asyncio.ensure_future(service.run())
    try:
        yield shelf, task, seen
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_prices_are_offered_and_told() -> None:
    source = ScriptedSource(VirtualTime())
    with capture_logs() as logs:
        async with serving(source, is_verbose=True) as (shelf, _, seen):
            await source.time.advance(65.0)
            assert shelf.waiting.keys() == INSTRUMENTS.keys()
            assert seen[-1] == Progress("live", 5, 5, 0, 5)
    assert shelf.flushed == [3.0]
    assert source.n_closed == 1
    summaries = [line for line in logs if line["event"] == "price feed"]
    assert len(summaries) == 2
    assert (summaries[-1]["symbols"], summaries[-1]["fresh"], summaries[-1]["waiting"]) == (5, 5, 5)
    batches = [line for line in logs if line["event"] == "batch polled"]
    assert [line["symbols"] for line in batches[:3]] == [2, 2, 1]
    assert {line["refused"] for line in batches} == {0}


async def test_stale_prices_are_told_when_they_become_so() -> None:
    source = ScriptedSource(VirtualTime())
    with capture_logs() as logs:
        async with serving(source) as (_, _, seen):
            await source.time.advance(20.0)
            source.is_down = True
            await source.time.advance(200.0)
            assert seen[-1].state == "away"
            source.is_down = False
            source.prices["MSFT"] = Decimal("NaN")
            await source.time.advance(200.0)
            assert seen[-1].state == "live"
            assert seen[-1].n_fresh == 4
    told = [(line["event"], line["symbols"]) for line in logs if "prices are" in line["event"]]
    assert sum(n for event, n in told if event == "prices are stale") == 5
    assert sum(n for event, n in told if event == "prices are fresh again") == 4
    assert not any(line["event"] == "batch polled" for line in logs)


async def test_what_cannot_go_on_ends_it() -> None:
    source = ScriptedSource(VirtualTime())
    async with serving(source) as (shelf, task, _):
        await source.time.advance(1.0)
        shelf.refusal.set_exception(PublishRefusedError("shelf takes no prices from here"))
        await source.time.advance(1.0)
        with pytest.raises(PublishRefusedError):
            await task
    source = ScriptedSource(VirtualTime())
    source.failures = [SourceSetupError("no key")]
    async with serving(source) as (shelf, task, _):
        await source.time.advance(1.0)
        with pytest.raises(SourceSetupError, match="no key"):
            await task
        assert shelf.flushed == [3.0]
