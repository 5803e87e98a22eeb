"""Session storm: every client is cut off in the same moment and comes back with its session."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from typing import Any

from benchmarks.program import run_loop
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.publishing import MAX_FAULTS, Publisher, Reader
from benchmarks.scenarios.restore import Client, settle, symbol_names
from fastws.bench import LoadClient, LoadResult
from fastws.bench.report import Table, durations, mib

N_SYMBOLS = 400
SYMBOLS_EACH = 2
PING_INTERVAL_MS = 5.0
CALM_S = 1.0
AFTER_S = 2.0


class Bystander:
    """A connection that stays and pings all the time, on a thread that runs in C."""

    def __init__(self, url: str) -> None:
        self._client = LoadClient(url, 1, wait_for=None, n_ping=1, ping_interval_ms=PING_INTERVAL_MS)

    async def run(self, seconds: float) -> LoadResult:
        """Ping for so long; returns what was measured in that time."""
        await asyncio.get_running_loop().run_in_executor(None, self._client.run, seconds)
        result = self._client.result()
        self._client.reset()
        return result

    async def connect(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._client.connect)

    def close(self) -> None:
        self._client.close(timeout=0)


async def _run(options: argparse.Namespace, server: Server) -> dict[str, Any]:
    symbols = symbol_names(N_SYMBOLS)
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: errors.append(f"{context['message']}: {context.get('exception')!r}")
    )
    publisher = Publisher(server, symbols, options.rate)
    rng = random.Random(1)
    clients = [
        Client(
            server.url,
            Reader(f"client {i}", rng.sample(symbols, SYMBOLS_EACH), publisher.record),
            rng.getrandbits(32),
        )
        for i in range(options.connections)
    ]
    bystander = Bystander(server.url)
    await bystander.connect()
    for first in range(0, len(clients), 100):
        await asyncio.gather(*(client.begin() for client in clients[first : first + 100]))
    publishing = asyncio.create_task(publisher.run())
    try:
        calm = await bystander.run(CALM_S)
        before = server.sample()
        server.reset_peak()
        watching = asyncio.create_task(bystander.run(options.outage + options.within + AFTER_S))
        cut_at = time.monotonic()
        for client in clients:
            client.peer.reset()
        answers = await asyncio.gather(*(_come_back(client, cut_at, options, rng) for client in clients))
        back_s = time.monotonic() - cut_at - options.outage
        during = await watching
        after = server.sample()
        await settle(publisher, publishing, clients)
    finally:
        publishing.cancel()
    result = {
        "answers": Counter(answer for answer, _, _ in answers),
        "missed": max(missed for _, missed, _ in answers),
        "return_s": sorted(seconds for _, _, seconds in answers),
        "all_back_s": back_s,
        "calm": calm["ping"],
        "during": during["ping"],
        "loop_lag_ms": server.stats()["loop_lag_ms"],
        "server_cpu_cores": (after.cpu_s - before.cpu_s) / (after.at - before.at),
        "server_rss": {"before": before.rss, "peak": server.peak(), "after": after.rss},
        "published": len(publisher.record.at),
        "received": sum(client.reader.n_updates for client in clients),
        "missing": sum(client.reader.missing() for client in clients),
        "reader_faults": [fault for client in clients for fault in client.reader.faults],
        "errors": errors[:MAX_FAULTS],
    }
    bystander.close()
    for client in clients:
        client.peer.reset()
    await asyncio.sleep(0)
    return result


async def _come_back(
    client: Client, cut_at: float, options: argparse.Namespace, rng: random.Random
) -> tuple[str, int, float]:
    await asyncio.sleep(cut_at + options.outage + rng.random() * options.within - time.monotonic())
    began = time.monotonic()
    answer = await client.come_back(rng.choice(("query", "message")), has_cursor=True)
    seconds = time.monotonic() - began
    if answer["type"] != "reconnected":
        return f"{answer['code']} {answer['details']}", 0, seconds
    return "recovered" if answer["recovered"] else "a snapshot", answer["missed_messages_count"], seconds


def storm(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """All clients are cut off at once and come back within a second."""
    settings = {
        "rate_limit": 1000,
        "batch_interval_ms": options.batch_interval_ms,
    }
    with Server(feed="none", symbols=symbol_names(N_SYMBOLS), settings=settings) as server:
        result = run_loop(_run(options, server))
        target = {"url": server.url, "command": server.shown_command}
    times = result["return_s"]
    n = options.connections
    table = Table(f"storm: {n:,} sessions restored within {options.within:g} s, {options.rate:,g} updates/s")
    table.add("answers", ", ".join(f"{count:,} {answer}" for answer, count in result["answers"].items()))
    table.add("missed at once", f"at most {result['missed']:,} updates")
    table.add("back within", f"median {1e3 * times[n // 2]:.0f} ms, p99 {1e3 * times[int(n * 0.99)]:.0f} ms")
    table.add("all back", f"{result['all_back_s']:.2f} s after the first might come")
    table.add("a bystander's ping before", durations(result["calm"]))
    table.add("a bystander's ping during", durations(result["during"]))
    rss = result["server_rss"]
    table.add("server", f"{result['server_cpu_cores']:.2f} cores")
    table.add(
        "server memory", f"{mib(rss['before'])} before, {mib(rss['peak'])} peak, {mib(rss['after'])} after"
    )
    table.print()
    result["return_s"] = {f"p{share}": times[min(n - 1, n * share // 100)] for share in (50, 90, 99, 100)}
    faults = [*result["reader_faults"][:MAX_FAULTS], *result["errors"]]
    if result["answers"]["recovered"] != n:
        faults.append(f"not all were recovered: {dict(result['answers'])}")
    if result["missing"]:
        faults.append(f"{result['missing']:,} updates have not come")
    return {"target": target, "run": result}, faults
