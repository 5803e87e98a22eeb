"""The tests on installed wheels: ``python tests/installed/suite.py dist/*.tar.gz python3.11 python3.12 …``.

For each interpreter a wheel is built from the sdist, checked, and installed with what the tests need into an
environment of its own. They run in the unpacked sdist, where the package is replaced by a link to the installed one:
whatever process a test starts can import no other. What holds the sources against each other is left out, since a wheel
has none.

What follows ``--`` is for pytest. Interpreters that are not there are told; all that are have to pass.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Of the checkout, and in no installed package.
_OF_SOURCES = (
    "--ignore=tests/unit/test_frames_in_c.py",
    "--ignore=tests/unit/test_layers.py",
    "--ignore=tests/unit/test_package_contents.py",
    "--deselect=tests/integration/test_capi.py::test_the_ring_under_a_sanitizer",
    "--deselect=tests/unit/test_web_assets.py::test_the_client_library_is_the_one_of_the_npm_package",
    "--deselect=tests/unit/test_workflows.py::test_a_wheel_that_lacks_something_or_has_too_much_is_told",
)
_PACKAGE = "import fastws, pathlib; print(pathlib.Path(fastws.__file__).parent)"


class Installed:
    """One interpreter with the wheel; everything of it is below `directory`."""

    def __init__(self, python: str, directory: Path) -> None:
        self._base = python
        self._directory = directory
        self._python = str(directory / "bin" / "python")
        self._tree = directory / "tree"
        variables = {name: text for name, text in os.environ.items() if not name.startswith("FASTWS_")}
        # Nothing of a checkout that this may have been started from.
        self._environment = {name: text for name, text in variables.items() if name != "PYTHONPATH"}

    def install(self, sdist: Path) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        self._run(self._base, "-m", "venv", str(self._directory))
        self._pip("install", "--upgrade", "pip>=25.1")
        wheels = self._directory / "wheels"
        self._pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(sdist))
        (wheel,) = wheels.iterdir()
        self._run(self._python, str(ROOT / "tests" / "installed" / "contents.py"), str(wheel))
        self._pip("install", str(wheel))
        self._pip("install", "--group", f"{ROOT / 'pyproject.toml'}:dev")
        self._unpack(sdist)
        self._run(self._python, str(ROOT / "tests" / "installed" / "smoke.py"))

    def _unpack(self, sdist: Path) -> None:
        package = self._output(self._python, "-c", _PACKAGE)
        with tarfile.open(sdist) as packed:
            packed.extractall(self._tree, filter="data")
        (unpacked,) = self._tree.iterdir()
        shutil.rmtree(unpacked / "fastws")
        (unpacked / "fastws").symlink_to(package)
        modules = ROOT / "tests" / "node_modules"
        if modules.is_dir():
            (unpacked / "tests" / "node_modules").symlink_to(modules.resolve())
        self._tree = unpacked

    def test(self, options: list[str]) -> int:
        """Returns the status of pytest."""
        command = [self._python, "-m", "pytest", "--benchmark-disable", *_OF_SOURCES, *options]
        return subprocess.run(command, cwd=self._tree, env=self._environment, check=False).returncode

    def _pip(self, *arguments: str) -> None:
        self._run(self._python, "-m", "pip", arguments[0], "-q", *arguments[1:])

    def _run(self, *command: str) -> None:
        subprocess.run(command, cwd=self._directory.parent, env=self._environment, check=True)

    def _output(self, *command: str) -> str:
        return subprocess.run(
            command,
            cwd=self._directory.parent,
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout.strip()


def main() -> int:
    given, options = sys.argv[1:], ["-n", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
    if "--" in given:
        where = given.index("--")
        given, options = given[:where], given[where + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sdist", type=Path)
    parser.add_argument("pythons", nargs="+", metavar="python")
    asked = parser.parse_args(given)
    results = {}
    for python in asked.pythons:
        found = shutil.which(python)
        if found is None:
            results[python] = "not here"
            continue
        place = ROOT / "build" / "installed" / Path(python).name
        place.parent.mkdir(parents=True, exist_ok=True)
        print(f"{python}: wheel and environment", flush=True)
        one = Installed(found, place)
        one.install(asked.sdist.resolve())
        print(f"{python}: tests", flush=True)
        results[python] = "failed" if one.test(options) else "passed"
    for python, result in results.items():
        print(f"{python}: {result}")
    return 0 if set(results.values()) <= {"passed", "not here"} and "passed" in results.values() else 1


if __name__ == "__main__":
    sys.exit(main())
