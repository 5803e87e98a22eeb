"""Three servers joined by Redis: who is served elsewhere gets the same, how much later, and what that costs."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks.program import ended_with_us
from benchmarks.scenarios.goals import Goal, judge, tell
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.recording import codes, settled, write
from benchmarks.scenarios.redis_server import RedisServer
from benchmarks.scenarios.report import quantiles, verdict
from fastws.bench import LoadClient, LoadError, LoadResult
from fastws.bench.measure import Run
from fastws.bench.process import Process, Sample
from fastws.bench.report import Table, durations

ROOT = Path(__file__).parents[2]
N_INSTANCES = 3
# Of all, as watchlists of which many people have the same.
SYMBOLS_EACH = 5
CONNECTS_PER_S = 1000
LEAST_PAUSE_S = 3.0
WARM_UP_S = 2.0
# The flow goes on for so long beside warm-up and measurement.
RESERVE_S = 1.0
WAIT_S = 60.0
LOOK_S = 0.2
# Least and most of the flow that must have passed before what it costs is taken for what it costs at that rate.
RATE_SHARES = (0.95, 1.05)

GOALS = (
    Goal("added p99", 15, "ms"),
    Goal("cost at the origin, in messages of their own", 1.0, ""),
    Goal("cost where it is served, in messages of their own", 1.0, ""),
)


def metrics(server: Server) -> dict[str, float]:
    """What it says of its relay."""
    with urlopen(f"{server.http_url}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    rows = (line.rpartition(" ") for line in text.splitlines() if line.startswith("fastws_relay_"))
    return {name.removeprefix("fastws_relay_"): float(value) for name, _, value in rows}


def await_joined(servers: Sequence[Server], seconds: float = WAIT_S) -> None:
    """Wait until each of them hears all others."""
    deadline = time.monotonic() + seconds
    for server in servers:
        while metrics(server)["instances"] < len(servers) - 1:
            if time.monotonic() > deadline:
                raise LoadError(f"the servers do not find each other:\n{server.log()}")
            time.sleep(0.02)


class Audience:
    """The clients of all servers, those of each on a thread of their own; a context manager that closes them."""

    def __init__(self, servers: Sequence[Server], n: int, symbols: Sequence[str]) -> None:
        self.lists = [
            [symbols[(i * SYMBOLS_EACH + k) % len(symbols)] for k in range(SYMBOLS_EACH)] for i in range(n)
        ]
        self.clients = [
            LoadClient(server.url, n, subscribe=lambda i: subscription(self.lists[i]), check="full")
            for server in servers
        ]
        self._threads = ThreadPoolExecutor(len(servers))

    def __enter__(self) -> Audience:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()
        for client in self.clients:
            client.close(timeout=0)

    def connect(self) -> float:
        began = time.monotonic()
        list(self._threads.map(lambda client: client.connect(timeout=WAIT_S), self.clients))
        return time.monotonic() - began

    def run(self, seconds: float) -> None:
        list(self._threads.map(lambda client: client.run(seconds), self.clients))

    def reset(self) -> None:
        for client in self.clients:
            client.reset()

    def results(self) -> list[LoadResult]:
        return [client.result() for client in self.clients]


def subscription(symbols: Sequence[str], **options: object) -> bytes:
    request = {"type": "subscribe", "subscription_type": "stock", "targets": symbols, "channels": ["price"]}
    return json.dumps(request | options, separators=(",", ":")).encode()


def relay(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Clients of three servers, what is published at one of them, and what the relay adds to it."""
    symbols = codes(options.symbols)
    with tempfile.TemporaryDirectory(prefix="fastws-load-") as name, RedisServer(Path(name)) as redis:
        delivery, faults = _delivered(options, Path(name), redis, symbols)
        cost = _cost(options, Path(name), redis, symbols)
    served = delivery["instances"]
    local, *elsewhere = [row["load"]["latency"]["p99_ms"] for row in served]
    added = max(elsewhere) - local
    ours, plain = cost["relay_us"], cost["message_each_us"]
    figures = {
        "added p99": added,
        "cost at the origin, in messages of their own": ours["origin"] / plain["publisher"],
        "cost where it is served, in messages of their own": ours["serving"] / plain["receiver"],
    }
    goals = judge(GOALS, figures)
    n = options.connections // N_INSTANCES
    table = Table(
        f"relay: {N_INSTANCES} servers with {n:,} connections each, {options.rate:,g} updates/s published at one"
    )
    for row in served:
        where = "where it is published" if row["is_origin"] else "elsewhere"
        load = row["load"]
        table.add(
            f"latency {where}",
            f"{durations(load['latency'])}; {load['messages_per_second']:,.0f} messages/s,"
            f" {row['cpu_cores']:.2f} cores",
        )
    table.add("Redis", f"{delivery['redis_cpu_cores']:.3f} cores")
    table.add(
        "final values",
        f"{delivery['final_values']['checked'] - delivery['final_values']['behind']:,} of"
        f" {delivery['final_values']['checked']:,} are the last ones published",
    )
    table.add(
        "relay, µs of CPU per update",
        f"{ours['origin']:.1f} at the origin, {ours['serving']:.1f} where it is served, {ours['redis']:.1f} in Redis",
    )
    table.add(
        "a message for each",
        f"{plain['publisher']:.1f} by who publishes, {plain['receiver']:.1f} by who receives,"
        f" {plain['redis']:.1f} in Redis",
    )
    tell(table, goals)
    table.print()
    return {"delivery": delivery, "cost": cost, "added_p99_ms": added, "goals": goals}, faults


