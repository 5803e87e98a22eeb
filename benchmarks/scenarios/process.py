"""The processes of a run seen from outside: the server under load, and the machine standing still."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.request import urlopen

from fastws.bench import LoadError

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 15.0
# A processor that lets nobody run for so long shows in latencies.
STALL_MS = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """The server and the machine at one moment."""

    at: float
    cpu_s: float
    rss: int
    machine_busy_s: float
    """Processor time that all processes together have used."""
    waited_s: float
    """How long threads of the server were ready to run and had no processor."""


class Process:
    """A process seen from outside, through /proc."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def sample(self) -> Sample:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        with open("/proc/stat") as file:
            busy = [int(field) for field in file.readline().split()[1:9]]
        idle = busy[3] + busy[4]
        cpu_s, waited_s = self._schedstat()
        return Sample(time.monotonic(), cpu_s, pages * _PAGE, (sum(busy) - idle) / _TICKS, waited_s)

    def cpu_seconds(self) -> float:
        """Processor time of all threads, to the nanosecond: the sum in `stat` counts whole ticks of 10 ms."""
        return self._schedstat()[0]

    def _schedstat(self) -> tuple[float, float]:
        ran = waited = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends meanwhile
                fields = (task / "schedstat").read_text().split()
                ran += int(fields[0])
                waited += int(fields[1])
        return ran / 1e9, waited / 1e9

    def memory(self) -> dict[str, int]:
        """Resident and proportional size in bytes, exactly and not from the counters that lag behind."""
        sizes = {}
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in {"Rss", "Pss"}:
                sizes[name.lower()] = int(rest.split()[0]) * 1024
        return sizes

    def reset_peak(self) -> None:
        """Let `peak` start anew from what is resident now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """The most that was resident since the start or `reset_peak`, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise LoadError(f"the kernel tells no peak of the memory of process {self.pid}")


def tcp_memory() -> int:
    """Bytes that the kernel holds in TCP buffers, of all processes."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            return int(words[words.index("mem") + 1]) * _PAGE
    return 0


def clean_environment() -> dict[str, str]:
    """The caller's environment without settings of a server."""
    return {name: text for name, text in os.environ.items() if not name.startswith("FASTWS_")}


class Server(Process):
    """`fastws serve` as a process of our own, listening when constructed; a context manager that ends it.

    `symbols` makes its instrument table; `settings` are those of the server by name.
    """

    def __init__(
        self,
        *,
        feed: str,
        symbols: Sequence[str],
        settings: Mapping[str, object],
        cpu: int | None = None,
    ) -> None:
        self._files = contextlib.ExitStack()
        self.directory = Path(self._files.enter_context(tempfile.TemporaryDirectory(prefix="fastws-load-")))
        table = self.directory / "symbols.csv"
        rows = [f"{symbol},Company {symbol},KOSPI,IT,72000\n" for symbol in symbols]
        table.write_text("symbol,name,market,sector,previous_close\n" + "".join(rows))
        self._log: IO[bytes] = self._files.enter_context((self.directory / "log").open("w+b"))
        self.command = [
            sys.executable, "-m", "fastws", "serve", "--host", "127.0.0.1", "--port", "0", "--feed", feed,
            "--symbols-file", str(table), "--log-format", "json",
        ]  # fmt: skip
        self.environment = {f"FASTWS_{name.upper()}": str(value) for name, value in settings.items()}
        # Whose Python it was is nobody's business in a committed result.
        self.shown_command = ["python", *self.command[1:]]
        self._process = subprocess.Popen(
            self.command,
            env=clean_environment() | self.environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        super().__init__(self._process.pid)
        try:
            self.http_url = self._wait_for_url()
            self.url = self.http_url.replace("http://", "ws://") + "/v1/ws"
            if cpu is not None:
                os.sched_setaffinity(self.pid, {cpu})
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_for_url(self) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            found = self.logged("listening")
            if found is not None:
                return str(found["url"])
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise LoadError(f"{' '.join(self.command)} did not start:\n{self.log()}")
            time.sleep(0.05)

    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def logged(self, event: str) -> dict[str, Any] | None:
        """The first log entry of that name."""
        for line in self.log().splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # what is no log entry
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("event") == event:
                    return entry
        return None

    def stats(self) -> dict[str, Any]:
        with urlopen(f"{self.http_url}/v1/ws/stats", timeout=10) as response:
            body: dict[str, Any] = json.load(response)
        return body

    def signal(self) -> None:
        """Ask for a planned stop."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> int | None:
        """The exit status; None when it does not end in time."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """End the process, by force if it does not end in time."""
        if self._process.poll() is None:
            self.signal()
            if self.wait(STOP_TIMEOUT_S) is None:
                self._process.kill()
                self._process.wait()
        self._files.close()


_PROBE = f"""
import os, sys, time
os.sched_setaffinity(0, {{int(sys.argv[1])}})
while True:
    wake = time.monotonic() + 0.001
    time.sleep(0.001)
    awake = time.monotonic()
    if (awake - wake) * 1000 > {STALL_MS}:
        print(wake, awake, flush=True)
"""


class StallProbe:
    """Tells whether the machine stood still: one sleeper for each processor that wakes a thousand times a second.

    One that is woken late may only have waited for others to make way. When all are late at the same time, the machine
    let nobody run. A context manager; what it has seen is complete once it has been left. Times are those of the
    monotonic clock, as (from, to).
    """

    def __init__(self) -> None:
        self.late: list[list[tuple[float, float]]] = []
        """By processor, when its sleeper was late."""
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> StallProbe:
        for cpu in sorted(os.sched_getaffinity(0)):
            process = subprocess.Popen(
                [sys.executable, "-S", "-c", _PROBE, str(cpu)], stdout=subprocess.PIPE, text=True
            )
            self._processes.append(process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            output, _ = process.communicate()
            pairs = (line.split() for line in output.splitlines())
            self.late.append([(float(first), float(last)) for first, last in pairs])

    def stalls(self) -> list[tuple[float, float]]:
        """When the sleepers of all processors were late at once."""
        common = self.late[0] if self.late else []
        for other in self.late[1:]:
            common = [
                (max(mine[0], its[0]), min(mine[1], its[1]))
                for mine in common
                for its in other
                if mine[0] < its[1] and its[0] < mine[1]
            ]
        return common

    def report(self) -> dict[str, Any]:
        """`machine_stall_max_ms` is of all processors at once, `processor_stall_max_ms` of any; 0: none was seen."""
        stalls = sorted(self.stalls(), key=_length, reverse=True)
        alone = [_length(stall) for late in self.late for stall in late]
        return {
            "machine_stall_max_ms": round(1000 * _length(stalls[0]), 1) if stalls else 0.0,
            "processor_stall_max_ms": round(1000 * max(alone, default=0.0), 1),
            "machine_stalls": len(stalls),
            "machine_stalls_longest": [
                {"at": stall[0], "ms": 1000 * _length(stall)} for stall in stalls[:20]
            ],
        }


def _length(stall: tuple[float, float]) -> float:
    return stall[1] - stall[0]


@dataclass(frozen=True)
class Target:
    """What is measured: a URL, and the process behind it when it is known."""

    url: str
    process: Process | None
    command: list[str]
    environment: dict[str, str]


@contextlib.contextmanager
def pinned(text: str | None) -> Iterator[int | None]:
    """Keep this process on the second of two processors, as in ``0,1``; yields the first, for the server."""
    if not text:
        yield None
        return
    cpus = [int(cpu) for cpu in text.split(",")]
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpus[-1]})
    try:
        yield cpus[0]
    finally:
        os.sched_setaffinity(0, own)
