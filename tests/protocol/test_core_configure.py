"""Parameters of a hub that change while it runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_harness import bench, updates
from listening import scenario, until


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rate_limit": -1}, "rate_limit: expected a whole number from 0"),
        ({"control_rate_limit": 10_000_000}, "control_rate_limit: expected a whole number"),
        ({"outbox_soft_size": 2 << 20}, "outbox_soft_size: 2097152 is over outbox_hard_size, 1048576"),
        ({"outbox_hard_size": 1024}, "outbox_soft_size: 262144 is over outbox_hard_size, 1024"),
        ({"stall_timeout": -0.1}, "stall_timeout: expected seconds from 0"),
        ({"ping_interval": float("nan")}, "ping_interval: expected seconds"),
        ({"flush_share": 0.0}, "flush_share: expected above 0"),
        ({"flush_share": 1.5}, "flush_share: expected above 0"),
        ({"history_size": -1}, "history_size: expected"),
        ({"deflate_threshold": -1}, "deflate_threshold: expected"),
        ({"compress": 3}, "compress: expected something to call"),
    ],
)
@scenario
async def test_what_cannot_be_is_named_and_changes_nothing(change: dict[str, Any], text: str) -> None:
    async with bench(rate_limit=7) as made:
        with pytest.raises(ValueError, match=text):
            made.hub.configure(**({"rate_limit": 9} | change))
        assert made.hub.rate_limit == 7
        assert made.hub.outbox_hard_size == 1 << 20


@scenario
async def test_limits_hold_for_open_connections() -> None:
    async with bench(rate_limit=0, idle_timeout=0, ping_interval=0) as made:
        client = await made.connect()
        for _ in range(50):
            client.send({"n": 1})
        await client.drain()
        assert made.handler.n_limited == 0
        made.hub.configure(rate_limit=5)
        for _ in range(50):
            client.send({"n": 1})
        await until(lambda: made.hub.meters.n_rate_limited >= 44)
        assert made.handler.n_limited == 1
        made.hub.configure(rate_limit=0, ping_interval=0.01)
        async with asyncio.timeout(30):
            while not client.n_pings:
                await client.read()
        made.hub.configure(ping_interval=0, idle_timeout=0.01)
        async with asyncio.timeout(30):
            while client.close_code is None:
                await client.read()
        assert client.close_code == 4409


@scenario
async def test_a_smaller_outbox_holds_for_slow_connections() -> None:
    async with bench(interval_ms=1, send_buffer=4096) as made:
        client = await made.connect(receive_buffer=4096)
        made.subscribe(client, "A")
        for value in range(20_000):
            made.publish("A", value)
            if value % 1000 == 0:
                await asyncio.sleep(0.002)
        await until(lambda: made.hub.outboxes()["bytes"] > 100_000)
        assert made.hub.outboxes()["blocked"] == 1
        made.hub.configure(outbox_soft_size=8192, outbox_hard_size=16384)
        made.publish("A", 1)
        await until(lambda: made.handler.closed == [4408])


@scenario
async def test_history_shrinks_ends_and_begins_anew() -> None:
    async with bench(interval_ms=1, history_size=1 << 20) as made:
        hub = made.hub
        for value in range(1000):
            made.publish("A", value)
        assert hub.n_history == 1000
        hub.configure(history_size=100 * 700)
        assert (hub.n_history, hub.history_size) == (100, 70_000)
        client = await made.connect()
        wanted = {made.topic("A"): hub.options()}
        assert not client.connection.restore(wanted, 899)
        assert client.connection.restore(wanted, 900)
        assert [update["seq"] for update in updates([await client.next()])] == list(range(901, 1001))
        hub.configure(history_size=0)
        assert (hub.n_history, hub.history_size) == (0, 0)
        for value in range(50):
            made.publish("B", value)
        assert (hub.n_history, hub.history_size) == (0, 0)
        assert hub.count_missed(wanted, 1000) == (0, False)
        assert not client.connection.restore(wanted, hub.sequence)
        hub.configure(history_size=1 << 20)
        for value in range(30):
            made.publish("A", value)
        assert hub.n_history == 30
        assert not client.connection.restore(wanted, 1049)
        assert hub.count_missed(wanted, 1050) == (30, True)


@scenario
async def test_a_connection_that_catches_up_when_history_ends_is_closed() -> None:
    async with bench(interval_ms=1, send_buffer=4096) as made:
        client = await made.connect(receive_buffer=4096)
        for value in range(20_000):
            made.publish("A", value)
        assert client.connection.restore({made.topic("A"): made.hub.options()}, 0)
        assert client.connection.is_restoring
        made.hub.configure(history_size=0)
        async with asyncio.timeout(30):
            while client.close_code is None:
                await client.read()
        assert client.close_code == 4408
