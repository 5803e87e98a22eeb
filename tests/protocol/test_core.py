"""The fan-out core over real sockets: order, snapshots, batching, slow clients, limits, and the conservation law."""

from __future__ import annotations

import asyncio
import itertools
import random
from datetime import datetime
from typing import Any

import pytest
from core_harness import Bench, Client, bench, updates
from listening import scenario, until

from fastws._core import CHANNEL_ORDERBOOK
from fastws._frames import OP_CONT, OP_PING, OP_TEXT, build_frame


def values(messages: list[Any]) -> list[int]:
    return [update["value"] for update in updates(messages)]


async def flushed(made: Bench) -> None:
    await until(lambda: made.hub.flusher.is_idle)


@scenario
async def test_the_first_update_leads_and_what_follows_is_one_batch() -> None:
    async with bench(interval_ms=400) as made:
        client = await made.connect()
        made.subscribe(client, "A")
        started = asyncio.get_running_loop().time()
        made.publish("A", 1)
        first = await client.next()
        assert first["value"] == 1, "a single message is sent bare"
        assert asyncio.get_running_loop().time() - started < 0.2
        for value in (2, 3, 4):
            made.publish("A", value)
            await asyncio.sleep(0.01)
        batch = await client.next()
        assert asyncio.get_running_loop().time() - started >= 0.39
        assert list(batch) == ["type", "batch_size", "messages", "timestamp", "sequence"]
        assert (batch["type"], batch["batch_size"], batch["sequence"]) == ("batch", 3, 4)
        assert [(item["value"], item["sequence"], item["seq"]) for item in batch["messages"]] == [
            (2, 2, 2),
            (3, 3, 3),
            (4, 4, 4),
        ]


@scenario
async def test_one_turn_after_quiet_leaves_together() -> None:
    async with bench(interval_ms=400) as made:
        client = await made.connect()
        made.subscribe(client, "A", "B")
        made.publish("A", 1)
        made.publish("B", 2)
        assert (await client.next())["batch_size"] == 2


@scenario
async def test_interval_zero_never_batches() -> None:
    async with bench(interval_ms=0) as made:
        client = await made.connect()
        made.subscribe(client, "A")
        for value in range(5):
            made.publish("A", value)
        assert [(await client.next())["value"] for _ in range(5)] == [0, 1, 2, 3, 4]


@scenario
async def test_equal_subscriptions_are_one_cohort_with_one_frame() -> None:
    async with bench() as made:
        clients = [await made.connect() for _ in range(5)]
        for client in clients:
            made.subscribe(client, "A", "B")
        made.subscribe(clients[4], "B", "A")
        assert len(made.hub.cohorts) == 1
        made.publish("A", 1)
        assert [(await client.next())["value"] for client in clients] == [1] * 5
        await flushed(made)
        assert made.hub.flusher.n_flushes == 1


@scenario
async def test_an_update_comes_once_and_the_most_specific_options_hold() -> None:
    async with bench(interval_ms=20) as made:
        client = await made.connect()
        hub = made.hub
        wanted = {
            made.topic("A"): hub.options(),
            hub.topic("market", "M"): hub.options(latest=True),
        }
        made.topic("B")
        client.connection.set_subscriptions(wanted)
        made.publish("A", 0)
        assert values([await client.next()]) == [0]
        for value in (1, 2, 3):
            made.publish("A", value)
            made.publish("B", value * 10)
        assert values([await client.next()]) == [1, 2, 3, 30]
        # A subscription to the stock that leaves prices out speaks for the stock also within its market.
        wanted[made.topic("A")] = hub.options(channels=CHANNEL_ORDERBOOK)
        client.connection.set_subscriptions(wanted)
        made.publish("A", 4)
        made.publish("B", 40)
        assert values([await client.next()]) == [40]


