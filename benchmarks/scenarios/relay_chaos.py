"""Three servers that all publish, joined by a Redis that is killed again and again and then out of reach of one."""

from __future__ import annotations

import argparse
import asyncio
import bisect
import contextlib
import http
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from benchmarks.program import run_loop
from benchmarks.scenarios.goals import Goal, judge, tell
from benchmarks.scenarios.ledger import CHANNELS
from benchmarks.scenarios.peer import Peer, connect
from benchmarks.scenarios.process import Server
from benchmarks.scenarios.publishing import MAX_FAULTS, UPDATE_TYPES, Key, Publisher, Record
from benchmarks.scenarios.redis_server import RedisServer
from benchmarks.scenarios.relay import await_joined, metrics
from fastws.bench import LoadError
from fastws.bench.report import Table

N_INSTANCES = 3
N_SYMBOLS = 18
"""Of each server, which alone publishes them. No multiple of five: every fifth update is a book, so all get both."""
OUTAGES_S = (0.3, 1.0, 2.5, 0.6, 4.0)
CALM_S = 2.0
CONVERGE_S = 30.0
LOOK_S = 0.005
# What is sent elsewhere and kept for those that miss it: less than a partition costs, so that some of it is lost.
HISTORY_BYTES = 400_000

GOALS = (
    Goal("slowest to converge after a kill", 2000, "ms"),
    Goal("to converge after the partition", 2000, "ms"),
    Goal("longest pause of a server's own updates", 500, "ms"),
)


