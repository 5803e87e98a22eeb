"""What the screener dialect promises while prices are moving, seen by `websockets` on a real server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from tests import transcript
from tests.clients import Client, Message, Stream, client, updates
from tests.conftest import StartServer
from tests.serving import Server, until

# Twelve symbols: enough to overlap, few enough that each moves a hundred times a second.
SYMBOLS = {
    f"S{number:02}": ("ALPHA" if number < 8 else "BETA", "IT" if number % 2 else "FINANCE")
    for number in range(12)
}
PRICE = "price_update"
BOOK = "orderbook_update"


def milliseconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp() * 1000.0


def write_symbols(directory: Path) -> Path:
    path = directory / "symbols.csv"
    rows = [f"{code},Stock {code},{market},{sector},10000,KRW" for code, (market, sector) in SYMBOLS.items()]
    path.write_text("\n".join(["symbol,name,market,sector,previous_close,currency", *rows, ""]))
    return path


def price(at_ms: int, code: str, value: object, **members: object) -> str:
    body = {"type": PRICE, "code": code, "price": value} | members
    return f"@{at_ms} {json.dumps(body)}"


def status(at_ms: int, market: str, value: str) -> str:
    return f"@{at_ms} " + json.dumps({"type": "market_status", "market": market, "status": value})


def write_replay(directory: Path, lines: Iterable[str]) -> str:
    path = directory / "feed.replay"
    path.write_text("\n".join([*lines, ""]))
    return f"replay:{path}"


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
    server = launch(
        "--feed",
        "sim",
        "--symbols-file",
        str(write_symbols(symbols)),
        simulator_rate=2000,
        simulator_seed=11,
        simulator_opening_burst=1,
        rate_limit=1000,
        **settings,
    )
    # A symbol that has not traded yet is in no snapshot.
    until(lambda: all(server.get(f"/v1/stocks/{code}")[0] == 200 for code in SYMBOLS), "a price of each")
    return server


# Numbers.


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


# Overlapping subscriptions.


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


# Snapshots.


async def test_storm_of_subscriptions_loses_and_doubles_nothing(busy_over: Server) -> None:
    """Six clients subscribe and unsubscribe at random, each checked against its own history and the others'."""
    texts: dict[tuple[str, str, int], str] = {}

    def check_text(update: Message) -> None:
        key = (update["code"], update["type"], update["seq"])
        assert texts.setdefault(key, str(update)) == str(update)

    async def storm(seed: int) -> int:
        rng = random.Random(seed)
        async with client(busy_over.url) as connection:
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
        # What a client in Python cannot take within a flush waits, so that nothing has to be dropped.
        outbox_soft_bytes=1 << 28,
        outbox_hard_bytes=1 << 29,
    )

    async def storm(seed: int) -> int:
        rng = random.Random(seed)
        stream = Stream()
        async with client(target.url) as connection:
            connection.on_message = stream.take
            held: set[str] = set()
            for _ in range(12):
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
        return stream.n_updates

    assert sum(await asyncio.gather(*map(storm, range(3)))) > 1000


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


# Flushing.


async def test_the_first_after_a_quiet_time_comes_at_once_and_what_follows_as_one_batch(
    server: StartServer, tmp_path: Path
) -> None:
    # Four groups 1,200 ms apart: one update, then four at 100 to 350 ms.
    groups = range(1, 5)
    lines = [price(0, "000660", 1)]
    for group in groups:
        start = 1200 * group - 200
        lines.append(price(start, "005930", group * 100))
        lines += [price(start + offset, "005930", group * 100 + offset) for offset in (100, 150, 151, 350)]
    lines.append(price(9000, "000660", 2))  # else the end of the feed would be told in the last batch
    target = server("--feed", write_replay(tmp_path, lines), "--batch-interval-ms", "500")
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        assert (await connection.until_snapshot())["messages"] == []
        for group in groups:
            first = await connection.until_type(PRICE)
            assert first["price"] == group * 100
            assert time.time() * 1000 - milliseconds(first["timestamp"]) < 150
            batch = await connection.receive()
            assert [u["price"] for u in batch["messages"]] == [
                group * 100 + offset for offset in (100, 150, 151, 350)
            ]
            waited = milliseconds(batch["timestamp"]) - milliseconds(first["timestamp"])
            assert 490 <= waited < 750


