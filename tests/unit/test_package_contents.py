"""What an installed fastws consists of: everything that its modules read, from the sources and from an sdist alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.serving import ROOT

# As setup.py does, without the minute that the compiler takes: what is compiled is no question of this test.
_SETUP = "import setuptools; setuptools.setup()"
# For extensions of others: the C API and its declarations for Cython.
_API = {"fastws/include/fastws.h", "fastws/__init__.pxd"}
_KEPT = ("fastws", "clients", "benchmarks", "deploy", "tests")


def build(directory: Path, *commands: str) -> Path:
    """Run commands of setuptools in a source tree; returns the one file in its dist/."""
    result = subprocess.run(
        [sys.executable, "-c", _SETUP, "-q", *commands],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (made,) = (directory / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked sdist."""
    directory = tmp_path_factory.mktemp("package")
    tree = directory / "tree"
    tree.mkdir()
    ignored = shutil.ignore_patterns("node_modules", "__pycache__", "*.so", ".*", "*.egg-info")
    for name in _KEPT:
        # Links stay links, as in a checkout.
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
    for made in (tree / "fastws").rglob("*.c"):
        made.unlink()
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, tree)
    archive = build(tree, "sdist")
    with tarfile.open(archive) as packed:
        # Nothing that leads out of it, and no link to what may not be there.
        assert not [member.name for member in packed if not (member.isfile() or member.isdir())]
        packed.extractall(directory / "unpacked", filter="data")
    (unpacked,) = (directory / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    return build(sdist, "bdist_wheel")


def data_files() -> set[str]:
    """What a checkout has below fastws/ that is no code and no source of compiled code."""
    found = {path for path in (ROOT / "fastws").rglob("*") if path.is_file()}
    code = {".py", ".pyx", ".pxd", ".pxi", ".c", ".so", ".pyc", ".h"}
    return {
        path.relative_to(ROOT).as_posix()
        for path in found
        if path.suffix not in code
        and not path.name.startswith(".")
        # What Cython annotates on request.
        and not (path.suffix == ".html" and path.with_suffix(".pyx").exists())
    }


def test_the_wheel_has_every_module_and_every_file_they_read(wheel: Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastws").rglob("*.py")}
    with zipfile.ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    assert {name for name in names if name.endswith(".py")} == modules
    assert {name for name in names if not name.endswith(".py")} == data_files() | _API
    assert "fastws/web/pages/dashboard.html" in names
    assert "fastws/py.typed" in names


def test_the_client_library_in_the_wheel_is_a_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        for name in ("fastws.js", "fastws.d.ts", "react.js", "react.d.ts"):
            source = (ROOT / "clients" / "js" / name).read_bytes()
            assert packed.read(f"fastws/web/static/{name}") == source


def test_the_licences_of_others_come_with_their_code(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        vendored = {
            name.split("/")[4] for name in packed.namelist() if name.startswith("fastws/web/static/vendor/")
        }
        assert vendored
        (metadata,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        said = packed.read(metadata).decode()
        licences = metadata.removesuffix("METADATA") + "licenses"
        for path in ("LICENSE", *(f"fastws/web/static/vendor/{name}/LICENSE" for name in vendored)):
            assert packed.read(f"{licences}/{path}") == (ROOT / path).read_bytes()
            # Where those look who ask which licences a package has.
            assert f"\nLicense-File: {path}\n" in said
            assert path == "LICENSE" or packed.read(path) == (ROOT / path).read_bytes()


def test_the_sdist_has_what_the_build_and_the_tests_need(sdist: Path) -> None:
    wanted = [
        "setup.py",
        "pyproject.toml",
        "Makefile",
        "LICENSE",
        "README.md",
        "clients/js/package.json",
        "fastws/_core.pyx",
        "fastws/_core_impl/flusher.pxi",
        "fastws/include/fastws.h",
        "tests/capi/consumer.c",
        "tests/conftest.py",
    ]
    wanted += [
        path.relative_to(ROOT).as_posix()
        for name in _KEPT
        for path in (ROOT / name).rglob("*.c")
        if not path.with_suffix(".pyx").exists() and "node_modules" not in path.parts
    ]
    assert {"benchmarks/capi/producer.c", "deploy/binary/launch.c"} <= set(wanted)
    assert [name for name in wanted if not (sdist / name).is_file()] == []
