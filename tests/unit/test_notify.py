"""What systemd is told, over a socket like its own."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastws.server.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """The socket of a service manager, and the environment that it gives to a service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = str(tmp_path / "notify") if request.param == "path" else f"@fastws-test-{time.monotonic_ns()}"
        sock.bind(name if request.param == "path" else "\0" + name[1:])
        sock.settimeout(5)
        yield sock, {"NOTIFY_SOCKET": name}


def test_the_states(manager: tuple[socket.socket, dict[str, str]]) -> None:
    sock, environ = manager
    notifier = Notifier(environ)
    notifier.ready("313 instruments,\nfeed sim")
    assert sock.recv(4096) == b"READY=1\nSTATUS=313 instruments, feed sim"
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    state, stamp = sock.recv(4096).decode().split("\n")
    assert state == "RELOADING=1"
    assert (
        before
        <= int(stamp.removeprefix("MONOTONIC_USEC="))
        <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    )
    notifier.stopping()
    assert sock.recv(4096) == b"STOPPING=1\nSTATUS=stopping"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/no/such/socket"}])
def test_without_a_manager_that_listens_nothing_happens(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready("ok")
    notifier.reloading()
    notifier.stopping()
