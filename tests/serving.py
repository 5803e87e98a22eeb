"""A fastws server as its users run it: a process of its own, on a free port, ended by a signal."""

from __future__ import annotations

import http.client
import importlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from tests.certificates import files, forced
from tests.rawclient import RawClient

ROOT = Path(__file__).parent.parent

# Of one worker, each used once.
_PORTS = iter(range(20_000, 20_500))
_START_SECONDS = 100.0
_STOP_SECONDS = 40.0
_URL = re.compile(r"(?:WebSocket +|\"websocket\": ?\")wss?://127\.0\.0\.1:(\d+)/v1/ws")
_FAILURE = re.compile(r"Traceback|\[(?:error|critical) *\]|Exception ignored|was never (?:awaited|retrieved)")


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """Wait for `condition` to be true and return its value; fail, naming `what`, when it does not come true."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


def require_program(name: str) -> str:
    """Return the path of a program. Where it is missing, fail in CI, and skip with the reason elsewhere."""
    path = shutil.which(name)
    if path is None:
        missing(f"the program {name} is not installed; `make system` installs it")
    return path


def missing(reason: str) -> NoReturn:
    """Say that a test cannot run for want of something: an error in CI, a skip elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)


def require_module(name: str) -> Any:
    """Return a module that an extra installs. Where it is missing, fail in CI, and skip with the reason elsewhere."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(f"{name} is not installed; `make .venv/.dev` installs it")


def free_port() -> int:
    """A port for a server that cannot say which one it got.

    Below those that the kernel gives to outgoing connections and to servers on port 0, of which the tests beside this
    one make thousands; each of their workers has ports of its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    for port in _PORTS:
        port += 500 * (worker % 20)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment of a server: none of the caller's settings, and `settings` as variables."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("FASTWS_")}
    # The servers run in directories of their own, where a checkout that is not installed would not be found.
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), variables.get("PYTHONPATH"))))
    return variables | {f"FASTWS_{name.upper()}": str(value) for name, value in settings.items()}


def command(*arguments: str) -> list[str]:
    # Warnings are errors in the server as they are in the tests.
    return [sys.executable, "-W", "error", "-m", "fastws", *arguments]


def run(directory: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run a command line that ends by itself."""
    return subprocess.run(
        command(*arguments),
        cwd=directory,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=_START_SECONDS,
        check=False,
    )


class Server:
    """One ``fastws serve``.

    `flags` are those of the command line, `settings` go as environment variables. It listens on a free port
    of the loopback address once the constructor returns, and answers ``/health``. :meth:`end` must be called.
    With the setting `certfile`, or with ``pytest --tls``, it speaks TLS: `tls` is what clients need for that, else
    None. They are :func:`tests.clients.client` with `url`, and those of :meth:`raw_client` and :meth:`http_connection`.
    """

    def __init__(self, directory: Path, *flags: str, **settings: object) -> None:
        self._is_signalled = False
        settings = forced | settings
        self.tls = files().authority.client_context() if "certfile" in settings else None
        self.log_path = directory / f"server-{time.monotonic_ns()}.log"
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command("serve", "--port", "0", *flags),
                cwd=directory,
                env=environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self.port = int(until(self._announced_port, "the start-up lines", _START_SECONDS))
            assert self.get_json("/health")["status"] == "ok"
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _announced_port(self) -> str | None:
        log = self.log
        assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{log}"
        found = _URL.search(log)
        # The lines of the welcome are written together; the last one has come when its end has.
        return found[1] if found and log.endswith("\n") else None

    @property
    def log(self) -> str:
        """Everything written to standard output and standard error so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def url(self) -> str:
        return self.url_of("/v1/ws")

    def url_of(self, path: str) -> str:
        """The address of a WebSocket path."""
        return f"{'ws' if self.tls is None else 'wss'}://127.0.0.1:{self.port}{path}"

    @property
    def http_url(self) -> str:
        """What paths are appended to."""
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def rss(self) -> int:
        """Resident memory of the server in bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def raw_client(self, **options: Any) -> RawClient:
        """Connect; see :class:`tests.rawclient.RawClient` for `options`."""
        return RawClient(self.port, tls=self.tls, **options)

    def http_connection(self) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.tls)

    def get(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Status and body of an HTTP request."""
        connection = self.http_connection()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get_json(self, path: str) -> Any:
        """The JSON body of a GET that is answered with 200."""
        status, body = self.get(path)
        assert status == 200, (path, status, body)
        return json.loads(body)

    def stats(self) -> dict[str, Any]:
        body: dict[str, Any] = self.get_json("/v1/ws/stats")
        return body

    def until_feed_is(self, status: str) -> None:
        """Wait until the only feed has reached a state."""
        until(lambda: list(self.stats()["feeds"].values()) == [status], f"feed {status}")

    def signal(self, number: signal.Signals) -> None:
        self._is_signalled = True
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end of the process; returns its exit status."""
        return self.process.wait(_STOP_SECONDS)

    def end(self) -> None:
        """Stop the server by SIGTERM, unless it was signalled; fail if it does not end with 0 or logged a failure."""
        if self.process.poll() is None and not self._is_signalled:
            self.signal(signal.SIGTERM)
        try:
            status = self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the server did not end within {_STOP_SECONDS:g} s of SIGTERM:\n{self.log}")
        log = self.log
        assert status == 0, f"the server ended with {status}:\n{log}"
        assert not _FAILURE.search(log), f"the server has logged a failure:\n{log}"
