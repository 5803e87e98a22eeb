"""The replay feed: pacing on an injected clock, line formats, bad lines, slices, loops and files."""

from __future__ import annotations

import asyncio
import gzip
import os
import tracemalloc
from collections.abc import Callable
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate, encode_screener
from fastws.errors import SettingsError
from fastws.feeds.base import FeedOverError, FeedSupervisor
from fastws.feeds.lines import LineError, decode_body, encode_line, split_line
from fastws.feeds.replay import MAX_LINE_SIZE, ReplayFeed, Timeline

TRADE = (
    b"0|H0STCNT0|001|005930^140610^%d^2^3750^1.37^280395.69^283000^283500^276500^278000^277500^5^11955000^3352130122500"
    b"^83251^86830^3579^120.39^5217059^6280658^5^0.53^53.70^090023^5^-5250^090048^5^-5750^135824^2^1250^20260922^20^N"
    b"^47588^70626^794823^496479^0.20^17123443^69.82^0^^283000^2"
)


class FakeTime:
    """A clock that moves only in pauses and when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Sink:
    """Keeps what it is given, with the time since `time` began."""

    def __init__(self, time: FakeTime | None = None) -> None:
        self._time = time if time is not None else FakeTime()
        self._start = self._time.now
        self._by_code: dict[str, Instrument] = {}
        self.instruments = ()
        self.times: list[float] = []
        self.updates: list[PriceUpdate | BookUpdate | MarketStatus] = []
        self.receipts: list[float] = []
        self.received_ns = 0
        self.on_update: Callable[[int], None] = lambda n: None

    def publish_price(self, update: PriceUpdate) -> int:
        return self._keep(update)

    def publish_book(self, update: BookUpdate) -> int:
        return self._keep(update)

    def set_received(self, at_ns: int) -> None:
        self.received_ns = at_ns

    def set_status(self, market: str, status: str) -> int:
        return self._keep(MarketStatus(market, status))

    def set_feed_status(self, feed: str, status: str) -> int:
        return 0

    def instrument(self, code: str) -> Instrument | None:
        return self._by_code.get(code)

    def ensure_instrument(self, code: str) -> Instrument:
        return self._by_code.setdefault(code, Instrument(code))

    def _keep(self, update: PriceUpdate | BookUpdate | MarketStatus) -> int:
        self.times.append(round(self._time.now - self._start, 9))
        self.receipts.append(self.received_ns / 1e9 - self._start)
        self.updates.append(update)
        self.on_update(len(self.updates))
        return len(self.updates)

    @property
    def prices(self) -> list[object]:
        return [update.price for update in self.updates if isinstance(update, PriceUpdate)]

    @property
    def bodies(self) -> list[bytes]:
        return [encode_screener(update, 0) for update in self.updates]


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


def feed_of(path: Path, time: FakeTime, **options: object) -> ReplayFeed:
    return ReplayFeed(path, clock=time.clock, sleep=time.sleep, wall_clock=lambda: 1.8e9, **options)  # type: ignore[arg-type]


def timed(ms: int, price: int) -> bytes:
    return b"@%d %b" % (ms, TRADE % price)


# Pacing


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


# Slices


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


# Loop


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


# Settings


@pytest.mark.parametrize("speed", [0, -1, float("nan"), float("inf"), "fast", "1", None, True])
def test_a_wrong_speed_names_its_setting(write: Callable[..., Path], speed: object) -> None:
    with pytest.raises(
        SettingsError, match=r'^replay_speed: expected a number above 0 or "max", got'
    ) as caught:
        ReplayFeed(write(TRADE % 1), speed=speed)  # type: ignore[arg-type]
    assert caught.value.setting == "replay_speed"


def test_a_missing_file_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^feed: cannot replay .*absent\.txt: no such file") as caught:
        ReplayFeed(tmp_path / "absent.txt")
    assert caught.value.setting == "feed"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is a directory"):
        ReplayFeed(tmp_path)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match="not a regular file"):
        ReplayFeed(tmp_path / "pipe")


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_a_wrong_gap_names_its_setting(write: Callable[..., Path], seconds: float) -> None:
    with pytest.raises(SettingsError, match=r"^replay_max_gap: expected seconds") as caught:
        ReplayFeed(write(TRADE % 1), max_gap=seconds)
    assert caught.value.setting == "replay_max_gap"


def test_something_that_only_begins_like_gzip_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(b"\x1f\x8bnot gzip at all")
    with pytest.raises(SettingsError, match="cannot replay"):
        ReplayFeed(path)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ((b"hello", b"world"), "line 1 is 'hello' (neither JSON nor a KIS frame)"),
        ((b"# a comment", b"", b"\x00\xff\x00"), r"line 3 is '\x00\\xff\x00' (neither JSON nor a KIS frame)"),
        ((b"0|H0STCNT0|001|005930",), "line 1 is '0|H0STCNT0|001|005930' (KIS frame: width)"),
        ((b"@1x {}",), "line 1 is '@1x {}' (expected @, Unix milliseconds, one space and the message)"),
        ((b'{"type":"price_update","code":"A"}',), "(price: missing)"),
        ((b'{"a":1}', TRADE[:40]), "line 1 is '{\"a\":1}' (None is not price_update, orderbook_update or"),
        ([b"junk"] * 20_000, "line 1 is 'junk'"),
    ],
)  # fmt: skip
def test_a_file_that_is_none_to_replay_is_refused_with_its_first_line(
    write: Callable[..., Path], lines: tuple[bytes, ...], fault: str
) -> None:
    path = write(*lines)
    with capture_logs() as logs, pytest.raises(SettingsError) as caught:
        ReplayFeed(path)
    assert str(caught.value).startswith(f"feed: cannot replay {path}: line ")
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (caught.value.setting, logs) == ("feed", [])


async def test_a_file_whose_first_lines_are_bad_is_replayed(
    write: Callable[..., Path], time: FakeTime, sink: Sink
) -> None:
    path = write(*[b"junk"] * 5_000, TRADE % 1)
    await feed_of(path, time, speed="max").run(sink)
    assert sink.prices == [1]


# Files


async def test_gzip_is_known_by_its_content(tmp_path: Path, time: FakeTime, sink: Sink) -> None:
    path = tmp_path / "session"
    lines = [TRADE % n for n in range(100)]
    # Two members, as `cat a.gz b.gz` makes them.
    path.write_bytes(gzip.compress(b"\n".join(lines[:50]) + b"\n") + gzip.compress(b"\n".join(lines[50:])))
    feed = feed_of(path, time, speed="max")
    await feed.run(sink)
    assert sink.prices == list(range(100))
    assert (feed.n_lines, feed.n_updates, feed.n_bad) == (100, 100, 0)


async def test_a_gzip_file_that_breaks_off_is_replayed_as_far_as_it_goes(
    tmp_path: Path, time: FakeTime, sink: Sink
) -> None:
    path = tmp_path / "session.gz"
    data = gzip.compress(b"".join(b"@%d %b\n" % (n, TRADE % (n * 7919)) for n in range(5000)))
    path.write_bytes(data[: len(data) // 2])
    feed = feed_of(path, time, speed="max")
    with capture_logs() as logs:
        await feed.run(sink)
    assert 1000 < len(sink.updates) < 4000
    assert sink.prices == [n * 7919 for n in range(len(sink.updates))]
    assert feed.bad_kinds == {"damaged gzip": 1}
    assert [log["kind"] for log in logs if log["log_level"] == "warning"] == ["damaged gzip"]


async def test_a_gzip_file_cut_in_its_header(tmp_path: Path, time: FakeTime, sink: Sink) -> None:
    path = tmp_path / "session.gz"
    path.write_bytes(gzip.compress(TRADE % 1)[:9])
    feed = feed_of(path, time)
    with pytest.raises(FeedOverError, match="nothing to replay"):
        await feed.run(sink)
    assert (sink.updates, feed.bad_kinds) == ([], {"damaged gzip": 1})


async def test_line_ends_and_marks_of_other_systems(tmp_path: Path, time: FakeTime, sink: Sink) -> None:
    path = tmp_path / "session.txt"
    record = (TRADE % 1).rsplit(b"^", 1)[0] + b"^"  # the last value is empty
    path.write_bytes(b"\xef\xbb\xbf" + TRADE % 2 + b"\r\n\r\n" + record + b"\r\n" + TRADE % 3)
    feed = feed_of(path, time)
    with capture_logs() as logs:
        await feed.run(sink)
    assert sink.prices == [2, 1, 3]
    assert feed.n_bad == 0
    assert [log["event"] for log in logs] == ["replay ended"]


async def test_a_huge_line_is_skipped_and_not_held(tmp_path: Path, time: FakeTime, sink: Sink) -> None:
    path = tmp_path / "session.txt"
    with path.open("wb") as file:
        file.write(TRADE % 1 + b"\n")
        for _ in range(32):
            file.write(b"x" * MAX_LINE_SIZE)
        file.write(b"\n" + TRADE % 2 + b"\n")
    feed = feed_of(path, time)
    tracemalloc.start()
    try:
        await feed.run(sink)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sink.prices == [1, 2]
    assert feed.bad_kinds == {"line too long": 1}
    assert peak < 6 * MAX_LINE_SIZE


async def test_memory_does_not_grow_with_the_file(tmp_path: Path, time: FakeTime) -> None:
    path = tmp_path / "session.txt"
    path.write_bytes((TRADE % 7 + b"\n") * 20_000)  # 6 MB
    n = 0

    def count(update: PriceUpdate) -> int:
        nonlocal n
        n += 1
        return n

    sink = Sink(time)
    sink.publish_price = count  # type: ignore[method-assign]
    tracemalloc.start()
    try:
        await feed_of(path, time, speed="max").run(sink)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert n == 20_000
    assert peak < 500_000


async def test_the_shipped_example_is_complete(time: FakeTime, sink: Sink) -> None:
    with as_file(files("fastws.data") / "kis_frames.txt") as path:
        feed = feed_of(path, time)
        await feed.run(sink)
    assert (feed.n_lines, feed.n_updates, feed.n_bad) == (11, 14, 0)
    assert sink.prices == [71950, 71900, 72000, 1996000, 277750, 181200, 72100, 72100, 72000]
    assert [update.venue for update in sink.updates if isinstance(update, BookUpdate)] == [
        "KRX", "KRX", "KRX", "NXT", "UN"
    ]  # fmt: skip
    assert sink.times[:4] == [0.0, 0.0, 0.0, 0.1]
    first = sink.updates[0]
    assert isinstance(first, PriceUpdate)
    assert encode_screener(first, 0) == (
        b'{"type":"price_update","code":"005930","name":"005930","price":71950,"change":1350,"change_percent":1.91,'
        b'"volume":8305216,"trade_volume":1,"high":72300,"low":70600,"venue":"KRX","quality":"realtime",'
        b'"event_time":"2025-07-30T00:47:51.000Z","timestamp":"1970-01-01T00:00:00.000Z"'
    )


# Lines


async def test_bad_lines_are_counted_logged_once_a_kind_and_left_out(
    write: Callable[..., Path], time: FakeTime, sink: Sink
) -> None:
    path = write(
        TRADE % 1,
        b"nonsense",
        b"more nonsense",
        b"0|H0STCNT0|002|a^b^c",
        b"@x 0|H0STCNT0|001|",
        b"@12",
        b'{"type":',
        b'["type"]',
        b'{"type":"price_update","code":"005930"}',
        b'{"type":"price_update","code":"005930","price":"73000"}',
        b'{"type":"alert","code":"005930"}',
        b'{"code":"005930"}',
        TRADE % 2,
        b"nonsense",
    )
    feed = feed_of(path, time)
    with capture_logs() as logs:
        await feed.run(sink)
    assert sink.prices == [1, 2]
    assert feed.bad_kinds == {
        "not a frame": 5,  # the line "@12" has no message, and a list is none
        "width": 1,
        "receive time": 1,
        "JSON": 1,
        "value": 2,
        "message type": 2,
    }
    warnings = [log for log in logs if log["log_level"] == "warning"]
    assert [(log["kind"], log["line"]) for log in warnings] == [
        ("not a frame", 2), ("width", 4), ("receive time", 5), ("JSON", 7), ("value", 9), ("message type", 11)
    ]  # fmt: skip
    assert warnings[4]["reason"] == "price: missing"
    assert feed.n_bad == 12


async def test_a_second_run_starts_over_and_logs_nothing_twice(
    write: Callable[..., Path], time: FakeTime, sink: Sink
) -> None:
    feed = feed_of(write(TRADE % 1, b"bad"), time)
    with capture_logs() as logs:
        await feed.run(sink)
        await feed.run(sink)
    assert (feed.n_lines, feed.n_updates, feed.bad_kinds) == (2, 1, {"not a frame": 1})
    assert [log["log_level"] for log in logs] == ["warning", "info", "info"]
    assert sink.prices == [1, 1]


async def test_a_new_width_is_logged_once(write: Callable[..., Path], time: FakeTime, sink: Sink) -> None:
    wide = TRADE % 1 + b"^x"
    with capture_logs() as logs:
        await feed_of(write(wide, wide), time).run(sink)
    assert [(log["tr_id"], log["width"], log["line"]) for log in logs if "width" in log] == [
        ("H0STCNT0", 48, 1)
    ]


async def test_books_are_dated_by_the_receive_time(
    write: Callable[..., Path], time: FakeTime, sink: Sink
) -> None:
    book = b"0|H0STASP0|001|005930^153000^0^" + b"^".join([b"100"] * 40)
    # 2025-11-11 15:30:00.4 KST, and a line without a time, which the clock (2027-01-15 17:00 KST) dates.
    await feed_of(write(b"@1762842600400 " + book, book), time).run(sink)
    assert [update.event_time_ms for update in sink.updates] == [1762842600000, 1799994600000]  # type: ignore[union-attr]


async def test_a_supervised_replay_goes_live_and_stops(
    write: Callable[..., Path], time: FakeTime, sink: Sink
) -> None:
    states: list[str] = []
    sink.set_feed_status = lambda feed, status: states.append(f"{feed} {status}") or 1  # type: ignore[func-returns-value,method-assign]
    await FeedSupervisor(ReplayFeed(write(TRADE % 1, TRADE % 2), speed="max"), sink).run()
    assert states == ["replay reconnecting", "replay live", "replay stopped"]
    assert sink.prices == [1, 2]


# Bodies


def decode(text: str) -> PriceUpdate | BookUpdate | MarketStatus | None:
    return decode_body(text.encode(), Instrument)


def test_a_price_keeps_every_digit_and_every_member() -> None:
    update = decode(
        '{"type":"price_update","code":"AAPL","price":150.250,"change":-2.50,"change_percent":1.690,'
        '"volume":9223372036854775807,"trade_volume":5,"high":151.00,"note":{"a":[1, 2.50]},'
        '"\\u00e4\\"":null,"venue":"X"}'
    )
    assert isinstance(update, PriceUpdate)
    assert encode_screener(update, 0) == (
        b'{"type":"price_update","code":"AAPL","name":"AAPL","price":150.250,"change":-2.50,"change_percent":1.690,'
        b'"volume":9223372036854775807,"trade_volume":5,"high":151.00,"venue":"X","note":{"a":[1, 2.50]},'
        b'"\xc3\xa4\\"":null,"timestamp":"1970-01-01T00:00:00.000Z"'
    )


def test_a_book_is_read_as_it_is_written() -> None:
    update = decode(
        '{"type":"orderbook_update","code":"005930","bids":[{"price":72900,"quantity":1000},{"price":72800,"quantity":7}],'
        '"asks":[],"event_time":"2025-11-11T18:30:00.123+09:00","depth":2}'
    )
    assert isinstance(update, BookUpdate)
    assert update.bids == [(72900, 1000), (72800, 7)]
    assert update.asks == []
    assert update.event_time_ms == 1762853400123
    assert update.extra == b'"depth":2'


def test_what_the_server_adds_is_ignored() -> None:
    update = decode(
        '{"type":"price_update","code":"005930","name":"Samsung Electronics","price":73000,"change":null,'
        '"timestamp":"2025-11-11T09:30:00Z","sequence":12345,"seq":7,"snapshot":true}'
    )
    assert isinstance(update, PriceUpdate)
    assert (update.instrument.name, update.change, update.extra) == ("005930", None, None)


def test_a_market_status() -> None:
    update = decode('{"type":"market_status","market":"KOSPI","status":"open","timestamp":"x"}')
    assert isinstance(update, MarketStatus)
    assert (update.market, update.status) == ("KOSPI", "open")


def test_control_messages_of_kis_are_no_updates() -> None:
    assert decode('{"header":{"tr_id":"PINGPONG","datetime":"20260922140610"}}') is None


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("", "JSON", "truncated"),
        ("{", "JSON", "truncated"),
        ("[]", "JSON", "object"),
        ('{"x":' + "[" * 100_000 + "]" * 100_000 + "}", "JSON", "recursion"),
        ('{"type":1}', "value", "type: expected text"),
        ('{"type":null}', "message type", "None"),
        ('{"type":"price_update","price":1}', "value", "code: missing"),
        ('{"type":"price_update","code":"","price":1}', "value", "code"),
        ('{"type":"price_update","code":5,"price":1}', "value", "code: expected text"),
        ('{"type":"price_update","code":"A","price":null}', "value", "price: missing"),
        ('{"type":"price_update","code":"A","price":"1"}', "value", "price"),
        ('{"type":"price_update","code":"A","price":1e3}', "value", "price"),
        ('{"type":"price_update","code":"A","price":[1]}', "value", "price"),
        ('{"type":"price_update","code":"A","price":1,"volume":1.5}', "value", "volume"),
        ('{"type":"price_update","code":"A","price":1,"venue":7}', "value", "venue: expected text"),
        ('{"type":"price_update","code":"A","price":1,"event_time":"2025-11-11T09:30"}', "value", "event"),
        ('{"type":"price_update","code":"A","price":1,"event_time":"noon"}', "value", "event"),
        ('{"type":"price_update","code":"A","price":1,"event_time":"1900-01-01T00:00Z"}', "value", "event"),
        ('{"type":"orderbook_update","code":"A","bids":[]}', "value", "asks: missing"),
        ('{"type":"orderbook_update","code":"A","bids":1,"asks":[]}', "value", "bids"),
        ('{"type":"orderbook_update","code":"A","bids":[{"price":1}],"asks":[]}', "value", "bids"),
        ('{"type":"orderbook_update","code":"","bids":[],"asks":[]}', "value", "code"),
        ('{"type":"orderbook_update","bids":[],"code":"A","asks":[{"price":1,"quantity":{}}]}', "value", "a"),
        ('{"type":"market_status","market":"KOSPI"}', "value", "status: missing"),
    ],
)  # fmt: skip
def test_a_body_that_cannot_be_used_says_why(text: str, kind: str, reason: str) -> None:
    with pytest.raises(LineError, match=reason) as caught:
        decode(text)
    assert caught.value.kind == kind


def test_a_body_that_is_no_utf8() -> None:
    for message in (b'{"type":"price_update","code":"\xff","price":1}', b'{"type":"x","note":["\xff"]}'):
        with pytest.raises(LineError, match="utf-8") as caught:
            decode_body(message, Instrument)
        assert caught.value.kind == "JSON"


@given(st.binary(max_size=100))
def test_any_line_is_read_or_refused(line: bytes) -> None:
    read_anything(line)
    read_anything(b"{" + line + b"}")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
MEMBERS = (
    "code",
    "price",
    "change",
    "volume",
    "bids",
    "asks",
    "venue",
    "event_time",
    "market",
    "status",
    "x",
)


@given(
    st.sampled_from(["price_update", "orderbook_update", "market_status"]),
    st.dictionaries(st.sampled_from(MEMBERS), JSON),
)
def test_any_json_is_read_or_refused(kind: str, members: dict[str, object]) -> None:
    import json  # noqa: PLC0415

    read_anything(json.dumps({"type": kind, **members}).encode())


def read_anything(line: bytes) -> None:
    def read() -> None:
        _, message = split_line(line)
        decode_body(message, Instrument)

    try:
        read()
    except LineError as error:
        kinds = ("receive time", "JSON", "message type", "value")
        if error.kind not in kinds:
            raise


@given(
    st.integers(0, 10**13),
    st.decimals(-(10**9), 10**9, places=3),
    st.lists(st.tuples(st.integers(1, 10**9), st.integers(0, 2**63 - 1)), max_size=10),
    st.text(min_size=1, max_size=8),
)
def test_lines_come_back_as_they_went(
    received_ms: int, price: object, levels: list[tuple[int, int]], venue: str
) -> None:
    instrument = Instrument("005930")
    for update in (
        PriceUpdate(instrument, str(price), venue=venue, event_time_ms=received_ms, extra=b'"k":1.50'),
        BookUpdate(instrument, levels, levels[:3], venue=venue, quality="simulated"),
        MarketStatus("KOSPI", venue),
    ):
        line = encode_line(received_ms, update)
        assert line.count(b"\n") == 1
        assert b"timestamp" not in line
        at, message = split_line(line[:-1])
        again = decode_body(message, lambda code: instrument)
        assert at == received_ms
        assert again is not None
        assert encode_screener(again, 0) == encode_screener(update, 0)
