"""Sockets that a service manager hands over: what is taken, and what is refused."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastws.errors import FastwsError, SettingsError
from fastws.server import handed, supervisor
from fastws.settings import Settings
from tests.rawclient import RawClient
from tests.serving import command, environment, free_port, require_program, until


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def given(n: int, names: str = "", *, pid: int | None = None) -> dict[str, str]:
    pid = os.getpid() if pid is None else pid
    return {"LISTEN_PID": str(pid), "LISTEN_FDS": str(n), "LISTEN_FDNAMES": names, "HOME": "/"}


async def test_what_listens_is_taken_once(listening: socket.socket) -> None:
    fd = os.dup(listening.fileno())
    environ = given(1, "fastws.socket")
    taken = handed.take(environ, first=fd)
    assert environ == {"HOME": "/"}
    (place,) = taken.main
    assert not taken.admin
    assert not place.is_local
    (sock,) = await place.bind()
    assert (sock.getsockname(), sock.get_inheritable(), sock.getblocking()) == (
        listening.getsockname(),
        False,
        False,
    )
    sock.close()
    place.release()
    assert not handed.take(environ, first=fd).main


async def test_the_name_says_whom_it_is_for(listening: socket.socket, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(str(path))
        local.listen()
        first = 200
        os.dup2(local.fileno(), first)
        os.dup2(listening.fileno(), first + 1)
        taken = handed.take(given(2, "clients:admin"), first=first)
    (main,), (admin,) = taken.main, taken.admin
    assert (main.is_local, admin.is_local) == (True, False)
    for place in (main, admin):
        (sock,) = await place.bind()
        sock.close()
        place.release()
    assert path.exists()


def test_what_is_for_another_process_stays(listening: socket.socket) -> None:
    environ = given(1, pid=os.getppid())
    assert not handed.is_any(environ)
    assert not handed.take(environ, first=listening.fileno()).main
    assert "LISTEN_FDS" in environ
    assert not handed.take({}).main


def test_what_does_not_listen_is_refused(tmp_path: Path) -> None:
    with (
        socket.socket() as bare,
        socket.socket(type=socket.SOCK_DGRAM) as datagrams,
        (tmp_path / "file").open("w") as file,
    ):
        for each in (bare, datagrams, file):
            with pytest.raises(FastwsError, match=f"descriptor {each.fileno()} is no stream socket"):
                handed.take(given(1), first=each.fileno())
            # Whoever opened it still has it.
            os.fstat(each.fileno())
    with pytest.raises(FastwsError, match="no number"):
        handed.take(given(1) | {"LISTEN_FDS": "many"})


def test_clients_wait_while_no_server_runs_and_none_is_refused(tmp_path: Path) -> None:
    # Of systemd: it starts the command when the first client comes, as a socket unit does.
    program = require_program("systemd-socket-activate")
    port, admin = free_port(), free_port()
    variables = environment({"feed": "sim"})
    log_path = tmp_path / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--listen=127.0.0.1:{port}",
                f"--listen=127.0.0.1:{admin}",
                "--fdname=clients:admin",
                *(
                    f"--setenv={name}={text}"
                    for name, text in variables.items()
                    if name in ("PATH", "PYTHONPATH", "FASTWS_FEED")
                ),
                *command("serve", "--port", "1"),
            ],
            cwd=tmp_path,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: b"Listening on" in log_path.read_bytes(), "the sockets")
        client = RawClient(port)
        assert client.read_message()["type"] == "connection"
        client.close()
        with socket.create_connection(("127.0.0.1", admin), timeout=10) as administrator:
            administrator.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            assert administrator.recv(4096).startswith(b"HTTP/1.1 200 ")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as stranger:
            stranger.sendall(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
            assert stranger.recv(4096).startswith(b"HTTP/1.1 404 ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0, log_path.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_workers_do_not_take_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in given(1).items():
        monkeypatch.setenv(name, text)
    settings = Settings(workers=2)
    with pytest.raises(SettingsError, match="workers: 2 workers share a port that they bind themselves"):
        supervisor.serve(settings, lambda: settings)
