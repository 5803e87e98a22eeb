"""From KIS to the clients: a fake KIS server, `fastws serve --feed kis`, and clients, each a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any
from unittest.mock import patch
from urllib.request import urlopen

from benchmarks.program import ended_with_us
from benchmarks.scenarios.goals import Goal, judge, tell
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.recording import read_until
from benchmarks.scenarios.report import describe, quantiles, verdict
from fastws.bench import LoadClient, LoadError
from fastws.bench.measure import observe
from fastws.bench.report import Table
from fastws.market.instruments import Instruments

# What one app key has room for, with trades and books.
N_SYMBOLS = 20
WARM_UP_S = 2.0
START_TIMEOUT_S = 20.0
_EXPORT = re.compile(r"export (KIS_\w+)=(\S*)")
_BUCKET = re.compile(r'fastws_stage_seconds_bucket\{le="([^"]+)",stage="feed"\} (\S+)')

GOALS = {
    # connections, records/s
    (1_000, 2_000.0): (Goal("p99", 60, "ms"),),
}


@contextlib.contextmanager
def fake_kis(rate: float) -> Iterator[dict[str, str]]:
    """A fake KIS server; yields the variables that lead a client to it."""
    command = [sys.executable, "-m", "fastws.kis.testing", "--port", "0", "--rate", str(rate)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=ended_with_us(signal.SIGKILL),
    )
    try:
        assert process.stdout is not None
        variables: dict[str, str] = {}
        while "KIS_PAPER" not in variables:
            line = process.stdout.readline()
            if not line:
                raise LoadError("the fake KIS server did not start")
            variables |= dict(_EXPORT.findall(line))
        yield variables
    finally:
        process.terminate()
        process.wait(START_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()


def kis(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Clients of a server whose prices and books come from KIS: from the socket to KIS to the clients."""
    korean = [instrument.code for instrument in Instruments.load_default() if instrument.currency == "KRW"]
    symbols = korean[:N_SYMBOLS]
    settings = {"batch_interval_ms": options.batch_interval_ms, "kis_poll_rate": 0}
    with (
        fake_kis(options.rate) as variables,
        patch.dict(os.environ, variables),
        Server(feed="kis", symbols=symbols, settings=settings) as server,
    ):
        client = LoadClient(
            server.url,
            options.connections,
            subscribe=lambda i: _subscription([symbols[(i + n) % N_SYMBOLS] for n in range(options.each)]),
            check="full",
        )
        try:
            began = time.monotonic()
            client.connect(timeout=60.0)
            connect_s = time.monotonic() - began
            read_until(
                client,
                lambda: _metrics(server).get('fastws_kis_registrations{state="active"}', 0) >= 2 * N_SYMBOLS,
                "the symbols do not get registered",
            )
            client.run(WARM_UP_S)
            before, frames = _feed_stage(server, client), _metrics(server)
            client.run(0.1)  # what came while nobody read is not to be measured
            client.reset()
            run = observe(client, server, seconds=options.seconds, connect_s=connect_s)
            rows = client.latencies()
            after, now = _feed_stage(server, client), _metrics(server)
        finally:
            client.close(timeout=0)
    load = run.load
    waited_ms = 1000 * _p99({le: n - before[le] for le, n in after.items()})
    assert run.server is not None
    latency = load["latency"]["p99_ms"]
    figures = {"p99": None if latency is None else latency + waited_ms, "server": run.server["cpu_cores"]}
    goals = judge(GOALS.get((options.connections, options.rate), ()), figures)
    n_updates = sum(now[key] - frames[key] for key in now if key.startswith("fastws_updates_published_total"))
    table = Table(
        f"KIS: {options.connections:,} connections with {options.each} of {N_SYMBOLS} symbols each,"
        f" {options.rate:,g} records/s"
    )
    describe(table, run, argparse.Namespace(rate=options.rate, url="KIS", mode="all"))
    table.add("published", f"{n_updates / load['seconds']:,.0f} updates/s")
    table.add("from KIS to publication", f"p99 at most {waited_ms:.2f} ms")
    tell(table, goals)
    table.print()
    return {
        "target": {"url": server.url, "command": server.shown_command, "environment": server.environment},
        "run": asdict(run),
        "latency_quantiles": quantiles(rows),
        "updates_per_second": n_updates / load["seconds"],
        "receipt_to_publication_p99_ms": waited_ms,
        "goals": goals,
    }, verdict(run)


def _subscription(symbols: list[str]) -> bytes:
    request = {"type": "subscribe", "subscription_type": "stock", "targets": symbols}
    return json.dumps(request, separators=(",", ":")).encode()


def _read(server: Server) -> str:
    with urlopen(f"{server.http_url}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text


def _metrics(server: Server) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in _read(server).splitlines() if line.startswith("fastws_"))
    return {name: float(value) for name, _, value in lines}


def _feed_stage(server: Server, client: LoadClient) -> dict[float, float]:
    """How many updates took at most how long (s) from their receipt to their publication."""
    # The server gives the same answer for a second, in which the client has to go on reading.
    client.run(1.1)
    return {float(le): float(n) for le, n in _BUCKET.findall(_read(server))}


def _p99(counts: Mapping[float, float]) -> float:
    """The upper edge of the bucket that 99 of 100 are in."""
    total = max(counts.values(), default=0.0)
    return next((le for le in sorted(counts) if counts[le] >= 0.99 * total), 0.0)
