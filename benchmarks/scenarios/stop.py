"""A planned stop under load: nobody may miss a final value, and everybody is told when to come back."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import uvloop

from benchmarks.scenarios.process import Server
from benchmarks.scenarios.publishing import Key, Publisher
from fastws.bench import LoadClient, LoadError, StreamState
from fastws.bench.report import FAULTS, Table, closes_text, durations

RESTART = 1012
# Every client has symbols of the simulator, which make the load, and some of the publisher, who knows what it was
# told that they took.
N_SIMULATED, SIMULATED_EACH = 90, 9
N_PUBLISHED, PUBLISHED_EACH = 10, 1
PUBLISHED_RATE = 100.0
LATEST_SHARE = 0.2
SHUTDOWN_TIMEOUT_S = 10.0
SHUTDOWN_SPREAD_S = 5.0
# What processes need besides to begin and to end.
GRACE_S = 2.0


class Crowd:
    """Clients of one mode on a thread of their own. `groups` have equal subscriptions."""

    def __init__(self, url: str, n: int, groups: Sequence[Sequence[str]], *, is_latest: bool) -> None:
        self.groups = groups
        self.n = n
        self.is_latest = is_latest
        options = {"mode": "latest"} if is_latest else {}
        requests = [
            json.dumps({"type": "subscribe", "subscription_type": "stock", "targets": list(group), **options})
            for group in groups
        ]
        self.client = LoadClient(
            url,
            n,
            subscribe=lambda i: requests[i % len(requests)],
            check="full",
            conflated=is_latest,
        )

    def begin(self) -> None:
        self.client.connect(timeout=60.0)
        self._thread = threading.Thread(target=self.client.run, args=(3600.0,))
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Whether the server has ended all connections within so many seconds; they are ended here otherwise."""
        self._thread.join(seconds)
        was_ended = not self._thread.is_alive()
        self.client.stop()
        self._thread.join()
        return was_ended

    def last_values(self) -> Iterator[tuple[int, dict[Key, StreamState]]]:
        return ((i, self.client.streams(i)) for i in range(self.n))


async def _publish_until_refused(
    server: Server, symbols: Sequence[str], stop_at: threading.Event
) -> Publisher:
    publisher = Publisher(server, symbols, PUBLISHED_RATE, until_refused=True)
    task = asyncio.create_task(publisher.run())
    while not stop_at.is_set() and not task.done():
        await asyncio.sleep(0.05)
    publisher.stop()
    await task
    return publisher


