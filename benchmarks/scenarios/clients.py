"""The shipped clients, killed in every way while updates flow: what they deliver against what was published."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from benchmarks.program import ended_with_us, run_loop
from benchmarks.scenarios.faultproxy import FaultProxy
from benchmarks.scenarios.ledger import Ledger
from benchmarks.scenarios.process import ADMIN_TOKEN, Server, clean_environment
from benchmarks.scenarios.publishing import MAX_FAULTS, Publisher, Record
from fastws.auth.tokens import sign
from fastws.bench import LoadError
from fastws.bench.report import Table

ROOT = Path(__file__).parents[2]
SECRET = "the secret of a load run, of more than thirty-two bytes"
# How a connection ends. `mid_frame`: in the middle of what the server sends. `handshake`: with the next one ended
# before its greeting is whole. `replay`: after an outage, with the next one ended in the middle of what was missed.
# `strand`: the server is not told. `half_open`: nobody is told. `kick`: the server closes it with 4401.
KILLS = ("reset", "mid_frame", "handshake", "replay", "strand", "half_open", "kick")
WEIGHTS = (5, 5, 4, 4, 2, 1, 2)
LIVES_S = (0.0, 0.005, 0.05, 0.2, 0.4, 0.8)
OUTAGES_S = (0.05, 0.3, 1.5)
# The response of the handshake and the greeting are about this long, and what was missed is many times that.
HANDSHAKE_BYTES = 700
REPLAY_BYTES = 200_000
N_SYMBOLS = 24
N_ALL = 16
N_LATEST = 4
# A client that has been cut off is back within this, also where the server has to find out first, or has to be started
# on a machine that has little time for it.
RETURN_S = 60.0
AGAIN_SHARE = 0.2
WANTED_SHARE = 0.99
LINE_LIMIT = 64 << 20

Kick = Callable[[str], Awaitable[None]]
"""Lets the server close what a user has."""


class Subject:
    """One client, and the proxy in which its connections end."""

    def __init__(self, ledger: Ledger, proxy: FaultProxy, program: Program, chance: random.Random) -> None:
        self.ledger = ledger
        self.kills: Counter[str] = Counter()
        self._proxy = proxy
        self._program = program
        self._random = chance

    async def suffer(self, n_kills: int, kick: Kick) -> None:
        while self.kills.total() < n_kills:
            await asyncio.sleep(self._random.choice(LIVES_S))
            await self._until(self._is_connected, "a connection")
            if self._random.random() < AGAIN_SHARE:
                symbols = self._random.sample(self.ledger.all, 3)
                self._program.tell(again=self.ledger.name, symbols=symbols)
            (kind,) = self._random.choices(KILLS, WEIGHTS)
            await self._kill(kind, kick)
            self.kills[kind] += 1

    def _is_connected(self) -> bool:
        """Through to a server: a kill where there is none would only be counted."""
        return any(
            not connection.is_deaf and connection.other is not None and connection.other.transport is not None
            for connection in self._proxy.connections
        )

    async def _kill(self, kind: str, kick: Kick) -> None:
        proxy = self._proxy
        n_before = proxy.n_accepted
        match kind:
            case "reset":
                proxy.kill()
            case "mid_frame":
                proxy.cut_after(self._random.randrange(1, 6000))
            case "handshake":
                proxy.next_ends_after = self._random.randrange(1, HANDSHAKE_BYTES)
                proxy.kill()
                await self._until(lambda: proxy.next_ends_after is None, "another attempt")
            case "replay":
                proxy.is_open = False
                proxy.kill()
                await asyncio.sleep(self._random.choice(OUTAGES_S))
                proxy.next_ends_after = self._random.randrange(HANDSHAKE_BYTES, REPLAY_BYTES)
                proxy.is_open = True
                await self._until(lambda: proxy.next_ends_after is None, "another attempt")
            case "strand":
                proxy.strand()
            case "half_open":
                proxy.stall()
                await self._until(lambda: proxy.n_accepted > n_before, "another connection")
            case "kick":
                await kick(self.ledger.name)

    async def _until(self, condition: Callable[[], bool], what: str) -> None:
        try:
            async with asyncio.timeout(RETURN_S):
                while not condition():
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise LoadError(
                f"{self.ledger.name}: {what} did not come within {RETURN_S:g} s; {dict(self.ledger.closes)}, "
                f"{dict(self.ledger.errors)}, {self.ledger.faults}"
            ) from None


class Program:
    """A process with clients of one kind."""

    def __init__(self, kind: str, process: asyncio.subprocess.Process) -> None:
        self.kind = kind
        self.ledgers: dict[str, Ledger] = {}
        self.repeated: dict[str, int] = {}
        self._process = process

    @classmethod
    @asynccontextmanager
    async def run(cls, kind: str) -> AsyncIterator[Program]:
        """Start it; it must end by itself, and without complaint, when its orders end."""
        process = await asyncio.create_subprocess_exec(
            *_command(kind),
            cwd=ROOT,
            env=clean_environment() | {"PYTHONPATH": str(ROOT)},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            preexec_fn=ended_with_us(signal.SIGKILL),
        )
        assert process.stdin is not None
        assert process.stderr is not None
        self = cls(kind, process)
        reading = asyncio.create_task(self._read())
        try:
            yield self
            process.stdin.close()
            try:
                async with asyncio.timeout(RETURN_S):
                    complaints = await process.stderr.read()
                    await asyncio.gather(process.wait(), reading)
            except TimeoutError:
                raise LoadError(f"the {kind} program does not end") from None
            if process.returncode or complaints:
                text = complaints.decode(errors="replace")
                raise LoadError(f"the {kind} program ended with {process.returncode}:\n{text}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            await asyncio.wait((reading,))

    def tell(self, **order: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = orjson.loads(line)
            if "repeated" in told:
                self.repeated[told["client"]] = told["repeated"]
                continue
            take = self.ledgers[told["client"]].take
            for item in told["items"]:
                take(item)


def _command(kind: str) -> list[str]:
    if kind == "python":
        return [sys.executable, "-m", "benchmarks.scenarios.soak_client"]
    if shutil.which("node") is None:
        raise LoadError("the program node is not installed; `make system` installs it")
    if not (ROOT / "tests" / "node_modules" / "ws" / "package.json").exists():
        raise LoadError("the npm package ws is not installed; `make tests/node_modules/.ready` installs it")
    return ["node", str(Path(__file__).with_name("soak_client.mjs"))]


class House:
    """The server, whichever runs now, and what publishes to it."""

    def __init__(self, record: Record, symbols: Sequence[str], options: argparse.Namespace) -> None:
        self.record = record
        self.symbols = symbols
        self.server: Server
        self.proxies: list[FaultProxy] = []
        self.n_restarts = 0
        self.seconds = 0.0
        """In which it was published."""
        self._rate = options.rate
        self._settings = {
            "jwt_secret": SECRET,
            "batch_interval_ms": options.batch_interval_ms,
            "shutdown_spread": 0,
        }
        self._publisher: Publisher
        self._publishing: asyncio.Task[None]
        self._lock = asyncio.Lock()

    async def begin(self) -> None:
        self.server = await asyncio.to_thread(
            lambda: Server(feed="none", symbols=self.symbols, settings=self._settings)
        )
        self.record.restart()
        for proxy in self.proxies:
            proxy.target = self.port
        self._publisher = Publisher(
            self.server, self.symbols, self._rate, until_refused=True, record=self.record
        )
        self._began = time.monotonic()
        self._publishing = asyncio.create_task(self._publisher.run())

    @property
    def port(self) -> int:
        return int(self.server.http_url.rpartition(":")[2])

    async def end(self) -> None:
        """Stop to publish once this server has accepted something of every stream: the last value of one that has died
        may have died with it, and then nobody could have it."""
        deadline = time.monotonic() + RETURN_S
        while not self.record.numbers.keys() <= self._publisher.accepted.keys():
            if self._publishing.done() or time.monotonic() > deadline:
                raise LoadError(f"the server does not accept what is published:\n{self.server.log()[-2000:]}")
            await asyncio.sleep(0.02)
        self._publisher.stop()
        await self._publishing
        self.seconds += time.monotonic() - self._began

    async def restart(self, *, is_planned: bool) -> None:
        """Another server with another epoch takes over: after a signal, or after a death without a word."""
        async with self._lock:
            self.n_restarts += 1
            if is_planned:
                self.server.signal()
            else:
                self.server.kill()
            await self._publishing
            self.seconds += time.monotonic() - self._began
            await asyncio.to_thread(self.server.stop)
            await self.begin()

    async def kick(self, user: str) -> None:
        async with self._lock:
            headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
            url = f"{self.server.http_url}/v1/admin/kick"
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.post(url, json={"user_id": user}) as response,
            ):
                if not response.ok:
                    raise LoadError(f"a kick was answered with {response.status}: {await response.text()}")


async def _run(options: argparse.Namespace) -> dict[str, Any]:
    chance = random.Random(options.seed)
    symbols = [f"S{i:03d}" for i in range(N_SYMBOLS)]
    house = House(Record(), symbols, options)
    await house.begin()
    try:
        async with (
            asyncio.timeout(options.longest),
            _subjects(options, house, chance) as (programs, subjects),
        ):
            began = time.monotonic()
            await _kill_all(options, house, subjects, chance)
            elapsed = time.monotonic() - began
            await house.end()
            ledgers = [subject.ledger for subject in subjects]
            deadline = time.monotonic() + RETURN_S
            while not all(ledger.is_complete for ledger in ledgers) and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            for ledger in ledgers:
                if ledger.is_away:
                    ledger.fault(f"it has not come back within {RETURN_S:g} s")
                for key, (last, wanted) in ledger.missing().items():
                    ledger.fault(f"{key} has ended on update {last} in place of {wanted}")
    except TimeoutError:
        raise LoadError(f"it was not over after {options.longest:g} s") from None
    finally:
        await asyncio.to_thread(house.server.stop)
    return {
        "seconds": elapsed,
        "published": len(house.record.at),
        "published_per_second": len(house.record.at) / house.seconds,
        "restarts": house.n_restarts,
        "programs": {program.kind: _result(program, subjects) for program in programs},
    }


@asynccontextmanager
async def _subjects(
    options: argparse.Namespace, house: House, chance: random.Random
) -> AsyncIterator[tuple[list[Program], list[Subject]]]:
    subjects: list[Subject] = []
    async with AsyncExitStack() as stack:
        proxies = {
            f"{kind} {i}": await stack.enter_async_context(FaultProxy.run(house.port))
            for kind in options.programs
            for i in range(options.connections)
        }
        house.proxies.extend(proxies.values())
        # They end before the proxies do, so that they see no end that is none of the run's.
        programs = {kind: await stack.enter_async_context(Program.run(kind)) for kind in options.programs}
        for name, proxy in proxies.items():
            program = programs[name.partition(" ")[0]]
            some = chance.sample(house.symbols, N_ALL + N_LATEST)
            ledger = Ledger(name, house.record, some[:N_ALL], some[N_ALL:])
            program.ledgers[name] = ledger
            subjects.append(Subject(ledger, proxy, program, random.Random(chance.getrandbits(32))))
            token = sign({"sub": name}, SECRET.encode(), "HS256")
            url = f"ws://127.0.0.1:{proxy.port}/v1/ws"
            program.tell(make=name, url=url, token=token, all=ledger.all, latest=ledger.latest)
        yield list(programs.values()), subjects


async def _kill_all(
    options: argparse.Namespace, house: House, subjects: Sequence[Subject], chance: random.Random
) -> None:
    n_each = -(-options.kills // options.connections)

    async def restart() -> None:
        for i in range(options.restarts):
            share = (i + 1) / (options.restarts + 1)
            while sum(subject.kills.total() for subject in subjects) < share * n_each * len(subjects):
                await asyncio.sleep(0.02)
            await house.restart(is_planned=chance.random() < 0.5)

    await asyncio.gather(restart(), *(subject.suffer(n_each, house.kick) for subject in subjects))


def _result(program: Program, subjects: Sequence[Subject]) -> dict[str, Any]:
    own = [subject for subject in subjects if subject.ledger.name in program.ledgers]
    ledgers = [subject.ledger for subject in own]
    for name, n in program.repeated.items():
        if n:
            program.ledgers[name].fault(f"{n} updates came twice over the wire")
    return {
        "clients": len(own),
        "kills": dict(sum((subject.kills for subject in own), Counter[str]())),
        "interruptions": sum(ledger.closes.total() for ledger in ledgers),
        "close_codes": dict(sum((ledger.closes for ledger in ledgers), Counter[int]())),
        "errors": dict(sum((ledger.errors for ledger in ledgers), Counter[str]())),
        "counts": dict(sum((ledger.counts for ledger in ledgers), Counter[str]())),
        "faults": [fault for ledger in ledgers for fault in ledger.faults],
    }


def clients(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Connections of the shipped clients are killed, 500 times of each."""
    result = run_loop(_run(options))
    return {"run": result}, _verdict(result, options)


