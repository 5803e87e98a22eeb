"""The conservation law of updates, at moments when something waits everywhere that it can."""

from __future__ import annotations

import asyncio
from typing import Any

from core_harness import Bench, bench
from listening import scenario

from fastws._core import CHANNEL_PRICE


def account(made: Bench, name: str) -> dict[str, int]:
    """What became of the updates of one channel."""
    (line,) = [line for line in made.hub.audit(channels=True)["channels"] if line["key"] == name]
    found: dict[str, int] = {key: n for key, n in line.items() if isinstance(n, int)}
    return found


def adds_up(line: dict[str, int]) -> bool:
    return line["due"] == sum(
        line[part] for part in ("flushed", "conflated", "dropped", "unflushed", "pending")
    )


@scenario
async def test_what_waits_for_a_flush() -> None:
    async with bench(interval_ms=3000) as made:
        every, newest, paced = await made.connect(), await made.connect(), await made.connect()
        made.subscribe(every, "A", "B")
        made.subscribe(newest, "A", latest=True)
        made.subscribe(paced, "A", max_rate=0.1)
        made.publish("A", 1)
        await every.next()
        await newest.next()
        await paced.next()
        for number in range(2, 12):
            made.publish("A", number)
        made.publish("B", 1)
        line = account(made, "A")
        assert adds_up(line)
        assert (line["published"], line["due"], line["flushed"], line["pending"]) == (11, 33, 3, 30)
        assert account(made, "B")["pending"] == 1
        # One of three leaves: it takes what waits along, and its cohort is no more.
        newest.connection.set_subscriptions({})
        line = account(made, "A")
        assert adds_up(line)
        assert (line["unflushed"], line["conflated"], line["pending"]) == (1, 9, 20)
        made.check_ledger()
        await made.flushed()
        line = account(made, "A")
        assert adds_up(line)
        assert (line["flushed"], line["conflated"], line["pending"]) == (3 + 10 + 1, 18, 0)


@scenario
async def test_what_waits_for_a_slow_client() -> None:
    async with bench(
        send_buffer=8192, outbox_soft_size=20_000, outbox_hard_size=10_000_000, interval_ms=0
    ) as made:
        slow, other = await made.connect(receive_buffer=4096), await made.connect()
        made.subscribe(slow, "A", "B")
        made.subscribe(other, "A", "B")
        number = 0
        while slow.connection.ledger()["lost"] < 500:
            number += 1
            made.publish("AB"[number % 2], number)
            await asyncio.sleep(0)
            if number % 100 == 0:
                made.check_ledger()
        ledger = slow.connection.ledger()
        assert ledger["declared"] < ledger["lost"]
        assert ledger["waiting"] > 0
        assert account(made, "A")["lost"] + account(made, "B")["lost"] == made.hub.ledger()["lost"]
        made.check_ledger()
        n_told = 0
        while slow.connection.ledger()["waiting"] or slow.connection.ledger()["declared"] < ledger["lost"]:
            await slow.read(2000)
            await other.read(1 << 20) if other.connection.queued_bytes else None
            made.check_ledger()
        await slow.drain()
        n_told = sum(
            item["dropped"]
            for each in slow.messages
            if each.get("type") == "overflow"
            for item in each["items"]
        )
        assert n_told == slow.connection.ledger()["declared"] == slow.connection.ledger()["lost"]
        assert made.hub.audit()["connections"]["declared"] == made.hub.ledger()["lost"]


@scenario
async def test_what_an_ended_connection_leaves() -> None:
    async with bench(send_buffer=8192, interval_ms=0) as made:
        slow = await made.connect(receive_buffer=4096)
        made.subscribe(slow, "A")
        while slow.connection.ledger()["waiting"] < 100:
            made.publish("A", 1)
            await asyncio.sleep(0)
        slow.connection.abort(4408)
        assert made.check_ledger()["undelivered"] >= 100
        assert adds_up(account(made, "A"))


@scenario
async def test_private_channels_are_one_line() -> None:
    async with bench() as made:
        owner = await made.connect()
        channels: list[Any] = []
        for name in ("1", "2"):
            topic = made.hub.topic("portfolio", name)
            channels.append(
                made.hub.channel(name, "value", (topic,), bit=CHANNEL_PRICE, numbered=True, private=True)
            )
        owner.connection.set_subscriptions({made.hub.topic("portfolio", "1"): made.hub.options(latest=True)})
        for channel in channels:
            made.hub.publish(channel, 1)
        await owner.next()
        (line,) = made.hub.audit(channels=True)["channels"]
        assert (line["key"], line["channel"], line["published"], line["due"]) == (None, "value", 2, 1)


@scenario
async def test_what_never_came_is_told_apart() -> None:
    async with bench(interval_ms=0) as made:
        client = await made.connect()
        made.subscribe(client, "A")
        made.publish("A", 1)
        made.hub.note_missed(made.channel("A"), 5)
        made.publish("A", 2)
        await client.drain()
        line = account(made, "A")
        assert (line["published"], line["absent"], line["flushed"]) == (2, 5, 2)
        ledger = client.connection.ledger()
        assert (ledger["lost"], ledger["declared"], ledger["delivered"]) == (5, 5, 2)
