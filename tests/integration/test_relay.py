"""Servers joined by a real Redis: what is published at one is seen at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.clients import Client, client, updates
from tests.redis_server import RedisServer
from tests.serving import Server, until

ADMIN = "an admin token"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


Cluster = Callable[..., list[Server]]


@pytest.fixture
def cluster(tmp_path: Path, redis: RedisServer) -> Iterator[Cluster]:
    """Starts servers that are joined, and know of each other."""
    with ExitStack() as stack:

        def start(n: int = 2, **settings: object) -> list[Server]:
            servers = []
            for _ in range(n):
                server = Server(
                    tmp_path,
                    *("--relay", redis.url, "--admin-token", ADMIN),
                    **{"unknown_symbols": "accept", **settings},
                )
                stack.callback(server.end)
                servers.append(server)
            for server in servers:
                until(lambda server=server: metric(server, "fastws_relay_instances") == n - 1, "the others")
            return servers

        yield start


def metric(server: Server, name: str, **labels: str) -> float:
    text = server.get("/metrics")[1].decode()
    wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
    for line in text.splitlines():
        if line.startswith(wanted + " "):
            return float(line.rpartition(" ")[2])
    return -1.0


def publish(server: Server, *bodies: dict[str, Any]) -> None:
    status, answer = server.get(
        "/v1/publish", "POST", json.dumps(list(bodies)).encode(), {"Authorization": f"Bearer {ADMIN}"}
    )
    assert status == 202, (status, answer)


def price(code: str, number: int) -> dict[str, Any]:
    return {"type": "price_update", "code": code, "price": number}


async def prices(one: Client, n: int) -> list[dict[str, Any]]:
    """The next `n` live prices of a client."""
    found: list[dict[str, Any]] = []
    while len(found) < n:
        found += updates(await one.receive())
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
