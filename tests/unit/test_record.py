"""The recorder: what goes in comes back by replay, also after a kill, a full disk or a second recording."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate, encode_screener
from fastws.errors import SettingsError
from fastws.feeds.base import Feed, FeedSupervisor, MarketSink
from fastws.feeds.lines import HEADER
from fastws.feeds.record import BUFFER_SIZE, FLUSH_INTERVAL_S, Recorder, record
from fastws.feeds.replay import ReplayFeed
from fastws.feeds.simulator import SimulatorFeed

INSTRUMENTS = (
    Instrument("005930", "Samsung Electronics", "KOSPI", "Technology", 72000, "KRW"),
    Instrument("AAPL", "Apple", "NASDAQ", "Technology", "150.25", "USD"),
)


class Witness(Recorder):
    """A recorder that also keeps the screener message of everything."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, INSTRUMENTS)
        self.bodies: list[bytes] = []

    def publish_price(self, update: PriceUpdate, /) -> int:
        self.bodies.append(encode_screener(update, 0))
        return super().publish_price(update)

    def publish_book(self, update: BookUpdate, /) -> int:
        self.bodies.append(encode_screener(update, 0))
        return super().publish_book(update)

    def set_status(self, market: str, status: str, /) -> int:
        self.bodies.append(encode_screener(MarketStatus(market, status), 0))
        return super().set_status(market, status)


class ScriptedFeed(Feed):
    """A feed that does what it is told."""

    name = "scripted"

    def __init__(self, script: Callable[[MarketSink], Awaitable[None]]) -> None:
        self._script = script

    async def run(self, market: MarketSink) -> None:
        await self._script(market)


class Clock:
    def __init__(self, now: float = 1_762_819_200.5) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def price(n: int) -> PriceUpdate:
    return PriceUpdate(INSTRUMENTS[0], 70000 + n, venue="KRX")


async def replayed(path: Path, tmp_path: Path) -> tuple[list[bytes], ReplayFeed]:
    feed = ReplayFeed(path, speed="max")
    with Witness(tmp_path / "witness.txt") as witness, capture_logs():
        await feed.run(witness)
    return witness.bodies, feed


async def test_what_is_recorded_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "session.txt"

    async def sleep_until_enough(seconds: float) -> None:
        if witness.n_updates > 3000:
            raise asyncio.CancelledError
        await asyncio.sleep(0)

    simulator = SimulatorFeed(INSTRUMENTS, rate=50_000, seed=7, sleep=sleep_until_enough)
    with Witness(path) as witness, pytest.raises(asyncio.CancelledError):
        await simulator.run(witness)
    bodies, feed = await replayed(path, tmp_path)
    assert len(bodies) > 3000
    assert bodies == witness.bodies
    assert (feed.n_lines, feed.n_bad) == (len(bodies), 0)
    assert {body[:20] for body in bodies} == {
        b'{"type":"market_stat', b'{"type":"price_updat', b'{"type":"orderbook_u'
    }  # fmt: skip


async def test_a_recorded_replay_comes_back(tmp_path: Path) -> None:
    with as_file(files("fastws.data") / "kis_frames.txt") as example:
        expected, _ = await replayed(example, tmp_path)
        recorder = Recorder(tmp_path / "again.txt", INSTRUMENTS)
        await record(ReplayFeed(example, speed="max"), recorder)
    bodies, feed = await replayed(tmp_path / "again.txt", tmp_path)
    assert bodies == expected
    assert (recorder.n_updates, feed.n_bad) == (14, 0)


async def test_the_file_is_what_the_format_says(tmp_path: Path) -> None:
    path = tmp_path / "session.txt"
    clock = Clock()

    async def deliver(market: MarketSink) -> None:
        market.set_status("KOSPI", "open")
        clock.now += 0.25
        instrument = market.ensure_instrument("005930")
        assert instrument is INSTRUMENTS[0]
        market.publish_price(
            PriceUpdate(instrument, 73000, change_percent="1.90", venue="KRX", extra=b'"k":[1]')
        )
        clock.now += 60
        market.publish_book(
            BookUpdate(market.ensure_instrument("0074K0"), [(1.25, 7)], [], event_time_ms=1_762_819_200_000)
        )

    recorder = Recorder(path, INSTRUMENTS, wall_clock=clock)
    await record(ScriptedFeed(deliver), recorder)
    assert recorder.n_updates == 3
    assert path.read_bytes() == HEADER + (
        b'@1762819200500 {"type":"market_status","market":"KOSPI","status":"open"}\n'
        b'@1762819200750 {"type":"price_update","code":"005930","name":"Samsung Electronics","price":73000,'
        b'"change_percent":1.90,"venue":"KRX","k":[1]}\n'
        b'@1762819260750 {"type":"orderbook_update","code":"0074K0","bids":[{"price":1.25,"quantity":7}],'
        b'"asks":[],"event_time":"2025-11-11T00:00:00.000Z"}\n'
    )


