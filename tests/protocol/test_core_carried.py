"""What the core does for a relay: messages encoded elsewhere, and updates of elsewhere that never came."""

from __future__ import annotations

import asyncio
from typing import Any

from core_harness import Bench, bench, updates
from listening import scenario

from fastws._core import Channel

FIRST = 1 << 12


def carry(made: Bench, name: str, value: int, stamp: int) -> int:
    return made.hub.publish_carried(
        made.channel(name), value, stamp=stamp, published_ms=1_700_000_000_000, head=b'{"carried":%d' % value
    )


def losses(messages: list[Any]) -> list[tuple[str, int, int, int]]:
    return [
        (item["code"], item["dropped"], item["from_seq"], item["to_seq"])
        for message in messages
        if message.get("type") == "overflow"
        for item in message["items"]
    ]


@scenario
async def test_the_numbers_are_of_this_hub() -> None:
    async with bench(interval_ms=5) as made:
        client = await made.connect()
        made.subscribe(client, "A")
        made.publish("A", 1)
        assert carry(made, "A", 2, 7 * FIRST) == 2
        made.publish("A", 3)
        channel: Channel = made.channel("A")
        assert (channel.seq, channel.stamp) == (3, 7 * FIRST)
        await made.flushed()
        await client.drain()
        assert updates(client.messages) == [
            {"value": 1, "pad": "x", "sequence": 1, "seq": 1},
            {"carried": 2, "sequence": 2, "seq": 2},
            {"value": 3, "pad": "xxx", "sequence": 3, "seq": 3},
        ]


@scenario
async def test_a_snapshot_and_history_have_what_was_carried() -> None:
    async with bench(interval_ms=5) as made:
        carry(made, "A", 5, FIRST)
        assert made.channel("A").last_published_ms == 1_700_000_000_000
        client = await made.connect()
        wanted = made.subscribe(client, "A")
        client.connection.send_snapshot(wanted.items())
        await client.drain()
        assert client.messages[-1]["messages"] == [{"carried": 5, "sequence": 1, "seq": 1}]
        other = await made.connect()
        assert other.connection.restore(wanted, 0)
        await other.drain()
        assert [update["carried"] for update in updates(other.messages)] == [5]


@scenario
async def test_missed_updates_are_declared_ahead_of_the_next_one() -> None:
    async with bench(interval_ms=5) as made:
        client = await made.connect()
        made.subscribe(client, "A", "B")
        carry(made, "A", 1, FIRST)
        made.hub.note_missed(made.channel("A"), 2)
        made.hub.note_missed(made.channel("A"), 1)
        carry(made, "B", 1, FIRST)
        await made.flushed()
        await client.drain()
        assert losses(client.messages) == []
        carry(made, "A", 5, 2 * FIRST)
        await made.flushed()
        await client.drain()
        assert losses(client.messages) == [("A", 3, 2, 4)]
        assert [update["seq"] for update in updates(client.messages)] == [1, 1, 5]
        numbers = [update["sequence"] for update in updates(client.messages)]
        assert numbers == [1, 2, 3]
        ledger = made.check_ledger()
        assert (ledger["published"], ledger["delivered"], ledger["lost"]) == (6, 3, 3)


@scenario
async def test_they_are_declared_where_something_is_pending() -> None:
    """Ahead of it, so that whoever ends between the two has not been told of more than it was sent."""
    async with bench(interval_ms=1000) as made:
        early = await made.connect()
        made.subscribe(early, "A")
        made.publish("A", 1)
        await made.flushed()
        for value in (2, 3):
            made.publish("A", value)
        late = await made.connect()
        made.subscribe(late, "A")
        made.hub.note_missed(made.channel("A"), 4)
        carry(made, "A", 8, FIRST)
        afterwards = await made.connect()
        made.subscribe(afterwards, "A")
        await made.flushed()
        for client in (early, late, afterwards):
            await client.drain()
        assert losses(early.messages) == [("A", 4, 4, 7)]
        assert losses(late.messages) == [("A", 4, 4, 7)]
        assert losses(afterwards.messages) == []
        assert [update["seq"] for update in updates(early.messages)] == [1, 2, 3, 8]
        assert [update["seq"] for update in updates(late.messages)] == [8]
        assert updates(afterwards.messages) == []
        made.check_ledger()


@scenario
async def test_only_mode_all_is_told() -> None:
    async with bench(interval_ms=5) as made:
        newest = await made.connect()
        made.subscribe(newest, "A", latest=True)
        slow = await made.connect()
        made.subscribe(slow, "A", max_rate=1)
        # The stock speaks for a connection that holds its market, too.
        both = await made.connect()
        market = made.hub.topic("market", "M")
        both.connection.set_subscriptions(
            {made.topic("A"): made.hub.options(latest=True), market: made.hub.options()}
        )
        carry(made, "A", 1, FIRST)
        made.hub.note_missed(made.channel("A"), 2)
        carry(made, "A", 4, 2 * FIRST)
        await made.flushed()
        for client in (newest, slow, both):
            await client.drain()
            assert losses(client.messages) == []
            assert updates(client.messages)[-1]["seq"] == 4


@scenario
async def test_one_that_holds_it_twice_is_told_once() -> None:
    async with bench(interval_ms=5) as made:
        client = await made.connect()
        made.topic("A")
        wanted = {made.hub.topic(*key): made.hub.options() for key in (("stock", "A"), ("market", "M"))}
        client.connection.set_subscriptions(wanted)
        carry(made, "A", 1, FIRST)
        made.hub.note_missed(made.channel("A"), 1)
        carry(made, "A", 3, 2 * FIRST)
        await made.flushed()
        await client.drain()
        assert losses(client.messages) == [("A", 1, 2, 2)]
        assert [update["seq"] for update in updates(client.messages)] == [1, 3]


@scenario
async def test_a_slow_client_is_told_of_both_kinds_of_loss() -> None:
    async with bench(send_buffer=8192, interval_ms=1, outbox_soft_size=20_000) as made:
        client = await made.connect(receive_buffer=4096)
        made.subscribe(client, "A")
        n_missed = 0
        for value in range(9_000):
            if value % 1000 == 999:
                made.hub.note_missed(made.channel("A"), 5)
                n_missed += 5
            carry(made, "A", value, (value + 1) * FIRST)
            if value % 50 == 0:
                await asyncio.sleep(0)
        async with asyncio.timeout(30):
            while client.connection.queued_bytes or not made.hub.flusher.is_idle:
                await client.read()
            await client.drain()
        seen = [update["seq"] for update in updates(client.messages)]
        lost = losses(client.messages)
        assert seen == sorted(set(seen))
        covered = set(seen)
        for _, dropped, first, last in lost:
            assert dropped == last - first + 1
            assert covered.isdisjoint(range(first, last + 1))
            covered.update(range(first, last + 1))
        assert covered == set(range(1, made.channel("A").seq + 1))
        ledger = made.check_ledger()
        assert ledger["lost"] == sum(dropped for _, dropped, _, _ in lost) >= n_missed
