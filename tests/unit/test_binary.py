"""How dist/fastws starts: its launcher with a small program behind it. `make try-binary` tries the real one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.serving import ROOT, missing, require_program

BUILD = ROOT / "deploy" / "binary" / "build.py"
# Says who it is; with an argument it goes on until its input ends.
PROGRAM = """\
#!/bin/sh
here=$(dirname "$0")
echo "$$ $here $(cat "$here/_internal/link") $*"
if [ "${1-}" = wait ]; then cat >/dev/null; fi
exit 7
"""


def build() -> Any:
    spec = importlib.util.spec_from_file_location("build_binary", BUILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Path]:
    """Makes the single file of a program that says `text`."""
    made = build()
    made.WORK = tmp_path_factory.mktemp("work")
    require_program("cc")
    try:
        launcher = made.compile_launcher()
    except SystemExit as error:
        missing(str(error))

    def pack(text: str, directory: Path) -> Path:
        tree = directory / f"tree-{text}"
        (tree / "_internal" / "empty").mkdir(parents=True)
        (tree / "fastws").write_text(PROGRAM)
        (tree / "fastws").chmod(0o755)
        (tree / "_internal" / "text").write_text(text)
        (tree / "_internal" / "link").symlink_to("text")
        # More than one piece for zlib, the reader and the writer.
        (tree / "_internal" / "noise").write_bytes(os.urandom(1_000_000))
        target: Path = directory / f"fastws-{text}"
        made.pack(tree, launcher, target)
        return target

    return pack


def start(binary: Path, *arguments: str, **variables: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [binary, *arguments],
        env={"PATH": "/usr/bin:/bin"} | {name: str(path) for name, path in variables.items()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=30)
    return process.returncode, out, error


def test_it_unpacks_itself_and_becomes_the_program(pack: Callable[[str, Path], Path], tmp_path: Path) -> None:
    binary, cache = pack("one", tmp_path), tmp_path / "cache"
    cache.mkdir()
    for _ in range(2):
        process = start(binary, "a b", "--c", XDG_CACHE_HOME=cache)
        status, out, error = ended(process)
        (place,) = (cache / "fastws").iterdir()
        assert (status, out, error) == (7, f"{process.pid} {place} one a b --c\n", "")
    tree = tmp_path / "tree-one"
    assert {path.relative_to(place) for path in place.rglob("*")} == {
        path.relative_to(tree) for path in tree.rglob("*")
    }
    assert (place / "_internal" / "noise").read_bytes() == (tree / "_internal" / "noise").read_bytes()
    assert [oct(each.stat().st_mode & 0o777) for each in (cache / "fastws", place)] == ["0o700"] * 2


def test_many_start_at_once(pack: Callable[[str, Path], Path], tmp_path: Path) -> None:
    binary = pack("one", tmp_path)
    processes = [start(binary, HOME=tmp_path) for _ in range(8)]
    assert [ended(process)[::2] for process in processes] == [(7, "")] * 8
    assert len(list((tmp_path / ".cache" / "fastws").iterdir())) == 1


def test_what_nobody_runs_any_more_is_removed(pack: Callable[[str, Path], Path], tmp_path: Path) -> None:
    one, two, three = (pack(text, tmp_path) for text in ("one", "two", "three"))
    running = start(one, "wait", XDG_CACHE_HOME=tmp_path)
    assert running.stdout is not None
    place = Path(running.stdout.readline().split()[1])
    # As of one that was ended in the midst of it.
    (place.parent / f"{place.name}.1").mkdir()
    (place.parent / "not of fastws").mkdir()
    assert ended(start(two, XDG_CACHE_HOME=tmp_path))[0] == 7
    assert place.is_dir()
    assert len(list(place.parent.iterdir())) == 3
    assert ended(running)[0] == 7
    assert ended(start(three, XDG_CACHE_HOME=tmp_path))[0] == 7
    assert not place.is_dir()
    assert len(list(place.parent.iterdir())) == 2


@pytest.mark.parametrize("size", [-1, -100, -500_000])
def test_a_file_that_is_cut_short(pack: Callable[[str, Path], Path], tmp_path: Path, size: int) -> None:
    binary = pack("one", tmp_path)
    binary.write_bytes(binary.read_bytes()[:size])
    status, out, error = ended(start(binary, XDG_CACHE_HOME=tmp_path))
    assert (status, out, error) == (1, "", "fastws: this file is damaged or cut short; fetch it again\n")


# In the noise, which only a checksum protects, and in that.
@pytest.mark.parametrize("place", [-500_000, -45])
def test_a_file_that_is_damaged(pack: Callable[[str, Path], Path], tmp_path: Path, place: int) -> None:
    binary = pack("one", tmp_path)
    data = bytearray(binary.read_bytes())
    data[place] ^= 1
    binary.write_bytes(data)
    status, out, error = ended(start(binary, XDG_CACHE_HOME=tmp_path))
    assert (status, out, error) == (1, "", "fastws: this file is damaged or cut short; fetch it again\n")
    assert list((tmp_path / "fastws").iterdir()) == []


def test_places_that_are_not_this_users_alone(pack: Callable[[str, Path], Path], tmp_path: Path) -> None:
    binary = pack("one", tmp_path)
    cache, home = tmp_path / "cache", tmp_path / "home"
    for directory in (cache, home / ".cache"):
        directory.mkdir(parents=True)
    # Others could put something there for this user to run.
    (cache / "fastws").mkdir()
    (cache / "fastws").chmod(0o777)
    (home / ".cache" / "fastws").symlink_to(tmp_path)
    _, out, error = ended(start(binary, XDG_CACHE_HOME=cache, HOME=home, TMPDIR=tmp_path))
    assert error == ""
    assert Path(out.split()[1]).parent == tmp_path / f"fastws-{os.geteuid()}"
