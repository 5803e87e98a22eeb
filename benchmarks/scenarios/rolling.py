"""A new process takes over from a running one under load: every value arrives, every session goes on, nobody rushes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import aiohttp
import orjson

from benchmarks.program import run_loop
from benchmarks.scenarios.peer import Peer, PeerError, connect
from benchmarks.scenarios.process import ADMIN_TOKEN, Server
from benchmarks.scenarios.publishing import MAX_FAULTS, TICK_S
from fastws.bench import LoadError
from fastws.bench.report import Table

RESTART = 1012
ANSWER_S = 30.0
BIN_S = 0.1
CODES_EACH = 2
# Of the moments that clients are told to come back at, no bin of 100 ms may have more than so many times its even
# share, and so many more by chance. When they do come back says as much of this process, which is all of them.
MOST_TIMES = 2.0
MOST_MORE = 10
# Fewer clients than these are spread by chance.
SPREAD_FROM = 1000
# Of the bins within the jitter, so many have somebody in them.
FILLED_SHARE = 0.8
# What the processes need besides to begin and to end.
GRACE_S = 30.0


class Publisher:
    """Publishes prices at `rate` a second, numbered from 1 for each code, at whichever process answers.

    What is not acknowledged is published again; `last` are the numbers that were acknowledged.
    """

    def __init__(self, url: str, codes: Sequence[str], rate: float) -> None:
        self.last: dict[str, int] = dict.fromkeys(codes, 0)
        self.n_accepted = 0
        self.n_again = 0
        self.repeated: set[tuple[str, int]] = set()
        self._url = f"{url}/v1/publish"
        self._rate = rate
        self._turns = itertools.cycle(codes)
        self._is_stopped = False

    def stop(self) -> None:
        self._is_stopped = True

    async def run(self) -> None:
        began = time.monotonic()
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            while not self._is_stopped:
                n = min(200, int((time.monotonic() - began) * self._rate) - self.n_accepted)
                if n > 0:
                    numbers = dict(self.last)
                    updates = [self._next(numbers) for _ in range(n)]
                    while not await self._publish(session, updates):
                        self.n_again += 1
                        self.repeated |= {(update["code"], update["price"]) for update in updates}
                    self.last = numbers
                    self.n_accepted += n
                await asyncio.sleep(TICK_S)

    def _next(self, numbers: dict[str, int]) -> dict[str, Any]:
        code = next(self._turns)
        numbers[code] += 1
        return {"type": "price_update", "code": code, "price": numbers[code]}

    async def _publish(self, session: aiohttp.ClientSession, updates: list[dict[str, Any]]) -> bool:
        try:
            async with session.post(self._url, data=orjson.dumps(updates)) as response:
                await response.read()
                return response.status == http.HTTPStatus.ACCEPTED
        except (aiohttp.ClientError, OSError):
            await asyncio.sleep(TICK_S)
            return False


class Client:
    """One client, which comes back when it is told to, with its session.

    `last` is the newest number of each code, `n_holes` how many numbers were left out on the way to it.
    """

    def __init__(self, url: str, codes: Sequence[str], publisher: Publisher) -> None:
        self.url = url
        self.codes = codes
        self.last = dict.fromkeys(codes, 0)
        self.n_updates = self.n_holes = 0
        # By the wall clock, which is the server's, too: when it is told to come back, and when it does.
        self.due_at: list[float] = []
        self.returned_at: list[float] = []
        self.outages_s: list[float] = []
        self.answers: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self._publisher = publisher
        self._came = asyncio.Event()
        self._answer: dict[str, Any] = {}
        self._delay_s: float | None = None
        self._session = ""
        self._epoch = ""
        self._sequence = 0
        self._peer: Peer | None = None

    async def begin(self) -> None:
        await self._connect("")
        await self._wait_for("connection")
        self._session = self._answer["connection_id"]
        self._open().send(
            type="subscribe", subscription_type="stock", targets=list(self.codes), mode="all", snapshot=False
        )
        await self._wait_for("subscribed")

    async def live(self) -> None:
        """Come back whenever the connection is closed, until cancelled."""
        while True:
            code = await self._open().closed
            ended = time.monotonic()
            if code != RESTART or self._delay_s is None:
                self.faults.append(f"closed with {code}, told to come back: {self._delay_s is not None}")
            await asyncio.sleep(self._delay_s or 0.0)
            self._delay_s = None
            self.returned_at.append(time.time())
            query = f"session_id={self._session}&last_sequence={self._sequence}&epoch={self._epoch}"
            while True:
                try:
                    await self._connect(query)
                    break
                except (OSError, PeerError) as error:
                    self.faults.append(f"could not come back: {error}")
                    await asyncio.sleep(0.1)
            try:
                await self._wait_for("reconnected")
            except TimeoutError:
                self.faults.append(f"was answered with {self._answer} when it came back")
                return
            self.outages_s.append(time.monotonic() - ended)
            self.answers.append(self._answer)
            self._session = self._answer.get("session_id", self._session)

    def reset(self) -> None:
        if self._peer is not None:
            self._peer.reset()

    def _open(self) -> Peer:
        if self._peer is None:
            raise LoadError("a client is not connected")
        return self._peer

    async def _connect(self, query: str) -> None:
        self._came.clear()
        self._answer = {}
        self._peer = await connect(self.url, self._take, query=query)

    async def _wait_for(self, kind: str) -> None:
        async with asyncio.timeout(ANSWER_S):
            while self._answer.get("type") != kind:
                self._came.clear()
                await self._came.wait()

    def _take(self, message: Any) -> None:
        kind = message["type"]
        if kind == "batch":
            for each in message["messages"]:
                self._take_update(each)
            self._sequence = message["sequence"]
        elif kind == "price_update":
            self._take_update(message)
        elif kind == "server_shutdown":
            self._delay_s = message["reconnect_after_ms"] / 1000
            self.due_at.append(datetime.fromisoformat(message["timestamp"]).timestamp() + self._delay_s)
        elif kind in ("connection", "subscribed", "reconnected", "error"):
            if kind == "connection":
                self._epoch, self._sequence = message["epoch"], message["sequence"]
            self._answer = message
            self._came.set()

    def _take_update(self, update: dict[str, Any]) -> None:
        if update["type"] != "price_update":
            return
        code, number = update["code"], update["price"]
        last = self.last[code]
        self.n_updates += 1
        self._sequence = update.get("sequence", self._sequence)
        if number <= last:
            if (code, number) not in self._publisher.repeated:
                self.faults.append(f"{code}: {number} after {last}")
            return
        self.n_holes += number - last - 1
        self.last[code] = number


async def _run(
    options: argparse.Namespace, settings: dict[str, object], codes: Sequence[str]
) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        old = stack.enter_context(await asyncio.to_thread(_server, settings, codes))
        publisher = Publisher(old.http_url, codes, options.rate)
        turns = itertools.cycle(codes)
        clients = [
            Client(old.url, [next(turns) for _ in range(CODES_EACH)], publisher)
            for _ in range(options.connections)
        ]
        for some in _hundreds(clients):
            await asyncio.gather(*(client.begin() for client in some))
        tasks = [loop.create_task(client.live()) for client in clients]
        publishing = loop.create_task(publisher.run())
        await asyncio.sleep(options.seconds)
        began = time.monotonic()
        new = stack.enter_context(await asyncio.to_thread(_server, settings, codes))
        ready_s = time.monotonic() - began
        status = await asyncio.to_thread(old.wait, options.spread + GRACE_S)
        gone_s = time.monotonic() - began
        await asyncio.sleep(options.seconds)
        publisher.stop()
        await publishing
        deadline = time.monotonic() + ANSWER_S
        while any(_behind(client, publisher) for client in clients) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        stats = await asyncio.to_thread(new.stats)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        died = [task.exception() for task in tasks if not task.cancelled()]
        for client in clients:
            client.reset()
        await asyncio.sleep(0)
        logs = old.log() + new.log()
        taken_over = old.logged("another process takes over") or {}
        described = {"url": old.url, "command": old.shown_command}
    late = sorted(
        max(0.0, at - due)
        for client in clients
        for due, at in zip(client.due_at, client.returned_at, strict=False)
    )
    outages = sorted(s for client in clients for s in client.outages_s)
    return {
        "target": described,
        "ready_seconds": ready_s,
        "gone_seconds": gone_s,
        "exit_status": status,
        "connections_at_takeover": taken_over.get("connections"),
        "connections_at_the_end": stats["active_connections"],
        "published": publisher.n_accepted,
        "published_again": publisher.n_again,
        "received": sum(client.n_updates for client in clients),
        "reconnects": sum(len(client.returned_at) for client in clients),
        "told_per_100_ms": _bins([at for client in clients for at in client.due_at]),
        "reconnects_per_100_ms": _bins([at for client in clients for at in client.returned_at]),
        "load_generator_late_ms_p99": 1000 * late[len(late) * 99 // 100] if late else None,
        "recovered": sum(bool(answer.get("recovered")) for client in clients for answer in client.answers),
        "restored_whole": sum(
            sorted(answer["restored_subscriptions"]["stock"]) == sorted(client.codes)
            for client in clients
            for answer in client.answers
        ),
        "outage_ms": {
            "p50": 1000 * outages[len(outages) // 2] if outages else None,
            "p99": 1000 * outages[len(outages) * 99 // 100] if outages else None,
            "max": 1000 * outages[-1] if outages else None,
        },
        "values_left_out_on_the_way": sum(client.n_holes for client in clients),
        "final_values_lost": sum(len(_behind(client, publisher)) for client in clients),
        "faults": [fault for client in clients for fault in client.faults][:MAX_FAULTS],
        "n_faults": sum(len(client.faults) for client in clients),
        "failures": [str(error) for error in died[:MAX_FAULTS]]
        + (["a traceback in a log"] if "Traceback" in logs else []),
    }


def _bins(times: Sequence[float]) -> list[int]:
    """Count them by bins of `BIN_S` from the first on."""
    first = min(times, default=0.0)
    bins = Counter(int((at - first) / BIN_S) for at in times)
    return [bins[i] for i in range(max(bins, default=-1) + 1)]


def _hundreds(clients: Sequence[Client]) -> list[Sequence[Client]]:
    return [clients[i : i + 100] for i in range(0, len(clients), 100)]


def _behind(client: Client, publisher: Publisher) -> list[str]:
    return [code for code in client.codes if client.last[code] != publisher.last[code]]


def _server(settings: dict[str, object], codes: Sequence[str]) -> Server:
    return Server(feed="none", symbols=codes, settings=settings)


def rolling(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """A new process takes over the port, the clients and their sessions from the old one, under load."""
    codes = [f"R{i:05d}" for i in range(options.symbols)]
    with tempfile.TemporaryDirectory(prefix="fastws-load-") as directory:
        settings: dict[str, object] = {
            "batch_interval_ms": options.batch_interval_ms,
            "shutdown_spread": options.spread,
            "upgrade_socket": f"{directory}/upgrade.sock",
            "database": f"sqlite:///{directory}/fastws.db",
        }
        result = run_loop(_run(options, settings, codes))
    return result, _verdict(result, options)


def _verdict(result: dict[str, Any], options: argparse.Namespace) -> list[str]:
    n = options.connections
    bins, returns = result["told_per_100_ms"], result["reconnects_per_100_ms"]
    even = n / max(1.0, options.spread / BIN_S)
    most = MOST_TIMES * even + MOST_MORE
    outage = result["outage_ms"]
    table = Table(
        f"rolling restart: {n:,} clients, {options.rate:,g} updates/s, {options.spread:g} s of jitter"
    )
    table.add("new process ready", f"after {result['ready_seconds']:.2f} s")
    table.add("old process gone", f"after {result['gone_seconds']:.2f} s with status {result['exit_status']}")
    table.add("published", f"{result['published']:,}, {result['published_again']:,} requests sent again")
    table.add("received", f"{result['received']:,} updates by all")
    table.add(
        "sessions recovered",
        f"{result['recovered']:,} of {n:,}, {result['restored_whole']:,} with all they held",
    )
    if outage["max"] is not None:
        table.add(
            "outage of a client",
            f"median {outage['p50']:.0f} ms, p99 {outage['p99']:.0f} ms, longest {outage['max']:.0f} ms",
        )
    table.add(
        "told to come back",
        f"{min(bins, default=0)} to {max(bins, default=0)} per 100 ms, {even:.0f} if even",
    )
    if (late := result["load_generator_late_ms_p99"]) is not None:
        table.add(
            "came back",
            f"{min(returns, default=0)} to {max(returns, default=0)} per 100 ms; the load generator was up to"
            f" {late:.0f} ms late (p99)",
        )
    table.add("final values lost", f"{result['final_values_lost']:,}")
    table.add("left out on the way", f"{result['values_left_out_on_the_way']:,}")
    table.print()
    faults = [*result["faults"], *result["failures"]]
    if result["exit_status"] != 0:
        faults.append(f"the old process ended with {result['exit_status']}")
    for name in ("recovered", "restored_whole", "connections_at_the_end", "reconnects"):
        if result[name] != n:
            faults.append(f"{name}: {result[name]:,} of {n:,}")
    for name in ("final_values_lost", "values_left_out_on_the_way"):
        if result[name]:
            faults.append(f"{name}: {result[name]:,}")
    if n < SPREAD_FROM:
        return faults
    if max(bins, default=0) > most:
        faults.append(
            f"{max(bins)} were told to come back within 100 ms, and {most:.0f} are the most to be expected"
        )
    if sum(count > 0 for count in bins) < FILLED_SHARE * options.spread / BIN_S:
        faults.append(
            f"they were told to come back within {sum(count > 0 for count in bins)} times 100 ms only"
        )
    return faults
