"""History and restoration in the core: what was missed comes in order, once, before anything live."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct

from core_harness import Bench, Client, bench, updates
from listening import over_both, scenario, until


async def publish(made: Bench, n: int, pause: float, per_turn: int = 5) -> None:
    for value in range(n):
        made.publish("ABC"[value % 3], value)
        if value % per_turn == 0:
            await asyncio.sleep(pause)


async def settled(made: Bench, client: Client) -> None:
    """Everything published has reached the client."""
    async with asyncio.timeout(30):
        while (
            client.connection.is_restoring
            or client.connection.queued_messages
            or not made.hub.flusher.is_idle
        ):
            # An answer overtakes data, so reading up to one moves things along without waiting for the end.
            await client.drain()
            await asyncio.sleep(0)
        await client.drain()


@over_both
async def test_what_was_missed_comes_once_and_in_order_before_live() -> None:
    """A client is cut off again and again while updates flow; it goes on from the last number it has seen."""
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    async with bench(interval_ms=5) as made:
        client = await made.connect()
        wanted = made.subscribe(client, "A", "B")
        publishing = asyncio.create_task(publish(made, 6000, 0.001))
        seqs: dict[str, list[int]] = {"A": [], "B": []}
        cursor = 0

        def take(messages: list[dict[str, int]]) -> None:
            nonlocal cursor
            for message in messages:
                for update in updates([message]):
                    seqs["ABC"[update["value"] % 3]].append(update["seq"])
                cursor = max(cursor, message.get("sequence", 0))
            messages.clear()

        n_cycles = 0
        while not publishing.done():
            for _ in range(rng.randint(0, 5)):
                # The last update may have come already.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await client.read(rng.choice((200, 2000, 60_000)))
            take(client.messages)
            client.writer.transport.abort()
            await asyncio.sleep(rng.choice((0, 0.001, 0.02)))
            client = await made.connect()
            missed, is_complete = made.hub.count_missed(wanted, cursor)
            assert is_complete
            assert client.connection.restore(wanted, cursor), f"seed {seed}"
            assert missed == sum(1 for update in range(cursor, made.hub.sequence) if update % 3 != 2), (
                f"seed {seed}"
            )
            n_cycles += 1
        await settled(made, client)
        take(client.messages)
        assert n_cycles > 20
        assert seqs == {name: list(range(1, 2001)) for name in "AB"}, f"seed {seed}"


@over_both
async def test_latest_targets_get_their_current_value() -> None:
    async with bench(interval_ms=5) as made:
        for value in range(300):
            made.publish("ABC"[value % 3], value)
        client = await made.connect()
        hub = made.hub
        wanted = {made.topic("A"): hub.options(), made.topic("B"): hub.options(latest=True)}
        assert client.connection.restore(wanted, 100)
        made.publish("B", 301)
        await settled(made, client)
        got = [update["value"] for update in updates(client.messages)]
        assert [value for value in got if value % 3 == 0] == list(range(102, 300, 3))
        assert [value for value in got if value % 3 == 1] == [298, 301]
        assert client.connection.subscriptions() == wanted


@over_both
async def test_a_value_that_was_held_back_comes_though_later_ones_have_overtaken_it() -> None:
    async with bench(interval_ms=5) as made:
        client = await made.connect()
        wanted = {
            made.topic("A"): made.hub.options(latest=True, max_rate=0.1),
            made.topic("B"): made.hub.options(),
        }
        client.connection.set_subscriptions(wanted)
        made.publish("A", 1)
        assert (await client.next())["value"] == 1
        made.publish("A", 2)  # waits for ten seconds
        made.publish("B", 3)
        assert (await client.next())["value"] == 3
        connection = client.connection
        client.writer.transport.abort()
        await until(lambda: made.handler.closed != [])
        assert connection.left_sequence == 3
        made.publish("B", 4)
        again = await made.connect()
        assert again.connection.restore(wanted, 3)
        assert [(await again.next())["value"] for _ in range(2)] == [2, 4]
        # Once it is too old to have been held back, it is not sent again.
        other = await made.connect()
        slower = {made.topic("A"): made.hub.options(latest=True, max_rate=4)}
        await asyncio.sleep(0.8)
        made.publish("B", 5)
        assert other.connection.restore(slower, made.hub.sequence)
        await other.drain()
        assert other.messages == []
        del connection


@over_both
async def test_a_history_that_does_not_reach_back_restores_nothing() -> None:
    async with bench(history_size=100 * 700) as made:
        for value in range(300):
            made.publish("A", value)
        client = await made.connect()
        wanted = {made.topic("A"): made.hub.options()}
        assert made.hub.history_start == 201
        assert not client.connection.restore(wanted, 199)
        assert not client.connection.restore(wanted, 301)
        assert client.connection.subscriptions() == {}
        assert made.hub.count_missed(wanted, 150) == (100, False)
        assert client.connection.restore(wanted, 200)
        await settled(made, client)
        assert [update["value"] for update in updates(client.messages)] == list(range(200, 300))


@over_both
async def test_a_slow_client_catches_up_at_its_own_pace_and_loses_nothing() -> None:
    async with bench(send_buffer=8192, interval_ms=5, outbox_soft_size=150_000) as made:
        for value in range(12_000):
            made.publish("A", value)
        client = await made.connect(receive_buffer=4096)
        assert client.connection.restore({made.topic("A"): made.hub.options()}, 0)
        for value in range(12_000, 12_500):
            made.publish("A", value)
            assert client.connection.queued_bytes < 200_000
        await settled(made, client)
        assert [update["value"] for update in updates(client.messages)] == list(range(12_500))
        assert made.check_ledger()["lost"] == 0


@over_both
async def test_a_client_slower_than_history_is_closed() -> None:
    async with bench(send_buffer=8192, history_size=2000 * 700) as made:
        for value in range(2000):
            made.publish("A", value)
        client = await made.connect(receive_buffer=4096)
        assert client.connection.restore({made.topic("A"): made.hub.options()}, 0)
        for value in range(5000):
            made.publish("A", value)
        while await client.read():
            pass
        assert client.close_code == 4408


@over_both
async def test_subscriptions_changed_while_catching_up() -> None:
    async with bench(send_buffer=8192, interval_ms=5) as made:
        for value in range(9000):
            made.publish("ABC"[value % 3], value)
        client = await made.connect(receive_buffer=4096)
        assert client.connection.restore({made.topic("A"): made.hub.options()}, 0)
        made.subscribe(client, "B")
        assert [topic.name for topic in client.connection.subscriptions()] == ["B"]
        made.publish("B", 9001)
        await settled(made, client)
        got = [update["value"] for update in updates(client.messages)]
        assert got[-1] == 9001
        assert len(got) == len(set(got))


@over_both
async def test_an_update_that_cannot_be_encoded_holds_nothing_up() -> None:
    async with bench(interval_ms=5) as made:
        channel = made.channel("A")
        for payload in (1, "not a number", 3):
            made.hub.publish(channel, payload)
        client = await made.connect()
        assert client.connection.restore({made.topic("A"): made.hub.options()}, 0)
        batch = await client.next()
        assert [item.get("value", item.get("code")) for item in batch["messages"]] == [1, "INTERNAL_ERROR", 3]
        assert not client.connection.is_restoring


@over_both
async def test_what_a_connection_leaves_for_its_session() -> None:
    async with bench(interval_ms=200) as made:
        client = await made.connect()
        wanted = made.subscribe(client, "A")
        made.publish("A", 1)
        assert (await client.next())["value"] == 1
        made.publish("A", 2)  # waits for its batch
        made.publish("B", 3)
        connection = client.connection
        client.writer.transport.abort()
        await until(lambda: made.handler.closed != [])
        assert connection.left_subscriptions == wanted
        assert connection.left_sequence == 1
        assert not connection.left_paused
        again = await made.connect()
        assert again.connection.restore(wanted, connection.left_sequence)
        assert (await again.next())["value"] == 2
        del connection


@scenario
async def test_what_a_broken_socket_refuses_is_left_for_the_session() -> None:
    async with bench(interval_ms=0) as made:
        client = await made.connect()
        wanted = made.subscribe(client, "A")
        made.publish("A", 1)
        assert (await client.next())["value"] == 1
        connection = client.connection
        transport = client.writer.transport
        transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        # The reset is there when the update is sent, in the same turn of the loop, and nobody has read it yet.
        transport.abort()
        made.publish("A", 2)
        await until(lambda: made.handler.closed != [])
        assert connection.left_sequence == 1
        again = await made.connect()
        assert again.connection.restore(wanted, connection.left_sequence)
        assert (await again.next())["value"] == 2
        del connection


@over_both
async def test_channels_move_under_those_who_listen_and_those_who_catch_up() -> None:
    async with bench(send_buffer=4096, interval_ms=0) as made:
        hub = made.hub
        channel = made.channel("A", "OLD")
        old, new = hub.topic("market", "OLD"), hub.topic("market", "NEW")
        before, after, behind = [await made.connect(receive_buffer=4096) for _ in range(3)]
        before.connection.set_subscriptions({old: hub.options()})
        after.connection.set_subscriptions({new: hub.options()})
        for value in range(2000):
            made.publish("B", value)
        # It reads nothing yet, so it stays behind what follows.
        behind.connection.restore({new: hub.options(), made.topic("B"): hub.options()}, 0)
        assert behind.connection.is_restoring
        made.publish("A", 1)
        hub.move_channels({channel: (hub.topic("stock", "A"), new)})
        assert channel.topics == (hub.topic("stock", "A"), new)
        assert (channel in old.channels, channel in new.channels) == (False, True)
        made.publish("A", 2)
        for client in (before, after, behind):
            await settled(made, client)
        assert [update["value"] for update in updates(before.messages)] == [1]
        assert [update["value"] for update in updates(after.messages)] == [2]
        # History is read by what holds now.
        assert [update["value"] for update in updates(behind.messages) if update["value"] <= 2][-2:] == [1, 2]
        after.messages.clear()
        after.connection.send_snapshot([(new, hub.options())])
        assert [update["value"] for update in (await after.next())["messages"]] == [2]
        before.connection.send_snapshot([(old, hub.options())])
        await before.drain()
        assert before.messages[-1]["messages"] == []
        del channel, old, new, hub


@over_both
async def test_a_snapshot_comes_behind_what_is_caught_up() -> None:
    """It has newer numbers, which a client that is cut off now would take for its cursor."""
    async with bench(send_buffer=4096, interval_ms=0) as made:
        hub = made.hub
        for value in range(3000):
            made.publish("A", value)
        made.publish("B", 1)
        client = await made.connect(receive_buffer=4096)
        connection = client.connection
        connection.restore({made.topic("A"): hub.options()}, 0)
        assert connection.is_restoring
        late = {made.topic("B"): hub.options()}
        connection.set_subscriptions(connection.subscriptions() | late)
        connection.send_snapshot(late.items())
        # One that asks for what it holds already, and is told all of it.
        connection.send_snapshot([(made.topic("A"), hub.options())])
        for value in range(3000, 3010):
            made.publish("A", value)
            made.publish("B", 100_000 + value)
        async with asyncio.timeout(20):
            while connection.is_restoring or connection.queued_bytes:
                await client.read()
        made.publish("B", 200_000)
        await made.flushed()
        await client.drain()
        messages = client.messages
        # What was missed, each once; what is new begins with its snapshot.
        assert [update["value"] for update in updates(messages)] == [*range(3010), 200_000]
        snapshots = [i for i, message in enumerate(messages) if message.get("snapshot")]
        assert [[part["value"] for part in messages[i]["messages"]] for i in snapshots] == [[103_009], [3009]]
        for i in snapshots:
            (part,) = messages[i]["messages"]
            newest = max(part["sequence"], messages[i]["sequence"])
            assert all(update["sequence"] > newest for update in updates(messages[i:]))
        del connection, hub


@scenario
async def test_a_snapshot_that_was_still_to_come_is_owed() -> None:
    async with bench(send_buffer=4096, interval_ms=0) as made:
        hub = made.hub
        for value in range(3000):
            made.publish("A", value)
        made.publish("B", 1)
        # Of what is new it is the base of all that follows; what is held has one.
        for name, is_whole in (("B", False), ("A", True)):
            client = await made.connect(receive_buffer=4096)
            connection = client.connection
            connection.restore({made.topic("A"): hub.options()}, 0)
            assert connection.is_restoring
            connection.set_subscriptions(connection.subscriptions() | {made.topic(name): hub.options()})
            connection.send_snapshot([(made.topic(name), hub.options())])
            connection.abort(1006)
            assert connection.left_whole is is_whole
            assert set(connection.left_subscriptions) == {made.topic("A"), made.topic(name)}
            del connection
        del hub
