"""Groups with more connections than one cohort takes: what they get, and how joining and leaving fills the cohorts."""

from __future__ import annotations

import asyncio
import random

import pytest
from core_harness import Bench, Client, bench, updates
from listening import scenario, until


async def n_flushes(made: Bench, clients: list[Client]) -> int:
    """Into how many cohorts `clients` are divided: as many flushes as one update takes."""
    before = made.hub.flusher.n_flushes
    value = made.hub.sequence + 1
    made.publish("A", value)
    for client in clients:
        while (await client.next()).get("value") != value:
            pass
    await until(lambda: made.hub.flusher.is_idle)
    return made.hub.flusher.n_flushes - before


async def joined(made: Bench) -> Client:
    client = await made.connect()
    made.subscribe(client, "A")
    return client


@scenario
async def test_a_group_is_divided_and_places_are_taken_again() -> None:
    async with bench(interval_ms=0, cohort_size=2) as made:
        clients = [await joined(made) for _ in range(5)]
        assert len(made.hub.cohorts) == 1, "groups are counted, however they are divided"
        assert await n_flushes(made, clients) == 3
        # A place in each of the full ones, and two more in the third: four join without a fourth cohort.
        for client in (clients.pop(0), clients.pop(1)):
            client.connection.set_subscriptions({})
        for _ in range(3):
            clients.append(await joined(made))
        assert await n_flushes(made, clients) == 3
        clients.append(await joined(made))
        assert await n_flushes(made, clients) == 4


@scenario
async def test_a_cohort_that_is_left_by_all_is_gone_from_its_ring() -> None:
    async with bench(interval_ms=0, cohort_size=2) as made:
        clients = [await joined(made) for _ in range(6)]
        # The first pair, the last one, and the one between them.
        for n_left, places in ((2, (0, 1)), (1, (2, 3)), (0, (0, 1))):
            for client in [clients[place] for place in places]:
                client.connection.set_subscriptions({})
                clients.remove(client)
            if n_left:
                assert await n_flushes(made, clients) == n_left
        assert len(made.hub.cohorts) == 1, "those that hold nothing"
        clients = [await joined(made)]
        assert await n_flushes(made, clients) == 1


@scenario
async def test_a_broadcast_reaches_every_cohort_of_a_group() -> None:
    async with bench(interval_ms=0, cohort_size=2) as made:
        clients = [await joined(made) for _ in range(5)]
        made.hub.broadcast(made.channel("B"), 7)
        assert [(await client.next())["value"] for client in clients] == [7] * 5


@pytest.mark.parametrize("seed", range(4))
@scenario
async def test_nothing_is_missed_or_doubled_while_connections_come_and_go(seed: int) -> None:
    made_up = random.Random(seed)
    async with bench(interval_ms=made_up.choice((0, 2)), cohort_size=made_up.choice((1, 2, 3))) as made:
        clients = [await made.connect() for _ in range(8)]
        wanted: list[list[int]] = [[] for _ in clients]
        holders: set[int] = set()
        for value in range(400):
            i = made_up.randrange(len(clients))
            if made_up.random() < 0.3:
                if i in holders:
                    clients[i].connection.set_subscriptions({})
                else:
                    made.subscribe(clients[i], "A")
                holders ^= {i}
            made.publish("A", value)
            for holder in holders:
                wanted[holder].append(value)
            if made_up.random() < 0.5:
                await asyncio.sleep(0.001 * made_up.randrange(4))
        await until(lambda: made.hub.flusher.is_idle)
        for client, values in zip(clients, wanted, strict=True):
            await client.drain()
            assert [update["value"] for update in updates(client.messages)] == values


@pytest.mark.parametrize("n_rounds", [2, 12])
@scenario
async def test_large_frames_that_wait_in_sockets_stay_as_they_were(n_rounds: int) -> None:
    # They are sent from a file that is emptied after every slice. Twelve are more than the sockets take.
    async with bench(
        interval_ms=2, cohort_size=40, outbox_soft_size=1 << 23, outbox_hard_size=1 << 24
    ) as made:
        clients = [await joined(made) for _ in range(100)]
        values = range(700 * n_rounds)
        for first in values[::700]:
            for value in values[first : first + 700]:
                made.publish("A", value)
            await until(lambda: made.hub.flusher.is_idle)
        for client in clients:
            await client.drain()
            got = updates(client.messages)
            assert [update["value"] for update in got] == list(values)
            assert all(update["pad"] == "x" * (update["value"] % 7) for update in got)
            client.messages.clear()
