"""Every connection its own watchlist: no two get the same, so a frame is built for each of them and every flush."""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.scenarios.goals import Goal, judge, tell
from benchmarks.scenarios.process import Server, pinned
from benchmarks.scenarios.recording import await_flow, codes, read_until, settled, write
from benchmarks.scenarios.report import describe, quantiles, verdict
from fastws.bench import LoadClient, LoadError
from fastws.bench.measure import Run, observe
from fastws.bench.report import Table

# The flow begins when all should be connected, as a market opens.
CONNECTS_PER_S = 2000
LEAST_PAUSE_S = 1.0
WARM_UP_S = 2.0
# The flow goes on for so long beside warm-up and measurement, for a server or clients that begin late.
RESERVE_S = 1.0

GOALS = {
    # connections, symbols, symbols each, updates/s
    (10_000, 2_000, 50, 5_000.0): (
        Goal("p99", 100, "ms"),
        Goal("delivered", 1_000_000, "messages/s", is_least=True),
        Goal("server", 0.8, "cores"),
    ),
    (3_000, 2_000, 50, 5_000.0): (Goal("p99", 40, "ms"),),
}


class Looks:
    """Looks at the server's own statistics once a second, on a thread; a context manager."""

    def __init__(self, server: Server) -> None:
        self.rows: list[dict[str, Any]] = []
        self._server = server
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="looks")

    def __enter__(self) -> Looks:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_done.set()
        self._thread.join()
        if kind is None:
            self._look()

    def _run(self) -> None:
        while not self._is_done.wait(1.0):
            self._look()

    def _look(self) -> None:
        self.rows.append({"at": time.monotonic()} | self._server.stats())

    def summary(self) -> dict[str, float]:
        """`flush_share` is how much of the time was spent sending, `interval_ms` the mean time between flushes."""
        first, last = self.rows[0], self.rows[-1]
        elapsed = last["at"] - first["at"]
        return {
            "flush_share": (last["flush_seconds"] - first["flush_seconds"])
            / elapsed
            / last.get("workers", 1),
            "flushes_per_second": (last["flushes"] - first["flushes"]) / elapsed,
            "effective_interval_ms": sorted(row["effective_interval_ms"] for row in self.rows)[
                len(self.rows) // 2
            ],
            "effective_interval_most_ms": max(row["effective_interval_ms"] for row in self.rows),
            "updates_per_second": (last["sequence"] - first["sequence"]) / elapsed,
            "cohorts": last["cohorts"],
            "loop_lag_most_ms": max(row["loop_lag_ms"] for row in self.rows),
        }


def watchlists(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Every connection its own random symbols, newest values only, and what each ends on."""
    if options.each > options.symbols:
        raise LoadError(f"--each {options.each} of --symbols {options.symbols} cannot be had")
    n = options.connections
    symbols = codes(options.symbols)
    generator = random.Random(options.seed)
    lists = [generator.sample(symbols, options.each) for _ in range(n)]
    settings = {
        "batch_interval_ms": options.batch_interval_ms,
        "rate_limit": 1000,
        "subscription_limit": max(50, options.each),
        "workers": options.workers,
    }
    with tempfile.TemporaryDirectory(prefix="fastws-load-") as directory:
        recording = Path(directory) / "trades.txt"
        last = write(
            recording,
            symbols,
            rate=options.rate,
            pause=LEAST_PAUSE_S + n / CONNECTS_PER_S,
            seconds=WARM_UP_S + options.seconds + RESERVE_S,
            seed=options.seed,
        )
        n_updates = sum(trade.seq for trade in last.values())
        with (
            pinned(options.pin) as cpu,
            Server(feed=f"replay:{recording}", symbols=symbols, settings=settings, cpu=cpu) as server,
        ):
            target = {"url": server.url, "command": server.shown_command, "environment": server.environment}
            client = LoadClient(
                server.url, n, subscribe=lambda i: _subscription(lists[i]), check="full", conflated=True
            )
            try:
                began = time.monotonic()
                client.connect(timeout=60.0)
                connect_s = time.monotonic() - began
                await_flow(server, client)
                client.run(WARM_UP_S)
                client.reset()
                before = server.cpu_by_process()
                with Looks(server) as looks:
                    run = observe(client, server, seconds=options.seconds, connect_s=connect_s)
                used = {name: seconds - before[name] for name, seconds in server.cpu_by_process().items()}
                rows = client.latencies()
                is_whole = server.stats()["sequence"] < n_updates
                read_until(client, lambda: server.stats()["sequence"] >= n_updates, "the flow does not end")
                n_behind, example = settled(client, lists, last)
                ended = client.result()
            finally:
                client.close(timeout=0)
    if not is_whole:
        raise LoadError(
            "the flow ended before the measurement: the machine is too slow to connect so many in time"
        )
    # Of the whole run: the measured part is in it.
    faults = verdict(Run(connect_s, ended, None, []))
    if n_behind:
        faults.append(f"{n_behind:,} final values are not the last ones; {example}")
    load = run.load
    assert run.server is not None
    figures = {
        "p99": load["latency"]["p99_ms"],
        "delivered": load["messages_per_second"],
        "server": run.server["cpu_cores"],
    }
    # What one process is to be capable of.
    load_of = (n, options.symbols, options.each, options.rate)
    goals = judge(GOALS.get(load_of, ()) if options.workers == 1 else (), figures)
    costs = {
        "us_per_message": 1e6 * run.server["cpu_cores"] / load["messages_per_second"],
        "us_per_send": 1e6 * run.server["cpu_cores"] / (load["frames"] / load["seconds"]),
        "cores": {name: seconds / load["seconds"] for name, seconds in used.items()},
    }
    seen = looks.summary()
    table = Table(
        f"watchlists: {n:,} connections, each its own {options.each} of {options.symbols:,} symbols,"
        f" {options.rate:,g} updates/s" + (f", {options.workers} workers" if options.workers > 1 else "")
    )
    describe(table, run, argparse.Namespace(rate=options.rate, url=None, mode="latest"))
    table.add(
        "cost",
        f"{costs['us_per_send']:.1f} us of processor time for a send, {costs['us_per_message']:.2f} for a message;"
        f" cores: {', '.join(f'{name} {share:.2f}' for name, share in costs['cores'].items())}",
    )
    table.add("published", f"{seen['updates_per_second']:,.0f} updates/s")
    table.add("conflated", f"{load['conflated']:,} values gave way to newer ones")
    table.add(
        "flushes of cohorts",
        f"{seen['flushes_per_second']:.1f}/s, {seen['flush_share']:.0%} of the time,"
        f" effective interval {seen['effective_interval_ms']:.0f} ms,"
        f" {seen['effective_interval_most_ms']:.0f} ms at most",
    )
    table.add(
        "final values", f"{n * options.each - n_behind:,} of {n * options.each:,} are the last ones published"
    )
    tell(table, goals)
    table.print()
    return {
        "target": target,
        "run": asdict(run),
        "costs": costs,
        "latency_quantiles": quantiles(rows),
        "flushing": seen,
        "final_values": {"checked": n * options.each, "behind": n_behind},
        "goals": goals,
    }, faults


def _subscription(symbols: Sequence[str]) -> bytes:
    return json.dumps(
        {
            "type": "subscribe",
            "subscription_type": "stock",
            "targets": symbols,
            "channels": ["price"],
            "mode": "latest",
        },
        separators=(",", ":"),
    ).encode()
