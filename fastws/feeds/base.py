"""What a feed is, what it may call, and the supervisor that keeps it running."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias

import structlog

from fastws.errors import FastwsError, FeedError
from fastws.feeds.together import end

if TYPE_CHECKING:
    from fastws._market import BookUpdate, Instrument, PriceUpdate

LIVE: Final = "live"
STALE: Final = "stale"
RECONNECTING: Final = "reconnecting"
STOPPED: Final = "stopped"
FeedState: TypeAlias = Literal["live", "stale", "reconnecting", "stopped"]

_RUN_IS_OVER: Final = "this run of the feed is over; its market takes no more updates"

_log = structlog.get_logger("fastws.feeds")


class FeedOverError(FeedError):
    """A feed failed in a way that another run would only repeat; its supervisor stops instead."""


class Deliveries(Protocol):
    """What brings updates into the market, from the event loop's thread only.

    The three delivering methods return the server-wide sequence number of what they published. Look
    `publish_price` and `publish_book` up on the sink again after every ``await``: the sink of a supervised
    feed swaps them to see that the feed delivers, and a method kept for longer hides deliveries from it.
    """

    @property
    def instruments(self) -> Iterable[Instrument]:
        """The instrument table."""

    def publish_price(self, update: PriceUpdate, /) -> int: ...

    def publish_book(self, update: BookUpdate, /) -> int: ...

    def set_status(self, market: str, status: str, /) -> int:
        """Publish the trading status of a market, e.g. ``("KOSPI", "open")``."""

    def set_received(self, at_ns: int, /) -> None:
        """Say when the bytes came of what is delivered from now on: monotonic clock, ns; 0 is not known.

        From it the server tells how long updates take within it. A feed sets it back to 0 before it waits for
        anything, because others publish meanwhile.
        """

    def instrument(self, code: str, /) -> Instrument | None: ...

    def ensure_instrument(self, code: str, /) -> Instrument:
        """Return the instrument of `code`; a code in no table becomes an instrument named like it."""


class MarketSink(Deliveries, Protocol):
    """What a feed may call."""

    def set_connected(self, is_connected: bool, /) -> None:
        """Say that the source is away, and later that it is back.

        For a feed that connects again by itself, without an end of its run. In between its status is `reconnecting`,
        whatever it delivers of what it has elsewhere. Saying it again does nothing.
        """


class SupervisedMarket(Deliveries, Protocol):
    """What the supervisor needs of the market."""

    def set_feed_status(self, feed: str, status: str, /) -> int:
        """Announce `live`, `stale`, `reconnecting` or `stopped`; does nothing when unchanged."""


class Figure(NamedTuple):
    """Something to count or to measure. `values` are by the values of `labels`, where there are any; those are from
    fixed sets."""

    kind: Literal["counter", "gauge"]
    name: str
    about: str
    values: float | Mapping[str, float]
    labels: tuple[str, ...] = ()


class Feed(ABC):
    """A source of prices and books.

    `name` identifies the feed in `feed_status`, in statistics and in logs. `stale_after` is the silence in
    seconds after which the feed counts as stale, None for never; it is read again about once a second, so a
    feed may set it to None while its market is closed.
    """

    name: str
    stale_after: float | None = None

    @abstractmethod
    async def run(self, market: MarketSink) -> None:
        """Deliver to `market` until cancelled.

        Returns when the source is exhausted and raises when it failed; a supervisor then calls `run` again,
        on the same object, unless it was a :class:`FeedOverError`. On cancellation the feed closes what it
        opened and lets `asyncio.CancelledError` pass.
        """

    def is_quiet(self, code: str) -> bool:
        """Whether there is a reason for which nothing comes of a symbol: nobody wants it, or its source was asked and
        has nothing newer. Asked of symbols that would count as stale otherwise."""
        return False

    def figures(self) -> Iterable[Figure]:
        """What this feed has to tell in ``/metrics``, besides what is told of every feed."""
        return ()


class _Gate:
    """The sink lent to one run of a feed: the market itself, with a trap that springs at the first delivery.

    A set trap costs one delivery an extra call; then `publish_price` and `publish_book` are the market's own
    bound methods until the watch sets the trap anew. So watching a feed of 100,000 updates/s costs one call a
    second.
    """

    __slots__ = (
        "_is_closed",
        "_market",
        "_on_delivery",
        "ensure_instrument",
        "instrument",
        "publish_book",
        "publish_price",
        "set_connected",
        "set_received",
        "set_status",
    )

    def __init__(
        self, market: Deliveries, on_delivery: Callable[[], None], on_connected: Callable[[bool], None]
    ) -> None:
        self._market = market
        self.set_connected = on_connected
        self._on_delivery = on_delivery
        self._is_closed = False
        self.instrument = market.instrument
        self.ensure_instrument = market.ensure_instrument
        self.set_status = market.set_status
        self.set_received = market.set_received
        self.set_trap()

    @property
    def instruments(self) -> Iterable[Instrument]:
        return self._market.instruments

    def set_trap(self) -> None:
        self.publish_price: Callable[[PriceUpdate], int] = self._publish_first_price
        self.publish_book: Callable[[BookUpdate], int] = self._publish_first_book

    def close(self) -> None:
        """Refuse what a run that is over still tries to publish, e.g. from a task that it left behind."""
        self._is_closed = True
        self.set_trap()
        self.set_status = self._refuse_status
        self.set_connected = self._ignore_connected
        self.set_received(0)
        self.set_received = self._ignore_receipt

    def _publish_first_price(self, update: PriceUpdate) -> int:
        self._check_open()
        sequence = self._market.publish_price(update)
        self._spring()
        return sequence

    def _publish_first_book(self, update: BookUpdate) -> int:
        self._check_open()
        sequence = self._market.publish_book(update)
        self._spring()
        return sequence

    def _refuse_status(self, market: str, status: str) -> int:
        raise FeedError(_RUN_IS_OVER)

    def _ignore_receipt(self, at_ns: int) -> None:
        pass

    def _ignore_connected(self, is_connected: bool) -> None:
        pass

    def _spring(self) -> None:
        self.publish_price = self._market.publish_price
        self.publish_book = self._market.publish_book
        self._on_delivery()

    def _check_open(self) -> None:
        if self._is_closed:
            raise FeedError(_RUN_IS_OVER)


class FeedSupervisor:
    """Keeps one feed running and announces its state through `market.set_feed_status`, or `tell` in its place.

    1. At most one run of the feed is under way, and each run gets a sink of its own that refuses updates
       once the run is over.
    2. `reconnecting` from the start of a run to its first delivered price or book, and while waiting to
       restart.
    3. `live` right after the first delivery of a run, and after the first delivery that ends a silence. A feed
       that says that its source is away is `reconnecting` until it says that it is back, and then `live`.
    4. `stale` when the feed has a `stale_after` and was silent for that long; never early, and late by less
       than two watch intervals (each 1 s, or a quarter of `stale_after` when that is shorter). The run goes
       on: silence alone restarts nothing. It is `stale`, too, as long as most of its symbols are, whatever comes of
       the others; see :meth:`note_symbols`.
    5. `stopped` once :meth:`run` has ended, by exhaustion, :class:`FeedOverError` or cancellation, and only then.
    6. A failed run is followed by another after a delay drawn evenly between `min_delay` and a ceiling that
       starts at twice `min_delay` and doubles with every failure up to `max_delay`. The ceiling starts over
       only after a run that delivered for `healthy_after` seconds: a feed that connects, sends a little and
       fails keeps backing off.

    All durations are seconds. `clock` is monotonic and `sleep` is awaited for every delay, so the two
    together put the supervisor on any time there is. `stop_timeout` bounds how long a cancelled feed may
    take to clean up; what has not ended by then is logged and left behind, without a market to publish to.
    """

    _WATCH_INTERVAL = 1.0

    def __init__(
        self,
        feed: Feed,
        market: SupervisedMarket,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
        min_delay: float = 0.5,
        max_delay: float = 30.0,
        healthy_after: float = 10.0,
        stop_timeout: float = 5.0,
        tell: Callable[[str, FeedState], object] | None = None,
    ) -> None:
        if not 0.0 < min_delay <= max_delay:
            raise ValueError(
                f"min_delay must be above 0 and at most max_delay, not {min_delay} and {max_delay}"
            )
        self.feed = feed
        self._market = market
        self._clock = clock
        self._sleep = sleep
        # Jitter spreads restarts; it protects nothing, so a fast predictable generator is enough.
        self._rng = rng if rng is not None else random.Random()  # noqa: S311
        self._min_delay = min_delay
        self._max_delay = max_delay
        self._healthy_after = healthy_after
        self._stop_timeout = stop_timeout
        self._tell = market.set_feed_status if tell is None else tell
        self._task: asyncio.Task[None] | None = None
        self._status: FeedState = STOPPED
        self._has_given_up = False
        self._n_failures = 0
        self._has_delivered = False  # in this run
        self._is_connected = True  # as far as the feed says
        self._is_trap_sprung = False  # since the last watch
        self._are_symbols_stale = False
        self._first_delivery = 0.0
        self._last_delivery = 0.0  # the first one since the trap was last set
        self._silent_since = 0.0  # rounded up to a watch, so that no silence is overrated

    @property
    def status(self) -> FeedState:
        """`live`, `stale`, `reconnecting` or `stopped`."""
        return self._status

    @property
    def is_running(self) -> bool:
        """True while the feed is kept running, also while it waits for a restart."""
        return self._status != STOPPED

    @property
    def has_given_up(self) -> bool:
        """Whether the last :meth:`run` has ended with a :class:`FeedOverError`."""
        return self._has_given_up

    @property
    def n_failures(self) -> int:
        """Failures in a row since the feed was last healthy."""
        return self._n_failures

    def start(self) -> None:
        """Run the supervisor as a task of the running loop."""
        if self._task is not None and not self._task.done():
            raise RuntimeError(f"feed {self.feed.name} is already supervised")
        self._task = asyncio.create_task(self.run(), name=f"supervisor of feed {self.feed.name}")

    async def stop(self) -> None:
        """End the task of :meth:`start` and wait for it; raises what it died of, if it did."""
        task = self._task
        if task is None:
            return
        try:
            await end(task)
        finally:
            if task.done():
                self._task = None

    async def run(self) -> None:
        """Keep the feed running until it is exhausted or over, or this coroutine is cancelled."""
        self._n_failures = 0
        self._has_given_up = False
        try:
            while True:
                self._set_status(RECONNECTING)
                failure = await self._run_once()
                if failure is None:
                    return
                if isinstance(failure, FeedOverError):
                    self._has_given_up = True
                    _log.error("feed failed for good", feed=self.feed.name, error=_describe(failure))
                    return
                self._forgive_if_healthy()
                self._n_failures += 1
                delay = self._next_delay()
                _log.warning(
                    "feed failed and will be restarted",
                    feed=self.feed.name,
                    error=_describe(failure),
                    failures=self._n_failures,
                    restart_in_s=round(delay, 3),
                )
                self._log_traceback(failure)
                self._set_status(RECONNECTING)
                await self._sleep(delay)
        finally:
            self._set_status(STOPPED)

    async def _run_once(self) -> BaseException | None:
        """Run the feed to its end; return what it failed with, None when it is exhausted."""
        self._has_delivered = self._is_trap_sprung = False
        self._is_connected = True
        self._silent_since = self._clock()
        gate = _Gate(self._market, self._on_delivery, self._on_connected)
        task = asyncio.create_task(self.feed.run(gate), name=f"feed {self.feed.name}")
        try:
            while not task.done():
                await self._wait(task, self._watch_interval())
                if not task.done():
                    self._watch(gate)
        except BaseException:
            try:
                await self._end(task)
            finally:
                gate.close()
            raise
        gate.close()
        if task.cancelled():
            return FeedError("the feed was cancelled from within")
        return task.exception()

    async def _end(self, task: asyncio.Task[None]) -> None:
        if not task.done():
            task.cancel()
            await self._wait(task, self._stop_timeout)
        if not task.done():
            _log.error("feed ignores its cancellation", feed=self.feed.name, waited_s=self._stop_timeout)
        elif not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("feed failed while it was stopped", feed=self.feed.name, error=_describe(error))
            self._log_traceback(error)

    async def _wait(self, task: asyncio.Task[None], seconds: float) -> None:
        """Wait until `task` is done or `seconds` of the injected time are over."""
        timer = asyncio.ensure_future(self._sleep(seconds))
        try:
            await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()

    def _watch_interval(self) -> float:
        stale_after = self.feed.stale_after
        if stale_after is None:
            return self._WATCH_INTERVAL
        # The lower bound keeps a mistaken stale_after of 0 from turning the watch into a busy loop.
        return max(0.01, min(self._WATCH_INTERVAL, stale_after / 4))

    def _watch(self, gate: _Gate) -> None:
        now = self._clock()
        stale_after = self.feed.stale_after
        if self._is_trap_sprung or stale_after is None or not self._is_connected:
            self._silent_since = now
        elif now - self._silent_since >= stale_after:
            self._set_status(STALE)
        self._is_trap_sprung = False
        self._forgive_if_healthy()
        gate.set_trap()

    def _on_delivery(self) -> None:
        self._last_delivery = self._clock()
        self._is_trap_sprung = True
        if not self._has_delivered:
            self._has_delivered = True
            self._first_delivery = self._last_delivery
        if self._status != LIVE and self._is_connected:
            self._set_status(STALE if self._are_symbols_stale else LIVE)

    def note_symbols(self, are_stale: bool) -> None:
        """Note whether most symbols of the feed are stale; somebody judges them one by one.

        When they are no longer, the feed is live with its next delivery: that they are not judged any more is no life.
        """
        self._are_symbols_stale = are_stale
        if are_stale and self._status == LIVE:
            self._set_status(STALE)

    def _on_connected(self, is_connected: bool) -> None:
        if is_connected == self._is_connected:
            return
        self._is_connected = is_connected
        self._silent_since = self._clock()
        if is_connected:
            self._set_status(STALE if self._are_symbols_stale else LIVE)
        else:
            self._set_status(RECONNECTING)

    def _forgive_if_healthy(self) -> None:
        if self._has_delivered and self._last_delivery - self._first_delivery >= self._healthy_after:
            self._n_failures = 0

    def _next_delay(self) -> float:
        # The exponent is bounded because a feed may fail for weeks.
        ceiling = min(self._max_delay, self._min_delay * 2.0 ** min(self._n_failures, 64))
        return self._rng.uniform(self._min_delay, ceiling)

    def _log_traceback(self, error: BaseException) -> None:
        # Places in the source are for those who look for a mistake in it.
        _log.debug("traceback of the failed feed", feed=self.feed.name, exc_info=error)

    def _set_status(self, status: FeedState) -> None:
        if status != self._status:
            self._status = status
            self._tell(self.feed.name, status)


def _describe(error: BaseException) -> str:
    """One line that tells what happened; the members of a group are told one by one."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_describe(member) for member in error.exceptions)
    # What fastws raises on purpose says everything in its text.
    text = str(error) if isinstance(error, FastwsError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
