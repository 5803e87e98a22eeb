"""Three servers joined by a real Redis: limits and kicks of users, alerts, statistics, and who runs the feed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastws.auth.tokens import sign
from fastws.kis.testing import FakeKIS
from tests.clients import Client, client, updates
from tests.redis_server import RedisServer
from tests.serving import Server, until

ADMIN = "an admin token"
SECRET = "a secret of at least thirty-two bytes"
CODE = "005930"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def start(directory: Path, redis: RedisServer, rank: int, **settings: object) -> Server:
    common: dict[str, object] = {
        "admin_token": ADMIN,
        "jwt_secret": SECRET,
        "unknown_symbols": "accept",
        "feed_takeover": 2,
    }
    flags = ("--relay", redis.url, "--feed-standby", str(rank))
    return Server(directory, *flags, **common | settings)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> Iterator[list[Server]]:
    """Three that share a database; the first runs the feed, and the last one evicts where the others refuse."""
    directory = tmp_path_factory.mktemp("cluster")
    settings = {
        "feed": "sim",
        "simulator_rate": 20,
        "connections_per_user": 3,
        "database": f"sqlite:///{directory}/shared.db",
    }
    policies = ("reject", "reject", "evict_oldest")

    def make(rank: int) -> Server:
        return start(directory, redis, rank, on_connection_limit=policies[rank], **settings)

    with ThreadPoolExecutor(3) as pool:
        made = [make(0)]
        others: list[Future[Server]] = []
        try:
            # Before the others are there: one that is started before it, on a busy machine, would keep the feed.
            until(lambda: roles(made[0]) == {"simulator": "owner"}, "the owner")
            others += [pool.submit(make, rank) for rank in (1, 2)]
            made += [each.result() for each in others]
            until(
                lambda: [role_of(server) for server in made] == ["owner", "standby", "standby"], "the parts"
            )
            yield made
        finally:
            there = {made[0], *(each.result() for each in others if each.exception() is None)}
            for ending in [pool.submit(server.end) for server in there if server.process.poll() is None]:
                ending.result()


def roles(server: Server) -> dict[str, str]:
    found: dict[str, str] = server.stats()["feed_roles"]
    return found


def role_of(server: Server, feed: str = "simulator") -> str:
    return roles(server)[feed]


def together(server: Server) -> dict[str, Any]:
    body: dict[str, Any] = server.get_json("/v1/ws/stats?scope=cluster")
    return body


def post(server: Server, path: str, body: object, token: str = ADMIN) -> tuple[int, Any]:
    status, answer = server.get(path, "POST", json.dumps(body).encode(), {"Authorization": f"Bearer {token}"})
    return status, json.loads(answer)


def bearer(user: str, **claims: object) -> str:
    return sign({"sub": user, **claims}, SECRET.encode(), "HS256")


def url_for(server: Server, user: str, **claims: object) -> str:
    return f"{server.url}?token={bearer(user, **claims)}"


async def refusal(url: str) -> dict[str, Any]:
    """Why a connection is refused."""
    async with client(url, greeted=False) as one:
        error = await one.receive()
        assert error["type"] == "error"
        assert await one.closed() == 4429
        return error


async def eventually(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    return await asyncio.to_thread(until, condition, what, seconds)


async def until_known(servers: list[Server], user: str, n: int) -> None:
    """Wait until all of `servers` know of `n` connections of a user."""

    def is_known() -> bool:
        for server in servers:
            headers = {"Authorization": f"Bearer {bearer(user)}"}
            found = json.loads(server.get("/realtime/status/", headers=headers)[1])["user_stats"]
            if found["connection_count"] + found["connections_elsewhere"] != n:
                return False
        return True

    await eventually(is_known, f"{n} connections of {user}")


async def test_a_user_has_the_same_room_at_all(servers: list[Server]) -> None:
    one, two, _ = servers
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(client(url_for(server, "kim"))) for server in servers]
        await until_known(servers, "kim", 3)
        error = await refusal(url_for(one, "kim"))
        assert error["code"] == "LIMIT_EXCEEDED"
        assert error["details"] == {"limit": 3, "current": 3}
        assert error["message"] == "A user may have 3 connections; close one first"
        # Others have their own.
        await stack.enter_async_context(client(url_for(one, "lee")))
        # Whoever closes one anywhere can open another one anywhere else.
        await held[2].connection.close()
        await until_known([two], "kim", 2)
        joined = await stack.enter_async_context(client(url_for(two, "kim")))
        await joined.sync()
        await until_known(servers, "kim", 3)
        assert (await refusal(url_for(one, "kim")))["details"] == {"limit": 3, "current": 3}


async def test_the_oldest_goes_wherever_it_is(servers: list[Server]) -> None:
    one, two, three = servers
    async with AsyncExitStack() as stack:
        held = [
            await stack.enter_async_context(client(url_for(server, "park"))) for server in (two, one, three)
        ]
        await until_known(servers, "park", 3)
        assert metric(one, "fastws_relay_entries", "users") >= 1
        # The third evicts: first the one of the second server, which is the oldest, then that of the first.
        for oldest in held[:2]:
            newer = await stack.enter_async_context(client(url_for(three, "park")))
            error = await oldest.until_type("error")
            assert error["code"] == "LIMIT_EXCEEDED"
            assert await oldest.closed() == 4429
            await newer.sync()
            await until_known(servers, "park", 3)
        await held[2].sync()


def metric(server: Server, name: str, label: str) -> float:
    for line in server.get("/metrics")[1].decode().splitlines():
        if line.startswith(f"{name}{{") and f'"{label}"' in line:
            return float(line.rpartition(" ")[2])
    return -1.0


async def test_kicks_reach_all(servers: list[Server]) -> None:
    one, two, three = servers
    async with AsyncExitStack() as stack:

        async def at_all(user: str, **claims: object) -> list[Client]:
            return [
                await stack.enter_async_context(client(url_for(server, user, **claims))) for server in servers
            ]

        by_user, by_token = await at_all("choi"), await at_all("jung", jti="stolen")
        others = await at_all("han")
        assert post(two, "/v1/admin/kick", {"user_id": "choi"}) == (200, {"closed": 3})
        assert post(three, "/v1/admin/kick", {"jti": "stolen"}) == (200, {"closed": 3})
        for each in (*by_user, *by_token):
            assert await each.closed() == 4401
        # The token is worth nothing anywhere now.
        for server in servers:
            async with client(url_for(server, "jung", jti="stolen"), greeted=False) as refused:
                assert (await refused.receive())["code"] == "INVALID_TOKEN"
        kicked = others[2].greeting["connection_id"]
        assert post(one, "/v1/admin/kick", {"connection_id": kicked}) == (200, {"closed": 1})
        assert await others[2].closed() == 4401
        for each in others[:2]:
            await each.sync()


async def test_an_alert_fires_once_wherever_its_price_comes_in(servers: list[Server]) -> None:
    one, two, three = servers

    def alert(server: Server, threshold: int) -> int:
        rule = {"code": CODE, "alert_type": "volume_above", "threshold": threshold}
        status, answer = post(server, "/v1/alerts", rule, bearer("yoon"))
        assert status == 201, answer
        return int(answer["id"])

    def price(server: Server, volume: int) -> None:
        body = {"type": "price_update", "code": CODE, "price": 70_000, "volume": volume}
        assert post(server, "/v1/publish", body)[0] == 202

    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(client(url_for(server, "yoon"))) for server in servers]
        high = 10**15
        first = alert(one, high)
        deleted = alert(two, high + 5)
        last = alert(three, high + 10)
        status, _ = three.get(
            f"/v1/alerts/{deleted}", "DELETE", None, {"Authorization": f"Bearer {bearer('yoon')}"}
        )
        # Deleted where it was not made, as soon as that is known there.
        assert status == 204
        price(two, high + 1)
        for each in held:
            assert (await each.until_type("alert"))["threshold"] == high
        price(one, high + 11)
        for each in held:
            assert (await each.until_type("alert"))["threshold"] == high + 10
            await each.sync()
        _, listed = two.get("/v1/alerts", headers={"Authorization": f"Bearer {bearer('yoon')}"})
        assert {rule["id"]: rule["fired_at"] is not None for rule in json.loads(listed)} == {
            first: True,
            last: True,
        }


async def test_what_a_user_has_not_heard_waits_wherever_it_came_in(servers: list[Server]) -> None:
    one, two, three = servers

    def tell(server: Server, threshold: int) -> None:
        alert = {"type": "alert", "user_id": "lim", "code": CODE, "alert_type": "price_above"}
        figures = {"threshold": threshold, "current_price": threshold + 1, "message": f"over {threshold}"}
        assert post(server, "/v1/publish", alert | figures)[0] == 202

    tell(one, 1)
    tell(three, 2)
    async with client(url_for(three, "lim")) as first:
        heard = [(await first.until_type("alert"))["threshold"] for _ in range(2)]
        assert sorted(heard) == [1, 2]
        await until_known(servers, "lim", 1)
        tell(one, 3)
        assert (await first.until_type("alert"))["threshold"] == 3
        # The first server knows that before it knows of anything later.
        await first.connection.close()
    await until_known(servers, "lim", 0)
    # Kept where it came in, and where the user has a session; neither is where the user comes to.
    tell(one, 5)
    async with client(url_for(two, "lim")) as moved:
        assert (await moved.until_type("alert"))["threshold"] == 5
        await until_known(servers, "lim", 1)
        tell(one, 6)
        assert (await moved.until_type("alert"))["threshold"] == 6
    await until_known(servers, "lim", 0)
    async with client(url_for(three, "lim")) as first:
        await until_known(servers, "lim", 1)
        # All of it once: nothing is left for the next connection, at whichever server.
        async with client(url_for(one, "lim")) as second:
            await second.sync()
            tell(three, 4)
            for each in (first, second):
                assert (await each.until_type("alert"))["threshold"] == 4


async def test_statistics_of_all(servers: list[Server]) -> None:
    async with AsyncExitStack() as stack:
        for n, server in enumerate(servers, 1):
            for _ in range(n):
                joined = await stack.enter_async_context(client(server.url))
                await joined.subscribe("stock", "S1", "S2")
                await joined.until_snapshot()
        bodies = [await eventually(partial(whole, server), "6 connections") for server in servers]
        for body in bodies:
            assert body["total_subscriptions"] == body["subscriptions_by_type"]["stock"] == 12
            each = body["instances"]
            assert sorted(found["active_connections"] for found in each) == [1, 2, 3]
            assert sorted(found["feed_roles"]["simulator"] for found in each) == [
                "owner",
                "standby",
                "standby",
            ]
            assert body["feeds"] == {"simulator": "live"}
            assert (body["is_complete"], body["missing"]) == (True, [])
            assert body["answered_by"] == each[0]["name"]
            assert all(found["seconds_old"] < 3 and not found["is_stale"] for found in each)
            # What is of one server alone is not among the sums.
            assert not {"loop_lag_ms", "epoch", "sequence", "uptime_seconds"} & body.keys()
        assert [metric(server, "fastws_feed_owner", "simulator") for server in servers] == [1, 0, 0]


def whole(server: Server) -> dict[str, Any] | None:
    body = together(server)
    is_whole = body["active_connections"] == 6 and body["total_subscriptions"] == 12
    return body if is_whole else None


@pytest.mark.long
async def test_what_a_dead_server_had_goes_to_others(servers: list[Server]) -> None:
    """Its feed to the next in the row, and the room that its users had back to them; then a stopped one's."""
    one, two, three = servers
    async with AsyncExitStack() as stack:
        watching = await stack.enter_async_context(client(three.url))
        await watching.subscribe("stock", CODE)
        await watching.until_snapshot()
        for _ in range(3):
            await stack.enter_async_context(client(url_for(one, "seo")))
        await until_known([two], "seo", 3)
        assert (await refusal(url_for(two, "seo")))["details"] == {"limit": 3, "current": 3}
        one.process.kill()
        one.process.wait()
        await eventually(lambda: role_of(two) == "owner", "the standby")
        assert role_of(three) == "standby"
        assert metric(two, "fastws_feed_takeovers_total", "simulator") == 1
        assert two.log.count("this instance takes the feed over") == 1
        await watching.sync()
        assert (await watching.until(is_live_price))["code"] == CODE
        # Not heard for 5 s, it counts as gone.
        await until_known([two, three], "seo", 0)
        # It has not said good-bye, so it is missed, and what it had is in no sum.
        sums = together(two)
        assert sums["missing"] == [each["name"] for each in sums["instances"] if each["is_stale"]]
        assert (len(sums["instances"]), len(sums["missing"]), sums["is_complete"]) == (3, 1, False)
        assert sums["active_connections"] == 1
        joined = await stack.enter_async_context(client(url_for(two, "seo")))
        await joined.sync()
        assert three.get_json("/health")["price_feed_running"]
        await asyncio.to_thread(two.end)
        await eventually(lambda: role_of(three) == "owner", "the last one")
        assert "it was left to others" in three.log
        await eventually(lambda: three.stats()["feeds"] == {"simulator": "live"}, "the feed")