def _delivered(
    options: argparse.Namespace, directory: Path, redis: RedisServer, symbols: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Every client of every server, held against what was published."""
    n = options.connections // N_INSTANCES
    recording = directory / "delivered.txt"
    last = write(
        recording,
        symbols,
        rate=options.rate,
        pause=LEAST_PAUSE_S + options.connections / CONNECTS_PER_S,
        seconds=WARM_UP_S + options.seconds + RESERVE_S,
        seed=1,
    )
    n_updates = sum(trade.seq for trade in last.values())
    settings = {"relay": redis.url, "batch_interval_ms": options.batch_interval_ms, "rate_limit": 1000}
    with contextlib.ExitStack() as stack:
        # The one that publishes comes last: its time until the flow begins runs.
        feeds = ["none"] * (N_INSTANCES - 1) + [f"replay:{recording}"]
        servers = [
            stack.enter_context(Server(feed=feed, symbols=symbols, settings=settings)) for feed in feeds
        ]
        servers.reverse()
        await_joined(servers)
        audience = stack.enter_context(Audience(servers, n, symbols))
        connect_s = audience.connect()
        if servers[0].stats()["sequence"] > len(symbols) + 10:
            raise LoadError(
                "the flow began before all were connected: the machine is too slow to connect so many in time"
            )
        _until(
            lambda: servers[0].stats()["sequence"] > len(symbols) + 10, audience, "the flow does not begin"
        )
        audience.run(WARM_UP_S)
        audience.reset()
        processes = [*servers, Process(redis.pid)]
        before = [process.sample() for process in processes]
        audience.run(options.seconds)
        after = [process.sample() for process in processes]
        results = audience.results()
        rows = [client.latencies() for client in audience.clients]
        if servers[0].stats()["sequence"] >= n_updates:
            raise LoadError("the flow ended before the measurement: the machine is too slow")
        _until(lambda: servers[0].stats()["sequence"] >= n_updates, audience, "the flow does not end")
        _until(
            lambda: all(
                metrics(server)['updates_total{what="received"}'] >= n_updates for server in servers[1:]
            ),
            audience,
            "the relay does not hand on everything",
        )
        n_behind, example = 0, ""
        for client in audience.clients:
            found, text = settled(client, audience.lists, last)
            n_behind, example = n_behind + found, example or text
        ended = audience.results()
        told = [metrics(server) for server in servers]
        commands = [server.shown_command for server in servers]
    faults = [
        f"server {i}: {fault}"
        for i, load in enumerate(ended)
        for fault in verdict(Run(connect_s, load, None, []))
    ]
    if n_behind:
        faults.append(f"{n_behind:,} final values are not the last ones; {example}")
    for i, counts in enumerate(told):
        if counts['updates_total{what="missed"}'] or counts["refused_total"]:
            faults.append(f"server {i}: the relay has missed or refused updates")
    return {
        "commands": commands,
        "settings": settings,
        "connect_s": connect_s,
        "published": n_updates,
        "instances": [
            {
                "is_origin": i == 0,
                "load": load,
                "latency_quantiles": quantiles(rows[i]),
                "cpu_cores": _cores(before[i], after[i]),
                "waited_seconds": after[i].waited_s - before[i].waited_s,
                "relay": told[i],
            }
            for i, load in enumerate(results)
        ],
        "redis_cpu_cores": _cores(before[-1], after[-1]),
        "final_values": {"checked": N_INSTANCES * n * SYMBOLS_EACH, "behind": n_behind},
    }, faults


def _until(condition: Callable[[], bool], audience: Audience, problem: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise LoadError(problem)
        audience.run(LOOK_S)


def _cores(before: Sample, after: Sample) -> float:
    return (after.cpu_s - before.cpu_s) / (after.at - before.at)


def _cost(
    options: argparse.Namespace, directory: Path, redis: RedisServer, symbols: Sequence[str]
) -> dict[str, Any]:
    """What handing on an update costs, in µs of processor time: of the relay, and of one message for each.

    The relay's is what two servers that are joined need beyond two that are not, at the same time and with the same
    flow, and without the publication itself only at the origin: where it is served it is a part of it. The messages
    are what `benchmarks.scenarios.relay_peer` does, which publishes nothing anywhere.
    """
    recording = directory / "cost.txt"
    write(
        recording,
        symbols,
        rate=options.rate,
        pause=LEAST_PAUSE_S + 2.0,
        seconds=2 * WARM_UP_S + options.seconds + RESERVE_S,
        seed=2,
    )
    joined = {"relay": redis.url, "relay_prefix": "cost", "subscription_limit": max(50, len(symbols))}
    with contextlib.ExitStack() as stack:

        def server(feed: str, settings: dict[str, object]) -> Server:
            return stack.enter_context(Server(feed=feed, symbols=symbols, settings=settings))

        serving, idle = server("none", joined), server("none", {})
        origin, alone = server(f"replay:{recording}", joined), server(f"replay:{recording}", {})
        await_joined([serving, origin])
        # So that the updates are wanted there, and hardly ever sent.
        client = LoadClient(
            serving.url, 1, subscribe=subscription(symbols, mode="latest", max_rate=1), conflated=True
        )
        stack.callback(client.close, timeout=0)
        client.connect(timeout=WAIT_S)
        deadline = time.monotonic() + WAIT_S
        while min(server.stats()["sequence"] for server in (origin, alone, serving)) <= len(symbols) + 10:
            if time.monotonic() > deadline:
                raise LoadError("the flow does not begin")
            client.run(LOOK_S)
        client.run(WARM_UP_S)
        processes = [origin, alone, serving, idle, Process(redis.pid)]
        n_before = [server.stats()["sequence"] for server in (origin, alone, serving)]
        before = [process.sample() for process in processes]
        client.run(options.seconds)
        after = [process.sample() for process in processes]
        n_after = [server.stats()["sequence"] for server in (origin, alone, serving)]
        counts = metrics(origin)
    n_each = [there - here for here, there in zip(n_before, n_after, strict=True)]
    for n in n_each:
        _check_rate(n, options, after[0].at - before[0].at)
    cpu_s = [there.cpu_s - here.cpu_s for here, there in zip(before, after, strict=True)]
    n = statistics.mean(n_each)
    us = [1e6 * each / n for each in cpu_s]
    plain = _messages(options, redis, _sample(symbols))
    return {
        "seconds": options.seconds,
        "updates": n_each,
        "updates_per_envelope": counts['updates_total{what="sent"}'] / counts['envelopes_total{what="sent"}'],
        "process_us": dict(zip(("origin", "alone", "serving", "idle", "redis"), us, strict=True)),
        "relay_us": {"origin": us[0] - us[1], "serving": us[2] - us[3], "redis": us[4]},
        "message_each_us": plain,
    }


def _check_rate(n: float, options: argparse.Namespace, seconds: float) -> None:
    share = n / (options.rate * seconds)
    if not RATE_SHARES[0] <= share <= RATE_SHARES[1]:
        raise LoadError(f"{share:.0%} of the rate was published: what it costs is not known at that rate")


def _sample(symbols: Sequence[str]) -> dict[str, Any]:
    """An update as its clients get it."""
    with Server(feed="sim", symbols=symbols[:1], settings={"simulator_book_share": 0}) as server:
        deadline = time.monotonic() + WAIT_S
        while True:
            with (
                contextlib.suppress(OSError),
                urlopen(f"{server.http_url}/v1/stocks/{symbols[0]}") as response,
            ):
                found: dict[str, Any] = json.load(response)
                return found
            if time.monotonic() > deadline:
                raise LoadError("the simulator publishes nothing")
            time.sleep(0.02)


def _messages(options: argparse.Namespace, redis: RedisServer, update: dict[str, Any]) -> dict[str, float]:
    with (
        _program("receive", redis.url) as receiver,
        _program("publish", redis.url, str(options.rate)) as sender,
    ):
        _tell(receiver)
        _tell(sender, update)
        time.sleep(WARM_UP_S)
        processes = [Process(sender.pid), Process(receiver.pid), Process(redis.pid)]
        n_before = [_asked(sender), _asked(receiver)]
        before = [process.sample() for process in processes]
        time.sleep(options.seconds)
        after = [process.sample() for process in processes]
        n_after = [_asked(sender), _asked(receiver)]
    n_sent, n_received = (there - here for here, there in zip(n_before, n_after, strict=True))
    for n in (n_sent, n_received):
        _check_rate(n, options, after[0].at - before[0].at)
    us = [1e6 * (there.cpu_s - here.cpu_s) / n_sent for here, there in zip(before, after, strict=True)]
    return dict(zip(("publisher", "receiver", "redis"), us, strict=True))


@contextlib.contextmanager
def _program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scenarios.relay_peer", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=ended_with_us(signal.SIGKILL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _tell(process: subprocess.Popen[str], update: dict[str, Any] | None = None) -> None:
    """Wait until it has begun, with the update that it is to publish."""
    if update is not None:
        _say(process, json.dumps(update))
    if json.loads(_line(process)) != {"ready": True}:
        raise LoadError("what is compared with did not begin")


def _asked(process: subprocess.Popen[str]) -> int:
    _say(process, "")
    return int(json.loads(_line(process))["n"])


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise LoadError("what is compared with has ended")
    return line
