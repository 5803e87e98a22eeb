"""What a run prints and what it must not have done."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastws import __version__
from fastws.bench import Group, LoadResult

if TYPE_CHECKING:
    from benchmarks.scenarios.process import Target
    from benchmarks.scenarios.steady import Run

BUSY_LIMIT = 0.9
# Waiting for a processor for more than this share of the time, the client measures the machine and not the server.
DELAY_LIMIT = 0.1
FAULTS = (
    "undeclared_lost",
    "duplicates",
    "reordered",
    "sequence_backwards",
    "errors",
    "unparsed",
    "protocol_violations",
)


class Table:
    """Rows of a name and a text, aligned when printed."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[tuple[str, str]] = []

    def add(self, name: str, text: str) -> None:
        self.rows.append((name, text))

    def print(self) -> None:
        width = max(len(name) for name, _ in self.rows) + 2
        print(self.title)
        for name, text in self.rows:
            print(f"  {name:<{width}}{text}".rstrip())


def mib(size: float) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def durations(row: Mapping[str, Any]) -> str:
    if not row["count"]:
        return "nothing measured"
    names = (("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"), ("p99.9", "p999_ms"), ("max", "max_ms"))
    return "  ".join(f"{name} {row[key]:.1f}" for name, key in names) + "  ms"


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
        add("ping", f"{durations(ping)}  ({ping['sent']} sent, {ping['skipped']} skipped)")
    add("lost", f"{load['lost']:,} ({load['declared_lost']:,} declared)")
    if load["closes"]:
        add("closed by the server", ", ".join(f"{n} x {code}" for code, n in sorted(load["closes"].items())))
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
    for note in bottlenecks(load):
        add("note", note)


def bottlenecks(load: LoadResult) -> list[str]:
    own = load["client"]
    notes = []
    if max(own["cpu_share"], own["busy_share"]) > BUSY_LIMIT:
        notes.append("the generator was the bottleneck")
    if own["run_delay_seconds"] > DELAY_LIMIT * load["seconds"]:
        notes.append("the generator had to wait for a processor: latencies are in part its own")
    return notes


def verdict(run: Run) -> list[str]:
    """What must not have happened and did."""
    return verdict_of(run.load)


def verdict_of(group: Group) -> list[str]:
    """The faults of a group of connections none of which was to be closed."""
    counts: Mapping[str, Any] = group
    faults = [f"{name} {counts[name]:,}" for name in FAULTS if counts[name]]
    for name in ("first_error", "first_unparsed"):
        if counts[name]:
            faults.append(f"{name}: {counts[name]}")
    if group["closes"]:
        faults.append(f"closed by the server: {group['closes']}")
    return faults


def described(aim: Target) -> dict[str, Any]:
    return {"url": aim.url, "command": aim.command, "environment": aim.environment}


def machine() -> dict[str, Any]:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    facts = {
        name: Path(f"/proc/sys/net/{name}").read_text().split()
        for name in ("core/somaxconn", "ipv4/tcp_rmem", "ipv4/tcp_wmem", "ipv4/tcp_congestion_control")
    }
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {"fastws": __version__, "uvloop": version("uvloop")},
        "load_average": os.getloadavg(),
        "net": facts,
    }
