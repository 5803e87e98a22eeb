"""What joined servers tell of each other while one of them is gone, and while Redis is."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from fastws.auth.tokens import sign
from tests.clients import client
from tests.joined import Joined, metric
from tests.redis_server import RedisServer
from tests.serving import Server, run, until

SECRET = "a secret of at least thirty-two bytes"
USER = {"Authorization": f"Bearer {sign({'sub': 'user-1'}, SECRET.encode(), 'HS256')}"}


def together(server: Server) -> dict[str, Any]:
    body: dict[str, Any] = server.get_json("/v1/ws/stats?scope=cluster")
    return body


def force(server: Server) -> tuple[int, Any]:
    status, answer = server.get("/api/realtime/force_price_update/", "POST", b'{"symbols":["AAPL"]}', USER)
    return status, json.loads(answer)


def top(directory: Path, server: Server) -> str:
    done = run(directory, "top", "--once", "--url", server.http_url)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_who_is_missing_is_named_and_counts_no_more(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("symbol,price\nAAPL,150.25\n")
    with RedisServer(tmp_path) as redis, Joined(tmp_path, redis) as joined:
        settings = {
            "feed": f"poll:csv:{tmp_path / 'prices.csv'}",
            "jwt_secret": SECRET,
            "force_update_interval": 0,
            "feed_takeover": 60,
        }
        (one,) = joined.start(1, **settings)
        until(lambda: one.stats()["feed_roles"] == {"csv": "owner"}, "the feed")
        (two,) = joined.start(1, **settings, relay_name="the second")
        async with client(one.url), client(two.url):
            until(lambda: together(two)["active_connections"] == 2, "both")
            assert two.stats()["relay"].items() >= {"is_up": True, "instances": 2, "missing": []}.items()
            assert "2 servers" in top(tmp_path, two)
            # The feed runs at the first one, which polls for both.
            assert force(two) == (202, {"updated": ["AAPL"], "failed": []})

            name = together(one)["answered_by"]
            # Its port is one that it was given by the system, of which nobody else knows.
            assert name == f"{socket.gethostname()}/{one.process.pid}"
            assert together(two)["answered_by"] == "the second"
            assert metric(two, "fastws_relay_info", instance_name="the second") == 1
            until(
                lambda: any("has joined" in line and "the second" in line for line in one.log.splitlines()),
                "it",
            )
            joined.kill(one)
            sums = until(lambda: (body := together(two))["missing"] and body, "that one is missed")
            assert sums["missing"] == [name]
            assert not sums["is_complete"]
            assert sums["active_connections"] == 1
            gone = next(each for each in sums["instances"] if each["name"] == name)
            assert (gone["is_stale"], gone["active_connections"]) == (True, 1)
            assert gone["seconds_old"] >= 3
            # Its feed has not stopped: the next one is about to run it.
            until(lambda: "an instance has left" in two.log, "that it is gone")
            assert two.stats()["feeds"] == {"csv": "reconnecting"}

            redis.kill()
            until(lambda: not two.stats()["relay"]["is_up"], "the end of Redis")
            assert not together(two)["relay"]["is_up"]
            shown = top(tmp_path, two)
            assert "cut off from the relay for" in shown
            assert (
                next(line for line in shown.splitlines() if line.startswith("relay  ")).split()[1] == "away"
            )
            status, answer = force(two)
            assert (status, answer["error"]["code"]) == (503, "SERVICE_UNAVAILABLE")
