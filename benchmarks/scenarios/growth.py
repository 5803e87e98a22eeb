"""Whether a message costs the same to deliver however many connections and topics there are."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.catalogue import PEERS, Running
from benchmarks.scenarios.goals import Goal, judge, tell
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.recording import await_flow, codes, write
from benchmarks.scenarios.report import verdict
from benchmarks.scenarios.steady import SYMBOL, even_prices
from fastws.bench import LoadClient, LoadError, LoadResult
from fastws.bench.measure import Run
from fastws.bench.process import Process
from fastws.bench.report import Table, bottlenecks

CONNECT_TIMEOUT_S = 60.0
WARM_UP_S = 1.0
# Of a recording: before its flow begins, and beside what is measured of it.
PAUSE_S = 2.0
RESERVE_S = 1.0
# Of the second part: the connections, and which share of the topics each of them holds.
N_READERS = 2000
READERS_SHARE = 20

GOALS = (
    Goal("connections, largest distance from the mean", 0.2, ""),
    Goal("topics, largest distance from the mean", 0.2, ""),
)


class Point:
    """Measured with `at` connections or topics, several times: CPU in µs per delivered message."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.us: list[float] = []
        self.floor_us: list[float] = []
        """By sends that do nothing else."""
        self.messages_per_frame: list[float] = []
        self.per_second: list[float] = []

    def document(self) -> dict[str, Any]:
        lists = {
            "us": self.us,
            "floor_us": self.floor_us,
            "messages_per_frame": self.messages_per_frame,
            "messages_per_second": self.per_second,
        }
        medians = {name: statistics.median(values) for name, values in lists.items() if values}
        return {"at": self.at, "rounds": lists, **medians}


