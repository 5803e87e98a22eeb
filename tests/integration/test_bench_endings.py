"""How ``fastws bench`` ends: interrupted, without its server, without a reader, and on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from tests import benching, serving
from tests.benching import TIMEOUT_S, begin, until_told

pytestmark = pytest.mark.plain("the load client speaks no TLS")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[serving.Server]:
    yield from benching.serve(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_reports(server: serving.Server, number: signal.Signals) -> None:
    process = begin("--url", server.url, "--connections", "20", "--duration", "60", "--ramp-up", "0")
    until_told(process, "measuring")
    children = psutil.Process(process.pid).children()
    process.send_signal(number)
    out, error = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, error
    assert "interrupted after" in out
    assert "ok: no message lost" in out
    assert "Traceback" not in error
    assert children
    assert not psutil.wait_procs(children, TIMEOUT_S)[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_interrupted_while_connecting_says_so(server: serving.Server, number: signal.Signals) -> None:
    process = begin("--url", server.url, "--connections", "20", "--ramp-up", "60")
    until_told(process, "connecting")
    process.send_signal(number)
    out, error = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out) == (130, "")
    assert error.splitlines()[-1] == "interrupted while connecting: there is nothing to report"


def test_a_run_interrupted_while_it_closes_reports(server: serving.Server) -> None:
    """Its server stands still, so that closes are waited for."""
    process = begin("--url", server.url, "--connections", "20", "--duration", "0.5", "--ramp-up", "0")
    try:
        serving.until(lambda: server.stats()["subscriptions_by_type"]["stock"] == 20 * 4, "subscriptions")
        server.process.send_signal(signal.SIGSTOP)
        until_told(process, "measuring")
        for _ in range(2):
            process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=TIMEOUT_S)
    finally:
        server.process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
    assert process.returncode == 1, out + error
    assert "20 opened in" in out
    assert "FAULT: no message came" in out
    assert "Traceback" not in error


def test_an_interrupted_storm_is_left_out_of_the_report(server: serving.Server) -> None:
    process = begin(
        "--url", server.url, "--connections", "20", "--duration", "0.5", "--ramp-up", "0", "--reconnect-storm"
    )
    until_told(process, "checking")
    process.send_signal(signal.SIGTERM)
    out, error = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, error
    assert "note: interrupted while waiting for what was missed after the cut, which is not checked" in out
    assert "were cut at once" not in out


@pytest.mark.parametrize("streams", [("stdout",), ("stdout", "stderr")])
def test_a_report_that_nobody_reads_is_written_to_a_file(
    server: serving.Server, tmp_path: Path, streams: tuple[str, ...]
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    path = tmp_path / "out.json"
    process = begin(
        "--url", server.url, "--connections", "5", "--duration", "0.2", "--ramp-up", "0", "--json", str(path),
        **dict.fromkeys(streams, write_end),
    )  # fmt: skip
    os.close(write_end)
    _, error = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 141, error
    assert "pipe" not in (error or "")
    assert json.loads(path.read_text())["run"]["load"]["open"] == 5


def test_a_terminal_gets_a_bar_and_a_report_that_fits(server: serving.Server) -> None:
    main_end, side_end = pty.openpty()
    fcntl.ioctl(side_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = serving.environment({}) | {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        serving.command("bench", "--url", server.url, "--connections", "20", "--duration", "1",
                        "--ramp-up", "0.2", "--batch-size", "20"),
        env=environment, stdin=side_end, stdout=side_end, stderr=side_end,
    )  # fmt: skip
    os.close(side_end)
    written = b""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            part = os.read(main_end, 65536)
        except OSError:  # the other end was closed
            break
        written += part
    os.close(main_end)
    assert process.wait(TIMEOUT_S) == 0
    text = written.decode()
    progress, report = text.rsplit("\r\x1b[K", 1)
    assert "connecting [" in progress
    assert "measuring  [" in progress
    assert "\n" not in progress
    assert "█" in report
    assert all(len(line) < 80 for line in report.splitlines())
    assert all(len(line.removesuffix("\x1b[K")) < 80 for line in progress.split("\r"))


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGTERM, "1012 server restart"), (signal.SIGKILL, "1006 without a close frame")],
)
def test_a_server_that_goes_away(tmp_path: Path, number: signal.Signals, said: str) -> None:
    server = serving.Server(tmp_path, "--feed", "sim", shutdown_timeout=1)
    process = begin(
        "--url", server.url, "--connections", "20", "--duration", "30", "--ramp-up", "0",
        "--pid", str(server.process.pid),
    )  # fmt: skip
    try:
        until_told(process, "measuring")
        server.signal(number)
        server.wait()
        out, error = process.communicate(timeout=TIMEOUT_S)
    finally:
        for each in (process, server.process):
            each.kill()
            each.wait()
    assert process.returncode == 1, error
    assert f"20 connections were closed by the server: {said}" in out
    assert "Traceback" not in error


def test_a_server_that_stands_still_is_told(server: serving.Server, tmp_path: Path) -> None:
    process = begin(
        "--url", server.url, "--connections", "20", "--duration", "3", "--ramp-up", "0", "--ping", "5",
        "--json", str(tmp_path / "out.json"),
    )  # fmt: skip
    try:
        until_told(process, "measuring")
        os.kill(server.process.pid, signal.SIGSTOP)
        time.sleep(1.5)  # what is measured is how long it stands still
        os.kill(server.process.pid, signal.SIGCONT)
        out, error = process.communicate(timeout=TIMEOUT_S)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
        process.kill()
        process.wait()
    assert process.returncode == 0, out + error
    load = json.loads((tmp_path / "out.json").read_text())["run"]["load"]
    assert 1300 < load["silence_max_ms"] < 3000
    assert "s on any connection" in out
    # Those that were due meanwhile are counted as well: a third of all have waited.
    assert load["ping"]["skipped"] > 20
    assert load["ping"]["p90_ms"] > 500
    assert "itself stood still" not in out


def test_a_generator_that_stands_still_says_so(server: serving.Server, tmp_path: Path) -> None:
    process = begin(
        "--url", server.url, "--connections", "20", "--duration", "2.2", "--ramp-up", "0",
        "--json", str(tmp_path / "out.json"),
    )  # fmt: skip
    try:
        until_told(process, "measuring")
        process.send_signal(signal.SIGSTOP)
        time.sleep(1.0)  # what is measured is how long it stands still
        process.send_signal(signal.SIGCONT)
        out, error = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, out + error
    load = json.loads((tmp_path / "out.json").read_text())["run"]["load"]
    assert 900 < load["client"]["stall_max_ms"] < 3000
    assert load["silence_max_ms"] < 700
    assert "the generator itself stood still for" in out
