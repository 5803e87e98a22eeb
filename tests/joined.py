"""Servers that a Redis joins, and what tests of several of them ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from tests.redis_server import RedisServer
from tests.serving import Server, until

ADMIN = "an admin token"

Cluster = Callable[..., list[Server]]


class Joined(ExitStack):
    """Starts servers that know of each other, and ends them with the context."""

    def __init__(self, directory: Path, redis: RedisServer) -> None:
        super().__init__()
        self.directory = directory
        self.redis = redis
        self.servers: list[Server] = []

    def start(self, n: int = 2, *, is_awaited: bool = True, **settings: object) -> list[Server]:
        """Start `n` more, and, if that `is_awaited`, wait until all that live know of each other and of nobody else."""
        started = []
        for _ in range(n):
            server = Server(
                self.directory,
                *("--relay", self.redis.url, "--admin-token", ADMIN),
                **{"unknown_symbols": "accept", **settings},
            )
            self.callback(self._end, server)
            started.append(server)
        self.servers = [server for server in self.servers if server.process.poll() is None] + started
        for server in self.servers if is_awaited else ():
            until(partial(knows, server, len(self.servers) - 1), "the others")
        return started

    def kill(self, server: Server) -> None:
        server.process.kill()
        server.process.wait()

    def _end(self, server: Server) -> None:
        if server.process.returncode != -9:
            server.end()


def knows(server: Server, n: int) -> bool:
    return metric(server, "fastws_relay_up") == 1 and metric(server, "fastws_relay_instances") == n


def metric(server: Server, name: str, **labels: str) -> float:
    """The value of a metric, -1 where there is none."""
    text = server.get("/metrics")[1].decode()
    wanted = name + (
        "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else ""
    )
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
