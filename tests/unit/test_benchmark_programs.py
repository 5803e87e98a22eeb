"""How the programs of the benchmarks end: with a line and a status of their own, and their children with them."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

if sys.platform != "linux":
    pytest.skip("they are built on epoll and prctl", allow_module_level=True)

from benchmarks.program import BROKEN_OFF, INTERRUPTED, BrokenOffError, ended, json_path, write

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 30.0


def raising(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "load: interrupted"),
        (BrokenOffError("no room"), BROKEN_OFF, "load: no room"),
        (TimeoutError(), BROKEN_OFF, "load: broke off, as an answer did not come in time"),
        (
            ConnectionResetError(104, "Connection reset by peer"),
            BROKEN_OFF,
            "load: broke off: Connection reset by peer; has the server ended?",
        ),
        # Of a socket, for all that is written is read.
        (
            BrokenPipeError(32, "Broken pipe"),
            BROKEN_OFF,
            "load: broke off: Broken pipe; has the server ended?",
        ),
    ],
)
def test_what_breaks_off_says_so(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str
) -> None:
    assert ended("load", raising(error)) == status
    assert capsys.readouterr().err == said + "\n"


def test_a_program_that_ends_has_its_own_status() -> None:
    assert ended("load", lambda: 1) == 1


def test_results_are_refused_before_and_named_after(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere" / "out.json"):
        with pytest.raises(argparse.ArgumentTypeError, match="directory"):
            json_path(str(path))
    write(json_path(str(tmp_path / "out.json")), {"a": 1})
    assert (tmp_path / "out.json").read_text() == '{\n  "a": 1\n}\n'
    with pytest.raises(BrokenOffError, match="--json: /dev/full cannot be written: No space left on device"):
        write(json_path("/dev/full"), {})


def test_nobody_reads_the_list() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end) as output:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.peers", "--list"],
            cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("buffering", [1, -1])
def test_nobody_reads_how_it_ends(monkeypatch: pytest.MonkeyPatch, buffering: int) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w", buffering) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        assert ended("load", raising(KeyboardInterrupt())) == 141


SIGNALLED = """
import asyncio, os, signal, sys
from benchmarks.program import ended, prepare, run_loop

class Destroyed:
    def __del__(self):  # what is raised in here is ignored
        os.kill(os.getpid(), signal.Signals[sys.argv[1]])
        for _ in range(1000):
            pass

async def main():
    try:
        Destroyed()
        await asyncio.sleep(20)
    finally:
        raise OSError("of the clean-up")

prepare()
sys.exit(ended("load", lambda: run_loop(main())))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_loop_wherever_it_comes(number: signal.Signals, status: int) -> None:
    """Also in a destructor, and though the clean-up breaks off itself."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, number.name],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        status,
        "load: interrupted\n" if number == signal.SIGINT else "",
    )


PARENT = """
import signal, subprocess, sys
from benchmarks.program import ended_with_us
child = subprocess.Popen(["sleep", "300"], preexec_fn=ended_with_us(signal.SIGKILL))
print(child.pid, flush=True)
child.wait()
"""


def test_children_end_with_a_program_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    except psutil.NoSuchProcess:
        pass


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGKILL, BROKEN_OFF), (signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 143)]
)
def test_a_storm_without_its_server(number: signal.Signals, status: int) -> None:
    """The server is killed under it, or it is interrupted itself, and takes its server with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load", "storm", "--connections", "50", "--outage", "2"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    own = psutil.Process(process.pid)
    deadline = time.monotonic() + TIMEOUT_S

    def server() -> psutil.Process | None:
        for child in own.children():
            # Its clients are there, besides what it listens with.
            if "serve" in child.cmdline() and len(child.net_connections()) > 50:
                return child
        return None

    try:
        while (found := server()) is None:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        (found if number == signal.SIGKILL else process).send_signal(number)
        out, error = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == status, out + error
    assert error.startswith("" if status == 143 else "load: ")
    assert "Traceback" not in error
    assert not psutil.wait_procs([found], TIMEOUT_S)[1]
