"""What the screener dialect promises while prices are moving, seen by `websockets` on a real server."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from screener_feeds import PRICE, SYMBOLS, UNBOUNDED, price, status, write_replay, write_symbols

from tests.clients import Message, Stream, client, updates
from tests.conftest import StartServer
from tests.serving import Server, until

BOOK = "orderbook_update"


@pytest.fixture
def busy(shared_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server where prices and books of twelve symbols are updated 2,000 times a second."""
    return start_busy(shared_server, tmp_path_factory.getbasetemp())


@pytest.fixture
def busy_over(
    shared_server: StartServer, tmp_path_factory: pytest.TempPathFactory, over: dict[str, str]
) -> Server:
    """The same in plain, and with TLS."""
    return start_busy(shared_server, tmp_path_factory.getbasetemp(), **over)


def start_busy(launch: StartServer, directory: Path, **settings: object) -> Server:
    symbols = directory / "symbols"
    symbols.mkdir(exist_ok=True)
    defaults: dict[str, object] = {"simulator_rate": 2000, "simulator_seed": 11, "simulator_opening_burst": 1}
    server = launch(
        "--feed",
        "sim",
        "--symbols-file",
        str(write_symbols(symbols)),
        rate_limit=1000,
        **UNBOUNDED,
        **(defaults | settings),
    )
    # A symbol that has not traded yet is in no snapshot.
    until(lambda: all(server.get(f"/v1/stocks/{code}")[0] == 200 for code in SYMBOLS), "a price of each")
    return server


async def test_mode_all_gets_every_update_once_in_order_and_the_same_as_others(busy_over: Server) -> None:
    texts: dict[tuple[str, str, int], list[str]] = {}
    wanted = [list(SYMBOLS), list(SYMBOLS)[:1], list(SYMBOLS)[:6], list(SYMBOLS)]

    async def listen(codes: list[str]) -> tuple[Stream, dict[tuple[str, str, int], Message]]:
        stream, seen = Stream(), {}
        async with client(busy_over.url) as connection:
            connection.on_message = stream.take
            await connection.subscribe("stock", *codes)
            await connection.until_snapshot()
            while stream.n_updates < 250 * len(codes):
                for update in updates(await connection.receive()):
                    seen[update["code"], update["type"], update["seq"]] = update
        assert {code for code, _ in stream.seqs} == set(codes)
        return stream, seen

    results = await asyncio.gather(*map(listen, wanted))
    for stream, seen in results:
        assert stream.n_updates == len(seen)
        assert stream.n_batches > 0
        for key, update in seen.items():
            texts.setdefault(key, []).append(str(update))
    assert any(len(copies) == len(wanted) for copies in texts.values())
    assert all(len(set(copies)) == 1 for copies in texts.values())


async def test_batches_are_cut_and_carry_the_number_up_to_which_all_was_sent(
    server: StartServer, tmp_path: Path
) -> None:
    # 1,000 updates of one turn of the loop, about 200 bytes each, follow the leading one.
    codes = [f"C{number:03}" for number in range(250)]
    burst = [price(1500 + 50, code, 100 + turn, note="x" * 60) for turn in range(4) for code in codes]
    feed = write_replay(
        tmp_path, [status(0, "GAMMA", "open"), price(1500, "C000", 1), *burst, price(2500, "C000", 9)]
    )
    target = server(
        "--feed", feed, "--batch-interval-ms", "300", unknown_symbols="accept", subscription_limit=1000
    )
    async with client(target.url) as connection:
        stream = Stream()
        connection.on_message = stream.take
        await connection.subscribe("stock", *codes)
        assert (await connection.until_snapshot())["messages"] == []
        batches: list[Message] = []
        received: list[Message] = []
        while not received or received[-1]["price"] != 9:
            message = await connection.receive()
            batches += [message] if message["type"] == "batch" else []
            received += [update for update in updates(message) if update["type"] == PRICE]
        assert [update["price"] for update in received] == [
            1,
            *(100 + turn for turn in range(4) for _ in codes),
            9,
        ]
        assert len(batches) > 1
        # Over 64 KiB many clients' libraries would refuse a message.
        assert all(len(json.dumps(batch, default=str, separators=(",", ":"))) <= 66_000 for batch in batches)
        for batch, following in itertools.pairwise(batches):
            assert batch["sequence"] < following["messages"][0]["sequence"]


async def test_seq_and_sequence_begin_with_the_server_and_epochs_differ(
    server: StartServer, tmp_path: Path
) -> None:
    feed = write_replay(tmp_path, [price(0, "005930", 1), price(0, "005930", 2)])
    epochs = set()
    for _ in range(2):
        started = server("--feed", feed, "--replay-speed", "max")
        started.until_feed_is("stopped")
        async with client(started.url) as connection:
            epochs.add(connection.greeting["epoch"])
            # Besides the prices: reconnecting, live, stopped.
            assert connection.greeting["sequence"] == 5
            await connection.subscribe("stock", "005930")
            (last,) = (await connection.until_snapshot())["messages"]
            assert (last["price"], last["seq"]) == (2, 2)
        assert started.get_json("/v1/ws/stats")["epoch"] in epochs
    assert len(epochs) == 2


