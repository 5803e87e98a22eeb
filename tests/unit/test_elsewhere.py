"""Where the system has less than Linux, it goes on with less: by taking away here what others do not have."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from typing import Any

import pytest

from fastws.errors import SettingsError
from fastws.server import acceptor
from fastws.server.places import TcpPlace
from fastws.settings import Settings
from tests.serving import environment


async def listens(place: TcpPlace) -> bool:
    (sock,) = await place.bind()
    with sock:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


async def test_options_of_tcp_that_there_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TCP_USER_TIMEOUT", "TCP_NOTSENT_LOWAT"):
        monkeypatch.delattr(socket, name, raising=False)
    assert await listens(TcpPlace("127.0.0.1", 0))


async def test_options_of_tcp_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # No option of TCP has this number.
    for name in ("TCP_USER_TIMEOUT", "TCP_NOTSENT_LOWAT"):
        monkeypatch.setattr(socket, name, 9999, raising=False)
    assert await listens(TcpPlace("127.0.0.1", 0))


@pytest.mark.parametrize(
    ("most", "limit"), [(1 << 20, 1 << 20), (122_880, 61_440), (10_240, 10_240), (256, 256)]
)
def test_a_kernel_that_takes_less_than_its_hard_limit(
    monkeypatch: pytest.MonkeyPatch, most: int, limit: int
) -> None:
    # As macOS has it.
    taken: list[int] = []

    def setrlimit(which: int, limits: tuple[int, int]) -> None:
        assert (which, limits[1]) == (resource.RLIMIT_NOFILE, resource.RLIM_INFINITY)
        if limits[0] > most:
            raise ValueError("current limit exceeds maximum limit")
        taken.append(limits[0])

    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert acceptor.raise_fd_limit() == limit
    assert taken == ([] if limit == 256 else [limit])


def test_workers_are_of_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SettingsError, match="on Linux only"):
        Settings(workers=2)


def test_the_command_line_without_what_is_made_of_epoll() -> None:
    program = "import sys; sys.platform = 'darwin'; from fastws.cli import main; sys.exit(main(['--help']))"
    done: Any = subprocess.run(
        [sys.executable, "-c", program],
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "serve" in done.stdout
    assert "bench" not in done.stdout
