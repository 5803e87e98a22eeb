"""The same load on every server in turn, several times over, and how they compare."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.catalogue import SYMBOL, Peer, Running
from benchmarks.scenarios.goals import Goal, judge, wording
from benchmarks.scenarios.process import Server, pinned
from benchmarks.scenarios.report import quantiles, verdict
from benchmarks.scenarios.steady import even_prices
from fastws import __version__
from fastws.bench import LoadClient, LoadError
from fastws.bench.measure import Run
from fastws.bench.report import bottlenecks, closes_text

OURS = "fastws"
CONNECT_TIMEOUT_S = 30.0
IN_FLIGHT = 100
# Below this share of the rate a server is behind, and publishes late: latencies leave that out.
BEHIND = 0.95
GUARD_INTERVAL_S = 0.1
_PAGE = os.sysconf("SC_PAGE_SIZE")
SUBSCRIBE = (
    b'{"type":"subscribe","subscription_type":"stock","targets":["%s"],"channels":["price"]}'
    % SYMBOL.encode()
)


@dataclass(frozen=True)
class Scenario:
    """`connections` readers of one topic, each of which is to get `rate` messages/s."""

    name: str
    connections: int
    rate: float

    @property
    def title(self) -> str:
        return f"{self.name}: {self.connections:,} connections, {self.rate:,g} messages/s to each"


SCENARIOS = {
    "A": Scenario("A", 1_000, 100),
    "B": Scenario("B", 1_000, 4_000),
    "C": Scenario("C", 10_000, 10),
    "D": Scenario("D", 10_000, 1_000),
}


def scenario(text: str) -> Scenario:
    """The scenario of that letter, or one of one's own as ``500x1000`` (connections, messages/s)."""
    own = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if own:
        return Scenario(text, int(own[1]), float(own[2]))
    if text not in SCENARIOS:
        raise ValueError(
            f"expected one of {', '.join(SCENARIOS)} or CONNECTIONSxRATE, as 500x1000, not {text!r}"
        )
    return SCENARIOS[text]


@dataclass(frozen=True)
class Started:
    """A server that accepts. `pids` are its processes."""

    url: str
    pids: Sequence[int]
    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Entrant:
    """One line of the comparison."""

    name: str
    what: str
    batches: str
    version: str
    subscribe: bytes | None
    start: Callable[[float, int | None], contextlib.AbstractContextManager[Started]]


def of_peer(peer: Peer) -> Entrant:
    @contextlib.contextmanager
    def start(rate: float, cpu: int | None) -> Iterator[Started]:
        with Running(peer, rate, cpu=cpu) as server:
            yield Started(server.url, server.pids, server.command, {})

    return Entrant(
        peer.name, peer.what, peer.batches, peer.version(), SUBSCRIBE if peer.is_asked else None, start
    )


def of_ours(batch_interval_ms: int) -> Entrant:
    """fastws with its simulator, which publishes by the same schedule."""

    @contextlib.contextmanager
    def start(rate: float, cpu: int | None) -> Iterator[Started]:
        settings = even_prices(rate) | {"batch_interval_ms": batch_interval_ms}
        with Server(feed="sim", symbols=[SYMBOL], settings=settings, cpu=cpu) as server:
            yield Started(server.url, [server.pid], server.command, server.environment)

    return Entrant(
        f"{OURS} {batch_interval_ms} ms",
        "fastws serve with its simulator",
        f"{batch_interval_ms} ms" if batch_interval_ms else "a turn of its loop",
        __version__,
        SUBSCRIBE,
        start,
    )


class Watch:
    """Looks at the memory of processes while the load runs, and kills them when it passes `limit` bytes: a server
    that cannot keep up and queues without a bound would take the machine with it. A context manager."""

    def __init__(self, pids: Sequence[int], limit: int) -> None:
        self.most = 0
        self.is_over = False
        self._pids = pids
        self._limit = limit
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory watch")

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()

    def rss(self) -> int:
        """Resident bytes now; 0 when they have ended."""
        total = 0
        for pid in self._pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # has ended
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
        return total

    def verdict(self) -> str:
        return f"fell over: it held {self.most / 2**30:.1f} GiB and was ended"

    def _look(self) -> None:
        while not self._is_done.wait(GUARD_INTERVAL_S):
            self.most = max(self.most, self.rss())
            if self.most > self._limit and not self.is_over:
                self.is_over = True
                for pid in self._pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def cpu_seconds(pids: Sequence[int]) -> float:
    """Processor time of processes, threads that have ended included: their clocks, as of clock_getcpuclockid(3)."""
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


