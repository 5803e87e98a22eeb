"""Publications of a C extension: how many go into the ring in a second, and how many reach subscribers."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import fastws
from benchmarks.program import run_loop
from benchmarks.scenarios.goals import Goal, judge, tell
from benchmarks.scenarios.inlet_feed import VARIABLE, compiled, imported
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.recording import codes
from benchmarks.scenarios.report import describe, verdict
from fastws.bench import LoadClient, LoadError
from fastws.bench.measure import Run, observe
from fastws.bench.report import Table

N_THREADS = 8
RING_BYTES = 1 << 22
# Of 160 bytes each: what goes into the ring while nobody takes anything out.
N_AT_ONCE = 24_000
WARM_UP_S = 1.0
STOP_S = 30.0

RING_GOALS = (
    Goal("one thread", 5.0, "million/s", is_least=True),
    Goal("copies per publication", 3.0, ""),
)
SUBSCRIBER_GOALS = {
    # connections, publications/s
    (20, 50_000.0): (
        Goal("share of the rate", 0.99, "", is_least=True),
        Goal("published flat out", 0.5, "million/s", is_least=True),
    ),
}


def inlet(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Prices that a C extension publishes from threads of its own."""
    with tempfile.TemporaryDirectory(prefix="fastws-load-") as directory:
        extension = compiled(Path(directory))
        ring = run_loop(_into_the_ring(imported(extension), options.rounds))
        paced, paced_counts = _to_subscribers(options, extension, options.rate, "all")
        flat_out, flat_out_counts = _to_subscribers(options, extension, 0.0, "latest")
    wanted = options.rate * options.connections
    figures = {
        "one thread": ring["one_thread_per_second"] / 1e6,
        "copies per publication": ring["floor_per_second"] / ring["one_thread_per_second"],
        "published flat out": flat_out_counts["published_per_second"] / 1e6,
        "share of the rate": paced.load["messages_per_second"] / wanted,
    }
    at_rate = SUBSCRIBER_GOALS.get((options.connections, options.rate), ())
    goals = judge((*RING_GOALS, *at_rate), figures)
    table = Table("inlet: prices published by a C extension")
    for name, text in (
        ("one_thread", "one thread"),
        ("threads", f"{N_THREADS} threads"),
        ("floor", "copies"),
    ):
        what = "made and copied, no ring" if name == "floor" else "published into the ring"
        table.add(text, f"{ring[f'{name}_per_second'] / 1e6:.2f} million/s {what}")
    table.add("subscribers", f"{options.connections:,}, each of all {options.symbols:,} symbols")
    table.add(f"at {options.rate:,g}/s", "every price to everybody")
    describe(table, paced, argparse.Namespace(rate=options.rate, url=None, mode="all"), indent="  ")
    table.add(
        "flat out", f"{flat_out_counts['published_per_second']:,.0f} prices/s published, the newest delivered"
    )
    describe(table, flat_out, argparse.Namespace(rate=1.0, url=None, mode="latest"), indent="  ")
    tell(table, goals)
    table.print()
    faults = [*ring.pop("faults"), *verdict(paced), *verdict(flat_out)]
    for name, counts in (("paced", paced_counts), ("flat out", flat_out_counts)):
        if counts["taken"] != counts["published"]:
            faults.append(f"{name}: {counts['taken']:,} were taken and {counts['published']:,} published")
    if paced_counts["full"]:
        faults.append(f"the ring was full {paced_counts['full']:,} times at {options.rate:,g}/s")
    return {
        "ring": ring,
        "paced": {"run": asdict(paced), **paced_counts},
        "flat_out": {"run": asdict(flat_out), **flat_out_counts},
        "goals": goals,
    }, faults


async def _into_the_ring(producer: ModuleType, n_rounds: int) -> dict[str, Any]:
    """Medians of rounds in which nobody empties the ring meanwhile; between them it is emptied."""
    speeds: dict[str, list[float]] = {"floor": [], "one_thread": [], "threads": []}
    faults = []
    async with fastws.Server(port=0, inlet_bytes=RING_BYTES) as server:
        inlet = server.hub.__fastws_inlet__
        for i in range(n_rounds + 1):
            took, _ = producer.copy(RING_BYTES, N_AT_ONCE)
            found = {"floor": N_AT_ONCE / took}
            for name, n_threads in (("one_thread", 1), ("threads", N_THREADS)):
                taken, took = producer.fill(server, n_threads, N_AT_ONCE // n_threads)
                found[name] = taken / took
                if taken != N_AT_ONCE:
                    faults.append(
                        f"{N_AT_ONCE - taken} of {N_AT_ONCE} did not go into an empty ring ({name})"
                    )
                async with asyncio.timeout(60):
                    while inlet.waiting_bytes:
                        await asyncio.sleep(0.001)
            # The first round touches the pages of the ring.
            for name, speed in found.items() if i else ():
                speeds[name].append(1e9 * speed)
        counts = inlet.counts()
    if counts["published"] != (n_rounds + 1) * 2 * N_AT_ONCE:
        faults.append(f"of what went into the ring {counts['published']:,} were published")
    medians = {f"{name}_per_second": statistics.median(found) for name, found in speeds.items()}
    return {**medians, "rounds": n_rounds, "threads": N_THREADS, "at_once": N_AT_ONCE, "faults": faults}


def _to_subscribers(
    options: argparse.Namespace, extension: Path, rate: float, mode: str
) -> tuple[Run, dict[str, Any]]:
    """A server that loads the extension, and its clients; what they get, and what became of what was published."""
    symbols = codes(options.symbols)
    settings = {
        "load": "benchmarks.scenarios.inlet_feed:setup",
        "batch_interval_ms": options.batch_interval_ms,
        "inlet_bytes": RING_BYTES,
        "subscription_limit": len(symbols),
    }
    request = _request(symbols, mode)
    os.environ[VARIABLE] = json.dumps({"extension": str(extension), "codes": symbols, "rate": rate})
    try:
        server = Server(feed="none", symbols=symbols, settings=settings)
    finally:
        del os.environ[VARIABLE]
    with server:
        client = LoadClient(
            server.url, options.connections, subscribe=request, check="full", conflated=mode == "latest"
        )
        try:
            began = time.monotonic()
            client.connect(timeout=60.0)
            connect_s = time.monotonic() - began
            client.run(WARM_UP_S)
            client.reset()
            before, began = server.stats()["sequence"], time.monotonic()
            run = observe(client, server, seconds=options.seconds, connect_s=connect_s)
            n_published = server.stats()["sequence"] - before
            took = time.monotonic() - began
        finally:
            client.close(timeout=0)
        server.signal()
        server.wait(STOP_S)
    try:
        counts = json.loads(extension.with_name("counts.json").read_text())
    except FileNotFoundError:
        raise LoadError("the server did not wait for what was loaded when it stopped") from None
    return run, {**counts, "published_per_second": n_published / took}


def _request(symbols: Sequence[str], mode: str) -> bytes:
    request = {
        "type": "subscribe",
        "subscription_type": "stock",
        "targets": list(symbols),
        "channels": ["price"],
    }
    return json.dumps(request | ({"mode": mode} if mode == "latest" else {})).encode()
