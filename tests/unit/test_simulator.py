"""The simulator's schedule as a formula, and its feed on virtual time."""

from __future__ import annotations

import asyncio
import math
import time as real_time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import TABLE, TODAY_MS, korean, texts
from structlog.testing import capture_logs

from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws.feeds.base import FeedSupervisor
from fastws.feeds.simulator import OpeningSchedule, SimulatorFeed

OPENED = ["KOSPI open", "KOSDAQ open", "NASDAQ open", "NYSE open"]
SCHEDULES = st.builds(
    OpeningSchedule,
    st.floats(0.1, 100_000.0),
    st.one_of(st.just(1.0), st.floats(1.001, 50.0)),
    st.one_of(st.just(0.0), st.floats(0.01, 100.0)),
)


@given(schedule=SCHEDULES, n=st.integers(0, 10**9))
def test_update_is_due_at_its_time_and_not_before(schedule: OpeningSchedule, n: int) -> None:
    at = schedule.due_at(n)
    assert schedule.n_due(at) == n + 1
    assert schedule.n_due(at - 0.01 / schedule.rate - 1e-9) <= n + 1
    assert (
        schedule.n_due(math.nextafter(schedule.due_at(n + 1), 0.0) - 0.5 * (schedule.due_at(n + 1) - at))
        == n + 1
    )


@given(schedule=SCHEDULES, n=st.integers(0, 10**7))
def test_gaps_only_grow_until_the_rate_has_settled(schedule: OpeningSchedule, n: int) -> None:
    first, second, third = (schedule.due_at(n + k) for k in range(3))
    tolerance = 1e-9 * max(1.0, third)
    assert second - first > -tolerance
    assert second - first <= third - second + tolerance
    assert third - second <= 1.0 / schedule.rate + tolerance


def test_opening_gives_the_area_under_its_rate() -> None:
    schedule = OpeningSchedule(200.0, 5.0, 10.0)
    assert schedule.n_due(-0.001) == 0
    assert schedule.n_due(0.0) == 1
    per_second = [schedule.n_due(second + 1.0) - schedule.n_due(float(second)) for second in range(14)]
    assert per_second == [960, 880, 800, 720, 640, 560, 480, 400, 320, 240, 200, 200, 200, 200]


class EndOfTestError(Exception):
    pass


class VirtualTime:
    """The only thing that takes time is sleeping, and whatever a test adds to `now`."""

    def __init__(self, end: float = math.inf) -> None:
        self.now = 1_000.0
        self.end = self.now + end
        self.n_sleeps = 0
        self.wakes: list[float] = []

    def clock(self) -> float:
        return self.now

    def wall_clock(self) -> float:
        return TODAY_MS / 1000.0 + self.now

    async def sleep(self, seconds: float) -> None:
        self.n_sleeps += 1
        self.now += seconds
        self.wakes.append(self.now)
        if self.now >= self.end:
            raise EndOfTestError


class Tape:
    """A market that writes down when it got what; each update takes `cost_s` of virtual time."""

    def __init__(self, time: VirtualTime, *, cost_s: float = 0.0) -> None:
        self.instruments: Iterable[Instrument] = TABLE
        self.updates: list[PriceUpdate | BookUpdate] = []
        self.times: list[float] = []
        self.turns: list[int] = []  # in which run between two sleeps
        self.statuses: list[str] = []
        self.receipts: list[float] = []
        self.received_ns = 0
        self._time = time
        self._cost_s = cost_s

    def publish(self, update: PriceUpdate | BookUpdate) -> int:
        self.updates.append(update)
        self.times.append(self._time.now - 1_000.0)
        self.receipts.append(self.received_ns / 1e9 - 1_000.0)
        self.turns.append(self._time.n_sleeps)
        self._time.now += self._cost_s
        return len(self.updates)

    publish_price = publish
    publish_book = publish

    def set_received(self, at_ns: int) -> None:
        self.received_ns = at_ns

    def set_status(self, market: str, status: str) -> int:
        assert not self.updates
        self.statuses.append(f"{market} {status}")
        return 0

    def set_feed_status(self, feed: str, status: str) -> int:
        self.statuses.append(f"{feed} {status}")
        return 0

    def instrument(self, code: str) -> Instrument | None:
        return next((i for i in self.instruments if i.code == code), None)

    def ensure_instrument(self, code: str) -> Instrument:
        return self.instrument(code) or Instrument(code, code)

    def per_second(self) -> list[int]:
        counts = Counter(int(at) for at in self.times)
        return [counts[second] for second in range(max(counts) + 1)]


def simulator(
    time: VirtualTime, instruments: Iterable[Instrument] = TABLE, **options: object
) -> SimulatorFeed:
    options = {"seed": 1, "clock": time.clock, "wall_clock": time.wall_clock, "sleep": time.sleep} | options
    return SimulatorFeed(instruments, **options)  # type: ignore[arg-type]


async def play(feed: SimulatorFeed, tape: Tape) -> None:
    with pytest.raises(EndOfTestError):
        await feed.run(tape)


