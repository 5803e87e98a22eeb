"""The command line as a user meets it: help, mistakes, a server, a recording."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastws
from fastws.cli import main
from fastws.settings import SETTINGS

ROOT = Path(__file__).parents[2]


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FASTWS_")}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastws", *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    return capsys.readouterr().out


# Help.


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert help_of(capsys, "--version") == f"fastws {fastws.__version__}\n"


def test_the_module_is_the_command() -> None:
    assert run("--version").stdout == f"fastws {fastws.__version__}\n"


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "--help")
    assert "serve " in text
    assert "record " in text


def test_help_of_serve_shows_every_flag_and_setting_with_default_and_unit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = " ".join(help_of(capsys, "serve", "--help").split())
    names = (
        "host port feed symbols-file replay-speed replay-loop batch-interval-ms rate-limit simulator-rate "
        "simulator-seed log-level log-format config"
    )
    for name in names.split():
        assert f" --{name}" in text, name
    for setting in SETTINGS.values():
        assert setting.description in text, setting.name
        assert f"{setting.default_text})" in text, setting.name
    assert "(default: 30 ms)" in text
    assert "fastws serve --feed sim" in text


def test_help_of_record(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys, "record", "--help")
    assert all(
        flag in text for flag in ("--feed", "--output", "--duration", "--symbols-file", "--simulator-rate")
    )


# Mistakes: one line, exit status 2, no traceback.


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["serve", "--port", "99999"], ["port: 99999 (from --port)", "from 0 to 65535"]),
        (["serve", "--prot", "1"], ["--prot", "did you mean --port?", "fastws serve --help"]),
        (["serve", "--prot=1"], ["--prot", "did you mean --port?"]),
        (["serve", "extra"], ["extra"]),
        (["serve", "--feed", "kis"], ["feed:", "not available", "sim, replay:FILE"]),
        (["serve", "--feed", "replay:/no/such/file"], ["feed:", "/no/such/file", "--feed"]),
        (["serve", "--config", "/no/such.toml"], ["config:", "/no/such.toml"]),
        (["serve", "--host", "192.0.2.1", "--port", "0"], ["host:", "192.0.2.1"]),
        (["serve", "--symbols-file", os.devnull], ["symbols_file:"]),
        (["record", "--feed", "none", "--output", "x"], ["feed:", "nothing to record"]),
        (["record", "--feed", "sim", "--output", "/no/such/dir/file"], ["output:", "/no/such/dir/file"]),
        (["record", "--feed", "sim", "--output", "x", "--duration", "-1"], ["--duration", "'-1'"]),
        (["record", "--feed", "sim"], ["--output"]),
        (["serv"], ["serv", "serve"]),
        ([], ["COMMAND"]),
    ],
)
def test_mistakes(arguments: list[str], parts: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    *before, line = result.stderr.splitlines()
    assert re.match(r"fastws( serve| record)?: error: ", line), result.stderr
    assert all(part in line for part in parts), line
    # What was logged before the mistake was found is fine; a traceback is not.
    assert all(re.match(r"\d{4}-\d\d-\d\dT", text) for text in before), result.stderr


def test_a_mistake_in_the_environment() -> None:
    result = run("serve", FASTWS_BATCH_INTERVL_MS="5")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "did you mean FASTWS_BATCH_INTERVAL_MS?" in result.stderr


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", str(port))
    assert result.returncode == 2
    assert f"port: {port} on 127.0.0.1 is in use; " in result.stderr
    assert "Traceback" not in result.stderr


def test_a_full_disk_is_one_line() -> None:
    result = run("record", "--feed", "sim", "--output", "/dev/full", "--duration", "10")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "fastws: error: /dev/full: No space left on device"


# Running.


@contextlib.contextmanager
def serving(*arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run ``fastws serve`` on a free port; yields the process and the port that it printed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fastws", "serve", "--port", "0", *arguments],
        env=environment(**variables),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/health", line):
                break
        else:
            pytest.fail("the server ended without saying where it listens")
        yield process, int(found.group(1))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_serve_runs_until_it_is_told_to_stop(ending: signal.Signals, tmp_path: Path) -> None:
    config = tmp_path / "fastws.toml"
    config.write_text("rate_limit = 7\nbatch_interval_ms = 11\n")
    with serving("--config", str(config), "--batch-interval-ms", "12", FASTWS_RATE_LIMIT="8") as (
        process,
        port,
    ):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/v1/ws/stats")
        stats = connection.getresponse().read()
        assert b'"batch_interval_ms":12' in stats
        assert b'"rate_limit":8' in stats
        process.send_signal(ending)
        _, errors = process.communicate(timeout=20)
        connection.close()
        assert process.returncode == 0
        assert "Traceback" not in errors


def test_a_recording_is_a_replay(tmp_path: Path) -> None:
    output = tmp_path / "sim.txt"
    result = run(
        "record", "--feed", "sim", "--simulator-rate", "500", "--simulator-seed", "1",
        "--output", str(output), "--duration", "1",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "recording has ended" in result.stderr
    lines = output.read_text().splitlines()
    assert len(lines) > 400
    again = tmp_path / "again.txt"
    result = run("record", "--feed", f"replay:{output}", "--replay-speed", "max", "--output", str(again))
    assert result.returncode == 0, result.stderr

    def messages(path: Path) -> list[str]:
        texts = [line for line in path.read_text().splitlines() if line.startswith("@")]
        return [text.partition(" ")[2] for text in texts]

    assert messages(again) == messages(output)


def test_ending_a_recording_is_no_failure(tmp_path: Path) -> None:
    output = tmp_path / "sim.txt"
    process = subprocess.Popen(
        [sys.executable, "-m", "fastws", "record", "--feed", "sim", "--output", str(output)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 20
        while not (output.exists() and output.read_text().count("\n") > 50):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "recording was ended" in errors
        assert "Traceback" not in errors
        assert output.read_text().endswith("\n")
    finally:
        process.kill()
        process.communicate()
