"""Requests of the screener dialect, and the feed's own state."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from contextlib import AsyncExitStack
from decimal import Decimal
from pathlib import Path

from screener_feeds import PRICE, milliseconds, price, status, write_replay

from tests import transcript
from tests.clients import Client, Message, client, updates
from tests.conftest import StartServer

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
