"""What is measured: a server of our own or one that runs, and where it runs."""

from __future__ import annotations

import contextlib
import dataclasses
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
from urllib.request import Request, urlopen

from benchmarks.program import ended_with_us
from fastws.bench import LoadError
from fastws.bench.process import Process, Sample

# A machine that is busy with other things takes its time.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
ADMIN_TOKEN = "the administrator of a load run"
_SHOWN_FAULTS = 5
_PAGE = os.sysconf("SC_PAGE_SIZE")


def tcp_memory() -> int:
    """Bytes that the kernel holds in TCP buffers, of all processes."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            words = line.split()
            return int(words[words.index("mem") + 1]) * _PAGE
    return 0


def _children(pid: int) -> list[Process]:
    """The processes that a process has started, the first one first."""
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Process(child) for child in sorted(map(int, words))]


def clean_environment() -> dict[str, str]:
    """The caller's environment without settings of a server."""
    return {name: text for name, text in os.environ.items() if not name.startswith("FASTWS_")}


class Server(Process):
    """`fastws serve` as a process of our own, listening when constructed; a context manager that ends it.

    `symbols` makes its instrument table; `settings` are those of the server by name. It listens at `host`, and is
    started by `prefix`, such as a command that leads into a network namespace. Its administrator has ADMIN_TOKEN.
    A scenario that leaves it without an error has to have left its accounts in order; see :meth:`check_ledger`.
    """

    def __init__(
        self,
        *,
        feed: str,
        symbols: Sequence[str],
        settings: Mapping[str, object],
        cpu: int | None = None,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        self._files = contextlib.ExitStack()
        self.directory = Path(self._files.enter_context(tempfile.TemporaryDirectory(prefix="fastws-load-")))
        table = self.directory / "symbols.csv"
        rows = [f"{symbol},Company {symbol},KOSPI,IT,72000\n" for symbol in symbols]
        table.write_text("symbol,name,market,sector,previous_close\n" + "".join(rows))
        self._log: IO[bytes] = self._files.enter_context((self.directory / "log").open("w+b"))
        self.command = [
            *prefix, sys.executable, "-m", "fastws", "serve", "--host", host, "--port", "0", "--feed", feed,
            "--symbols-file", str(table), "--log-format", "json",
        ]  # fmt: skip
        given = {"admin_token": ADMIN_TOKEN, **settings}
        self.environment = {f"FASTWS_{name.upper()}": str(value) for name, value in given.items()}
        n_workers = int(str(settings.get("workers", 1)))
        self._workers: list[Process] = []
        self._is_stopping = False
        # Whose Python it was is nobody's business in a committed result.
        self.shown_command = ["python" if word == sys.executable else word for word in self.command]
        self._process = subprocess.Popen(
            self.command,
            env=clean_environment() | self.environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            preexec_fn=ended_with_us(signal.SIGKILL),
        )
        super().__init__(self._process.pid)
        try:
            self.http_url = self._wait_for_url("listening" if n_workers == 1 else "ready")
            self._workers = _children(self.pid) if n_workers > 1 else []
            self.url = self.http_url.replace("http://", "ws://") + "/v1/ws"
            if cpu is not None:
                for process in (self, *self._workers):
                    os.sched_setaffinity(process.pid, {cpu})
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # One that was ended, or killed, cannot be asked any more.
            if error is None and self._process.poll() is None and not self._is_stopping:
                self.check_ledger()
        finally:
            self.stop()

    def sample(self) -> Sample:
        """That of all its processes together."""
        sample = super().sample()
        others = [worker.sample() for worker in self._workers]
        return dataclasses.replace(
            sample,
            cpu_s=sample.cpu_s + sum(other.cpu_s for other in others),
            rss=sample.rss + sum(other.rss for other in others),
            waited_s=sample.waited_s + sum(other.waited_s for other in others),
        )

    def cpu_by_process(self) -> dict[str, float]:
        """Processor time of the server, in s, or of its parent process and each worker."""
        if not self._workers:
            return {"server": self.cpu_seconds()}
        workers = {f"worker {n}": worker.cpu_seconds() for n, worker in enumerate(self._workers, 1)}
        return {"parent": self.cpu_seconds(), **workers}

    def _wait_for_url(self, event: str) -> str:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            found = self.logged(event)
            if found is not None:
                url = str(found.get("url") or found["websocket"])
                return url.replace("ws://", "http://").removesuffix("/v1/ws")
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

    def ledger(self, *, is_whole: bool = True) -> dict[str, Any]:
        """What the server says became of every update; its sums only without `is_whole`."""
        what = "" if is_whole else "?topics=false&connections=false"
        request = Request(
            f"{self.http_url}/v1/ws/ledger{what}", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}
        )
        with urlopen(request, timeout=30) as response:
            body: dict[str, Any] = json.load(response)
        return body

    def check_ledger(self) -> None:
        """Hold what went to clients, waits, was replaced or lost against what was published for them.

        Raises:
            LoadError: it does not add up; the text says where.
        """
        found = self.ledger(is_whole=False)
        if not found["balanced"]:
            raise LoadError(f"the ledger of the server does not add up: {found['faults'][:_SHOWN_FAULTS]}")

    def signal(self) -> None:
        """Ask for a planned stop."""
        self._is_stopping = True
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as it is ended where a machine loses its power."""
        self._process.kill()

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
