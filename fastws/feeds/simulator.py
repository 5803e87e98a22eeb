"""The simulator feed: a made-up market at a chosen rate, for demonstrations, tests and load runs."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from fastws._simulator import SimulatedExchange
from fastws.feeds.base import Feed, MarketSink

if TYPE_CHECKING:
    from fastws._market import Instrument

MARKETS: Final = ("KOSPI", "KOSDAQ", "NASDAQ", "NYSE")
MAX_RATE: Final = 100_000.0

_SLICE_S: Final = 0.002
_CHUNK: Final = 32  # updates between two looks at the clock
_MIN_SLEEP_S: Final = 0.001  # the resolution of uvloop's timers; a shorter sleep would only turn the loop
_MAX_CATCH_UP_S: Final = 1.0
_SKIP_LOG_INTERVAL_S: Final = 60.0

_log = structlog.get_logger("fastws.feeds.simulator")


class OpeningSchedule:
    """When each update is due, in seconds since the opening: update 0 at 0, then at a rate that settles.

    The rate starts at `burst` times `rate` and falls linearly to `rate` within `burst_seconds`. It is a
    formula and not a sum of intervals, so no rounding piles up over days.
    """

    def __init__(self, rate: float, burst: float, burst_seconds: float) -> None:
        self.rate = rate
        self._burst = burst
        self._burst_seconds = burst_seconds if burst > 1.0 else 0.0
        # What the burst gives on top, in seconds of the settled rate.
        self._extra_seconds = (burst - 1.0) * self._burst_seconds / 2.0

    def n_due(self, at: float) -> int:
        """How many updates are due at or before `at`."""
        if at < 0.0:
            return 0
        if at < self._burst_seconds:
            amount = at + (self._burst - 1.0) * (at - at * at / (2.0 * self._burst_seconds))
        else:
            amount = at + self._extra_seconds
        # The last update counts although rounding may have put its time a hair above `at`.
        return math.floor(self.rate * amount + 1e-6) + 1

    def due_at(self, n: int) -> float:
        """When update `n`, counted from 0, is due."""
        amount = n / self.rate
        if amount >= self._burst_seconds + self._extra_seconds:
            return amount - self._extra_seconds
        slope = (self._burst - 1.0) / self._burst_seconds
        return (self._burst - math.sqrt(self._burst * self._burst - 2.0 * slope * amount)) / slope


class SimulatorFeed(Feed):
    """Delivers the updates of a :class:`SimulatedExchange` over `instruments` on an absolute schedule.

    `rate` is updates per second over all symbols (up to 100,000), prices and books together; `book_share`
    of them are books, none with ``books=False``. The day opens at `opening_burst` times the rate, never
    above 100,000/s, and settles within `opening_seconds`. A `volatility` above 1 makes prices wilder.

    The same instruments, seed, share and volatility give the same updates in the same order; only their
    `event_time_ms` is from `wall_clock` (seconds since the Unix epoch). Without a seed one is drawn and shown
    by `seed`.

    Open loop: an update is due when the schedule says, however slow the market is. What fell due while the
    loop was busy is delivered as soon as it is free again, in slices of 2 ms between which the loop serves
    others. What is more than a second late is left out and counted in `n_skipped`. Under 1,000 updates/s
    each one has its own time; above, those of one millisecond leave together.

    A run after a failure goes on where the last one ended. Raises ValueError for values out of range.
    """

    name = "simulator"

    def __init__(
        self,
        instruments: Iterable[Instrument],
        *,
        rate: float = 200.0,
        seed: int | None = None,
        books: bool = True,
        book_share: float = 0.5,
        volatility: float = 1.0,
        opening_burst: float = 5.0,
        opening_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not 0.0 < rate <= MAX_RATE:
            raise ValueError(f"rate: expected more than 0 and up to {MAX_RATE:.0f} updates/s, got {rate}")
        if not opening_burst >= 1.0:
            raise ValueError(f"opening_burst: expected a factor of 1 or more, got {opening_burst}")
        if not 0.0 <= opening_seconds < math.inf:
            raise ValueError(f"opening_seconds: expected 0 or more, got {opening_seconds}")
        self.rate = rate
        self.seed = seed if seed is not None else np.random.SeedSequence().generate_state(1).item()
        self._book_share = book_share if books else 0.0
        self._volatility = volatility
        self._exchange = self._open(instruments)
        self._schedule = OpeningSchedule(rate, min(opening_burst, MAX_RATE / rate), opening_seconds)
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._n_skipped = 0
        self._n_skipped_logged = 0
        self._next_skip_log = -math.inf

    def _open(self, instruments: Iterable[Instrument]) -> SimulatedExchange:
        return SimulatedExchange(
            instruments, seed=self.seed, book_share=self._book_share, volatility=self._volatility
        )

    def play(self, instruments: Iterable[Instrument]) -> list[str]:
        """Simulate these instead, before the first run; returns the codes of those whose close none can begin at."""
        instruments = list(instruments)
        refused: list[str] = []
        try:
            self._exchange = self._open(instruments)
        except ValueError:
            usable = []
            for instrument in instruments:
                try:
                    self._open([instrument])
                except ValueError:
                    refused.append(instrument.code)
                else:
                    usable.append(instrument)
            self._exchange = self._open(usable)
        return refused

    @property
    def n_published(self) -> int:
        """Price and book updates delivered so far."""
        return self._exchange.n_steps

    @property
    def n_skipped(self) -> int:
        """Updates that were due and left out because they were more than a second late."""
        return self._n_skipped

    async def run(self, market: MarketSink) -> None:
        """Open all markets and deliver until cancelled."""
        if self._n_past == 0:
            # Whoever wants the same day again needs the seed, also where none was given.
            _log.info("simulator starts", seed=self.seed, rate=self.rate)
        for name in MARKETS:
            market.set_status(name, "open")
        schedule = self._schedule
        opened_at = self._clock() - schedule.due_at(self._n_past)
        while True:
            elapsed = self._clock() - opened_at
            n_due = schedule.n_due(elapsed)
            self._skip(schedule.n_due(elapsed - _MAX_CATCH_UP_S) - self._n_past)
            if n_due > self._n_past:
                self._deliver(market, n_due - self._n_past, opened_at)
            if n_due > self._n_past:
                await self._sleep(0.0)
            else:
                remaining = schedule.due_at(n_due) - (self._clock() - opened_at)
                await self._sleep(max(remaining, _MIN_SLEEP_S))

    @property
    def _n_past(self) -> int:
        """Place in the schedule: what it has seen delivered or skipped."""
        return self._exchange.n_steps + self._n_skipped

    def _deliver(self, market: MarketSink, n: int, opened_at: float) -> None:
        """Deliver up to `n` updates within one slice. They count as received when they were due."""
        # Looked up once per slice: the sink of a supervised feed swaps its methods.
        publish_price = market.publish_price
        publish_book = market.publish_book
        slice_end = self._clock() + _SLICE_S
        event_time_ms = int(self._wall_clock() * 1000.0)
        try:
            while n > 0:
                market.set_received(int((opened_at + self._schedule.due_at(self._n_past)) * 1e9))
                self._exchange.advance(publish_price, publish_book, min(n, _CHUNK), event_time_ms)
                n -= _CHUNK
                if self._clock() >= slice_end:
                    break
        finally:
            market.set_received(0)

    def _skip(self, n: int) -> None:
        if n <= 0:
            return
        self._n_skipped += n
        now = self._clock()
        if now >= self._next_skip_log:
            _log.warning(
                "simulated updates left out: the loop was more than a second late",
                skipped=self._n_skipped - self._n_skipped_logged,
                skipped_total=self._n_skipped,
            )
            self._n_skipped_logged = self._n_skipped
            self._next_skip_log = now + _SKIP_LOG_INTERVAL_S
