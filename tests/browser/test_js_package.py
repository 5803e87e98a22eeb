"""The JavaScript client as npm packs it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.clients_js.node import MODULES, PACKAGE, SCRIPTS, require_package
from tests.serving import ROOT, require_program


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The package as it is published: where a program of the directory finds it, and what npm says of it."""
    directory = tmp_path_factory.mktemp("packed")
    result = subprocess.run(
        [require_program("npm"), "pack", "--json", f"--pack-destination={directory}"],
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    [told] = json.loads(result.stdout)
    with tarfile.open(directory / told["filename"]) as archive:
        archive.extractall(directory / "node_modules", filter="data")
    (directory / "node_modules" / "package").rename(directory / "node_modules" / "fastws")
    return directory, told


def test_the_package_has_what_it_needs_and_no_more(packed: tuple[Path, dict[str, Any]]) -> None:
    directory, told = packed
    package = directory / "node_modules" / "fastws"
    assert sorted(str(path.relative_to(package)) for path in package.rglob("*")) == [
        "LICENSE",
        "README.md",
        "fastws.d.ts",
        "fastws.js",
        "package.json",
        "react.d.ts",
        "react.js",
    ]
    described = json.loads((package / "package.json").read_text(encoding="utf-8"))
    assert (package / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert told["version"] == (ROOT / "fastws" / "_version.py").read_text().split('"')[1]
    exported = {path for entry in described["exports"].values() for path in entry.values()}
    assert exported == {f"./{name}" for name in described["files"]}


def test_the_package_can_be_imported_by_its_name(packed: tuple[Path, dict[str, Any]]) -> None:
    script = 'import { Fastws, FastwsRealtime } from "fastws"; console.log(Fastws.name, FastwsRealtime.name);'
    result = subprocess.run(
        [require_program("node"), "--input-type=module", "--eval", script],
        cwd=packed[0],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.stdout, result.stderr) == ("Fastws FastwsRealtime\n", "")


def test_the_types_fit_a_program(packed: tuple[Path, dict[str, Any]]) -> None:
    program = require_program("node")
    require_package("typescript")
    for name in ("tsconfig.json", "types.ts"):
        shutil.copy(SCRIPTS / name, packed[0])
    compiler = MODULES / "typescript" / "bin" / "tsc"
    result = subprocess.run(
        [program, str(compiler), "--project", str(packed[0])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "")
