"""The Autobahn WebSocket test suite: installed where it can run, run against one side, and what it said.

The suite is for Python 2.7 only. `$PY27` names one; otherwise pyenv's are looked at, then ``python2.7`` of the path.
It is installed once, into build/autobahn, in the versions below: they are the last ones that go together.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.serving import ROOT

SUITE_VERSION: Final = "0.8.2"
_PACKAGES: Final = (
    "autobahn==0.10.9",
    "twisted==20.3.0",
    "klein==17.10.0",
    "zope.interface==5.5.2",
    f"autobahntestsuite=={SUITE_VERSION}",
)
_HOME: Final = ROOT / "build" / "autobahn"
_AGENT: Final = "fastws"
# Without its pages (-u 0), whose port may be taken.
_START: Final = """
import txaio; txaio.use_twisted()
import sys; sys.argv = ["wstest", "-m", sys.argv[1], "-s", sys.argv[2], "-u", "0"]
from autobahntestsuite.wstest import run; run()
"""
# Informational cases are about what the standard leaves open.
GOOD: Final = frozenset({"OK", "INFORMATIONAL"})
INSTALL_SECONDS: Final = 300


class MissingError(Exception):
    """The suite cannot run here; says what is missing."""


class Case(NamedTuple):
    """What the suite has found in one case."""

    id: str
    behavior: str
    """OK, INFORMATIONAL, NON-STRICT, FAILED, UNIMPLEMENTED, …"""
    behavior_close: str
    """The same about how the connection ended."""

    @property
    def is_good(self) -> bool:
        """Whether it is strictly what the standard says."""
        return self.behavior in GOOD and self.behavior_close in GOOD


def find_python() -> Path:
    """A Python 2.7. Raises MissingError."""
    named = os.environ.get("PY27")
    if named:
        return Path(named)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for found in sorted(pyenv.glob("versions/2.7*/bin/python")):
        return found
    program = shutil.which("python2.7")
    if program is None:
        raise MissingError(
            "the Autobahn suite runs on Python 2.7 only, and there is none: install one (pyenv install 2.7.18), "
            "or name it (PY27=/path/to/python2.7 make conformance)"
        )
    return Path(program)


def install(python: Path) -> Path:
    """The directory that the suite is in, after installing it if need be. Raises MissingError."""
    ready = _HOME / f"ready-{SUITE_VERSION}"
    if not ready.exists():
        shutil.rmtree(_HOME, ignore_errors=True)
        print(f"installing the Autobahn suite {SUITE_VERSION} into {_HOME.relative_to(ROOT)}", flush=True)
        command = [str(python), "-m", "pip", "install", "-q", "--target", str(_HOME), *_PACKAGES]
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
        except OSError as error:
            raise MissingError(f"{python} does not run: {error}; name another one with PY27=") from None
        if result.returncode:
            raise MissingError(f"{python} could not install the suite:\n{result.stderr.strip()[-2000:]}")
        # pip --target leaves this namespace package without the file that makes it one.
        (_HOME / "zope" / "__init__.py").touch()
        ready.touch()
    return _HOME


class Suite:
    """One run of the suite in a directory of its own, where its log and its report stay."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._python = find_python()
        self._home = install(self._python)
        directory.mkdir(parents=True, exist_ok=True)

    def _start(self, mode: str, spec: dict[str, Any]) -> subprocess.Popen[bytes]:
        path = self.directory / "spec.json"
        whole = {"outdir": str(self.directory / "report"), "exclude-agent-cases": {}} | spec
        path.write_text(json.dumps(whole))
        with (self.directory / "log").open("wb") as log:
            return subprocess.Popen(
                [str(self._python), "-c", _START, mode, str(path)],
                env=os.environ | {"PYTHONPATH": str(self._home)},
                cwd=self.directory,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def test_server(self, url: str, cases: Iterable[str], seconds: float) -> list[Case]:
        """Its fuzzing client against the server at `url`."""
        servers = [{"agent": _AGENT, "url": url}]
        spec = {"servers": servers, "cases": list(cases), "exclude-cases": []}
        process = self._start("fuzzingclient", spec)
        try:
            process.wait(seconds)
        finally:
            process.kill()
            process.wait()
        return self._cases()

    def test_client(self, port: int, cases: Iterable[str], run: Callable[[str, str], None]) -> list[Case]:
        """Its fuzzing server at `port`: `run` has the client connect to it, given its URL and the agent's name."""
        url = f"ws://127.0.0.1:{port}"
        spec = {"url": url, "cases": list(cases), "exclude-cases": []}
        process = self._start("fuzzingserver", spec)
        try:
            run(url, _AGENT)
        finally:
            process.kill()
            process.wait()
        return self._cases()

    def _cases(self) -> list[Case]:
        path = self.directory / "report" / "index.json"
        if not path.exists():
            log = (self.directory / "log").read_text(errors="replace")
            raise MissingError(f"the suite wrote no report:\n{log[-2000:]}")
        (cases,) = json.loads(path.read_text()).values()
        found = [Case(name, case["behavior"], case["behaviorClose"]) for name, case in cases.items()]
        return sorted(found, key=lambda case: [int(part) for part in case.id.split(".")])


def summary(cases: Iterable[Case]) -> dict[str, int]:
    """How many cases behaved how; what is wrong only in how it ended is counted as that."""
    counts = Counter(
        case.behavior if case.is_good or case.behavior not in GOOD else case.behavior_close for case in cases
    )
    return dict(sorted(counts.items()))
