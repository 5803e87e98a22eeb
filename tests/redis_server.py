"""A Redis of a test's own, as a process on a free port."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path
from types import TracebackType

from tests.serving import free_port, require_program, until


class RedisServer:
    """One ``redis-server`` that keeps nothing. `start` and `kill` may be repeated: the port stays.

    With a `config` it is a sentinel.
    """

    def __init__(self, directory: Path, *options: str, config: Path | None = None) -> None:
        self._command = [require_program("redis-server")]
        self._directory = directory
        self.port = free_port()
        if config is not None:
            self._command += [str(config), "--sentinel"]
        self._command += ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory), *options]
        if config is None:
            self._command += ["--save", "", "--appendonly", "no"]
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
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        log = self._directory / f"redis-{self.port}.log"
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        until(self._answers, f"redis-server, see {log}")

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
        with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
            connection.sendall(" ".join(words).encode() + b"\r\n")
            return connection.recv(65536).decode()

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "redis-server has ended"
        try:
            return self.command("PING").startswith(("+PONG", "-NOAUTH"))
        except OSError:
            return False