def stop(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """SIGTERM under load, with final values held against each other and against what was published."""
    simulated = [f"S{i:05d}" for i in range(N_SIMULATED)]
    # Not in the simulator's table, so that the publisher is the only one who moves them.
    published = [f"P{i:05d}" for i in range(N_PUBLISHED)]
    settings = {
        "simulator_rate": options.rate,
        "simulator_opening_burst": 1,
        "simulator_seed": 1,
        "batch_interval_ms": options.batch_interval_ms,
        "shutdown_timeout": SHUTDOWN_TIMEOUT_S,
        "shutdown_spread": SHUTDOWN_SPREAD_S,
        "unknown_symbols": "accept",
    }
    groups = [
        [
            *simulated[i * SIMULATED_EACH : (i + 1) * SIMULATED_EACH],
            *published[i * PUBLISHED_EACH : (i + 1) * PUBLISHED_EACH],
        ]
        for i in range(N_SIMULATED // SIMULATED_EACH)
    ]
    n_latest = int(options.connections * LATEST_SHARE)
    if n_latest == 0:
        raise LoadError(f"--connections must be {int(1 / LATEST_SHARE)} or more")
    with (
        tempfile.TemporaryDirectory(prefix="fastws-load-") as directory,
        Server(
            feed="sim",
            symbols=simulated,
            settings=settings | {"database": f"sqlite:///{directory}/last.db"},
        ) as server,
    ):
        crowds = [
            Crowd(server.url, options.connections - n_latest, groups, is_latest=False),
            Crowd(server.url, n_latest, groups, is_latest=True),
        ]
        began = time.monotonic()
        for crowd in crowds:
            crowd.begin()
        connect_s = time.monotonic() - began
        ended = threading.Event()
        outcome: list[Publisher] = []
        publishing = threading.Thread(
            target=lambda: outcome.append(uvloop.run(_publish_until_refused(server, published, ended)))
        )
        publishing.start()
        time.sleep(options.seconds)
        before = server.stats()
        signalled = time.monotonic()
        server.signal()
        status = server.wait(SHUTDOWN_TIMEOUT_S + GRACE_S)
        stop_s = time.monotonic() - signalled
        ended.set()
        publishing.join()
        were_ended = [crowd.join(GRACE_S) for crowd in crowds]
        log = server.logged("stopped")
        text = server.log()
        target = {"url": server.url, "command": server.shown_command, "environment": server.environment}
        kept = _kept_prices(server, simulated) if status == 0 else {}
    publisher = outcome[0] if outcome else None
    results = [crowd.client.result() for crowd in crowds]
    closes = Counter[int]()
    for result in results:
        closes.update(result["closes"])
    n_told = sum(result["shutdowns"] for result in results)
    delays = results[0]["return_delay"]
    newest, faults = _verdict(crowds, publisher)
    wrong = {
        code: (price, newest.get(("price_update", code)))
        for code, price in kept.items()
        if price != newest.get(("price_update", code), (0, None))[1]
    }
    if wrong or (status == 0 and not kept):
        faults.append(
            f"{len(wrong)} of {len(kept)} last prices are others after a restart: "
            + ", ".join(f"{code} {now} instead of {was}" for code, (now, was) in list(wrong.items())[:3])
        )
    if status != 0:
        faults.append(f"the server ended with {status} after {stop_s:.1f} s")
    if not all(were_ended):
        faults.append("connections were left open")
    if closes != {RESTART: options.connections}:
        faults.append(f"closed were {closes_text(closes)} instead of {options.connections} with {RESTART}")
    if n_told != options.connections:
        faults.append(f"{n_told} of {options.connections} were told when to come back")
    if "Traceback" in text:
        faults.append(f"the server logged a failure: {text[text.index('Traceback') :][:500]}")
    table = Table(f"stop: {options.connections:,} connections, {options.rate:,g} simulated updates/s")
    table.add("connected in", f"{connect_s:.2f} s")
    table.add("published", f"{before['sequence']:,} messages before the signal, {before['cohorts']} cohorts")
    table.add("delivered", f"{sum(result['messages'] for result in results):,} messages")
    cut = "and logged nothing of it" if log is None else f"{log['cut']:,} connections cut off"
    table.add("stopped", f"in {stop_s:.2f} s with status {status}, {cut}")
    table.add("told to come back", f"{n_told:,}" + (f": {durations(delays)}" if delays else ""))
    table.add(
        "known after a restart", f"{len(kept)} last prices, {len(kept) - len(wrong)} those that clients have"
    )
    table.add("closed", closes_text(closes))
    if publisher is not None:
        table.add("published with an answer", f"{publisher.n_accepted:,} of {len(publisher.record.at):,}")
    table.print()
    return {
        "target": target,
        "connect_seconds": connect_s,
        "stop_seconds": stop_s,
        "exit_status": status,
        "stopped": log,
        "prices_known_after_a_restart": len(kept),
        "closes": dict(closes),
        "told": n_told,
        "published_with_an_answer": publisher.n_accepted if publisher else 0,
        "load": results,
    }, faults


def _kept_prices(stopped: Server, symbols: Sequence[str]) -> dict[str, str]:
    """The last prices that a server knows which begins with the database of one that has ended, as they are written."""
    kept = {}
    database = {"database": stopped.environment["FASTWS_DATABASE"]}
    with Server(feed="none", symbols=symbols, settings=database) as server:
        for code in symbols:
            with (
                contextlib.suppress(HTTPError),  # one that never had a price
                urlopen(f"{server.http_url}/v1/stocks/{code}", timeout=10) as response,
            ):
                kept[code] = json.load(response, parse_int=str, parse_float=str)["price"]
    return kept


def _verdict(
    crowds: Sequence[Crowd], publisher: Publisher | None
) -> tuple[dict[Key, tuple[int, str | None]], list[str]]:
    """The newest value that anyone has of each stream, and what is wrong."""
    faults = []
    newest: dict[Key, tuple[int, str | None]] = {}
    for crowd in crowds:
        result: Any = crowd.client.result()
        name = "latest" if crowd.is_latest else "all"
        faults += [f"mode {name}: {fault} {result[fault]:,}" for fault in FAULTS if result[fault]]
        if result["lost"] and not crowd.is_latest:
            faults.append(
                f"mode {name}: {result['lost']:,} numbers are missing, {result['declared_lost']:,} declared"
            )
        for _, streams in crowd.last_values():
            for key, state in streams.items():
                newest[key] = max(newest.get(key, (0, None)), (state["seq"], state["price"]))
    behind = Counter[str]()
    examples = []
    for crowd in crowds:
        name = "latest" if crowd.is_latest else "all"
        for i, streams in crowd.last_values():
            wanted = {
                key
                for key in itertools.product(
                    ("price_update", "orderbook_update"), crowd.groups[i % len(crowd.groups)]
                )
                if key in newest
            }
            for key in wanted:
                last = streams.get(key)
                if last is None or (last["seq"], last["price"]) != newest[key]:
                    behind[name] += 1
                    examples.append(f"connection {i} has {last} of {key}, others {newest[key]}")
    faults += [
        f"mode {name}: {n:,} last values are not the newest; {examples[0]}" for name, n in behind.items()
    ]
    if publisher is None or not publisher.n_accepted:
        faults.append("nothing was published")
        return newest, faults
    for key, seq in publisher.accepted.items():
        if newest.get(key, (0, None))[0] < seq:
            faults.append(
                f"{key}: seq {seq} was accepted and {newest.get(key)} is the newest that anyone has"
            )
    return newest, faults
