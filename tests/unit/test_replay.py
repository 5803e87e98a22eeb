"""The replay feed: pacing on an injected clock, slices and loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from replaying import TRADE, FakeTime, Sink, feed_of, timed
from structlog.testing import capture_logs

from fastws.feeds.base import FeedOverError, FeedSupervisor
from fastws.feeds.replay import ReplayFeed, Timeline


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def sink(time: FakeTime) -> Sink:
    return Sink(time)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write_lines(*lines: bytes, end: bytes = b"\n") -> Path:
        path = tmp_path / "session.txt"
        path.write_bytes(end.join(lines) + end)
        return path

    return write_lines


@pytest.mark.parametrize(("speed", "gap"), [(1, 0.1), (2, 0.05), (0.5, 0.2), (1000.0, 0.0001)])
async def test_lines_without_time_are_100_ms_apart(
    write: Callable[..., Path], time: FakeTime, sink: Sink, speed: float, gap: float
) -> None:
    path = write(b"# comments and blank lines take no time", TRADE % 1, b"", TRADE % 2, b"# x", TRADE % 3)
    await feed_of(path, time, speed=speed).run(sink)
    assert sink.prices == [1, 2, 3]
    assert sink.times == pytest.approx([0.0, gap, 2 * gap])


@pytest.mark.parametrize("speed", [1, 10])
async def test_receive_times_pace_and_clocks_inside_records_do_not(
    write: Callable[..., Path], time: FakeTime, sink: Sink, speed: float
) -> None:
    # The records carry one and the same time of day.
    path = write(*[timed(1762819200000 + ms, ms) for ms in (0, 5, 1005, 1005, 61005)])
    await feed_of(path, time, speed=speed).run(sink)
    assert sink.times == pytest.approx([s / speed for s in (0.0, 0.005, 1.005, 1.005, 61.005)])


async def test_what_is_late_does_not_delay_what_follows(
    write: Callable[..., Path], time: FakeTime, sink: Sink
) -> None:
    def be_slow(n: int) -> None:
        time.now += 0.25 if n == 2 else 0.0

    sink.on_update = be_slow
    await feed_of(write(*[TRADE % n for n in range(1, 7)]), time).run(sink)
    # The second is due at 0.1 and takes until 0.35: the third and fourth are late, the fifth is on time.
    assert sink.times == pytest.approx([0.0, 0.1, 0.35, 0.35, 0.4, 0.5])
    assert sink.receipts == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert sink.received_ns == 0


async def test_pauses_that_last_too_long_do_not_add_up(
    write: Callable[..., Path], sink: Sink, time: FakeTime
) -> None:
    async def oversleep(seconds: float) -> None:
        await time.sleep(seconds)
        time.now += 0.03

    path = write(*[TRADE % n for n in range(100)])
    await ReplayFeed(path, clock=time.clock, sleep=oversleep).run(sink)
    assert sink.times[-1] == pytest.approx(9.93)


async def test_a_pause_longer_than_a_timer_may_be(
    write: Callable[..., Path], time: FakeTime, sink: Sink
) -> None:
    path = write(timed(0, 1), timed(3 * 3_600_000 + 5, 2))
    await feed_of(path, time, speed=0.5).run(sink)
    assert sink.times == pytest.approx([0.0, 21600.01])
    assert max(time.pauses) <= 3600.0


async def test_long_pauses_are_announced(write: Callable[..., Path], time: FakeTime, sink: Sink) -> None:
    day = 86_400_000
    path = write(*[timed(ms, ms) for ms in (0, day, day + 60_000, day + 121_000, 2 * day + 240_000)])
    with capture_logs() as logs:
        await feed_of(path, time).run(sink)
    hint = "(replay_speed or replay_max_gap shortens it)"
    assert [log["event"] for log in logs if log["event"].startswith("replay waits")] == [
        f"replay waits 24 h 0 min for line 2 {hint}",
        f"replay waits 1 min 1 s for line 4 {hint}",
        f"replay waits 24 h 1 min for line 5 {hint}",
    ]
    assert {log["log_level"] for log in logs} == {"info"}
    with capture_logs() as logs:
        await feed_of(path, time, speed=2000).run(sink)
        await feed_of(path, time, max_gap=60).run(sink)
    assert {log["event"] for log in logs} == {"replay ended"}


@pytest.mark.parametrize("speed", [1, 4])
async def test_no_pause_is_longer_than_the_largest_gap(
    write: Callable[..., Path], time: FakeTime, sink: Sink, speed: float
) -> None:
    path = write(
        *[timed(ms, ms) for ms in (0, 2000, 86_400_000, 86_401_000, 200_000_000, 200_000_040)], TRADE % 1
    )
    await feed_of(path, time, speed=speed, max_gap=1.5).run(sink)
    gaps = [after - before for before, after in pairwise(sink.times)]
    recorded = [2.0, 86_398.0, 1.0, 113_599.0, 0.04, 0.1]
    assert gaps == pytest.approx([min(gap / speed, 1.5) for gap in recorded], abs=1e-6)


async def test_a_largest_gap_of_0_keeps_them_all_and_max_speed_has_none(
    write: Callable[..., Path], time: FakeTime, sink: Sink
) -> None:
    path = write(timed(0, 1), timed(50_000, 2))
    await feed_of(path, time, max_gap=0).run(sink)
    await feed_of(path, time, max_gap=10, speed="max").run(sink)
    assert sink.times == pytest.approx([0.0, 50.0, 50.0, 50.0])


def test_timeline_with_a_largest_gap() -> None:
    timeline = Timeline(max_gap_ms=50)
    times = (None, 5000, 5030, None, 9000, 9020, 2000, 2500, 2530)
    assert [timeline.place(ms) for ms in times] == [0, 50, 80, 130, 180, 200, 200, 250, 280]


def test_timeline_without_times() -> None:
    timeline = Timeline()
    assert [timeline.place(None) for _ in range(3)] == [0, 100, 200]


def test_timeline_with_times_and_without() -> None:
    timeline = Timeline()
    assert [timeline.place(ms) for ms in (None, 5000, 5030, None, 5040, 5200)] == [0, 100, 130, 230, 230, 300]


def test_timeline_takes_a_small_step_back_for_jitter() -> None:
    timeline = Timeline()
    assert [timeline.place(ms) for ms in (5000, 6000, 5000, 6001)] == [0, 1000, 1000, 1001]


def test_timeline_goes_on_with_an_appended_recording() -> None:
    timeline = Timeline()
    assert [timeline.place(ms) for ms in (9000, 10000, 2000, 2500, 11000)] == [0, 1000, 1000, 1500, 10000]


def test_timeline_starts_over() -> None:
    timeline = Timeline()
    places = [timeline.place(ms) for ms in (5000, 5700)]
    timeline.restart()
    assert [*places, *[timeline.place(ms) for ms in (5000, 5700, None)]] == [0, 700, 800, 1500, 1600]


@given(
    st.lists(st.one_of(st.none(), st.integers(0, 10**15 - 1))),
    st.one_of(st.just(float("inf")), st.floats(0.001, 1e9)),
)
def test_positions_never_decrease(times: list[int | None], max_gap_ms: float) -> None:
    timeline = Timeline(max_gap_ms)
    places = [timeline.place(ms) for ms in times]
    assert places == sorted(places)
    assert places[:1] in ([], [0])
    # Times of 10^15 ms are exact to an eighth of a millisecond.
    assert all(after - before <= max_gap_ms + 0.25 for before, after in pairwise(places))


async def test_max_speed_knows_no_pauses_and_yields_every_256_lines(
    write: Callable[..., Path], time: FakeTime, sink: Sink
) -> None:
    slices: list[int] = []

    async def sleep(seconds: float) -> None:
        assert seconds == 0.0
        slices.append(len(sink.updates))

    path = write(*[timed(n * 60_000, n) for n in range(1000)])
    await ReplayFeed(path, speed="max", clock=time.clock, sleep=sleep).run(sink)
    assert sink.prices == list(range(1000))
    assert slices == [256, 512, 768]


async def test_max_speed_yields_after_two_milliseconds(
    write: Callable[..., Path], time: FakeTime, sink: Sink
) -> None:
    slices: list[int] = []

    async def sleep(seconds: float) -> None:
        slices.append(len(sink.updates))

    def take_time(n: int) -> None:
        time.now += 0.0005

    sink.on_update = take_time
    await ReplayFeed(write(*[TRADE % 1] * 40), speed="max", clock=time.clock, sleep=sleep).run(sink)
    assert 8 <= len(slices) <= 10
    assert all(4 <= b - a <= 5 for a, b in pairwise(slices))


async def test_lines_that_deliver_nothing_yield_too(
    write: Callable[..., Path], time: FakeTime, sink: Sink
) -> None:
    path = write(*[b"# comment"] * 600, *[b'{"header":{"tr_id":"PINGPONG"}}'] * 600)
    with pytest.raises(FeedOverError, match="of 600 lines none"):
        await feed_of(path, time, speed="max").run(sink)
    assert len(time.pauses) == 4


async def test_others_run_while_a_replay_catches_up(write: Callable[..., Path], sink: Sink) -> None:
    n_turns = 0
    seen_at: list[int] = []

    async def count_turns() -> None:
        nonlocal n_turns
        while True:
            n_turns += 1
            await asyncio.sleep(0)

    sink.on_update = lambda n: seen_at.append(n_turns)
    counting = asyncio.create_task(count_turns())
    await ReplayFeed(write(*[TRADE % n for n in range(2000)]), speed="max").run(sink)
    counting.cancel()
    assert seen_at[-1] >= 7


@pytest.mark.parametrize("lines", [(TRADE % 1, TRADE % 2), (timed(50_000, 1), timed(50_100, 2))])
async def test_a_loop_goes_on_100_ms_after_the_end(
    write: Callable[..., Path], time: FakeTime, sink: Sink, lines: tuple[bytes, ...]
) -> None:
    task = asyncio.ensure_future(feed_of(write(*lines), time, speed=2, loop=True).run(sink))

    def stop(n: int) -> None:
        if n == 7:
            task.cancel()

    sink.on_update = stop
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sink.prices == [1, 2, 1, 2, 1, 2, 1]
    assert sink.times == pytest.approx([n * 0.05 for n in range(7)])


async def test_a_loop_at_max_speed_lets_others_run(write: Callable[..., Path], sink: Sink) -> None:
    task = asyncio.ensure_future(ReplayFeed(write(TRADE % 1), speed="max", loop=True).run(sink))
    reached = asyncio.Event()
    sink.on_update = lambda n: reached.set() if n == 1000 else None
    await asyncio.wait_for(reached.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("lines", [(), (b"# only comments",), (b'{"header":{"tr_id":"PINGPONG"}}',)])
async def test_a_file_with_nothing_is_an_error(
    write: Callable[..., Path], time: FakeTime, sink: Sink, lines: tuple[bytes, ...]
) -> None:
    path = write(*lines)
    for loop in (False, True):
        with pytest.raises(FeedOverError, match="nothing to replay"):
            await feed_of(path, time, loop=loop).run(sink)


@pytest.mark.parametrize("loop", [True, False])
async def test_supervised_nothing_ends_with_one_error(
    write: Callable[..., Path], time: FakeTime, sink: Sink, loop: bool
) -> None:
    path = write(b"# only comments")
    states: list[str] = []
    sink.set_feed_status = lambda feed, status: states.append(status) or 1  # type: ignore[func-returns-value,method-assign]
    with capture_logs() as logs:
        await FeedSupervisor(feed_of(path, time, loop=loop), sink, sleep=time.sleep).run()
    assert states == ["reconnecting", "stopped"]
    (error,) = logs
    assert (error["log_level"], error["event"]) == ("error", "feed failed for good")
    assert error["error"].startswith(f"{path} holds nothing to replay")
    assert ".py" not in error["error"]
