"""Asks a source: at its pace, with a limit of time, again when that may help, and not while it is away."""

from __future__ import annotations

import asyncio
import datetime
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import structlog

from fastws._market import Instrument, PriceUpdate
from fastws.feeds.breaker import Breaker
from fastws.feeds.sources.base import (
    Answer,
    NoPricesError,
    Source,
    SourceError,
    SourceLimitError,
    SourceSetupError,
)
from fastws.feeds.sources.checks import Checks, RefusedError, check_days
from fastws.market.daily_prices import DailyPrice

Result = TypeVar("Result")

CALL_SECONDS: Final = 10.0
N_TRIES: Final = 3
_FIRST_PAUSE: Final = 0.25
_LAST_PAUSE: Final = 2.0
# Forced calls take this part of the time, and may have saved up so many seconds of calls.
_FORCED_SHARE: Final = 0.25
_FORCED_BURST: Final = 5.0

_log = structlog.get_logger("fastws.feeds")


class SourceAwayError(SourceError):
    """The source is away, or wants to be left alone; `retry_in` is the seconds until it is asked again."""

    def __init__(self, message: str, retry_in: float) -> None:
        super().__init__(message)
        self.retry_in = retry_in


class SourceBusyError(SourceAwayError):
    """The source is there, and other calls had their turns for as long as the asker's patience."""


class Polled(NamedTuple):
    """What came of a call: updates that passed the checks, and by code why there is none of the others."""

    updates: list[PriceUpdate]
    failed: dict[str, str]


