"""How what publishes here ends: the feed first, then whatever was loaded, and none of it holds up the rest."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from structlog.testing import capture_logs

from fastws.feeds.base import Feed, MarketSink
from fastws.server.feed_runner import FeedRunner
from fastws.server.sources import Sources


class Noted(Feed):
    """A feed that notes its end."""

    name = "noted"

    def __init__(self, ended: list[str]) -> None:
        self._ended = ended

    async def run(self, market: MarketSink) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self._ended.append("feed")


def make(ended: list[str]) -> Sources:
    market: Any = SimpleNamespace(
        instrument=None,
        ensure_instrument=None,
        publish_price=None,
        publish_book=None,
        set_status=None,
        set_received=lambda at_ns: None,
        set_feed_status=lambda feed, status: 0,
    )
    runner = FeedRunner(Noted(ended), market)
    runner.start()
    return Sources(runner)


async def test_the_feed_ends_first_and_the_others_in_their_order_once() -> None:
    ended: list[str] = []
    sources = make(ended)
    await asyncio.sleep(0)

    async def loaded() -> None:
        await asyncio.sleep(0)
        ended.append("loaded")

    sources.endings += [loaded, lambda: ended.append("hub")]
    await sources.end(40.0)
    await sources.end(40.0)
    assert ended == ["feed", "loaded", "hub"]


async def test_what_hangs_or_fails_is_logged_and_holds_up_nothing() -> None:
    ended: list[str] = []
    sources = make(ended)
    await asyncio.sleep(0)

    def fail() -> None:
        raise RuntimeError("a mistake")

    async def hang() -> None:
        await asyncio.Event().wait()

    sources.endings += [hang, fail, lambda: ended.append("hub")]
    with capture_logs() as lines:
        await sources.end(2.0)
    assert ended == ["feed", "hub"]
    assert [line["event"] for line in lines] == [
        "what was loaded did not end and was left behind",
        "what was loaded failed while it was stopped",
    ]
