"""What the core counts and times for those who run a server."""

from __future__ import annotations

import asyncio
import time

import pytest
from core_harness import MASK, Bench, bench, sends_past_transports
from listening import scenario, until

from fastws import deflate
from fastws._core import HISTOGRAM_BOUNDS
from fastws._frames import OP_TEXT, build_frame


def between(made: Bench, name: str) -> list[tuple[float, float]]:
    """The bounds of the buckets in which a histogram has counted, once for each count."""
    counts, _ = made.hub.meters.histograms()[name]
    bounds = (0.0, *HISTOGRAM_BOUNDS, float("inf"))
    return [(bounds[i], bounds[i + 1]) for i, n in enumerate(counts) for _ in range(n)]


async def flushed(made: Bench) -> None:
    await until(lambda: made.hub.flusher.is_idle)


def test_bounds_rise_six_a_decade() -> None:
    assert len(HISTOGRAM_BOUNDS) == 37
    assert HISTOGRAM_BOUNDS[:8] == (1e-5, 1.5e-5, 2e-5, 3e-5, 5e-5, 7e-5, 1e-4, 1.5e-4)
    assert HISTOGRAM_BOUNDS[-1] == 10.0
    assert list(HISTOGRAM_BOUNDS) == sorted(HISTOGRAM_BOUNDS)


@scenario
async def test_every_duration_counts_under_the_first_bound_that_it_is_not_over() -> None:
    async with bench() as made:
        hub = made.hub
        ages = [0, 1, 9_000, 20_000_000_000]
        ages += [int(bound * 1e9) + step for bound in HISTOGRAM_BOUNDS for step in (-9_000, 0, 100)]
        publishing_ns = 0
        for age_ns in ages:
            counts = hub.meters.histograms()["feed"][0]
            before = time.monotonic_ns()
            hub.set_received(before - age_ns)
            made.publish("A", 1)
            after = time.monotonic_ns()
            publishing_ns += after - before
            hub.set_received(0)
            now = hub.meters.histograms()["feed"][0]
            (bucket,) = [i for i, (old, new) in enumerate(zip(counts, now, strict=True)) if new != old]
            assert now[bucket] == counts[bucket] + 1
            bounds = (-1.0, *HISTOGRAM_BOUNDS, float("inf"))
            assert bounds[bucket] < (after - before + age_ns) / 1e9
            assert bounds[bucket + 1] >= age_ns / 1e9
        total = hub.meters.histograms()["feed"][1]
        assert sum(ages) / 1e9 - 1e-3 <= total <= (sum(ages) + publishing_ns) / 1e9 + 1e-3


@scenario
async def test_stages_of_one_update() -> None:
    interval = 0.5
    async with bench(interval_ms=int(interval * 1000)) as made:
        hub = made.hub
        client = await made.connect()
        made.subscribe(client, "A")
        led = time.monotonic()
        made.publish("A", 1)
        await client.next()
        await flushed(made)
        leading_took = time.monotonic() - led
        # The first one leads and waits for nothing; what follows waits for the interval.
        assert sum(hub.meters.histograms()["feed"][0]) == 0
        ((low, _),) = between(made, "wait")
        # Of a machine that stood still meanwhile nothing can be told.
        assert low < max(interval, leading_took)
        started = time.monotonic()
        hub.set_received(time.monotonic_ns() - 500_000_000)
        made.publish("A", 2)
        published = time.monotonic()
        hub.set_received(0)
        await client.next()
        took = time.monotonic() - started
        await until(lambda: sum(hub.meters.histograms()["total"][0]) == 2)
        figures = {name: (sum(counts), total) for name, (counts, total) in hub.meters.histograms().items()}
        assert {name: figures[name][0] for name in ("feed", "wait", "send", "total", "flush_delay")} == {
            "feed": 1,
            "wait": 2,
            "send": 2,
            "total": 2,
            "flush_delay": 2,
        }
        assert 0.5 <= figures["feed"][1] < 0.5 + took
        assert max(between(made, "total"))[1] >= 0.5
        assert figures["total"][1] == pytest.approx(
            figures["feed"][1] + figures["wait"][1] + figures["send"][1], abs=1e-6
        )
        # The rest of the interval, which ended no sooner than it would have from the first one on. Due times are in ms.
        assert figures["wait"][1] > led + interval - published - 0.002
        assert figures["flush_delay"][1] <= figures["wait"][1]


@scenario
async def test_a_pace_that_was_asked_for_is_no_delay() -> None:
    async with bench(interval_ms=10) as made:
        client = await made.connect()
        made.subscribe(client, "A", max_rate=10)
        for value in range(2):
            made.publish("A", value)
            await client.next()
        await until(lambda: sum(made.hub.meters.histograms()["send"][0]) == 2)
        assert between(made, "wait") == between(made, "total") == []
        assert len(between(made, "flush_delay")) == 2


