"""What the core sends to single connections: never dropped, in its place, and caught up with by number."""

from __future__ import annotations

import asyncio
from typing import Any

from core_harness import Bench, Client, bench
from listening import scenario, until

from fastws._core import CHANNEL_STATUS, Channel


def private_channel(made: Bench) -> Channel:
    return made.hub.channel("", "alert", (made.hub.topic("user", ""),), bit=CHANNEL_STATUS, numbered=False)


def flat(messages: list[Any]) -> list[Any]:
    return [each for message in messages for each in message.get("messages", [message])]


async def read_all(made: Bench, client: Client) -> list[Any]:
    """Everything that the connection still has for its client."""
    async with asyncio.timeout(30):
        while (
            client.connection.is_restoring or client.connection.queued_bytes or not made.hub.flusher.is_idle
        ):
            await client.read()
        await client.drain()
    return client.messages


@scenario
async def test_it_is_not_dropped_for_a_slow_client() -> None:
    async with bench(send_buffer=8192, interval_ms=1, outbox_soft_size=50_000) as made:
        alerts = private_channel(made)
        client = await made.connect(receive_buffer=4096)
        made.subscribe(client, "A")
        sequences = []
        for value in range(12_000):
            made.publish("A", value)
            if value % 100 == 0:
                await asyncio.sleep(0)
            if value % 3000 == 2999:
                sequences.append(made.hub.tell(alerts, value, [client.connection]))
        messages = await read_all(made, client)
        found = [update for update in flat(messages) if "seq" not in update and "value" in update]
        assert [update["sequence"] for update in found] == sequences
        assert any(message.get("type") == "overflow" for message in messages)
        numbered = [message["sequence"] for message in flat(messages) if "sequence" in message]
        assert numbered == sorted(numbered)
        assert made.check_ledger()["lost"] > 0


@scenario
async def test_nothing_before_it_claims_its_number() -> None:
    """Also in front of a slow client whose newest values wait outside of any frame."""
    async with bench(send_buffer=8192, interval_ms=1) as made:
        alerts = private_channel(made)
        client = await made.connect(receive_buffer=4096)
        made.subscribe(client, "A", "B", latest=True)
        text = 0
        while not client.connection.queued_bytes:
            text += 1
            made.publish("AB"[text % 2], text)
            await made.flushed()
        for value in range(text + 1, text + 50):
            made.publish("AB"[value % 2], value)
            await made.flushed()
        sequence = made.hub.tell(alerts, 0, [client.connection])
        made.publish("A", 1)
        messages = await read_all(made, client)
        tops = [message["sequence"] for message in messages]
        assert tops == sorted(set(tops))
        assert sequence in tops
        made.check_ledger()

    async with bench(interval_ms=200) as made:
        alerts = private_channel(made)
        client = await made.connect()
        made.subscribe(client, "A")
        for value in range(5):
            made.publish("A", value)
        sequence = made.hub.tell(alerts, 9, [client.connection])
        messages = [await client.next() for _ in range(2)]
        assert [message["sequence"] for message in messages] == [sequence - 1, sequence]


@scenario
async def test_a_connection_that_catches_up_gets_those_that_are_its_own() -> None:
    async with bench(interval_ms=5, send_buffer=8192) as made:
        alerts = private_channel(made)
        mine = []
        for value in range(6000):
            made.publish("A", value)
            if value % 1000 == 0:
                mine.append(made.hub.tell(alerts, value, []))
                made.hub.tell(alerts, value, [])  # somebody else's
        client = await made.connect(receive_buffer=4096)
        assert client.connection.restore({made.topic("A"): made.hub.options()}, 0, False, mine[1:])
        assert client.connection.is_restoring
        late = made.hub.tell(alerts, 7000, [client.connection])
        assert client.connection.addressed_ahead[-1] == late
        messages = flat(await read_all(made, client))
        assert [message["sequence"] for message in messages if "seq" not in message] == [*mine[1:], late]
        assert [message["value"] for message in messages if "seq" in message] == list(range(6000))
        sequences = [message["sequence"] for message in messages]
        assert sequences == sorted(set(sequences))
        assert client.connection.addressed_ahead == []
        made.check_ledger()


@scenario
async def test_a_second_session_while_the_first_is_caught_up_with() -> None:
    async with bench(interval_ms=5, send_buffer=8192) as made:
        for value in range(9000):
            made.publish("ABC"[value % 3], value)
        client = await made.connect(receive_buffer=4096)
        assert client.connection.restore({made.topic("A"): made.hub.options()}, 0)
        assert client.connection.is_restoring
        assert client.connection.restore({made.topic("B"): made.hub.options()}, 6000)
        made.publish("A", 9000)
        values = [message["value"] for message in flat(await read_all(made, client))]
        assert [value for value in values if value % 3 == 0] == list(range(0, 9001, 3))
        assert [value for value in values if value % 3 == 1] == list(range(6001, 9000, 3))
        made.check_ledger()


@scenario
async def test_what_a_blocked_connection_was_served() -> None:
    """Joining and settling while something waits says nothing about what has gone out."""
    async with bench(interval_ms=1, send_buffer=8192) as made:
        alerts = private_channel(made)
        client = await made.connect(receive_buffer=4096)
        wanted = made.subscribe(client, "A")
        value = 0
        while client.connection.queued_messages < 20:
            value += 1
            made.publish("A", value)
            await made.flushed()
        made.hub.tell(alerts, 0, [client.connection])
        made.subscribe(client, "A", "B")
        connection = client.connection
        n_waiting = connection.queued_messages
        client.writer.transport.abort()
        await until(lambda: made.handler.closed != [])
        assert connection.left_whole
        # All that waited, and nothing before it: each update had a number of its own.
        assert connection.left_sequence == made.hub.sequence - n_waiting
        assert made.hub.count_missed(wanted, connection.left_sequence) == (n_waiting - 1, True)
        del connection
