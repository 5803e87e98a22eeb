"""A process and the machine seen from outside: the server under load, and the machine standing still."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from fastws._version import __version__
from fastws.bench._client import LoadError

STALL_MS: Final = 10.0
"""A processor that lets nobody run for so long shows in latencies."""

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


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


def thread_waited_s() -> float:
    """How long the calling thread has been ready to run and had no processor."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


_PROBE_START_S: Final = 30.0
_PROBE: Final = f"""
import os, signal, sys, time
parent = int(sys.argv[2])
os.sched_setaffinity(0, {{int(sys.argv[1])}})
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
print("watching", flush=True)
while not asked and os.getppid() == parent:
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
        self._processes: list[tuple[subprocess.Popen[str], IO[str]]] = []

    def __enter__(self) -> StallProbe:
        for cpu in sorted(os.sched_getaffinity(0)):
            # Not a pipe: nobody reads before the end, and a sleeper that waits for room in it sees nothing.
            output = tempfile.TemporaryFile("w+")
            # A group of their own: Ctrl-C is not for them.
            process = subprocess.Popen(  # noqa: S603 - a constant program
                [sys.executable, "-S", "-c", _PROBE, str(cpu), str(os.getpid())],
                stdout=output,
                text=True,
                process_group=0,
            )
            self._processes.append((process, output))
        try:
            self._wait_until_watching()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait_until_watching(self) -> None:
        deadline = time.monotonic() + _PROBE_START_S
        for process, output in self._processes:
            while os.fstat(output.fileno()).st_size == 0:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise LoadError("what looks whether the machine stands still did not start")
                time.sleep(0.002)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, _ in self._processes:
            process.terminate()
        for process, output in self._processes:
            process.wait()
            with output:
                output.seek(0)
                output.readline()
                pairs = (line.split() for line in output)
                self.late.append([(float(first), float(last)) for first, last in pairs])

    def stalls(self) -> list[tuple[float, float]]:
        """When the sleepers of all processors were late at once."""
        common = self.late[0] if self.late else []
        for other in self.late[1:]:
            common = list(_common(common, other))
        return common

    def stalled_ms(self, first: float, last: float) -> float:
        """How long the machine stood still between two moments."""
        return 1000 * sum(max(0.0, min(last, until) - max(first, since)) for since, until in self.stalls())

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


def _common(
    first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]
) -> Iterator[tuple[float, float]]:
    """What two lists of times share, each in order and without overlaps."""
    at = 0
    for since, until in first:
        while at < len(second) and second[at][1] <= since:
            at += 1
        for i in range(at, len(second)):
            other_since, other_until = second[i]
            if other_since >= until:
                break
            yield max(since, other_since), min(until, other_until)


def _length(stall: tuple[float, float]) -> float:
    return stall[1] - stall[0]


def machine() -> dict[str, Any]:
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    facts = {
        name: Path(f"/proc/sys/net/{name}").read_text().split()
        for name in ("core/somaxconn", "ipv4/tcp_rmem", "ipv4/tcp_wmem", "ipv4/tcp_congestion_control")
    }
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {"fastws": __version__, "uvloop": version("uvloop")},
        "load_average": os.getloadavg(),
        "net": facts,
    }
