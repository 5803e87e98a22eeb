"""A Redis of a run's own, as a process on a port of its own."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from benchmarks.program import ended_with_us
from fastws.bench import LoadError

PROGRAM = "redis-server"
_START_S = 10.0
_PORTS = range(30_500, 32_500)


class RedisServer:
    """One ``redis-server`` that keeps nothing. `start` and `kill` may be repeated: the port stays.

    It listens at `hosts`, of which the first is that of `url`; without `port` on a free one. With a `config` it is a
    sentinel.
    """

    def __init__(
        self,
        directory: Path,
        *options: str,
        port: int | None = None,
        hosts: Sequence[str] = ("127.0.0.1",),
        config: Path | None = None,
    ) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            raise LoadError(f"the program {PROGRAM} is not installed; `make system` installs it")
        self._directory = directory
        self._host = hosts[0]
        self.port = _free_port(self._host) if port is None else port
        self._command = [program, *([] if config is None else [str(config), "--sentinel"])]
        self._command += ["--port", str(self.port), "--bind", *hosts, "--dir", str(directory), *options]
        if config is None:
            # Whoever reaches the addresses of a run may use it: they are those of this machine.
            self._command += ["--save", "", "--appendonly", "no", "--protected-mode", "no"]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"redis://{self._host}:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it, and return once it answers."""
        log = self._directory / f"redis-{self.port}.log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=ended_with_us(signal.SIGKILL),
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise LoadError(f"{' '.join(self._command)} did not start:\n{log.read_text()}")
            time.sleep(0.01)

    def kill(self) -> None:
        if self.process is None:
            return
        # Also one that was stopped.
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> str:
        """The beginning of the answer to a command."""
        with socket.create_connection((self._host, self.port), 5) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(65536).decode()

    def _answers(self) -> bool:
        try:
            return self.command("PING").startswith(("+PONG", "-NOAUTH"))
        except OSError:
            return False


def _free_port(host: str) -> int:
    """Below those that the kernel gives to outgoing connections: while Redis is away, whoever tries to reach one of
    these may be given it as its own, and is connected with itself."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise LoadError("no port is free for Redis")
