"""The faults, each with what it takes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from benchmarks.scenarios.fault_house import House, UnavailableError
from benchmarks.scenarios.peer import Peer, connect
from benchmarks.scenarios.process import ADMIN_TOKEN
from benchmarks.scenarios.publishing import Publisher, Reader
from benchmarks.scenarios.relay_chaos import Network
from benchmarks.scenarios.restore import Client, settle, symbol_names
from fastws.auth.tokens import sign
from fastws.bench import LoadError

SECRET = "known to nobody but a run of this program"
N_QUIET = 400
QUIET_RATE = 200.0
SLOW_OUTBOX = {"outbox_soft_bytes": 65_536, "outbox_hard_bytes": 262_144}
N_SLOW = 40
STALL_S = 4
SLOW_RATE = 1000
SLOW_S = 12.0
HALT_S = 10.0
FREEZE_S = 5.0
N_CUTS = 6
STORE_BYTES = 1 << 20
N_DESCRIPTORS = 120
MEMORY_ROOM = 96 << 20
CLOCK_STEPS_S = (3600, -3600, -86_400)
_FAKETIME = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
)


@dataclass(frozen=True)
class Kind:
    """A fault: `make` begins it and ends it. What the server needs for it is made beforehand, by name."""

    about: str
    make: Callable[[House, Ground], Awaitable[None]]
    settings: Mapping[str, object] = field(default_factory=dict)
    wants: str = ""


class Ground:
    """What a server stands on for a fault: a small disk, a clock that can be set, a network; a context manager.

    Raises:
        UnavailableError: it cannot be made here.
    """

    def __init__(self, kind: Kind) -> None:
        self.settings: dict[str, object] = dict(kind.settings)
        self.prefix: Sequence[str] = ()
        self.host = "127.0.0.1"
        self.clock: Path | None = None
        self.disk: Path | None = None
        self.network: Network | None = None
        self._wants = kind.wants
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Ground:
        try:
            if self._wants:
                getattr(self, f"_make_{self._wants}")()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _directory(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fastws-faults-")))

    def _make_disk(self) -> None:
        if os.geteuid() != 0:
            raise UnavailableError("a small disk takes root")
        self.disk = self._directory()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES}", "tmpfs", str(self.disk)], check=False
        ).returncode:
            raise UnavailableError("a tmpfs cannot be mounted here")
        self._stack.callback(subprocess.run, ["umount", "-l", str(self.disk)], check=False)
        self.settings |= {"database": f"sqlite:///{self.disk}/fastws.db", "save_interval": 0.5}

    def _make_clock(self) -> None:
        library = next((path for path in _FAKETIME if Path(path).exists()), None)
        if library is None:
            raise UnavailableError(
                "the wall clock of one process is set by libfaketime, which is not installed"
            )
        self.clock = self._directory() / "clock"
        self.clock.write_text("+0\n")
        self.prefix = [
            "env", f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={self.clock}", "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]  # fmt: skip

    def _make_descriptors(self) -> None:
        if shutil.which("prlimit") is None:
            raise UnavailableError("the program prlimit of util-linux is not installed")
        self.prefix = ["prlimit", f"--nofile={N_DESCRIPTORS}:{N_DESCRIPTORS}"]

    def _make_network(self) -> None:
        if os.geteuid() != 0 or shutil.which("tc") is None or shutil.which("ip") is None:
            raise UnavailableError("it takes root, and the programs ip and tc of iproute2")
        self.network = self._stack.enter_context(Network())
        self.host, self.prefix = self.network.front, self.network.prefix
        done = _netem(self.network, "add")
        if done.returncode:
            raise UnavailableError(f"the kernel has no netem: {done.stderr.strip()}")
        _netem(self.network, "del")


def _netem(network: Network, verb: str, *what: str) -> subprocess.CompletedProcess[str]:
    command = ["tc", "qdisc", verb, "dev", f"{network.name}f", "root", "netem", *what]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# Networks.


async def delay(house: House, ground: Ground) -> None:
    house.proxy.delay_s = 0.4
    await asyncio.sleep(4.0)
    house.proxy.delay_s = 0.0


async def closing(house: House, ground: Ground) -> None:
    for _ in range(N_CUTS):
        house.notes["closed"] = house.notes.get("closed", 0) + house.proxy.kill()
        await asyncio.sleep(0.5)


async def cut_mid_frame(house: House, ground: Ground) -> None:
    chance = random.Random(1)
    for _ in range(N_CUTS):
        house.proxy.cut_after(chance.randrange(1, 2000))
        wanted = house.proxy.n_accepted + len(house.behind)
        await house.until(partial(_has_accepted, house, wanted), "their return")
        await asyncio.sleep(0.3)


def _has_accepted(house: House, n: int) -> bool:
    return house.proxy.n_accepted >= n


async def half_open(house: House, ground: Ground) -> None:
    wanted = house.proxy.n_accepted + len(house.behind)
    house.proxy.stall()
    await house.until(partial(_has_accepted, house, wanted), "that they notice it")


async def throttle(house: House, ground: Ground) -> None:
    # What is connected has large buffers; what comes next has not.
    house.proxy.receive_buffer = 4096
    wanted = house.proxy.n_accepted + len(house.behind)
    house.proxy.kill()
    await house.until(partial(_has_accepted, house, wanted), "their return")
    await house.converge("what they want")
    for watcher in house.watchers:
        watcher.begin_anew()
    house.proxy.rate = SLOW_RATE
    await asyncio.sleep(SLOW_S)
    house.proxy.rate = 0.0


async def netem(house: House, ground: Ground) -> None:
    assert ground.network is not None
    _netem(ground.network, "add", "delay", "40ms", "20ms", "loss", "3%")
    await asyncio.sleep(8.0)
    _netem(ground.network, "del")


# Clients.


async def _stopped_readers(house: House, n: int) -> tuple[list[Peer], list[Any]]:
    """Connections that hold all symbols and read nothing from then on, and what they heard until then."""
    heard: list[Any] = []
    peers = [await connect(house.server.url, heard.append) for _ in range(n)]
    for peer in peers:
        peer.send(type="subscribe", subscription_type="stock", targets=list(house.symbols))
    await house.until(lambda: sum(each["type"] == "subscribed" for each in heard) == n, "their subscriptions")
    for peer in peers:
        peer.stop_reading()
    return peers, heard


async def slow_readers(house: House, ground: Ground) -> None:
    peers, _ = await _stopped_readers(house, N_SLOW)
    n_closed = 0

    def are_gone() -> bool:
        nonlocal n_closed
        n_closed = closes(house).get("4408", 0)
        return n_closed >= N_SLOW

    try:
        house.notes["gone_after_s"] = round(await house.until(are_gone, "their end"), 1)
    finally:
        for peer in peers:
            peer.reset()
    house.notes["closed with 4408"] = n_closed


async def reconnects(house: House, ground: Ground) -> None:
    """Every client of very many is cut off in the same moment, and all are back within a second."""
    n, chance = house.n_connections, random.Random(1)
    quiet = symbol_names(N_QUIET)
    publisher = Publisher(house.server, quiet, QUIET_RATE)
    clients = [
        Client(house.server.url, Reader(f"session {i}", chance.sample(quiet, 2), publisher.record), i)
        for i in range(n)
    ]
    for first in range(0, n, 100):
        await asyncio.gather(*(client.begin() for client in clients[first : first + 100]))
    publishing = asyncio.create_task(publisher.run())
    try:
        await asyncio.sleep(2.0)
        for client in clients:
            client.peer.reset()
        began = time.monotonic()

        async def come_back(client: Client) -> str:
            await asyncio.sleep(chance.random())
            answer = await client.come_back(chance.choice(("query", "message")), has_cursor=True)
            if answer["type"] != "reconnected":
                return str(answer["code"])
            return "recovered" if answer["recovered"] else "a snapshot"

        answers = Counter(await asyncio.gather(*(come_back(client) for client in clients)))
        all_back_s = time.monotonic() - began
        await settle(publisher, publishing, clients)
    finally:
        publishing.cancel()
    house.notes |= {**answers, "all back after ms": round(1000 * all_back_s)}
    house.check(answers == {"recovered": n}, f"of {n} sessions: {dict(answers)}")
    missing = sum(client.reader.missing() for client in clients)
    house.check(not missing, f"{missing} updates have not come")
    for client in clients:
        house.faults += client.reader.faults[:1]
        client.peer.reset()


def closes(house: House) -> dict[str, int]:
    return house.server.stats()["closes"]  # type: ignore[no-any-return]


# The machine.


async def clock_jumps(house: House, ground: Ground) -> None:
    assert ground.clock is not None
    for step_s in CLOCK_STEPS_S:
        ground.clock.write_text(f"{step_s:+d}\n")
        await asyncio.sleep(2.0)
    ground.clock.write_text("+0\n")
    await asyncio.sleep(1.0)
    house.notes["steps_s"] = list(CLOCK_STEPS_S)
    for watcher in house.watchers:
        house.check(not watcher.ledger.closes, f"{watcher.ledger.name} was cut off: {watcher.ledger.closes}")


async def full_disk(house: House, ground: Ground) -> None:
    assert ground.disk is not None
    filler = ground.disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # it is full
        while True:
            file.write(bytes(4096))
    house.check(shutil.disk_usage(ground.disk).free < 4096, "the disk is not full")
    status = await asyncio.to_thread(_add_alert, house)
    house.notes["a new alert meanwhile"] = status
    await asyncio.sleep(4.0)
    filler.unlink()
    began = time.monotonic()
    while await asyncio.to_thread(_add_alert, house) != 201:
        if time.monotonic() > began + 30:
            raise LoadError(f"alerts are not taken again\n{house.server.log()[-2000:]}")
        await asyncio.sleep(0.1)
    house.notes["alerts again after ms"] = round(1000 * (time.monotonic() - began))


def _add_alert(house: House) -> int:
    rule = {"code": house.symbols[0], "alert_type": "price_above", "threshold": 1e9}
    request = Request(
        f"{house.server.http_url}/v1/alerts",
        json.dumps(rule).encode(),
        {"Authorization": f"Bearer {sign({'sub': 'u'}, SECRET.encode(), 'HS256')}"},
    )
    try:
        with urlopen(request, timeout=20) as response:
            return int(response.status)
    except HTTPError as error:
        return error.code


async def no_descriptors(house: House, ground: Ground) -> None:
    """More come than the process may have, which neither ends it nor those that are there."""
    others: list[asyncio.StreamWriter] = []
    for _ in range(2 * N_DESCRIPTORS):
        with contextlib.suppress(OSError):  # refused, which is an answer too
            _, writer = await asyncio.open_connection(*house.place)
            others.append(writer)
    await asyncio.sleep(3.0)
    for writer in others:
        writer.close()
    began = time.monotonic()
    async with asyncio.timeout(30):
        peer = await connect(house.server.url, lambda message: None)
    house.notes["a new client after ms"] = round(1000 * (time.monotonic() - began))
    house.notes["accept pauses"] = await asyncio.to_thread(lambda: house.server.stats()["accept_pauses"])
    house.check(house.notes["accept pauses"] > 0, "there were descriptors for all")
    peer.reset()


async def little_memory(house: House, ground: Ground) -> None:
    """Slow readers, with little room for what they are owed: it is bounded, so it fits."""
    used = _address_space(house.server.pid)
    resource.prlimit(house.server.pid, resource.RLIMIT_AS, (used + MEMORY_ROOM, used + MEMORY_ROOM))
    peers, _ = await _stopped_readers(house, N_SLOW)
    await asyncio.sleep(SLOW_S)
    more = _address_space(house.server.pid) - used
    house.notes |= {"MB more": round(more / 1e6, 1), "MB allowed": round(MEMORY_ROOM / 1e6)}
    for peer in peers:
        peer.reset()


def _address_space(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


async def halt(house: House, ground: Ground) -> None:
    os.kill(house.server.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(HALT_S)
    finally:
        os.kill(house.server.pid, signal.SIGCONT)


# The feed.


async def frozen_feed(house: House, ground: Ground) -> None:
    house.publisher.hold(True)
    await asyncio.sleep(FREEZE_S)
    house.publisher.hold(False)


async def broken_feed(house: House, ground: Ground) -> None:
    """What is no message, and messages with wrong fields: all of a request is refused, and nothing of it published."""
    code = house.symbols[0]
    good = {"type": "price_update", "code": code, "price": 1}
    bodies = [
        b"", b"[", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 5000, json.dumps([good, {}]).encode(),
        json.dumps([good, good | {"price": "x"}]).encode(), json.dumps([good, good | {"sequence": 7}]).encode(),
        json.dumps([good, {"type": "orderbook_update", "code": code, "bids": [{}], "asks": []}]).encode(),
        json.dumps([good] * 5001).encode(), json.dumps(good)[:-1].encode(), os.urandom(300),
    ]  # fmt: skip
    answers: dict[int, int] = {}

    def send(body: bytes) -> int:
        request = Request(
            f"{house.server.http_url}/v1/publish", body, {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        )
        try:
            with urlopen(request, timeout=20) as response:
                return int(response.status)
        except HTTPError as error:
            return error.code

    for _ in range(5):
        for body in bodies:
            status = await asyncio.to_thread(send, body)
            answers[status] = answers.get(status, 0) + 1
    house.notes["answers"] = answers
    house.check(set(answers) <= {400, 413}, f"garbage was answered with {answers}")


KINDS: dict[str, Kind] = {
    "delay": Kind("a line of 0.4 s in either direction", delay),
    "closing": Kind("connections reset, six times", closing),
    "cut": Kind("connections ended in the middle of a frame, six times", cut_mid_frame),
    "half-open": Kind("a line on which nothing passes any more, and nobody is told", half_open),
    "throttle": Kind("a line of 1 KB/s for 12 s", throttle, SLOW_OUTBOX),
    "netem": Kind("40±20 ms and 3 % of packets lost, by the kernel", netem, wants="network"),
    "slow readers": Kind(
        f"{N_SLOW} clients that read nothing", slow_readers, {**SLOW_OUTBOX, "stall_timeout": STALL_S}
    ),
    "reconnects": Kind("all sessions cut off at once and back within a second", reconnects),
    "clock": Kind("the wall clock set an hour on, an hour back, a day back", clock_jumps, wants="clock"),
    "full disk": Kind("no room for the database for 4 s", full_disk, {"jwt_secret": SECRET}, wants="disk"),
    "descriptors": Kind("more connections than the process may have", no_descriptors, wants="descriptors"),
    "memory": Kind(
        f"{N_SLOW} slow readers and {MEMORY_ROOM >> 20} MiB more than it has", little_memory, SLOW_OUTBOX
    ),
    "halt": Kind(f"the process stopped for {HALT_S:g} s", halt),
    "frozen feed": Kind(f"nothing comes in for {FREEZE_S:g} s", frozen_feed),
    "broken feed": Kind("garbage comes in between", broken_feed),
}