@pytest.mark.parametrize("order", list(itertools.permutations(["stock", "sector", "market"])), ids="-".join)
async def test_an_update_comes_once_however_often_it_is_subscribed(
    busy: Server, order: tuple[str, ...]
) -> None:
    targets = {"stock": ["S01", "S02"], "sector": ["IT"], "market": ["ALPHA"]}
    async with client(busy.url) as connection:
        for kind in order:
            await connection.subscribe(kind, *targets[kind], mode="all")
            await connection.until_snapshot()
        stream = Stream(from_any=True)
        connection.on_message = stream.take
        while stream.n_updates < 800:
            await connection.receive()
        members = {code for code, (market, sector) in SYMBOLS.items() if market == "ALPHA" or sector == "IT"}
        assert set(stream.seqs) == {(code, PRICE) for code in members} | {("S01", BOOK), ("S02", BOOK)}


async def test_the_options_of_the_most_specific_subscription_hold(busy: Server) -> None:
    async with client(busy.url) as connection:
        # Of the market the newest values, five a second; of one sector all; of one stock all, of another no prices.
        await connection.subscribe("market", "ALPHA")
        await connection.subscribe("sector", "IT", mode="all")
        await connection.subscribe("stock", "S02", mode="all")
        await connection.subscribe("stock", "S01", channels=["orderbook"])
        for _ in range(4):
            await connection.until_snapshot()
        counts: Counter[tuple[str, str]] = Counter()
        seqs: dict[tuple[str, str], list[int]] = {}
        started = time.monotonic()
        while counts["S02", PRICE] < 150:
            for update in updates(await connection.receive()):
                key = (update["code"], update["type"])
                counts[key] += 1
                seqs.setdefault(key, []).append(update["seq"])
        seconds = time.monotonic() - started

    def is_complete(key: tuple[str, str]) -> bool:
        return seqs[key] == list(range(seqs[key][0], seqs[key][-1] + 1))

    it = {code for code, (_, sector) in SYMBOLS.items() if sector == "IT"}
    alpha = {code for code, (market, _) in SYMBOLS.items() if market == "ALPHA"}
    expected = {(code, PRICE) for code in (alpha | it) - {"S01"}} | {("S01", BOOK), ("S02", BOOK)}
    assert set(counts) == expected
    for key in {(code, PRICE) for code in it - {"S01"}} | {("S02", PRICE), ("S02", BOOK), ("S01", BOOK)}:
        assert is_complete(key), key
    for key in {(code, PRICE) for code in alpha - it - {"S02"}}:
        assert seqs[key] == sorted(set(seqs[key])), key
        assert counts[key] <= 5 * seconds + 2, (key, seconds)
        assert not is_complete(key), key


async def test_subscribing_again_changes_the_options_only_if_it_names_some(busy: Server) -> None:
    async with client(busy.url) as connection:
        await connection.subscribe("stock", "S00", max_rate=2)
        await connection.until_snapshot()
        await connection.subscribe("stock", "S00", "S01", snapshot=False)
        await connection.sync()
        counts: Counter[str] = Counter()
        started = time.monotonic()
        while counts["S01"] < 150:
            counts.update(u["code"] for u in updates(await connection.receive()) if u["type"] == PRICE)
        assert counts["S00"] <= 2 * (time.monotonic() - started) + 2
        await connection.subscribe("stock", "S00", mode="all")
        await connection.until_snapshot()
        stream = Stream(from_any=True)
        connection.on_message = stream.take
        while stream.n_updates < 300:
            await connection.receive()


async def test_unsubscribing_from_the_specific_leaves_the_general(busy: Server) -> None:
    async with client(busy.url) as connection:
        await connection.subscribe("market", "BETA", mode="all")
        await connection.subscribe("stock", "S08", channels=["orderbook"])
        await connection.sync()
        await connection.unsubscribe("stock", "S08")
        await connection.sync()
        seen: set[tuple[str, str]] = set()
        while len(seen) < 4:
            seen |= {(update["code"], update["type"]) for update in updates(await connection.receive())}
        assert seen == {(code, PRICE) for code, (market, _) in SYMBOLS.items() if market == "BETA"}
        await connection.unsubscribe("market", "BETA")
        await connection.sync()
        with pytest.raises(TimeoutError):
            await connection.receive(0.3)


