"""The progress of a run, on a terminal and elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("the load client is built on epoll", allow_module_level=True)

from fastws.bench import progress
from fastws.bench.progress import Progress


class Terminal(io.TextIOWrapper):
    """A stream that says it is one."""

    def __init__(self, encoding: str) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding)

    def isatty(self) -> bool:
        return True

    @property
    def written(self) -> str:
        return self.bytes.getvalue().decode(self.encoding)


def test_a_terminal_gets_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal("utf-8")
    bars = Progress(stream)
    bars.show("connecting", 0.5, "5/10 connections")
    bars.show("connecting", 1.2, "10/10 connections")
    bars.clear()
    lines = stream.written.split("\r")
    assert "\n" not in stream.written
    assert lines == [
        "",
        "connecting [████████        ] 5/10 conn\x1b[K",
        "connecting [████████████████] 10/10 con\x1b[K",
        "\x1b[K",
    ]


def test_a_terminal_without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal("ascii")
    Progress(stream).show("measuring", 0.5, "1 s")
    assert stream.written == "\rmeasuring  [########        ] 1 s\x1b[K"


def test_elsewhere_lines_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    stream = io.StringIO()
    bars = Progress(stream)
    for second in range(25):
        now = 100.0 + second
        bars.show("measuring", second / 25, f"{second} s")
    bars.show("restoring", 0.0, "0/10")
    bars.clear()
    assert stream.getvalue() == "measuring: 0 s\nmeasuring: 10 s\nmeasuring: 20 s\nrestoring: 0/10\n"