class Network:
    """A switch with the address of Redis, and a server's network of its own behind it; a context manager.

    `front` is where that network is reached for all but the relay. While it is `cut`, nothing passes between it and
    the switch, and neither side is told so.
    """

    def __init__(self) -> None:
        # Names of interfaces have 15 characters at most.
        self.name = f"fastws{os.getpid()}"
        number = os.getpid() % 250
        self.redis, self._back = f"10.213.{number}.1", f"10.213.{number}.2"
        self._root_front, self.front = f"10.214.{number}.1", f"10.214.{number}.2"
        self.prefix = ["ip", "netns", "exec", self.name]
        self._switch, self._port = f"{self.name}s", f"{self.name}p"

    def __enter__(self) -> Network:
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise LoadError("a partition takes a network of its own: root, and the program ip of iproute2")
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _make(self) -> None:
        name, port, front = self.name, self._port, f"{self.name}f"
        _ip("netns", "add", name)
        _ip("link", "add", self._switch, "type", "bridge")
        _ip("addr", "add", f"{self.redis}/24", "dev", self._switch)
        _ip("link", "set", self._switch, "up")
        for outside, address in ((port, self._back), (front, self.front)):
            inside = f"{outside}i"
            _ip("link", "add", outside, "type", "veth", "peer", "name", inside)
            _ip("link", "set", inside, "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", inside)
            _ip("-n", name, "link", "set", inside, "up")
            _ip("link", "set", outside, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("addr", "add", f"{self._root_front}/24", "dev", front)
        self.cut(False)

    def _remove(self) -> None:
        # Its interfaces and their other ends go with it.
        for command in (("netns", "del", self.name), ("link", "del", self._switch)):
            with contextlib.suppress(LoadError):  # what was not made yet
                _ip(*command)

    def cut(self, is_cut: bool) -> None:
        _ip("link", "set", self._port, *(["nomaster"] if is_cut else ["master", self._switch]))


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Account:
    """What a client of one server has got of all symbols in mode all, held against what all servers published.

    1. Each update comes once, in the order in which it was published.
    2. What is left out is declared: no number of a symbol is missing that was not told before. In the end there are as
       many numbers as updates were published. Until then a newer value may be ahead of the numbers of those that it
       has overtaken.
    3. `own_pause_s` is the longest time between two updates of the server's own symbols.
    """

    def __init__(self, name: str, records: Mapping[str, Record], own: Sequence[str]) -> None:
        self.name = name
        self.records = records
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.own_pause_s = 0.0
        self.seqs: dict[Key, int] = {(kind, code): 0 for kind in UPDATE_TYPES for code in records}
        self.places: dict[Key, int] = dict.fromkeys(self.seqs, 0)
        """How many had been published of a symbol when the value was that was shown last."""
        self.answers: asyncio.Queue[str] = asyncio.Queue()
        self._own = frozenset(own)
        self._own_at = 0.0
        self._declared: dict[Key, set[int]] = {key: set() for key in self.seqs}

    def take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "batch":
            for update in message["messages"]:
                self._take(update)
        elif kind in UPDATE_TYPES:
            self._take(message)
        elif kind == "overflow":
            for item in message["items"]:
                key = (CHANNELS[item["channel"]], item["code"])
                self.counts["declared"] += item["dropped"]
                self._declared[key] |= set(range(item["from_seq"], item["to_seq"] + 1))
        elif kind not in ("feed_status", "symbol_status"):
            self.answers.put_nowait(kind)

    def _take(self, update: dict[str, Any]) -> None:
        key, seq = (update["type"], update["code"]), update["seq"]
        numbers = self.records[key[1]].numbers[key]
        last = self.seqs[key]
        if seq <= last:
            self._fault(f"{key}: seq {seq} after {last}")
        elif missing := set(range(last + 1, seq)) - self._declared[key]:
            self._fault(f"{key}: seq {seq} after {last}, and nothing was said of {len(missing)} between")
        place = bisect.bisect_left(numbers, update["n"]) + 1
        if place > len(numbers) or numbers[place - 1] != update["n"]:
            self._fault(f"{key} seq {seq}: number {update['n']} was never published")
        elif not seq <= place or place <= self.places[key]:
            self._fault(f"{key} seq {seq}: update {place} after {self.places[key]}")
        self.places[key] = place
        self._declared[key] = {number for number in self._declared[key] if number > seq}
        self.seqs[key] = max(last, seq)
        self.counts["updates"] += 1
        if key[1] in self._own:
            now = time.monotonic()
            if self._own_at:
                self.own_pause_s = max(self.own_pause_s, now - self._own_at)
            self._own_at = now

    def _fault(self, text: str) -> None:
        self.counts["faults"] += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(f"{self.name}: {text}")

    def is_at(self, wanted: Mapping[Key, int]) -> bool:
        return all(self.places[key] >= n for key, n in wanted.items())

    def undeclared(self, wanted: Mapping[Key, int]) -> int:
        """How many are missing in the end of which nothing was said."""
        return sum(abs(n - self.seqs[key]) for key, n in wanted.items())

    def behind(self, wanted: Mapping[Key, int]) -> str:
        found = {key: (self.places[key], n) for key, n in wanted.items() if self.places[key] < n}
        key = next(iter(found))
        return f"{self.name} is behind in {len(found)} of {len(wanted)}, {key} is at {found[key][0]} of {found[key][1]}"


class House:
    """The servers, who publishes at each, and who is connected."""

    def __init__(self, servers: Sequence[Server], redis: RedisServer, network: Network, rate: float) -> None:
        self.servers = servers
        self.redis = redis
        self.network = network
        self.publishers = [Publisher(server, symbols_of(i), rate) for i, server in enumerate(servers)]
        records = {code: self.publishers[i].record for i in range(len(servers)) for code in symbols_of(i)}
        self.accounts = [
            Account(f"the client of server {i}", records, symbols_of(i)) for i in range(len(servers))
        ]
        self._peers: list[Peer] = []

    async def connect(self) -> None:
        symbols = [code for i in range(len(self.servers)) for code in symbols_of(i)]
        for server, account in zip(self.servers, self.accounts, strict=True):
            peer = await connect(server.url, account.take)
            peer.send(type="subscribe", subscription_type="stock", targets=symbols)
            self._peers.append(peer)
            async with asyncio.timeout(CONVERGE_S):
                while await account.answers.get() != "subscribed":
                    pass

    def disconnect(self) -> None:
        for peer in self._peers:
            peer.reset()

    def published(self) -> dict[Key, int]:
        """How many there are of everything by now."""
        return {
            key: len(numbers)
            for publisher in self.publishers
            for key, numbers in publisher.record.numbers.items()
        }

    async def converge(self) -> float:
        """Wait until everybody has all of what was published before this, or something newer; returns the ms."""
        wanted, began = self.published(), time.monotonic()
        while not all(account.is_at(wanted) for account in self.accounts):
            if time.monotonic() > began + CONVERGE_S:
                raise LoadError(
                    "; ".join(each.behind(wanted) for each in self.accounts if not each.is_at(wanted))
                )
            await asyncio.sleep(LOOK_S)
        return 1000 * (time.monotonic() - began)

    def declared(self) -> list[int]:
        return [account.counts["declared"] for account in self.accounts]


def symbols_of(i: int) -> list[str]:
    """Those that server `i` publishes."""
    return [f"{100_000 * (i + 1) + n}" for n in range(N_SYMBOLS)]


async def _run(house: House, options: argparse.Namespace) -> dict[str, Any]:
    await house.connect()
    publishing = [asyncio.create_task(publisher.run()) for publisher in house.publishers]
    try:
        await asyncio.sleep(CALM_S)
        kills = []
        for i in range(options.kills):
            outage_s = OUTAGES_S[i % len(OUTAGES_S)]
            house.redis.kill()
            await asyncio.sleep(outage_s)
            await asyncio.to_thread(house.redis.start)
            kills.append({"outage_s": outage_s, "converge_ms": await house.converge()})
            await asyncio.sleep(CALM_S)
        declared = house.declared()
        await asyncio.to_thread(house.network.cut, True)
        await asyncio.sleep(options.partition)
        n_seen = [await asyncio.to_thread(metrics, server) for server in house.servers]
        await asyncio.to_thread(house.network.cut, False)
        partition = {"seconds": options.partition, "converge_ms": await house.converge()}
        await asyncio.sleep(CALM_S)
        for publisher in house.publishers:
            publisher.stop()
        await asyncio.gather(*publishing)
        final_ms = await house.converge()
    finally:
        for task in publishing:
            task.cancel()
    values = [await asyncio.to_thread(_values, server, house.published()) for server in house.servers]
    counts = [await asyncio.to_thread(metrics, server) for server in house.servers]
    house.disconnect()
    await asyncio.sleep(0)
    return {
        "kills": kills,
        "partition": partition
        | {
            "up": [each["up"] for each in n_seen],
            "instances": [each["instances"] for each in n_seen],
            "declared": [now - before for before, now in zip(declared, house.declared(), strict=True)],
        },
        "final_converge_ms": final_ms,
        "published": sum(house.published().values()),
        "accounts": [
            {
                "own_pause_ms": 1000 * account.own_pause_s,
                "counts": account.counts,
                "undeclared": account.undeclared(house.published()),
                "faults": account.faults,
            }
            for account in house.accounts
        ],
        "last_values_differ": sum(len({*map(str, each)}) > 1 for each in zip(*values, strict=True)),
        "last_values": len(values[0]),
        "relay": counts,
    }


def _values(server: Server, published: Mapping[Key, int]) -> list[Any]:
    """The last price of every symbol there, as its number and price."""
    found = []
    for code in sorted({code for _, code in published}):
        with urlopen(f"{server.http_url}/v1/stocks/{code}", timeout=10) as response:
            assert response.status == http.HTTPStatus.OK
            body = json.load(response)
        found.append((code, body["n"], body["price"], body["seq"]))
    return found


@contextlib.contextmanager
def _house(options: argparse.Namespace) -> Iterator[House]:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastws-load-")))
        network = stack.enter_context(Network())
        redis = stack.enter_context(RedisServer(directory, hosts=[network.redis]))
        settings = {
            "relay": redis.url,
            "relay_history_bytes": HISTORY_BYTES,
            "batch_interval_ms": options.batch_interval_ms,
            "subscription_limit": N_INSTANCES * N_SYMBOLS,
        }
        symbols = [code for i in range(N_INSTANCES) for code in symbols_of(i)]

        def server(**place: Any) -> Server:
            return stack.enter_context(Server(feed="none", symbols=symbols, settings=settings, **place))

        servers = [
            *(server() for _ in range(N_INSTANCES - 1)),
            server(host=network.front, prefix=network.prefix),
        ]
        await_joined(servers)
        yield House(servers, redis, network, options.rate)


def chaos(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Redis killed under load, and a server cut off from it: what is lost is told, and all end with the same."""
    with _house(options) as house:
        result = run_loop(_run(house, options))
        logs = [server.log() for server in house.servers]
    kills = [kill["converge_ms"] for kill in result["kills"]]
    pauses = [account["own_pause_ms"] for account in result["accounts"]]
    partition = result["partition"]
    goals = judge(
        GOALS,
        {
            "slowest to converge after a kill": max(kills, default=None),
            "to converge after the partition": partition["converge_ms"],
            "longest pause of a server's own updates": max(pauses),
        },
    )
    table = Table(
        f"relay under fire: {N_INSTANCES} servers with {options.rate:,g} updates/s each, {options.kills} kills of"
        f" Redis, one server cut off for {options.partition:g} s"
    )
    table.add("converged after a kill", ", ".join(f"{ms:.0f}" for ms in kills) + " ms")
    table.add("converged after the partition", f"{partition['converge_ms']:.0f} ms")
    table.add("declared lost in the partition", ", ".join(f"{n:,}" for n in partition["declared"]))
    table.add(
        "updates to the clients", ", ".join(f"{each['counts']['updates']:,}" for each in result["accounts"])
    )
    table.add("longest pauses of own updates", ", ".join(f"{ms:.0f}" for ms in pauses) + " ms")
    tell(table, goals)
    table.print()
    return result | {"goals": goals}, _faults(result, logs)


def _faults(result: Mapping[str, Any], logs: Sequence[str]) -> list[str]:
    partition = result["partition"]
    faults = [fault for account in result["accounts"] for fault in account["faults"]]
    faults += [
        f"client {i}: the numbers of {account['undeclared']} updates are missing, or too many"
        for i, account in enumerate(result["accounts"])
        if account["undeclared"]
    ]
    checks: list[tuple[bool, str]] = [
        (partition["up"] == [1, 1, 0], f"relays that were up in the partition: {partition['up']}"),
        (partition["instances"][:2] == [1, 1], f"instances heard in the partition: {partition['instances']}"),
        (result["last_values_differ"] == 0, f"{result['last_values_differ']} last values differ"),
        (not any("Traceback" in log for log in logs), "a server has logged a failure"),
    ]
    return faults + [text for is_well, text in checks if not is_well]
