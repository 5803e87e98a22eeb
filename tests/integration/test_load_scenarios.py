"""The load scenarios as they are run by hand: the command, a real server, and the verdict."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.asyncio.server import ServerConnection, serve

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from benchmarks.scenarios.clients import House
from benchmarks.scenarios.publishing import Record
from fastws.bench.process import StallProbe
from tests.clients_js.node import require_package
from tests.serving import missing, require_program

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
COMMAND = [sys.executable, str(ROOT / "benchmarks" / "load.py")]
TIMEOUT_S = 60.0
# Of a run that waits for its clients for as long as it takes; on a free machine it takes a tenth of that.
LONG_TIMEOUT_S = 140.0


def load(path: Path, *arguments: str, status: int = 0, time_limit: float = TIMEOUT_S) -> dict[str, Any]:
    done = subprocess.run(
        [*COMMAND, *arguments, "--json", str(path / "out.json")],
        capture_output=True,
        text=True,
        timeout=time_limit,
        env=ENVIRONMENT,
    )
    assert done.returncode == status, done.stdout + done.stderr
    document: dict[str, Any] = json.loads((path / "out.json").read_text())
    document["printed"] = done.stdout
    return document


def test_fanout_accounts_for_every_message(tmp_path: Path) -> None:
    out = load(
        tmp_path,
        "fanout",
        "--connections",
        "20",
        "--rate",
        "500",
        "--seconds",
        "2",
        "--check",
        "full",
        "--ping",
        "2",
    )
    figures = out["run"]["load"]
    assert figures["open"] == 20
    assert figures["messages"] == pytest.approx(20 * 500 * 2, rel=0.2)
    assert figures["latency"]["count"] == figures["messages"]
    assert figures["ping"]["count"] > 10
    assert out["faults"] == []
    assert out["run"]["server"]["cpu_cores"] > 0
    assert len(out["run"]["timeline"]) >= 2
    assert "every message is accounted for" in out["printed"]
    assert out["command"][2:5] == ["benchmarks.load", "fanout", "--connections"]


def test_idle_weighs_connections(tmp_path: Path) -> None:
    out = load(tmp_path, "idle", "--connections", "300", "--seconds", "0.2", "--warm-up", "0.1")
    assert out["run"]["load"]["open"] == 300
    assert 0 < out["memory"]["server_bytes_per_connection"] < 64 * 1024
    assert "server per connection" in out["printed"]


def test_slow_compares_with_and_without(tmp_path: Path) -> None:
    out = load(tmp_path, "slow", "--connections", "10", "--slow", "3", "--rate", "500", "--seconds", "1")
    without, with_slow = out["runs"].values()
    assert without["load"]["slow"] is None
    assert with_slow["load"]["slow"]["connections"] == 3
    assert with_slow["load"]["slow"]["messages"] == 0
    assert with_slow["load"]["connections"] == without["load"]["connections"] == 10
    assert "p99 with / without" in out["printed"]


def test_compression_saves_and_loses_nothing(tmp_path: Path) -> None:
    # What it costs takes a quiet machine and longer phases: `make bench-load`.
    out = load(
        tmp_path, "deflate", "--connections", "40", "--seconds", "1", "--rounds", "1", "--cost-limit", "20"
    )
    assert [row["kind"] for row in out["phases"]] == ["plain", "compressed"]
    assert [row["compressed_messages"] > 0 for row in out["phases"]] == [False, True]
    assert out["messages_per_batch"] == pytest.approx(20, rel=0.5)
    assert out["saved"] >= 0.75
    assert out["cost_ratio"] > 0


def test_waiting_alert_rules_are_loaded_and_weighed(tmp_path: Path) -> None:
    out = load(tmp_path, "alerts", "--seconds", "2", "--cost-limit", "0.5")
    assert out["prices_per_second"]["with"] == pytest.approx(1000, rel=0.3)
    assert out["server_rss"]["with"] > out["server_rss"]["without"] + 1_000_000, "the rules were not loaded"
    assert "cost of the rules" in out["printed"]


def test_what_an_extension_publishes_arrives(tmp_path: Path) -> None:
    out = load(
        tmp_path, "inlet", "--connections", "4", "--symbols", "10", "--rate", "2000", "--seconds", "1",
        "--rounds", "2",
    )  # fmt: skip
    assert out["ring"]["one_thread_per_second"] > out["flat_out"]["published_per_second"] > 2000
    assert out["paced"]["run"]["load"]["messages"] == pytest.approx(4 * 2000, rel=0.3)
    assert out["paced"]["taken"] == out["paced"]["published"] > 0
    assert "million/s published into the ring" in out["printed"]


def test_watched_portfolios_are_worth_what_came(tmp_path: Path) -> None:
    """Each probe's values are held against the prices that came before, while everything is read again."""
    out = load(
        tmp_path, "portfolios", "--portfolios", "300", "--watched", "40", "--each", "4", "--rate", "1000",
        "--symbols", "100", "--seconds", "2", "--reloads", "2",
    )  # fmt: skip
    assert out["latency_ms"]["n"] > 200
    assert out["latency_ms"]["p50"] < 500
    assert out["published_per_second"] > out["run"]["load"]["messages_per_second"] / 2 > 0
    assert len(out["reload_seconds"]) == 2
    assert out["goals"] == []
    assert "from a price to the portfolio_update" in out["printed"]


