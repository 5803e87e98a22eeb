"""Kill and restore: clients die in every way there is and come back, while updates flow."""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.program import run_loop
from benchmarks.scenarios.peer import Peer, connect
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.publishing import MAX_FAULTS, Publisher, Reader
from fastws.bench import LoadError
from fastws.bench.process import Process
from fastws.bench.report import Table, mib

# How a connection dies. `silence`: it stops reading, and is reset later. `half_open`: it stops reading and stays, and
# the client comes back on another one. `goodbye`: a close handshake.
DEATHS = ("reset", "reset", "silence", "half_open", "goodbye")
OUTAGES_S = (0.0, 0.0, 0.05, 0.2, 0.5, 1.0, 2.0, 4.0, 7.0, 9.5)
# How long a connection lives: 0 is an end in the middle of catching up.
LIVES_S = (0.0, 0.02, 0.2, 0.5, 1.0, 1.5)
ANSWER_S = 15.0
N_SYMBOLS = 60
SYMBOLS_EACH = 12
WANTED_SHARE = 0.99


@dataclass
class Cycle:
    """One death and one return."""

    death: str
    outage_s: float
    way: str
    has_cursor: bool
    recovered: bool = False
    answer: str = ""
    missed: int = 0
    return_s: float = 0.0


class Client:
    """A reader with a connection that is cut off and restored again and again."""

    def __init__(
        self, url: str, reader: Reader, seed: int, *, outages_s: Sequence[float] = OUTAGES_S
    ) -> None:
        self.url = url
        self.outages_s = outages_s
        self.reader = reader
        self.random = random.Random(seed)
        self.has_deflate = self.random.random() < 0.3
        self.peer: Peer

    async def begin(self) -> None:
        reader = self.reader
        self.peer = await connect(self.url, reader.take, deflate=self.has_deflate)
        greeting = await self._answer("connection")
        reader.session_id = greeting["connection_id"]
        self.peer.send(type="subscribe", subscription_type="stock", targets=list(reader.symbols))
        await self._answer("subscribed")

    async def _answer(self, *wanted: str) -> dict[str, Any]:
        async with asyncio.timeout(ANSWER_S):
            while True:
                answer = await self.reader.answers.get()
                if answer["type"] in wanted or answer["type"] == "error":
                    return answer

    async def cycle(self, death: str, outage_s: float, way: str, has_cursor: bool) -> Cycle:
        cycle = Cycle(death, outage_s, way, has_cursor)
        reader = self.reader
        old = self.peer
        if death == "silence":
            old.stop_reading()
            await asyncio.sleep(outage_s / 2)
            old.reset()
            await asyncio.sleep(outage_s / 2)
        elif death == "half_open":
            old.stop_reading()
            await asyncio.sleep(outage_s)
        elif death == "goodbye":
            await old.close()
            await asyncio.sleep(outage_s)
        else:
            old.reset()
            # Until then the loop has not closed it, and what the server sends goes to nobody.
            await old.closed
            if not has_cursor:
                reader.allow_holes(time.monotonic())
            await asyncio.sleep(outage_s)
        began = time.monotonic()
        answer = await self.come_back(way, has_cursor=has_cursor)
        cycle.return_s = time.monotonic() - began
        old.reset()
        cycle.answer = answer["type"]
        if answer["type"] == "reconnected":
            cycle.recovered = answer["recovered"]
            cycle.missed = answer["missed_messages_count"]
            if sorted(answer["restored_subscriptions"]["stock"]) != sorted(reader.symbols):
                reader.fault(f"restored were {answer['restored_subscriptions']}")
        else:
            cycle.answer = f"{answer['code']} {answer.get('details', {}).get('reason', '')}"
            # It stays usable as a new connection.
            reader.session_id = self.new_id
            self.peer.send(type="subscribe", subscription_type="stock", targets=list(reader.symbols))
            await self._answer("subscribed")
        return cycle

    async def come_back(self, way: str, *, has_cursor: bool) -> dict[str, Any]:
        """Connect anew and ask for the session; returns the answer to that."""
        reader = self.reader
        cursor = {"last_sequence": reader.cursor, "epoch": reader.epoch} if has_cursor else {}
        if way == "query":
            query = f"session_id={reader.session_id}" + "".join(f"&{name}={cursor[name]}" for name in cursor)
            self.peer = await connect(self.url, reader.take, query=query, deflate=self.has_deflate)
            greeting = await self._answer("connection")
            answer = await self._answer("reconnected")
        else:
            # The greeting of a connection that is still a new one says nothing about what the old one has seen.
            seen = reader.cursor
            self.peer = await connect(self.url, reader.take, deflate=self.has_deflate)
            greeting = await self._answer("connection")
            reader.cursor = seen
            self.peer.send(type="reconnect", session_id=reader.session_id, **cursor)
            answer = await self._answer("reconnected")
        self.new_id: str = greeting["connection_id"]
        return answer

    async def live(self, n_cycles: int, begin_after_s: float) -> list[Cycle]:
        await asyncio.sleep(begin_after_s)
        cycles = []
        for _ in range(n_cycles):
            death = self.random.choice(DEATHS)
            # The server knows what it gave to the kernel, and a client that is cut off has not always got that: without
            # a cursor nothing is missing after a goodbye only.
            has_cursor = death in ("silence", "half_open") or self.random.random() < 0.75
            way = self.random.choice(("query", "message"))
            cycles.append(await self.cycle(death, self.random.choice(self.outages_s), way, has_cursor))
            await asyncio.sleep(self.random.choice(LIVES_S))
        return cycles


