"""A lane that is not flushed as fast as it fills: bounded, and whoever it is for is told exactly what is missing."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest
from core_harness import Bench, Client, bench, updates
from listening import scenario, until

# So long that only `flush_all` ends it: what is published meanwhile is a burst.
NEVER_MS = 60_000


def follow(messages: list[Any], seen: dict[str, int]) -> int:
    """Follow streams from `seen`, the last seq by symbol, to their end; returns how many updates were declared lost.

    Every hole is declared before what follows it, and no batch claims what comes after it.
    """
    n_lost = claimed = 0
    for message in messages:
        if message.get("type") == "overflow":
            assert message["items"]
            for item in message["items"]:
                assert item["from_seq"] == seen[item["code"]] + 1
                assert item["dropped"] == item["to_seq"] - item["from_seq"] + 1
                seen[item["code"]] = item["to_seq"]
                n_lost += item["dropped"]
        for update in updates([message]):
            name = "AB"[update["value"] % 2]
            assert update["seq"] == seen[name] + 1, "a hole that was not declared"
            assert update["sequence"] > claimed, "a batch before it has claimed this one"
            seen[name] = update["seq"]
        claimed = message.get("sequence", claimed)
    return n_lost


def publish(made: Bench, n: int) -> None:
    """Publish `n` more of each of A and B; an even value is one of A."""
    for name in itertools.islice(itertools.cycle("AB"), 2 * n):
        made.publish(name, 2 * made.channel(name).seq + "AB".index(name))


async def led(made: Bench, *clients: Client) -> None:
    """Have the leading edge go, so that what follows waits."""
    publish(made, 1)
    await until(lambda: all(client.connection.ledger()["delivered"] == 2 for client in clients))


def hold_up(seconds: float) -> None:
    """Keep the loop from flushing."""
    time.sleep(seconds)


async def flush(made: Bench) -> None:
    made.hub.flusher.flush_all()
    await until(lambda: made.hub.flusher.is_idle)


@scenario
async def test_a_burst_beyond_the_bound_is_declared_to_each_from_where_it_joined() -> None:
    async with bench(interval_ms=NEVER_MS, outbox_soft_size=8_000, outbox_hard_size=40_000) as made:
        first, second = await made.connect(), await made.connect()
        clients = [first, second]
        for client in clients:
            made.subscribe(client, "A", "B")
        await led(made, *clients)
        publish(made, 100)
        begins = [0, 0]
        for n in (50, 3000, 3000, 0):
            # Among what will be dropped, twice when some of it is gone, and behind all of it.
            client = await made.connect()
            clients.append(client)
            made.subscribe(client, "A", "B")
            begins.append(made.channel("A").seq)
            publish(made, n)
        await second.drain()
        second.connection.send_snapshot(second.connection.subscriptions().items())
        await second.drain()
        n_lost = [follow(second.messages, {"A": 0, "B": 0})]
        publish(made, 10)
        await flush(made)
        last = made.channel("A").seq
        for client, begin in zip(clients, begins, strict=True):
            if client is not second:
                await client.drain()
                seen = {"A": begin, "B": begin}
                n_lost.append(follow(client.messages, seen))
                assert seen == {"A": last, "B": last}
            assert client.connection.ledger()["waiting"] == 0
            assert client.connection.ledger()["published"] == 2 * (last - begin)
        n_declared = [client.connection.ledger()["lost"] for client in (second, first, *clients[2:])]
        assert n_lost == n_declared
        assert n_lost[0] <= n_lost[1] > n_lost[2] > n_lost[3] > n_lost[4] > n_lost[5] == 0
        assert made.hub.meters.n_overflows == 5
        assert first.connection.ledger()["delivered"] < 40_000 // 40


@scenario
async def test_a_bound_that_is_met_by_less_than_all_loses_nothing() -> None:
    async with bench(interval_ms=NEVER_MS, outbox_soft_size=8_000, outbox_hard_size=400_000) as made:
        client = await made.connect()
        made.subscribe(client, "A", "B")
        await led(made, client)
        publish(made, 400)
        await flush(made)
        await client.drain()
        seen = {"A": 0, "B": 0}
        assert follow(client.messages, seen) == 0
        assert seen == {"A": 401, "B": 401}


@scenario
async def test_mode_latest_is_conflated_and_keeps_its_place_beside_what_is_lost() -> None:
    async with bench(interval_ms=NEVER_MS, outbox_soft_size=8_000, outbox_hard_size=20_000) as made:
        client, paced = await made.connect(), await made.connect()
        for one, rate in ((client, 0.0), (paced, 0.001)):
            wanted = {
                made.topic("A"): made.hub.options(),
                made.topic("B"): made.hub.options(latest=True, max_rate=rate),
            }
            one.connection.set_subscriptions(wanted)
        await led(made, client, paced)
        publish(made, 1000)
        for value in range(1000, 2000):
            made.publish("A", 2 * value + 2)
        await flush(made)
        for one in (client, paced):
            await one.drain()
            seen = {"A": 0, "B": 0}
            only_b = [update for update in updates(one.messages) if update["value"] % 2]
            assert [update["seq"] for update in only_b] == [1, 1001]
            for message in one.messages:
                if message.get("type") == "batch":
                    message["messages"] = [
                        update for update in updates([message]) if update["value"] % 2 == 0
                    ]
            messages = [message for message in one.messages if message.get("value", 0) % 2 == 0]
            assert follow(messages, seen) == one.connection.ledger()["lost"] > 1000
            assert seen["A"] == 2001
            assert one.connection.ledger()["conflated"] == 999
            assert one.connection.ledger()["delivered"] == 2003 - one.connection.ledger()["lost"]


@scenario
async def test_where_the_flusher_is_late_the_smaller_bound_holds() -> None:
    async with bench(interval_ms=1, outbox_soft_size=8_000, outbox_hard_size=1 << 20) as made:
        client = await made.connect()
        made.subscribe(client, "A", "B")
        await led(made, client)
        publish(made, 300)
        hold_up(0.3)
        publish(made, 300)
        await until(lambda: made.hub.flusher.is_idle)
        await client.drain()
        seen = {"A": 0, "B": 0}
        assert follow(client.messages, seen) == client.connection.ledger()["lost"] > 300
        assert seen == {"A": 601, "B": 601}
        assert made.hub.meters.n_overflows == 1


@pytest.mark.parametrize("n_rounds", [1, 4])
@scenario
async def test_who_does_not_read_meanwhile_is_told_in_order(n_rounds: int) -> None:
    async with bench(
        send_buffer=4096, interval_ms=NEVER_MS, outbox_soft_size=30_000, outbox_hard_size=150_000
    ) as made:
        slow, normal = await made.connect(receive_buffer=4096), await made.connect()
        for client in (slow, normal):
            made.subscribe(client, "A", "B")
        await led(made, slow, normal)
        publish(made, 200)
        await flush(made)
        for _ in range(n_rounds):
            publish(made, 4000)
            await flush(made)
            made.check_ledger()
            assert slow.connection.queued_bytes < 150_000
            await normal.drain()
        last = made.channel("A").seq
        for client in (slow, normal):
            await client.drain()
            await until(lambda: client.connection.queued_messages == 0)  # noqa: B023
            await client.drain()
            seen = {"A": 0, "B": 0}
            assert follow(client.messages, seen) == client.connection.ledger()["lost"] > 0
            assert seen == {"A": last, "B": last}
        assert slow.connection.ledger()["lost"] >= normal.connection.ledger()["lost"]


@scenario
async def test_a_session_that_was_not_told_goes_on_before_the_loss() -> None:
    async with bench(interval_ms=NEVER_MS, outbox_soft_size=8_000, outbox_hard_size=20_000) as made:
        client, late = await made.connect(), await made.connect()
        wanted = made.subscribe(client, "A", "B")
        await led(made, client)
        made.subscribe(late, "A", "B")
        cursor = made.hub.sequence
        publish(made, 50)
        later = await made.connect()
        made.subscribe(later, "A", "B")
        join = made.hub.sequence
        publish(made, 1000)
        for one, expected in ((client, cursor), (late, cursor), (later, join)):
            one.connection.close(1000)
            assert one.connection.left_sequence == expected
        other = await made.connect()
        assert other.connection.restore(wanted, cursor)
        await until(lambda: not other.connection.is_restoring)
        await other.drain()
        assert follow(other.messages, {"A": 1, "B": 1}) == 0
