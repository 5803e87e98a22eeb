"""The stop of a server as operators and load balancers see it: in which order, how long, and with which status."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.clients import client
from tests.conftest import StartServer
from tests.rawclient import RawClient
from tests.serving import Server, command, environment, free_port, run, until


def is_closed(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


# How long it takes.


def test_clients_that_never_answer_do_not_hold_it_up(server: StartServer) -> None:
    target = server("--feed", "sim", simulator_rate=5000, shutdown_timeout=3)
    clients = [target.raw_client(receive_buffer=4096) for _ in range(20)]
    for raw in clients:
        raw.send_message(type="subscribe", subscription_type="market", targets=["KOSPI"], mode="all")
    # They read nothing, and the server cannot get rid of what is for them.
    until(lambda: target.stats()["queued_bytes"] > 0, "blocked clients")
    began = time.monotonic()
    target.signal(signal.SIGTERM)
    assert target.wait() == 0
    assert time.monotonic() - began < 3.0 + 0.5
    assert "cut=20" in target.log
    for raw in clients:
        raw.close()


async def test_the_others_do_not_wait_for_a_slow_one(server: StartServer) -> None:
    target = server("--feed", "sim", simulator_rate=5000)
    slow = await asyncio.to_thread(target.raw_client, receive_buffer=4096)
    slow.send_message(type="subscribe", subscription_type="market", targets=["KOSPI"], mode="all")
    await asyncio.to_thread(until, lambda: target.stats()["queued_bytes"] > 0, "a blocked client")
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
        target.signal(signal.SIGTERM)
        began = time.monotonic()
        shutdown = await connection.until_type("server_shutdown")
        assert shutdown["reconnect_after_ms"] >= 500
        assert await connection.closed() == 1012
        assert time.monotonic() - began < 2.0
        assert target.process.poll() is None
    slow.close()
    assert await asyncio.to_thread(target.wait) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    target = Server(tmp_path, shutdown_timeout=60, shutdown_delay=30)
    try:
        target.signal(signal.SIGTERM)
        until(lambda: "stopping" in target.log, "the beginning of the end")
        began = time.monotonic()
        target.signal(number)
        assert target.wait() == 128 + number
        assert time.monotonic() - began < 2
    finally:
        target.process.kill()
        target.process.wait()
    assert "ended at once by a second signal" in target.log
    assert "Traceback" not in target.log


# What a load balancer sees.


async def test_not_ready_before_anything_ends(server: StartServer) -> None:
    target = server("--feed", "sim", shutdown_delay=1.5)
    async with client(target.url) as connection:
        await connection.subscribe("stock", "005930")
        await connection.until_snapshot()
        target.signal(signal.SIGTERM)
        await asyncio.to_thread(until, lambda: target.get("/ready")[0] == 503, "/ready to say 503")
        assert json.loads(target.get("/ready")[1])["status"] == "draining"
        # Until the load balancer has seen it, everything is as it was.
        assert target.get_json("/health")["status"] == "ok"
        async with client(target.url) as late:
            await late.subscribe("stock", "005930")
            await late.until_type("price_update")
        await connection.until_type("price_update")
        assert await connection.closed() == 1012
    assert is_closed(target.port)
    assert await asyncio.to_thread(target.wait) == 0


def test_nothing_is_published_once_the_last_values_leave(server: StartServer) -> None:
    target = server(admin_token="secret", shutdown_timeout=4)
    stubborn = target.raw_client()
    body = b'{"type":"price_update","code":"005930","price":1}'
    request = (
        b"POST /v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    with target.raw_client(handshake=False) as publisher:
        publisher.send(request)
        assert publisher.read_response()[0] == 202
        target.signal(signal.SIGTERM)
        until(lambda: is_closed(target.port), "the end of listening")
        publisher.send(request)
        status, headers, answer = publisher.read_response()
        assert (status, json.loads(answer)["error"]["code"]) == (503, "SHUTTING_DOWN")
        assert headers["retry-after"] == "5"
    assert target.wait() == 0
    stubborn.close()


# Starts that do not come to their end.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_start(tmp_path: Path, number: signal.Signals) -> None:
    """A database that does not answer holds the start up, and not the stop."""
    with socket.create_server(("127.0.0.1", 0)) as database:
        url = f"postgresql+psycopg://u:p@127.0.0.1:{database.getsockname()[1]}/db?connect_timeout=60"
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                command("serve", "--port", "0", "--database", url),
                env=environment({"shutdown_timeout": 2}),
                cwd=tmp_path,
                stderr=log,
            )
        try:
            database.settimeout(20)
            with database.accept()[0]:
                began = time.monotonic()
                # What would end a program that does not expect it waits until the start is done.
                process.send_signal(signal.SIGHUP)
                process.send_signal(number)
                status = process.wait(10)
                assert time.monotonic() - began < 4
        finally:
            process.kill()
            process.wait()
    text = (tmp_path / "log").read_text()
    assert status in (0, 1), text
    assert "Traceback" not in text


def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run(
            tmp_path,
            "serve",
            "--port",
            str(port),
            "--unix-socket",
            "fastws.sock",
            "--database",
            "sqlite:///x.db",
        )
    assert result.returncode == 2
    assert f"port: {port}" in result.stderr
    assert not (tmp_path / "fastws.sock").exists()
    # The write-ahead log is merged into the database when its last connection is closed.
    # The lock beside it is only a name: to take it away would let two servers each hold one of their own.
    assert {path.name for path in tmp_path.iterdir()} == {"x.db", "x.db-server"}


# Standard error that is not there, or goes away.


def test_without_standard_error(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" 2>&- >&- <&-', "sh", *command("serve", "--port", str(port), "--feed", "sim")],
        env=environment({}),
        cwd=tmp_path,
    )
    try:
        until(lambda: not is_closed(port), "the server", 30)
        with RawClient(port) as raw:
            assert raw.read_message()["type"] == "connection"
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


def test_a_reader_of_the_log_that_goes_away(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        command("serve", "--port", str(port), "--feed", "sim", "--log-level", "debug"),
        env=environment({}),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()
        until(lambda: not is_closed(port), "the server", 30)
        with RawClient(port) as raw:
            assert raw.read_message()["type"] == "connection"
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "SIGUSR2 does nothing: without upgrade_socket no process takes over"),
        (["--workers", "2"], "SIGUSR2 does nothing: no process takes over from workers"),
    ],
    ids=["one", "workers"],
)
def test_a_signal_to_be_taken_over_ends_nobody(tmp_path: Path, flags: list[str], line: str) -> None:
    server = Server(tmp_path, *flags)
    try:
        server.signal(signal.SIGUSR2)
        until(lambda: line in server.log, "the word of it")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    finally:
        server.process.kill()
        server.process.wait()


IN_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_the_end_of_its_terminal_is_its_end(tmp_path: Path) -> None:
    """Closing the window sends SIGHUP as well, and nobody would know of a server that goes on without it."""
    port = free_port()
    window, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_TERMINAL, *command("serve", "--port", str(port))],
        env=environment({}),
        cwd=tmp_path,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    try:
        until(lambda: not is_closed(port), "the server", 30)
        # As long as the terminal is there, it is a request like any other.
        process.send_signal(signal.SIGHUP)
        shown = b""
        while b"nothing has changed" not in shown:
            shown += os.read(window, 65536)
        os.close(window)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


def test_a_stop_that_hangs_is_given_up(tmp_path: Path) -> None:
    """Nothing that is known does this: the loop stands still in the middle of the stop."""
    (tmp_path / "sitecustomize.py").write_text(
        "import time\nimport fastws.server.drain as m\nm.Drain.run = lambda self: time.sleep(60)\n"
    )
    port = free_port()
    variables = environment({"shutdown_timeout": 1})
    variables["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{variables['PYTHONPATH']}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command("serve", "--port", str(port)), env=variables, cwd=tmp_path, stderr=log
        )
    try:
        until(lambda: not is_closed(port), "the server", 30)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(15) == 1
        assert time.monotonic() - began < 2.5
    finally:
        process.kill()
        process.wait()
    assert "took longer than shutdown_timeout" in (tmp_path / "log").read_text().splitlines()[-1]