async def test_feed_opens_the_markets_and_keeps_its_rate_after_the_opening_burst() -> None:
    time = VirtualTime(20.0)
    tape = Tape(time)
    feed = simulator(time)
    assert feed.name == "simulator"
    await play(feed, tape)
    assert tape.statuses == OPENED
    expected = [960, 880, 800, 720, 640, 560, 480, 400, 320, 240] + 10 * [200]
    assert tape.per_second() == pytest.approx(expected, abs=1)
    assert feed.n_published == len(tape.updates) == sum(isinstance(u, PriceUpdate) for u in tape.updates) * 2
    assert feed.n_skipped == 0


async def test_updates_do_not_depend_on_time_but_their_event_time_does() -> None:
    def rows(tape: Tape) -> list[tuple[object, ...]]:
        return [
            (u.instrument.code, u.price, u.volume)
            if isinstance(u, PriceUpdate)
            else (u.instrument.code, u.bids, u.asks)
            for u in tape.updates
        ]

    slow_time, fast_time = VirtualTime(30.0), VirtualTime(3.0)
    slow, fast = Tape(slow_time), Tape(fast_time)
    await play(simulator(slow_time, rate=100.0), slow)
    await play(simulator(fast_time, rate=5_000.0), fast)
    assert len(slow.updates) > 3_000
    assert rows(slow)[:3_000] == rows(fast)[:3_000]
    for at, update in zip(slow.times, slow.updates, strict=True):
        assert update.event_time_ms == pytest.approx(TODAY_MS + (1_000.0 + at) * 1000.0, abs=1.0)


async def test_low_rate_is_spread_evenly() -> None:
    time = VirtualTime(60.0)
    tape = Tape(time)
    await play(simulator(time, rate=7.0, opening_burst=1.0), tape)
    gaps = [after - before for before, after in pairwise(tape.times)]
    assert gaps == pytest.approx([1 / 7.0] * len(gaps), abs=1e-6)
    assert len(tape.updates) == 7 * 60
    assert tape.receipts == pytest.approx([n / 7.0 for n in range(7 * 60)], abs=1e-6)
    assert tape.received_ns == 0


async def test_single_symbol_gets_4000_prices_a_second_evenly() -> None:
    time = VirtualTime(5.0)
    tape = Tape(time)
    await play(
        simulator(time, [korean("005930", 72_000)], rate=4_000.0, books=False, opening_seconds=0.0), tape
    )
    assert all(isinstance(update, PriceUpdate) for update in tape.updates)
    assert tape.per_second() == pytest.approx([4_000] * 5, abs=5)
    assert max(Counter(tape.turns).values()) <= 5


async def test_rate_is_absolute_although_the_market_takes_time() -> None:
    time = VirtualTime(10.0)
    tape = Tape(time, cost_s=30e-6)
    feed = simulator(time, rate=20_000.0, opening_burst=1.0)
    await play(feed, tape)
    assert feed.n_published == pytest.approx(200_000, abs=100)
    assert feed.n_skipped == 0


async def test_burst_never_exceeds_the_highest_rate() -> None:
    time = VirtualTime(2.0)
    tape = Tape(time)
    await play(simulator(time, rate=60_000.0), tape)
    assert max(tape.per_second()) <= 100_000
    assert tape.per_second()[0] > 90_000


async def test_work_is_cut_into_slices_of_two_milliseconds() -> None:
    time = VirtualTime(1.0)
    tape = Tape(time, cost_s=40e-6)  # takes 25,000/s of the 50,000/s that are due
    feed = simulator(time, rate=50_000.0, opening_burst=1.0)
    await play(feed, tape)
    per_turn = Counter(tape.turns)
    assert max(per_turn.values()) * 40e-6 <= 0.002 + 32 * 40e-6
    assert len(per_turn) > 250
    assert feed.n_published == pytest.approx(25_000, rel=0.05)


async def test_catch_up_after_a_pause_is_bounded_and_declared() -> None:
    time = VirtualTime(20.0)
    tape = Tape(time)
    feed = simulator(time, rate=1_000.0, opening_burst=1.0)
    paused = False
    plain_publish = tape.publish

    def pause_once(update: PriceUpdate | BookUpdate) -> int:
        nonlocal paused
        if not paused and time.now >= 1_005.0:
            paused = True
            time.now += 6.0  # as if something had blocked the loop
        return plain_publish(update)

    tape.publish_price = pause_once  # type: ignore[method-assign]
    with capture_logs() as captured:
        await play(feed, tape)
    logs = [entry for entry in captured if entry["log_level"] != "info"]
    assert feed.n_skipped == pytest.approx(5_000, abs=2)
    assert feed.n_published + feed.n_skipped == pytest.approx(20_000, abs=2)
    assert tape.per_second()[11] == pytest.approx(2_000, abs=2)  # its own and the second before
    assert tape.per_second()[12:20] == pytest.approx([1_000] * 8, abs=2)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert logs[0]["skipped"] == feed.n_skipped


