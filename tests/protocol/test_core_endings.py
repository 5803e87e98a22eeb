"""Connections that end while they are served: any send may end one, and nothing of the core may trip over it."""

from __future__ import annotations

import asyncio
import socket
import struct
import time

import pytest
from core_harness import MASK, Bench, Client, bench, updates
from listening import over_both, scenario, until

from fastws._core import Connection
from fastws._frames import OP_CLOSE, build_frame


def reset(client: Client) -> None:
    """Make the peer's kernel send a reset now, before the server's loop has a chance to see it."""
    sock = client.writer.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.writer.transport.abort()


async def queue_until(client: Client, size: int) -> None:
    """Owe the client exactly `size` bytes, or a few less."""
    connection = client.connection
    while size - connection.queued_bytes > 10:
        rest = size - connection.queued_bytes
        connection.send_control(b"x" * max(0, min(20_000, rest - 8)))


@over_both
async def test_a_reset_seen_while_subscriptions_change() -> None:
    async with bench(interval_ms=400) as made:
        for _ in range(30):
            client = await made.connect()
            made.subscribe(client, "A")
            made.publish("A", 1)
            await asyncio.sleep(0)
            made.publish("A", 2)
            connection = client.connection
            reset(client)
            await asyncio.sleep(0)
            connection.set_subscriptions({made.topic("B"): made.hub.options()})
            connection.restore({made.topic("A"): made.hub.options()}, 0)
            connection.send_snapshot([])
            del connection
        await until(lambda: made.hub.n_connections == 0)
        assert made.topic("B").n_subscribers == 0
        for value in range(3):
            made.publish("B", value)
            await asyncio.sleep(0.01)


@pytest.mark.plain("it counts every byte that is sent, and so the heads of records")
@scenario
async def test_the_hard_cap_is_met_while_a_flush_is_handed_over() -> None:
    async with bench(interval_ms=400, outbox_hard_size=300_000, outbox_soft_size=100_000) as made:
        clients = [await made.connect() for _ in range(400)]
        slow = await made.connect(receive_buffer=4096)
        for client in (*clients, slow):
            made.subscribe(client, "A")
        slow.writer.transport.pause_reading()
        while not slow.connection.queued_bytes:
            slow.connection.send_control(b"x" * 20_000)
        await queue_until(slow, 300_000)
        made.publish("A", 1)
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: slow.connection.set_subscriptions({made.topic("B"): made.hub.options()}))
        await until(lambda: made.handler.closed == [4408])
        assert made.topic("B").n_subscribers == 0
        for client in clients:
            assert (await client.next())["value"] == 1


@pytest.mark.plain("it counts every byte that is sent, and so the heads of records")
@scenario
async def test_the_reply_to_a_close_frame_meets_the_hard_cap() -> None:
    async with bench(outbox_hard_size=300_000, outbox_soft_size=100_000, send_buffer=8192) as made:
        good = [await made.connect() for _ in range(3)]
        slow = await made.connect(receive_buffer=4096)
        slow.writer.transport.pause_reading()
        while not slow.connection.queued_bytes:
            slow.connection.send_control(b"x" * 20_000)
        await queue_until(slow, 300_000)
        while slow.connection.queued_bytes < 299_998:
            slow.connection.send_control(b"")
        slow.send_raw(build_frame(OP_CLOSE, b"\x03\xe8", mask=MASK))
        await until(lambda: made.handler.closed != [])
        assert made.hub.n_connections == 3
        assert all(client.connection in made.hub.connection_list() for client in good)


@over_both
async def test_values_of_mode_latest_survive_a_second_blockage() -> None:
    async with bench(
        interval_ms=5, outbox_hard_size=10**7, outbox_soft_size=30_000, send_buffer=8192
    ) as made:
        client = await made.connect(receive_buffer=4096)
        names = [f"L{i}" for i in range(3000)]
        wanted = {made.topic(name): made.hub.options(latest=True) for name in names}
        wanted[made.topic("A")] = made.hub.options()
        client.connection.set_subscriptions(wanted)
        client.writer.transport.pause_reading()
        client.connection.send_control(b'{"pad":"' + b"x" * 600_000 + b'"}')
        for name in names:
            made.publish(name, 7)
        await until(lambda: client.connection.queued_messages >= 3000)
        client.writer.transport.resume_reading()
        async with asyncio.timeout(30):
            while client.connection.queued_messages >= 3000:
                await client.read(4096)
        client.writer.transport.pause_reading()
        for value in range(2000):
            made.publish("A", value)
            if value % 20 == 19:
                await asyncio.sleep(0.002)
        client.writer.transport.resume_reading()
        await settled(made, client)
        sequences = [update["sequence"] for update in updates(client.messages)]
        assert set(range(1, 3001)) <= set(sequences)
        declared = [item["code"] for message in client.messages for item in message.get("items", ())]
        assert set(declared) <= {"A"}


