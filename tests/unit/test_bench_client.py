"""The load client against servers whose every byte the test writes, faults included, and a real one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.asyncio.server import ServerConnection, serve

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from fastws.bench import Group, LoadClient, LoadError, LoadResult, Pings

SUBSCRIBE = b'{"type":"subscribe","subscription_type":"stock","targets":["005930"],"channels":["price"]}'
SUBSCRIBED = (
    b'{"type":"subscribed","subscription_type":"stock","targets":["005930"],"timestamp":"2025-11-11"}'
)
DEADLINE = 10.0
FAULTS = (
    "lost",
    "undeclared_lost",
    "duplicates",
    "reordered",
    "conflated",
    "sequence_backwards",
    "errors",
    "unparsed",
    "untimed",
    "protocol_violations",
)


def faults(result: LoadResult) -> dict[str, int]:
    """The checks that found something."""
    found: dict[str, Any] = dict(result)
    return {name: found[name] for name in FAULTS if found[name]}


def slow(result: LoadResult) -> Group:
    assert result["slow"] is not None
    return result["slow"]


def pings(result: LoadResult) -> Pings:
    assert result["ping"] is not None
    return result["ping"]


def utc(seconds: float | None = None) -> str:
    moment = datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def message(
    seq: int | None,
    *,
    sequence: int | None = None,
    code: str = "005930",
    kind: str = "price_update",
    price: str = "73000",
    at: float | None = None,
) -> bytes:
    """A published message as the server writes it; `sequence` is ten times `seq` unless given."""
    text = f'{{"type":"{kind}","code":"{code}","name":"Samsung \\"Electronics\\", 삼성전자","price":{price},'
    text += f'"change_percent":1.39,"timestamp":"{utc(at)}","sequence":{sequence or 10 * (seq or 0)}'
    if seq is not None:
        text += f',"seq":{seq}'
    return (text + "}").encode()


def book(seq: int, *, code: str = "005930", sequence: int) -> bytes:
    levels = ",".join(f'{{"price":{72900 - 100 * i},"quantity":{1000 + seq + i}}}' for i in range(10))
    text = f'{{"type":"orderbook_update","code":"{code}","bids":[{levels}],"asks":[{levels}]'
    return f'{text},"timestamp":"{utc()}","sequence":{sequence},"seq":{seq}}}'.encode()


def batch(
    messages: list[bytes], *, snapshot: bool = False, size: int | None = None, sequence: int | None = None
) -> bytes:
    if sequence is None:
        sequence = orjson.loads(messages[-1])["sequence"] if messages else 0
    head = f'{{"type":"batch","batch_size":{len(messages) if size is None else size}'
    head += ',"snapshot":true,"messages":[' if snapshot else ',"messages":['
    return head.encode() + b",".join(messages) + f'],"timestamp":"{utc()}","sequence":{sequence}}}'.encode()


def run_of(first: int, last: int, **options: Any) -> bytes:
    """One published run of numbers: bare if it is one, else a batch."""
    messages = [message(seq, **options) for seq in range(first, last + 1)]
    return messages[0] if len(messages) == 1 else batch(messages)


def frame(payload: bytes, *, opcode: int = 1, final: bool = True) -> bytes:
    head = bytes([(0x80 if final else 0) | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 65536:
        return head + struct.pack("!BH", 126, len(payload)) + payload
    return head + struct.pack("!BQ", 127, len(payload)) + payload


class Peer:
    """A listening socket and the server's side of what connects to it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.listener.settimeout(DEADLINE)
        self.url = f"ws://127.0.0.1:{self.listener.getsockname()[1]}/v1/ws"
        self.sockets: list[socket.socket] = []
        self.heads: list[bytes] = []
        self.extensions = b""

    def accept(self, response: bytes | None = None) -> socket.socket:
        """Take the next connection and answer its upgrade with `response`, by default the right 101."""
        connection, _ = self.listener.accept()
        connection.settimeout(DEADLINE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(connection)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(1)
        self.heads.append(head)
        agreed = b"Sec-WebSocket-Extensions: " + self.extensions + b"\r\n" if self.extensions else b""
        connection.sendall(self.switching(head)[:-2] + agreed + b"\r\n" if response is None else response)
        return connection

    @staticmethod
    def switching(head: bytes) -> bytes:
        lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
        accept = base64.b64encode(
            hashlib.sha1(lines[b"Sec-WebSocket-Key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        )
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )

    def close(self) -> None:
        for item in [self.listener, *self.sockets]:
            item.close()


def exactly(connection: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = connection.recv(n - len(data))
        assert part, "the client ended the connection"
        data += part
    return data


def read_frame(connection: socket.socket) -> tuple[int, bytes]:
    """Opcode and payload of the client's next frame, which must be final and masked."""
    first, second = exactly(connection, 2)
    assert first & 0x80
    assert second & 0x80
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack("!H", exactly(connection, 2))
    elif size == 127:
        (size,) = struct.unpack("!Q", exactly(connection, 8))
    mask = exactly(connection, 4)
    payload = exactly(connection, size)
    return first & 0x0F, bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


class Connected:
    """A connected client and the server's ends of its connections, in order."""

    def __init__(self, peer: Peer, n: int = 1, *, greeting: bytes = SUBSCRIBED, **options: Any) -> None:
        self.client = LoadClient(peer.url, n, subscribe=options.pop("subscribe", SUBSCRIBE), **options)
        self.ends: list[socket.socket] = []
        self.payloads: list[bytes] = []
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(self.client.connect, timeout=DEADLINE, max_in_flight=1)
            for _ in range(n):
                end = peer.accept()
                opcode, payload = read_frame(end)
                assert opcode == 1
                self.payloads.append(payload)
                end.sendall(frame(greeting))
                self.ends.append(end)
            done.result(DEADLINE)

    def deliver(self, data: bytes, index: int = 0) -> None:
        """Send and have the client take all of it."""
        want = self.client.result()["bytes"] + len(data)
        self.ends[index].sendall(data)
        self.until(lambda result: result["bytes"] >= want)

    def until(self, condition: Callable[[LoadResult], bool]) -> LoadResult:
        deadline = time.monotonic() + DEADLINE
        while not condition(self.client.result()):
            assert time.monotonic() < deadline, self.client.result()
            self.client.run(0)
        return self.client.result()

    def deliver_texts(self, *texts: bytes) -> LoadResult:
        self.deliver(b"".join(frame(text) for text in texts))
        return self.client.result()


@pytest.fixture
def connected(peer: Peer) -> Iterator[Callable[..., Connected]]:
    made = []

    def make(n: int = 1, **options: Any) -> Connected:
        made.append(Connected(peer, n, **options))
        return made[-1]

    yield make
    for item in made:
        item.client.close(timeout=0)


# What makes connect() fail.


def failing_connect(peer: Peer, serve_one: Callable[[], object], n: int = 1, **options: Any) -> str:
    client = LoadClient(peer.url, n, subscribe=SUBSCRIBE)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(client.connect, **{"timeout": DEADLINE, **options})
        serve_one()
        error = done.exception(DEADLINE)
    assert isinstance(error, LoadError), error
    assert client.n_open == 0
    return str(error)


def test_a_refused_connection_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(LoadError, match=r"Connection refused \(is the server running there\?\); 0 of 3"):
        LoadClient(f"ws://127.0.0.1:{port}/v1/ws", 3).connect(timeout=DEADLINE)


def test_another_status_than_101_is_named(peer: Peer) -> None:
    text = failing_connect(peer, lambda: peer.accept(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"))
    assert "'HTTP/1.1 403 Forbidden' instead of an upgrade" in text


def test_a_wrong_accept_key_is_refused(peer: Peer) -> None:
    other = Peer.switching(b"GET / HTTP/1.1\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
    assert "without the right Sec-WebSocket-Accept" in failing_connect(peer, lambda: peer.accept(other))


def test_an_endless_response_head_is_refused(peer: Peer) -> None:
    text = failing_connect(
        peer, lambda: peer.accept(b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"a" * 9000)
    )
    assert "instead of an upgrade" in text


def test_a_close_before_the_subscription_is_answered_gives_its_code(peer: Peer) -> None:
    def serve_one() -> None:
        peer.accept().sendall(frame(struct.pack("!H", 4429), opcode=8))

    said = failing_connect(peer, serve_one)
    assert "with code 4429 before it was open (a limit of connections" in said
    assert "; 0 of 1" in said


def test_an_end_without_a_word_counts_as_1006(peer: Peer) -> None:
    assert "with code 1006 before" in failing_connect(peer, lambda: peer.accept().close())


def test_an_error_instead_of_the_answer_is_quoted(peer: Peer) -> None:
    reply = b'{"type":"error","code":"SUBSCRIPTION_FAILED","message":"no such target"}'
    assert "SUBSCRIPTION_FAILED" in failing_connect(peer, lambda: peer.accept().sendall(frame(reply)))


def test_rejected_targets_are_quoted(peer: Peer) -> None:
    reply = b'{"type":"subscribed","targets":["A"],"rejected":[{"target":"B","reason":"unknown symbol"}]}'
    text = failing_connect(peer, lambda: peer.accept().sendall(frame(reply)))
    assert 'rejected: [{"target":"B","reason":"unknown symbol"}]' in text


@pytest.mark.parametrize(
    ("status", "hint"), [("401 Unauthorized", "token"), ("429 Too Many", "handshake_rate")]
)
def test_a_status_says_what_may_be_wrong(peer: Peer, status: str, hint: str) -> None:
    response = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    text = failing_connect(peer, lambda: peer.accept(response))
    assert f"'HTTP/1.1 {status}'" in text
    assert hint in text


def test_a_silent_server_ends_at_the_deadline(peer: Peer) -> None:
    text = failing_connect(peer, peer.accept, n=2, timeout=0.3, max_in_flight=1)
    assert text.startswith("0 of 2 connections were open after 0.3 s")


def test_deflate_is_insisted_on(peer: Peer) -> None:
    client = LoadClient(peer.url, 1, subscribe=SUBSCRIBE, deflate=True)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(client.connect, timeout=DEADLINE)
        peer.accept()
        error = done.exception(DEADLINE)
    assert b"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n" in peer.heads[0]
    assert isinstance(error, LoadError)
    assert "did not agree to permessage-deflate; 0 of 1" in str(error)


def test_too_few_descriptors_are_named() -> None:
    script = """
        import resource
        from fastws.bench import LoadClient, LoadError
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            LoadClient("ws://127.0.0.1:9/", 100).connect()
        except LoadError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith("130 open files are needed and 64 allowed")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("wss://localhost/v1/ws", "no ws:// URL"),
        ("http://localhost/", "no ws:// URL"),
        ("ws:///v1/ws", "no ws:// URL"),
        ("ws://localhost:99999/", "no valid port"),
        ("ws://name.invalid/", "cannot be resolved"),
    ],
)
def test_unusable_urls(url: str, words: str) -> None:
    with pytest.raises(LoadError, match=words):
        LoadClient(url, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"connections": 0},
        {"check": "some"},
        {"n_slow": 2, "n_ping": 2},
        {"n_slow": -1},
        {"n_answers": -1},
        {"keep_sessions": True, "n_slow": 1},
        {"keep_sessions": True, "deflate": True},
        {"subscribe": [b"a"]},
        {"nap_us": -1},
        {"ping_interval_ms": 0},
    ],
)
def test_wrong_arguments(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        LoadClient("ws://127.0.0.1/", **{"connections": 3, **options})


def test_run_needs_connect_and_connect_runs_once(connected: Callable[..., Connected]) -> None:
    with pytest.raises(LoadError, match=r"connect\(\) comes before"):
        LoadClient("ws://127.0.0.1/", 1).run(0)
    with pytest.raises(LoadError, match="make a new one"):
        connected().client.connect()


# The opening.


def test_the_request_and_every_size_of_payload(peer: Peer, connected: Callable[..., Connected]) -> None:
    sizes = [1, 125, 126, 65535, 65536, 100_000]
    texts = [bytes([97 + i]) * size for i, size in enumerate(sizes)]
    made = connected(len(sizes), subscribe=lambda i: texts[i], headers={"Authorization": "Bearer t"})
    assert made.payloads == texts
    request = peer.heads[0].decode().split("\r\n")
    assert request[0] == "GET /v1/ws HTTP/1.1"
    assert "Authorization: Bearer t" in request
    assert "Sec-WebSocket-Version: 13" in request
    assert made.client.n_open == len(sizes)


def test_text_and_lists_as_payloads(connected: Callable[..., Connected]) -> None:
    assert connected(2, subscribe="삼성").payloads == ["삼성".encode()] * 2
    assert connected(2, subscribe=[b"a", "b"]).payloads == [b"a", b"b"]


def test_several_requests_are_all_sent_and_all_answered(peer: Peer) -> None:
    client = LoadClient(peer.url, 1, subscribe=lambda index: (b"one", "two", b"x" * 70_000))
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(client.connect, timeout=DEADLINE)
        end = peer.accept()
        assert [read_frame(end)[1] for _ in range(3)] == [b"one", b"two", b"x" * 70_000]
        end.sendall(2 * frame(SUBSCRIBED))
        with pytest.raises(TimeoutError):
            done.result(0.3)
        end.sendall(frame(SUBSCRIBED))
        done.result(DEADLINE)
    client.close(timeout=0)


def test_one_answer_may_do_for_several_requests(peer: Peer) -> None:
    client = LoadClient(peer.url, 1, subscribe=[(b"one", b"two")], wait_for="pong", n_answers=1)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(client.connect, timeout=DEADLINE)
        end = peer.accept()
        assert [read_frame(end)[1] for _ in range(2)] == [b"one", b"two"]
        end.sendall(frame(SUBSCRIBED) + frame(b'{"type":"pong"}'))
        done.result(DEADLINE)
    client.close(timeout=0)


def test_a_response_in_parts_with_frames_behind_it(peer: Peer) -> None:
    client = LoadClient(peer.url, 1, subscribe=SUBSCRIBE, wait_for=None)

    def serve_one() -> socket.socket:
        end = peer.accept(b"")
        data = Peer.switching(peer.heads[0]) + frame(run_of(1, 2)) + frame(run_of(3, 3))
        for i in range(len(data)):
            end.sendall(data[i : i + 1])
        return end

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(serve_one)
        client.connect(timeout=DEADLINE)
        deadline = time.monotonic() + DEADLINE
        while client.result()["messages"] < 3:
            assert time.monotonic() < deadline
            client.run(0.01)
        assert read_frame(done.result()) == (1, SUBSCRIBE)
    client.close(timeout=0)
    assert faults(client.result()) == {}


def test_ramp_up_spreads_the_opening(peer: Peer) -> None:
    client = LoadClient(peer.url, 4)
    arrived = []
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(client.connect, timeout=DEADLINE, ramp_up=0.2)
        for _ in range(4):
            peer.accept()
            arrived.append(time.monotonic())
        done.result(DEADLINE)
    client.close(timeout=0)
    assert arrived[-1] - arrived[0] > 0.1


def test_ramp_up_in_steps_opens_as_many_at_a_time(peer: Peer) -> None:
    client = LoadClient(peer.url, 6)
    arrived, told = [], []
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(
            client.connect, timeout=DEADLINE, ramp_up=1.2, step=3, max_in_flight=3, on_progress=told.append
        )
        for _ in range(6):
            peer.accept()
            arrived.append(time.monotonic())
        done.result(DEADLINE)
    client.close(timeout=0)
    gaps = [after - before for before, after in itertools.pairwise(arrived)]
    assert max(gaps) == gaps[2] > 0.3
    assert told == sorted(told)
    assert told[-1] == 6
    assert 3 in told


# The checks of numbers: right runs first, then each fault.


@pytest.fixture(params=["edges", "full"])
def check(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_runs_without_a_fault(connected: Callable[..., Connected], check: str) -> None:
    made = connected(check=check)
    result = made.deliver_texts(
        batch([message(4)], snapshot=True), run_of(5, 5), run_of(6, 105), run_of(106, 106), run_of(107, 108)
    )
    assert faults(result) == {}
    assert result["messages"] == 104
    assert (result["snapshots"], result["snapshot_messages"]) == (1, 1)
    assert result["control_messages"] == 1
    assert result["messages_per_connection"] == (104, 104)
    assert result["latency"]["count"] == 104


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([(5, 9), (11, 12)], {"lost": 1, "undeclared_lost": 1}),
        ([(6, 9)], {"lost": 1, "undeclared_lost": 1}),  # between the snapshot and the first update
        ([(5, 9), (20, 20)], {"lost": 10, "undeclared_lost": 10}),
        ([(5, 9), (5, 9)], {"duplicates": 5}),
        ([(5, 9), (9, 9)], {"duplicates": 1, "sequence_backwards": 1}),
        ([(5, 9), (8, 12)], {"duplicates": 2}),
        ([(4, 6)], {"duplicates": 1}),  # what the snapshot had shown
        ([(5, 5), (8, 9), (6, 7), (10, 11)], {"reordered": 2, "sequence_backwards": 1}),
        (
            [(5, 5), (10, 10), (7, 8), (7, 8)],
            {"lost": 2, "undeclared_lost": 2, "reordered": 2, "duplicates": 2, "sequence_backwards": 2},
        ),
        ([(5, 5), (9, 9), (6, 12)], {"reordered": 3, "duplicates": 1}),
    ],
)
def test_faults_between_frames(
    connected: Callable[..., Connected], runs: list[tuple[int, int]], expected: dict[str, int]
) -> None:
    made = connected()
    result = made.deliver_texts(batch([message(4)], snapshot=True), *(run_of(*run) for run in runs))
    assert faults(result) == expected
    full = connected(check="full")
    result = full.deliver_texts(batch([message(4)], snapshot=True), *(run_of(*run) for run in runs))
    found = faults(result)
    # Counted per message there, and the number of the server per message too.
    assert found.pop("sequence_backwards", 0) >= expected.get("sequence_backwards", 0)
    assert found == {name: n for name, n in expected.items() if name != "sequence_backwards"}


def test_an_empty_snapshot_means_that_the_first_number_is_one(
    connected: Callable[..., Connected], check: str
) -> None:
    assert faults(connected(check=check).deliver_texts(batch([], snapshot=True), run_of(1, 3))) == {}
    found = faults(connected(check=check).deliver_texts(batch([], snapshot=True), run_of(3, 3)))
    assert found == {"lost": 2, "undeclared_lost": 2}


def test_without_a_snapshot_the_first_number_is_the_base(
    connected: Callable[..., Connected], check: str
) -> None:
    assert faults(connected(check=check).deliver_texts(run_of(700, 703), run_of(704, 704))) == {}


def test_a_stale_snapshot_sets_no_base(connected: Callable[..., Connected], check: str) -> None:
    stale = message(900).replace(b',"timestamp"', b',"stale":true,"timestamp"')
    result = connected(check=check).deliver_texts(batch([stale], snapshot=True, sequence=0), run_of(1, 2))
    assert {name: n for name, n in faults(result).items() if name != "sequence_backwards"} == {}


@pytest.mark.parametrize("n", [3, 60])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda seqs: [*seqs[:1], *seqs[2:]], {"lost": 1, "undeclared_lost": 1}),
        (lambda seqs: [*seqs[:2], *seqs[1:]], {"duplicates": 1}),
    ],
)
def test_faults_inside_a_frame(
    connected: Callable[..., Connected],
    n: int,
    change: Callable[[list[int]], list[int]],
    expected: dict[str, int],
) -> None:
    """In frames that lie whole in the buffer, and in those of which only head and tail were kept."""
    data = frame(batch([message(seq) for seq in change(list(range(1, n + 1)))]))
    whole = connected()
    whole.deliver(data)
    assert faults(whole.client.result()) == expected
    cut = connected()
    for i in range(0, len(data), 997):
        cut.deliver(data[i : i + 997])
    assert faults(cut.client.result()) == expected
    full = connected(check="full")
    full.deliver(data)
    found = faults(full.client.result())
    found.pop("sequence_backwards", None)
    assert found == expected


def test_unnumbered_messages_in_a_batch_are_no_fault(connected: Callable[..., Connected], check: str) -> None:
    status = message(None, sequence=35, kind="market_status")
    mixed = batch([message(3), status, message(4)])
    result = connected(check=check).deliver_texts(
        run_of(1, 2), mixed, run_of(5, 6), batch([status, message(7)])
    )
    found = faults(result)
    assert found.pop("sequence_backwards", 0) <= 1  # the repeated status, in the full check
    assert found == {}
    assert result["messages"] == 9


def test_too_many_holes_forget_the_oldest(connected: Callable[..., Connected]) -> None:
    made = connected()
    made.deliver_texts(*(run_of(seq, seq) for seq in range(1, 42, 2)))
    assert made.client.result()["lost"] == 20
    result = made.deliver_texts(run_of(2, 2), run_of(40, 40))
    assert (result["lost"], result["reordered"], result["duplicates"]) == (19, 1, 1)


def test_declared_losses(connected: Callable[..., Connected], check: str) -> None:
    overflow = (
        b'{"type":"overflow","items":[{"code":"005930","channel":"price","dropped":5,"from_seq":10,"to_seq":14},'
        b'{"code":"005930","channel":"price","dropped":2,"from_seq":16,"to_seq":17}],"timestamp":"%s"}'
        % utc().encode()
    )
    made = connected(2, check=check)
    made.deliver(frame(run_of(1, 9)) + frame(overflow) + frame(run_of(15, 15)) + frame(run_of(18, 20)))
    result = made.client.result()
    assert (result["lost"], result["declared_lost"], result["undeclared_lost"]) == (7, 7, 0)
    assert result["overflows"] == 1
    # What one connection was told excuses nothing on another.
    made.deliver(frame(run_of(1, 9)) + frame(run_of(11, 11)), index=1)
    assert made.client.result()["undeclared_lost"] == 1


def test_conflation_is_no_loss(connected: Callable[..., Connected], check: str) -> None:
    made = connected(check=check, conflated=True)
    result = made.deliver_texts(
        batch([message(3)], snapshot=True), run_of(9, 9), run_of(10, 10), run_of(20, 20)
    )
    assert faults(result) == {"conflated": 14}
    result = made.deliver_texts(run_of(19, 19), run_of(20, 20))
    assert (result["reordered"], result["duplicates"]) == (1, 1)


def test_the_number_of_the_server_must_not_fall(connected: Callable[..., Connected], check: str) -> None:
    made = connected(check=check)
    result = made.deliver_texts(batch([message(1), message(2)], sequence=500), message(3, sequence=400))
    assert faults(result) == {"sequence_backwards": 1}
    result = made.deliver_texts(batch([message(4), message(5)], sequence=300))
    assert result["sequence_backwards"] >= 2


def test_reset_forgets_counts_and_keeps_positions(connected: Callable[..., Connected], check: str) -> None:
    made = connected(check=check)
    made.deliver_texts(run_of(1, 4), run_of(6, 6))
    made.client.reset()
    assert faults(made.client.result()) == {}
    result = made.deliver_texts(run_of(7, 8), run_of(10, 10))
    assert faults(result) == {"lost": 1, "undeclared_lost": 1}
    assert result["messages"] == 3


# Other messages.


def test_errors_are_counted_and_the_first_is_kept(connected: Callable[..., Connected]) -> None:
    made = connected()
    result = made.deliver_texts(
        b'{"type":"error","code":"RATE_LIMIT_EXCEEDED"}', b'{"type":"error","code":"X"}'
    )
    assert result["errors"] == 2
    assert result["first_error"] == '{"type":"error","code":"RATE_LIMIT_EXCEEDED"}'


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"hello",
        b"[]",
        b'{"type":"batch","batch_size":2,"messages":[]}',
        b'{"type":"batch","batch_size":x,"messages":[],"timestamp":"2025-11-11T00:00:00Z","sequence":1}',
        b'{"type":"batch","batch_size":1,"messages":[1],"timestamp":"2025-11-11T00:00:00Z","sequence":1}',
        b'{"type":"batch","batch_size":1,"messages":[{}],"timestamp":"2025-11-11T00:00:00Z","sequence":1}',
        b'{"type":"price_update","code":"005930","timestamp":"2025-13-1',
    ],
)
def test_what_cannot_be_read_is_counted(connected: Callable[..., Connected], check: str, text: bytes) -> None:
    result = connected(check=check).deliver_texts(text)
    assert result["unparsed"] == 1
    assert (result["first_unparsed"] or "") == text.decode()


def test_a_batch_must_be_as_long_as_it_says(connected: Callable[..., Connected]) -> None:
    wrong = batch([message(1), message(2)], size=3)
    assert connected(check="full").deliver_texts(wrong)["unparsed"] == 1
    assert connected(check="edges").deliver_texts(wrong)["unparsed"] == 1


def test_messages_of_other_servers_are_counted(connected: Callable[..., Connected]) -> None:
    update = (
        f'{{"type":"asset_update","data":{{"symbol":"AAPL","price":150.25}},"timestamp":"{utc()}"}}'.encode()
    )
    result = connected(check="none").deliver_texts(b"tick", b'{"type":"tick"}', update)
    assert faults(result) == {"untimed": 1}
    assert result["messages"] == 3
    result = connected(check="edges").deliver_texts(update)
    assert faults(result) == {}
    assert result["latency"]["count"] == 1


# The full check.


def test_the_full_check_keeps_every_stream(connected: Callable[..., Connected]) -> None:
    made = connected(2, check="full")
    first = batch(
        [
            message(1, code="005930", sequence=1),
            message(1, code="000660", sequence=2, price="1.50"),
            book(1, code="005930", sequence=3),
            message(2, code="005930", sequence=4, price="73100"),
        ]
    )
    made.deliver(frame(first))
    made.deliver(frame(first), index=1)
    assert faults(made.client.result()) == {}
    streams = made.client.streams(0)
    assert set(streams) == {
        ("price_update", "005930"),
        ("price_update", "000660"),
        ("orderbook_update", "005930"),
    }
    assert streams["price_update", "005930"]["seq"] == 2
    assert streams["price_update", "005930"]["messages"] == 2
    assert streams["price_update", "005930"]["price"] == "73100"
    assert streams["price_update", "000660"]["price"] == "1.50"
    assert streams["orderbook_update", "005930"]["price"] is None
    assert made.client.streams(1) == streams
    made.deliver(frame(batch([message(3, code="000660", sequence=5), book(2, sequence=6)])))
    result = made.client.result()
    assert faults(result) == {"lost": 1, "undeclared_lost": 1}
    assert (
        made.client.streams(0)["orderbook_update", "005930"]["digest"]
        != (streams["orderbook_update", "005930"]["digest"])
    )
    with pytest.raises(IndexError):
        made.client.streams(2)


def test_many_symbols(connected: Callable[..., Connected]) -> None:
    made = connected(check="full")
    codes = [f"{i:06d}" for i in range(2000)]
    for seq in (1, 2):
        texts = [message(seq, code=code, sequence=seq * 10_000 + i) for i, code in enumerate(codes)]
        made.deliver(frame(batch(texts)))
    assert faults(made.client.result()) == {}
    streams = made.client.streams(0)
    assert len(streams) == 2000
    assert {state["seq"] for state in streams.values()} == {2}


def test_symbols_first_seen_after_the_snapshot_start_with_one(connected: Callable[..., Connected]) -> None:
    made = connected(check="full")
    result = made.deliver_texts(
        batch([message(7, code="A", sequence=1)], snapshot=True),
        message(1, code="B", sequence=2),
        message(3, code="C", sequence=3),
    )
    assert faults(result) == {"lost": 2, "undeclared_lost": 2}


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
    assert result["closes"] == {1002: 1}
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
    made.until(lambda result: pings(result)["count"] == answered)
    ping = pings(made.client.result())
    assert ping["count"] > 5
    assert ping["sent"] - ping["count"] in (0, 1)
    assert 0 < (ping["p50_ms"] or 0) < 300


def test_a_missing_pong_is_not_pinged_over(connected: Callable[..., Connected]) -> None:
    made = connected(1, n_ping=1, ping_interval_ms=1)
    made.client.run(0.05)
    ping = pings(made.client.result())
    assert (ping["sent"], ping["count"]) == (1, 0)
    assert ping["skipped"] > 2
    made.deliver(frame(b'{"type":"pong"}'))
    ping = pings(made.client.result())
    assert ping["count"] == 1
    assert (ping["max_ms"] or 0) >= 50


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


# A real server.


class Feed:
    """`websockets` sends what a screener server would; `faulty` connections, by arrival, miss one frame."""

    def __init__(self, faulty: set[int]) -> None:
        self.faulty = faulty
        self.connections: list[ServerConnection] = []
        self.seq = 0

    async def on_connection(self, connection: ServerConnection) -> None:
        await connection.send('{"type":"connection","status":"connected","sequence":0}')
        async for text in connection:
            request = orjson.loads(text)
            if request["type"] == "ping":
                await connection.send(f'{{"type":"pong","timestamp":"{utc()}"}}')
                continue
            assert request["targets"] == ["005930"]
            await connection.send(SUBSCRIBED.decode())
            await connection.send(batch([], snapshot=True).decode())
            self.connections.append(connection)

    async def publish(self, n_frames: int, size: int) -> None:
        for i in range(n_frames):
            text = run_of(self.seq + 1, self.seq + size).decode()
            self.seq += size
            for number, connection in enumerate(self.connections):
                if i == n_frames // 2 and number in self.faulty:
                    continue
                await connection.send(text)


@pytest.mark.parametrize("faulty", [set(), {3, 7}])
async def test_against_a_real_server(faulty: set[int], check: Literal["edges", "full"]) -> None:
    feed = Feed(faulty)
    n, n_frames, size = 20, 30, 40
    async with serve(feed.on_connection, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        client = LoadClient(
            f"ws://127.0.0.1:{port}/v1/ws", n, subscribe=SUBSCRIBE, check=check, n_ping=2, ping_interval_ms=20
        )
        await asyncio.to_thread(client.connect, timeout=DEADLINE, max_in_flight=5)
        async with asyncio.timeout(DEADLINE):
            while len(feed.connections) < n:
                await asyncio.to_thread(client.run, 0.01)
        running = asyncio.create_task(asyncio.to_thread(client.run, DEADLINE))
        await feed.publish(n_frames, size)
        want = (n * n_frames - len(faulty)) * size
        client.stop()
        await running
        async with asyncio.timeout(DEADLINE):
            while client.result()["messages"] < want:
                await asyncio.to_thread(client.run, 0.01)
        result = client.result()
        await asyncio.to_thread(client.close)
    assert result["messages"] == want
    assert result["snapshots"] == n
    assert result["messages_per_connection"] == ((n_frames - bool(faulty)) * size, n_frames * size)
    assert faults(result) == ({"lost": 2 * size, "undeclared_lost": 2 * size} if faulty else {})
    assert result["closes"] == {}
    assert pings(result)["count"] > 0
    assert (result["latency"]["p999_ms"] or 1e9) < 1000 * DEADLINE


# Cut and restored.


def greeted(connected: Callable[..., Connected], n: int = 2, **options: Any) -> Connected:
    """Connections that know their sessions and have seen numbers up to 3."""
    made = connected(n, keep_sessions=True, greeting=SUBSCRIBED, **options)
    for index in range(n):
        greeting = b'{"type":"connection","status":"connected","connection_id":"id-%d","epoch":"e1"}' % index
        made.deliver(frame(greeting) + frame(run_of(1, 3)), index)
    return made


def restored(peer: Peer, made: Connected, *answers: bytes) -> list[bytes]:
    """Restore after a cut, answering each connection in turn; returns the first lines of the requests."""
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(made.client.restore, timeout=DEADLINE, max_in_flight=1)
        for index, answer in enumerate(answers):
            made.ends[index] = peer.accept()
            made.ends[index].sendall(answer)
        done.result(DEADLINE)
    return [head.split(b"\r\n")[0] for head in peer.heads[-len(answers) :]]


def reconnected(*, recovered: bool, missed: int) -> bytes:
    answer = (
        b'{"type":"reconnected","session_id":"s","restored_subscriptions":{"stock":[%s]},'
        b'"missed_messages_count":%d,"recovered":%s,"timestamp":"2025-11-11T00:00:00.000Z"}'
    ) % (b",".join([b'"005930"'] * 300), missed, b"true" if recovered else b"false")
    return frame(answer)


def test_cut_connections_come_back_with_session_and_cursor(
    peer: Peer, connected: Callable[..., Connected], check: str
) -> None:
    made = greeted(connected, check=check)
    made.client.cut()
    assert made.client.n_open == 0
    for end in made.ends:
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    complete = reconnected(recovered=True, missed=2) + frame(run_of(4, 5))
    lines = restored(peer, made, complete, complete)
    assert lines == [
        b"GET /v1/ws?session_id=id-%d&last_sequence=30&epoch=e1 HTTP/1.1" % index for index in range(2)
    ]
    made.deliver(frame(run_of(6, 7)), 0)
    result = made.until(lambda result: result["messages"] == 12)
    assert faults(result) == {}
    assert result["restored"] == {"sessions": 2, "recovered": 2, "missed": 4}
    assert result["open"] == 2
    assert result["closes"] == {}


def test_what_a_restoration_leaves_out_is_lost(
    peer: Peer, connected: Callable[..., Connected], check: str
) -> None:
    made = greeted(connected, check=check)
    made.client.reset()
    made.client.cut()
    restored(
        peer,
        made,
        reconnected(recovered=True, missed=2) + frame(run_of(6, 7)),
        reconnected(recovered=False, missed=2) + frame(run_of(3, 4)),
    )
    result = made.until(lambda result: result["messages"] == 4)
    assert result["restored"] == {"sessions": 2, "recovered": 1, "missed": 4}
    found = faults(result)
    found.pop("sequence_backwards", None)  # of each message, or of the batch
    assert found == {"lost": 2, "undeclared_lost": 2, "duplicates": 1}


def test_a_refused_restoration_is_quoted(peer: Peer, connected: Callable[..., Connected]) -> None:
    made = greeted(connected, n=1)
    made.client.cut()
    answer = frame(b'{"type":"error","code":"SESSION_RESTORATION_FAILED","message":"no such session"}')
    with pytest.raises(LoadError, match=r"the restoration of a session was answered with .*no such session"):
        restored(peer, made, answer)
    assert made.client.n_open == 0


def test_only_known_sessions_of_open_connections_are_cut(connected: Callable[..., Connected]) -> None:
    nameless = connected(1, keep_sessions=True)
    with pytest.raises(LoadError, match="sends no session ids"):
        nameless.client.cut()
    gone = greeted(connected, n=1)
    gone.ends[0].close()
    gone.until(lambda result: result["open"] == 0)
    with pytest.raises(LoadError, match="only 0 of 1 connections are open"):
        gone.client.cut()
    with pytest.raises(LoadError, match=r"cut\(\) comes before restore"):
        nameless.client.restore()