@scenario
async def test_loop_lag_sees_what_holds_the_loop_up() -> None:
    async with bench() as made:
        await until(lambda: len(between(made, "loop_lag")) > 2)
        time.sleep(0.25)  # noqa: ASYNC251  # this is what is to be seen
        n = len(between(made, "loop_lag"))
        await until(lambda: len(between(made, "loop_lag")) > n)
        assert between(made, "loop_lag")[-1][1] >= 0.15


@pytest.mark.plain("it counts sends past the transport, which encrypts")
@sends_past_transports
@scenario
async def test_a_cohort_s_frame_is_compressed_once() -> None:
    calls: list[int] = []

    def compress(payload: bytes, window_bits: int) -> bytes:
        calls.append(len(payload))
        return deflate.compress(payload, window_bits)

    async with bench(interval_ms=5, window_bits=15, compress=compress) as made:
        meters, flusher = made.hub.meters, made.hub.flusher
        clients = [await made.connect() for _ in range(1000)]
        for client in clients:
            made.subscribe(client, "A")
        # Not before everything that was due to them alone.
        await flushed(made)
        calls.clear()
        n_flushes, n_compressed, n_sends = flusher.n_flushes, meters.n_compressed, flusher.n_sends
        n_in, n_out = meters.n_bytes_to_compress, meters.n_bytes_compressed
        for _ in range(5):
            for value in range(100):
                made.publish("A", value)
            await flushed(made)
            await asyncio.sleep(0.01)
        assert len(made.hub.cohorts) == 1
        n_frames = flusher.n_flushes - n_flushes
        assert 1 <= n_frames <= 5
        assert len(calls) == meters.n_compressed - n_compressed == n_frames
        assert flusher.n_sends - n_sends == 1000 * n_frames
        assert meters.n_bytes_to_compress - n_in == sum(calls)
        assert 0 < meters.n_bytes_compressed - n_out < sum(calls) / 5


@pytest.mark.plain("it counts the bytes on the wire")
@scenario
async def test_bytes_and_limits_are_counted() -> None:
    async with bench(interval_ms=1, rate_limit=1) as made:
        meters = made.hub.meters
        client = await made.connect()
        assert meters.opened == {"test": 1}
        assert made.hub.n_by_dialect() == {"test": 1}
        made.subscribe(client, "A")
        n_received = 0
        for _ in range(3):
            frame = build_frame(OP_TEXT, b'{"n":1}', mask=MASK)
            client.send_raw(frame)
            n_received += len(frame)
        made.publish("A", 1)
        data = b""
        await until(lambda: meters.n_bytes_received == n_received and made.hub.flusher.is_idle)
        while len(data) < meters.n_bytes_sent:
            data += await client.reader.read(65536)
        assert len(data) == meters.n_bytes_sent
        assert meters.n_rate_limited == 2
        assert made.hub.update_counts() == {"price": 1}
        assert meters.n_blocks == meters.n_overflows == 0


@scenario
async def test_blocks_overflows_and_the_largest_outbox() -> None:
    async with bench(interval_ms=1, send_buffer=4096, outbox_soft_size=8192) as made:
        client = await made.connect(receive_buffer=4096)
        other = await made.connect(receive_buffer=4096)
        made.subscribe(client, "A")
        made.subscribe(other, "A", "B")
        for value in range(3000):
            made.publish("A", value)
            if value % 100 == 0:
                await asyncio.sleep(0.002)
        await flushed(made)
        outboxes = made.hub.outboxes()
        assert outboxes["blocked"] == 2
        assert outboxes["max_bytes"] < outboxes["bytes"] <= 2 * outboxes["max_bytes"]
        assert outboxes["max_messages"] < outboxes["messages"]
        assert outboxes["bytes"] == made.hub.queued_bytes()
        assert outboxes["messages"] == made.hub.queued_messages()
        await client.drain()
        await other.drain()
        await until(lambda: made.hub.outboxes()["blocked"] == 0)
        assert made.hub.meters.n_overflows >= 2
        assert made.hub.meters.n_blocks >= 2
        assert made.check_ledger()["lost"] > 0


@scenario
async def test_an_update_knows_when_it_was_where() -> None:
    """Also one that leaves at a pace which its subscriber has asked for."""
    async with bench(interval_ms=1) as made:
        client = await made.connect()
        made.subscribe(client, "A")
        made.subscribe(await made.connect(), "B", max_rate=1000)
        assert made.channel("A").last_times_ns is None
        for name in ("A", "B"):
            before = time.monotonic_ns()
            made.hub.set_received(before)
            made.publish(name, 1)
            made.hub.set_received(0)
            times = made.channel(name).last_times_ns
            assert times is not None
            assert times[0] == before <= times[1]
            assert times[2:] == (0, 0)
            await flushed(made)
            times = made.channel(name).last_times_ns
            assert times is not None
            assert list(times) == sorted(times)
            assert times[3] <= time.monotonic_ns()
            assert times[2] > before