async def settled(made: Bench, client: Client) -> None:
    async with asyncio.timeout(30):
        while client.connection.queued_messages or not made.hub.flusher.is_idle:
            await client.drain()
            await asyncio.sleep(0)
        await client.drain()


@over_both
async def test_a_large_snapshot_and_many_changed_values_are_not_held_against_a_client() -> None:
    async with bench(send_buffer=8192, outbox_hard_size=200_000, outbox_soft_size=100_000) as made:
        for value in range(5000):
            made.publish(f"S{value}", value)
        client = await made.connect(receive_buffer=4096)
        client.writer.transport.pause_reading()
        wanted = {made.hub.topic("market", "M"): made.hub.options(latest=True)}
        client.connection.set_subscriptions(wanted)
        client.connection.send_snapshot(wanted.items())
        assert client.connection.queued_bytes > 200_000
        for value in range(5000):
            made.publish(f"S{value}", value)
        await until(lambda: made.hub.flusher.is_idle)
        assert client.connection.is_open
        client.writer.transport.resume_reading()
        await settled(made, client)
        assert len(client.messages[0]["messages"]) == 5000
        assert len(updates(client.messages)) == 5000


@over_both
async def test_a_pause_of_the_process_is_not_held_against_clients() -> None:
    async with bench(ping_interval=0.3, pong_timeout=0.8, idle_timeout=0) as made:
        clients = [await made.connect() for _ in range(3)]
        for _ in range(2):
            loop = asyncio.get_running_loop()
            stopped = loop.time()
            while loop.time() - stopped < 1.5:
                pass  # as a suspended process does: nothing of the loop runs
            # The answers to the pings of before are read only now.
            await asyncio.sleep(0.25)
            for client in clients:
                client.send({"alive": 1})
                await client.drain()
        assert made.handler.closed == []


@scenario
async def test_what_is_held_for_something_to_follow_leaves_without_it() -> None:
    async with bench() as made:
        client = await made.connect()

        def on_message(connection: Connection, data: bytes, is_text: bool) -> None:
            connection.send_control(b'{"held":%s}' % data, is_followed=True)

        made.handler.on_message = on_message  # type: ignore[method-assign]
        # The kernel would keep it for 200 ms.
        asked = time.monotonic()
        for number in range(10):
            client.send(number)
            assert await client.next() == {"held": number}
        assert time.monotonic() - asked < 1.0


@scenario
async def test_very_many_that_end_together_take_their_leave_in_turns() -> None:
    async with bench(interval_ms=1) as made:
        staying = await made.connect()
        made.subscribe(staying, "A")
        leaving = [await made.connect() for _ in range(500)]
        for index, client in enumerate(leaving):
            made.subscribe(client, "A", *(f"S{index + place}" for place in range(20)), latest=True)
        made.publish("A", 1)
        for client in leaving:
            client.writer.transport.abort()
        made.publish("A", 2)
        async with asyncio.timeout(30):
            while made.hub.n_connections > 1:
                await asyncio.sleep(0)
        assert made.handler.closed == [1006] * 500
        assert len(made.hub.cohorts) == 1
        made.publish("A", 3)
        while [update["value"] for update in updates(staying.messages)] != [1, 2, 3]:
            assert await staying.read()
        made.check_ledger()


@over_both
async def test_what_is_on_its_way_when_a_client_says_goodbye_has_been_served() -> None:
    async with bench(send_buffer=8192, interval_ms=0) as made:
        client = await made.connect(receive_buffer=4096)
        made.subscribe(client, "A")
        client.writer.transport.pause_reading()
        value = 0
        while not client.connection.queued_messages:
            value += 1
            made.publish("A", value)
            await asyncio.sleep(0)
        # Behind the one that is cut.
        for _ in range(3):
            value += 1
            made.publish("A", value)
            await asyncio.sleep(0)
        client.send_raw(build_frame(OP_CLOSE, struct.pack(">H", 1000), mask=MASK))
        await until(lambda: not client.connection.is_open)
        client.writer.transport.resume_reading()
        async with asyncio.timeout(30):
            while await client.read():
                pass
        await until(lambda: made.handler.closed == [1000])
        received = updates(client.messages)
        assert 0 < len(received) < value
        assert client.close_code == 1000
        assert client.connection.left_whole
        assert client.connection.left_sequence == received[-1]["sequence"]
        assert client.connection.ledger()["delivered"] == len(received)
