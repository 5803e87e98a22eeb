"""Hours of a busy day: clients come and go, a few read nothing, the feed comes in bursts, and nothing may grow."""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.program import run_loop
from benchmarks.scenarios.goals import Goal, judge, tell
from benchmarks.scenarios.peer import Peer, PeerError, connect
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.publishing import MAX_FAULTS, Publisher, Reader
from benchmarks.scenarios.restore import Client, settle, symbol_names
from fastws.bench import LoadError
from fastws.bench.report import Table, mib

N_SYMBOLS = 60
N_STAYING = 20
SYMBOLS_EACH = 6
LONGEST_LIFE_S = 8.0
SLOW_SHARE = 0.01
SLOW_LIFE_S = 30.0
STALL_S = 10.0
BURST = 5000
BURST_EVERY_S = 20.0
SAMPLE_S = 5.0
LEAVE_S = 30.0
WARM_UP_SHARE = 0.2
# Below, a slope is what one sample more or less makes of it.
LEAST_JUDGED_MINUTES = 30.0

GOALS = (
    Goal("growth of memory", 1.0, "%/h"),
    Goal("growth of descriptors", 2.0, "/h"),
)


@dataclass
class Sample:
    """The server at one moment; latencies in ms, from the publisher to a client, are of the time since the last."""

    at_s: float
    rss: int
    descriptors: int
    connections: int
    published: int
    p50_ms: float
    p99_ms: float
    lost: int
    waiting: int
    is_balanced: bool


class _Timed(Reader):
    """A reader that times what comes."""

    def __init__(
        self, name: str, symbols: Sequence[str], publisher: Publisher, latencies: list[float]
    ) -> None:
        super().__init__(name, symbols, publisher.record)
        self._latencies = latencies

    def _take_update(self, update: dict[str, Any]) -> None:
        super()._take_update(update)
        self._latencies.append(1000 * (time.monotonic() - self.record.at[update["n"]]))


