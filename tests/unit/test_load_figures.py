"""What results become: targets held against them, and the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import BEGIN, END, page
from benchmarks.plots import draw
from benchmarks.results import put, read
from benchmarks.scenarios.goals import Goal, judge, wording
from benchmarks.scenarios.report import quantiles

AT_MOST = Goal("p99", 100, "ms")
AT_LEAST = Goal("delivered", 1_000_000, "messages/s", is_least=True)


@pytest.mark.parametrize(
    ("goal", "value", "text"),
    [
        (AT_MOST, 87.4, "87.4 ms, target ≤ 100 ms: met"),
        (AT_MOST, 100.0, "100 ms, target ≤ 100 ms: met"),
        (AT_MOST, 125.0, "125 ms, target ≤ 100 ms: missed by 25%"),
        (AT_MOST, None, "not measured, target ≤ 100 ms"),
        (AT_LEAST, 1_100_000.0, "1,100,000 messages/s, target ≥ 1,000,000 messages/s: met"),
        (AT_LEAST, 500_000.0, "500,000 messages/s, target ≥ 1,000,000 messages/s: missed by 50%"),
        (Goal("ratio", 0.65, ""), 0.5, "0.50, target ≤ 0.65: met"),
    ],
)
def test_goals_say_whether_they_are_met(goal: Goal, value: float | None, text: str) -> None:
    (judged,) = judge([goal], {goal.figure: value})
    assert wording(judged) == text
    assert judged["is_met"] == text.endswith(": met")


def test_what_was_not_measured_is_not_met() -> None:
    (judged,) = judge([AT_MOST], {"p50": 1.0})
    assert judged["is_met"] is False
    assert judged["distance"] is None


def test_quantiles_rise_to_the_largest() -> None:
    found = dict(quantiles([(1.0, 500.0), (2.0, 499.0), (50.0, 1.0)]))
    assert found[0.5] == 1.0
    assert found[0.98] == found[0.999] == 2.0
    assert found[1.0] == 50.0
    assert quantiles([]) == []


def _result(**members: Any) -> dict[str, Any]:
    machine = {"processor": "a processor", "cores": 2, "kernel": "6.1", "python": "3.11"}
    return {
        "command": ["python", "-m", "x", "--json", "out.json", "-n"],
        "machine": machine,
        "faults": [],
    } | members


def test_the_page_tells_targets_commands_and_faults(tmp_path: Path) -> None:
    goals = judge([AT_MOST, AT_LEAST], {"p99": 125.0, "delivered": 2e6})
    (tmp_path / "load_a.json").write_text(json.dumps(_result(goals=goals, date="2026-01-02 03:04 UTC")))
    (tmp_path / "load_b.json").write_text(json.dumps(_result(faults=["lost 3"])))
    load, peers = read(tmp_path)
    text = page(load, peers, [])
    assert (
        "| a | p99 | 125 ms | ≤ 100 ms | **missed** by 25% | `python -m x -n` | 2026-01-02 03:04 UTC |"
        in text
    )
    assert "| delivered | 2,000,000 messages/s | ≥ 1,000,000 messages/s | met |" in text
    assert "- b: lost 3" in text
    assert "a processor, 2 cores" in text


def test_peers_are_told_as_ratios_of_one_run(tmp_path: Path) -> None:
    def server(us: float, p99: float, share: float) -> dict[str, Any]:
        median = {
            "cpu_cores": 0.1, "cpu_us": us, "p50_ms": 1.0, "p99_ms": p99, "share": share, "rss_most": 1 << 20
        }  # fmt: skip
        return {"median": median, "failures": [], "faults": []}

    servers = {
        "fastws 30 ms": server(2.0, 10.0, 1.0),
        "other": server(4.0, 5.0, 1.0),
        "behind": server(8.0, 5.0, 0.5),
        "gone": {"median": None, "failures": ["fell over"], "faults": []},
    }
    scenario = {"connections": 10, "rate": 5.0, "servers": servers, "goals": []}
    (tmp_path / "peers.json").write_text(
        json.dumps(_result(scenarios={"A": scenario}, skipped={"bun": "not installed"}))
    )
    text = page(*read(tmp_path), [])
    assert "| 0.50 x | 2.00 x |" in text
    assert "| 0.25 x | it is behind |" in text
    assert "- gone: fell over" in text
    assert "- bun was left out: not installed" in text


def test_what_was_measured_is_drawn(tmp_path: Path) -> None:
    points = [{"at": 1, "us": 2.0, "floor_us": 1.0}, {"at": 100, "us": 3.0, "floor_us": 2.0}]
    rising = [(0.5, 1.0), (0.9, 2.0), (0.99, 3.0), (1.0, 50.0)]
    server = {"median": {"cpu_us": 2.0, "share": 1.0}, "latency_quantiles": [rising]}
    load = {
        "growth": {"connections": points, "topics": [{"at": 1, "us": 2.0}]},
        "fanout": {"latency_quantiles": rising},
    }
    peers = {"A": {"connections": 10, "rate": 5.0, "servers": {"fastws 30 ms": server, "bun": server}}}
    drawn = draw(load, peers, tmp_path)
    assert [plot.path.name for plot in drawn] == [
        "peers_cpu.svg", "peers_latency.svg", "load_latency.svg", "growth.svg"
    ]  # fmt: skip
    first = [plot.path.read_bytes() for plot in drawn]
    assert all(b"<svg" in image for image in first)
    # A run that measures the same changes nothing that is under version control.
    draw(load, peers, tmp_path)
    assert [plot.path.read_bytes() for plot in drawn] == first
    assert draw({}, {}, tmp_path) == []


def test_only_its_own_section_of_the_page_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    put(path, "first", BEGIN, END)
    assert path.read_text() == f"# Measured\n\n{BEGIN}\nfirst\n{END}\n"
    path.write_text(f"# Mine\n\nbefore\n{BEGIN}\nfirst\n{END}\nafter\n")
    put(path, "second", BEGIN, END)
    assert path.read_text() == f"# Mine\n\nbefore\n{BEGIN}\nsecond\n{END}\nafter\n"


def test_runs_without_targets_tell_what_they_found() -> None:
    def slow(n: int, p99: float) -> dict[str, Any]:
        group = {"connections": n, "open": n - 1} if n else None
        return {"load": {"latency": {"p99_ms": p99}, "slow": group}, "server": {"rss_most": (100 + n) << 20}}

    cycles = [{"recovered": True, "return_s": 0.05, "death": "reset"}] * 3
    cycles.append({"recovered": False, "return_s": 9.0, "death": "half_open"})
    program = {"kills": {"reset": 2, "kick": 3}, "counts": {"updates": 1234}, "faults": []}
    found: dict[str, dict[str, Any]] = {
        "slow": {"runs": {"without": slow(0, 30.0), "with": slow(50, 31.0)}},
        "deflate": {"saved": 0.83, "cost_ratio": 0.87, "messages_per_batch": 20.1},
        "alerts": {
            "cores": {"without": 0.047}, "cost_cores_median": -0.001, "prices_per_second": {"with": 1000.1},
            "start_seconds": {"without": 0.75, "with": 0.85},
        },
        "storm": {
            "run": {
                "answers": {"recovered": 2000}, "return_s": {"p50": 0.001, "p99": 0.007}, "missing": 0,
                "during": {"p99_ms": 3.6}, "calm": {"p99_ms": 2.8},
            }
        },
        "stop": {
            "stop_seconds": 0.32, "exit_status": 0, "closes": {"1012": 5000}, "told": 5000,
            "prices_known_after_a_restart": 89,
        },
        "restore": {"run": {"cycles": cycles, "missing": {"client 1": 2}, "received": 5000}},
        "clients": {
            "run": {"published_per_second": 1498.1, "restarts": 4, "programs": {"js": program, "python": program}}
        },
    }  # fmt: skip
    load = {name: _result(scenario=name, date="2026-01-02 03:04 UTC", **row) for name, row in found.items()}
    load["restore"]["faults"] = ["lost 2"]
    text = page(load, {}, [])
    rows = {line.split(" | ")[0][2:]: line for line in text.splitlines() if line.startswith("| ")}
    for name, said in {
        "slow": "p99 of those that read 31.0 ms beside 50 that do not, 30.0 ms without; 49 of these still open",
        "deflate": "83% saved on the wire, 20 messages in a batch; server 0.87 times",
        "alerts": "the rules cost -0.001 cores",
        "storm": "2,000 recovered; each within p50 1.0, p99 7.0 ms",
        "stop": "ended in 0.32 s with status 0; 5,000 closed with 1012; 5,000 told when to come back; 89 last prices",
        "restore": "3 of 4 outages recovered; back within 50 ms (median); 2 of 5,000 updates missing | 1 |",
        "clients": "js: 5 kills, 1,234 updates, 0 faults; python: 5 kills",
    }.items():
        assert said in rows[name]
        assert rows[name].endswith("`python -m x -n` | 2026-01-02 03:04 UTC |")
    assert "| none |" in rows["stop"]