async def test_short_pause_is_made_good_in_full() -> None:
    time = VirtualTime(10.0)
    tape = Tape(time)
    feed = simulator(time, rate=500.0, opening_burst=1.0)
    plain_sleep = time.sleep

    async def oversleep(seconds: float) -> None:
        if time.n_sleeps == 1_000:
            seconds += 0.9
        await plain_sleep(seconds)

    feed._sleep = oversleep
    await play(feed, tape)
    assert feed.n_skipped == 0
    assert feed.n_published == pytest.approx(5_000, abs=2)


async def test_permanent_overload_skips_steadily_and_logs_once_a_minute() -> None:
    time = VirtualTime(150.0)
    tape = Tape(time, cost_s=1e-3)
    feed = simulator(time, rate=2_000.0, opening_burst=1.0)
    with capture_logs() as captured:
        await play(feed, tape)
    logs = [entry for entry in captured if entry["log_level"] == "warning"]
    assert feed.n_published == pytest.approx(150_000, rel=0.02)
    assert feed.n_skipped == pytest.approx(150_000, rel=0.05)
    assert len(logs) == 3
    assert sum(entry["skipped"] for entry in logs) == logs[-1]["skipped_total"] <= feed.n_skipped


async def test_second_run_goes_on_with_the_day_and_has_no_second_opening() -> None:
    time = VirtualTime(30.0)
    feed = simulator(time)
    first = Tape(time)
    await play(feed, first)
    n_before = feed.n_published
    time.now += 100.0
    time.end = time.now + 10.0
    second = Tape(time)
    await play(feed, second)
    assert second.statuses == OPENED
    assert feed.n_published - n_before == pytest.approx(2_000, abs=1)
    assert feed.n_skipped == 0
    volumes: dict[str, int] = {}
    for update in first.updates + second.updates:
        if isinstance(update, PriceUpdate):
            assert update.volume is not None
            assert update.volume > volumes.get(update.instrument.code, 0)
            volumes[update.instrument.code] = update.volume


async def test_the_seed_is_logged_once_at_the_start() -> None:
    time = VirtualTime(5.0)
    feed = simulator(time, seed=None)
    with capture_logs() as logs:
        await play(feed, Tape(time))
        time.end = time.now + 5.0
        await play(feed, Tape(time))
    assert [(entry["log_level"], entry["event"], entry["seed"]) for entry in logs] == [
        ("info", "simulator starts", feed.seed)
    ]


async def test_feed_without_a_seed_shows_the_one_it_drew() -> None:
    time = VirtualTime(5.0)
    tape = Tape(time)
    feed = simulator(time, seed=None)
    await play(feed, tape)
    assert texts(tape.updates[:1])[0]
    again_time = VirtualTime(5.0)
    again = Tape(again_time)
    await play(simulator(again_time, seed=feed.seed), again)
    assert texts(again.updates) == texts(tape.updates)
    assert simulator(time, seed=None).seed != feed.seed


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rate", 0.0),
        ("rate", -1.0),
        ("rate", 100_001.0),
        ("rate", math.nan),
        ("opening_burst", 0.5),
        ("opening_burst", math.nan),
        ("opening_seconds", -1.0),
        ("opening_seconds", math.inf),
        ("book_share", 1.5),
        ("volatility", 0.0),
    ],
)
def test_values_out_of_range_are_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=option):
        SimulatorFeed(TABLE, **{option: value})  # type: ignore[arg-type]


async def test_on_a_real_loop_it_keeps_time_lets_others_run_and_ends_on_cancellation() -> None:
    time = VirtualTime()
    tape = Tape(time)
    feed = SimulatorFeed(TABLE, rate=20_000.0, seed=1, opening_burst=1.0)
    supervisor = FeedSupervisor(feed, tape)
    started = real_time.monotonic()
    supervisor.start()
    n_turns = 0
    async with asyncio.timeout(30.0):
        while len(tape.updates) < 4_000:
            await asyncio.sleep(0)
            n_turns += 1
        elapsed = real_time.monotonic() - started
        await supervisor.stop()
    assert elapsed >= (len(tape.updates) - 1) / 20_000.0
    assert n_turns > 50
    assert tape.statuses == ["simulator reconnecting", *OPENED, "simulator live", "simulator stopped"]
    n_at_stop = len(tape.updates)
    await asyncio.sleep(0)
    assert len(tape.updates) == n_at_stop


def test_instruments_of_a_database_are_played_too() -> None:
    feed = SimulatorFeed([Instrument("AAPL", previous_close="150.10")], seed=7)
    added = [Instrument("NEW1", previous_close="10.50"), Instrument("TOO", previous_close="0.000000000001")]
    assert feed.play([Instrument("AAPL", previous_close="200"), *added]) == ["TOO"]
    again = SimulatorFeed(
        [Instrument("AAPL", previous_close="200"), Instrument("NEW1", previous_close="10.50")], seed=7
    )
    published: list[list[tuple[str, str]]] = []
    for played in (feed, again):
        prices: list[tuple[str, str]] = []
        published.append(prices)
        played._exchange.advance(
            lambda update, prices=prices: prices.append((update.instrument.code, str(update.price))),
            lambda book: None,
            500,
            0,
        )
    assert published[0] == published[1]
    assert {code for code, _ in published[0]} == {"AAPL", "NEW1"}