async def test_receive_times_never_decrease(tmp_path: Path) -> None:
    clock = Clock(100.0)
    with Recorder(tmp_path / "session.txt", wall_clock=clock) as recorder:
        for now in (100.0, 99.0, 50.0, 100.001):
            clock.now = now
            recorder.publish_price(price(1))
    lines = recorder.path.read_bytes().splitlines()[1:]
    assert [line.split()[0] for line in lines] == [b"@100000", b"@100000", b"@100000", b"@100001"]


async def test_a_second_recording_goes_on_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "session.txt"
    for n in (1, 2):
        with Recorder(path) as recorder:
            recorder.publish_price(price(n))
    assert path.read_bytes().count(HEADER) == 1
    bodies, feed = await replayed(path, tmp_path)
    assert (len(bodies), feed.n_bad) == (2, 0)


async def test_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "session.txt"
    with Recorder(path) as recorder:
        recorder.publish_price(price(1))
        recorder.publish_price(price(2))
    os.truncate(path, path.stat().st_size - 30)
    with Recorder(path) as recorder:
        recorder.publish_price(price(3))
    bodies, feed = await replayed(path, tmp_path)
    assert [body.split(b'"price":')[1][:5] for body in bodies] == [b"70001", b"70003"]
    assert feed.bad_kinds == {"JSON": 1}


