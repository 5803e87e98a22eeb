"""Whether a message costs the same to deliver however many connections and topics there are."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.catalogue import PEERS, Running
from benchmarks.scenarios.goals import Goal, judge, tell
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.recording import N_STATES, codes, write
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
# Up to so many topics share the connections of the second part, each of which has one.
READERS_PER_TOPIC = 1
LOOK_S = 0.1

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
        self.taken_in_us: list[float] = []
        """Of it, what the updates cost that nobody receives."""
        self.messages_per_frame: list[float] = []
        self.per_second: list[float] = []

    def document(self) -> dict[str, Any]:
        lists = {
            "us": self.us,
            "floor_us": self.floor_us,
            "taken_in_us": self.taken_in_us,
            "messages_per_frame": self.messages_per_frame,
            "messages_per_second": self.per_second,
        }
        medians = {name: statistics.median(values) for name, values in lists.items() if values}
        return {"at": self.at, "rounds": lists, **medians}


def growth(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """CPU per delivered message with more and more connections, and with more and more topics.

    Every message is sent by itself (interval 0) and equally many are delivered at each point, so all points make
    equally many sends. With more connections the kernel's own part grows, as their sockets do not fit into its caches:
    a bare loop of sends shows it. With more topics more is published for as many deliveries: what it costs to
    take it in, measured with one reader, is told apart.
    """
    faults: list[str] = []
    notes: list[str] = []
    floor = next(peer for peer in PEERS if peer.name == "floor")
    by_connections = [Point(n) for n in options.connections]
    by_topics = [Point(n) for n in options.topics]
    n_readers = max(options.topics) * READERS_PER_TOPIC
    for turn in range(options.rounds):
        # Forward and back, so that what the machine does slowly meets both ends.
        for point in by_connections[:: -1 if turn % 2 else 1]:
            rate = options.rate / point.at
            settings = even_prices(rate) | {"batch_interval_ms": 0}
            with Server(feed="sim", symbols=[SYMBOL], settings=settings) as server:
                us, load = _measure(server, server.url, point.at, [SYMBOL], options.seconds)
            point.us.append(us)
            _note(point, load, faults, notes, f"{point.at:,} connections")
            if not floor.missing():
                with Running(floor, rate) as running:
                    us, load = _measure(
                        Process(running.pids[0]), running.url, point.at, [SYMBOL], options.seconds
                    )
                point.floor_us.append(us)
        for point in by_topics[:: -1 if turn % 2 else 1]:
            all_us, load = _replayed(point.at, n_readers, options)
            _note(point, load, faults, notes, f"{point.at:,} topics")
            one_us, one = _replayed(point.at, 1, options)
            taken_in = one_us * one["messages"] / one["seconds"] / (load["messages"] / load["seconds"])
            point.taken_in_us.append(taken_in)
            point.us.append(all_us)
    connections = [point.document() for point in by_connections]
    topics = [point.document() for point in by_topics]
    connection_costs = [row["us"] / row.get("floor_us", 1.0) for row in connections]
    topic_costs = [row["us"] - row["taken_in_us"] for row in topics]
    figures: dict[str, float | None] = {
        "connections, largest distance from the mean": _distance(connection_costs),
        "connections, without the floor": _distance([row["us"] for row in connections]),
        "topics, largest distance from the mean": _distance(topic_costs),
        "topics, with taking in": _distance([row["us"] for row in topics]),
    }
    goals = judge(GOALS, figures)
    table = Table(
        f"growth: {options.rate:,g} messages/s delivered to more and more connections, {options.topic_rate:,g}/s of"
        " more and more topics"
    )
    for row, cost in zip(connections, connection_costs, strict=True):
        against = f", {cost:.2f} x the floor's {row['floor_us']:.2f}" if "floor_us" in row else ""
        table.add(
            f"{row['at']:,} connections",
            f"{row['us']:.2f} µs/message{against}; {row['messages_per_second']:,.0f}/s delivered,"
            f" {row['messages_per_frame']:.1f} a frame",
        )
    for row, cost in zip(topics, topic_costs, strict=True):
        table.add(
            f"{row['at']:,} topics",
            f"{row['us']:.2f} µs/message, {cost:.2f} without the {row['taken_in_us']:.2f} of taking updates in;"
            f" {row['messages_per_second']:,.0f}/s delivered, {row['messages_per_frame']:.1f} a frame",
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
        "topic_readers": n_readers,
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
    process: Process, url: str, n: int, symbols: Sequence[str], seconds: float, *, starts_at: int = 0
) -> tuple[float, LoadResult]:
    """CPU of the server in µs per message that `n` readers, each of one of the symbols, got. With `starts_at` it is
    measured once the server has published more than so many updates."""
    requests = [
        b'{"type":"subscribe","subscription_type":"stock","targets":["%s"],"channels":["price"]}'
        % code.encode()
        for code in symbols
    ]
    client = LoadClient(url, n, subscribe=lambda i: requests[i % len(requests)])
    try:
        client.connect(timeout=CONNECT_TIMEOUT_S)
        deadline = time.monotonic() + CONNECT_TIMEOUT_S
        while starts_at and isinstance(process, Server) and process.stats()["sequence"] <= starts_at:
            if time.monotonic() > deadline:
                raise LoadError("the flow does not begin")
            client.run(LOOK_S)
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


def _replayed(n_topics: int, n_readers: int, options: argparse.Namespace) -> tuple[float, LoadResult]:
    """Readers of `n_topics` symbols, evenly; all readers of the largest number would get `topic_rate` messages/s."""
    symbols = codes(n_topics)
    rate = options.topic_rate * n_topics / (max(options.topics) * READERS_PER_TOPIC)
    with tempfile.TemporaryDirectory(prefix="fastws-load-") as directory:
        recording = Path(directory) / "trades.txt"
        write(
            recording,
            symbols,
            rate=rate,
            pause=PAUSE_S,
            seconds=WARM_UP_S + options.seconds + RESERVE_S,
            seed=1,
        )
        with Server(feed=f"replay:{recording}", symbols=symbols, settings={"batch_interval_ms": 0}) as server:
            return _measure(
                server, server.url, n_readers, symbols, options.seconds, starts_at=len(symbols) + N_STATES
            )
