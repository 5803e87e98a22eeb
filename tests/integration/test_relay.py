"""Servers joined by a real Redis: what is published at one is seen at all."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastws.auth.tokens import sign
from tests.clients import Client, client, updates
from tests.joined import ADMIN, Cluster, Joined, knows, metric, price, publish
from tests.redis_server import RedisServer
from tests.serving import Server, command, environment, run, until

SECRET = "a secret of at least thirty-two bytes"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture
def cluster(tmp_path: Path, redis: RedisServer) -> Iterator[Cluster]:
    """Starts servers that are joined, and know of each other."""
    with Joined(tmp_path, redis) as servers:
        yield servers.start


async def prices(one: Client, n: int) -> list[dict[str, Any]]:
    """The next `n` live prices of a client."""
    found: list[dict[str, Any]] = []
    while len(found) < n:
        found += [update for update in updates(await one.receive()) if update["type"] == "price_update"]
    return found


async def test_what_one_publishes_all_deliver(cluster: Cluster) -> None:
    servers = cluster(3)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(server.url)) for server in servers]
        for each in clients:
            await each.subscribe("stock", "A", "B")
            assert (await each.receive())["type"] == "subscribed"
            assert (await each.receive())["snapshot"]
        publish(servers[0], price("A", 1), price("A", 2))
        publish(servers[1], price("B", 3))
        for each in clients:
            seen = await prices(each, 3)
            assert [message["price"] for message in seen if message["code"] == "A"] == [1, 2]
            assert [message["price"] for message in seen if message["code"] == "B"] == [3]
            assert [message["seq"] for message in seen if message["code"] == "A"] == [1, 2]


async def test_who_subscribes_has_what_was_published_elsewhere(cluster: Cluster) -> None:
    """Also where nobody has looked at it before, and in both dialects; nothing overtakes the request."""
    one, two = cluster(2)
    publish(one, price("A", 1), price("B", 2))
    assert json.loads(two.get("/v1/stocks/B")[1])["price"] == 2
    async with client(two.url) as each:
        await each.send(type="subscribe", subscription_type="stock", targets=["A"], id=1)
        await each.send(type="ping", id=2)
        await each.send(type="unsubscribe", subscription_type="stock", targets=["A"], id=3)
        answers = [await each.receive() for _ in range(4)]
        assert [(answer["type"], answer.get("id")) for answer in answers] == [
            ("subscribed", 1),
            ("batch", None),
            ("pong", 2),
            ("unsubscribed", 3),
        ]
        assert [message["price"] for message in answers[1]["messages"]] == [1]
        await each.send(type="set_subscriptions", subscriptions={"stock": ["B"]})
        assert (await each.receive())["type"] == "subscriptions"
        assert [message["price"] for message in (await each.receive())["messages"]] == [2]
    async with client(two.url_of("/ws/realtime/")) as each:
        await each.send(type="subscribe_asset", data={"symbol": "A"})
        assert (await each.receive())["type"] == "subscribed"
        assert (await each.receive())["data"]["price"] == 1
    assert json.loads(two.get("/v1/stocks/A")[1])["price"] == 1


async def test_without_redis_everything_local_goes_on(
    cluster: Cluster, redis: RedisServer, tmp_path: Path
) -> None:
    (one,) = cluster(1, relay_in_ready=True)
    assert one.get("/ready")[0] == 200
    async with client(one.url) as each:
        await each.subscribe("stock", "A")
        await each.until_snapshot()
        redis.kill()
        until(lambda: metric(one, "fastws_relay_up") == 0, "the end of Redis is noticed")
        assert one.get("/ready")[0] == 503
        publish(one, price("A", 1))
        assert [update["price"] for update in await prices(each, 1)] == [1]
        # What has to be heard first would delay this.
        await each.subscribe("stock", "C")
        assert (await each.until_snapshot())["messages"] == []
        redis.start()
        until(lambda: metric(one, "fastws_relay_up") == 1, "Redis is noticed")
        assert one.get("/ready")[0] == 200
    assert one.log.count("the relay is away") == 1


def test_a_password_is_never_shown(tmp_path: Path, redis: RedisServer) -> None:
    url = f"redis://user:pa55w0rd@127.0.0.1:{redis.port}/0"
    server = Server(tmp_path, relay=url, log_level="debug")
    try:
        until(lambda: "refuses the user or the password of the setting relay" in server.log, "the refusal")
        # One line, however often it is tried.
        until(lambda: metric(server, "fastws_relay_up") == 0, "the figures")
        assert server.get("/ready")[0] == 200
        assert server.log.count("the relay is away") == 1
        assert "pa55w0rd" not in server.log
        assert "pa55w0rd" not in server.get("/metrics")[1].decode()
    finally:
        server.end()
    shown = run(tmp_path, "check-config", relay=url)
    assert f"127.0.0.1:{redis.port}" in shown.stdout
    assert "pa55w0rd" not in shown.stdout + shown.stderr
    wrong = run(tmp_path, "serve", "--port", "0", "--relay", "http://user:pa55w0rd@host")
    assert wrong.returncode == 2
    assert "relay: it is no address of Redis" in wrong.stderr
    assert "pa55w0rd" not in wrong.stdout + wrong.stderr


@pytest.mark.parametrize(
    ("setting", "value", "problem"),
    [
        ("relay_shards", "6", "no power of two"),
        ("relay_prefix", "a b", "other characters"),
        ("relay_name", "a\nb", "relay_name: it has characters that cannot be shown"),
        ("feed_standby", "1", "feed_standby: without a relay there is no other server"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, setting: str, value: str, problem: str) -> None:
    found = run(tmp_path, "check-config", **{setting: value})
    assert found.returncode != 0
    assert problem in found.stdout + found.stderr


@contextmanager
def price_feed(
    directory: Path, redis: RedisServer, file: Path, rank: int = 0
) -> Iterator[subprocess.Popen[bytes]]:
    """A ``fastws feed`` of the prices in `file`, which ends well; its log is beside the file."""
    with file.with_suffix(".log").open("wb") as log:
        feed = subprocess.Popen(
            command("feed", "--source", f"csv:{file}", "--interval", "0.2", "--symbols", "005930", "000660"),
            cwd=directory,
            env=environment({"relay": redis.url, "feed_standby": rank, "feed_takeover": 2}),
            stdout=log,
            stderr=log,
        )
    try:
        yield feed
    finally:
        if feed.poll() is None:
            feed.send_signal(signal.SIGTERM)
        assert feed.wait(15) == 0


async def test_a_price_feed_publishes_to_all(cluster: Cluster, redis: RedisServer, tmp_path: Path) -> None:
    one, two = cluster(2)
    file = tmp_path / "prices.csv"
    file.write_text("symbol,price,previous_close\n005930,73000,72000\n000660,131000,130000\n")
    async with client(one.url) as first, client(two.url) as second:
        for each in (first, second):
            await each.subscribe("stock", "005930", "000660")
            await each.until_snapshot()
        with price_feed(tmp_path, redis, file) as feed:
            for each in (first, second):
                seen = await prices(each, 4)
                assert {(update["code"], update["price"]) for update in seen} == {
                    ("005930", 73000),
                    ("000660", 131000),
                }
                assert {update["quality"] for update in seen} == {"polled"}
            assert json.loads(two.get("/v1/stocks/005930")[1])["change"] == 1000
            until(lambda: one.stats()["feeds"] == {"csv": "live"}, "the state of the feed")
            # Another one stands by, and polls when the first one has ended.
            other = tmp_path / "other.csv"
            other.write_text("symbol,price,previous_close\n005930,74000,72000\n000660,131000,130000\n")
            with price_feed(tmp_path, redis, other, rank=1):
                standing_by = other.with_suffix(".log")
                until(lambda: "this one stands by" in standing_by.read_text(), "that it knows of the first")
                until(partial(knows, one, 3), "both feeds")
                await first.sync()
                feed.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(feed.wait, 15) == 0
                while (await prices(first, 1))[0]["price"] != 74000:
                    pass
    for log in (file.with_suffix(".log"), other.with_suffix(".log")):
        text = log.read_text()
        assert "Traceback" not in text, text
    assert "this instance takes the feed over" in text
    until(partial(knows, one, 1), "the feed has said good-bye")


def bearer(user: str) -> str:
    return sign({"sub": user}, SECRET.encode(), "HS256")


async def test_a_user_is_reached_at_any_server(cluster: Cluster) -> None:
    one, two = cluster(2, jwt_secret=SECRET)
    async with AsyncExitStack() as stack:
        at_one, at_two = [
            await stack.enter_async_context(client(f"{server.url}?token={bearer('u1')}"))
            for server in (one, two)
        ]
        stranger = await stack.enter_async_context(client(f"{two.url}?token={bearer('u2')}"))
        publish(
            one,
            {
                "type": "alert",
                "user_id": "u1",
                "code": "A",
                "alert_type": "price_above",
                "threshold": 100.50,
                "current_price": 101,
                "message": "더",
                "ref": [1],
            },
        )
        for each in (at_one, at_two):
            alert = await each.until_type("alert")
            assert (alert["threshold"], alert["current_price"]) == (Decimal("100.5"), 101)
            assert (alert["message"], alert["ref"]) == ("더", [1])
        await stranger.subscribe("stock", "A", "B")
        await stranger.until_snapshot()
        until(lambda: together(one)["total_subscriptions"] == 2, "the figures of the other one")
        sums = together(one)
        assert sums["active_connections"] == 3
        assert sums["subscriptions_by_type"]["stock"] == 2
        assert sorted(each["active_connections"] for each in sums["instances"]) == [1, 2]
        assert one.get("/v1/ws/stats?scope=world")[0] == 400
        status, body = one.get(
            "/v1/admin/kick", "POST", b'{"user_id":"u1"}', {"Authorization": f"Bearer {ADMIN}"}
        )
        assert (status, json.loads(body)) == (200, {"closed": 2})
        assert await at_one.closed() == 4401
        assert await at_two.closed() == 4401
        await stranger.sync()


def together(server: Server) -> dict[str, Any]:
    body: dict[str, Any] = server.get_json("/v1/ws/stats?scope=cluster")
    return body


async def test_the_state_of_a_feed_is_known_at_all(
    cluster: Cluster, tmp_path: Path, redis: RedisServer
) -> None:
    (one,) = cluster(1)
    async with client(one.url) as each:
        owner = Server(tmp_path, "--relay", redis.url, "--feed", "sim")
        try:
            states = [await each.until_type("feed_status") for _ in range(2)]
            assert [state["feed"] for state in states] == ["simulator"] * 2
            assert [state["status"] for state in states] == ["reconnecting", "live"]
            assert one.get_json("/health")["price_feed_running"]
        finally:
            owner.end()
        status = await each.until_type("feed_status")
        assert (status["feed"], status["status"]) == ("simulator", "stopped")
