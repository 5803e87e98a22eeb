"""Frames however they are cut, latencies, slow readers, pings and the end: the load client while it runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)


from load_peer import (
    DEADLINE,
    Connected,
    Peer,
    batch,
    connecting,
    faults,
    frame,
    message,
    pings,
    read_frame,
    run_of,
    slow,
    utc,
)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with contextlib.closing(Peer()) as peer:
        yield peer


@pytest.fixture
def connected(peer: Peer) -> Iterator[Callable[..., Connected]]:
    yield from connecting(peer)


@pytest.fixture(params=["edges", "full"])
def check(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Frames.

PIECES = st.sampled_from(["bare", "batch", "large", "ping", "fragments", "binary", "error", "pong", "status"])


@st.composite
def transcripts(draw: st.DrawFn) -> tuple[bytes, list[int]]:
    """A server's frames, and where to cut them."""
    seq = 1
    out = b""
    for piece in draw(st.lists(PIECES, min_size=1, max_size=8)):
        seq += draw(st.sampled_from([0, 0, 0, 1]))
        size = {"bare": 1, "batch": 7, "large": 40, "fragments": 12}.get(piece, 0)
        text = run_of(seq, seq + size - 1) if size else b""
        seq += size
        if piece == "ping":
            out += frame(b"p" * draw(st.integers(0, 125)), opcode=9)
        elif piece == "binary":
            out += frame(os.urandom(300), opcode=2)
        elif piece == "error":
            out += frame(b'{"type":"error","code":"X"}')
        elif piece == "pong":
            out += frame(b'{"type":"pong","timestamp":"2025-11-11T00:00:00Z"}')
        elif piece == "status":
            out += frame(message(None, sequence=10 * seq, kind="market_status"))
        elif piece == "fragments":
            cut, other = sorted(draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2)))
            out += frame(text[:cut], final=False) + frame(b"between", opcode=9)
            out += frame(text[cut:other], opcode=0, final=False) + frame(text[other:], opcode=0)
        else:
            out += frame(text)
    step = draw(st.sampled_from([1, 2, 3, 7, 130, 1000, 1537, 5000]))
    if step < 100 and len(out) > 4000:
        step *= 50
    return out, list(range(0, len(out), step))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(transcripts())
def test_however_the_bytes_are_cut_the_figures_are_the_same(
    peer: Peer, check: str, transcript: tuple[bytes, list[int]]
) -> None:
    data, cuts = transcript
    figures = []
    for parts in ([data], [data[i:j] for i, j in zip(cuts, [*cuts[1:], len(data)], strict=True)]):
        made = Connected(peer, check=check)
        for part in parts:
            made.deliver(part)
        result: dict[str, Any] = dict(made.client.result())
        made.client.close(timeout=0)
        for varying in (
            "receives",
            "latency",
            "slowest_at",
            "client",
            "seconds",
            "silence_max_ms",
            "messages_per_second",
            "bytes_per_second",
        ):
            del result[varying]
        streams = made.client.streams(0)
        figures.append((result, streams))
    assert figures[0] == figures[1]
    assert figures[0][0]["unparsed"] == 0


def test_compressed_messages_are_counted_and_not_read(
    peer: Peer, connected: Callable[..., Connected]
) -> None:
    peer.extensions = b"permessage-deflate; server_no_context_takeover"
    made = connected(deflate=True)
    whole = b"\xc1\x03abc"
    in_parts = b"\x41\x02ab" + b"\x89\x00" + b"\x80\x01c"
    made.deliver(whole + frame(run_of(7, 7)) + in_parts + frame(run_of(8, 9)))
    result = made.client.result()
    assert faults(result) == {}
    assert (result["compressed_messages"], result["messages"]) == (2, 3)
    assert read_frame(made.ends[0]) == (10, b"")
    made.deliver(b"\xc9\x00")
    assert faults(made.client.result()) == {"protocol_violations": 1}


def test_what_a_planned_stop_tells_is_kept(connected: Callable[..., Connected]) -> None:
    made = connected(2)
    for i, delay in enumerate((700, 4200)):
        text = (
            b'{"type":"server_shutdown","reconnect_after_ms":%d,"timestamp":"2025-11-11T00:00:00.000Z"}'
            % delay
        )
        made.deliver(frame(text) + frame(struct.pack("!H", 1012), opcode=8), i)
    result = made.client.result()
    assert (result["shutdowns"], faults(result)) == (2, {})
    delays = result["return_delay"]
    assert delays is not None
    assert delays["count"] == 2
    assert delays["p50_ms"] == pytest.approx(700, rel=0.005)
    assert delays["max_ms"] == 4200
    made.client.reset()
    assert made.client.result()["return_delay"] is None
    for end in made.ends:
        end.close()
    assert made.until(lambda result: not result["open"])["closes"] == {1012: 2}


