"""The supervisor on virtual time: nothing here waits for a real second."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws.errors import FeedError
from fastws.feeds.base import Feed, FeedOverError, FeedSupervisor, MarketSink

SAMSUNG = Instrument("005930", "Samsung Electronics", market="KOSPI", currency="KRW", previous_close=72000)
Script = Callable[[MarketSink], Awaitable[None]]


class VirtualTime:
    """A clock that only `advance` moves, and sleepers that it wakes in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, len(self.slept), woken))
        await woken

    async def settle(self) -> None:
        # Nothing here does I/O, so what can run has run after a few turns; the longest chain of wake-ups
        # (sleeper, timer task, wait, supervisor, feed) takes eight.
        for _ in range(20):
            await asyncio.sleep(0)

    async def advance(self, seconds: float) -> None:
        await self.settle()
        until = self.now + seconds
        while self._sleepers and self._sleepers[0][0] <= until:
            self.now, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                woken.set_result(None)
                await self.settle()
        self.now = until
        await self.settle()


class RecordingMarket:
    """Takes what a feed delivers and what the supervisor announces, in one list."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self.instruments: Iterable[Instrument] = [SAMSUNG]
        self.events: list[tuple[float, str]] = []
        self.updates: list[PriceUpdate | BookUpdate] = []
        self.received_ns = 0

    def _record(self, event: str) -> int:
        self.events.append((self._time.now, event))
        return len(self.events)

    def publish_price(self, update: PriceUpdate) -> int:
        self.updates.append(update)
        return self._record("price")

    def publish_book(self, update: BookUpdate) -> int:
        self.updates.append(update)
        return self._record("book")

    def set_received(self, at_ns: int) -> None:
        self.received_ns = at_ns

    def set_status(self, market: str, status: str) -> int:
        return self._record(f"{market} {status}")

    def set_feed_status(self, feed: str, status: str) -> int:
        assert feed == "scripted"
        return self._record(status)

    def instrument(self, code: str) -> Instrument | None:
        return SAMSUNG if code == SAMSUNG.code else None

    def ensure_instrument(self, code: str) -> Instrument:
        return self.instrument(code) or Instrument(code, code)

    @property
    def names(self) -> list[str]:
        return [event for _, event in self.events]

    @property
    def statuses(self) -> list[tuple[float, str]]:
        feed_states = ("live", "stale", "reconnecting", "stopped")
        return [(at, event) for at, event in self.events if event in feed_states]


class ScriptedFeed(Feed):
    """Plays one script per run; the last one again and again."""

    name = "scripted"

    def __init__(self, *scripts: Script, stale_after: float | None = None) -> None:
        self.stale_after = stale_after
        self.n_runs = 0
        self._scripts = scripts

    async def run(self, market: MarketSink) -> None:
        self.n_runs += 1
        await self._scripts[min(self.n_runs, len(self._scripts)) - 1](market)


class UpstreamError(Exception):
    pass


class HighestDelay(random.Random):
    """Draws the upper end of every interval, so that the ceilings of the backoff show."""

    def uniform(self, a: float, b: float) -> float:
        return b


def price(amount: int = 73000) -> PriceUpdate:
    return PriceUpdate(SAMSUNG, amount)


def book() -> BookUpdate:
    return BookUpdate(SAMSUNG, bids=[(72900, 10)], asks=[(73000, 8)])


async def fail(market: MarketSink) -> None:
    raise UpstreamError("connection refused")


async def exhaust(market: MarketSink) -> None:
    market.publish_price(price())


def deliver(time: VirtualTime, seconds: float, *, every: float = 0.5, then: Script | None = None) -> Script:
    async def script(market: MarketSink) -> None:
        for _ in range(round(seconds / every)):
            market.publish_price(price())
            await time.sleep(every)
        if then is not None:
            await then(market)

    return script


async def hang(market: MarketSink) -> None:
    await asyncio.get_running_loop().create_future()


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


@pytest.fixture
def market(time: VirtualTime) -> RecordingMarket:
    return RecordingMarket(time)


@asynccontextmanager
async def supervised(
    feed: Feed, market: RecordingMarket, time: VirtualTime, *, rng: random.Random | None = None
) -> AsyncIterator[FeedSupervisor]:
    supervisor = FeedSupervisor(feed, market, clock=time.clock, sleep=time.sleep, rng=rng or HighestDelay())
    supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def test_live_comes_with_the_first_update_and_not_with_the_start(
    time: VirtualTime, market: RecordingMarket
) -> None:
    async def connect_slowly(sink: MarketSink) -> None:
        await time.sleep(3.0)
        sink.set_status("KOSPI", "open")
        await time.sleep(2.0)
        sink.publish_book(book())
        await hang(sink)

    async with supervised(ScriptedFeed(connect_slowly), market, time) as supervisor:
        await time.advance(10.0)
        assert market.events == [(0.0, "reconnecting"), (3.0, "KOSPI open"), (5.0, "book"), (5.0, "live")]
        assert supervisor.status == "live"
        assert supervisor.is_running
    assert market.statuses[-1] == (10.0, "stopped")
    assert not supervisor.is_running


async def test_exhausted_feed_stops_and_is_not_restarted(time: VirtualTime, market: RecordingMarket) -> None:
    feed = ScriptedFeed(exhaust)
    supervisor = FeedSupervisor(feed, market, clock=time.clock, sleep=time.sleep)
    await supervisor.run()
    assert market.names == ["reconnecting", "price", "live", "stopped"]
    assert feed.n_runs == 1
    assert supervisor.n_failures == 0


async def test_failing_feed_backs_off_exponentially_up_to_the_maximum(
    time: VirtualTime, market: RecordingMarket
) -> None:
    feed = ScriptedFeed(fail)
    with capture_logs() as logs:
        async with supervised(feed, market, time) as supervisor:
            await time.advance(1 + 2 + 4 + 8 + 16 + 30 + 30)
            assert supervisor.n_failures == 8
            assert supervisor.is_running
    warnings = [entry for entry in logs if entry["log_level"] == "warning"]
    assert [entry["restart_in_s"] for entry in warnings] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert feed.n_runs == len(warnings) == 8
    assert market.names == ["reconnecting", "stopped"]  # one announcement, however often it fails
    assert {entry["error"] for entry in warnings} == {"UpstreamError: connection refused"}
    # Where in the source it failed is told to those who look for a mistake there.
    tracebacks = [entry for entry in logs if entry["log_level"] == "debug"]
    assert [type(entry["exc_info"]) for entry in tracebacks] == [UpstreamError] * 8


async def test_a_failure_that_would_only_repeat_stops_the_feed(
    time: VirtualTime, market: RecordingMarket
) -> None:
    async def be_over(sink: MarketSink) -> None:
        sink.publish_price(price())
        raise FeedOverError("nothing\nmore will come")

    feed = ScriptedFeed(fail, be_over)
    with capture_logs() as logs:
        async with supervised(feed, market, time) as supervisor:
            await time.advance(100.0)
            assert not supervisor.is_running
    assert feed.n_runs == 2
    assert market.names == ["reconnecting", "price", "live", "stopped"]
    errors = [entry for entry in logs if entry["log_level"] == "error"]
    assert [(entry["event"], entry["error"]) for entry in errors] == [
        ("feed failed for good", "nothing more will come")
    ]


async def test_delays_are_spread_over_the_whole_interval(time: VirtualTime, market: RecordingMarket) -> None:
    with capture_logs() as logs:
        async with supervised(ScriptedFeed(fail), market, time, rng=random.Random(7)):
            await time.advance(3600.0)
    delays = [entry["restart_in_s"] for entry in logs if entry["log_level"] == "warning"][6:]
    assert len(delays) > 100
    assert min(delays) >= 0.5
    assert max(delays) <= 30.0
    for low, high in ((0.5, 8.0), (8.0, 15.0), (15.0, 22.0), (22.0, 30.0)):
        assert sum(low <= delay < high for delay in delays) > len(delays) * 0.15


async def test_status_order_over_a_failure(time: VirtualTime, market: RecordingMarket) -> None:
    feed = ScriptedFeed(deliver(time, 2.0, then=fail), deliver(time, 1.0))
    async with supervised(feed, market, time):
        await time.advance(10.0)
    assert market.statuses == [
        (0.0, "reconnecting"),
        (0.0, "live"),
        (2.0, "reconnecting"),
        (3.0, "live"),
        (4.0, "stopped"),
    ]


async def test_backoff_goes_on_for_a_feed_that_delivers_only_a_little(
    time: VirtualTime, market: RecordingMarket
) -> None:
    with capture_logs() as logs:
        async with supervised(ScriptedFeed(deliver(time, 5.0, then=fail)), market, time):
            await time.advance(3 * 5.0 + 1 + 2)
    assert [entry["restart_in_s"] for entry in logs if entry["log_level"] == "warning"] == [1.0, 2.0, 4.0]


async def test_a_feed_that_once_delivered_and_then_hung_is_not_healthy(
    time: VirtualTime, market: RecordingMarket
) -> None:
    async def hang_then_fail(sink: MarketSink) -> None:
        sink.publish_price(price())
        await time.sleep(600.0)
        raise UpstreamError

    with capture_logs() as logs:
        async with supervised(ScriptedFeed(fail, hang_then_fail), market, time):
            await time.advance(700.0)
    assert [entry["restart_in_s"] for entry in logs if entry["log_level"] == "warning"] == [1.0, 2.0]


async def test_backoff_starts_over_after_a_healthy_run(time: VirtualTime, market: RecordingMarket) -> None:
    feed = ScriptedFeed(fail, fail, fail, deliver(time, 15.0, then=fail), hang)
    with capture_logs() as logs:
        async with supervised(feed, market, time) as supervisor:
            await time.advance(1 + 2 + 4 + 9)
            assert supervisor.n_failures == 3
            await time.advance(4)
            assert supervisor.n_failures == 0  # forgiven while it still runs
            await time.advance(5)
    assert [entry["restart_in_s"] for entry in logs if entry["log_level"] == "warning"] == [
        1.0,
        2.0,
        4.0,
        1.0,
    ]


async def test_silence_makes_stale_and_the_next_update_live_at_once(
    time: VirtualTime, market: RecordingMarket
) -> None:
    async def pause(sink: MarketSink) -> None:
        await deliver(time, 3.0, every=0.1)(sink)
        await time.sleep(20.0)
        sink.publish_price(price())
        await hang(sink)

    async with supervised(ScriptedFeed(pause, stale_after=5.0), market, time):
        await time.advance(25.0)
    states = market.statuses
    assert [state for _, state in states] == ["reconnecting", "live", "stale", "live", "stopped"]
    last_update_at = 2.9
    assert last_update_at + 5.0 <= states[2][0] < last_update_at + 5.0 + 2.0
    assert states[3][0] == pytest.approx(23.0)


async def test_steady_feed_with_a_short_limit_never_gets_stale(
    time: VirtualTime, market: RecordingMarket
) -> None:
    async with supervised(ScriptedFeed(deliver(time, 60.0, every=1.9), stale_after=2.0), market, time):
        await time.advance(55.0)
        assert [state for _, state in market.statuses] == ["reconnecting", "live"]


async def test_feed_that_never_delivers_gets_stale_only_when_it_is_expected_to(
    time: VirtualTime, market: RecordingMarket
) -> None:
    feed = ScriptedFeed(hang)
    async with supervised(feed, market, time):
        await time.advance(3600.0)
        assert market.names == ["reconnecting"]
        feed.stale_after = 10.0  # its market opened: silence counts from now on
        await time.advance(9.0)
        assert market.names == ["reconnecting"]
        await time.advance(3.0)
        assert market.names == ["reconnecting", "stale"]


async def test_a_feed_is_stale_while_most_of_its_symbols_are(
    time: VirtualTime, market: RecordingMarket
) -> None:
    async with supervised(ScriptedFeed(deliver(time, 20.0, then=hang)), market, time) as supervisor:
        await time.advance(5.2)
        supervisor.note_symbols(True)
        # Whatever comes of the others.
        await time.advance(5.0)
        assert market.statuses == [(0.0, "reconnecting"), (0.0, "live"), (5.2, "stale")]
        supervisor.note_symbols(False)
        await time.advance(5.0)
        assert market.statuses[3:] == [(pytest.approx(10.5, abs=1.0), "live")]
        # Nothing comes any more, and then nobody judges symbols: the market has closed.
        await time.advance(15.0)
        supervisor.note_symbols(True)
        supervisor.note_symbols(False)
        await time.advance(15.0)
        assert [status for _, status in market.statuses[4:]] == ["stale"]


async def test_watching_costs_one_watched_call_per_second(time: VirtualTime, market: RecordingMarket) -> None:
    watched = 0

    async def burst(sink: MarketSink) -> None:
        nonlocal watched
        for _ in range(50):
            for _ in range(100):
                publish = sink.publish_price
                watched += publish != market.publish_price
                publish(price())
            await time.sleep(0.1)

    async with supervised(ScriptedFeed(burst), market, time):
        await time.advance(4.95)
        assert len(market.updates) == 5000
        assert watched == 5


async def test_updates_sequences_and_lookups_pass_through(time: VirtualTime, market: RecordingMarket) -> None:
    returned: list[int] = []
    receipts: list[int] = []
    sinks: list[MarketSink] = []

    async def script(sink: MarketSink) -> None:
        assert list(sink.instruments) == [SAMSUNG]
        assert sink.instrument("005930") is SAMSUNG
        assert sink.instrument("999999") is None
        assert sink.ensure_instrument("999999").name == "999999"
        sinks.append(sink)
        sink.set_received(7)
        receipts.append(market.received_ns)
        returned.extend(
            [sink.publish_price(price(1)), sink.publish_price(price(2)), sink.publish_book(book())]
        )

    await FeedSupervisor(ScriptedFeed(script), market, clock=time.clock, sleep=time.sleep).run()
    assert market.names == ["reconnecting", "price", "live", "price", "book", "stopped"]
    receipts.append(market.received_ns)
    sinks[0].set_received(8)  # of a run that is over
    receipts.append(market.received_ns)
    assert receipts == [7, 0, 0]
    assert returned == [2, 4, 5]
    assert isinstance(market.updates[1], PriceUpdate)
    assert market.updates[1].price == 2


async def test_update_that_the_market_refuses_is_no_delivery(
    time: VirtualTime, market: RecordingMarket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(update: PriceUpdate) -> int:
        raise ValueError("price: absent")

    monkeypatch.setattr(market, "publish_price", refuse)
    async with supervised(ScriptedFeed(exhaust), market, time):
        await time.advance(0.5)
        assert market.names == ["reconnecting"]


async def test_stop_cancels_the_feed_and_lets_it_clean_up(time: VirtualTime, market: RecordingMarket) -> None:
    cleaned_up = False

    async def script(sink: MarketSink) -> None:
        nonlocal cleaned_up
        try:
            await hang(sink)
        finally:
            await asyncio.sleep(0)
            sink.set_status("KOSPI", "closed")
            cleaned_up = True

    async with supervised(ScriptedFeed(script), market, time):
        await time.settle()
    assert cleaned_up
    assert market.names == ["reconnecting", "KOSPI closed", "stopped"]


async def test_stop_during_the_backoff(time: VirtualTime, market: RecordingMarket) -> None:
    feed = ScriptedFeed(fail)
    async with supervised(feed, market, time):
        await time.advance(0.1)
        assert feed.n_runs == 1
    assert market.names == ["reconnecting", "stopped"]
    await time.advance(100.0)
    assert feed.n_runs == 1


async def test_feed_that_ignores_its_cancellation_is_left_behind_without_a_market(
    time: VirtualTime, market: RecordingMarket
) -> None:
    released = asyncio.get_running_loop().create_future()
    refused: list[str] = []

    async def stubborn(sink: MarketSink) -> None:
        keep = sink.publish_price
        while not released.done():
            try:
                await asyncio.shield(released)
            except asyncio.CancelledError:
                continue
        for attempt in (
            lambda: sink.publish_price(price()),
            lambda: sink.publish_book(book()),
            lambda: sink.set_status("KOSPI", "open"),
            lambda: keep(price()),
        ):
            with pytest.raises(FeedError, match="run of the feed is over") as caught:
                attempt()
            refused.append(str(caught.value))

    supervisor = FeedSupervisor(ScriptedFeed(stubborn), market, clock=time.clock, sleep=time.sleep)
    supervisor.start()
    await time.settle()
    with capture_logs() as logs:
        stopping = asyncio.create_task(supervisor.stop())
        await time.advance(4.9)
        assert not stopping.done()
        await time.advance(0.2)
        assert stopping.done()
    assert [entry["event"] for entry in logs] == ["feed ignores its cancellation"]
    assert market.names == ["reconnecting", "stopped"]
    released.set_result(None)
    await time.settle()
    assert len(refused) == 4
    assert market.names == ["reconnecting", "stopped"]


async def test_error_during_cleanup_is_logged_and_stop_still_succeeds(
    time: VirtualTime, market: RecordingMarket
) -> None:
    async def script(sink: MarketSink) -> None:
        try:
            await hang(sink)
        finally:
            raise UpstreamError("close failed")

    with capture_logs() as logs:
        async with supervised(ScriptedFeed(script), market, time):
            await time.settle()
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [
        ("warning", "feed failed while it was stopped"),
        ("debug", "traceback of the failed feed"),
    ]
    assert "close failed" in logs[0]["error"]


async def test_feed_cancelled_from_within_is_restarted(time: VirtualTime, market: RecordingMarket) -> None:
    async def cancel_itself(sink: MarketSink) -> None:
        raise asyncio.CancelledError

    feed = ScriptedFeed(cancel_itself, exhaust)
    async with supervised(feed, market, time):
        await time.advance(2.0)
    assert feed.n_runs == 2
    assert market.names == ["reconnecting", "price", "live", "stopped"]


async def test_failures_of_a_task_group_are_named_one_by_one(
    time: VirtualTime, market: RecordingMarket
) -> None:
    async def script(sink: MarketSink) -> None:
        raise ExceptionGroup("two", [UpstreamError("first"), ValueError("second\nline")])

    with capture_logs() as logs:
        async with supervised(ScriptedFeed(script), market, time):
            await time.settle()
    assert "UpstreamError: first; ValueError: second line" in logs[0]["error"]


async def test_start_twice_is_refused_and_restart_after_stop_works(
    time: VirtualTime, market: RecordingMarket
) -> None:
    supervisor = FeedSupervisor(ScriptedFeed(hang), market, clock=time.clock, sleep=time.sleep)
    await supervisor.stop()  # never started: nothing to do
    supervisor.start()
    with pytest.raises(RuntimeError, match="already supervised"):
        supervisor.start()
    await time.settle()
    await supervisor.stop()
    supervisor.start()
    await time.settle()
    await supervisor.stop()
    assert market.names == ["reconnecting", "stopped"] * 2


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_delays_that_make_no_sense_are_refused(
    time: VirtualTime, market: RecordingMarket, low: float, high: float
) -> None:
    with pytest.raises(ValueError, match="min_delay"):
        FeedSupervisor(ScriptedFeed(fail), market, min_delay=low, max_delay=high)
