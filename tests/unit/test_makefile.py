"""What a newcomer meets first: the list of targets, and what is said where a compiler is missing."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.serving import ROOT, require_program

MAKEFILE = ROOT / "Makefile"


def make(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # The tests themselves may run under make.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        [require_program("make"), "-f", str(MAKEFILE), *arguments],
        cwd=directory,
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_bare_make_lists_every_target_in_one_line(tmp_path: Path) -> None:
    result = make(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    listed = re.findall(r"^  make ([a-z-]+) +\S.*$", result.stdout, re.MULTILINE)
    assert len(listed) == len(result.stdout.splitlines())
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE.read_text(), re.MULTILINE)
    assert phony is not None
    assert sorted(listed) == sorted(phony[1].split())
    assert make(tmp_path, "help").stdout == result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_missing_compiler_is_named_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    result = make(tmp_path, ".venv/.python", CC="no-such-compiler -O2")
    assert result.returncode != 0
    assert result.stderr.splitlines()[0] == (
        "fastws needs a C compiler and Python's headers: "
        "apt-get install build-essential python3-dev python3-venv"
    )
    assert not (tmp_path / ".venv").exists()