class _Day:
    def __init__(self, server: Server, options: argparse.Namespace) -> None:
        self.server = server
        self.symbols = symbol_names(N_SYMBOLS)
        self.publisher = Publisher(server, self.symbols, options.rate)
        self.samples: list[Sample] = []
        self.ends: dict[str, int] = {}
        self.faults: list[str] = []
        self._rate = options.churn
        self._seconds = 60.0 * options.minutes
        self._random = random.Random(options.seed)
        self._latencies: list[float] = []
        self._began = time.monotonic()

    async def live(self) -> dict[str, Any]:
        first = await asyncio.to_thread(self._look)
        staying = [
            Client(
                self.server.url,
                _Timed(
                    f"client {i}",
                    self._random.sample(self.symbols, SYMBOLS_EACH),
                    self.publisher,
                    self._latencies,
                ),
                self._random.getrandbits(32),
            )
            for i in range(N_STAYING)
        ]
        await asyncio.gather(*(client.begin() for client in staying))
        publishing = asyncio.create_task(self.publisher.run())
        others = [asyncio.create_task(work()) for work in (self._burst, self._sample)]
        try:
            await self._churn()
            for task in others:
                task.cancel()
            await settle(self.publisher, publishing, staying)
        finally:
            for task in (publishing, *others):
                task.cancel()
        for task in others:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        missing = sum(client.reader.missing() for client in staying)
        for client in staying:
            self.faults += client.reader.faults
            await client.peer.close()
        if missing:
            self.faults.append(f"{missing} updates have not come")
        last = await self._all_gone(first["descriptors"])
        return {
            "began": first,
            "ended": last,
            "samples": [asdict(sample) for sample in self.samples],
            "ends": self.ends,
            "published": len(self.publisher.record.at),
            "reader_faults": self.faults[:MAX_FAULTS],
        }

    async def _all_gone(self, n_descriptors: int) -> dict[str, Any]:
        """The last look: when there are as many descriptors as before, or will not be."""
        deadline = time.monotonic() + LEAVE_S
        while True:
            found = await asyncio.to_thread(self._look)
            if found["descriptors"] <= n_descriptors or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.1)

    def _look(self) -> dict[str, Any]:
        return {
            "ledger": self.server.ledger(is_whole=False),
            "connections": self.server.stats()["active_connections"],
            "descriptors": len(os.listdir(f"/proc/{self.server.pid}/fd")),
            "rss": self.server.memory()["rss"],
        }

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            found = await asyncio.to_thread(self._look)
            latencies = sorted(self._latencies)
            self._latencies.clear()
            if not latencies:
                self.faults.append("nothing came")
                continue
            if not found["ledger"]["balanced"]:
                self.faults.append(f"the ledger does not add up: {found['ledger']['faults']}")
            self.samples.append(
                Sample(
                    time.monotonic() - self._began,
                    found["rss"],
                    found["descriptors"],
                    found["connections"],
                    len(self.publisher.record.at),
                    latencies[len(latencies) // 2],
                    latencies[int(len(latencies) * 0.99)],
                    found["ledger"]["connections"]["lost"],
                    found["ledger"]["connections"]["waiting"],
                    found["ledger"]["balanced"],
                )
            )

    async def _burst(self) -> None:
        while True:
            await asyncio.sleep(BURST_EVERY_S)
            self.publisher.burst(BURST)

    async def _churn(self) -> None:
        """Clients come at the rate asked for, whatever becomes of those before them."""
        began = time.monotonic()
        n = 0
        async with asyncio.TaskGroup() as group:
            while (passed := time.monotonic() - began) < self._seconds:
                while n < passed * self._rate:
                    n += 1
                    group.create_task(self._visit())
                await asyncio.sleep(0.01)

    async def _visit(self) -> None:
        is_slow = self._random.random() < SLOW_SHARE
        symbols = self._random.sample(self.symbols, SYMBOLS_EACH)
        mode = self._random.choice(("all", "latest"))
        try:
            async with asyncio.timeout(30):
                peer = await connect(
                    self.server.url, lambda message: None, deflate=self._random.random() < 0.2
                )
        except (OSError, PeerError, TimeoutError) as error:
            self.faults.append(f"a client was not let in: {error!r}")
            return
        peer.send(type="subscribe", subscription_type="stock", targets=symbols, mode=mode)
        if is_slow:
            await self._read_nothing(peer)
        else:
            await asyncio.sleep(self._random.random() * LONGEST_LIFE_S)
            if self._random.random() < 0.5:
                peer.reset()
                self._end("reset")
            else:
                self._end(f"goodbye, answered with {await peer.close()}")

    async def _read_nothing(self, peer: Peer) -> None:
        await asyncio.sleep(1.0)
        peer.stop_reading()
        await asyncio.sleep(SLOW_LIFE_S)
        peer.reset()
        self._end("slow")

    def _end(self, how: str) -> None:
        self.ends[how] = self.ends.get(how, 0) + 1


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """The least squares' slope of values over seconds, per hour; 0 where there are too few."""
    if len(samples) < 3:
        return 0.0
    times, values = zip(*samples, strict=True)
    return 3600 * statistics.linear_regression(times, values).slope


def slopes(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How memory (%), descriptors beside those of connections, and latencies (ms) grow in an hour, once it is warm."""
    warm = samples[int(len(samples) * WARM_UP_SHARE) :]
    if not warm:
        raise LoadError("there was no time for a sample: give it more minutes")
    mean = statistics.fmean(each["rss"] for each in warm)
    return {
        "rss_percent": 100 * slope([(each["at_s"], each["rss"]) for each in warm]) / mean,
        "descriptors": slope([(each["at_s"], each["descriptors"] - each["connections"]) for each in warm]),
        "p50_ms": slope([(each["at_s"], each["p50_ms"]) for each in warm]),
        "p99_ms": slope([(each["at_s"], each["p99_ms"]) for each in warm]),
    }


def soak(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Clients come and go for an hour, some read nothing, the feed has bursts: memory and descriptors stay."""
    settings = {
        "rate_limit": 1000,
        "batch_interval_ms": options.batch_interval_ms,
        "stall_timeout": STALL_S,
    }
    with Server(feed="none", symbols=symbol_names(N_SYMBOLS), settings=settings) as server:
        result = run_loop(_Day(server, options).live())
        log = server.log()
    grown = slopes(result["samples"])
    figures = {
        "growth of memory": max(0.0, grown["rss_percent"]),
        "growth of descriptors": max(0.0, grown["descriptors"]),
    }
    is_long = options.minutes >= LEAST_JUDGED_MINUTES
    goals = judge(GOALS, figures) if is_long else []
    samples = result["samples"]
    sums = result["ended"]["ledger"]["connections"]
    table = Table(
        f"soak: {options.minutes:g} min, {options.churn:g} clients/s, {100 * SLOW_SHARE:g} % of them slow,"
        f" {options.rate:,g} updates/s, {BURST:,} at once every {BURST_EVERY_S:g} s"
    )
    table.add("clients", f"{sum(result['ends'].values()):,}: {result['ends']}")
    table.add(
        "updates", f"{result['published']:,}; {sums['delivered']:,} delivered, {sums['lost']:,} declared lost"
    )
    table.add(
        "memory",
        f"{mib(samples[0]['rss'])} … {mib(samples[-1]['rss'])}, {grown['rss_percent']:+.2f} %/h once warm",
    )
    table.add(
        "descriptors",
        f"{result['began']['descriptors']} before, {result['ended']['descriptors']} after,"
        f" {grown['descriptors']:+.2f}/h beside connections",
    )
    table.add(
        "latency p50, p99",
        f"median {statistics.median(s['p50_ms'] for s in samples):.1f},"
        f" {statistics.median(s['p99_ms'] for s in samples):.1f} ms;"
        f" {grown['p50_ms']:+.2f}, {grown['p99_ms']:+.2f} ms/h",
    )
    table.add("ledger", f"adds up in {sum(s['is_balanced'] for s in samples)} of {len(samples)} looks")
    tell(table, goals)
    table.print()
    faults = list(result["reader_faults"])
    faults += [
        f"{goal['figure']}: {goal['value']:.2f} {goal['unit']}, over {goal['bound']}"
        for goal in goals
        if not goal["is_met"]
    ]
    n_left = result["ended"]["descriptors"] - result["began"]["descriptors"]
    if n_left > 0:
        faults.append(f"{n_left} descriptors are left over")
    if result["ended"]["connections"]:
        faults.append(f"{result['ended']['connections']} connections have not ended")
    if "Traceback" in log:
        faults.append("the server has logged a failure")
    return {"minutes": options.minutes, "slopes_per_hour": grown, "goals": goals, "run": result}, faults