@scenario
async def test_latest_is_conflated_and_long_queues_do_not_grow() -> None:
    async with bench(interval_ms=50) as made:
        client = await made.connect()
        made.subscribe(client, "A", "B", latest=True)
        made.publish("A", 0)
        assert values([await client.next()]) == [0]
        for value in range(1, 5001):
            made.publish("A" if value % 2 else "B", value)
        assert values([await client.next()]) == [4999, 5000]
        assert made.check_ledger()["conflated"] == 4998


@scenario
async def test_max_rate_is_kept_and_the_last_value_comes() -> None:
    async with bench(interval_ms=10) as made:
        client = await made.connect()
        made.subscribe(client, "A", max_rate=10)
        loop = asyncio.get_running_loop()
        started = loop.time()
        arrivals: list[tuple[float, int]] = []

        async def read() -> None:
            while not arrivals or arrivals[-1][1] != 99:
                message = await client.next()
                arrivals.append((loop.time() - started, message["value"]))

        reading = asyncio.create_task(read())
        for value in range(100):
            made.publish("A", value)
            await asyncio.sleep(0.005)
        await reading
        gaps = [after[0] - before[0] for before, after in itertools.pairwise(arrivals)]
        assert arrivals[0][1] == 0
        assert len(arrivals) <= (arrivals[-1][0] / 0.1) + 2
        # Arrival is seen late now and then; publication is never early.
        assert sum(gaps) / len(gaps) > 0.09


@scenario
async def test_a_slow_lane_takes_along_what_its_batch_number_claims() -> None:
    """A batch says that everything of mode all up to its number was sent; so no lane may flush ahead of it."""
    async with bench(interval_ms=200) as made:
        client = await made.connect()
        hub = made.hub
        client.connection.set_subscriptions(
            {made.topic("A"): hub.options(), made.topic("B"): hub.options(max_rate=4)}
        )
        sent: list[int] = []
        for value in range(40):
            made.publish("A", value)
            made.publish("B", value)
            await asyncio.sleep(0.02)
        await flushed(made)
        await client.drain()
        highest = 0
        for message in client.messages:
            for update in updates([message]):
                if update["sequence"] % 2:
                    assert update["sequence"] > highest, "mode all came after a number that claims it"
                    sent.append(update["value"])
            highest = max(highest, message["sequence"])
        assert sent == list(range(40))


@scenario
async def test_broadcast_reaches_everyone_but_the_paused() -> None:
    async with bench() as made:
        status = made.hub.channel("feed", "feed_status", (), bit=4, numbered=False)
        idle, subscribed, paused = [await made.connect() for _ in range(3)]
        made.subscribe(subscribed, "A")
        paused.connection.set_subscriptions({made.topic("A"): made.hub.options()}, True)
        sequence = made.hub.broadcast(status, 7)
        for client in (idle, subscribed):
            message = await client.next()
            assert (message["value"], message["sequence"]) == (7, sequence)
            assert "seq" not in message
        made.publish("A", 1)
        assert (await subscribed.next())["value"] == 1
        await paused.drain()
        assert paused.messages == []
        assert paused.connection.is_paused
        assert [topic.name for topic in paused.connection.subscriptions()] == ["A"]


@scenario
async def test_snapshot_then_live_with_nothing_missing_or_doubled() -> None:
    """Clients subscribe, subscribe again, leave and come back while three symbols are published all the time."""
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    async with bench(interval_ms=10) as made:
        clients = [await made.connect() for _ in range(12)]
        names = ["A", "B", "C"]
        for value, name in enumerate(names):
            made.publish(name, value)

        async def publish() -> None:
            for value in range(3, 4500, 3):
                choice = rng.randrange(3)
                made.publish(names[choice], value + choice)
                if value % 15 == 0:
                    await asyncio.sleep(0)
                if value % 150 == 0:
                    await asyncio.sleep(0.005)

        async def wander(client: Client) -> None:
            while not publishing.done():
                chosen = rng.sample(names, rng.randint(0, 3))
                wanted = made.subscribe(client, *chosen)
                client.connection.send_control(
                    b'{"acknowledged":%s}' % str(chosen).replace("'", '"').encode()
                )
                client.connection.send_snapshot(wanted.items())
                for _ in range(rng.randint(1, 8)):
                    await asyncio.sleep(0)
                if rng.random() < 0.3:
                    await asyncio.sleep(0.012)

        publishing = asyncio.create_task(publish())
        await asyncio.gather(publishing, *(wander(client) for client in clients))
        await flushed(made)
        for client in clients:
            await client.drain()
            check_stream(client.messages, {name: made.channels[name].seq for name in names}, seed)