async def test_a_killed_recorder_leaves_a_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "session.txt"
    script = (
        "import asyncio, sys\n"
        "from fastws._market import Instrument\n"
        "from fastws.feeds.record import Recorder, record\n"
        "from fastws.feeds.simulator import SimulatorFeed\n"
        "feed = SimulatorFeed([Instrument('005930'), Instrument('AAPL')], rate=5000, seed=1)\n"
        "asyncio.run(record(feed, Recorder(sys.argv[1])))\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(path))
    try:
        deadline = time.monotonic() + 30
        while not (path.exists() and path.stat().st_size > 100_000):
            assert time.monotonic() < deadline, "the recorder wrote nothing"
            assert process.returncode is None
            await asyncio.sleep(0.01)
    finally:
        process.kill()
        await process.wait()
    assert path.read_bytes().endswith(b"}\n")
    bodies, feed = await replayed(path, tmp_path)
    assert len(bodies) > 500
    assert feed.n_bad == 0


async def test_a_quiet_feed_is_flushed_too(tmp_path: Path) -> None:
    path = tmp_path / "session.txt"

    async def deliver(market: MarketSink) -> None:
        for n in range(3):
            market.publish_price(price(n))
        await asyncio.Event().wait()

    task = asyncio.create_task(record(ScriptedFeed(deliver), Recorder(path)))
    deadline = time.monotonic() + 10
    while not path.exists() or path.read_bytes().count(b"price_update") < 3:
        assert time.monotonic() < deadline, "nothing was flushed"
        await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert FLUSH_INTERVAL_S <= 1.0


def test_a_feed_that_holds_the_loop_is_flushed_by_time(tmp_path: Path) -> None:
    clock = Clock()
    with Recorder(tmp_path / "session.txt", wall_clock=clock) as recorder:
        recorder.publish_price(price(0))
        for n in range(1, 100):
            clock.now += 0.01
            recorder.publish_price(price(n))
        assert recorder.path.read_bytes().count(b"price_update") > 50


def test_memory_is_bounded(tmp_path: Path) -> None:
    clock = Clock()
    with Recorder(tmp_path / "session.txt", wall_clock=clock) as recorder:
        n_written = 0
        for n in range(10_000):
            recorder.publish_price(price(n))
            n_written += len(b'@1762819200500 {"type":"price_update","code":"005930",')
            assert n_written - recorder.path.stat().st_size <= BUFFER_SIZE


async def test_a_duration_ends_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "session.txt"
    is_closed = False

    async def deliver(market: MarketSink) -> None:
        nonlocal is_closed
        try:
            for n in range(1_000_000):
                market.publish_price(price(n))
                await asyncio.sleep(0)
        finally:
            is_closed = True

    recorder = Recorder(path)
    await record(ScriptedFeed(deliver), recorder, duration=0.05)
    assert is_closed
    assert 0 < recorder.n_updates < 1_000_000
    bodies, _ = await replayed(path, tmp_path)
    assert len(bodies) == recorder.n_updates


async def test_what_was_delivered_before_a_failure_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "session.txt"

    async def fail(market: MarketSink) -> None:
        for n in range(5):
            market.publish_price(price(n))
        raise ConnectionError("the source is gone")

    with pytest.raises(ConnectionError, match="the source is gone"):
        await record(ScriptedFeed(fail), Recorder(path))
    assert path.read_bytes().count(b"price_update") == 5


async def test_a_feed_that_fails_when_it_is_stopped_is_told(tmp_path: Path) -> None:
    async def fail(market: MarketSink) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ConnectionError("no goodbye")

    with pytest.raises(ConnectionError, match="no goodbye"):
        await record(ScriptedFeed(fail), Recorder(tmp_path / "session.txt"), duration=0.0)


async def test_a_cancelled_recording_is_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "session.txt"
    has_delivered = asyncio.Event()

    async def deliver(market: MarketSink) -> None:
        for n in range(5):
            market.publish_price(price(n))
        has_delivered.set()
        await asyncio.Event().wait()

    recorder = Recorder(path)
    task = asyncio.create_task(record(ScriptedFeed(deliver), recorder))
    await has_delivered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert path.read_bytes().count(b"price_update") == recorder.n_updates == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_disk_stops_the_recording_and_says_where() -> None:
    async def deliver(market: MarketSink) -> None:
        await asyncio.sleep(0)
        market.publish_price(price(1))

    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        await record(ScriptedFeed(deliver), Recorder("/dev/full"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("absent/session.txt", "No such file or directory; name a file in an existing"),
        (".", "Is a directory"),
        ("session.txt.gz", "is plain text"),
    ],
)
def test_a_file_that_cannot_be_written_names_its_flag(tmp_path: Path, name: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text) as caught:
        Recorder(tmp_path / name)
    assert (caught.value.setting, caught.value.source) == ("output", "--output")
    assert str(caught.value).startswith("output: ")


def test_a_closed_recorder_takes_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "session.txt")
    recorder.close()
    recorder.close()
    with pytest.raises(ValueError, match="closed"):
        recorder.publish_price(price(1))
    assert recorder.path.read_bytes() == HEADER


def test_instruments_are_those_of_the_table_and_new_ones(tmp_path: Path) -> None:
    with Recorder(tmp_path / "session.txt", INSTRUMENTS) as recorder:
        assert recorder.instruments == INSTRUMENTS
        assert recorder.instrument("AAPL") is INSTRUMENTS[1]
        assert recorder.instrument("0074K0") is None
        new = recorder.ensure_instrument("0074K0")
        assert new.name == "0074K0"
        assert recorder.ensure_instrument("0074K0") is recorder.instrument("0074K0") is new


async def test_a_supervised_feed_leaves_its_states_as_comments(tmp_path: Path) -> None:
    async def deliver(market: MarketSink) -> None:
        market.publish_price(price(1))

    with Recorder(tmp_path / "session.txt", wall_clock=Clock()) as recorder:
        await FeedSupervisor(ScriptedFeed(deliver), recorder).run()
        assert recorder.set_feed_status("scripted", "stopped") == 0
    lines = recorder.path.read_bytes().splitlines()
    assert [line for line in lines[1:] if line.startswith(b"#")] == [
        b"# @1762819200500 feed scripted is reconnecting",
        b"# @1762819200500 feed scripted is live",
        b"# @1762819200500 feed scripted is stopped",
    ]
    bodies, feed = await replayed(recorder.path, tmp_path)
    assert (len(bodies), feed.n_bad) == (1, 0)