async def _run(options: argparse.Namespace, server: Server) -> dict[str, Any]:
    symbols = symbol_names()
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: errors.append(f"{context['message']}: {context.get('exception')!r}")
    )
    publisher = Publisher(server, symbols, options.rate)
    publishing = asyncio.create_task(publisher.run())
    rng = random.Random(options.seed)
    clients = [
        Client(
            server.url,
            Reader(f"client {i}", rng.sample(symbols, SYMBOLS_EACH), publisher.record),
            rng.getrandbits(32),
            outages_s=[outage for outage in OUTAGES_S if outage <= options.longest_outage],
        )
        for i in range(options.connections)
    ]
    n_each = [
        options.cycles // len(clients) + (i < options.cycles % len(clients)) for i in range(len(clients))
    ]
    began = time.monotonic()
    try:
        await asyncio.gather(*(client.begin() for client in clients))
        lives = [client.live(n, rng.random()) for client, n in zip(clients, n_each, strict=True)]
        cycles = [cycle for cycles in await asyncio.gather(*lives) for cycle in cycles]
        elapsed = time.monotonic() - began
        await settle(publisher, publishing, clients)
    finally:
        publishing.cancel()
    missing = {client.reader.name: n for client in clients if (n := client.reader.missing())}
    for client in clients:
        client.peer.reset()
    await asyncio.sleep(0)
    return {
        "seconds": elapsed,
        "published": len(publisher.record.at),
        "published_per_second": len(publisher.record.at) / elapsed,
        "received": sum(client.reader.n_updates for client in clients),
        "in_flight_at_a_cut_without_cursor": sum(client.reader.n_in_flight for client in clients),
        "missing": missing,
        "errors": errors[:MAX_FAULTS],
        "reader_faults": [fault for client in clients for fault in client.reader.faults],
        "cycles": [asdict(cycle) for cycle in cycles],
    }


async def settle(publisher: Publisher, publishing: asyncio.Task[None], clients: Sequence[Client]) -> None:
    """End what is published, and wait until everything of it has come, or nothing more does."""
    publisher.stop()
    await publishing
    deadline = time.monotonic() + ANSWER_S
    while any(client.reader.missing() for client in clients) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)


def symbol_names(n: int = N_SYMBOLS) -> list[str]:
    return [f"K{i:05d}" for i in range(n)]


def restore(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Clients are cut off in every way and come back, 200 times in all."""
    settings: Mapping[str, object] = {
        "rate_limit": 1000,
        "batch_interval_ms": options.batch_interval_ms,
    }
    with Server(feed="none", symbols=symbol_names(), settings=settings) as server:
        before = Process(server.pid).memory()["rss"]
        result = run_loop(_run(options, server))
        result["server_rss"] = {"before": before, "after": server.memory()["rss"]}
        described = {"url": server.url, "command": server.shown_command}
    return {"target": described, "run": result}, _verdict(result, options)


def _verdict(result: dict[str, Any], options: argparse.Namespace) -> list[str]:
    cycles = result["cycles"]
    if not cycles:
        raise LoadError("no cycle was made")
    n_recovered = sum(cycle["recovered"] for cycle in cycles)
    times = sorted(cycle["return_s"] for cycle in cycles if cycle["death"] != "half_open")
    table = Table(
        f"restore: {len(cycles)} outages of {options.connections} clients at {options.rate:,g} updates/s"
    )
    table.add("published", f"{result['published']:,}, {result['published_per_second']:,.0f}/s")
    table.add("received", f"{result['received']:,} updates by all")
    table.add("recovered", f"{n_recovered} of {len(cycles)} ({n_recovered / len(cycles):.1%})")
    for name in ("death", "way", "has_cursor"):
        counts = Counter(str(cycle[name]) for cycle in cycles)
        table.add(f"  by {name}", ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())))
    outages = sorted(cycle["outage_s"] for cycle in cycles)
    table.add("outages", f"median {outages[len(outages) // 2]:g} s, longest {outages[-1]:g} s")
    table.add("missed at once", f"at most {max(cycle['missed'] for cycle in cycles):,} updates")
    if times:
        table.add(
            "back within", f"median {1000 * times[len(times) // 2]:.0f} ms, at most {1000 * times[-1]:.0f} ms"
        )
    table.add("on their way at a cut without cursor", f"{result['in_flight_at_a_cut_without_cursor']:,}")
    rss = result["server_rss"]
    table.add("server memory", f"{mib(rss['before'])} before, {mib(rss['after'])} after")
    table.print()
    faults = [*result["reader_faults"][:MAX_FAULTS], *result["errors"]]
    faults += [f"{name} has not got {n} updates" for name, n in result["missing"].items()]
    if n_recovered < WANTED_SHARE * len(cycles):
        answers = Counter(cycle["answer"] for cycle in cycles if not cycle["recovered"])
        faults.append(f"{len(cycles) - n_recovered} of {len(cycles)} were not recovered: {dict(answers)}")
    return faults