async def test_storm_of_subscriptions_loses_and_doubles_nothing(
    shared_server: StartServer, tmp_path_factory: pytest.TempPathFactory, over: dict[str, str]
) -> None:
    """Six clients subscribe and unsubscribe at random, each checked against its own history and the others'."""
    # No more than they all check in time also where they have a tenth of a processor.
    target = start_busy(shared_server, tmp_path_factory.getbasetemp(), simulator_rate=500, **over)
    texts: dict[tuple[str, str, int], str] = {}

    def check_text(update: Message) -> None:
        key = (update["code"], update["type"], update["seq"])
        assert texts.setdefault(key, str(update)) == str(update)

    async def storm(seed: int) -> int:
        rng = random.Random(seed)
        async with client(target.url) as connection:
            stream = Stream()

            def take(message: Message) -> None:
                stream.take(message)
                for update in message.get("messages", updates(message)):
                    check_text(update)

            connection.on_message = take
            # One symbol is held throughout: whatever the others do, none of its updates may be missing.
            held = {"S00"}
            await connection.subscribe("stock", "S00")
            await connection.until_snapshot()
            for _ in range(60):
                codes = rng.sample(list(SYMBOLS)[1:], rng.randint(1, 4))
                if rng.random() < 0.5:
                    await connection.subscribe("stock", *codes)
                    snapshot = await connection.until_snapshot()
                    # Not what was held already only: the last of every target, and nothing else.
                    assert {update["code"] for update in snapshot["messages"]} == set(codes)
                    held |= set(codes)
                else:
                    await connection.unsubscribe("stock", *codes)
                    await connection.until_type("unsubscribed")
                    held -= set(codes)
                for _ in range(rng.randint(0, 3)):
                    await connection.receive()
            await connection.send(type="list_subscriptions")
            answer = await connection.until_type("subscriptions")
            assert set(answer["subscriptions"]["stock"]) == held
            return stream.n_updates

    assert sum(await asyncio.gather(*map(storm, range(6)))) > 1000


async def test_storm_of_set_subscriptions_under_a_replay_at_full_speed(
    server: StartServer, tmp_path: Path
) -> None:
    """At full speed a turn of the loop publishes hundreds of updates; every request falls into the middle of some."""
    codes = list(SYMBOLS)
    feed = write_replay(tmp_path, [price(0, code, number) for number in range(1, 200) for code in codes])
    target = server(
        "--feed",
        feed,
        "--replay-speed",
        "max",
        "--replay-loop",
        "--symbols-file",
        str(write_symbols(tmp_path)),
        rate_limit=1000,
        **UNBOUNDED,
    )

    async def storm(seed: int) -> None:
        rng = random.Random(seed)
        stream = Stream()
        async with client(target.url) as connection:
            connection.on_message = stream.take
            held: set[str] = set()
            n_rounds = 0
            while n_rounds < 12 or stream.n_updates < 400:
                n_rounds += 1
                wanted = set(rng.sample(codes, rng.randint(1, 3)))
                await connection.send(
                    type="set_subscriptions", subscriptions={"stock": sorted(wanted)}, id="s"
                )
                answer = await connection.until(lambda message: message.get("id") == "s")
                assert set(answer["subscriptions"]["stock"]) == wanted
                if wanted - held:
                    await connection.until_snapshot()
                held = wanted
                await connection.receive()

    await asyncio.gather(*map(storm, range(3)))


async def test_pause_and_resume(busy: Server) -> None:
    async with client(busy.url) as connection:
        stream = Stream()
        connection.on_message = stream.take
        await connection.subscribe("stock", "S00", "S01")
        await connection.until_snapshot()
        for _ in range(5):
            await connection.receive()
            await connection.send(type="pause")
            await connection.until_type("paused")
            # Nothing but answers: the next message is the pong, however much is published meanwhile.
            await asyncio.sleep(0.1)
            await connection.send(type="ping", id="while paused")
            assert (await connection.receive())["id"] == "while paused"
            await connection.send(type="resume")
            assert (await connection.receive())["type"] == "resumed"
            before = dict(stream.seqs)
            assert (await connection.receive())["snapshot"]
            # Rule 3 of the stream: live updates go on from that snapshot.
            assert all(stream.seqs[key] > seq for key, seq in before.items())
            assert set(stream.seqs) == set(before)


async def test_max_rate_holds_for_each_symbol(busy: Server) -> None:
    async with client(busy.url) as connection:
        await connection.subscribe("stock", "S00", "S01", max_rate=4)
        await connection.subscribe("stock", "S02", max_rate=20)
        await connection.until_snapshot()
        await connection.until_snapshot()
        counts: Counter[tuple[str, str]] = Counter()
        started = time.monotonic()
        while time.monotonic() - started < 2.5:
            counts.update((update["code"], update["type"]) for update in updates(await connection.receive()))
        seconds = time.monotonic() - started
        assert len(counts) == 6
        for (code, _), n in counts.items():
            rate = 20 if code == "S02" else 4
            assert 0.7 * rate * seconds <= n <= rate * seconds + 2, (code, n, seconds)