def check_stream(messages: list[Any], last: dict[str, int], seed: int) -> None:
    """A symbol that is held continues without a hole or a repetition from its snapshot, also over later requests."""
    expected: dict[str, int] = {}
    acknowledged: list[str] = []
    n_snapshots = 0
    for message in messages:
        if "acknowledged" in message:
            acknowledged = message["acknowledged"]
            expected = {name: seq for name, seq in expected.items() if name in acknowledged}
        elif message.get("snapshot"):
            n_snapshots += 1
            found = {"ABC"[update["value"] % 3]: update["seq"] for update in message["messages"]}
            assert sorted(found) == sorted(acknowledged), f"seed {seed}"
            for name, seq in found.items():
                assert expected.get(name, seq + 1) == seq + 1, (
                    f"the snapshot is not the last value, seed {seed}"
                )
                expected[name] = seq + 1
        else:
            for update in updates([message]):
                name = "ABC"[update["value"] % 3]
                assert update["seq"] == expected[name], f"seed {seed}"
                expected[name] += 1
    assert n_snapshots > 0
    assert expected == {name: last[name] + 1 for name in expected}, f"the end is missing, seed {seed}"


@scenario
async def test_every_frame_reaches_members_that_join_and_leave_during_a_flush() -> None:
    """More members than one slice sends to, while some leave and others come."""
    async with bench(interval_ms=5) as made:
        stay = [await made.connect() for _ in range(150)]
        movers = [await made.connect() for _ in range(50)]
        for client in stay:
            made.subscribe(client, "A")
        for value in range(60):
            for _ in range(40):
                made.publish("A", value)
            for client in movers:
                if client.connection.subscriptions():
                    client.connection.set_subscriptions({})
                else:
                    made.subscribe(client, "A")
            await asyncio.sleep(0 if value % 3 else 0.004)
        await flushed(made)
        for client in stay:
            await client.drain()
            assert [update["seq"] for update in updates(client.messages)] == list(range(1, 60 * 40 + 1))
        for client in movers:
            await client.drain()
            seqs = [update["seq"] for update in updates(client.messages)]
            assert seqs == sorted(set(seqs))
            # What was published while it was a member, rounds 0, 2, 4…: joined after the round before was out.
            expected = [seq for value in range(1, 60, 2) for seq in range(value * 40 + 1, value * 40 + 41)]
            assert seqs == expected


@scenario
async def test_a_large_flush_is_cut_into_batches_that_claim_only_what_they_hold() -> None:
    async with bench(interval_ms=30) as made:
        client = await made.connect()
        made.subscribe(client, "A")
        for value in range(5000):
            made.publish("A", value)
        await flushed(made)
        await client.drain()
        assert len(client.messages) > 2
        assert values(client.messages) == list(range(5000))
        for message in client.messages[:-1]:
            assert message["sequence"] == message["messages"][-1]["sequence"]


