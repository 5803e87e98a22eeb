"""What waiting alert rules cost the server: two of them side by side, one with rules and one without."""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.program import run_loop
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.steady import SYMBOL, even_prices
from fastws.bench import LoadClient, LoadError
from fastws.bench.report import Table, mib, verdict_of
from fastws.market.store import Store

COST_LIMIT = 0.05
WINDOW_S = 2.0
WARM_UP_S = 1.0
RULES_PER_USER = 100
# Far from anything that a simulated price of 72,000 comes to, so that every rule waits all the time.
FAR = {
    "price_above": (10_000_000, 1),
    "price_below": (1, 0),
    "change_percent_above": (900, 1),
    "change_percent_below": (-99, 0),
    "volume_above": (10**15, 1),
}


async def make_rules(url: str, n: int) -> None:
    """A database with `n` waiting rules on one symbol, evenly of all types."""
    store = Store(url)
    await store.open()
    kinds = list(FAR)
    rows = []
    for i in range(n):
        kind = kinds[i % len(kinds)]
        first, step = FAR[kind]
        rows.append(
            {
                "user_id": f"user-{i // RULES_PER_USER}",
                "code": SYMBOL,
                "alert_type": kind,
                "threshold": str(first + step * i),
                "created_at": 1_700_000_000_000,
            }
        )

    def insert(connection: sa.Connection) -> None:
        connection.execute(sa.insert(sa.Table("alert_rules", sa.MetaData(), autoload_with=connection)), rows)

    try:
        await store.run(insert)
    finally:
        await store.close()


def alerts(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Thousands of waiting alert rules on one busy symbol."""
    settings = even_prices(options.rate) | {"batch_interval_ms": options.batch_interval_ms}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastws-load-")))
        servers: dict[str, Server] = {}
        start_s: dict[str, float] = {}
        for name, n_rules in (("without", 0), ("with", options.rules)):
            url = f"sqlite:///{directory / name}.db"
            run_loop(make_rules(url, n_rules) if n_rules else make_rules(url, 1))
            began = time.monotonic()
            servers[name] = stack.enter_context(
                Server(feed="sim", symbols=[SYMBOL], settings=settings | {"database": url})
            )
            start_s[name] = time.monotonic() - began
        subscribe = (
            b'{"type":"subscribe","subscription_type":"stock","targets":["%s"],"channels":["price"]}'
            % SYMBOL.encode()
        )
        clients = {name: LoadClient(server.url, 1, subscribe=subscribe) for name, server in servers.items()}
        for client in clients.values():
            client.connect()
            stack.callback(client.close, timeout=0)
        pool = stack.enter_context(ThreadPoolExecutor(len(clients)))
        rows = []

        def run(seconds: float) -> None:
            # Both at the same time: what disturbs one disturbs the other.
            for done in [pool.submit(client.run, seconds) for client in clients.values()]:
                done.result()

        run(WARM_UP_S)
        for client in clients.values():
            client.reset()
        until = time.monotonic() + options.seconds
        published = {name: server.stats()["sequence"] for name, server in servers.items()}
        first = {name: server.sample() for name, server in servers.items()}
        began_first = first
        while time.monotonic() < until:
            run(min(WINDOW_S, max(0.1, until - time.monotonic())))
            last = {name: server.sample() for name, server in servers.items()}
            rows.append(
                {
                    name: (last[name].cpu_s - first[name].cpu_s) / (last[name].at - first[name].at)
                    for name in servers
                }
            )
            first = last
        cores = {
            name: (first[name].cpu_s - began_first[name].cpu_s) / (first[name].at - began_first[name].at)
            for name in servers
        }
        rates = {
            name: (server.stats()["sequence"] - published[name]) / (time.monotonic() - began_first[name].at)
            for name, server in servers.items()
        }
        results = {name: client.result() for name, client in clients.items()}
        memory = {name: server.memory()["rss"] for name, server in servers.items()}
        target = {
            name: {"command": server.shown_command, "environment": server.environment}
            for name, server in servers.items()
        }
    if not rows:
        raise LoadError("--seconds is too short")
    cost = cores["with"] - cores["without"]
    median = statistics.median(row["with"] - row["without"] for row in rows)
    table = Table(f"alerts: {options.rules:,} rules on one symbol, {options.rate:,g} prices/s")
    for name in servers:
        table.add(
            f"{name} rules",
            f"{cores[name]:.4f} cores, {rates[name]:,.0f} prices/s, {mib(memory[name])},"
            f" started in {start_s[name]:.2f} s",
        )
    table.add("cost of the rules", f"{cost:+.2%} of a core (median of the windows {median:+.2%})")
    table.print()
    faults = [f"{name} rules: {fault}" for name, result in results.items() for fault in verdict_of(result)]
    if cost > options.cost_limit:
        faults.append(f"the rules cost {cost:.1%} of a core, {options.cost_limit:.0%} are allowed")
    return {
        "target": target,
        "cores": cores,
        "cost_cores": cost,
        "cost_cores_median": median,
        "windows": rows,
        "prices_per_second": rates,
        "server_rss": memory,
        "start_seconds": start_s,
        "load": results,
    }, faults
