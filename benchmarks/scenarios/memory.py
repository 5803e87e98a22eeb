"""What the server's memory does: under clients with a token and subscriptions of their own, and over many days' worth
of them coming and going."""

from __future__ import annotations

import argparse
import json
import random
import time
from typing import Any

from benchmarks.scenarios.goals import Goal, judge, tell
from benchmarks.scenarios.process import Server, tcp_memory
from benchmarks.scenarios.recording import codes
from benchmarks.scenarios.report import verdict
from benchmarks.scenarios.steady import SYMBOL, even_prices
from fastws.auth.keys import read_secret
from fastws.auth.tokens import sign
from fastws.bench import LoadClient, LoadError
from fastws.bench.measure import Run
from fastws.bench.report import Table, closes_text, mib

SECRET = "a secret for load runs, which guards nothing"
N_SYMBOLS = 2000
EACH = 50
TIMEOUT_S = 60.0
IDLE_S = 1.0
SESSION_TTL_S = 1.0
# What has been freed is there when two looks so far apart tell the same.
LOOK_S = 0.5
SAME_BYTES = 256 << 10
SETTLE_S = 10.0
SLOW_SHARE = 0.02
# Whose sessions may be there while it is waited for.
VISITORS = 8

SESSION_GOALS = {9_000: (Goal("server per connection", 6.0, "KiB"),)}
CYCLE_GOALS = {5: (Goal("after the last / after the first", 1.10, ""),)}