@dataclass(frozen=True)
class Figures:
    """One measurement, or the medians of several. `cpu_us` is per message delivered; `share` is what was delivered of
    what the rate asks for; latencies are from the stamp in a message to its receipt."""

    cpu_cores: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    share: float
    messages: float
    lost: float
    rss: float
    rss_most: float
    connect_s: float
    client_cores: float
    client_waited_s: float


@dataclass
class Result:
    """What was measured of a server: one of `figures` for each round that succeeded. `failures` tells what became of
    the others, `faults` what a server must not do, `notes` what to think of when reading the figures. `quantiles` are
    of the latencies of each round, as (share, ms)."""

    entrant: Entrant
    figures: list[Figures] = field(default_factory=list)
    quantiles: list[list[tuple[float, float]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def median(self) -> Figures | None:
        if not self.figures:
            return None
        rows = [asdict(figures) for figures in self.figures]
        return Figures(**{name: statistics.median(row[name] for row in rows) for name in rows[0]})

    def document(self) -> dict[str, Any]:
        median = self.median()
        return {
            "what": self.entrant.what,
            "version": self.entrant.version,
            "batches": self.entrant.batches,
            "command": list(self.command),
            "environment": dict(self.environment),
            "median": asdict(median) if median else None,
            "rounds": [asdict(figures) for figures in self.figures],
            "latency_quantiles": self.quantiles,
            "failures": self.failures,
            "faults": self.faults,
            "notes": sorted(set(self.notes)),
        }


@dataclass(frozen=True)
class Options:
    """How to measure. `pin` names the processors of server and client as ``0,1``; `memory_limit` is in bytes."""

    rounds: int
    seconds: float
    warm_up: float
    memory_limit: int
    pin: str | None = None


def measure(entrant: Entrant, scenario: Scenario, options: Options, result: Result) -> None:
    """One round of one server; what comes of it goes to `result`."""
    try:
        with pinned(options.pin) as cpu, entrant.start(scenario.rate, cpu) as server:
            result.command, result.environment = server.command, server.environment
            with Watch(server.pids, options.memory_limit) as watch:
                try:
                    _load(server, scenario, options, watch, result)
                except (LoadError, OSError) as error:
                    if watch.is_over:
                        raise LoadError(watch.verdict()) from error
                    raise
    except (LoadError, OSError) as error:
        result.failures.append(str(error))


def _load(server: Started, scenario: Scenario, options: Options, watch: Watch, result: Result) -> None:
    client = LoadClient(server.url, scenario.connections, subscribe=result.entrant.subscribe)
    try:
        started = time.monotonic()
        client.connect(timeout=CONNECT_TIMEOUT_S, max_in_flight=IN_FLIGHT)
        connect_s = time.monotonic() - started
        client.run(options.warm_up)
        client.reset()
        began, cpu_began = time.monotonic(), cpu_seconds(server.pids)
        client.run(options.seconds)
        elapsed, cpu_s = time.monotonic() - began, cpu_seconds(server.pids) - cpu_began
        rss = watch.rss()
        load = client.result()
        rows = client.latencies()
    finally:
        client.close(timeout=0)
    if watch.is_over:
        raise LoadError(watch.verdict())
    if load["open"] < scenario.connections:
        raise LoadError(
            f"it closed {scenario.connections - load['open']} connections: {closes_text(load['closes'])}"
        )
    latency = load["latency"]
    if latency["p50_ms"] is None or latency["p99_ms"] is None or latency["max_ms"] is None:
        raise LoadError("no message came")
    result.figures.append(
        Figures(
            cpu_cores=cpu_s / elapsed,
            cpu_us=1e6 * cpu_s / load["messages"],
            p50_ms=latency["p50_ms"],
            p99_ms=latency["p99_ms"],
            max_ms=latency["max_ms"],
            share=load["messages"] / (scenario.rate * scenario.connections * load["seconds"]),
            messages=load["messages"],
            lost=load["undeclared_lost"],
            rss=rss,
            rss_most=max(watch.most, rss),
            connect_s=connect_s,
            client_cores=load["client"]["cpu_share"],
            client_waited_s=load["client"]["run_delay_seconds"],
        )
    )
    result.quantiles.append(quantiles(rows))
    result.faults += verdict(Run(connect_s, load, None, []))
    result.notes += bottlenecks(load)


def compare(
    scenario: Scenario, entrants: Sequence[Entrant], options: Options, tell: Callable[[str], object]
) -> list[Result]:
    """Measure all of them in every round, each round beginning with another one."""
    results = [Result(entrant) for entrant in entrants]
    for turn in range(options.rounds):
        first = turn * len(results) // options.rounds
        for result in results[first:] + results[:first]:
            tell(f"{scenario.name}, round {turn + 1} of {options.rounds}: {result.entrant.name}")
            measure(result.entrant, scenario, options, result)
    return results


COLUMNS = (
    "server", "cores", "µs/msg", "p50 ms", "p99 ms", "max ms", "of rate", "lost", "MiB", "CPU ours/its", "p99 ours/its",
)  # fmt: skip


def table(results: Sequence[Result]) -> list[str]:
    """The medians as aligned lines. The ratios, which are what is quoted, are of the first entrant of ours to the
    others; that of latencies says nothing of a server that is behind the rate."""
    ours = next((r.median() for r in results if r.entrant.name.startswith(OURS)), None)
    rows = [COLUMNS]
    for result in results:
        figures = result.median()
        if figures is None:
            continue
        ratios = ("", "")
        if ours is not None and not result.entrant.name.startswith(OURS):
            p99 = f"{ours.p99_ms / figures.p99_ms:.2f}" if figures.share >= BEHIND else "behind"
            ratios = (f"{ours.cpu_us / figures.cpu_us:.2f}", p99)
        rows.append((
            result.entrant.name, f"{figures.cpu_cores:.2f}", f"{figures.cpu_us:.2f}", f"{figures.p50_ms:.1f}",
            f"{figures.p99_ms:.1f}", f"{figures.max_ms:.1f}", f"{figures.share:.1%}", f"{figures.lost:,.0f}",
            f"{figures.rss_most / 2**20:,.0f}", *ratios,
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [
        f"  {row[0]:<{widths[0]}}"
        + "".join(f"  {text:>{n}}" for text, n in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    for result in results:
        said = [*result.failures, *result.faults, *sorted(set(result.notes))]
        lines += [f"  {result.entrant.name}: {text}" for text in said]
    return lines


GOALS = {
    "A": (
        Goal("CPU per message / Bun's", 0.65, ""),
        Goal("CPU per message / picows's", 0.35, ""),
        Goal("p99 with interval 0 / Bun's", 1.0, ""),
    ),
    "C": (
        Goal("p99 / the floor's", 1.25, ""),
        Goal("p99 / the best peer's", 0.75, ""),
        Goal("server", 0.75, "cores"),
    ),
}


def judged(scenario: Scenario, results: Sequence[Result]) -> list[dict[str, Any]]:
    """The medians held against the goals of the scenario; ours are those of the first entrant of ours, and those with
    interval 0 where that is said. The floor is no peer, and neither is a server that is behind the rate."""
    goals = GOALS.get(scenario.name, ())
    medians = {result.entrant.name: median for result in results if (median := result.median())}
    ours = next((median for name, median in medians.items() if name.startswith(OURS)), None)
    if ours is None:
        return judge(goals, {})
    others = {name: row for name, row in medians.items() if not name.startswith(OURS)}
    figures: dict[str, float | None] = {"server": ours.cpu_cores}
    for name, title in (("bun", "Bun's"), ("picows", "picows's"), ("floor", "the floor's")):
        if name in others:
            figures[f"CPU per message / {title}"] = ours.cpu_us / others[name].cpu_us
            figures[f"p99 / {title}"] = ours.p99_ms / others[name].p99_ms
    at_once = medians.get(f"{OURS} 0 ms")
    if at_once and "bun" in others:
        figures["p99 with interval 0 / Bun's"] = at_once.p99_ms / others["bun"].p99_ms
    in_time = [row.p99_ms for name, row in others.items() if name != "floor" and row.share >= BEHIND]
    if in_time:
        figures["p99 / the best peer's"] = ours.p99_ms / min(in_time)
    return judge(goals, figures)


def told(goals: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each."""
    return [f"  → {goal['figure']}: {wording(goal)}" for goal in goals]


def machine_is_shared() -> str | None:
    """A warning when others use the machine now."""
    load = os.getloadavg()[0]
    return f"others use this machine (load average {load:.1f}): ratios will wander" if load > 0.5 else None
