"""``fastws bench`` as tests run it: as a process of its own, or in this one, which is quicker."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastws.cli import main
from tests import serving

TIMEOUT_S = 60.0
RATE = 500
ONE_STOCK = ("--subscribe", "stock:005930,channels=price")


def serve(directory: Path) -> Iterator[serving.Server]:
    """A server with four stocks and `RATE` updates a second; yielded as a fixture does."""
    rows = "".join(f"{code:06d},Company {code},KOSPI,IT,72000\n" for code in (5930, 660, 35720, 373220))
    (directory / "symbols.csv").write_text("symbol,name,market,sector,previous_close\n" + rows)
    server = serving.Server(
        directory, "--feed", "sim", "--symbols-file", str(directory / "symbols.csv"),
        simulator_rate=RATE, simulator_seed=1, simulator_opening_burst=1, jwt_secret="s" * 32,
    )  # fmt: skip
    yield server
    server.end()


def bench(*arguments: str, status: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        serving.command("bench", *arguments),
        env=serving.environment({}),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        **options,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def begin(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(
        serving.command("bench", *arguments), env=serving.environment({}), text=True, **options
    )


def until_told(process: subprocess.Popen[str], phase: str) -> None:
    """Wait until it says that it has come to a phase; that of measuring begins with the first figures."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"{phase}: "):
            return
    raise AssertionError(f"ended with {process.wait()}")


class Here:
    """The command in this process, which spares the time that another one takes to start."""

    def __init__(self, capsys: pytest.CaptureFixture[str], path: Path) -> None:
        self._capsys = capsys
        self._path = path / "out.json"

    def __call__(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """What it prints and what it complains of."""
        self._capsys.readouterr()
        try:
            ended_with: object = main(["bench", *arguments])
        except SystemExit as ended:
            ended_with = ended.code
        printed, error = self._capsys.readouterr()
        assert ended_with == status, printed + error
        return printed, error

    def fails(self, *arguments: str) -> str:
        return self(*arguments, status=1)[1]

    def measured(self, *arguments: str) -> tuple[dict[str, Any], str]:
        printed, _ = self(*arguments, "--json", str(self._path))
        document: dict[str, Any] = json.loads(self._path.read_text())
        return document, printed