def _verdict(result: dict[str, Any], options: argparse.Namespace) -> list[str]:
    faults = []
    table = Table(f"clients: {options.kills} kills of each program at {options.rate:,g} updates/s")
    table.add(
        "published",
        f"{result['published']:,}, {result['published_per_second']:,.0f}/s while there was a server",
    )
    table.add("servers", f"{1 + result['restarts']}, one after the other, in {result['seconds']:.0f} s")
    for kind, program in result["programs"].items():
        counts = program["counts"]
        kills = ", ".join(f"{n} {name}" for name, n in sorted(program["kills"].items()))
        table.add(kind, f"{sum(program['kills'].values())} kills of {program['clients']} clients: {kills}")
        codes = ", ".join(f"{n} of {code}" for code, n in sorted(program["close_codes"].items()))
        table.add("  interruptions", f"{program['interruptions']}: {codes}")
        table.add("  delivered", ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items())))
        table.add("  errors", ", ".join(f"{n} of {text}" for text, n in program["errors"].items()) or "none")
        faults += program["faults"][:MAX_FAULTS]
        # The first after a restart is nothing that could be recovered.
        n_new = program["clients"] * result["restarts"]
        n_failed = max(0, counts.get("not recovered", 0) - n_new)
        if n_failed > (1 - WANTED_SHARE) * (counts.get("recovered", 0) + n_failed):
            faults.append(f"{kind}: {n_failed} returns were not recovered")
    table.print()
    return faults
