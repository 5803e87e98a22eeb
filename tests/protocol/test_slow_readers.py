"""Clients that do not read: what they lose is told exactly, they cost little, and nobody else notices."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from attacks import CODES, in_thread, nobody_else_notices, start, until_alone

from tests.conftest import StartServer
from tests.rawclient import (
    ABNORMAL,
    RawClient,
)
from tests.serving import Server, until

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
            if merged and merged[-1][1] == seqs[-1] + 1:
                holes.append(merged[-1])  # nothing of this stream has come behind it yet
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
        with target.raw_client(receive_buffer=4096) as raw:
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
    server: StartServer, tmp_path: Path, options: dict[str, object], over: dict[str, str]
) -> None:
    target = start(server, tmp_path, simulator_rate=3000, **over)
    complete = {(code, kind) for code in CODES[:6] for kind in CHANNELS.values()}
    conflated = {(code, kind) for code in CODES[6:] for kind in CHANNELS.values()}
    losses = Losses()

    def attack() -> None:
        with target.raw_client(receive_buffer=4096) as raw:
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
    server: StartServer, tmp_path: Path, over: dict[str, str]
) -> None:
    target = start(server, tmp_path, simulator_rate=3000, **over)
    keys = {(code, kind) for code in CODES[:4] for kind in CHANNELS.values()}
    losses = Losses()

    def attack() -> None:
        with target.raw_client(receive_buffer=4096) as raw:
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
    server: StartServer, tmp_path: Path, over: dict[str, str]
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
    target = server("--feed", f"replay:{feed}", unknown_symbols="accept", rate_limit=0, **over)
    losses = Losses()

    def attack() -> None:
        with target.raw_client(receive_buffer=4096) as raw:
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


async def test_latest_gets_the_newest_values_after_a_stall(
    server: StartServer, tmp_path: Path, over: dict[str, str]
) -> None:
    target = start(server, tmp_path, simulator_rate=3000, **over)

    def attack() -> None:
        with target.raw_client(receive_buffer=4096) as raw:
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
        raw = target.raw_client(receive_buffer=4096)
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
        with target.raw_client() as raw:
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
        with target.raw_client(receive_buffer=16384) as raw:
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
