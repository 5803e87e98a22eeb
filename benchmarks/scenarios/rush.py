"""Everybody at once: all connect and subscribe, all are cut off in one moment, all come back with their sessions."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.peers.catalogue import PEERS, Running
from benchmarks.scenarios.goals import Goal, judge, tell
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.report import verdict
from benchmarks.scenarios.steady import even_prices
from fastws.bench import LoadClient
from fastws.bench.measure import Run
from fastws.bench.process import Process, thread_waited_s
from fastws.bench.report import BUSY_LIMIT, Table

N_SYMBOLS = 100
SYMBOLS_EACH = 2
RATE = 100.0
TIMEOUT_S = 60.0
# Of updates with everybody there before the cut, and after it for what was missed.
CALM_S = 1.0
AFTER_S = 2.0

GOALS = {
    10_000: (
        Goal("connect", 2.0, "s"),
        Goal("restore", 4.0, "s"),
    )
}


@dataclass
class Share:
    """A stretch of time and who needed it. `*_cores` of it were used; `*_waited_s` is how long threads were ready to
    run and had no processor."""

    seconds: float = 0.0
    server_cores: float = 0.0
    server_waited_s: float = 0.0
    client_cores: float = 0.0
    client_waited_s: float = 0.0

    def text(self) -> str:
        return (
            f"{self.seconds:.2f} s: server {self.server_cores:.2f} cores (waited {self.server_waited_s:.2f} s),"
            f" generator {self.client_cores:.2f} (waited {self.client_waited_s:.2f} s)"
        )

    def verdict(self) -> str:
        """Who kept the other waiting."""
        if self.client_cores > BUSY_LIMIT:
            return "the generator was the bottleneck"
        if self.client_waited_s > 0.1 * self.seconds:
            return "the generator had to wait for a processor"
        return "the generator had time left"


@contextlib.contextmanager
def shared(server: Process) -> Iterator[Share]:
    """Measure what a block takes of `server` and of this thread."""
    share = Share()
    own, waited, before = time.thread_time(), thread_waited_s(), server.sample()
    yield share
    after = server.sample()
    share.seconds = after.at - before.at
    share.server_cores = (after.cpu_s - before.cpu_s) / share.seconds
    share.server_waited_s = after.waited_s - before.waited_s
    share.client_cores = (time.thread_time() - own) / share.seconds
    share.client_waited_s = thread_waited_s() - waited


def rush(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Everybody connects at once, is cut off at once, and comes back with the session."""
    rounds: list[dict[str, Any]] = []
    faults: list[str] = []
    target: dict[str, Any] = {}
    for turn in range(options.rounds):
        row, found, target = _round(options)
        row["floor"] = _floor(options)
        rounds.append(row)
        faults += [f"round {turn + 1}: {fault}" for fault in found]
    n = options.connections
    figures: dict[str, float | None] = {
        name: statistics.median(row[name]["seconds"] for row in rounds) for name in ("connect", "restore")
    }
    goals = judge(GOALS.get(n, ()), figures)
    table = Table(f"rush: {n:,} connections at once, {options.in_flight:,} under way at a time")
    for i, row in enumerate(rounds):
        table.add(f"round {i + 1}", "")
        for name in ("connect", "restore"):
            share = Share(**row[name])
            table.add(f"  {name}", f"{share.text()}; {share.verdict()}")
        table.add("  of it, to cut", f"{row['cut_s']:.2f} s")
        if row["floor"]:
            table.add("  connect to the floor", Share(**row["floor"]).text())
        table.add(
            "  restored",
            f"{row['restored']['recovered']:,} sessions, {row['restored']['missed']:,} messages missed",
        )
    for name, value in figures.items():
        assert value is not None
        table.add(name, f"{value:.2f} s, {n / value:,.0f}/s (median)")
    tell(table, goals)
    table.print()
    return {"target": target, "rounds": rounds, "figures": figures, "goals": goals}, faults


def _round(options: argparse.Namespace) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    n = options.connections
    symbols = [f"S{i:05d}" for i in range(N_SYMBOLS)]
    settings = even_prices(RATE) | {
        "batch_interval_ms": options.batch_interval_ms,
        # All come from one address, as nobody does elsewhere.
        "half_open_per_ip": 0,
        "session_limit": 20 * n,
    }
    with Server(feed="sim", symbols=symbols, settings=settings) as server:
        target = {"url": server.url, "command": server.shown_command, "environment": server.environment}
        client = LoadClient(
            server.url, n, subscribe=lambda i: _subscription(symbols, i), check="full", keep_sessions=True
        )
        try:
            with shared(server) as connect:
                client.connect(timeout=TIMEOUT_S, max_in_flight=options.in_flight)
            client.run(CALM_S)
            with shared(server) as restore:
                began = time.monotonic()
                client.cut()
                cut_s = time.monotonic() - began
                client.restore(timeout=TIMEOUT_S, max_in_flight=options.in_flight)
            client.run(AFTER_S)
            load = client.result()
            rss = server.memory()["rss"]
        finally:
            client.close(timeout=0)
    faults = verdict(Run(connect.seconds, load, None, []))
    if load["lost"]:
        faults.append(f"{load['lost']:,} numbers are missing, {load['declared_lost']:,} declared")
    restored = load["restored"]
    if restored is None or restored["recovered"] != n:
        faults.append(f"not all {n:,} sessions were recovered: {restored}")
    return (
        {
            "connect": asdict(connect),
            "restore": asdict(restore),
            "cut_s": cut_s,
            "restored": restored,
            "messages": load["messages"],
            "server_rss": rss,
        },
        faults,
        target,
    )


def _subscription(symbols: list[str], i: int) -> bytes:
    first = i * SYMBOLS_EACH % len(symbols)
    targets = ",".join(f'"{symbol}"' for symbol in symbols[first : first + SYMBOLS_EACH])
    return f'{{"type":"subscribe","subscription_type":"stock","targets":[{targets}],"channels":["price"]}}'.encode()


def _floor(options: argparse.Namespace) -> dict[str, Any] | None:
    """The same connects to a server in C that does nothing but answer: what the generator and the kernel need."""
    floor = next(peer for peer in PEERS if peer.name == "floor")
    if floor.missing():
        return None
    symbols = [f"S{i:05d}" for i in range(N_SYMBOLS)]
    with Running(floor, 1.0) as running:
        client = LoadClient(
            running.url, options.connections, subscribe=lambda i: _subscription(symbols, i), check="none"
        )
        try:
            with shared(Process(running.pids[0])) as share:
                client.connect(timeout=TIMEOUT_S, max_in_flight=options.in_flight)
        finally:
            client.close(timeout=0)
    return asdict(share)
