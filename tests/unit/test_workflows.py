"""What is released, and by which steps: the files that say so agree with each other and with the tree."""

from __future__ import annotations

import re
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.installed import contents
from tests.serving import ROOT, require_module

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = require_module("yaml").safe_load(
        (ROOT / ".github" / "workflows" / name).read_text()
    )
    return document


@pytest.mark.skipif(not WORKFLOWS, reason="an sdist has none")
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_steps_name_what_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    document = read(path.name)
    # The token of a run may do nothing unless a job asks for it.
    assert document["permissions"] == {"contents": "read"}
    for job in document["jobs"].values():
        assert (ROOT / job["uses"]).is_file() if "uses" in job else job["timeout-minutes"]
        for step in job.get("steps", ()):
            command = step.get("run", "")
            assert set(re.findall(r"\bmake ([a-z-]+)", command)) <= targets
            for file in re.findall(r"(?:^|\s)((?:\.ci|tests|fastws)/\S+)", command):
                assert (ROOT / file).is_file(), file
            for group in re.findall(r"--group (\S+)", command):
                assert group in PROJECT["dependency-groups"]


@pytest.mark.skipif(not WORKFLOWS, reason="an sdist has none")
def test_what_is_checked_is_built_and_promised() -> None:
    checked = read("ci.yml")["jobs"]["check"]["strategy"]["matrix"]["python"]
    built = PROJECT["tool"]["cibuildwheel"]["build"]
    promised = [
        each.rpartition(" ")[2] for each in PROJECT["project"]["classifiers"] if "Python :: 3." in each
    ]
    assert promised == checked
    assert built == [f"cp{each.replace('.', '')}-*" for each in checked]
    assert PROJECT["project"]["requires-python"] == f">={checked[0]}"


def test_the_page_on_installing_has_every_extra() -> None:
    page = (ROOT / "docs" / "operations" / "installing.md").read_text()
    section = page.partition("## Extras")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == set(
        PROJECT["project"]["optional-dependencies"]
    )
    groups = re.findall(r"--group (\w+)", section)
    assert groups
    assert set(groups) <= PROJECT["dependency-groups"].keys()


def test_a_wheel_that_lacks_something_or_has_too_much_is_told(tmp_path: Path) -> None:
    def wheel(tag: str, names: set[str]) -> Path:
        path = tmp_path / f"fastws-1.0-{tag}.whl"
        with zipfile.ZipFile(path, "w") as packed:
            for name in names:
                packed.writestr(name, b"")
        return path

    python = contents.modules() | {
        "fastws/include/fastws.h",
        "fastws/__init__.pxd",
        "fastws-1.0.dist-info/METADATA",
    }
    whole = python | {f"{name}.cpython-312-x86_64-linux-gnu.so" for name in contents.compiled(True)}
    mac = python | {f"{name}.cpython-312-darwin.so" for name in contents.compiled(False)}
    assert contents.problems(wheel("cp312-cp312-manylinux_2_28_x86_64", whole)) == []
    assert contents.problems(wheel("cp312-cp312-macosx_11_0_arm64", mac)) == []
    for tag, names in (
        ("cp312-cp312-manylinux_2_28_x86_64", mac),
        ("cp313-cp313-manylinux_2_28_x86_64", whole),
        ("cp312-abi3-manylinux_2_28_x86_64", whole),
        ("cp312-cp312-musllinux_1_2_x86_64", whole | {"tests/__init__.py"}),
        ("cp312-cp312-musllinux_1_2_x86_64", whole | {"fastws/_core.c"}),
        ("cp312-cp312-musllinux_1_2_x86_64", whole - {"fastws/clock.py"}),
    ):
        assert contents.problems(wheel(tag, names)), (tag, names ^ whole)
    assert contents.main([]) == 2
