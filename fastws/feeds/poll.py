"""The poll feed: prices of a source inside the server, for ``--feed poll:SOURCE``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from fastws.feeds.asker import Asker, SourceAwayError
from fastws.feeds.base import Feed, FeedOverError, Figure, MarketSink
from fastws.feeds.poller import SourcePoller, away_reason, batches, shown_reason
from fastws.feeds.sources.base import Source, SourceSetupError
from fastws.feeds.together import run_together

if TYPE_CHECKING:
    from fastws._market import Instrument, PriceUpdate
    from fastws.market.interest import Interest

_WATCH_INTERVAL: Final = 0.5
# What came so recently is not asked for again because somebody wants it at once.
_RECENT: Final = 2.0
_PATIENCE: Final = 10.0

NO_SOURCE: Final = "no source"


class PollFeed(Feed):
    """Brings prices of `source`, asked for every `interval` seconds.

    `interest` says what clients want now and is asked twice a second; `fixed` symbols are polled always. See
    `SourcePoller` for the order, and `Asker` for what happens when the source fails.

    1. A price is published when it says something else than the last one of its symbol.
    2. The feed is `live` while its source answers, changed prices or not, and `reconnecting` while it is known to be
       away. It is `stale` when there was no answer for `fresh` seconds otherwise.
    3. What is refused is not published: the last good price stays.
    """

    def __init__(
        self,
        source: Source,
        *,
        interval: float,
        batch_size: int,
        fresh: float,
        interest: Callable[[], Mapping[str, Interest]],
        fixed: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.name = source.name
        self.source = source
        self.poller = SourcePoller(
            Asker(source, max_age=fresh, clock=clock, wall_clock=wall_clock, sleep=sleep),
            interval=interval,
            batch_size=batch_size,
            fresh=fresh,
            clock=clock,
            sleep=sleep,
        )
        self._sleep = sleep
        self._fresh = fresh
        self._interest = interest
        self._fixed = list(fixed)
        self._clock = clock
        self._market: MarketSink | None = None
        self._said: dict[str, tuple[object, ...]] = {}

    def fix(self, codes: Iterable[str]) -> None:
        """Poll other symbols than before whether clients want them or not."""
        self._fixed = list(codes)

    async def run(self, market: MarketSink) -> None:
        self._market = market
        market.set_connected(False)
        try:
            await run_together(self.poller.run(self._publish), self._watch(market))
        except SourceSetupError as error:
            raise FeedOverError(str(error)) from None
        finally:
            self._market = None
            await self.source.close()

    async def force(self, codes: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Poll these symbols now and publish what comes; returns whose price is current, and why others are not.

        A code of no table is one that is not served. What came in the last two seconds is current, and not asked for.
        """
        market = self._market
        if market is None:
            return [], dict.fromkeys(codes, "source away: the feed does not run")
        updated, failed = [], {}
        asked: dict[str, Instrument] = {}
        for code in dict.fromkeys(codes):
            instrument = market.instrument(code)
            if instrument is None:
                failed[code] = "unknown symbol"
            elif not self.source.serves(instrument):
                failed[code] = f"the source {self.name} does not serve it"
            elif self.poller.polled_within(code, _RECENT):
                updated.append(code)
            else:
                asked[code] = instrument
        deadline = self._clock() + _PATIENCE
        for batch in batches(list(asked.values()), self.source.symbols_per_call):
            try:
                updates, refused = await self.poller.poll(batch, patience=deadline - self._clock())
            except (SourceAwayError, SourceSetupError) as error:
                failed |= dict.fromkeys((instrument.code for instrument in batch), away_reason(error))
                continue
            self._publish(updates)
            updated += [update.instrument.code for update in updates]
            failed |= {code: shown_reason(reason) for code, reason in refused.items()}
        return updated, failed

    def is_quiet(self, code: str) -> bool:
        poller = self.poller
        return code not in poller.wanted or poller.polled_within(code, self._fresh)

    def figures(self) -> list[Figure]:
        counts = self.poller.asker.counts
        calls = {name: counts[name] for name in ("answered", "failed", "limited")}
        return [
            Figure("counter", "poll_calls", "calls of the polled source", calls, ("outcome",)),
            Figure(
                "counter",
                "poll_prices",
                "prices that were polled and passed the checks",
                self.poller.n_prices,
            ),
            Figure("counter", "poll_refused", "prices that were asked for and not used", counts["refused"]),
            Figure("gauge", "poll_symbols", "symbols that are polled", len(self.poller.wanted)),
            Figure(
                "gauge", "poll_stale_symbols", "of those, without a fresh price", len(self.poller.stale())
            ),
            Figure("gauge", "poll_source_away", "1 while the source is left alone", int(self.poller.is_away)),
        ]

    async def _watch(self, market: MarketSink) -> None:
        while True:
            self._want(market)
            self._tell(market)
            await self._sleep(_WATCH_INTERVAL)

    def _want(self, market: MarketSink) -> None:
        interest = self._interest()
        codes = dict.fromkeys(
            (*(code for code, found in interest.items() if found.n_viewers), *self._fixed, *interest)
        )
        self.poller.want(instrument for code in codes if (instrument := market.instrument(code)) is not None)

    def _tell(self, market: MarketSink) -> None:
        """Say how the source is. Unchanged prices are no silence: only a source that does not answer is."""
        poller, last = self.poller, self.poller.last_answer_at
        if poller.is_away:
            market.set_connected(False)
        elif last is not None or not poller.wanted:
            market.set_connected(True)
        is_silent = bool(poller.wanted) and last is not None and self._clock() - last > 2 * poller.interval
        self.stale_after = max(1.0, self._fresh - 2 * poller.interval) if is_silent else None

    def _publish(self, updates: Iterable[PriceUpdate]) -> None:
        market = self._market
        if market is None:
            return
        market.set_received(time.monotonic_ns())
        try:
            for update in updates:
                said = (update.price, update.volume, update.event_time_ms, update.change)
                if self._said.get(update.instrument.code) != said:
                    self._said[update.instrument.code] = said
                    market.publish_price(update)
        finally:
            market.set_received(0)
