"""What the replay feed makes of files: settings, formats, bad lines."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from replaying import TRADE, FakeTime, Sink, feed_of
from structlog.testing import capture_logs

from fastws._market import BookUpdate, PriceUpdate, encode_screener
from fastws.errors import SettingsError
from fastws.feeds.base import FeedOverError, FeedSupervisor
from fastws.feeds.replay import MAX_LINE_SIZE, ReplayFeed


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