def test_the_slowest_message_has_a_time(connected: Callable[..., Connected]) -> None:
    made = connected()
    assert made.client.result()["slowest_at"] is None
    made.deliver_texts(run_of(1, 1, at=time.time() - 5))
    first = made.client.result()["slowest_at"]
    made.deliver_texts(run_of(2, 2, at=time.time() - 1))
    assert made.client.result()["slowest_at"] == first
    assert first == pytest.approx(time.monotonic(), abs=DEADLINE)


def test_pings_are_answered(connected: Callable[..., Connected]) -> None:
    made = connected()
    made.deliver(frame(b"are you there", opcode=9) + frame(b"", opcode=9))
    assert read_frame(made.ends[0]) == (10, b"are you there")
    assert read_frame(made.ends[0]) == (10, b"")


def test_a_close_is_echoed_and_its_code_counted(connected: Callable[..., Connected]) -> None:
    made = connected(4)
    made.deliver(frame(struct.pack("!H", 4408) + b"slow consumer", opcode=8), 0)
    made.deliver(frame(struct.pack("!H", 4408), opcode=8), 1)
    made.deliver(frame(b"", opcode=8), 2)
    assert read_frame(made.ends[0]) == (8, struct.pack("!H", 4408))
    assert read_frame(made.ends[2]) == (8, b"")
    for end in made.ends[:3]:
        end.close()
    result = made.until(lambda result: result["open"] == 1)
    assert result["closes"] == {4408: 2, 1005: 1}
    made.ends[3].close()
    assert made.until(lambda result: result["open"] == 0)["closes"] == {4408: 2, 1005: 1, 1006: 1}
    # Nothing can come any more: run() does not wait for its end.
    started = time.monotonic()
    made.client.run(30)
    assert time.monotonic() - started < 5


def test_all_that_came_before_the_end_is_read(connected: Callable[..., Connected]) -> None:
    """Many full receive buffers, the close frame, the end: an edge-triggered reader must not stop halfway."""
    made = connected()
    size, n_frames = 200, 40
    data = b"".join(frame(run_of(1 + size * i, size * (i + 1))) for i in range(n_frames))
    assert len(data) > 5 * 256 * 1024

    def send() -> None:
        made.ends[0].sendall(data + frame(struct.pack("!H", 1001), opcode=8))
        made.ends[0].shutdown(socket.SHUT_WR)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(send)
        result = made.until(lambda result: result["open"] == 0)
        done.result(DEADLINE)
    assert result["messages"] == size * n_frames
    assert result["closes"] == {1001: 1}
    assert faults(result) == {}


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x80\x00\x00\x00\x00",  # masked
        b"\xc1\x00",  # a reserved bit
        b"\x83\x00",  # an unknown opcode
        b"\x8b\x00",
        b"\x09\x00",  # a control frame in parts
        b"\x89\x7e\x00\x7e",  # a long control frame
        b"\x80\x00",  # a continuation of nothing
        b"\x01\x00\x81\x00",  # a message inside a message
        b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
)
def test_violations_of_the_protocol_end_the_connection(
    connected: Callable[..., Connected], data: bytes
) -> None:
    made = connected()
    made.deliver(data)
    result = made.client.result()
    assert result["protocol_violations"] == 1
    assert result["closes"] == {}  # it was this side that closed it
    assert read_frame(made.ends[0]) == (8, struct.pack("!H", 1002))
    assert made.client.n_open == 0


def test_close_says_1000_and_waits_for_the_end(connected: Callable[..., Connected]) -> None:
    made = connected(2)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(made.client.close, timeout=DEADLINE)
        for end in made.ends:
            assert read_frame(end) == (8, struct.pack("!H", 1000))
            end.sendall(frame(struct.pack("!H", 1000), opcode=8))
            end.close()
        done.result(DEADLINE)
    assert made.client.n_open == 0
    assert made.client.result()["closes"] == {}
    made.client.close()


def test_no_descriptor_is_left(peer: Peer) -> None:
    before = len(os.listdir("/proc/self/fd"))
    made = Connected(peer, 5)
    made.client.close(timeout=0)
    dropped = Connected(peer, 5)
    del dropped.client
    for end in peer.sockets:
        end.close()
    assert len(os.listdir("/proc/self/fd")) == before


# Latency.


