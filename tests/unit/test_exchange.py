"""The exchange between workers: who hears what, in which order, and what becomes of what nobody reads."""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.relay import exchange_ends
from fastws.relay.exchange import Exchange
from fastws.relay.exchange_ends import ExchangeEnd
from fastws.relay.exchange_frames import (
    ALIVE,
    LISTEN,
    LISTENING,
    MAX_SIZE,
    MESSAGE,
    PRESENT,
    READY,
    Frame,
    FrameError,
    Splitter,
    encode,
)
from fastws.relay.worker_links import WorkerLink


@given(
    st.lists(st.tuples(st.integers(0, ALIVE), st.binary(max_size=20), st.binary(max_size=300)), max_size=8),
    st.integers(1, 64),
)
def test_frames_come_out_as_they_went_in(frames: list[tuple[int, bytes, bytes]], n: int) -> None:
    stream = b"".join(encode(*frame) for frame in frames)
    splitter = Splitter()
    found = [frame for at in range(0, len(stream), n) for frame in splitter.feed(stream[at : at + n])]
    assert [(frame.kind, frame.channel, frame.data) for frame in found] == frames
    assert b"".join(frame.whole for frame in found) == stream


@pytest.mark.parametrize(
    "data",
    [b"\0\0\0\0\0\0", b"\6\0\0\0\0\1", b"\6\0\0\0\x63\0", (MAX_SIZE + 1).to_bytes(4, "little") + b"\0\0"],
)
def test_what_is_no_frame(data: bytes) -> None:
    with pytest.raises(FrameError):
        Splitter().feed(data)


def test_what_cannot_be_sent() -> None:
    for channel, data in ((b"c" * 256, b""), (b"", bytes(MAX_SIZE))):
        with pytest.raises(ValueError, match="cannot be sent"):
            encode(MESSAGE, channel, data)


class Parent:
    """An exchange, and its turns."""

    def __init__(self, queue_limit: int = 1 << 20) -> None:
        self.selector = selectors.DefaultSelector()
        self.heard: list[tuple[int, int, bytes]] = []
        self.lost: list[int] = []
        self.exchange = Exchange(
            self.selector, on_frame=self._on_frame, on_lost=self.lost.append, queue_limit=queue_limit
        )

    def _on_frame(self, number: int, frame: Frame) -> None:
        self.heard.append((number, frame.kind, frame.data))

    def turn(self) -> bool:
        events = self.selector.select(0)
        for key, mask in events:
            key.data(mask)
        return bool(events)

    def turn_until_quiet(self) -> None:
        while self.turn():
            pass

    def close(self) -> None:
        self.exchange.close()
        self.selector.close()


@pytest.fixture
def parent() -> Iterator[Parent]:
    made = Parent()
    yield made
    made.close()


def read(sock: socket.socket) -> list[tuple[int, bytes, bytes]]:
    """All that has come."""
    data = b""
    try:
        while part := sock.recv(1 << 20):
            data += part
    except BlockingIOError:
        pass
    return [(frame.kind, frame.channel, frame.data) for frame in Splitter().feed(data)]


def test_messages_reach_all_who_listen_but_the_sender(parent: Parent) -> None:
    one, two, three = (parent.exchange.connect(number) for number in (1, 2, 3))
    for sock, channel in ((one, b"a"), (two, b"a"), (three, b"b")):
        sock.send(encode(LISTEN, channel))
    parent.turn_until_quiet()
    assert read(two) == [(LISTENING, b"a", b"")]
    one.send(encode(MESSAGE, b"a", b"first") + encode(MESSAGE, b"b", b"second") + encode(READY, b"", b"data"))
    parent.turn_until_quiet()
    assert read(one) == [(LISTENING, b"a", b"")]
    assert read(two) == [(MESSAGE, b"a", b"first")]
    assert read(three) == [(LISTENING, b"b", b""), (MESSAGE, b"b", b"second")]
    assert parent.heard == [(1, READY, b"data")]
    parent.exchange.tell_all(PRESENT, b"crew")
    assert read(one) == read(two) == read(three) == [(PRESENT, b"", b"crew")]
    two.close()
    parent.turn_until_quiet()
    assert parent.lost == [2]
    one.send(encode(MESSAGE, b"a", b"to nobody"))
    parent.turn_until_quiet()
    one.close()
    three.close()


def test_nobody_waits_for_one_that_does_not_read() -> None:
    parent = Parent(queue_limit=200_000)
    one, two, three = (parent.exchange.connect(number) for number in (1, 2, 3))
    for sock in (two, three):
        sock.send(encode(LISTEN, b"a"))
    parent.turn_until_quiet()
    n, got = 0, []
    while parent.exchange.n_dropped < 5:
        one.send(encode(MESSAGE, b"a", n.to_bytes(4, "little") + bytes(20_000)))
        n += 1
        parent.turn()
        got += read(three)
    parent.turn_until_quiet()
    got += read(three)
    assert [int.from_bytes(data[:4], "little") for _, _, data in got[1:]] == list(range(n))
    late: list[Frame] = []
    before = -1
    splitter = Splitter()
    while len(late) != before:
        before = len(late)
        with suppress(BlockingIOError):
            late += splitter.feed(two.recv(1 << 20))
        parent.turn_until_quiet()
    # What it has is whole and in order, and of what has waited the oldest are those that are missing.
    numbers = [int.from_bytes(frame.data[:4], "little") for frame in late[1:]]
    assert numbers == sorted(numbers)
    assert len(numbers) == n - parent.exchange.n_dropped
    assert numbers[-5:] == list(range(n - 5, n))
    for sock in (one, two, three):
        sock.close()
    parent.close()