def test_sessions_killed_in_every_way_lose_nothing(tmp_path: Path) -> None:
    """The short form of `make soak-restore`: outages of up to 2 s."""
    seed = str(int(time.time()))
    out = load(
        tmp_path, "restore", "--connections", "40", "--cycles", "120", "--longest-outage", "2", "--seed", seed
    )
    cycles = out["run"]["cycles"]
    assert len(cycles) == 120
    assert {cycle["death"] for cycle in cycles} == {"reset", "silence", "half_open", "goodbye"}
    assert {cycle["way"] for cycle in cycles} == {"query", "message"}
    assert out["run"]["missing"] == {}
    assert out["run"]["published_per_second"] == pytest.approx(2000, rel=0.3)


@pytest.mark.long
async def test_a_run_ends_on_values_that_the_last_server_has() -> None:
    """Also when its clients are through before the server that dies under them has a successor: what was published to
    the dead one at last may have died with it, and no client could end on that."""
    symbols = ["A", "B"]
    house = House(Record(), symbols, argparse.Namespace(rate=1000.0, batch_interval_ms=30))
    await house.begin()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while len(house.record.numbers) < 2 * len(symbols):
                await asyncio.sleep(0.01)
            await house.restart(is_planned=False)
            begins = dict(house.record.begins)
            await house.end()
    finally:
        await asyncio.to_thread(house.server.stop)
    assert len(begins) == 2 * len(symbols)
    assert all(len(numbers) > begins[key] for key, numbers in house.record.numbers.items())


@pytest.mark.long
def test_the_shipped_clients_lose_nothing_undeclared_when_they_are_killed(tmp_path: Path) -> None:
    """The short form of `make soak-clients`."""
    require_program("node")
    require_package("ws")
    out = load(
        tmp_path, "clients", "--connections", "5", "--kills", "20", "--restarts", "1", "--seed", str(int(time.time())),
        time_limit=LONG_TIMEOUT_S,
    )  # fmt: skip
    assert out["run"]["restarts"] == 1
    for program in out["run"]["programs"].values():
        assert sum(program["kills"].values()) == 20
        assert program["counts"]["updates"] > 1000


def test_a_storm_of_sessions_is_restored(tmp_path: Path) -> None:
    out = load(tmp_path, "storm", "--connections", "300", "--within", "0.3", "--outage", "0.5")
    assert out["run"]["answers"] == {"recovered": 300}
    assert out["run"]["missing"] == 0
    assert out["run"]["during"]["count"] > 50


@pytest.mark.parametrize("name", ["broken feed", pytest.param("closing", marks=pytest.mark.long)])
def test_a_fault_is_told_with_what_became_of_every_update(tmp_path: Path, name: str) -> None:
    """The short form of `make chaos`."""
    out = load(tmp_path, "faults", "--only", name)
    assert out["faults"] == []
    result = out["kinds"][name]
    assert result["ledger"]["balanced"]
    assert result["ledger"]["connections"]["delivered"] > 500
    assert result["behind"]["updates"] > 100
    assert result["beside"]["closes"] == {}
    if name == "closing":
        assert result["behind"]["closes"].keys() == {"1006"}
        assert result["behind"]["recovered"] == sum(result["behind"]["closes"].values()) >= 4
        assert result["notes"]["closed"] >= 4
    else:
        assert result["behind"]["closes"] == {}