async def test_without_batching_nothing_but_snapshots_is_a_batch(server: StartServer) -> None:
    target = server("--feed", "sim", "--batch-interval-ms", "0", simulator_rate=1000, rate_limit=0)
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


async def test_max_rate_is_kept_and_the_last_value_comes(server: StartServer, tmp_path: Path) -> None:
    # 200 updates a second for two seconds, then silence.
    lines = [status(0, "GAMMA", "open")] + [
        price(1200 + 5 * number, "005930", number) for number in range(1, 401)
    ]
    target = server("--feed", write_replay(tmp_path, lines))

    async def listen(**options: object) -> list[Message]:
        received: list[Message] = []
        async with client(target.url) as connection:
            await connection.subscribe("stock", "005930", **options)
            await connection.until_snapshot()
            while not received or received[-1]["price"] != 400:
                received += [u for u in updates(await connection.receive()) if u["type"] == PRICE]
            # Nothing of it comes after the last: a second is longer than the slowest pace.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    while True:
                        message = await connection.receive()
                        assert PRICE not in [update["type"] for update in updates(message)]
        return received

    slow, faster, latest, every = await asyncio.gather(
        listen(max_rate=2), listen(max_rate=10), listen(mode="latest"), listen(mode="all")
    )
    assert [update["seq"] for update in every] == list(range(1, 401))
    for received, rate in ((slow, 2.0), (faster, 10.0), (latest, 1000 / 30)):
        seqs = [update["seq"] for update in received]
        assert seqs == sorted(set(seqs))
        assert received[0]["seq"] == 1  # the leading edge
        # Two seconds' worth, the one that led, and the last one.
        assert 0.6 * 2 * rate <= len(received) <= 2 * rate + 2, rate
    assert [update["seq"] for update in slow][-1] == 400


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


