"""The load client against a real server, and its connections cut and restored."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import orjson
import pytest
from websockets.asyncio.server import ServerConnection, serve

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from load_peer import (
    DEADLINE,
    SUBSCRIBE,
    SUBSCRIBED,
    Connected,
    Peer,
    batch,
    connecting,
    faults,
    frame,
    pings,
    run_of,
    utc,
)

from fastws.bench import LoadClient, LoadError


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
    for other in (nameless, gone):
        with pytest.raises(LoadError, match=r"cut\(\) comes before restore"):
            other.client.restore()