def growth(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """CPU per delivered message with more and more connections, and with more and more topics.

    Every message is sent by itself (interval 0) and equally many are delivered in a second at each point, so each makes
    equally many sends. With more connections the kernel's own part grows, as their sockets do not fit into the caches:
    so a point is held against a bare loop of sends to as many. With more topics the connections stay as many, and the
    readers of an update too: each connection holds a random twentieth of the topics, hence soon no two the same.
    """
    faults: list[str] = []
    notes: list[str] = []
    floor = next(peer for peer in PEERS if peer.name == "floor")
    by_connections = [Point(n) for n in options.connections]
    by_topics = [Point(n) for n in options.topics]
    for turn in range(options.rounds):
        # Forward and back, so that what the machine does slowly meets both ends.
        for point in by_connections[:: -1 if turn % 2 else 1]:
            rate = options.rate / point.at
            settings = even_prices(rate) | {"batch_interval_ms": 0}
            with Server(feed="sim", symbols=[SYMBOL], settings=settings) as server:
                client = LoadClient(server.url, point.at, subscribe=_subscription([SYMBOL]))
                us, load = _measure(server, client, point.at, options.seconds)
            point.us.append(us)
            _note(point, load, faults, notes, f"{point.at:,} connections")
            if not floor.missing():
                with Running(floor, rate) as running:
                    client = LoadClient(running.url, point.at, subscribe=_subscription([SYMBOL]))
                    us, _ = _measure(Process(running.pids[0]), client, point.at, options.seconds)
                point.floor_us.append(us)
        for point in by_topics[:: -1 if turn % 2 else 1]:
            us, load = _replayed(point.at, options)
            point.us.append(us)
            _note(point, load, faults, notes, f"{point.at:,} topics")
    connections = [point.document() for point in by_connections]
    topics = [point.document() for point in by_topics]
    connection_costs = [row["us"] / row.get("floor_us", 1.0) for row in connections]
    topic_costs = [row["us"] for row in topics]
    figures: dict[str, float | None] = {
        "connections, largest distance from the mean": _distance(connection_costs),
        "connections, without the floor": _distance([row["us"] for row in connections]),
        "topics, largest distance from the mean": _distance(topic_costs),
    }
    goals = judge(GOALS, figures)
    table = Table(f"growth: {options.rate:,g} messages/s delivered, each sent by itself")
    for row, cost in zip(connections, connection_costs, strict=True):
        against = f", {cost:.2f} x the floor's {row['floor_us']:.2f}" if "floor_us" in row else ""
        table.add(
            f"{row['at']:,} connections",
            f"{row['us']:.2f} µs/message{against}; {row['messages_per_second']:,.0f}/s delivered,"
            f" {row['messages_per_frame']:.1f} a frame",
        )
    for row in topics:
        table.add(
            f"{row['at']:,} topics",
            f"{row['us']:.2f} µs/message; {row['messages_per_second']:,.0f}/s delivered,"
            f" {row['messages_per_frame']:.1f} a frame, to {N_READERS:,} connections with {_held(row['at']):,} each",
        )
    for name, value in figures.items():
        assert value is not None
        table.add(name, f"{value:.0%}")
    for note in sorted(set(notes)):
        table.add("note", note)
    tell(table, goals)
    table.print()
    return {
        "connections": connections,
        "topics": topics,
        "topic_readers": N_READERS,
        "figures": figures,
        "goals": goals,
        "notes": sorted(set(notes)),
    }, faults


def _distance(values: Sequence[float]) -> float:
    """How far the value that is farthest from the mean of the extremes is from it, as a share of it: 0.2 is ± 20 %."""
    middle = (max(values) + min(values)) / 2
    return (max(values) - middle) / middle


def _note(point: Point, load: LoadResult, faults: list[str], notes: list[str], name: str) -> None:
    faults += [f"{name}: {fault}" for fault in verdict(Run(0.0, load, None, []))]
    notes += [f"{name}: {note}" for note in bottlenecks(load)]
    point.messages_per_frame.append(load["messages"] / max(1, load["frames"]))
    point.per_second.append(load["messages_per_second"])


def _measure(
    process: Process, client: LoadClient, n: int, seconds: float, *, is_replay: bool = False
) -> tuple[float, LoadResult]:
    """CPU of the server in µs per message that `n` readers got. That of a recording is measured once its
    flow has begun."""
    try:
        client.connect(timeout=CONNECT_TIMEOUT_S)
        if is_replay and isinstance(process, Server):
            await_flow(process, client)
        client.run(WARM_UP_S)
        client.reset()
        before = process.sample()
        client.run(seconds)
        after = process.sample()
        load = client.result()
    finally:
        client.close(timeout=0)
    if load["open"] < n or not load["messages"]:
        raise LoadError(f"{load['messages']} messages came, {load['open']} of {n} connections are open")
    return 1e6 * (after.cpu_s - before.cpu_s) / load["messages"], load


def _subscription(symbols: Sequence[str]) -> bytes:
    request = {"type": "subscribe", "subscription_type": "stock", "targets": symbols, "channels": ["price"]}
    return json.dumps(request, separators=(",", ":")).encode()


def _held(n_topics: int) -> int:
    """Of so many topics, how many a connection holds."""
    return max(1, n_topics // READERS_SHARE)


def _replayed(n_topics: int, options: argparse.Namespace) -> tuple[float, LoadResult]:
    """N_READERS of so many symbols in all."""
    symbols = codes(n_topics)
    n_held = _held(n_topics)
    generator = random.Random(1)
    readers_of_each = N_READERS * n_held / n_topics
    with tempfile.TemporaryDirectory(prefix="fastws-load-") as directory:
        recording = Path(directory) / "trades.txt"
        write(
            recording,
            symbols,
            rate=options.rate / readers_of_each,
            pause=PAUSE_S,
            seconds=WARM_UP_S + options.seconds + RESERVE_S,
            seed=1,
        )
        settings = {"batch_interval_ms": 0, "subscription_limit": max(50, n_held)}
        with Server(feed=f"replay:{recording}", symbols=symbols, settings=settings) as server:
            client = LoadClient(
                server.url,
                N_READERS,
                subscribe=[_subscription(generator.sample(symbols, n_held)) for _ in range(N_READERS)],
                check="full",
            )
            return _measure(server, client, N_READERS, options.seconds, is_replay=True)