def test_latencies_of_a_batch_are_spread_between_its_edges(connected: Callable[..., Connected]) -> None:
    made = connected()
    now = time.time()
    n = 1000
    texts = [message(1, at=now - 10), *(message(seq, at=now) for seq in range(2, n)), message(n, at=now - 5)]
    result = made.deliver_texts(batch(texts, sequence=10 * n))
    late = time.time() - now
    latency: dict[str, Any] = dict(result["latency"])
    assert latency["count"] == n
    for name, expected in (("p50_ms", 7500), ("p90_ms", 9500), ("p99_ms", 9950), ("mean_ms", 7500)):
        assert expected * 0.99 <= latency[name] <= (expected + 1000 * late + 1) * 1.01, name
    assert 10_000 <= latency["max_ms"] <= 10_001 + 1000 * late
    buckets = made.client.latencies()
    assert sum(count for _, count in buckets) == pytest.approx(n, abs=0.01)
    assert [upper for upper, _ in buckets] == sorted(upper for upper, _ in buckets)
    assert buckets[0][0] >= 5000 * 0.99


@pytest.mark.parametrize("age", [0.01, 0.04, 0.06, 0.3, 7.0, 59.0])
def test_latency_resolution(connected: Callable[..., Connected], check: str, age: float) -> None:
    made = connected(check=check)
    sent = time.time() - age
    result = made.deliver_texts(message(1, at=sent))
    elapsed = (time.time() - sent) * 1000
    p50 = result["latency"]["p50_ms"]
    assert p50 is not None
    assert age * 1000 - 0.1 <= p50 <= (elapsed + 1.1) * 1.004
    assert result["latency"]["max_ms"] == p50


def test_latencies_over_the_range_end_in_the_last_bucket(connected: Callable[..., Connected]) -> None:
    made = connected()
    made.deliver_texts(message(1, at=time.time() - 3600), message(2, at=time.time() + 3600))
    buckets = made.client.latencies()
    assert [count for _, count in buckets] == [1.0, 1.0]
    assert buckets[0][0] == 0.1
    assert 59_000 < buckets[1][0] < 61_000
    assert (made.client.result()["latency"]["max_ms"] or 0) >= 3_600_000


def test_the_calendar(connected: Callable[..., Connected]) -> None:
    """Dates around leap days: a latency that is off by a day is seen."""
    for text in ("2024-02-29T23:59:59.999Z", "2000-03-01T00:00:00Z", "2023-12-31T12:00:00.500Z"):
        made = connected()
        age = time.time() - datetime.fromisoformat(text).timestamp()
        stamped = message(1, at=0).replace(b"1970-01-01T00:00:00.000Z", text.encode())
        result = made.deliver_texts(stamped)
        assert result["latency"]["max_ms"] == pytest.approx(1000 * age, abs=2000)


# Slow readers, pings, signals.


def test_slow_connections_do_not_read_and_are_counted_apart(connected: Callable[..., Connected]) -> None:
    made = connected(3, n_slow=2, slow_receive_buffer=4096)
    data = frame(run_of(1, 400))
    for end in made.ends[:2]:
        end.setblocking(False)
    blocked = [False, False]
    for round_ in range(400):
        for i, end in enumerate(made.ends[:2]):
            if not blocked[i]:
                with contextlib.suppress(BlockingIOError):
                    blocked[i] = end.send(data) < len(data)
        if all(blocked):
            break
        made.deliver(frame(run_of(1 + 400 * round_, 400 * (round_ + 1))), index=2)
    assert all(blocked), "the kernel took all: something reads"
    result = made.client.result()
    group = slow(result)
    assert (group["connections"], group["open"], group["messages"]) == (2, 2, 0)
    assert result["connections"] == 1
    assert result["messages"] > 0
    assert faults(result) == {}


def test_the_code_that_a_slow_connection_is_closed_with_is_read(connected: Callable[..., Connected]) -> None:
    made = connected(2, n_slow=1)
    made.ends[0].sendall(frame(run_of(1, 50)) + frame(struct.pack("!H", 4408), opcode=8))
    made.client.run(0)
    assert made.client.n_open == 2
    made.ends[0].close()
    result = made.until(lambda result: slow(result)["open"] == 0)
    assert slow(result)["closes"] == {4408: 1}
    assert slow(result)["messages"] == 50
    assert result["messages"] == 0


def test_pings_run_beside_the_load(connected: Callable[..., Connected]) -> None:
    made = connected(3, n_ping=1, ping_interval_ms=1)
    stop = threading.Event()

    def answer() -> int:
        n = 0
        made.ends[2].settimeout(0.2)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                assert read_frame(made.ends[2]) == (1, b'{"type":"ping"}')
                made.ends[2].sendall(frame(b'{"type":"pong","timestamp":"%s"}' % utc().encode()))
                n += 1
        return n

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(answer)
        made.client.run(0.3)
        stop.set()
        answered = done.result(DEADLINE)
    made.until(lambda result: pings(result)["answered"] == answered)
    ping = pings(made.client.result())
    assert ping["answered"] > 5
    assert ping["sent"] - ping["answered"] == ping["open"]
    assert ping["open"] in (0, 1)
    assert 0 < (ping["p50_ms"] or 0) < 300