async def test_latest_conflates_within_a_flush(server: StartServer, tmp_path: Path) -> None:
    target = server(
        "--feed",
        "sim",
        "--batch-interval-ms",
        "200",
        "--symbols-file",
        str(write_symbols(tmp_path)),
        simulator_rate=2000,
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


# Requests.

LONG = "x" * 1000
WRONG: list[tuple[dict[str, object], str]] = [
    ({"type": "subscribe", "subscription_type": "stock", "targets": [LONG]}, "targets[0]"),
    ({"type": "subscribe", "subscription_type": "stock", "targets": ["005930", ""]}, "targets[1]"),
    ({"type": "subscribe", "subscription_type": "stock", "targets": "005930"}, "targets"),
    ({"type": "subscribe", "subscription_type": "stock", "targets": None}, "targets"),
    ({"type": "subscribe", "subscription_type": "stock", "targets": [["005930"]]}, "targets[0]"),
    ({"type": "subscribe", "subscription_type": LONG, "targets": ["005930"]}, "subscription_type"),
    ({"type": "subscribe", "subscription_type": 1, "targets": ["005930"]}, "subscription_type"),
    ({"type": "subscribe", "subscription_type": "stock", "targets": ["005930"], "mode": "some"}, "mode"),
    ({"type": "subscribe", "subscription_type": "stock", "targets": ["005930"], "max_rate": 0}, "max_rate"),
    ({"type": "subscribe", "subscription_type": "stock", "targets": ["005930"], "max_rate": -1}, "max_rate"),
    ({"type": "subscribe", "subscription_type": "stock", "targets": ["005930"], "max_rate": "5"}, "max_rate"),
    ({"type": "subscribe", "subscription_type": "stock", "targets": ["005930"], "snapshot": 1}, "snapshot"),
    ({"type": "subscribe", "subscription_type": "stock", "targets": ["005930"], "channels": []}, "channels"),
    (
        {"type": "subscribe", "subscription_type": "stock", "targets": ["005930"], "channels": ["x"]},
        "channels[0]",
    ),
    ({"type": "unsubscribe", "subscription_type": "stock", "targets": [LONG]}, "targets[0]"),
    ({"type": "unsubscribe", "subscription_type": "stock"}, "targets"),
    ({"type": "set_subscriptions"}, "subscriptions"),
    ({"type": "set_subscriptions", "subscriptions": []}, "subscriptions"),
    ({"type": "set_subscriptions", "subscriptions": {"stock": [LONG]}}, "subscriptions[...][0]"),
    ({"type": LONG}, "type"),
    ({"type": None}, "type"),
    ({"type": ["ping"]}, "type"),
    ({"type": "ping", "id": 1.5}, "id"),
    ({"type": "ping", "id": {}}, "id"),
    ({"type": "ping", "id": True}, "id"),
]


async def test_what_is_wrong_is_named_and_changes_nothing(shared_server: StartServer) -> None:
    target = shared_server("--feed", "none", rate_limit=0)
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930", "AAPL")
        await connection.until_snapshot()
        for request, field in WRONG:
            await connection.send(**request)
            error = await connection.receive()
            assert (error["type"], error["code"], error["error_code"]) == (
                "error",
                "INVALID_MESSAGE",
                "INVALID_MESSAGE",
            )
            assert error["details"] == {"field": field}, (request, error)
            assert 0 < len(error["message"]) < 500, "what was sent is not sent back at length"
            for word in ("`", "float", "array", "enum"):
                assert word not in error["message"]
        await connection.send(type="list_subscriptions")
        assert (await connection.receive())["subscriptions"] == {"stock": ["005930", "AAPL"]}


async def test_what_is_wrong_is_told_in_the_words_of_json(shared_server: StartServer) -> None:
    target = shared_server("--feed", "none", rate_limit=0)
    stock = {"type": "subscribe", "subscription_type": "stock"}
    async with client(target.url) as connection:
        for request, message in (
            (
                {**stock, "targets": "A"},
                "targets: expected a list of 1 or more texts of 1 to 64 characters, got a text",
            ),
            ({**stock, "targets": []}, "targets: expected a list of 1 or more texts of 1 to 64 characters"),
            ({**stock, "targets": [5]}, "targets[0]: expected a text, got an integer"),
            ({**stock, "targets": ["A"], "max_rate": 0}, "max_rate: expected a number from 0.001 to 1000"),
            (
                {**stock, "targets": ["A"], "mode": "fast"},
                "mode: invalid value 'fast'; expected all or latest",
            ),
        ):
            await connection.send(**request)
            assert (await connection.receive())["message"] == message
        await connection.connection.send("[]")
        assert (await connection.receive())["message"] == "Expected an object, got a list"


async def test_unknown_members_are_ignored_and_ids_come_back_as_they_were(shared_server: StartServer) -> None:
    target = shared_server("--feed", "none", rate_limit=0)
    async with client(target.url) as connection:
        for value in ("", "a", 'é✓\u0000"\\', "x" * 500, 0, -1, 2**53 + 1, 2**63 - 1, -(2**63)):
            await connection.send(type="ping", id=value, unknown={"deep": [1, 2]})
            answer = await connection.receive()
            assert (answer["type"], answer["id"]) == ("pong", value)
            assert type(answer["id"]) is type(value)


async def test_targets_said_twice_count_once(shared_server: StartServer) -> None:
    target = shared_server("--feed", "none", subscription_limit=3)
    async with client(target.url) as connection:
        await connection.subscribe("stock", *["005930", "AAPL"] * 20)
        assert (await connection.receive())["targets"] == ["005930", "AAPL"]
        await connection.until_snapshot()
        await connection.subscribe("stock", "AAPL", "000660")
        assert (await connection.receive())["targets"] == ["AAPL", "000660"]
        await connection.until_snapshot()
        stats = target.stats()
        assert stats["subscriptions_by_type"] == {"stock": 3, "market": 0, "sector": 0}


async def test_unknown_symbols_can_be_accepted(server: StartServer, tmp_path: Path) -> None:
    feed = write_replay(tmp_path, [price(0, "000660", 1), price(1200, "NEW1", 0.5)])
    target = server("--feed", feed, unknown_symbols="accept")
    async with client(target.url) as connection:
        await connection.subscribe("stock", "NEW1", "no spaces", "é")
        answer = await connection.receive()
        assert answer["targets"] == ["NEW1"]
        assert [item["reason"] for item in answer["rejected"]] == ["unknown symbol"] * 2
        update = await connection.until_type(PRICE)
        assert (update["code"], update["name"], update["price"]) == ("NEW1", "NEW1", Decimal("0.5"))


async def test_rate_limit_is_answered_once_a_second(server: StartServer) -> None:
    example = (
        '{"type":"error","code":"RATE_LIMIT_EXCEEDED","error_code":"RATE_LIMIT_EXCEEDED",'
        '"message":"Rate limit exceeded (100 messages/second)","details":{"rate_limit":100},"timestamp":"<timestamp>"}'
    )
    target = server("--feed", "none")
    async with client(target.url) as connection:
        n_sent, n_pongs, errors = 0, 0, []
        started = time.monotonic()
        while time.monotonic() - started < 2.3:
            for _ in range(10):
                await connection.send(type="ping", id=n_sent)
                n_sent += 1
            await asyncio.sleep(0.02)
        # The bucket fills again, so that a ping is answered behind all that came before it.
        await asyncio.sleep(0.1)
        await connection.send(type="ping", id="last")
        while True:
            text = await connection.receive_text()
            message = json.loads(text)
            if message.get("id") == "last":
                break
            if message["type"] == "pong":
                n_pongs += 1
            else:
                transcript.match(example, text, {}, "the answer")
                errors.append(milliseconds(message["timestamp"]))
        seconds = time.monotonic() - started
        assert n_sent > 500
        # A burst of 100, and 100 for every second.
        assert 100 <= n_pongs <= 100 + 100 * seconds + 1
        assert n_pongs >= 100 + 100 * 2 - 10
        assert 2 <= len(errors) <= 3
        assert all(later - earlier >= 995 for earlier, later in itertools.pairwise(errors))


# The feed's own state.


async def test_feed_status_comes_to_every_connection(server: StartServer, tmp_path: Path) -> None:
    feed = write_replay(
        tmp_path, [status(0, "GAMMA", "open"), price(1200, "005930", 1), price(1600, "005930", 2)]
    )
    target = server("--feed", feed)
    assert target.get_json("/health")["price_feed_running"] is False

    async def listen(connection: Client) -> list[Message]:
        received: list[Message] = []
        while not received or received[-1].get("status") != "stopped":
            received += updates(await connection.receive())
        return received

    async with AsyncExitStack() as stack:
        idle, subscriber = [await stack.enter_async_context(client(target.url)) for _ in range(2)]
        assert idle.greeting["feeds"] == {"replay": "reconnecting"}
        await subscriber.subscribe("stock", "005930")
        await subscriber.until_snapshot()
        for_idle, for_subscriber = await asyncio.gather(listen(idle), listen(subscriber))
        assert [(m["type"], m["feed"], m["status"]) for m in for_idle] == [
            ("feed_status", "replay", "live"),
            ("feed_status", "replay", "stopped"),
        ]
        assert list(for_idle[0]) == ["type", "feed", "status", "timestamp", "sequence"]
        assert [m["type"] for m in for_subscriber] == [PRICE, "feed_status", PRICE, "feed_status"]
        assert [m for m in for_subscriber if m["type"] == "feed_status"] == for_idle
        # The prices have numbers of their own, and those of the states lie between them.
        sequences = [m["sequence"] for m in for_subscriber]
        assert sequences == list(range(sequences[0], sequences[0] + 4))
    assert target.stats()["feeds"] == {"replay": "stopped"}
    async with client(target.url) as late:
        assert late.greeting["feeds"] == {"replay": "stopped"}
