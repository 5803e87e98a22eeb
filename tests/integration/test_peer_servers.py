"""The servers that fastws is compared with do what they are compared by: every message, in order, with its stamp."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from benchmarks.peers.catalogue import PEERS, SYMBOL, Peer, Running
from benchmarks.peers.comparison import SUBSCRIBE, cpu_seconds, scenario
from fastws.bench import LoadClient, LoadError
from tests.serving import ROOT, missing

# The others are not installed by `make test`.
DEMANDED = {"floor", "picows", "websockets"}
N = 20
RATE = 400.0
N_MESSAGES = 100
TIMEOUT_S = 20.0


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_every_message_arrives_in_order(peer: Peer) -> None:
    reason = peer.missing()
    if reason and peer.name in DEMANDED:
        missing(reason)
    elif reason:
        pytest.skip(reason)
    with Running(peer, RATE) as server:
        client = LoadClient(server.url, N, subscribe=SUBSCRIBE if peer.is_asked else None, check="full")
        client.connect(timeout=TIMEOUT_S)
        deadline = time.monotonic() + TIMEOUT_S
        while client.result()["messages_per_connection"][0] < N_MESSAGES and time.monotonic() < deadline:
            client.run(0.05)
        result = client.result()
        assert result["open"] == N
        assert result["messages_per_connection"][0] >= N_MESSAGES
        for name in (
            "lost", "duplicates", "reordered", "sequence_backwards", "errors", "unparsed", "untimed",
            "protocol_violations", "binary_messages",
        ):  # fmt: skip
            assert result[name] == 0, (name, result)
        for index in range(N):
            assert client.streams(index).keys() == {("price_update", SYMBOL)}
        # A stamp of another clock, or of another unit, would be far off.
        assert result["latency"]["max_ms"] is not None
        assert result["latency"]["max_ms"] < 1000 * TIMEOUT_S
        assert cpu_seconds(server.pids) > 0
        client.close(timeout=0)
    assert not any(psutil.pid_exists(pid) for pid in server.pids)


def test_a_peer_that_is_missing_or_does_not_start_says_why() -> None:
    floor = PEERS[0]
    with pytest.raises(LoadError, match="floor: there is no compiler"):
        Running(replace(floor, missing=lambda: "there is no compiler"), RATE)
    with pytest.raises(LoadError, match="floor did not start: no such luck"):
        Running(replace(floor, command=lambda directory: ["sh", "-c", "echo no such luck >&2"]), RATE)


def test_scenarios_are_letters_or_numbers() -> None:
    assert scenario("A") == replace(scenario("1000x100"), name="A")
    with pytest.raises(ValueError, match="500x1000"):
        scenario("E")


def compare(path: Path, *arguments: str, status: int) -> dict[str, Any]:
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks.peers", "20x200", "--only", "floor", "--rounds", "1", "--seconds", "0.5",
            "--warm-up", "0.3", "--batch-interval-ms", "30", "--json", str(path / "out.json"), *arguments,
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    document: dict[str, Any] = json.loads((path / "out.json").read_text())
    servers: dict[str, Any] = document["scenarios"]["20x200"]["servers"]
    assert servers.keys() == {"floor", "fastws 30 ms"}
    return servers


def test_the_comparison_measures_all_alike(tmp_path: Path) -> None:
    for server in compare(tmp_path, status=0).values():
        assert server["failures"] == server["faults"] == []
        median = server["median"]
        assert median["messages"] == pytest.approx(20 * 200 * 0.5, rel=0.5)
        assert median["lost"] == 0
        assert median["cpu_us"] == pytest.approx(
            1e6 * median["cpu_cores"] * 0.5 / median["messages"], rel=0.2
        )
        assert 0 <= median["p50_ms"] <= median["p99_ms"] <= median["max_ms"]
        assert 0 < median["rss"] <= median["rss_most"]


def test_a_server_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    for server in compare(tmp_path, "--memory-limit", "1", status=1).values():
        assert server["median"] is None
        assert "fell over" in server["failures"][0]