def test_a_missing_pong_is_not_pinged_over(connected: Callable[..., Connected]) -> None:
    made = connected(1, n_ping=1, ping_interval_ms=1)
    made.client.run(0.05)
    ping = pings(made.client.result())
    assert (ping["sent"], ping["count"]) == (1, 0)
    assert ping["skipped"] > 2
    assert ping["open"] == 1
    assert ping["longest_open_ms"] >= 49
    made.deliver(frame(b'{"type":"pong"}'))
    ping = pings(made.client.result())
    assert ping["answered"] == 1
    assert (ping["max_ms"] or 0) >= 49
    # Those that were due meanwhile have waited too, each a millisecond less.
    assert ping["count"] > 40
    assert 10 <= (ping["p50_ms"] or 0) <= (ping["max_ms"] or 0) - 10
    made.ends[0].close()
    made.until(lambda result: result["open"] == 0)


def test_pings_are_timed_from_when_they_were_due(connected: Callable[..., Connected]) -> None:
    made = connected(1, n_ping=1, ping_interval_ms=50)
    made.client.run(0)
    read_frame(made.ends[0])
    made.deliver(frame(b'{"type":"pong"}'))
    before = pings(made.client.result())
    time.sleep(0.25)  # nobody runs the client, as when it is stopped
    made.client.run(0)
    read_frame(made.ends[0])
    made.deliver(frame(b'{"type":"pong"}'))
    ping = pings(made.client.result())
    assert ping["answered"] == before["answered"] + 1
    assert ping["count"] >= before["count"] + 4
    assert (ping["max_ms"] or 0) >= 150


def test_a_stall_of_the_client_is_its_own(connected: Callable[..., Connected]) -> None:
    made = connected()
    made.client.run(0.05)
    made.deliver(frame(run_of(1, 1)))
    time.sleep(0.3)  # nobody runs the client, as when it is stopped
    made.deliver(frame(run_of(2, 2)))
    result = made.client.result()
    assert 300 <= result["client"]["stall_max_ms"] < 2000
    assert result["silence_max_ms"] < 250
    made.client.run(0.3)
    assert 250 <= made.client.result()["silence_max_ms"] < 2000
    made.client.reset()
    made.client.run(0.01)
    assert made.client.result()["client"]["stall_max_ms"] < 300


def test_a_close_frame_counts_at_once(connected: Callable[..., Connected]) -> None:
    made = connected(2)
    for i in range(2):
        made.deliver(frame(struct.pack("!H", 1012), opcode=8), i)
    # The sockets are still open on the other side.
    assert (made.client.n_open, made.client.result()["open"]) == (0, 0)
    started = time.monotonic()
    made.client.run(30)
    assert time.monotonic() - started < 5
    made.client.close(timeout=0)
    assert made.client.n_open == 0


def test_unfinished_messages_are_told(connected: Callable[..., Connected]) -> None:
    made = connected()
    made.deliver(frame(run_of(1, 9))[:-5])
    assert (made.client.result()["begun"], faults(made.client.result())) == (1, {})
    made.ends[0].close()
    result = made.until(lambda result: not result["open"])
    assert (result["begun"], faults(result)) == (0, {"unfinished": 1})


def test_latencies_that_cannot_be(connected: Callable[..., Connected], check: str) -> None:
    now = time.time()
    texts = [message(i + 1, at=now + late) for i, late in enumerate((5, 5, 0, -70, -70))]
    result = connected(check=check).deliver_texts(*texts)
    assert (result["early"], result["overlong"]) == (2, 2)
    assert 4000 < result["earliest_ms"] <= 5000
    assert (result["latency"]["max_ms"] or 0) >= 70_000
    # Spread evenly between the two, half of them before their time.
    spread = connected().deliver_texts(
        batch([message(1, at=time.time() + 5), message(2, at=time.time() - 5)])
    )
    assert (spread["early"], spread["overlong"]) == (1, 0)


def test_stop_from_another_thread(connected: Callable[..., Connected]) -> None:
    client = connected().client
    timer = threading.Timer(0.05, client.stop)
    timer.start()
    started = time.monotonic()
    client.run(30)
    timer.join()
    assert time.monotonic() - started < 5


def test_a_signal_interrupts_run(connected: Callable[..., Connected]) -> None:
    client = connected().client

    def on_alarm(number: int, stack: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGALRM, on_alarm)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            client.run(30)
        assert time.monotonic() - started < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_run_releases_the_gil_and_reports_its_cost(connected: Callable[..., Connected]) -> None:
    client = connected().client
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(client.run, 0.2)
        turns = 0
        while not done.done():
            turns += 1
        done.result()
    assert turns > 1000
    result = client.result()
    assert 0.2 <= result["seconds"] < 5
    assert 0 <= result["client"]["cpu_share"] < 0.9
    assert 0 <= result["client"]["busy_share"] < 0.9