@scenario
async def test_a_slow_client_of_mode_all_is_told_exactly_what_it_lost() -> None:
    async with bench(send_buffer=8192, interval_ms=1, outbox_soft_size=40_000) as made:
        slow = await made.connect(receive_buffer=4096)
        normal = await made.connect()
        made.subscribe(slow, "A", "B")
        made.subscribe(normal, "A", "B")
        reading = asyncio.create_task(read_until(normal, 6000))
        for value in range(6000):
            made.publish("AB"[value % 2], value)
            if value % 20 == 0:
                await asyncio.sleep(0.001)
                assert slow.connection.queued_bytes < 200_000
                made.check_ledger()
        await flushed(made)
        await reading
        assert values(normal.messages) == list(range(6000))
        assert slow.connection.ledger()["lost"] > 0
        await slow.drain()
        await until(lambda: slow.connection.queued_messages == 0)
        await slow.drain()
        seen = {"A": 0, "B": 0}
        n_lost = 0
        for message in slow.messages:
            if message.get("type") == "overflow":
                assert list(message) == ["type", "items", "timestamp"]
                for item in message["items"]:
                    assert list(item) == ["code", "channel", "dropped", "from_seq", "to_seq"]
                    assert item["channel"] == "price"
                    assert item["dropped"] == item["to_seq"] - item["from_seq"] + 1
                    assert item["from_seq"] == seen[item["code"]] + 1, "declared before what follows it"
                    seen[item["code"]] = item["to_seq"]
                    n_lost += item["dropped"]
            for update in updates([message]):
                name = "AB"[update["value"] % 2]
                assert update["seq"] == seen[name] + 1, "a hole that was not declared"
                seen[name] = update["seq"]
        assert seen == {"A": 3000, "B": 3000}
        assert n_lost == slow.connection.ledger()["lost"] == made.check_ledger()["lost"]


async def read_until(client: Client, n: int) -> None:
    async with asyncio.timeout(20):
        while len(updates(client.messages)) < n:
            assert await client.read()


@scenario
async def test_a_slow_client_of_mode_latest_gets_the_final_values_in_one_frame() -> None:
    async with bench(send_buffer=8192, interval_ms=1) as made:
        slow = await made.connect(receive_buffer=4096)
        names = [f"S{i}" for i in range(50)]
        made.subscribe(slow, *names, latest=True)
        for value in range(20_000):
            made.publish(names[value % 50], value)
            if value % 100 == 0:
                await asyncio.sleep(0.001)
        await flushed(made)
        assert slow.connection.queued_bytes < 100_000
        await slow.drain()
        await until(lambda: slow.connection.queued_messages == 0)
        await slow.drain()
        final = {update["value"] % 50: update["value"] for update in updates(slow.messages)}
        assert final == {i: 19_950 + i for i in range(50)}
        sequences = [update["sequence"] for update in updates(slow.messages)]
        assert sequences == sorted(set(sequences))
        assert slow.connection.ledger()["lost"] == 0
        assert slow.connection.ledger()["conflated"] > 10_000


@scenario
async def test_a_slow_client_of_both_modes_keeps_publish_order() -> None:
    async with bench(send_buffer=8192, interval_ms=1, outbox_soft_size=60_000) as made:
        slow = await made.connect(receive_buffer=4096)
        hub = made.hub
        slow.connection.set_subscriptions(
            {made.topic("A"): hub.options(), made.topic("B"): hub.options(latest=True)}
        )
        for value in range(6000):
            made.publish("AB"[value % 2], value)
            if value % 50 == 0:
                await asyncio.sleep(0.001)
                made.check_ledger()
        await flushed(made)
        await slow.drain()
        await until(lambda: slow.connection.queued_messages == 0)
        await slow.drain()
        sequences = [update["sequence"] for update in updates(slow.messages)]
        assert sequences == sorted(set(sequences))
        assert 5998 in values(slow.messages)
        assert 5999 in values(slow.messages)
        lost = sum(item["dropped"] for message in slow.messages for item in message.get("items", ()))
        got = sum(1 for value in values(slow.messages) if value % 2 == 0)
        assert lost + got == 3000
        assert lost == slow.connection.ledger()["lost"]


@scenario
async def test_pongs_overtake_queued_data_and_are_bounded() -> None:
    async with bench(send_buffer=8192, interval_ms=1, control_rate_limit=0, outbox_hard_size=300_000) as made:
        slow = await made.connect(receive_buffer=4096)
        made.subscribe(slow, "A")
        for value in range(5000):
            made.publish("A", value)
        await until(lambda: slow.connection.queued_messages > 0)
        slow.send({"hello": 1})
        while not any("echo" in message for message in slow.messages):
            assert await slow.read(4096)
        assert len(updates(slow.messages)) < 5000, "the answer waited behind all the data"
        # Pings without reading: what is owed to the client is bounded too.
        ping = build_frame(OP_PING, b"x" * 125, mask=b"abcd")
        async with asyncio.timeout(30):
            while not made.handler.closed:
                slow.send_raw(ping * 100)
                await asyncio.sleep(0)
        assert made.handler.closed == [4408]


