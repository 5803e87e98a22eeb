"""Clients that are broken, hostile or slow: each ends as documented, and nobody else notices.

Every test runs beside a well-behaved subscriber whose stream may have no gap and no long pause, and under a bound
on the memory of the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from websockets.exceptions import ConnectionClosed

from tests.clients import Stream, client
from tests.conftest import StartServer
from tests.rawclient import (
    ABNORMAL,
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawClient,
    frame,
    upgrade_head,
)
from tests.serving import Server, until

T = TypeVar("T")

CODES = [f"S{number:02}" for number in range(12)]
MESSAGE_BYTES = 65536
# What a server may grow by under any of this; what it held before a test is warm already.
MEMORY_BOUND = 24 << 20
LONGEST_PAUSE_S = 2.0


@asynccontextmanager
async def nobody_else_notices(server: Server, memory_bound: int = MEMORY_BOUND) -> AsyncIterator[None]:
    """Watch the stream of a well-behaved subscriber, and the memory of the server, from before to after."""
    async with client(server.url) as connection:
        stream = Stream()
        connection.on_message = stream.take
        await connection.subscribe("stock", *CODES)
        await connection.until_snapshot()
        while len(stream.seqs) < 2 * len(CODES):
            await connection.receive()
        rss, peak, longest_pause = server.rss, 0, 0.0
        is_over = False

        async def watch() -> None:
            nonlocal peak, longest_pause
            n_at_end = 0
            while not is_over or stream.n_updates < n_at_end + 200:
                started = time.monotonic()
                await connection.receive()
                longest_pause = max(longest_pause, time.monotonic() - started)
                peak = max(peak, server.rss)
                n_at_end = n_at_end if is_over else stream.n_updates

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            is_over = True
            await watching
    assert longest_pause < LONGEST_PAUSE_S
    assert peak - rss < memory_bound, f"the server grew by {(peak - rss) >> 10} KiB"


async def in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Run what blocks beside the event loop; at least 64 at a time."""
    return await asyncio.get_running_loop().run_in_executor(_threads, function, *arguments)


_threads = ThreadPoolExecutor(64)


def start(launch: StartServer, directory: Path, *flags: str, **settings: object) -> Server:
    symbols = directory / "symbols.csv"
    if not symbols.exists():
        rows = [f"{code},{code},KOSPI,IT,10000,KRW" for code in CODES]
        symbols.write_text("\n".join(["symbol,name,market,sector,previous_close,currency", *rows, ""]))
    defaults: dict[str, object] = {"simulator_rate": 500, "simulator_seed": 5, "simulator_opening_burst": 1}
    return launch("--feed", "sim", "--symbols-file", str(symbols), *flags, **(defaults | settings))