def is_live_price(message: dict[str, Any]) -> bool:
    return any(update["type"] == "price_update" for update in updates(message))


@asynccontextmanager
async def serving(
    directory: Path, redis: RedisServer, rank: int, **settings: object
) -> AsyncIterator[Server]:
    # What it talks to runs on this loop.
    server = await asyncio.to_thread(start, directory, redis, rank, **settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            await asyncio.to_thread(server.end)


@pytest.mark.long
async def test_kis_has_one_session_for_what_all_look_at(
    tmp_path: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeKIS(rate=100, token_interval=0) as kis:
        for name, value in kis.variables().items():
            monkeypatch.setenv(name, value)
        settings: dict[str, object] = {"feed": "kis", "relay_prefix": "kis", "kis_poll_rate": 0}
        async with (
            serving(tmp_path, redis, 0, **settings) as one,
            serving(tmp_path, redis, 1, **settings) as two,
            client(two.url) as watching,
        ):
            await watching.subscribe("stock", CODE)
            await watching.until(is_live_price, 20)
            assert (role_of(one, "kis"), role_of(two, "kis")) == ("owner", "standby")
            await asyncio.to_thread(one.end)
            await watching.until(lambda message: is_status(message, "live"), 20)
            await watching.until(is_live_price, 20)
            assert role_of(two, "kis") == "owner"
        assert kis.journal.max_sessions() == 1
        assert len({entry.app_key for entry in kis.journal.sessions}) == 1
        assert len(kis.journal.sessions) == 2
        assert not {violation.kind for violation in kis.journal.violations} - {"hasty_request"}


def is_status(message: dict[str, Any], status: str) -> bool:
    return any(update["type"] == "feed_status" and update["status"] == status for update in updates(message))