@pytest.mark.long
def test_a_soak_ends_with_as_many_descriptors_as_it_began(tmp_path: Path) -> None:
    """The short form of `make soak`, in which nothing has the time to grow."""
    out = load(tmp_path, "soak", "--minutes", "0.4", time_limit=LONG_TIMEOUT_S)
    assert out["faults"] == []
    run = out["run"]
    assert run["ended"]["descriptors"] <= run["began"]["descriptors"]
    assert sum(run["ends"].values()) == pytest.approx(50 * 24, rel=0.1)
    assert run["ends"]["slow"] > 0
    assert run["ended"]["ledger"]["connections"]["waiting"] == 0
    assert all(sample["is_balanced"] for sample in run["samples"])
    drawn = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak_plot", str(tmp_path / "out.json")],
        capture_output=True, text=True, timeout=TIMEOUT_S, env=ENVIRONMENT, cwd=ROOT, check=False,
    )  # fmt: skip
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "out.svg").stat().st_size > 10_000


def test_a_planned_stop_loses_no_final_value(tmp_path: Path) -> None:
    out = load(tmp_path, "stop", "--connections", "300", "--seconds", "1.5")
    assert out["exit_status"] == 0
    assert out["closes"] == {"1012": 300}
    assert out["told"] == 300
    assert out["published_with_an_answer"] > 50
    all_mode, latest = out["load"]
    assert (all_mode["lost"], all_mode["connections"], latest["connections"]) == (0, 240, 60)


def test_a_new_process_takes_over_all_clients(tmp_path: Path) -> None:
    out = load(
        tmp_path, "rolling", *("--connections", "50", "--rate", "200", "--symbols", "20"),
        *("--spread", "0.5", "--seconds", "0.5"),
    )  # fmt: skip
    assert out["recovered"] == out["restored_whole"] == out["connections_at_takeover"] == 50
    assert sum(out["reconnects_per_100_ms"]) == sum(out["told_per_100_ms"]) == 50
    assert out["final_values_lost"] == out["values_left_out_on_the_way"] == 0


def test_watchlists_end_on_the_last_trades(tmp_path: Path) -> None:
    out = load(
        tmp_path, "watchlists", "--connections", "60", "--symbols", "100", "--each", "20", "--rate", "1000",
        "--seconds", "1",
    )  # fmt: skip
    assert out["final_values"] == {"checked": 60 * 20, "behind": 0}
    assert out["flushing"]["updates_per_second"] == pytest.approx(1000, rel=0.3)
    # A connection holds a fifth of the symbols; what came twice within an interval came once.
    load_of_it = out["run"]["load"]
    assert load_of_it["messages"] + load_of_it["conflated"] == pytest.approx(60 * 200, rel=0.3)
    assert out["goals"] == []
    assert 0 < out["latency_quantiles"][0][1] <= out["latency_quantiles"][-1][1]


def test_watchlists_cannot_be_longer_than_the_market(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "watchlists", "--symbols", "10", "--each", "11"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=ENVIRONMENT,
    )
    assert done.returncode == 2
    assert "--each 11" in done.stderr


def test_a_rush_is_connected_cut_and_restored(tmp_path: Path) -> None:
    out = load(tmp_path, "rush", "--connections", "300", "--rounds", "1")
    (only,) = out["rounds"]
    assert only["restored"]["recovered"] == 300
    assert 0 < only["connect"]["seconds"] < 30
    assert only["connect"]["server_cores"] > 0
    assert only["connect"]["client_cores"] > 0
    assert out["figures"]["restore"] == only["restore"]["seconds"]


def test_sessions_are_weighed_with_their_tokens(tmp_path: Path) -> None:
    out = load(tmp_path, "sessions", "--connections", "300")
    assert 1 < out["figures"]["server per connection"] < 64
    assert out["load"]["open"] == 300


def test_memory_is_looked_at_after_each_cycle(tmp_path: Path) -> None:
    out = load(tmp_path, "cycles", "--connections", "100", "--cycles", "2", "--seconds", "0.5")
    assert len(out["cycles"]) == 2
    assert all(cycle["messages"] > 1000 for cycle in out["cycles"])
    assert out["figures"]["after the last / after the first"] == pytest.approx(1.0, abs=0.3)


