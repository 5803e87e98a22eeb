"""Steady load on one symbol: fan-out, idle connections, readers that do not read."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from benchmarks.scenarios.goals import Goal, judge, tell
from benchmarks.scenarios.process import Server, Target, pinned, tcp_memory
from benchmarks.scenarios.report import describe, described, quantiles, verdict
from fastws.bench import LoadClient, LoadError
from fastws.bench.measure import Run, observe
from fastws.bench.process import Process
from fastws.bench.report import Table, closes_text, mib

SYMBOL = "005930"

FANOUT_GOALS = {
    # connections, messages/s to each
    (1_000, 4_000.0): (
        Goal("share of the rate", 0.99, "", is_least=True),
        Goal("p99", 45, "ms"),
        Goal("server", 0.6, "cores"),
    ),
    (10_000, 1_000.0): (
        Goal("delivered", 9_000_000, "messages/s", is_least=True),
        Goal("p99", 200, "ms"),
        Goal("server", 0.8, "cores"),
        Goal("server memory", 150, "MB"),
        Goal("ping p99", 50, "ms"),
    ),
}
IDLE_GOALS = {9_000: (Goal("server per connection", 3.0, "KiB"),)}


@contextlib.contextmanager
def target(options: argparse.Namespace, feed: str) -> Iterator[Target]:
    """The server that the options name, or one of our own."""
    if options.url:
        process = Process(options.server_pid) if options.server_pid else None
        yield Target(options.url, process, [], {})
        return
    settings = even_prices(getattr(options, "rate", 1.0)) | {"batch_interval_ms": options.batch_interval_ms}
    with (
        pinned(options.pin) as cpu,
        Server(feed=feed, symbols=[SYMBOL], settings=settings, cpu=cpu) as server,
    ):
        yield Target(server.url, server, server.shown_command, server.environment)


def even_prices(rate: float) -> dict[str, object]:
    """Settings under which the simulator publishes prices only and evenly, from the first second on."""
    return {
        "simulator_rate": rate,
        "simulator_book_share": 0,
        "simulator_opening_burst": 1,
        "simulator_seed": 1,
        "rate_limit": 1000,
    }


def subscription(options: argparse.Namespace) -> bytes:
    request = {
        "type": "subscribe",
        "subscription_type": "stock",
        "targets": [options.symbol],
        "channels": ["price"],
    }
    if options.mode == "latest":
        request["mode"] = "latest"
    return json.dumps(request, separators=(",", ":")).encode()


def new_client(
    options: argparse.Namespace, url: str, n: int, *, n_slow: int = 0, n_ping: int = 0
) -> LoadClient:
    return LoadClient(
        url,
        n + n_slow,
        subscribe=subscription(options),
        check=options.check,
        conflated=options.mode == "latest",
        n_slow=n_slow,
        n_ping=min(n_ping, n),
        nap_us=options.nap_us,
    )


def measure(
    options: argparse.Namespace,
    client: LoadClient,
    process: Process | None,
    *,
    warm_up: float,
    seconds: float,
) -> Run:
    """Connect, warm up, then measure."""
    started = time.monotonic()
    client.connect(timeout=options.connect_timeout, max_in_flight=options.batch_size, ramp_up=options.ramp_up)
    connect_s = time.monotonic() - started
    client.run(warm_up)
    client.reset()
    return observe(client, process, seconds=seconds, connect_s=connect_s)


def fanout(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """N readers of one symbol."""
    with target(options, "sim") as aim:
        client = new_client(options, aim.url, options.connections, n_ping=options.ping)
        try:
            run = measure(options, client, aim.process, warm_up=options.warm_up, seconds=options.seconds)
            rows = client.latencies()
        finally:
            client.close(timeout=0)
        goals = judge(
            FANOUT_GOALS.get((options.connections, options.rate), ()), _fanout_figures(run, options)
        )
        table = Table(f"fan-out: {options.connections:,} connections, {options.rate:,g} messages/s to each")
        describe(table, run, options)
        tell(table, goals)
        table.print()
        return {
            "target": described(aim),
            "run": asdict(run),
            "latency_quantiles": quantiles(rows),
            "goals": goals,
        }, verdict(run)


def _fanout_figures(run: Run, options: argparse.Namespace) -> dict[str, float | None]:
    delivered = run.load["messages_per_second"]
    figures = {
        "delivered": delivered,
        "share of the rate": delivered / (options.rate * options.connections),
        "p99": run.load["latency"]["p99_ms"],
        "ping p99": run.load["ping"]["p99_ms"] if run.load["ping"] else None,
    }
    if run.server:
        figures |= {"server": run.server["cpu_cores"], "server memory": run.server["rss_most"] / 1e6}
    return figures


def idle(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """What a connection costs that gets nothing."""
    with target(options, "none") as aim:
        if aim.process is None:
            raise LoadError("the idle scenario reads the server's memory: give --server-pid with --url")
        # What the first connections make the server load and allocate once is not theirs.
        first = new_client(options, aim.url, 20)
        first.connect(timeout=options.connect_timeout)
        first.close()
        before, kernel_before, own_before = aim.process.memory(), tcp_memory(), Process(os.getpid()).memory()
        client = new_client(options, aim.url, options.connections)
        try:
            run = measure(options, client, aim.process, warm_up=options.warm_up, seconds=options.seconds)
            after, kernel_after, own_after = aim.process.memory(), tcp_memory(), Process(os.getpid()).memory()
        finally:
            client.close(timeout=0)
        n = options.connections
        figures = {
            "server_before": before,
            "server_after": after,
            "server_bytes_per_connection": (after["rss"] - before["rss"]) / n,
            "kernel_tcp_bytes_per_connection": (kernel_after - kernel_before) / n,
            "client_bytes_per_connection": (own_after["rss"] - own_before["rss"]) / n,
        }
        table = Table(f"idle: {n:,} subscribed connections to a quiet symbol")
        table.add("connected in", f"{run.connect_s:.2f} s, {n / run.connect_s:,.0f}/s")
        table.add("server memory", f"{mib(before['rss'])} before, {mib(after['rss'])} after")
        table.add("server per connection", f"{figures['server_bytes_per_connection'] / 1024:.2f} KiB")
        table.add(
            "kernel buffers per connection", f"{figures['kernel_tcp_bytes_per_connection'] / 1024:.2f} KiB"
        )
        table.add("client per connection", f"{figures['client_bytes_per_connection'] / 1024:.2f} KiB")
        assert run.server is not None
        table.add("server while idle", f"{run.server['cpu_cores']:.3f} cores")
        table.add("open at the end", f"{run.load['open']:,} of {n:,}")
        goals = judge(
            IDLE_GOALS.get(n, ()),
            {"server per connection": figures["server_bytes_per_connection"] / 1024},
        )
        tell(table, goals)
        table.print()
        faults = verdict(run)
        if run.load["open"] < n:
            faults.append(
                f"{n - run.load['open']} connections were closed: {closes_text(run.load['closes'])}"
            )
        return {"target": described(aim), "run": asdict(run), "memory": figures, "goals": goals}, faults


def slow(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The same readers without and with neighbours that do not read."""
    runs: dict[str, Run] = {}
    with target(options, "sim") as aim:
        for name, n_slow in (
            ("without slow readers", 0),
            (f"with {options.slow:,} slow readers", options.slow),
        ):
            client = new_client(options, aim.url, options.connections, n_slow=n_slow, n_ping=options.ping)
            try:
                # The slow ones fill their buffers while it is measured: no warm-up hides that.
                runs[name] = measure(
                    options, client, aim.process, warm_up=options.warm_up, seconds=options.seconds
                )
            finally:
                client.close(timeout=0)
        table = Table(
            f"slow readers: {options.connections:,} that read, {options.rate:,g} messages/s to each"
        )
        for name, run in runs.items():
            table.add(name, "")
            describe(table, run, options, indent="  ")
            if run.load["slow"]:
                group = run.load["slow"]
                closes = ", ".join(f"{n} x {code}" for code, n in sorted(group["closes"].items()))
                table.add(
                    "  slow ones still open",
                    f"{group['open']} of {group['connections']} ({closes or 'no closes'})",
                )
            if run.server:
                table.add("  server memory by second", " ".join(mib(row["rss"]) for row in run.timeline))
        without, with_slow = runs.values()
        p99 = [run.load["latency"]["p99_ms"] for run in (without, with_slow)]
        if None not in p99:
            table.add("p99 with / without", f"{p99[1]:.1f} / {p99[0]:.1f} ms")
        table.print()
        faults = [f"{name}: {fault}" for name, run in runs.items() for fault in verdict(run)]
        return {"target": described(aim), "runs": {name: asdict(run) for name, run in runs.items()}}, faults
