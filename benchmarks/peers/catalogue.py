"""The servers of `benchmarks.peers`: what each needs, and how it is started and ended."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from benchmarks.peers.nchan_publish import MODULE as NCHAN_MODULE
from benchmarks.program import ended_with_us
from fastws.bench import LoadError

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
COMPILER = shlex.split(os.environ.get("CC", "")) or ["cc"]
SYMBOL = "005930"
# As the simulator of fastws writes a price, up to the stamp.
HEAD = (
    f'{{"type":"price_update","code":"{SYMBOL}","name":"Company {SYMBOL}","price":72100,"change":100,'
    '"change_percent":0.14,"volume":1234567,"trade_volume":57,"high":72300,"low":71900,"venue":"KRX",'
    '"quality":"simulated","event_time":"2025-11-11T09:30:00.000Z","timestamp":"'
)


@dataclass(frozen=True)
class Peer:
    """A server to compare with.

    `command` makes, given a directory for what it has to write, the command line but for rate and head. `missing`
    tells what is not installed and how to get it, None when nothing is. `batches` says what it sends together.
    `is_asked` is whether a connection subscribes by a message, which is answered; else its upgrade subscribes it.
    """

    name: str
    what: str
    batches: str
    command: Callable[[Path], list[str]]
    missing: Callable[[], str | None]
    version: Callable[[], str]
    is_asked: bool = True


class Running:
    """A peer as a process of our own, accepting when constructed; a context manager that ends it.

    `pids` are the processes of the server, which a publisher beside it is not one of. Raises LoadError when it is not
    installed or does not start.
    """

    def __init__(self, peer: Peer, rate: float, *, cpu: int | None = None) -> None:
        reason = peer.missing()
        if reason:
            raise LoadError(f"{peer.name}: {reason}")
        self._directory = tempfile.TemporaryDirectory(prefix=f"fastws-{peer.name}-")
        directory = Path(self._directory.name)
        try:
            self.command = [*peer.command(directory), f"{rate:g}", HEAD]
            with (directory / "log").open("wb") as log:
                # A group of its own, so that what it starts ends with it.
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                    start_new_session=True,
                    # Not SIGKILL: some have processes of their own, which they end.
                    preexec_fn=ended_with_us(signal.SIGTERM),
                )
        except BaseException:
            self._directory.cleanup()
            raise
        try:
            ready = json.loads(self._ready_line() or "null")
            if not isinstance(ready, dict):
                text = (directory / "log").read_text(errors="replace").strip()
                raise LoadError(f"{peer.name} did not start: {text or 'it says nothing'}")
            self.url = f"ws://127.0.0.1:{ready['port']}/v1/ws"
            self.pids: list[int] = ready["pids"]
            if cpu is not None:
                for pid in self.pids:
                    for task in Path(f"/proc/{pid}/task").iterdir():
                        os.sched_setaffinity(int(task.name), {cpu})
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _ready_line(self) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select(
                [self._process.stdout], [], [], max(0.0, deadline - time.monotonic())
            )
            part = os.read(self._process.stdout.fileno(), 4096) if readable else b""
            if not part:
                return b""
            line += part
        return line

    def stop(self) -> None:
        """End the process and all that it started, by force if it does not end in time."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, number)
                try:
                    self._process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    continue
        if self._process.stdout:
            self._process.stdout.close()
        self._directory.cleanup()


def _compiled_floor(directory: Path) -> list[str]:
    program = directory / "floor"
    done = subprocess.run(
        [*COMPILER, "-O2", "-o", str(program), str(HERE / "floor.c")],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LoadError(f"floor.c cannot be compiled: {done.stderr.strip()}")
    return [str(program)]


def _python(module: str) -> Callable[[Path], list[str]]:
    return lambda directory: [sys.executable, "-m", f"benchmarks.peers.{module}"]


def _program(name: str) -> str | None:
    """A program of this directory's own npm packages, or one that is installed."""
    own = HERE / "node_modules" / ".bin" / name
    return str(own) if own.exists() else shutil.which(name)


def _no_program(name: str, how: str) -> Callable[[], str | None]:
    return lambda: None if _program(name) else f"the program {name} is not installed: {how}"


def _no_module(name: str) -> Callable[[], str | None]:
    how = f"the Python package {name} is not installed: make peers"
    return lambda: None if importlib.util.find_spec(name) else how


def _no_socketify() -> str | None:
    reason = _no_module("socketify")()
    if reason is None:
        # Its library is found and yet does not load where libuv is not installed.
        done = subprocess.run(
            [sys.executable, "-c", "import socketify"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1]
            reason = (
                f"socketify cannot be imported ({last}); it needs the system's libuv: make peers, as root"
            )
    return reason


def _no_nchan() -> str | None:
    if not shutil.which("nginx"):
        return "the program nginx is not installed: make peers, as root on a Debian"
    if not NCHAN_MODULE.exists():
        return f"nginx has no {NCHAN_MODULE}: make peers, as root on a Debian"
    return None


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip()


def _first_line(*command: str) -> Callable[[], str]:
    return lambda: _output(*command).partition("\n")[0]


def _nchan_version() -> str:
    nginx = re.search(r"nginx/\S+", _output("nginx", "-v"))
    package = _output("dpkg-query", "-W", "-f", "${Version}", "libnginx-mod-nchan")
    return f"{nginx[0] if nginx else 'nginx'}, Nchan {package}"


PEERS = (
    Peer(
        "floor",
        "a bare send() to one connection after the other, in C",
        "nothing",
        _compiled_floor,
        _no_program(COMPILER[0], "apt-get install gcc libc6-dev"),
        _first_line(*COMPILER, "--version"),
    ),
    Peer(
        "bun",
        "Bun's server.publish (uWebSockets)",
        "a turn of its loop",
        lambda directory: [_program("bun") or "bun", str(HERE / "bun_publish.js")],
        _no_program("bun", "make peers (it takes npm)"),
        lambda: _output(_program("bun") or "bun", "--version"),
    ),
    Peer(
        "socketify",
        "socketify's app.publish (uWebSockets under Python)",
        "a turn of its loop",
        _python("socketify_publish"),
        _no_socketify,
        lambda: importlib.metadata.version("socketify"),
    ),
    Peer(
        "nchan",
        "nginx with Nchan, published to over HTTP by a process beside it",
        "nothing",
        _python("nchan_publish"),
        _no_nchan,
        _nchan_version,
        # It ends a connection that sends something to a channel that it may only read.
        is_asked=False,
    ),
    Peer(
        "picows",
        "a loop over the connections of a picows server",
        "nothing",
        _python("picows_loop"),
        _no_module("picows"),
        lambda: importlib.metadata.version("picows"),
    ),
    Peer(
        "websockets",
        "websockets' broadcast on uvloop",
        "nothing",
        _python("websockets_broadcast"),
        _no_module("websockets"),
        lambda: importlib.metadata.version("websockets"),
    ),
)
"""All of them, the floor first."""
