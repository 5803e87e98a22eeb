"""Private values: who does not listen to them can tell by nothing that there are any."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from core_harness import Bench, Client, bench
from listening import scenario, until

from fastws._core import CHANNEL_PRICE, CHANNEL_STATUS, Channel, Topic

NEVER_MS = 60_000
# Of the values of messages, beyond those of prices.
FIRST = 1_000_000


def private(made: Bench, name: str) -> Channel:
    topics = (made.hub.topic("value", name),)
    return made.hub.channel(name, "value", topics, bit=CHANNEL_PRICE, numbered=False, private=True)


def hold(client: Client, made: Bench, *topics: Topic) -> None:
    client.connection.set_subscriptions(dict.fromkeys(topics, made.hub.options(latest=True)))


def flat(messages: list[Any]) -> list[tuple[int, int]]:
    """(value, number) of each message."""
    items = [item for message in messages for item in message.get("messages", [message])]
    return [(item["value"], item["sequence"]) for item in items]


@scenario
async def test_it_shows_the_number_before_it_and_takes_none() -> None:
    async with bench(interval_ms=0) as made:
        hub = made.hub
        value = private(made, "v")
        client = await made.connect()
        hold(client, made, made.topic("A"), value.topics[0])
        numbers = []
        for payload in (FIRST, 1, FIRST + 1, FIRST + 2, 2):
            numbers.append(made.publish("A", payload) if payload < FIRST else hub.publish(value, payload))
            await made.flushed()
        assert numbers == [0, 1, 1, 1, 2]
        await client.drain()
        assert flat(client.messages) == [(FIRST, 0), (1, 1), (FIRST + 1, 1), (FIRST + 2, 1), (2, 2)]
        assert (hub.sequence, hub.n_history, hub.history_size, hub.history_start) == (2, 2, 1400, 1)
        assert hub.update_counts() == {"price": 2, "value": 3}
        assert hub.update_counts(private=False) == {"price": 2}
        # It goes on where the socket has taken all of it.
        assert client.connection.ledger()["delivered"] == 5
        client.writer.transport.abort()
        await until(lambda: not client.connection.is_open)
        assert client.connection.left_sequence == 2


@pytest.mark.parametrize("what", ["other values", "no other values"])
@scenario
async def test_who_does_not_listen_gets_the_same_to_the_byte(what: str) -> None:
    """Also in batches, in snapshots, and of what it has missed."""
    async with bench(interval_ms=NEVER_MS) as made:
        hub = made.hub
        value = private(made, "v")
        owner, stranger = await made.connect(), await made.connect()
        hold(owner, made, made.topic("A"), value.topics[0])
        held = made.subscribe(stranger, "A", "B")

        def say(n: int) -> None:
            for i in range(n):
                made.publish("AB"[i % 2], i)
                if what == "other values":
                    hub.publish(value, FIRST + i)

        say(3)
        await made.flushed()
        say(4)
        stranger.connection.send_snapshot(held.items())
        say(5)
        await made.flushed()
        await stranger.drain()
        left = await made.connect()
        assert hub.count_missed(held, 2) == (10, True)
        assert left.connection.restore(held, 2)
        await left.drain()
        first, second, third = ([(i, start + i) for i in range(n)] for start, n in ((1, 3), (4, 4), (8, 5)))
        assert (
            [(message["sequence"], flat([message])) for message in (*stranger.messages, *left.messages)]
            == [
                (3, first),
                (7, second),
                (7, second[2:]),  # the snapshot
                (12, third),
                (12, first[2:] + second + third),
            ]
        )


@pytest.mark.parametrize("is_paced", [False, True])
@scenario
async def test_values_come_once_and_in_their_places_while_clients_come_and_go(is_paced: bool) -> None:
    """Many between two numbers, so that a number does not say what came before what."""
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    async with bench(interval_ms=5) as made:
        hub = made.hub
        values = [private(made, name) for name in "vw"]
        topics = [*(made.topic(name) for name in "AB"), *(value.topics[0] for value in values)]
        clients = [await made.connect() for _ in range(8)]
        published: list[int] = []

        async def publish() -> None:
            for n in range(2500):
                # What comes after what can be told by it; the last digit says of what it is.
                which = rng.choice((0, 2, 2, 2, 3, 3, 3, 1))
                payload = 10 * n + which
                published.append(payload)
                if which < 2:
                    made.publish("AB"[which], payload)
                else:
                    hub.publish(values[which - 2], payload)
                if n % 4 == 0:
                    await asyncio.sleep(0)
                if n % 150 == 0:
                    await asyncio.sleep(0.003)

        async def wander(client: Client) -> None:
            while not publishing.done():
                chosen = rng.sample(topics, rng.randint(0, 4))
                rates = (0, 100) if is_paced else (0,)
                wanted = {
                    # Prices in both modes.
                    topic: hub.options(
                        latest=topic not in topics[:2] or rng.random() < 0.5, max_rate=rng.choice(rates)
                    )
                    for topic in chosen
                }
                client.connection.set_subscriptions(wanted)
                digits = [topics.index(topic) for topic in chosen]
                client.connection.send_control(b'{"held":%b}' % str(digits).encode())
                client.connection.send_snapshot(wanted.items())
                for _ in range(rng.randint(1, 8)):
                    await asyncio.sleep(0)
                if rng.random() < 0.3:
                    await asyncio.sleep(0.007)

        publishing = asyncio.create_task(publish())
        await asyncio.gather(publishing, *(wander(client) for client in clients))
        await made.flushed()
        last = {which: max(value for value in published if value % 10 == which) for which in range(4)}
        for client in clients:
            await client.drain()
            check(client.messages, last, seed, is_paced=is_paced)


def check(messages: list[Any], last: dict[int, int], seed: int, *, is_paced: bool) -> None:
    """Nothing comes twice or after something newer of its kind, numbers never fall, and the end is the last value.

    But for numbers of what was held back because its holder has asked for it.
    """
    held: list[int] = []
    newest: dict[int, int] = {}
    number = 0
    n_live = 0
    for message in messages:
        if "held" in message:
            held = message["held"]
            newest = {which: value for which, value in newest.items() if which in held}
            continue
        is_snapshot = message.get("snapshot", False)
        for value, sequence in flat([message]):
            which = value % 10
            assert which in held, f"seed {seed}"
            # A snapshot may repeat what was the last; nothing live does.
            assert value >= newest.get(which, 0) if is_snapshot else value > newest.get(which, -1), (
                f"seed {seed}"
            )
            newest[which] = value
            n_live += not is_snapshot
            assert sequence <= message["sequence"], f"seed {seed}"
        assert message["sequence"] >= number or is_paced, f"seed {seed}"
        number = message["sequence"]
    assert n_live > 20
    assert newest == {which: last[which] for which in held}, f"seed {seed}"


@scenario
async def test_a_session_goes_on_before_what_waited_behind_a_value() -> None:
    """A value that waits at the front says nothing of the number after it."""
    async with bench(interval_ms=NEVER_MS) as made:
        hub = made.hub
        value = private(made, "v")
        client = await made.connect()
        wanted = {made.topic("A"): hub.options(), value.topics[0]: hub.options(latest=True)}
        client.connection.set_subscriptions(wanted)
        made.publish("A", 1)
        await made.flushed()
        await client.drain()
        hub.publish(value, FIRST)
        made.publish("A", 2)
        client.connection.close(1000)
        assert client.connection.left_sequence == 1
        left = client.connection.left_subscriptions
        again = await made.connect()
        assert hub.count_missed(left, 1) == (1, True)
        assert again.connection.restore(left, 1)
        await again.drain()
        assert flat(again.messages) == [(2, 2), (FIRST, 2)]


@scenario
async def test_a_restored_session_gets_its_last_values_behind_all_else() -> None:
    async with bench(interval_ms=NEVER_MS, send_buffer=4096) as made:
        hub = made.hub
        mine, held, late, none = (private(made, name) for name in ("mine", "held", "late", "none"))
        latest = hub.options(latest=True)
        for value in (mine, held, late):
            hub.publish(value, FIRST)
        for i in range(5000):
            made.publish("A", i)
        hub.publish(mine, FIRST + 1)
        client = await made.connect(receive_buffer=4096)
        # What it holds by itself it has had, and what it subscribes to meanwhile it gets at once.
        hold(client, made, held.topics[0])
        wanted = {made.topic("A"): hub.options(), mine.topics[0]: latest, none.topics[0]: latest}
        # The number of the value is that of the last price, so it is not known whether the client has seen it.
        assert hub.count_missed(wanted, 5000) == (0, True)
        assert hub.count_missed(wanted, 4999) == (2, True)
        assert client.connection.restore(wanted, 0)
        assert client.connection.is_restoring
        # Not kept in a name: it would outlive the hub.
        client.connection.set_subscriptions(client.connection.subscriptions() | {late.topics[0]: latest})
        client.connection.send_snapshot([(late.topics[0], latest)])
        hub.publish(mine, FIRST + 2)
        made.publish("A", 5000)
        async with asyncio.timeout(20):
            while client.connection.is_restoring or client.connection.queued_bytes:
                await client.read()
        await client.drain()
        snapshots = [message for message in client.messages if message.get("snapshot")]
        assert flat(snapshots) == [(FIRST, 0)]
        rest = flat([message for message in client.messages if not message.get("snapshot")])
        assert rest == [*((i, i + 1) for i in range(5001)), (FIRST + 2, 5001)]
        # And what comes from now on.
        for value in (mine, held, late, none):
            hub.publish(value, FIRST + 9)
        client.messages.clear()
        await made.flushed()
        await client.drain()
        assert flat(client.messages) == [(FIRST + 9, 5001)] * 4


@scenario
async def test_a_client_that_reads_late_gets_values_behind_what_they_follow() -> None:
    """No frame claims the number of a price that is in the next."""
    async with bench(interval_ms=1, send_buffer=4096) as made:
        hub = made.hub
        value = private(made, "v")
        client = await made.connect(receive_buffer=4096)
        both = {made.topic("A"): hub.options(), value.topics[0]: hub.options(latest=True)}
        client.connection.set_subscriptions(both)
        n = 0
        while client.connection.queued_messages < 300:
            n += 1
            made.publish("A", n)
            hub.publish(value, FIRST + n)
            await made.flushed()
        async with asyncio.timeout(20):
            while client.connection.queued_messages:
                await client.read()
        await client.drain()
        seen = 0
        for message in client.messages:
            for number, _ in flat([message]):
                if number < FIRST:
                    assert number == seen + 1
                    seen = number
                else:
                    assert number - FIRST <= seen, "a value before the price that it follows"
            assert message["sequence"] <= seen
        assert seen == n
        assert flat(client.messages)[-1] == (FIRST + n, n)


@scenario
async def test_what_is_private_is_not_for_everyone() -> None:
    async with bench() as made:
        hub = made.hub
        with pytest.raises(ValueError, match=r"private: a channel of no topic"):
            hub.channel("v", "value", (), bit=CHANNEL_STATUS, numbered=False, private=True)
        value = private(made, "v")
        client = await made.connect()
        with pytest.raises(ValueError, match="is private"):
            hub.broadcast(value, 1)
        with pytest.raises(ValueError, match="is private"):
            hub.tell(value, 1, [client.connection])
        assert (hub.sequence, value.seq, value.last_payload) == (0, 0, None)


@scenario
async def test_a_private_channel_that_moves() -> None:
    async with bench(interval_ms=NEVER_MS) as made:
        hub = made.hub
        value = private(made, "v")
        other = made.topic("A")
        made.publish("A", 1)
        hub.publish(value, FIRST)
        hub.move_channels({value: (other,)})
        client = await made.connect()
        assert client.connection.restore({other: hub.options()}, 0)
        await client.drain()
        assert flat(client.messages) == [(1, 1), (FIRST, 1)]
