"""The end of all connections: who gets what before it, who holds up whom, and how long the loop is held."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from core_harness import Bench, Client, bench, updates
from listening import scenario

from fastws._core import Connection
from fastws.server.drain import Drain


def announce(connection: Connection, reconnect_after_ms: int) -> None:
    connection.send_control(b'{"shutdown":%d}' % reconnect_after_ms)


def drain_of(made: Bench, *, spread: float = 1.0, seconds: float = 5.0) -> Drain:
    return Drain(made.hub, announce, spread=spread, deadline=time.monotonic() + seconds)


async def read_to_end(client: Client) -> None:
    """Read, and answer the close frame, until the stream ends."""
    while await client.read():
        if client.close_code is not None and not client.writer.is_closing():
            client.send_raw(b"\x88\x82\x00\x00\x00\x00\x03\xf4")
            client.close_code, client.answered = None, client.close_code  # type: ignore[attr-defined]


def code_of(client: Client) -> int:
    return client.answered  # type: ignore[attr-defined, no-any-return]


async def stop_reading(made: Bench, client: Client) -> None:
    """Publish until the client's connection is blocked, and the kernel's last room would change nothing."""
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    value = 0
    while client.connection.queued_bytes < 20_000:
        for _ in range(100):
            value += 1
            made.publish("A", value)
        await asyncio.sleep(0.001)


@scenario
async def test_everybody_gets_the_last_value_then_the_announcement_then_1012() -> None:
    async with bench(interval_ms=60_000) as made:
        clients = [await made.connect() for _ in range(300)]
        for i, client in enumerate(clients):
            made.subscribe(client, "A", f"own-{i % 7}", latest=i % 2 == 1)
        made.publish("A", 1)
        await asyncio.sleep(0)
        for value in range(2, 9):
            made.publish("A", value)
        reading = [asyncio.create_task(read_to_end(client)) for client in clients]
        assert await drain_of(made).run() == 0
        await asyncio.gather(*reading)
        delays = set()
        for client in clients:
            *before, last = client.messages
            assert updates(before)[-1]["value"] == 8
            delays.add(last["shutdown"])
            assert code_of(client) == 1012
        assert min(delays) >= 500
        assert max(delays) <= 1500
        assert len(delays) > 50
        assert made.hub.n_connections == 0
        assert made.hub.ledger()["undelivered"] == 0


@scenario
async def test_a_slow_client_holds_up_nobody_and_gets_its_values_when_it_reads_again() -> None:
    async with bench(send_buffer=4096, interval_ms=0) as made:
        slow = await made.connect(receive_buffer=4096)
        made.subscribe(slow, "A")
        await stop_reading(made, slow)
        others = [await made.connect() for _ in range(50)]
        made.publish("A", 1_000_000)
        reading = [asyncio.create_task(read_to_end(client)) for client in others]
        draining = asyncio.create_task(drain_of(made, seconds=20).run())
        async with asyncio.timeout(30):
            await asyncio.gather(*reading)
        assert all(code_of(client) == 1012 for client in others)
        assert not draining.done()
        assert slow.connection.is_open
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            await read_to_end(slow)
        *before, last = slow.messages
        assert updates(before)[-1]["value"] == 1_000_000
        assert "shutdown" in last
        assert await draining == 0


@scenario
async def test_the_deadline_holds_whatever_clients_do() -> None:
    async with bench(send_buffer=4096, interval_ms=0) as made:
        # One does not read, one does not answer the close frame, and one is well.
        deaf = await made.connect(receive_buffer=4096)
        made.subscribe(deaf, "A")
        await stop_reading(made, deaf)
        mute = await made.connect()
        well = await made.connect()
        reading = asyncio.create_task(read_to_end(well))
        began = time.monotonic()
        assert await drain_of(made, seconds=1.0).run() == 2
        assert 0.9 < time.monotonic() - began < 2.0
        assert made.hub.n_connections == 0
        await reading
        while await mute.read():
            pass
        assert mute.close_code == 1012
        assert made.handler.closed == [1012] * 3


@scenario
async def test_who_does_not_answer_is_not_waited_for_to_the_end() -> None:
    async with bench() as made:
        await made.connect()
        began = time.monotonic()
        assert await drain_of(made, seconds=60).run() == 0
        assert time.monotonic() - began < 5.0


@scenario
async def test_a_client_that_catches_up_gets_the_rest_first() -> None:
    async with bench(interval_ms=0) as made:
        for value in range(1, 5001):
            made.publish("A", value)
        client = await made.connect()
        client.connection.restore({made.topic("A"): made.hub.options()}, 0)
        assert client.connection.is_restoring
        reading = asyncio.create_task(read_to_end(client))
        assert await drain_of(made).run() == 0
        await reading
        *before, last = client.messages
        assert [update["value"] for update in updates(before)] == list(range(1, 5001))
        assert "shutdown" in last


@scenario
async def test_no_turn_of_the_loop_closes_them_all() -> None:
    async with bench(interval_ms=0) as made:
        clients = [await made.connect() for _ in range(1500)]
        for i, client in enumerate(clients):
            made.subscribe(client, f"own-{i}")
        reading = [asyncio.create_task(read_to_end(client)) for client in clients]
        turn = 0
        closed_in: Counter[int] = Counter()

        async def count_turns() -> None:
            nonlocal turn
            while len(closed_in) == 0 or closed_in.total() < len(clients):
                turn += 1
                await asyncio.sleep(0)

        def note(connection: Connection, reconnect_after_ms: int) -> None:
            closed_in[turn] += 1
            announce(connection, reconnect_after_ms)

        counting = asyncio.create_task(count_turns())
        assert await Drain(made.hub, note, spread=1.0, deadline=time.monotonic() + 30).run() == 0
        await asyncio.gather(counting, *reading)
        # A slice of 2 ms is enough for some hundred at the very most.
        assert max(closed_in.values()) < 500, closed_in
