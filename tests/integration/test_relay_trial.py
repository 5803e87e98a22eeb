"""``fastws check-config --try-relay`` against a real Redis, with the user that deploy/redis makes."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastws.configuration import read
from fastws.relay.address import parse_address
from fastws.relay.trial import find_fault
from fastws.server.preflight import relay_problems
from tests.redis_server import RedisServer
from tests.serving import ROOT, run

CONFIGURATION = ROOT / "deploy" / "redis" / "fastws.conf"
PASSWORD = "CHANGE-THIS-PASSWORD"


def fault_of(url: str, prefix: str = "fastws") -> str | None:
    return asyncio.run(find_fault(parse_address(url), prefix=prefix, n_shards=16))


def test_what_a_server_needs_of_redis_is_tried(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--include", str(CONFIGURATION)) as redis:
        where = f"127.0.0.1:{redis.port}"
        url = f"redis://fastws:{PASSWORD}@{where}/0"
        done = run(tmp_path, "check-config", "--try-relay", "--relay", url)
        assert done.stdout.splitlines()[-2:] == [
            f"the relay delivers what is sent: redis://{where}",
            "ok: 1 setting differs from its default",
        ]
        # Nobody else is let in, and this user to no other channels.
        assert "NOAUTH" in redis.command("PING")
        refused = "Redis refuses the user or the password of the setting relay"
        assert fault_of(f"redis://fastws:another@{where}/0") == refused
        assert "no permissions" in (fault_of(url, "other") or "").lower()
    assert "Connect call failed" in (fault_of(url) or "")
    done = run(tmp_path, "check-config", "--try-relay", "--relay", url)
    assert done.returncode == 2
    problem, end = done.stderr.splitlines()
    assert f"relay: redis://{where}: " in problem
    assert PASSWORD not in done.stderr
    assert end == "1 problem; a server would start, and do without the relay"


def test_without_a_relay_there_is_nothing_to_try() -> None:
    (problem,) = relay_problems(read(None, {}, {}).settings)
    assert (problem.setting, str(problem).partition(";")[0]) == (
        "relay",
        "relay: there is none to be tried (from default)",
    )