@scenario
async def test_a_client_that_takes_nothing_is_closed() -> None:
    async with bench(send_buffer=8192, interval_ms=1, stall_timeout=0.5) as made:
        slow = await made.connect(receive_buffer=4096)
        made.subscribe(slow, "A")
        for value in range(5000):
            made.publish("A", value)
        await until(lambda: made.handler.closed != [])
        assert made.handler.closed == [4408]
        ledger = made.check_ledger()
        assert ledger["undelivered"] > 0
        assert ledger["waiting"] == 0


@scenario
async def test_a_client_that_takes_a_little_at_a_time_is_kept() -> None:
    async with bench(send_buffer=8192, interval_ms=1, stall_timeout=1.2) as made:
        slow = await made.connect(receive_buffer=4096)
        made.subscribe(slow, "A")
        for value in range(2000):
            made.publish("A", value)
        loop = asyncio.get_running_loop()
        started = loop.time()
        while loop.time() - started < 3.0:
            assert await slow.read(1024), "closed although it kept reading"
            await asyncio.sleep(0.1)
        assert made.handler.closed == []


@scenario
async def test_pings_silence_and_idleness() -> None:
    async with bench(ping_interval=0.2, pong_timeout=1.5, idle_timeout=0) as made:
        client = await made.connect()
        await until(lambda: made.handler.closed != [])
        assert made.handler.closed == [4409]
        while await client.read():
            pass
        assert client.close_code == 4409
        assert client.n_pings >= 1
    async with bench(idle_timeout=0.5) as made:
        idle, subscribed = await made.connect(), await made.connect()
        made.subscribe(subscribed, "A")
        while await idle.read():
            pass
        assert idle.close_code == 4409
        assert subscribed.connection.is_open


@scenario
async def test_rate_limit_drops_and_complains_once_a_second() -> None:
    async with bench(rate_limit=10) as made:
        client = await made.connect()
        for _ in range(60):
            client.send({"x": 1})
        await until(lambda: client.connection.message_count == 60)
        for _ in range(11):
            await client.next()
        assert made.handler.n_limited == 1
        await asyncio.sleep(0.15)
        client.send({"y": 1})
        assert (await client.next())["echo"] == {"y": 1}, "tokens come back"


@pytest.mark.parametrize("kind", ["pings", "fragments"])
@scenario
async def test_control_frames_and_fragments_are_capped(kind: str) -> None:
    async with bench(control_rate_limit=50) as made:
        client = await made.connect()
        if kind == "pings":
            client.send_raw(build_frame(OP_PING, b"", mask=b"abcd") * 200)
        else:
            client.send_raw(build_frame(OP_TEXT, b"", fin=False, mask=b"abcd"))
            client.send_raw(build_frame(OP_CONT, b"", fin=False, mask=b"abcd") * 200)
        while await client.read():
            pass
        assert client.close_code == 4429


@scenario
async def test_a_close_handshake_from_either_side() -> None:
    async with bench() as made:
        ours, theirs = await made.connect(), await made.connect()
        ours.connection.close(4401, "token expired")
        assert not ours.connection.is_open
        while ours.close_code is None:
            assert await ours.read()
        assert ours.close_code == 4401
        ours.send_raw(build_frame(8, (4401).to_bytes(2, "big"), mask=b"abcd"))
        assert not await ours.read()
        theirs.send_raw(build_frame(8, (1000).to_bytes(2, "big"), mask=b"abcd"))
        while await theirs.read():
            pass
        assert theirs.close_code == 1000
        await until(lambda: sorted(made.handler.closed) == [1000, 4401])
        assert made.hub.closes == {1000: 1, 4401: 1}


