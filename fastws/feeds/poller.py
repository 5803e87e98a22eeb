"""Polls a source: each symbol in its turn, in batches, and who has no fresh price is known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final

import structlog

from fastws._market import Instrument, PriceUpdate
from fastws.errors import FeedError
from fastws.feeds.asker import Asker, Polled, SourceAwayError, SourceBusyError
from fastws.feeds.sources.checks import describe
from fastws.feeds.turns import Turns

_LONGEST_IDLE: Final = 0.25
# Why a symbol has no price is told again so often, in seconds.
_TELL_AGAIN: Final = 300.0
_SHOWN: Final = 100
_SHOWN_KINDS: Final = frozenset({"not positive", "stale", "early", "currency", "missing"})

_log = structlog.get_logger("fastws.feeds")


class SourcePoller:
    """Asks `asker` for the prices of what is wanted, each symbol again after `interval` seconds.

    1. Up to `batch_size` symbols are asked for in one call, and no more than the source allows; those that are new
       before the others. When the source cannot keep up, those are next that have waited longest.
    2. A source that is away is asked again when its breaker allows it, and `is_away` tells. Nothing else ends `run`
       than its cancellation, or a source that cannot be used at all.
    3. A symbol is stale when its last good price was polled more than `fresh` seconds ago. Whether it has changed since
       is another question: an unchanged price that was just polled is fresh.
    4. What is refused is told by symbol and reason when it begins, and every five minutes while it lasts.

    All durations are seconds, `clock` is monotonic.
    """

    def __init__(
        self,
        asker: Asker,
        *,
        interval: float,
        batch_size: int,
        fresh: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.asker = asker
        self.interval = interval
        self.n_prices = 0
        self.last_answer_at: float | None = None
        self._turns = Turns(interval)
        self._batch_size = min(batch_size, asker.source.symbols_per_call)
        self._fresh = fresh
        self._clock = clock
        self._sleep = sleep
        self._wanted: dict[str, Instrument] = {}
        self._polled_at: dict[str, float] = {}  # when the last good price of each came
        self._wanted_at: dict[str, float] = {}
        self._told: dict[str, tuple[str, float]] = {}

    @property
    def is_away(self) -> bool:
        """Whether the source is known not to answer."""
        return self.asker.breaker.is_open

    @property
    def wanted(self) -> Mapping[str, Instrument]:
        """What is polled, by code."""
        return self._wanted

    def want(self, instruments: Iterable[Instrument]) -> None:
        """Poll these from now on, in this order where it matters. Those that the source does not serve are left out."""
        wanted = {
            instrument.code: self._wanted.get(instrument.code, instrument)
            for instrument in instruments
            if instrument.code in self._wanted or self.asker.source.serves(instrument)
        }
        if wanted.keys() == self._wanted.keys():
            return
        now = self._clock()
        self._turns.want(wanted)
        self._wanted = wanted
        self._wanted_at = {code: self._wanted_at.get(code, now) for code in wanted}
        self._told = {code: told for code, told in self._told.items() if code in wanted}

    def excuse(self) -> None:
        """Give all symbols time again to get a price: nobody has polled for a while."""
        self._wanted_at = dict.fromkeys(self._wanted_at, self._clock())
        self._polled_at.clear()
        self.last_answer_at = None

    def stale(self) -> list[str]:
        """The symbols without a fresh price; one that is wanted only now is given time to get one."""
        oldest = self._clock() - self._fresh
        return [code for code, at in self._wanted_at.items() if self._polled_at.get(code, at) < oldest]

    def n_fresh(self) -> int:
        """How many of what is wanted has a fresh price."""
        return sum(self.polled_within(code, self._fresh) for code in self._wanted)

    def polled_within(self, code: str, seconds: float) -> bool:
        """Whether a good price of `code` has come in the last `seconds`."""
        return self._clock() - self._polled_at.get(code, -float("inf")) <= seconds

    async def run(
        self,
        on_updates: Callable[[list[PriceUpdate]], object],
        *,
        on_batch: Callable[[Sequence[str], int, float], object] = lambda codes, n_failed, seconds: None,
    ) -> None:
        """Poll until cancelled, and hand over what comes.

        `on_batch` is told of every answer: what was asked for, of how many there is no price, and how long it took.

        Raises:
            SourceSetupError: the source cannot be used.
        """
        while True:
            now = self._clock()
            pause = self.asker.breaker.wait(now)
            codes = [] if pause else self._turns.take(self._batch_size, now)
            if not codes:
                pause = pause or self._turns.due_at() - now
                await self._sleep(min(max(pause, 0.01), _LONGEST_IDLE))
                continue
            instruments = [self._wanted[code] for code in codes]
            try:
                updates, failed = await self.poll(instruments, patience=self.interval, is_forced=False)
            except SourceAwayError:  # told by the asker
                self._turns.put_back(codes)
                await self._sleep(_LONGEST_IDLE)
                continue
            on_updates(updates)
            on_batch(codes, len(failed), self._clock() - now)

    async def poll(
        self, instruments: Sequence[Instrument], *, patience: float, is_forced: bool = True
    ) -> Polled:
        """Ask once for some of what the source serves, wanted or not; see :meth:`Asker.quotes`.

        Only a call that `is_forced` waits for a source that is away.
        """
        updates, failed = await self.asker.quotes(
            instruments, patience, waits_out=is_forced, is_forced=is_forced
        )
        self.last_answer_at = now = self._clock()
        self.n_prices += len(updates)
        for update in updates:
            self._polled_at[update.instrument.code] = now
            self._told.pop(update.instrument.code, None)
        self._tell(failed, now)
        return Polled(updates, failed)

    def _tell(self, failed: Mapping[str, str], now: float) -> None:
        untold = []
        for code, reason in failed.items():
            # What follows the colon has figures in it that change every time.
            kind = reason.partition(":")[0]
            told_kind, told_at = self._told.get(code, ("", 0.0))
            if kind != told_kind or now - told_at >= _TELL_AGAIN:
                untold.append((code, reason))
                self._told[code] = kind, now
        for i in range(0, len(untold), _SHOWN):
            part = untold[i : i + _SHOWN]
            _log.warning(
                "prices refused", source=self.asker.source.name, symbols=len(part), why=describe(part)
            )
        # Of symbols that nobody polls regularly nothing is kept for long.
        for code in [code for code in failed if code not in self._wanted]:
            del self._told[code]


def batches(instruments: Sequence[Instrument], size: int) -> list[Sequence[Instrument]]:
    """`instruments` in parts of up to `size`."""
    return [instruments[i : i + size] for i in range(0, len(instruments), size)]


def away_reason(error: FeedError) -> str:
    """Why there is no price of a symbol while the source is away, as users are told.

    What happened may name files and addresses of this machine: that is for the log.
    """
    return "source busy" if isinstance(error, SourceBusyError) else "source away"


def shown_reason(reason: str) -> str:
    """Why a price is refused, as users are told: what the checks say, and of what a source says the kind only."""
    kind = reason.partition(":")[0]
    if kind in _SHOWN_KINDS:
        return reason
    return kind if kind == "malformed" else "refused by the source"