def test_what_one_that_has_ended_has_said_last_is_heard(parent: Parent) -> None:
    sock = parent.exchange.connect(1)
    sock.send(encode(READY, b"", b"last words"))
    sock.close()
    parent.exchange.finish(1)
    assert parent.heard == [(1, READY, b"last words")]
    parent.exchange.finish(1)
    parent.exchange.tell(1, PRESENT)


def test_one_that_talks_nonsense_is_cut_off(parent: Parent) -> None:
    sock = parent.exchange.connect(1)
    sock.send(b"GET / HTTP/1.1\r\n")
    parent.turn_until_quiet()
    assert parent.lost == [1]
    assert sock.recv(10) == b""
    sock.close()


def test_one_that_is_cut_off_for_what_it_says_is_not_known_any_more(parent: Parent) -> None:
    exchange = Exchange(
        parent.selector,
        on_frame=lambda number, frame: exchange.disconnect(number),
        on_lost=parent.lost.append,
    )
    old = exchange.connect(1)
    # What is behind that for which it is cut off has come with it.
    old.send(encode(READY) + encode(LISTEN, b"a"))
    parent.turn_until_quiet()
    new, other = exchange.connect(1), exchange.connect(2)
    new.send(encode(LISTEN, b"b"))
    other.send(encode(MESSAGE, b"b", b"to the new one") + encode(MESSAGE, b"a", b"to nobody"))
    parent.turn_until_quiet()
    assert read(new) == [(LISTENING, b"b", b""), (MESSAGE, b"b", b"to the new one")]
    assert parent.lost == []
    for sock in (old, new, other):
        sock.close()
    exchange.close()


# The link of a relay.


class End:
    """A worker's end with a link over it, and what they were told."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[bytes] = []
        self.changes: list[str | None] = []
        self.listening: list[str] = []
        self.frames: list[Frame] = []
        self.n_lost = 0
        self.end = ExchangeEnd(sock, on_frame=self.frames.append, on_lost=self._on_lost, queue_limit=100_000)
        self.link = WorkerLink(
            self.end,
            on_message=self.messages.append,
            on_change=self.changes.append,
            on_listening=self.listening.append,
        )

    def _on_lost(self) -> None:
        self.n_lost += 1


@asynccontextmanager
async def workers(parent: Parent, n: int) -> AsyncIterator[list[End]]:
    ends = [End(parent.exchange.connect(number)) for number in range(1, n + 1)]
    for end in ends:
        await end.end.open()
    yield ends
    for end in ends:
        await end.link.stop(0.1)
        end.end.close()
    await asyncio.sleep(0)


async def until(parent: Parent | None, condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            if parent is not None:
                parent.turn()
            await asyncio.sleep(0)


async def test_a_link_hears_what_it_listens_to(parent: Parent) -> None:
    async with workers(parent, 2) as (one, two):
        two.link.listen(["a", "b"])
        assert not two.link.is_up
        one.link.start()
        two.link.start()
        assert two.changes == [None]
        await until(parent, lambda: two.listening == ["a", "b"])
        two.link.ignore(["b"])
        assert two.link.is_listening("a")
        assert not two.link.is_listening("b")
        for i in range(50):
            one.link.send("a", b"%d" % i)
            one.link.send("b", b"not this")
        await until(parent, lambda: len(two.messages) == 50)
        assert two.messages == [b"%d" % i for i in range(50)]
        assert one.messages == []
        # What is sent while the parent does nothing is bounded.
        for i in range(2000):
            one.link.send("a", i.to_bytes(4, "little") + bytes(1000))
        assert one.link.n_dropped > 0
        # Those that wait, and the one that the kernel has taken a part of.
        assert one.link.queue_size <= 101_100
        two.messages.clear()
        await until(parent, lambda: one.link.queue_size == 0)
        await until(parent, lambda: len(two.messages) == 2000 - one.link.n_dropped)
        # Of what has waited the oldest are missing.
        numbers = [int.from_bytes(data[:4], "little") for data in two.messages]
        assert numbers == sorted(numbers)
        assert numbers[-90:] == list(range(1910, 2000))
        assert parent.exchange.silence(1) < 5
        assert parent.exchange.silence(3) == 0
        await until(parent, lambda: (2, ALIVE, b"") in parent.heard)


async def test_a_worker_that_stood_still_has_not_heard_its_parent_be_silent(
    parent: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_ends, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(exchange_ends, "_LOOK_SECONDS", 0.01)
    async with workers(parent, 1) as (one,):
        one.link.start()
        assert one.link.is_up
        time.sleep(0.6)  # noqa: ASYNC251 - the loop is to stand still
        for _ in range(3):
            await asyncio.sleep(0)
        assert one.changes == [None]


async def test_a_parent_that_is_silent_counts_as_away(
    parent: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_ends, "SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(exchange_ends, "_LOOK_SECONDS", 0.01)
    async with workers(parent, 1) as (one,):
        one.link.start()
        await until(None, lambda: not one.link.is_up)
        parent.exchange.tell_all(PRESENT, b"")
        await until(None, lambda: one.link.is_up)
        assert [change is None for change in one.changes] == [True, False, True]
        assert one.link.n_connects == 2
        assert [frame.kind for frame in one.frames] == [PRESENT]
        parent.exchange.disconnect(1)
        await until(None, lambda: one.n_lost == 1)
        assert not one.link.is_up
        one.link.send("a", b"to nobody")