@pytest.mark.long
def test_growth_measures_equal_deliveries(tmp_path: Path) -> None:
    out = load(
        tmp_path, "growth", "--connections", "10,40", "--topics", "1,40", "--rate", "20000", "--seconds", "1",
        "--rounds", "1",
    )  # fmt: skip
    for point in (*out["connections"], *out["topics"]):
        assert point["messages_per_second"] == pytest.approx(20_000, rel=0.4)
        assert point["us"] > 0
    assert [goal["figure"].partition(",")[0] for goal in out["goals"]] == ["connections", "topics"]


def test_a_machine_that_stands_still_is_seen() -> None:
    with StallProbe() as probe:
        processes = [psutil.Process(process.pid) for process, _ in probe._processes]
        for process in processes:
            process.suspend()
        time.sleep(0.2)
        for process in processes:
            process.resume()
    report = probe.report()
    assert 150 < report["machine_stall_max_ms"] < 5000
    assert report["processor_stall_max_ms"] >= report["machine_stall_max_ms"]


async def test_a_lossy_server_is_found_out(tmp_path: Path) -> None:
    async def on_connection(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send('{"type":"subscribed","targets":["005930"]}')
        seq = 0
        while True:
            seq += 1
            if seq % 10:
                await connection.send(
                    f'{{"type":"price_update","code":"005930","price":1,"timestamp":"2025-11-11T00:00:00.000Z",'
                    f'"sequence":{seq},"seq":{seq}}}'
                )
            await asyncio.sleep(0)  # a send that does not block lets nothing else run

    async with serve(on_connection, "127.0.0.1", 0, compression=None, close_timeout=0.1) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "fanout", "--connections", "2", "--seconds", "0.5", "--ping", "0", "--warm-up", "0.1",
            "--url", f"ws://127.0.0.1:{port}/", "--server-pid", str(os.getpid()),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    printed = out.decode()
    assert process.returncode == 1, printed
    assert "FAULTS: undeclared_lost" in printed


@pytest.mark.long
def test_relay_holds_what_is_served_elsewhere_against_what_was_published(tmp_path: Path) -> None:
    require_program("redis-server")
    out = load(tmp_path, "relay", "--connections", "30", "--rate", "1000", "--seconds", "2")
    delivery, cost = out["delivery"], out["cost"]
    assert delivery["final_values"] == {"checked": 150, "behind": 0}
    assert [row["is_origin"] for row in delivery["instances"]] == [True, False, False]
    for row in delivery["instances"]:
        # Each client has 5 of the 100 symbols.
        assert row["load"]["messages"] == pytest.approx(10 * 50 * 2, rel=0.2)
        assert row["load"]["lost"] == 0
    assert cost["relay_us"]["serving"] > 0
    assert cost["message_each_us"]["publisher"] > 0
    assert {goal["figure"] for goal in out["goals"]} >= {"added p99"}
    assert out["faults"] == []


@pytest.mark.long
def test_chaos_accounts_for_what_is_lost_while_redis_is_away(tmp_path: Path) -> None:
    require_program("redis-server")
    if os.geteuid() != 0:
        missing("a network namespace is made by root only")
    out = load(tmp_path, "chaos", "--kills", "2", "--partition", "8", "--rate", "300")
    assert [kill["outage_s"] for kill in out["kills"]] == [0.3, 1.0]
    partition = out["partition"]
    assert partition["up"] == [1, 1, 0]
    assert partition["instances"] == [1, 1, 2]
    # More than is kept of what the others published meanwhile.
    assert partition["declared"][2] > 0
    assert out["last_values_differ"] == 0
    assert out["last_values"] == 3 * 18
    for account in out["accounts"]:
        counts = account["counts"]
        assert counts["updates"] + counts.get("declared", 0) == out["published"]
        assert account["own_pause_ms"] < 5000
    assert out["faults"] == []


def test_no_server_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "fanout", "--url", "ws://127.0.0.1:9/v1/ws"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=ENVIRONMENT,
    )
    assert done.returncode == 2
    assert "Connection refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminated_run_takes_its_server_with_it() -> None:
    process = subprocess.Popen(
        [*COMMAND, "fanout", "--connections", "5", "--seconds", "30"],
        stdout=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + TIMEOUT_S
    servers: list[psutil.Process] = []
    # Until it is connected: then the signal meets the loop in C.
    while not any(len(server.net_connections()) > 5 for server in servers):
        assert time.monotonic() < deadline
        servers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT_S) == 128 + signal.SIGTERM
    gone, alive = psutil.wait_procs(servers, TIMEOUT_S)
    assert gone
    assert not alive
