"""What a scenario prints."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fastws.bench.measure import Run
from fastws.bench.report import Table, bottlenecks, closes_text, durations, mib, oddities, verdict_of

if TYPE_CHECKING:
    from benchmarks.scenarios.process import Target


def describe(table: Table, run: Run, options: argparse.Namespace, *, indent: str = "") -> None:
    load = run.load
    add: Callable[[str, str], None] = lambda name, text: table.add(indent + name, text)  # noqa: E731
    wanted = options.rate * load["connections"]
    add("connected in", f"{run.connect_s:.2f} s")
    share = (
        ""
        if options.url or options.mode == "latest"
        else f", {load['messages_per_second'] / wanted:.1%} of the rate"
    )
    add("delivered", f"{load['messages_per_second']:,.0f} messages/s{share}")
    fewest, most = load["messages_per_connection"]
    add("to one connection", f"{fewest:,} to {most:,} messages in {load['seconds']:.1f} s")
    size = load["messages"] / load["frames"] if load["frames"] else 0.0
    add(
        "frames",
        f"{load['frames'] / load['seconds']:,.0f}/s of {size:.1f} messages, {load['bytes_per_second'] / 1e6:,.0f} MB/s",
    )
    add("latency", durations(load["latency"]))
    if load["ping"]:
        ping = load["ping"]
        add(
            "ping",
            f"{durations(ping)}  ({ping['sent']} sent, {ping['skipped']} skipped, {ping['open']} open)",
        )
    add("lost", f"{load['lost']:,} ({load['declared_lost']:,} declared)")
    if load["closes"]:
        add("closed by the server", closes_text(load["closes"]))
    if run.server:
        add(
            "server",
            f"{run.server['cpu_cores']:.2f} cores, {mib(run.server['rss_last'])},"
            f" {mib(run.server['rss_most'])} at most, waited {run.server['waited_seconds']:.2f} s for a processor",
        )
    own = load["client"]
    add(
        "load client",
        f"{own['cpu_share']:.2f} cores, waited {own['run_delay_seconds']:.2f} s for a processor",
    )
    if run.server and run.server["other_processes_cores"] > 0.05:
        add("other processes", f"{run.server['other_processes_cores']:.2f} cores")
    for note in (*bottlenecks(load), *oddities(load)):
        add("note", note)


def verdict(run: Run) -> list[str]:
    """What must not have happened and did."""
    return verdict_of(run.load)


def described(aim: Target) -> dict[str, Any]:
    return {"url": aim.url, "command": aim.command, "environment": aim.environment}


def quantiles(buckets: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of a histogram as (upper edge in ms, number), what share is at most how late: enough points to draw it, the tail
    down to one of a hundred thousand."""
    total = sum(n for _, n in buckets)
    shares = [*(i / 50 for i in range(1, 50)), 0.99, 0.995, 0.999, 0.9999, 0.99999, 1.0]
    found, seen = [], 0.0
    rows = iter(buckets)
    edge = 0.0
    for share in shares if total else ():
        # What is left of summed fractions may keep the last bucket out of reach.
        while seen < share * total - 1e-3:
            edge, n = next(rows)
            seen += n
        found.append((share, edge))
    return found
