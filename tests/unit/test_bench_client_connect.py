"""How the load client opens its connections, and what it says when it cannot."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from load_peer import (
    DEADLINE,
    SUBSCRIBE,
    SUBSCRIBED,
    Connected,
    Peer,
    connecting,
    faults,
    frame,
    read_frame,
    run_of,
)

from fastws.bench import LoadClient, LoadError


@pytest.fixture
def peer() -> Iterator[Peer]:
    with contextlib.closing(Peer()) as peer:
        yield peer


@pytest.fixture
def connected(peer: Peer) -> Iterator[Callable[..., Connected]]:
    yield from connecting(peer)


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
    ("status", "hint"),
    [("400 Bad Request", "speak TLS"), ("401 Unauthorized", "token"), ("429 Too Many", "handshake_rate")],
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
        for n in (100, 2**31 - 1):
            try:
                LoadClient("ws://127.0.0.1:9/", n, subscribe=lambda index: "").connect()
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
    few, many = done.stdout.splitlines()
    assert few.startswith("130 open files are needed and 64 allowed")
    assert many.startswith("2147483677 open files are needed")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("wss://localhost/v1/ws", "no ws:// URL"),
        ("http://localhost/", "no ws:// URL"),
        ("ws:///v1/ws", "no ws:// URL"),
        ("ws://localhost:99999/", "no valid host and port"),
        ("ws://[::1/", "no valid host and port"),
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
