"""Live portfolios: a hundred thousand in the database, thousands of them watched, and prices that never stop."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import Request, urlopen

import aiohttp
import sqlalchemy as sa

from benchmarks.program import run_loop
from benchmarks.scenarios.goals import Goal, judge, tell
from benchmarks.scenarios.process import ADMIN_TOKEN, Server
from benchmarks.scenarios.recording import codes, read_until
from benchmarks.scenarios.report import describe, verdict
from benchmarks.scenarios.steady import even_prices
from fastws.auth.tokens import sign
from fastws.bench import LoadClient, LoadError
from fastws.bench.measure import observe
from fastws.bench.report import Table, mib
from fastws.market.store import Store

SECRET = "the secret of a load run, of more than 32 bytes"
OWNER = "load"
N_PROBES = 100
WARM_UP_S = 2.0
MAX_FAULTS = 20
_ROWS = 50_000  # written at a time

GOALS = {
    # watched, prices/s
    (5_000, 2_000.0): (Goal("p99", 150, "ms"), Goal("server", 0.5, "cores")),
}


async def make_portfolios(
    url: str,
    n: int,
    each: int,
    symbols: Sequence[str],
    *,
    owner: str | None = None,
    n_probes: int = 0,
    seed: int = 1,
) -> None:
    """A database with the portfolios 1 to `n`, of `each` different symbols in fractions of shares.

    `owner` has all of them, or each its own; the next `n_probes` have one share of one symbol, one after the other.
    """
    generator = random.Random(seed)
    store = Store(url)
    await store.open()

    def write(connection: sa.Connection) -> None:
        rows: list[tuple[object, ...]] = [
            (i, owner or f"user-{i}", f"Portfolio {i}", "KRW") for i in range(1, n + n_probes + 1)
        ]
        connection.exec_driver_sql(
            "INSERT INTO portfolios (id, owner, name, currency) VALUES (?, ?, ?, ?)", rows
        )
        rows = []
        for i in range(1, n + n_probes + 1):
            held = generator.sample(symbols, each) if i <= n else [symbols[(i - n - 1) % len(symbols)]]
            rows += [
                (
                    i,
                    symbol,
                    f"{generator.randint(1, 500)}.{generator.randint(0, 9999):04d}" if i <= n else "1",
                )
                for symbol in held
            ]
            if len(rows) >= _ROWS or i == n + n_probes:
                connection.exec_driver_sql(
                    "INSERT INTO positions (portfolio_id, symbol, quantity) VALUES (?, ?, ?)", rows
                )
                rows = []

    try:
        await store.run(write)
    finally:
        await store.close()


class Probes:
    """Clients that look at one symbol and at a portfolio of one share of it, on a thread; a context manager.

    `latencies` (ms) are from the time in a price to the arrival of the first `portfolio_update` behind it. What that
    shows must be a price that came, and its change.
    """

    def __init__(self, server: Server, token: str, watched: Sequence[tuple[int, str]]) -> None:
        self.latencies: list[float] = []
        self.faults: list[str] = []
        self.n_updates = 0
        self._url = server.url
        self._token = token
        self._watched = watched
        self._is_measuring = False
        self._is_done = threading.Event()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="probes")

    def __enter__(self) -> Probes:
        self._thread.start()
        if not self._is_ready.wait(30):
            self._end()
            raise LoadError(f"the probes do not get their portfolios: {self.faults[:1]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._is_done.set()
        self._thread.join()

    def begin(self) -> None:
        """Measure from now on."""
        self._is_measuring = True

    def end(self) -> None:
        self._is_measuring = False

    def _fault(self, text: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(text)

    async def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self._token}"}
        async with aiohttp.ClientSession(headers=headers) as session, AsyncExitStack() as stack:
            ready = [asyncio.Event() for _ in self._watched]
            tasks = []
            for (number, symbol), is_ready in zip(self._watched, ready, strict=True):
                socket = await stack.enter_async_context(session.ws_connect(self._url, max_msg_size=1 << 22))
                for kind, target in (("stock", symbol), ("portfolio", str(number))):
                    request = {"type": "subscribe", "subscription_type": kind, "targets": [target]}
                    await socket.send_str(json.dumps(request))
                tasks.append(asyncio.create_task(self._follow(socket, number, is_ready)))
            waiting = [asyncio.create_task(event.wait()) for event in ready]
            await asyncio.wait(waiting, timeout=20)
            if all(task.done() for task in waiting):
                self._is_ready.set()
            while not self._is_done.is_set():
                await asyncio.sleep(0.05)
            for task in (*tasks, *waiting):
                task.cancel()
            await asyncio.wait((*tasks, *waiting))

    async def _follow(
        self, socket: aiohttp.ClientWebSocketResponse, number: int, is_ready: asyncio.Event
    ) -> None:
        prices: list[tuple[str, str, float]] = []  # value, change, when it was published (ms)
        shown: tuple[str, str] | None = None
        async for frame in socket:
            at_ms = time.time() * 1000
            message = json.loads(frame.data, parse_float=str, parse_int=str)
            is_snapshot = "snapshot" in message
            for item in message.get("messages", (message,)):
                if item["type"] == "price_update":
                    price = (item["price"], item.get("change", "0"))
                    if price == shown:
                        # Back where it was before anything was published, so nothing will be.
                        prices.clear()
                    elif not prices or price != prices[-1][:2]:
                        prices.append((*price, _ms_of(item["timestamp"])))
                elif item["type"] == "portfolio_update":
                    value = (item["total_value"], item["daily_change"])
                    # The first price may be the close that it counted at.
                    if "unpriced" not in item and value != shown:
                        self._take(prices, value, number, at_ms, is_snapshot)
                    shown = value
                    is_ready.set()
                elif item["type"] == "error":
                    self._fault(f"portfolio {number}: {item}")

    def _take(
        self,
        prices: list[tuple[str, str, float]],
        value: tuple[str, str],
        number: int,
        at_ms: float,
        is_snapshot: bool,
    ) -> None:
        places = [i for i, price in enumerate(prices) if price[:2] == value]
        if not places:
            if not is_snapshot:
                self._fault(f"portfolio {number} is worth {value}, which is no price that came")
            return
        behind = prices[: places[-1] + 1]
        del prices[: places[-1] + 1]
        if self._is_measuring and not is_snapshot:
            self.n_updates += 1
            self.latencies += [at_ms - price[2] for price in behind]


class Reloads(threading.Thread):
    """Has the server read everything again, `n` times within some seconds; `seconds` is how long each took."""

    def __init__(self, server: Server, n: int, within: float) -> None:
        super().__init__(name="reloads")
        self.seconds: list[float] = []
        self.fault: str | None = None
        self._url = f"{server.http_url}/v1/portfolios/reload"
        self._n = n
        self._pause = within / (n + 1)
        self._is_done = threading.Event()

    def run(self) -> None:
        for _ in range(self._n):
            if self._is_done.wait(self._pause):
                return
            request = Request(self._url, method="POST", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
            try:
                with urlopen(request, timeout=60) as response:
                    self.seconds.append(json.load(response)["seconds"])
            except OSError as error:
                self.fault = f"a reload failed: {error}"

    def end(self) -> None:
        self._is_done.set()
        self.join()


def _ms_of(text: str) -> float:
    """When the message of this second and millisecond was published, of the present day."""
    hours, minutes, seconds = text[11:-1].split(":")
    today = time.time() // 86_400 * 86_400_000
    return today + 3_600_000 * int(hours) + 60_000 * int(minutes) + 1000 * float(seconds)


def portfolios(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Watched portfolios of a large database: how late their values are, and what they cost the server."""
    n_connections = max(1, options.watched // options.each)
    symbols = codes(options.symbols)
    token = sign({"sub": OWNER}, SECRET.encode(), "HS256")
    settings = even_prices(options.rate) | {
        "batch_interval_ms": options.batch_interval_ms,
        "jwt_secret": SECRET,
        "connections_per_user": 0,
        "subscription_limit": max(50, options.each),
    }
    if options.interval_ms is not None:
        settings["portfolio_interval_ms"] = options.interval_ms
    with tempfile.TemporaryDirectory(prefix="fastws-load-") as directory:
        url = f"sqlite:///{Path(directory) / 'portfolios.db'}"
        run_loop(
            make_portfolios(
                url,
                options.portfolios,
                options.positions,
                symbols,
                owner=OWNER,
                n_probes=N_PROBES,
                seed=options.seed,
            )
        )
        began = time.monotonic()
        with Server(feed="sim", symbols=symbols, settings=settings | {"database": url}) as server:
            start_s = time.monotonic() - began
            rss = server.sample().rss
            target = {"url": server.url, "command": server.shown_command, "environment": server.environment}
            watched = [(options.portfolios + i + 1, symbols[i % len(symbols)]) for i in range(N_PROBES)]
            client = LoadClient(
                server.url,
                n_connections,
                subscribe=lambda i: _subscription(range(i * options.each + 1, (i + 1) * options.each + 1)),
                check="none",
                headers={"Authorization": f"Bearer {token}"},
            )
            try:
                with Probes(server, token, watched) as probes:
                    connecting = time.monotonic()
                    client.connect(timeout=60.0)
                    connect_s = time.monotonic() - connecting
                    read_until(
                        client,
                        lambda: (
                            server.stats()["subscriptions_by_type"].get("portfolio", 0)
                            >= n_connections * options.each + N_PROBES
                        ),
                        "not all of them are watched",
                    )
                    client.run(WARM_UP_S)
                    client.reset()
                    before = _n_published(server)
                    probes.begin()
                    reloads = Reloads(server, options.reloads, options.seconds)
                    reloads.start()
                    run = observe(client, server, seconds=options.seconds, connect_s=connect_s)
                    probes.end()
                    reloads.end()
                    published = (_n_published(server) - before) / options.seconds
            finally:
                client.close(timeout=0)
    latencies = sorted(probes.latencies)
    if not latencies:
        raise LoadError("no portfolio_update came")
    p50, p99 = (latencies[min(len(latencies) - 1, int(share * len(latencies)))] for share in (0.5, 0.99))
    assert run.server is not None
    figures = {"p99": p99, "server": run.server["cpu_cores"]}
    # They are for days on which positions change now and then.
    known = () if options.reloads else GOALS.get((n_connections * options.each, options.rate), ())
    goals = judge(known, figures)
    table = Table(
        f"portfolios: {n_connections * options.each:,} of {options.portfolios:,} watched"
        f" ({options.positions} positions each) by {n_connections:,} connections, {options.rate:,g} prices/s"
    )
    describe(table, run, argparse.Namespace(rate=options.rate, url="portfolios", mode="latest"))
    table.add("start with all of them", f"{start_s:.1f} s, {mib(rss)} resident")
    table.add("published", f"{published:,.0f} portfolio updates/s")
    table.add(
        "from a price to the portfolio_update",
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {latencies[-1]:.1f} ms ({len(latencies):,} prices)",
    )
    if reloads.seconds:
        table.add("read again meanwhile", ", ".join(f"{seconds:.1f} s" for seconds in reloads.seconds))
    tell(table, goals)
    table.print()
    return {
        "target": target,
        "run": asdict(run),
        "start_seconds": start_s,
        "start_rss": rss,
        "published_per_second": published,
        "latency_ms": {"p50": p50, "p99": p99, "max": latencies[-1], "n": len(latencies)},
        "reload_seconds": reloads.seconds,
        "goals": goals,
    }, verdict(run) + probes.faults + ([reloads.fault] if reloads.fault else [])


def _n_published(server: Server) -> float:
    """Portfolio updates so far. They take no numbers that anybody could see; the administrator is told how many."""
    request = Request(f"{server.http_url}/metrics", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
    with urlopen(request, timeout=10) as response:
        for line in response.read().decode().splitlines():
            if line.startswith('fastws_updates_published_total{channel="portfolio"}'):
                return float(line.rpartition(" ")[2])
    raise LoadError("the server does not tell how many portfolio updates it has published")


def _subscription(numbers: range) -> bytes:
    request = {"type": "subscribe", "subscription_type": "portfolio", "targets": [str(i) for i in numbers]}
    return json.dumps(request, separators=(",", ":")).encode()
