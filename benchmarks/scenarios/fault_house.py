"""A server with clients behind a proxy that breaks things: what they see of a fault, and how soon it is over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from benchmarks.scenarios.faultproxy import FaultProxy
from benchmarks.scenarios.ledger import Ledger
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.publishing import Publisher, Record
from benchmarks.scenarios.soak_client import items_of
from fastws.bench import LoadError
from fastws.client import Backoff, Client

N_SYMBOLS = 12
"""Half of them in mode all, half in mode latest; every fifth update is a book, so no multiple of five."""
N_BEHIND = 4
N_BESIDE = 2
CALM_S = 1.0
RETURN_S = 60.0
LOOK_S = 0.005
PING_S = 4.0


class UnavailableError(Exception):
    """A fault that cannot be made here; says what it takes."""


class Watcher:
    """A client of `fastws.client` that comes back by itself, and what it has got held against what was published."""

    def __init__(self, name: str, url: str, record: Record, symbols: Sequence[str]) -> None:
        half = len(symbols) // 2
        self.ledger = Ledger(name, record, symbols[:half], symbols[half:])
        self.longest_pause_s = 0.0
        self._came_at = 0.0
        self._client = Client(
            url,
            backoff=Backoff(0.02, 0.5),
            connect_attempts=0,
            connect_timeout=20,
            request_timeout=60,
            ping_interval=PING_S,
            ping_timeout=PING_S,
        )

    async def live(self) -> None:
        async with self._client as client:
            await client.subscribe("stock", self.ledger.all)
            await client.subscribe("stock", self.ledger.latest, mode="latest", max_rate=10)
            async for message in client:
                for item in items_of(message):
                    self._note(item)
                    self.ledger.take(item)

    def _note(self, item: list[Any]) -> None:
        if item[0] != "value" or item[-1]:
            return
        now = time.monotonic()
        if self._came_at:
            self.longest_pause_s = max(self.longest_pause_s, now - self._came_at)
        self._came_at = now

    def begin_anew(self) -> None:
        """Count from now on."""
        self.ledger.counts.clear()
        self.ledger.closes.clear()
        self.ledger.errors.clear()
        self.longest_pause_s = 0.0


class House:
    """A server with somebody who publishes, clients behind a proxy that breaks things, and others beside it."""

    def __init__(self, server: Server, symbols: Sequence[str], rate: float, n_connections: int) -> None:
        self.server = server
        self.n_connections = n_connections
        self.publisher = Publisher(server, symbols, rate)
        self.record = self.publisher.record
        self.symbols = symbols
        self.proxy: FaultProxy
        self.behind: list[Watcher] = []
        self.beside: list[Watcher] = []
        self.notes: dict[str, Any] = {}
        """What a fault has found out besides."""
        self.faults: list[str] = []

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.server.http_url.removeprefix("http://").rpartition(":")
        return host, int(port)

    @property
    def watchers(self) -> list[Watcher]:
        return [*self.behind, *self.beside]

    def check(self, is_well: bool, text: str) -> None:
        if not is_well:
            self.faults.append(text)

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = RETURN_S) -> float:
        """Wait until a condition holds; returns how long that took, in seconds."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() > began + seconds:
                raise LoadError(f"{what} did not come within {seconds:g} s\n{self.server.log()[-3000:]}")
            await asyncio.sleep(LOOK_S)
        return time.monotonic() - began

    def is_current(self, wanted: Mapping[tuple[str, str], int]) -> bool:
        """Everybody is connected, and has what was the last value of everything, or a newer one."""
        return all(
            not watcher.ledger.is_away
            and all(shown >= wanted[key] for key, (shown, _) in watcher.ledger.missing().items())
            for watcher in self.watchers
        )

    async def converge(self, what: str) -> float:
        wanted = {key: len(numbers) - 1 for key, numbers in self.record.numbers.items()}
        return await self.until(lambda: self.is_current(wanted), what)

    async def ledger(self) -> dict[str, Any]:
        """What the server says became of every update."""
        return await asyncio.to_thread(self.server.ledger)

    @contextlib.asynccontextmanager
    async def lived_in(self) -> AsyncIterator[None]:
        async with FaultProxy.run(self.place[1], self.place[0]) as proxy:
            self.proxy = proxy
            through = f"ws://127.0.0.1:{proxy.port}/v1/ws"
            self.behind = [
                Watcher(f"client {i} behind it", through, self.record, self.symbols) for i in range(N_BEHIND)
            ]
            self.beside = [
                Watcher(f"client {i} beside it", self.server.url, self.record, self.symbols)
                for i in range(N_BESIDE)
            ]
            publishing = asyncio.create_task(self.publisher.run())
            tasks = [asyncio.create_task(watcher.live()) for watcher in self.watchers]
            try:
                await self.until(
                    lambda: len(self.record.numbers) == 2 * len(self.symbols), "an update of each"
                )
                await self.converge("the first values")
                yield
                self.publisher.stop()
                await publishing
            finally:
                for task in (publishing, *tasks):
                    task.cancel()
                ended = await asyncio.gather(publishing, *tasks, return_exceptions=True)
        for each in ended:
            if isinstance(each, Exception):
                raise each


Fault = Callable[[House], Awaitable[None]]


async def suffer(house: House, fault: Fault) -> dict[str, Any]:
    """Let a fault happen and go by; returns what was seen of it, and what of that must not be."""
    async with house.lived_in():
        await asyncio.sleep(CALM_S)
        for watcher in house.watchers:
            watcher.begin_anew()
        n_before = len(house.record.at)
        began = time.monotonic()
        await fault(house)
        seconds = time.monotonic() - began
        recovery_s = await house.converge("everybody's return")
        await asyncio.sleep(CALM_S)
        n_published = len(house.record.at) - n_before
        house.publisher.stop()
        await house.until(
            lambda: all(watcher.ledger.is_complete for watcher in house.watchers),
            "the last value of everything",
        )
        found = await _settled(house)
    return {
        "fault_s": seconds,
        "published": n_published,
        "recovery_ms": 1000 * recovery_s,
        "behind": _seen(house.behind),
        "beside": _seen(house.beside),
        "notes": house.notes,
        "ledger": {name: found[name] for name in ("balanced", "faults", "cohorts", "connections")},
        "faults": house.faults + [fault for watcher in house.watchers for fault in watcher.ledger.faults],
    }


async def _settled(house: House) -> dict[str, Any]:
    """The server's ledger when nothing waits any more, which holds at every look until then."""
    deadline = time.monotonic() + RETURN_S
    while True:
        found = await house.ledger()
        house.check(found["balanced"], f"the ledger does not add up: {found['faults']}")
        sums = found["connections"]
        if not sums["waiting"] and not found["cohorts"]["pending"]:
            return found
        if time.monotonic() > deadline or house.faults:
            house.check(
                False, f"{sums['waiting']} updates still wait, {found['cohorts']['pending']} for a flush"
            )
            return found
        await asyncio.sleep(0.05)


def _seen(watchers: Sequence[Watcher]) -> dict[str, Any]:
    counts = sum((watcher.ledger.counts for watcher in watchers), Counter[str]())
    return {
        "closes": dict(sum((watcher.ledger.closes for watcher in watchers), Counter[int]())),
        "errors": dict(sum((watcher.ledger.errors for watcher in watchers), Counter[str]())),
        "recovered": counts["recovered"],
        "not_recovered": counts["not recovered"],
        "declared_lost": counts["declared lost"],
        "updates": counts["updates"],
        "longest_pause_ms": 1000 * max(watcher.longest_pause_s for watcher in watchers),
    }
