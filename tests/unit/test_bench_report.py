"""What a run says of itself: faults, bottlenecks, and the report."""

from __future__ import annotations

import sys
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from fastws.bench.figures import LoadResult
from fastws.bench.report import FAULTS, bottlenecks, durations, oddities, problems, show

TIMES = {"p50_ms": 10.0, "p90_ms": 20.0, "p99_ms": 30.0, "p999_ms": 31.0, "max_ms": 1234.5, "mean_ms": 11.0}
CLIENT = {"cpu_share": 0.3, "busy_share": 0.4, "run_delay_seconds": 0.1, "cpu_seconds": 3.0, "wakeups": 5}
CLIENT["stall_max_ms"] = 2.0


def load(**changes: Any) -> LoadResult:
    figures: dict[str, Any] = dict.fromkeys(FAULTS, 0) | {
        "connections": 100, "open": 100, "closes": {}, "messages": 50_000, "messages_per_second": 5000.0,
        "messages_per_connection": (500, 500), "compressed_messages": 0, "frames": 1000, "bytes": 10_000_000,
        "bytes_per_second": 1_000_000.0, "lost": 0, "declared_lost": 0, "duplicates": 0, "conflated": 0,
        "first_error": None, "first_unparsed": None, "untimed": 0, "seconds": 10.0, "slow": None, "ping": None,
        "latency": {"count": 50_000} | TIMES, "client": CLIENT, "restored": None, "numbered": 50_000, "unnumbered": 0,
        "silence_max_ms": 120.0, "early": 0, "earliest_ms": 0.0, "overlong": 0, "begun": 0,
    }  # fmt: skip
    result: Any = figures | changes
    return result  # type: ignore[no-any-return]


def report(result: LoadResult, **changes: Any) -> list[str]:
    plan = {
        "url": "ws://127.0.0.1:8000/v1/ws", "subscriptions": ["stock:A"], "random_stocks": None, "check": "full",
        "connections": 100, "duration": 10.0, "is_conflated": False,
    }  # fmt: skip
    stalls = {"machine_stalls": 0, "machine_stall_max_ms": 0.0}
    run = {"connect_s": 1.0, "load": result, "server": None}
    document = {
        "plan": plan | changes.pop("plan", {}), "run": run | changes.pop("run", {}), "stalls": stalls,
        "latency_histogram": [(10.0, 50_000.0)], "storm": None, "interrupted": None, "notes": [],
        "faults": [],
    }  # fmt: skip
    lines = show(document | changes, width=79, has_blocks=False).splitlines()
    assert all(len(line) < 80 for line in lines)
    return lines


def test_a_clean_run_has_no_problem() -> None:
    assert problems(load(), declared=True) == []
    assert bottlenecks(load()) == []
    lines = report(load())
    assert lines[-1] == "ok: no message lost, none twice"
    assert any(line.endswith("p50 10.0  p90 20.0  p99 30.0  p99.9 31.0  max 1234.5  ms") for line in lines)


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_told(name: str) -> None:
    (told,) = problems(load(**{name: 3}))
    assert told == f"3 {FAULTS[name]}"


def test_declared_losses_count_where_they_are_asked_for() -> None:
    lossy = load(lost=10, declared_lost=7, undeclared_lost=3)
    assert problems(lossy) == ["3 messages were lost without being declared"]
    assert problems(lossy, declared=True)[1].startswith("7 messages were lost and declared")


def test_closes_and_samples_are_told() -> None:
    told = problems(load(errors=1, first_error='{"type":"error"}', closes={1006: 2, 4408: 1, 4999: 1}))
    assert told[1] == '{"type":"error"}'
    assert told[2].startswith("2 connections were closed by the server: 1006 without a close frame")
    assert told[3] == "1 connections were closed by the server: 4408 slow consumer"
    assert told[4].endswith(": 4999")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"busy_share": 0.95}, "was the bottleneck"),
        ({"cpu_share": 0.95}, "was the bottleneck"),
        ({"run_delay_seconds": 1.5}, "had to wait for a processor"),
        ({"stall_max_ms": 3000.0}, "itself stood still for 3,000 ms"),
    ],
)
def test_a_generator_that_was_the_bottleneck_says_so(changes: dict[str, float], said: str) -> None:
    (note,) = bottlenecks(load(client=CLIENT | changes))
    assert said in note