@scenario
async def test_a_handler_that_fails_costs_its_connection_only() -> None:
    async with bench() as made:
        bad, good = await made.connect(), await made.connect()

        def fail(connection: object, data: bytes, is_text: bool) -> None:
            raise RuntimeError("a mistake of ours")

        answer = made.handler.on_message
        made.handler.on_message = fail  # type: ignore[method-assign]
        bad.send({})
        while await bad.read():
            pass
        made.handler.on_message = answer  # type: ignore[method-assign]
        assert bad.close_code == 1011
        good.send({})
        assert await good.next() == {"echo": {}}


@scenario
async def test_an_update_that_cannot_be_encoded_costs_only_itself() -> None:
    async with bench() as made:
        client = await made.connect()
        made.subscribe(client, "A")
        made.publish("A", 1)
        made.hub.publish(made.channel("A"), "not a number")
        made.publish("A", 3)
        batch = await client.next()
        assert [item.get("value", item.get("code")) for item in batch["messages"]] == [1, "INTERNAL_ERROR", 3]
        error = batch["messages"][1]
        assert list(error) == ["type", "code", "error_code", "message", "details", "timestamp"]
        assert datetime.fromisoformat(error["timestamp"]).tzinfo is not None


@scenario
async def test_figures() -> None:
    async with bench() as made:
        clients = [await made.connect() for _ in range(3)]
        made.subscribe(clients[0], "A", "B")
        made.subscribe(clients[1], "A")
        clients[1].connection.set_subscriptions(
            clients[1].connection.subscriptions() | {made.hub.topic("market", "M"): made.hub.options()}
        )
        assert made.hub.subscription_counts() == {"stock": 3, "market": 1}
        assert made.topic("A").n_subscribers == 2
        assert made.hub.n_connections == 3
        assert len(made.hub.connection_list()) == 3
        made.publish("A", 1)
        await clients[0].next()
        await clients[1].next()
        assert made.hub.n_messages_sent == 2
        assert made.hub.queued_messages() == 0
        assert made.check_ledger()["delivered"] == 2
        clients[1].connection.set_subscriptions({})
        assert made.hub.subscription_counts() == {"stock": 2, "market": 0}


@scenario
async def test_what_was_published_before_a_channel_has_moved_on_still_comes() -> None:
    async with bench(interval_ms=20) as made:
        names = [f"S{number}" for number in range(40)]
        channels = [made.channel(name) for name in names]
        left, entered = made.hub.topic("market", "M"), made.hub.topic("market", "N")
        client = await made.connect()
        client.connection.set_subscriptions({left: made.hub.options(latest=True)})
        made.publish(names[0], 1)
        while not updates(client.messages):
            assert await client.read()
        for name in names:
            made.publish(name, 2)
        made.hub.move_channels(
            {
                channel: (made.hub.topic("stock", name), entered)
                for name, channel in zip(names, channels, strict=True)
            }
        )
        assert left.channels == []
        assert entered.channels == channels
        # These supersede what is still to come, but not for those who do not hear of them.
        for name in names:
            made.publish(name, 3)
        while not made.hub.flusher.is_idle:
            await asyncio.sleep(0.001)
        await client.drain()
        assert [update["value"] for update in updates(client.messages)] == [1] + [2] * 40
        assert made.check_ledger()["conflated"] == 0


@scenario
async def test_subscriptions_are_told_in_the_order_in_which_they_were_asked_for() -> None:
    async with bench() as made:
        client = await made.connect()
        topics = [made.topic(f"S{number}") for number in range(60)]
        wanted = {
            topic: made.hub.options(latest=place % 3 == 0, max_rate=float(place % 5))
            for place, topic in enumerate(topics[::-7] + topics[3:40:2])
        }
        client.connection.set_subscriptions(wanted)
        assert list(client.connection.subscriptions().items()) == list(wanted.items())
        client.connection.set_subscriptions(dict(sorted(wanted.items(), key=lambda item: item[0].name)))
        assert client.connection.subscriptions() == wanted