class Asker:
    """Asks `source` for all who want something of it, one call at a time.

    1. Calls begin at least `source.min_interval` apart, and each has `time_limit` seconds.
    2. A call that fails is made again, up to three times in all, after short random pauses, unless the breaker opens.
    3. While the breaker is open nothing is asked: who would have to wait for longer than his patience is told so at
       once, with `SourceAwayError`.
    4. Whatever a source raises counts as its failure; only a `SourceSetupError` goes through.
    5. Calls have their turns in the order in which they are asked for, but a forced one only while no other waits, and
       all forced ones together take up to a quarter of the time, with bursts of 5 s. Who does not get his turn within
       his patience is told so with `SourceBusyError`.

    `counts` are calls by outcome, and prices refused. All durations are seconds; `clock` is monotonic and `wall_clock`
    the time since the Unix epoch.
    """

    def __init__(
        self,
        source: Source,
        *,
        max_age: float,
        time_limit: float = CALL_SECONDS,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        self.source = source
        self.breaker = Breaker() if breaker is None else breaker
        self.counts = {"answered": 0, "failed": 0, "limited": 0, "refused": 0}
        self._checks = Checks(max_age)
        self._time_limit = time_limit
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        # Jitter protects nothing, so a fast predictable generator is enough.
        self._rng = rng if rng is not None else random.Random()  # noqa: S311
        self._turn = asyncio.Lock()
        self._n_waiting = 0  # for it, forced calls apart
        self._forced_turn = asyncio.Lock()
        self._forced_paid_at = -float("inf")  # when what forced calls took so far is within their share
        self._next_call_at = -float("inf")
        self._told = ""

    async def quotes(
        self,
        instruments: Sequence[Instrument],
        patience: float,
        *,
        waits_out: bool = True,
        is_forced: bool = False,
    ) -> Polled:
        """Ask for the prices of up to `source.symbols_per_call` instruments.

        Without `waits_out` it is not waited for a source that is away, however short that takes. A call that
        `is_forced` is in addition to the regular ones, which go first.

        Raises:
            SourceAwayError: there was no answer.
            SourceSetupError: there will be none.
        """
        answer = await self._call(lambda: self.source.quotes(instruments), patience, waits_out, is_forced)
        return self._read(answer, instruments)

    async def days(
        self, instrument: Instrument, first: datetime.date, last: datetime.date, patience: float
    ) -> tuple[list[DailyPrice], dict[datetime.date, str]]:
        """Ask for daily prices; returns those that can be used, oldest first, and why others cannot.

        Errors as of :meth:`quotes`, and :class:`NoPricesError`.
        """
        days = await self._call(lambda: self.source.days(instrument, first, last), patience, True)
        today = datetime.datetime.fromtimestamp(self._wall_clock(), datetime.UTC).date()
        taken, refused = check_days(days, instrument, first, last, today)
        self.counts["refused"] += len(refused)
        return taken, refused

    def _read(self, answer: Answer, instruments: Sequence[Instrument]) -> Polled:
        by_code = {instrument.code: instrument for instrument in instruments}
        now_ms = int(self._wall_clock() * 1000)
        updates: dict[str, PriceUpdate] = {}
        failed = {code: reason for code, reason in answer.refused.items() if code in by_code}
        for quote in answer.quotes:
            instrument = by_code.get(quote.code)
            if instrument is None or quote.code in updates:
                continue
            try:
                updates[quote.code] = self._checks.take(quote, instrument, self.source.quality, now_ms)
            except RefusedError as error:
                failed[quote.code] = str(error)
        for code in by_code:
            if code not in updates and code not in failed:
                failed[code] = "missing: not in the answer"
        self.counts["refused"] += len(failed)
        return Polled(list(updates.values()), failed)

    async def _call(
        self,
        make: Callable[[], Awaitable[Result]],
        patience: float,
        waits_out: bool,
        is_forced: bool = False,
    ) -> Result:
        patient_until = self._clock() + patience
        try:
            async with asyncio.timeout(max(0.0, patience)):
                await (self._take_forced_turn(patient_until) if is_forced else self._take_turn())
        except TimeoutError:
            raise SourceBusyError("it is busy with other calls", 1.0) from None
        spent = 0.0
        try:
            for n in range(1, N_TRIES + 1):
                await self._wait(patient_until if waits_out else -float("inf"))
                began = self._clock()
                try:
                    result = await self._try(make)
                except SourceLimitError as error:
                    self.counts["limited"] += 1
                    self.breaker.hold(str(error), self._clock(), error.retry_after)
                    self._tell(str(error))
                except SourceError as error:
                    self.counts["failed"] += 1
                    self.breaker.fail(str(error), self._clock())
                    self._tell(str(error))
                except NoPricesError:
                    self._note_answer()
                    raise
                else:
                    self._note_answer()
                    return result
                finally:
                    spent += max(self._clock() - began, self.source.min_interval)
                if n < N_TRIES and not self.breaker.is_open:
                    await self._sleep(
                        self._rng.uniform(_FIRST_PAUSE, min(_LAST_PAUSE, 2.0**n * _FIRST_PAUSE))
                    )
            raise SourceAwayError(self.breaker.reason, self.breaker.wait(self._clock()))
        finally:
            self._turn.release()
            if is_forced:
                self._forced_paid_at = max(self._forced_paid_at, self._clock()) + spent / _FORCED_SHARE
                self._forced_turn.release()

    async def _take_turn(self) -> None:
        self._n_waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._n_waiting -= 1

    async def _take_forced_turn(self, patient_until: float) -> None:
        """Take both turns: one forced call at most waits for the other."""
        await self._forced_turn.acquire()
        try:
            now = self._clock()
            pause = self._forced_paid_at - _FORCED_BURST / _FORCED_SHARE - now
            if now + pause > patient_until:
                raise SourceBusyError("it is busy with other forced calls", pause)
            if pause > 0.0:
                await self._sleep(pause)
            await self._turn.acquire()
            # Until the next call may begin another regular one may come, so it is not waited for with the turn taken.
            while self._n_waiting or (pause := self._next_call_at - self._clock()) > 0.0:
                self._turn.release()
                if not self._n_waiting:
                    await self._sleep(pause)
                await self._turn.acquire()
        except BaseException:
            self._forced_turn.release()
            raise

    def _note_answer(self) -> None:
        self.counts["answered"] += 1
        self.breaker.succeed()
        self._tell("")

    async def _wait(self, patient_until: float) -> None:
        now = self._clock()
        seconds = self.breaker.wait(now)
        if seconds > 0.0 and now + seconds > patient_until:
            raise SourceAwayError(self.breaker.reason, seconds)
        seconds = max(seconds, self._next_call_at - now)
        if seconds > 0.0:
            await self._sleep(seconds)
        self._next_call_at = self._clock() + self.source.min_interval

    async def _try(self, make: Callable[[], Awaitable[Result]]) -> Result:
        try:
            async with asyncio.timeout(self._time_limit):
                return await make()
        except TimeoutError:
            raise SourceError(f"it gave no answer within {self._time_limit:g} s") from None
        except (SourceError, SourceSetupError, NoPricesError):
            raise
        except Exception as error:
            # A source may be somebody else's, and what it does not expect in an answer is no reason to end.
            _log.debug("traceback of the source", source=self.source.name, exc_info=error)
            raise SourceError(f"its answer cannot be read: {type(error).__name__}: {error}") from None

    def _tell(self, problem: str) -> None:
        """Tell once that a source fails, why when that changes, and that it is back."""
        if problem == self._told:
            return
        self._told, before = problem, self._told
        if problem:
            wait = self.breaker.wait(self._clock())
            retry = {"retry_in_s": round(wait, 1)} if wait else {}
            _log.warning("source fails", source=self.source.name, error=problem, **retry)
        elif before:
            _log.info("source answers again", source=self.source.name)