def sessions(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """What an idle connection costs that has a token of its own and fifty subscriptions of its own."""
    n = options.connections
    symbols = codes(N_SYMBOLS)
    generator = random.Random(1)
    settings = {
        "jwt_secret": SECRET,
        "allow_anonymous": False,
        "batch_interval_ms": options.batch_interval_ms,
    }
    with Server(feed="none", symbols=symbols, settings=settings) as server:
        target = {"url": server.url, "command": server.shown_command, "environment": server.environment}
        # What the first clients make the server load and allocate once, and the topics, are not of the others.
        n_first = N_SYMBOLS // EACH
        first = _client(server.url, "first", [symbols[i * EACH : (i + 1) * EACH] for i in range(n_first)])
        client = _client(server.url, "user", [generator.sample(symbols, EACH) for _ in range(n)])
        try:
            first.connect(timeout=TIMEOUT_S)
            before, kernel_before = server.memory(), tcp_memory()
            began = time.monotonic()
            client.connect(timeout=TIMEOUT_S)
            connect_s = time.monotonic() - began
            sample = server.sample()
            client.run(IDLE_S)
            last = server.sample()
            after, kernel_after = server.memory(), tcp_memory()
            stats = server.stats()
            load = client.result()
        finally:
            client.close(timeout=0)
            first.close(timeout=0)
    figures = {
        "server per connection": (after["rss"] - before["rss"]) / n / 1024,
        "kernel per connection": (kernel_after - kernel_before) / n / 1024,
    }
    goals = judge(SESSION_GOALS.get(n, ()), figures)
    table = Table(
        f"sessions: {n:,} users with a token, each {EACH} of {N_SYMBOLS:,} symbols, nothing published"
    )
    table.add("connected in", f"{connect_s:.2f} s, {n / connect_s:,.0f}/s, with token and subscription")
    table.add("subscriptions", f"{stats['total_subscriptions']:,}")
    table.add("server memory", f"{mib(before['rss'])} before, {mib(after['rss'])} after")
    for name, value in figures.items():
        table.add(name, f"{value:.2f} KiB")
    table.add("server while idle", f"{(last.cpu_s - sample.cpu_s) / (last.at - sample.at):.3f} cores")
    tell(table, goals)
    table.print()
    faults = verdict(Run(connect_s, load, None, []))
    if load["open"] < n:
        faults.append(f"{n - load['open']} connections were closed: {closes_text(load['closes'])}")
    if stats["total_subscriptions"] != EACH * (n + n_first):
        faults.append(f"{stats['total_subscriptions']:,} subscriptions instead of {EACH * (n + n_first):,}")
    return {
        "target": target,
        "connect_s": connect_s,
        "server_before": before,
        "server_after": after,
        "figures": figures,
        "goals": goals,
        "load": load,
    }, faults


def _client(url: str, name: str, lists: list[list[str]]) -> LoadClient:
    key = read_secret(SECRET, "HS256")
    expires = int(time.time()) + 3600

    def frames(i: int) -> tuple[bytes, bytes]:
        token = sign({"sub": f"{name}-{i}", "exp": expires}, key, "HS256")
        return (
            json.dumps({"type": "auth", "token": token}).encode(),
            json.dumps(
                {
                    "type": "subscribe",
                    "subscription_type": "stock",
                    "targets": lists[i],
                    "channels": ["price"],
                }
            ).encode(),
        )

    return LoadClient(url, len(lists), subscribe=frames, n_answers=1)


def cycles(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """All connect, are flooded (some do not read) and go, time after time: whether their memory comes back."""
    n = options.connections
    n_slow = max(1, int(n * SLOW_SHARE))
    settings = even_prices(options.rate) | {
        "batch_interval_ms": options.batch_interval_ms,
        # What is kept on purpose for those who may come back is no leak: less of it, for a shorter time.
        "session_ttl": SESSION_TTL_S,
        "history_bytes": 1 << 20,
        "half_open_per_ip": 0,
    }
    faults: list[str] = []
    rows = []
    with Server(feed="sim", symbols=[SYMBOL], settings=settings) as server:
        target = {"url": server.url, "command": server.shown_command, "environment": server.environment}
        before = _settled(server)
        for cycle in range(options.cycles):
            client = LoadClient(
                server.url, n, subscribe=_one_symbol(), n_slow=n_slow, slow_receive_buffer=4096
            )
            try:
                client.connect(timeout=TIMEOUT_S)
                server.reset_peak()
                client.run(options.seconds)
                load = client.result()
                peak = server.peak()
            finally:
                client.close(timeout=0)
            faults += [f"cycle {cycle + 1}: {fault}" for fault in verdict(Run(0.0, load, None, []))]
            rows.append({"peak": peak, "messages": load["messages"], "after": _settled(server)})
    figures: dict[str, float | None] = {
        "after the last / after the first": rows[-1]["after"] / rows[0]["after"],
        "after the last / before": rows[-1]["after"] / before,
    }
    goals = judge(CYCLE_GOALS.get(options.cycles, ()), figures)
    table = Table(
        f"cycles: {n:,} connections come, get {options.rate:,g} messages/s for {options.seconds:g} s, and go"
    )
    table.add("not reading", f"{n_slow:,} of them")
    table.add("server memory", f"{mib(before)} before")
    for i, row in enumerate(rows):
        table.add(
            f"  cycle {i + 1}",
            f"{mib(row['peak'])} peak, {mib(row['after'])} after; {row['messages']:,} messages",
        )
    for name, value in figures.items():
        assert value is not None
        table.add(name, f"{value:.3f}")
    tell(table, goals)
    table.print()
    return {"target": target, "before": before, "cycles": rows, "figures": figures, "goals": goals}, faults


def _one_symbol() -> bytes:
    return json.dumps(
        {"type": "subscribe", "subscription_type": "stock", "targets": [SYMBOL], "channels": ["price"]}
    ).encode()


def _settled(server: Server) -> int:
    """Resident bytes once nobody is connected, no session of theirs is kept and the size stays."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        stats = server.stats()
        if not stats["active_connections"] and stats["saved_sessions"] <= VISITORS:
            break
        if time.monotonic() > deadline:
            raise LoadError(
                f"{stats['active_connections']} connections and {stats['saved_sessions']} sessions are left"
                f" {SETTLE_S:g} s after all have gone"
            )
        # Sessions that are over are forgotten when another client goes.
        visitor = LoadClient(server.url, 1, subscribe=_one_symbol())
        visitor.connect(timeout=TIMEOUT_S)
        visitor.close()
        time.sleep(0.25)
    size = server.memory()["rss"]
    while True:
        time.sleep(LOOK_S)
        last, size = size, server.memory()["rss"]
        if abs(size - last) < SAME_BYTES or time.monotonic() > deadline:
            return size
