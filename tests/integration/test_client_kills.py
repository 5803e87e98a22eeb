"""The Python client on a bad network, under load: what it yields against what another client, undisturbed, was sent."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.scenarios.faultproxy import FaultProxy
from fastws.client import (
    Backoff,
    Client,
    Gap,
    Interrupted,
    Message,
    OrderbookUpdate,
    Overflow,
    PriceUpdate,
    Restored,
)
from tests.clients import client as other_client
from tests.clients import updates
from tests.conftest import StartServer
from tests.serving import Server

pytestmark = pytest.mark.plain("the proxy cuts frames, which TLS would hide")

CODES = ["005930", "000660", "035720"]
SOON = Backoff(0.004, 0.03)
Key = tuple[str, str]
Content = tuple[int, object]


def content(update: Message) -> tuple[Key, int, Content]:
    """Symbol and type, number, and what to compare."""
    if isinstance(update, PriceUpdate):
        return (update.code, "price_update"), update.seq, (update.sequence, update.price)
    assert isinstance(update, OrderbookUpdate)
    sides = tuple((level.price, level.quantity) for level in (*update.bids, *update.asks))
    return (update.code, "orderbook_update"), update.seq, (update.sequence, sides)


class Record:
    """What a client yields, with the rules for mode ``all``: each update once and in order, or told to be lost."""

    def __init__(self) -> None:
        self.updates: dict[Key, dict[int, Content]] = {}
        self.first: dict[Key, int] = {}
        self.counts: dict[type, int] = {}
        self.snapshots: dict[Key, int] = {}
        self.sequence = 0

    def take(self, message: Message) -> None:
        self.counts[type(message)] = self.counts.get(type(message), 0) + 1
        if isinstance(message, (Gap, Overflow)) or (isinstance(message, Restored) and not message.recovered):
            raise AssertionError(f"something is lost: {message}")
        if not isinstance(message, (PriceUpdate, OrderbookUpdate)):
            return
        key, seq, what = content(message)
        if message.snapshot:
            assert key not in self.first, "a second snapshot, though everything was recovered"
            self.first[key] = seq
            return
        assert message.sequence > self.sequence, "not in order"
        self.sequence = message.sequence
        known = self.updates.setdefault(key, {})
        assert seq not in known, f"{key} {seq} came twice"
        known[seq] = what

    def assert_like(self, sent: dict[Key, dict[int, Content]]) -> int:
        """From the snapshot on everything is there that was sent, and as it was sent; returns how much."""
        n = 0
        assert self.updates.keys() == sent.keys()
        for key, known in self.updates.items():
            last = max(known)
            wanted = {seq: what for seq, what in sent[key].items() if self.first.get(key, 0) < seq <= last}
            assert known == wanted
            n += len(known)
        return n


@asynccontextmanager
async def witness(server: Server) -> AsyncIterator[Callable[[], dict[Key, dict[int, Content]]]]:
    """A client of another make without a proxy between. Yields what gives all that it was sent."""
    sent: dict[Key, dict[int, Content]] = {}
    async with other_client(server.url) as connection:
        await connection.subscribe("stock", *CODES)
        await connection.until_snapshot()

        async def listen() -> None:
            while True:
                for update in updates(await connection.receive()):
                    if update["type"] == "price_update":
                        what: object = update["price"]
                    elif update["type"] == "orderbook_update":
                        what = tuple(
                            (level["price"], level["quantity"]) for level in update["bids"] + update["asks"]
                        )
                    else:
                        continue
                    key = (update["code"], update["type"])
                    sent.setdefault(key, {})[update["seq"]] = (update["sequence"], what)

        listening = asyncio.create_task(listen())
        try:
            yield lambda: sent
            assert not listening.done(), "the witness itself has been cut off"
        finally:
            listening.cancel()
            await asyncio.wait((listening,))


async def test_hundreds_of_kills_under_load(server: StartServer) -> None:
    started = server("--feed", "sim", simulator_rate=3000, batch_interval_ms=10)
    chance = random.Random(7)
    record = Record()
    n_kills = 0
    async with (
        witness(started) as sent,
        FaultProxy.run(started.port) as proxy,
        Client(f"ws://127.0.0.1:{proxy.port}", backoff=SOON) as client,
    ):
        await client.subscribe("stock", CODES)

        async def kill() -> None:
            nonlocal n_kills
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline and n_kills < 300:
                if not proxy.connections:
                    await asyncio.sleep(0.001)
                elif chance.random() < 0.5:
                    n_kills += proxy.kill()
                else:
                    # In the middle of a frame, or of the handshake.
                    proxy.cut_after(chance.randrange(1, 6000))
                    n_kills += 1
                await asyncio.sleep(chance.random() * 0.03)

        killing = asyncio.create_task(kill())
        async for message in client:
            record.take(message)
            if killing.done() and client.is_live:
                break
        await killing
        # All that was missed at last has come when what was published after it has.
        last = max(sequence for known in sent().values() for sequence, _ in known.values())
        async with asyncio.timeout(30):
            while record.sequence <= last:
                record.take(await anext(client))
            while max(s for known in sent().values() for s, _ in known.values()) < record.sequence:
                await asyncio.sleep(0.005)
        statistics = client.statistics
        n_updates = record.assert_like(sent())
    assert n_kills >= 100
    assert record.counts[Interrupted] >= 100
    assert n_updates > 1000
    assert statistics.repeated == 0
