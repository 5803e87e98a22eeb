"""The samples in the pages of the documentation: what they are, and what it takes to run them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.serving import ROOT

_FENCE = re.compile(r'^```(\w*)(?: +title="([^"]+)")?$')
_DIRECTIVE = re.compile(r"^<!-- sample: (.+) -->$")
_OPTIONS = {"skip", "until", "render", "kis"}


class Sample(NamedTuple):
    """A fence of a page. `title` is the file that it is; `options` are those of a comment right above it:

    ``skip="reason"``     it is not run
    ``until="pattern"``   it goes on for ever, and is ended once its output has a line with the pattern
    ``render="Name"``     a component to render until it shows something
    ``kis``               it is to connect to the fake KIS server
    """

    page: str
    line: int
    language: str
    title: str | None
    options: dict[str, str]
    text: str

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}"


class Command(NamedTuple):
    """A command of a console sample, and the lines that it is said to print."""

    text: str
    output: list[str]


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read(page: Path) -> Iterator[Sample]:
    """Yield the samples of a page in their order."""
    name = str(page.relative_to(ROOT))
    lines = page.read_text(encoding="utf-8").splitlines()
    begin: int | None = None
    for i, line in enumerate(lines):
        if begin is None and line.startswith("```"):
            assert _FENCE.match(line), f"{name}, line {i + 1}: a fence that is not understood: {line}"
            begin = i
        elif begin is not None and line == "```":
            found = _FENCE.match(lines[begin])
            assert found is not None
            yield Sample(
                name,
                begin + 1,
                found[1],
                found[2],
                _options(lines[begin - 1], f"{name}, line {begin}"),
                "\n".join(lines[begin + 1 : i]) + "\n",
            )
            begin = None
    assert begin is None, f"{name}: the fence of line {begin} has no end"


def _options(line: str, where: str) -> dict[str, str]:
    found = _DIRECTIVE.match(line)
    if found is None:
        return {}
    pairs = (word.partition("=") for word in shlex.split(found[1]))
    options = {name: value for name, _, value in pairs}
    assert options.keys() <= _OPTIONS, f"{where}: unknown options of a sample: {line}"
    return options


def commands(sample: Sample) -> list[Command]:
    """The commands of a console sample: lines that begin with ``$``. What follows one is its output."""
    found: list[Command] = []
    for line in sample.text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line.removeprefix("$ "), []))
        else:
            assert found, f"{sample}: output without a command"
            found[-1].output.append(line)
    return found