@pytest.fixture
def target(shared_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with the limits as they are, except that many requests may come in one test."""
    directory = tmp_path_factory.getbasetemp() / "abuse"
    directory.mkdir(exist_ok=True)
    return start(shared_server, directory, rate_limit=0)


def until_alone(server: Server) -> None:
    """Wait until only the watching subscriber is connected: what is gone is forgotten."""
    until(lambda: server.stats()["active_connections"] == 1, "the end of the other connections")


# Handshakes.


async def test_random_bytes_instead_of_a_request(target: Server) -> None:
    rng = random.Random(1)

    def attack() -> None:
        for number in range(100):
            with RawClient(target.port, handshake=False) as raw:
                raw.send_as_far_as_possible(rng.randbytes(rng.choice((1, 16, 300, 20_000))))
                raw.socket.shutdown(socket.SHUT_WR)
                status, _, body = raw.read_response()
                # Nothing is owed to what might still become a request; else the answer says what is wrong.
                assert status in (0, 400, 414, 431), (number, status)
                if status:
                    assert json.loads(body)["error"]["code"] in (
                        "BAD_REQUEST",
                        "URI_TOO_LONG",
                        "HEADERS_TOO_LARGE",
                    )

    async with nobody_else_notices(target):
        await in_thread(attack)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v1/ws HTTP/1.1\r\nX: " + b"x" * (10 << 20), 431),
        (b"GET /v1/ws HTTP/1.1\r\n" + b"X-Header: value\r\n" * (10 << 16), 431),
        (b"GET /v1/ws?" + b"x" * (10 << 20), 414),
        (b"GET /v1/ws HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    ],
    ids=["one header", "many headers", "request line", "101 headers"],
)
async def test_heads_of_ten_megabytes(target: Server, head: bytes, status: int) -> None:
    def attack() -> int:
        with RawClient(target.port, handshake=False) as raw:
            n_sent = raw.send_as_far_as_possible(head)
            # The server reads on for a while, so that its answer is not lost, but not for ever.
            assert n_sent < 9 << 20 or len(head) < 1 << 20
            found, headers, body = raw.read_response()
            assert headers["connection"] == "close"
            assert set(json.loads(body)["error"]) == {"code", "message"}
            raw.read_to_end()
            return found

    async with nobody_else_notices(target):
        assert await asyncio.gather(*(in_thread(attack) for _ in range(4))) == [status] * 4


async def test_half_a_handshake_is_held_no_longer_than_allowed(server: StartServer, tmp_path: Path) -> None:
    target = start(server, tmp_path, handshake_timeout=0.7)

    def hold(data: bytes, drip: bytes) -> tuple[float, int]:
        started = time.monotonic()
        with RawClient(target.port, handshake=False) as raw:
            raw.send(data)
            raw.socket.settimeout(0.05)
            while time.monotonic() - started < 8:
                try:
                    received = raw.socket.recv(4096)
                except TimeoutError:
                    # A byte now and then does not prolong it.
                    raw.send_as_far_as_possible(drip)
                    continue
                except ConnectionError:
                    received = b""
                status = int(received.split(b" ")[1]) if received else 0
                return time.monotonic() - started, status
        raise AssertionError("held for eight seconds")

    cases = [
        (b"", b""),
        (b"GET /v1/ws HT", b""),
        (upgrade_head()[:-2], b""),
        (b"GET / HTTP/1.1\r\nX: ", b"x"),
    ] * 20
    async with nobody_else_notices(target):
        results = await asyncio.gather(*(in_thread(hold, *case) for case in cases))
    for (data, _), (_, status) in zip(cases, results, strict=True):
        # Who has said nothing is not answered: a browser opens connections ahead of need.
        assert status == (408 if data else 0)
    assert all(0.6 < seconds < 2.5 for seconds, _ in results)


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        (upgrade_head("/v2/ws"), 404, "NOT_FOUND"),
        (upgrade_head("/"), 404, "NOT_FOUND"),
        (upgrade_head("/v1/ws/x"), 404, "NOT_FOUND"),
        (upgrade_head("//v1/ws"), 404, "NOT_FOUND"),
        (upgrade_head(upgrade=None), 426, "UPGRADE_REQUIRED"),
        (upgrade_head(connection="close"), 426, "UPGRADE_REQUIRED"),
        (upgrade_head(sec_websocket_version="8"), 426, "UPGRADE_REQUIRED"),
        (upgrade_head(sec_websocket_version=None), 426, "UPGRADE_REQUIRED"),
        (upgrade_head(sec_websocket_key=None), 400, "BAD_REQUEST"),
        (upgrade_head(sec_websocket_key="short"), 400, "BAD_REQUEST"),
        (upgrade_head(host=None), 400, "BAD_REQUEST"),
        (upgrade_head(origin="https://evil.example"), 403, "ORIGIN_NOT_ALLOWED"),
        (upgrade_head().replace(b"GET", b"POST"), 405, "METHOD_NOT_ALLOWED"),
        (upgrade_head().replace(b"HTTP/1.1", b"HTTP/1.0"), 505, "HTTP_VERSION_NOT_SUPPORTED"),
        (upgrade_head().replace(b"\r\nhost", b"\nhost"), 400, "BAD_REQUEST"),
        (upgrade_head().replace(b"localhost", b"local\x00host"), 400, "BAD_REQUEST"),
    ],
)
def test_upgrades_that_are_refused(target: Server, head: bytes, status: int, code: str) -> None:
    with RawClient(target.port, handshake=False) as raw:
        raw.send(head)
        found, headers, body = raw.read_response()
        assert (found, json.loads(body)["error"]["code"]) == (status, code)
        assert headers["content-type"].startswith("application/json")


# Frames.

WRONG_FRAMES = {
    "not masked": (frame(TEXT, b'{"type":"ping"}', mask=None), 1002),
    "binary": (frame(BINARY, b"\x00"), 1003),
    "binary, begun": (frame(BINARY, b"", fin=False), 1003),
    "bad UTF-8": (frame(TEXT, b'{"type":"\xff"}'), 1007),
    "overlong UTF-8": (frame(TEXT, b"\xc0\xaf"), 1007),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "cut UTF-8": (frame(TEXT, b"\xe2\x82"), 1007),
    "bad UTF-8 over fragments": (frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"x"), 1007),
    "a byte too big": (frame(TEXT, b"x" * (MESSAGE_BYTES + 1)), 1009),
    "too big, said only": (frame(TEXT, size=MESSAGE_BYTES + 1), 1009),
    "too big over fragments": (
        frame(TEXT, b"x" * MESSAGE_BYTES, fin=False) + frame(CONTINUATION, b"x"),
        1009,
    ),
    "a gigabyte": (frame(TEXT, b"x" * 100, size=1 << 30), 1009),
    "as much as 63 bits say": (frame(TEXT, b"", size=(1 << 63) - 1), 1009),
    "a length of 64 bits": (frame(TEXT, b"", size=1 << 63), 1002),
    "a length written too long": (frame(TEXT, b"xx", size_bytes=2), 1002),
    "a length written much too long": (frame(TEXT, b"xx", size_bytes=8), 1002),
    "RSV1": (frame(TEXT, b"{}", rsv=0x40), 1002),
    "RSV2": (frame(TEXT, b"{}", rsv=0x20), 1002),
    "RSV3 on a ping": (frame(PING, rsv=0x10), 1002),
    "opcode 3": (frame(3), 1002),
    "opcode 11": (frame(11), 1002),
    "a ping in pieces": (frame(PING, fin=False), 1002),
    "a ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a message within another": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close with 1005": (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
    "a close with 999": (frame(CLOSE, (999).to_bytes(2, "big")), 1002),
    "a close with 5000": (frame(CLOSE, (5000).to_bytes(2, "big")), 1002),
    "a close with bad UTF-8": (frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"), 1007),
}


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "byte by byte"])
async def test_wrong_frames_close_with_their_code(target: Server, at_once: bool) -> None:
    def attack(data: bytes) -> int:
        with RawClient(target.port) as raw:
            if at_once:
                # What comes behind is not looked at any more.
                raw.send_as_far_as_possible(data + frame(TEXT, b'{"type":"ping"}') * 50)
            else:
                raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for place in range(min(len(data), 200)):
                    if raw.send_as_far_as_possible(data[place : place + 1]) == 0:
                        break
                raw.send_as_far_as_possible(data[200:])
            return raw.read_close_code()

    async with nobody_else_notices(target):
        for name, (data, code) in WRONG_FRAMES.items():
            assert await in_thread(attack, data) == code, name
        await in_thread(until_alone, target)


async def test_good_frames_in_odd_shapes_are_understood(target: Server) -> None:
    def attack() -> None:
        with RawClient(target.port) as raw:
            assert raw.read_message()["type"] == "connection"
            whole = b'{"type":"ping","id":"\xe2\x82\xac"}'
            for pieces in range(2, len(whole), 5):
                cut = [whole[i : i + pieces] for i in range(0, len(whole), pieces)]
                data = frame(TEXT, cut[0], fin=False) + frame(PING, b"between")
                for piece in cut[1:]:
                    data += frame(CONTINUATION, piece, fin=False)
                raw.send(data + frame(CONTINUATION, b"", mask=b"\0\0\0\0"))
                pong, answer = raw.read_frame(), raw.read_frame()
                assert pong is not None
                assert (pong.opcode, pong.payload) == (PONG, b"between")
                assert answer is not None
                assert json.loads(answer.payload)["id"] == "€"
            big = json.dumps({"type": "ping", "id": "big", "x": "y" * 65000}).encode()
            raw.send(frame(TEXT, big + b" " * (MESSAGE_BYTES - len(big))))
            assert raw.read_message()["id"] == "big"
            raw.send(frame(CLOSE, (4000).to_bytes(2, "big") + b"bye"))
            assert raw.read_close_code() == 4000

    async with nobody_else_notices(target):
        await in_thread(attack)


async def test_random_bytes_instead_of_frames(target: Server) -> None:
    rng = random.Random(2)

    def attack() -> list[int]:
        codes = []
        for _ in range(150):
            with RawClient(target.port) as raw:
                # Some of it looks like a frame at first.
                head = rng.choice(
                    (b"", b"\x81", b"\x81\xfe", b"\x81\xff\0\0\0\0", b"\x01\x85", b"\x88\x82", b"\x89\x80")
                )
                raw.send_as_far_as_possible(head + rng.randbytes(rng.choice((1, 7, 100, 5000))))
                raw.socket.shutdown(socket.SHUT_WR)
                codes.append(raw.read_close_code())
        return codes

    async with nobody_else_notices(target):
        codes = await in_thread(attack)
        # An incomplete frame is no mistake; the end of the stream in it is an abnormal closure. A random close frame
        # is answered with its own code.
        assert {code for code in codes if code < 3000} <= {
            1002,
            1003,
            1007,
            1009,
            ABNORMAL,
            *range(1000, 1015),
        }
        assert {1002, 1007} <= set(codes)
        await in_thread(until_alone, target)


async def test_frames_cut_anywhere_by_the_end_of_the_connection(target: Server) -> None:
    data = frame(TEXT, b'{"type":"subscribe","subscription_type":"stock","targets":["S00","S01"]}')

    def attack() -> None:
        for size in range(len(data) + 1):
            raw = RawClient(target.port)
            raw.send(data[:size])
            raw.reset() if size % 2 else raw.close()

    async with nobody_else_notices(target):
        await in_thread(attack)
        await in_thread(until_alone, target)


async def test_claimed_lengths_cost_nothing(target: Server) -> None:
    # 400 clients claim messages of the full size, and send their first byte.
    async with nobody_else_notices(target, 8 << 20), AsyncExitStack() as stack:
        for _ in range(400):
            raw = stack.enter_context(await in_thread(RawClient, target.port))
            raw.send(frame(TEXT, b"{", size=MESSAGE_BYTES))
        assert target.stats()["active_connections"] == 401


# Messages.


def nested(opening: str, closing: str, depth: int) -> str:
    return opening * depth + closing * depth


WRONG_TEXTS = [
    "",
    " ",
    "{",
    "null",
    "true",
    "1e999",
    "-",
    '"text"',
    "[]",
    '{"type":"ping"} {"type":"ping"}',
    '{"type":"ping",}',
    "{'type':'ping'}",
    '{"type":"ping"',
    '\ufeff{"type":"ping"}',
    '{"type":"ping","id":"\\ud800"}',
    '{"type":"ping","id":1e999}',
    '{"type":"ping","id":' + "9" * 60_000 + "}",
    '{"type":"ping","id":NaN}',
    '{"type":{"type":"ping"}}',
    '{"type":"subscribe","subscription_type":"stock","targets":{"0":"S00"}}',
    '{"type":"subscribe","subscription_type":"stock","targets":["S00"],"max_rate":1e-300}',
    '{"type":"subscribe","subscription_type":"stock","targets":["S00"],"max_rate":1e300}',
    '{"type":"subscribe","subscription_type":["stock"],"targets":["S00"]}',
    nested("[", "]", 30_000),
    nested('{"a":', "}", 9_000),
    '{"type":"ping","x":' + nested("[", "]", 30_000) + "}",
    '{"type":"ping","id":' + nested("[", "]", 30_000) + "}",
    '{"type":"subscribe","subscription_type":"stock","targets":' + nested("[", "]", 30_000) + "}",
    '{"type":"set_subscriptions","subscriptions":' + nested('{"stock":', "}", 5_000) + "}",
    "[" * 60_000,
    '{"type":' * 8_000,
]


async def test_wrong_texts_are_answered_and_the_connection_goes_on(target: Server) -> None:
    async with nobody_else_notices(target), client(target.url) as connection:
        for text in WRONG_TEXTS:
            assert len(text.encode()) <= MESSAGE_BYTES
            await connection.connection.send(text)
            answer = await connection.receive()
            assert (answer["type"], answer["code"]) == ("error", "INVALID_MESSAGE"), text[:80]
            assert len(json.dumps(answer)) < 1000, text[:80]
        await connection.sync()


async def test_thousands_of_unknown_targets(target: Server) -> None:
    async with nobody_else_notices(target), client(target.url) as connection:
        targets = [f"{number:x}" for number in range(8000)]
        for _ in range(5):
            await connection.subscribe("stock", *targets)
            answer = await connection.receive()
            assert answer["code"] == "SUBSCRIPTION_FAILED"
            assert len(answer["details"]["rejected"]) == len(targets)
            await connection.unsubscribe("stock", *targets)
            assert (await connection.receive())["type"] == "unsubscribed"
        # Nothing stays behind of symbols that do not exist.
        assert target.get("/v1/stocks/1f3f")[0] == 404


# Floods.


async def test_floods_of_control_frames_and_fragments(target: Server) -> None:
    """Over 200 a second: 4429, whatever kind they are; under it each ping is answered."""
    kinds = {
        "pings": frame(PING, b"x" * 100) * 2000,
        "pongs": frame(PONG) * 2000,
        "fragments": frame(TEXT, b"", fin=False) + frame(CONTINUATION, b"", fin=False) * 2000,
        "both": frame(TEXT, b"", fin=False) + (frame(PING) + frame(CONTINUATION, b"x", fin=False)) * 1000,
    }

    def attack(data: bytes) -> int:
        with RawClient(target.port) as raw:
            raw.send_as_far_as_possible(data)
            return raw.read_close_code()

    def behave() -> int:
        with RawClient(target.port) as raw:
            raw.send(frame(PING, b"x") * 150)
            n = 0
            while n < 150:
                received = raw.read_frame()
                assert received is not None
                n += received.opcode == PONG
            return n

    async with nobody_else_notices(target):
        assert await in_thread(behave) == 150
        for name, data in kinds.items():
            assert await in_thread(attack, data) == 4429, name
        await in_thread(until_alone, target)


async def test_ten_times_the_rate_limit_for_ten_seconds(server: StartServer, tmp_path: Path) -> None:
    target = start(server, tmp_path, rate_limit=10)

    async def send(per_second: int, seconds: float) -> tuple[float, int | None, int]:
        """Send at a rate; returns when it ended, the close code, and how often the limit was told."""
        n_told = 0
        async with client(target.url) as connection:
            started = time.monotonic()

            async def receive() -> int:
                nonlocal n_told

                def count(message: dict[str, Any]) -> None:
                    nonlocal n_told
                    n_told += message.get("code") == "RATE_LIMIT_EXCEEDED"

                connection.on_message = count
                return await connection.closed(60)

            receiving = asyncio.create_task(receive())
            n_sent = 0
            while not receiving.done() and time.monotonic() - started < seconds:
                with contextlib.suppress(ConnectionClosed):  # which `receiving` tells as well
                    while n_sent < (time.monotonic() - started) * per_second:
                        await connection.connection.send('{"type":"ping"}')
                        n_sent += 1
                await asyncio.wait((receiving,), timeout=0.02)
            elapsed = time.monotonic() - started
            await connection.connection.close()
            code = await receiving
        return elapsed, code, n_told

    async with nobody_else_notices(target):
        abuser, lively = await asyncio.gather(send(130, 20), send(60, 12))
    elapsed, code, n_told = abuser
    assert code == 4429
    assert 9 <= elapsed < 14
    assert elapsed - 2 <= n_told <= elapsed + 1
    # Six times the limit is answered and borne.
    elapsed, code, n_told = lively
    assert code == 1000
    assert elapsed - 2 <= n_told <= elapsed + 1


async def test_connections_that_come_and_go(target: Server) -> None:
    def attack(number: int) -> None:
        for place in range(75):
            raw = RawClient(target.port, handshake=place % 3 != 0)
            if place % 3:
                raw.send_message(type="subscribe", subscription_type="stock", targets=CODES[: place % 12 + 1])
            raw.reset() if (place + number) % 2 else raw.close()

    async with nobody_else_notices(target):
        await asyncio.gather(*(in_thread(attack, number) for number in range(8)))
        await in_thread(until_alone, target)
        assert target.stats()["total_subscriptions"] == len(CODES)


# Clients that do not read.

CHANNELS = {"price": "price_update", "orderbook": "orderbook_update"}


class Losses:
    """What a slow client got and what was declared lost, per symbol and message type."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, str], list[int]] = {}
        self.ranges: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
        self.n_overflows = 0
        self.has_ended = False

    def take(self, message: dict[str, Any]) -> None:
        if message["type"] == "overflow":
            self.n_overflows += 1
            assert list(message) == ["type", "items", "timestamp"]
            for item in message["items"]:
                assert list(item) == ["code", "channel", "dropped", "from_seq", "to_seq"]
                key = (item["code"], CHANNELS[item["channel"]])
                self.ranges.setdefault(key, []).append((item["dropped"], item["from_seq"], item["to_seq"]))
            return
        for update in message["messages"] if message["type"] == "batch" else [message]:
            if update.get("status") == "stopped":
                self.has_ended = True
            if "seq" in update:
                self.seen.setdefault((update["code"], update["type"]), []).append(update["seq"])

    def check(self, keys: Iterable[tuple[str, str]]) -> None:
        """Every hole is declared, with its exact ends and count, and nothing else is."""
        for key in keys:
            seqs = self.seen[key]
            assert seqs == sorted(set(seqs)), key
            holes = [(b - a - 1, a + 1, b - 1) for a, b in itertools.pairwise(seqs) if b > a + 1]
            declared = sorted(self.ranges.get(key, []), key=lambda item: item[1])
            # One hole may be declared in several parts, when more was dropped before the client had read all.
            merged: list[tuple[int, int, int]] = []
            for dropped, first, last in declared:
                assert dropped == last - first + 1, (key, dropped, first, last)
                if merged and merged[-1][2] + 1 == first:
                    merged[-1] = (merged[-1][0] + dropped, merged[-1][1], last)
                else:
                    merged.append((dropped, first, last))
            assert merged == holes, key


def until_lost(server: Server, n: int) -> None:
    """Read nothing until the server had to drop `n` more updates."""
    before = server.stats()["updates"]["lost"]
    until(
        lambda: server.stats()["updates"]["lost"] >= before + n, "losses of a client that does not read", 20
    )


def take_snapshot(raw: RawClient, losses: Losses) -> None:
    """Read up to the next snapshot: the first loss may lie right behind it."""
    while True:
        message = raw.read_message()
        losses.take(message)
        if "snapshot" in message:
            return


def catch_up(raw: RawClient, losses: Losses, keys: set[tuple[str, str]]) -> None:
    """Read until an overflow was declared and live updates of every kind came behind it."""
    after: dict[tuple[str, str], int] = {}
    n_overflows = losses.n_overflows
    deadline = time.monotonic() + 20
    while len(after) < len(keys) or min(after.values()) < 5:
        assert time.monotonic() < deadline, (losses.n_overflows, after)
        message = raw.read_message()
        losses.take(message)
        if losses.n_overflows > n_overflows and message["type"] != "overflow":
            for update in message["messages"] if message["type"] == "batch" else [message]:
                key = (update.get("code", ""), update["type"])
                if key in keys:
                    after[key] = after.get(key, 0) + 1


async def test_who_stops_reading_is_told_exactly_what_was_lost(
    server: StartServer, tmp_path: Path, over: dict[str, str]
) -> None:
    target = start(server, tmp_path, simulator_rate=3000, **over)
    keys = {(code, kind) for code in CODES for kind in CHANNELS.values()}
    losses = Losses()

    def attack() -> None:
        with RawClient(target.port, tls=target.tls, receive_buffer=4096) as raw:
            raw.send_message(type="subscribe", subscription_type="stock", targets=CODES)
            take_snapshot(raw, losses)
            for n in (300, 1, 1500):
                until_lost(target, n)
                catch_up(raw, losses, keys)

    async with nobody_else_notices(target):
        await in_thread(attack)
    losses.check(keys)
    assert losses.n_overflows >= 3


@pytest.mark.parametrize("options", [{"mode": "latest"}, {"max_rate": 1}], ids=str)
async def test_who_stops_reading_with_both_modes_is_told_exactly_what_was_lost(
    server: StartServer, tmp_path: Path, options: dict[str, object]
) -> None:
    target = start(server, tmp_path, simulator_rate=6000)
    complete = {(code, kind) for code in CODES[:6] for kind in CHANNELS.values()}
    conflated = {(code, kind) for code in CODES[6:] for kind in CHANNELS.values()}
    losses = Losses()

    def attack() -> None:
        with RawClient(target.port, receive_buffer=4096) as raw:
            raw.send_message(type="subscribe", subscription_type="stock", targets=CODES[:6])
            raw.send_message(type="subscribe", subscription_type="stock", targets=CODES[6:], **options)
            take_snapshot(raw, losses)
            take_snapshot(raw, losses)
            for _ in range(2):
                # More than a second's worth: with max_rate 1, what is lost lies on both sides of a newest value.
                until_lost(target, 5000)
                catch_up(raw, losses, complete)

    async with nobody_else_notices(target):
        await in_thread(attack)
    # Of mode `latest` nothing is declared, because the newest value comes; and it is in order.
    assert not set(losses.ranges) & conflated
    for key in conflated:
        assert losses.seen[key] == sorted(set(losses.seen[key]))
    losses.check(complete)


async def test_who_changes_subscriptions_without_reading_is_told_exactly_what_was_lost(
    server: StartServer, tmp_path: Path
) -> None:
    target = start(server, tmp_path, simulator_rate=6000)
    keys = {(code, kind) for code in CODES[:4] for kind in CHANNELS.values()}
    losses = Losses()

    def attack() -> None:
        with RawClient(target.port, receive_buffer=4096) as raw:
            raw.send_message(type="subscribe", subscription_type="stock", targets=CODES[:4])
            take_snapshot(raw, losses)
            for turn in range(20):
                until_lost(target, 100)
                kind = ("subscribe", "unsubscribe")[turn % 2]
                raw.send_message(type=kind, subscription_type="stock", targets=CODES[4:8], id=turn)
            catch_up(raw, losses, keys)
            raw.send_message(type="list_subscriptions")
            while (message := raw.read_message())["type"] != "subscriptions":
                losses.take(message)
            assert sorted(message["subscriptions"]["stock"]) == CODES[:4]

    async with nobody_else_notices(target):
        await in_thread(attack)
    losses.check(keys)


async def test_who_reads_by_fits_and_starts_has_the_last_value_of_everything_in_the_end(
    server: StartServer, tmp_path: Path
) -> None:
    """What was put together for a slow client and is then overtaken by more must not take a last value with it."""
    kinds = list(CHANNELS.values())
    # Every symbol of mode `latest` falls silent at another time, so that nothing later makes up for a loss.
    lines, sizes = [], {code: 3000 if code in CODES[:6] else 200 * place for place, code in enumerate(CODES)}
    levels = [{"price": 100 + level, "quantity": 1} for level in range(10)]
    for number in range(3000):
        for code in CODES:
            if number < sizes[code]:
                body: dict[str, object] = {"code": code, "price": number, "note": "x" * 200, "type": kinds[0]}
                if number % 2:
                    body = {"code": code, "bids": levels, "asks": [], "type": kinds[1]}
                lines.append(f"@{1500 + number} {json.dumps(body)}")
    feed = tmp_path / "feed.replay"
    await asyncio.to_thread(
        feed.write_text, "\n".join(['@0 {"type":"market_status","market":"X","status":"x"}', *lines])
    )
    target = server("--feed", f"replay:{feed}", unknown_symbols="accept", rate_limit=0)
    losses = Losses()

    def attack() -> None:
        with RawClient(target.port, receive_buffer=4096) as raw:
            for codes, mode in ((CODES[:6], "all"), (CODES[6:], "latest")):
                raw.send_message(type="subscribe", subscription_type="stock", targets=codes, mode=mode)
                take_snapshot(raw, losses)
            while target.stats()["feeds"] != {"replay": "stopped"}:
                # Half a megabyte a second of the two and more that are published.
                losses.take(raw.read_message())
                time.sleep(0.08)
            while not losses.has_ended:
                losses.take(raw.read_message())

    await in_thread(attack)
    # 3,000 numbers, of which every other one is a price.
    for code in CODES:
        for kind in kinds:
            assert losses.seen[code, kind][-1] == sizes[code] // 2, (code, kind)
    losses.check((code, kind) for code in CODES[:6] for kind in kinds)
    assert not {code for code, _ in losses.ranges} & set(CODES[6:])
    assert losses.n_overflows > 1


async def test_latest_gets_the_newest_values_after_a_stall(server: StartServer, tmp_path: Path) -> None:
    target = start(server, tmp_path, simulator_rate=3000)

    def attack() -> None:
        with RawClient(target.port, receive_buffer=4096) as raw:
            raw.send_message(type="subscribe", subscription_type="stock", targets=CODES, mode="latest")
            for _ in range(2):
                raw.read_message()
            until(lambda: target.stats()["queued_bytes"] > 0, "a full socket", 20)
            conflated = target.stats()["updates"]["conflated"]
            until(lambda: target.stats()["updates"]["conflated"] > conflated + 3000, "conflation", 20)
            sequence = target.stats()["sequence"]
            newest: dict[tuple[str, str], int] = {}
            # What the kernels of both ends hold is old; what comes next is new.
            while True:
                message = raw.read_message()
                assert message["type"] != "overflow"
                inside = message["messages"] if message["type"] == "batch" else [message]
                for update in inside:
                    key = (update["code"], update["type"])
                    assert update["seq"] > newest.get(key, 0)
                    newest[key] = update["seq"]
                if max(update["sequence"] for update in inside) > sequence:
                    break

    async with nobody_else_notices(target):
        await in_thread(attack)


async def test_who_never_reads_is_closed_and_costs_little_meanwhile(
    server: StartServer, tmp_path: Path, over: dict[str, str]
) -> None:
    target = start(server, tmp_path, simulator_rate=3000, stall_timeout=1.5, outbox_soft_bytes=65536, **over)
    n = 30

    def never_read() -> RawClient:
        raw = RawClient(target.port, tls=target.tls, receive_buffer=4096)
        raw.send_message(type="subscribe", subscription_type="stock", targets=CODES)
        return raw

    async with nobody_else_notices(target), AsyncExitStack() as stack:
        clients = [stack.enter_context(closing(await in_thread(never_read))) for _ in range(n)]
        # Each is looked at once a second, however many others end at the same time: the sockets are full after
        # half a second, then come the timeout and at most one more look.
        await in_thread(
            until, lambda: target.stats()["closes"].get("4408") == n, "4408 for those that do not read", 4.0
        )
        codes = [await in_thread(raw.read_close_code) for raw in clients]
        # Its place behind the data that is not read is where a close frame does not arrive.
        assert set(codes) <= {4408, ABNORMAL}
        await in_thread(until_alone, target)
        assert target.stats()["queued_bytes"] == 0


def send_queues(port: int) -> list[int]:
    """Bytes in the kernel's send queue of each established connection of a server."""
    queues = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "01":
            queues.append(int(fields[4].partition(":")[0], 16))
    return queues


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's queues are read from Linux's /proc/net/tcp")
async def test_the_kernel_holds_little_for_who_does_not_read(
    server: StartServer, tmp_path: Path, over: dict[str, str]
) -> None:
    """Else a stopped reader costs megabytes that no limit of ours sees, and reads stale values when it goes on."""
    target = start(server, tmp_path, simulator_rate=5000, **over)

    def attack() -> int:
        with RawClient(target.port, tls=target.tls) as raw:
            raw.send_message(type="subscribe", subscription_type="stock", targets=CODES)
            until_lost(target, 1000)
            return max(send_queues(target.port))

    async with nobody_else_notices(target):
        assert await in_thread(attack) < 300 << 10


async def test_who_reads_slowly_but_steadily_is_kept(
    server: StartServer, tmp_path: Path, over: dict[str, str]
) -> None:
    target = start(server, tmp_path, simulator_rate=3000, stall_timeout=1.2, **over)

    def attack() -> int:
        """Read 100 KB a second of about 1 MB a second, for several times the stall timeout."""
        with RawClient(target.port, tls=target.tls, receive_buffer=16384) as raw:
            raw.send_message(type="subscribe", subscription_type="stock", targets=CODES)
            n, started = 0, time.monotonic()
            while (elapsed := time.monotonic() - started) < 5:
                if n < 100_000 * elapsed:
                    data = raw.read_some(4096)
                    assert data, f"closed after {elapsed:.1f} s, while it was reading"
                    n += len(data)
                else:
                    time.sleep(0.01)
            return n

    async with nobody_else_notices(target):
        assert await in_thread(attack) > 400_000
        assert "4408" not in target.stats()["closes"]


# Silence.


async def test_pings_are_sent_and_have_to_be_answered(server: StartServer, tmp_path: Path) -> None:
    target = start(server, tmp_path, ping_interval=0.5, pong_timeout=2.5)

    def silent() -> tuple[int, int, float]:
        with RawClient(target.port) as raw:
            raw.send_message(type="subscribe", subscription_type="market", targets=["KOSDAQ"])
            started, n_pings = time.monotonic(), 0
            for received in raw.frames():
                n_pings += received.opcode == PING
                if received.opcode == CLOSE:
                    return n_pings, received.code, time.monotonic() - started
            return n_pings, ABNORMAL, time.monotonic() - started

    def talking(reply: bytes) -> int:
        """Answer in some way for several times the timeout; returns how many pings came."""
        with RawClient(target.port) as raw:
            raw.send_message(type="subscribe", subscription_type="market", targets=["KOSDAQ"])
            started, n_pings = time.monotonic(), 0
            while time.monotonic() - started < 5:
                received = raw.read_frame()
                assert received is not None
                assert received.opcode != CLOSE, received
                if received.opcode == PING:
                    n_pings += 1
                    raw.send(reply or frame(PONG, received.payload))
            return n_pings

    async with nobody_else_notices(target):
        quiet, *lively = await asyncio.gather(
            in_thread(silent), in_thread(talking, b""), in_thread(talking, frame(TEXT, b'{"type":"ping"}'))
        )
    n_pings, code, seconds = quiet
    assert code == 4409
    assert n_pings >= 1
    # It is looked at once a second, and once more when another one's end has moved it.
    assert 2.4 < seconds < 5.0
    assert all(n >= 3 for n in lively)


async def test_who_never_subscribes_is_closed_when_idle(server: StartServer, tmp_path: Path) -> None:
    target = start(server, tmp_path, idle_timeout=1.0)

    async def stay(*requests: dict[str, object], again: float | None = None) -> tuple[int, float]:
        """Send something, perhaps repeatedly; returns the close code, 0 when it was kept, and when."""
        started = time.monotonic()
        async with client(target.url) as connection:
            receiving = asyncio.create_task(connection.closed(30))
            for request in requests:
                await connection.send(**request)
            while not receiving.done() and time.monotonic() - started < 3.5:
                await asyncio.wait((receiving,), timeout=again or 0.5)
                if again is not None and not receiving.done():
                    await connection.send(**requests[0])
            if not receiving.done():
                receiving.cancel()
                return 0, 3.5
            return await receiving, time.monotonic() - started

    subscribe: dict[str, object] = {"type": "subscribe", "subscription_type": "stock", "targets": ["S00"]}
    unsubscribe = subscribe | {"type": "unsubscribe"}
    async with nobody_else_notices(target):
        silent, talking, subscribed, unsubscribed = await asyncio.gather(
            stay(), stay({"type": "ping"}, again=0.5), stay(subscribe), stay(subscribe, unsubscribe)
        )
    assert silent[0] == 4409
    assert 0.9 < silent[1] < 3.4
    assert [talking[0], subscribed[0], unsubscribed[0]] == [0, 0, 0]


def test_masks_and_sizes_of_the_raw_client() -> None:
    """The tools of this file, against the example of RFC 6455 section 5.7."""
    assert frame(TEXT, b"Hello", mask=bytes.fromhex("37fa213d")) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert frame(TEXT, b"Hello", mask=None) == bytes.fromhex("810548656c6c6f")
    payload = os.urandom(70_000)
    for size in (0, 125, 126, 65535, 65536):
        assert len(frame(BINARY, payload[:size])) == size + 4 + (
            2 if size < 126 else 4 if size < 65536 else 10
        )