def test_nothing_measured() -> None:
    assert durations({"count": 0}) == "nothing measured"
    nothing = load(
        messages=0,
        frames=0,
        seconds=0.0,
        messages_per_second=0.0,
        latency=dict.fromkeys(TIMES) | {"count": 0},
    )
    lines = report(nothing, latency_histogram=[], interrupted="measuring")
    assert lines[-2:] == ["interrupted after 0.0 of 10 s", "nothing was checked: no message came"]


def test_server_stalls_storm_and_faults_are_shown() -> None:
    server = {"cpu_cores": 0.5, "rss_most": 100 << 20}
    storm = {
        "seconds": 2.0,
        "load": load(restored={"sessions": 100, "recovered": 99, "missed": 1234}, lost=5),
    }
    stalls = {"machine_stalls": 2, "machine_stall_max_ms": 50.0, "of_the_slowest_ms": 20.0}
    text = "\n".join(
        report(
            load(), run={"server": server}, storm=storm, stalls=stalls, faults=["a fault"], notes=["a note"]
        )
    )
    assert "0.50 cores, 100.00 us per message, 100.0 MiB at most" in text
    assert "2 x, 50 ms at most; 20 ms of the max latency" in text
    assert "after 2.00 s, 50/s" in text
    assert "99 sessions with all they missed" in text
    assert "1,234 messages by then; lost since: 5" in text
    assert text.endswith("note: a note\nFAULT: a fault")


def test_what_compression_hides_is_not_shown() -> None:
    text = "\n".join(report(load(messages=0, compressed_messages=500)))
    assert "500 in 10.0 s (compressed ones: a batch is one)" in text
    assert "\n  lost" not in text
    assert text.endswith("no fault was seen; whether messages were lost was not checked")


def test_conflation_is_not_called_loss() -> None:
    lines = report(load(conflated=1000), plan={"is_conflated": True})
    assert any("1,000 values gave way to newer ones; 0 twice" in line for line in lines)
    assert lines[-1] == "ok: no message twice, none out of order"


@pytest.mark.parametrize(
    ("changes", "plan", "said"),
    [
        ({}, {"check": "edges"}, "ok: no message lost, none twice, by the ends of each batch"),
        ({}, {"check": "none"}, "no fault was seen; whether messages were lost was not checked"),
        (
            {"unnumbered": 7},
            {},
            "no fault was seen; 7 messages had no seq, so that their loss cannot be told",
        ),
        ({"numbered": 0}, {}, "no fault was seen; no message was numbered, so a loss cannot be told"),
        ({"messages": 0, "numbered": 0}, {}, "nothing was checked: no message came"),
    ],
)
def test_only_what_was_checked_is_called_good(
    changes: dict[str, int], plan: dict[str, str], said: str
) -> None:
    assert report(load(**changes), plan=plan)[-1] == said


PING = {
    "count": 5,
    "sent": 6,
    "answered": 5,
    "skipped": 30,
    "open": 1,
    "longest_open_ms": 3000.0,
    "ended": 0,
} | TIMES


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"silence_max_ms": 3000.0}, "nothing came for 3.0 s on any connection"),
        ({"ping": PING}, "1 pings had no answer at the end, the oldest for 3.0 s"),
        (
            {"ping": PING | {"longest_open_ms": 1.0, "ended": 2}},
            "2 pings had no answer when their connection ended",
        ),
        ({"early": 4, "earliest_ms": 1200.0}, "4 messages came before their timestamp, by 1,200 ms"),
        ({"overlong": 5}, "5 messages took more than 60 s"),
        ({"begun": 1}, "1 messages had begun and not ended"),
    ],
)
def test_what_has_to_be_known_of_the_figures(changes: dict[str, Any], said: str) -> None:
    (note,) = oddities(load(**changes))
    assert said in note


def test_silences_that_the_rate_explains_are_not_told() -> None:
    assert oddities(load(silence_max_ms=400.0)) == []
    # A message every 20 s to each connection.
    assert oddities(load(silence_max_ms=3000.0, messages=50)) == []


def test_pings_are_told_with_those_that_are_missing() -> None:
    assert any("6 sent, 5 answered, 30 skipped, 1 open" in line for line in report(load(ping=PING)))


def test_a_run_that_ended_early_says_so() -> None:
    ended = load(seconds=2.0, open=0, closes={1006: 100})
    assert "ended after 2.0 of 10 s: every connection was closed by the server" in report(ended)
    broken = load(seconds=2.0, open=0, protocol_violations=100)
    assert "ended after 2.0 of 10 s: every connection was closed" in report(broken)
