"""When the screener dialect sends, and what it leaves out in between."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from pathlib import Path

import pytest
from screener_feeds import PRICE, UNBOUNDED, milliseconds, write_symbols

from tests.clients import Client, Message, Stream, client, updates
from tests.conftest import StartServer
from tests.serving import Server

INTERVAL_MS = 2000  # longer than a machine with much to do stands still


async def publish(target: Server, *prices: int) -> None:
    """All of them in one turn of the server."""
    body = [{"type": PRICE, "code": "005930", "price": value} for value in prices]
    headers = {"Authorization": "Bearer admin"}
    status, _ = await asyncio.to_thread(target.get, "/v1/publish", "POST", json.dumps(body).encode(), headers)
    assert status == 202


async def test_the_first_after_a_quiet_time_comes_at_once_and_what_follows_as_one_batch(
    server: StartServer,
) -> None:
    target = server("--feed", "none", "--batch-interval-ms", str(INTERVAL_MS), admin_token="admin")
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        assert (await connection.until_snapshot())["messages"] == []
        for group in (100, 200):
            if group > 100:
                # The interval after a batch, in which nothing comes, makes the time quiet.
                with pytest.raises(TimeoutError):
                    await connection.receive(INTERVAL_MS / 1000 + 0.2)
            await publish(target, group)
            first = await connection.receive()
            # Sooner than if it had waited.
            assert time.time() * 1000 - milliseconds(first["timestamp"]) < INTERVAL_MS - 100
            assert (first["type"], first["price"]) == (PRICE, group)
            # In several turns of the server, none of which sends anything.
            await publish(target, group + 1)
            await publish(target, group + 2, group + 3)
            await publish(target, group + 4)
            batch = await connection.receive()
            assert [u["price"] for u in batch["messages"]] == [group + n for n in range(1, 5)]
            waited = milliseconds(batch["timestamp"]) - milliseconds(first["timestamp"])
            assert INTERVAL_MS - 10 <= waited < 2 * INTERVAL_MS


async def test_without_batching_nothing_but_snapshots_is_a_batch(server: StartServer) -> None:
    target = server(
        "--feed", "sim", "--batch-interval-ms", "0", simulator_rate=1000, rate_limit=0, **UNBOUNDED
    )
    async with client(target.url) as connection:
        assert connection.greeting["batch_interval_ms"] == 0
        stream = Stream()
        connection.on_message = stream.take
        await connection.subscribe("stock", "005930", "000660")
        await connection.subscribe("market", "KOSPI", mode="all")
        await connection.until_snapshot()
        await connection.until_snapshot()
        stream.from_any = True
        while stream.n_bare < 500:
            await connection.receive()
        assert stream.n_batches == 0
        # max_rate keeps its pace, and what is due together comes as single messages as well.
        await connection.subscribe("market", "NASDAQ", max_rate=10)
        await connection.until_snapshot()
        stream.has_latest = True
        while stream.n_bare < 1000:
            await connection.receive()
        assert stream.n_batches == 0
    assert target.stats()["batching_enabled"] is False


async def test_max_rate_is_kept_and_the_last_value_comes(server: StartServer) -> None:
    target = server("--feed", "none", admin_token="admin")

    async def listen(connection: Client) -> list[Message]:
        received: list[Message] = []
        while not received or received[-1]["price"] != 400:
            received += [u for u in updates(await connection.receive()) if u["type"] == PRICE]
        # Nothing of it comes after the last: a second is longer than the slowest pace.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while True:
                    message = await connection.receive()
                    assert PRICE not in [update["type"] for update in updates(message)]
        return received

    paces: tuple[dict[str, object], ...] = (
        {"max_rate": 2}, {"max_rate": 10}, {"mode": "latest"}, {"mode": "all"},
    )  # fmt: skip
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as listening:
        connections = [await stack.enter_async_context(client(target.url)) for _ in paces]
        for connection, options in zip(connections, paces, strict=True):
            await connection.subscribe("stock", "005930", **options)
            await connection.until_snapshot()
        tasks = [listening.create_task(listen(connection)) for connection in connections]
        # 200 updates a second for two seconds, or longer where the machine is slow, then silence.
        for first in range(1, 401, 4):
            await publish(target, *range(first, first + 4))
            await asyncio.sleep(0.02)
    slow, faster, latest, every = [task.result() for task in tasks]
    assert [update["seq"] for update in every] == list(range(1, 401))
    at_s = [milliseconds(update["timestamp"]) / 1000 for update in every]
    took = at_s[-1] - at_s[0]
    # Without the time in which the server stood still.
    running = sum(gap for gap in (b - a for a, b in itertools.pairwise(at_s)) if gap < 0.05)
    for received, rate in ((slow, 2.0), (faster, 10.0), (latest, 1000 / 30)):
        seqs = [update["seq"] for update in received]
        assert seqs == sorted(set(seqs))
        # What is there when it leads, is of one turn.
        assert seqs[0] <= 4
        # The time's worth, the one that led, and the last one.
        assert 0.6 * running * rate <= len(received) <= took * rate + 2, (rate, took, running)
        assert seqs[-1] == 400


async def test_latest_conflates_within_a_flush(server: StartServer, tmp_path: Path) -> None:
    target = server(
        "--feed",
        "sim",
        "--batch-interval-ms",
        "200",
        "--symbols-file",
        str(write_symbols(tmp_path)),
        simulator_rate=2000,
        **UNBOUNDED,
    )
    async with client(target.url) as latest, client(target.url) as every:
        published: dict[tuple[str, str, int], Message] = {}
        stream = Stream()
        every.on_message = stream.take
        for connection, mode in ((every, "all"), (latest, "latest")):
            await connection.subscribe("stock", "S00", "S01", "S02", mode=mode)
            await connection.until_snapshot()

        batches: list[Message] = []

        async def take_all() -> None:
            while len(batches) < 8 or stream.sequence < batches[-1]["sequence"]:
                for update in updates(await every.receive()):
                    published[update["code"], update["type"], update["seq"]] = update

        listening = asyncio.create_task(take_all())
        newest: dict[tuple[str, str], int] = {}
        while len(batches) < 8:
            message = await latest.until_type("batch")
            inside = message["messages"]
            keys = [(update["code"], update["type"]) for update in inside]
            assert len(keys) == len(set(keys))
            assert [u["sequence"] for u in inside] == sorted(u["sequence"] for u in inside)
            for update in inside:
                assert update["seq"] > newest.get((update["code"], update["type"]), 0)
                newest[update["code"], update["type"]] = update["seq"]
            batches.append(message)
        # Listening to all is done once it has come as far; a failure in it is raised here.
        await asyncio.wait_for(listening, 10)
        # Each value is the newest of its flush: nothing of its symbol was published between it and the batch.
        for batch in batches:
            for update in batch["messages"]:
                following = published.get((update["code"], update["type"], update["seq"] + 1))
                assert following is None or following["sequence"] > batch["sequence"]
                assert published[update["code"], update["type"], update["seq"]] == update
