"""Brings the prices of a price-feed service to all servers at once, as an instance that has no clients."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from fastws._core import Dialect, Hub
from fastws._market import Instrument, PriceUpdate, encode_screener
from fastws.feeds.waiting import Waiting, take_expired
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.relay.address import RedisAddress
from fastws.relay.control import FeedState
from fastws.relay.keeper import FeedKeeper
from fastws.relay.naming import instance_name
from fastws.relay.relay import Relay

_LOOK_SECONDS: Final = 0.1

_log = structlog.get_logger("fastws.relay")


class RelayPublisher:
    """Publishes over the relay; a `Publisher` of `fastws.feeds.publisher`.

    1. While Redis is there, a price is published when it is offered. It counts as published: nobody knows how many
       servers there are. One that starts later asks for the last prices and gets them.
    2. While it is away, the newest price of each symbol waits, for `fresh` seconds at most.

    `name` is how servers call this process, behind the word feed; None: by its host and its number.
    """

    def __init__(
        self,
        address: RedisAddress,
        instruments: Iterable[Instrument],
        *,
        prefix: str,
        n_shards: int,
        interval_ms: int,
        history_bytes: int,
        fresh: float,
        name: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = address.shown
        self.counts = {"published": 0, "refused": 0, "expired": 0}
        self._fresh = fresh
        self._clock = clock
        self._waiting: dict[str, Waiting] = {}
        # Nobody subscribes here, so there is nothing to flush and no past to keep.
        self._hub = Hub(asyncio.get_running_loop(), epoch=secrets.token_hex(4), interval_ms=0, history_size=0)
        self._market = Market(self._hub, Instruments(instruments))
        self._relay = Relay(
            self._hub,
            self._market,
            Dialect("screener", encode_screener),
            address,
            name=f"feed {instance_name(name)}",
            prefix=prefix,
            n_shards=n_shards,
            interval_ms=interval_ms,
            history_bytes=history_bytes,
            wanted=tuple,
        )

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    def make_keeper(
        self, feed: str, *, rank: int, patience: float, status: Callable[[], FeedState]
    ) -> FeedKeeper:
        """What decides whether this process brings the prices; see `FeedKeeper`."""
        return FeedKeeper(self._relay, feed, rank=rank, patience=patience, status=status)

    def offer(self, updates: Iterable[PriceUpdate]) -> None:
        now = self._clock()
        for update in updates:
            self._waiting[update.instrument.code] = Waiting(update, now)
        if self._relay.is_up:
            self._publish()

    async def run(self) -> None:
        self._relay.start()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._drop_expired()
            if self._relay.is_up:
                self._publish()

    async def flush(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while self._waiting and not self._relay.is_up:
                    await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            pass  # what is left is told by n_waiting
        else:
            self._publish()
        await self._relay.stop()
        self._hub.stop()

    def _publish(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            self._market.publish_price(one.update)
        self.counts["published"] += len(waiting)

    def _drop_expired(self) -> None:
        if expired := take_expired(self._waiting, self._clock() - self._fresh):
            self.counts["expired"] += len(expired)
            _log.warning(
                "prices have expired before the relay was there",
                redis=self.name,
                prices=len(expired),
                first=expired[:5],
            )
