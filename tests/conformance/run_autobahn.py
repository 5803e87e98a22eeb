"""Runs the Autobahn suite against the server's connections and the Python client's, and writes what it found.

``python -m tests.conformance.run_autobahn [--side server|client] [--sections 1 2 …] [--json FILE]``

Exits with 0 only when every case is strictly OK. Each section that was run replaces what FILE has about it, so that it
can be run in pieces and broken off; all of it takes about an hour, most of it sections 12 and 13.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from fastws import __version__
from tests.conformance.autobahn import SUITE_VERSION, Case, MissingError, Suite, summary
from tests.serving import free_port

# 1 framing, 2 pings, 3 reserved bits, 4 opcodes, 5 fragments, 6 UTF-8, 7 closing, 9 large messages, 10 many small
# ones, 12 and 13 permessage-deflate. The suite has no others.
SECTIONS: Final = ("1", "2", "3", "4", "5", "6", "7", "9", "10", "12", "13")
SECONDS: Final = 3600.0  # of one section


def run_server(suite: Suite, cases: list[str]) -> list[Case]:
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.conformance.echo_server", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = server.stdout.readline().split()[-1] if server.stdout else ""
        return suite.test_server(url, cases, SECONDS)
    finally:
        server.terminate()
        server.wait(10)


def run_client(suite: Suite, cases: list[str]) -> list[Case]:
    def connect(url: str, agent: str) -> None:
        command = [sys.executable, "-m", "tests.conformance.echo_client", url, agent]
        subprocess.run(command, timeout=SECONDS, check=True)

    return suite.test_client(free_port(), cases, connect)


SIDES: Final = {"server": run_server, "client": run_client}


def note(path: Path, side: str, section: str, counts: dict[str, int]) -> None:
    """Put what became of a section into the table, in the place of what there was about it."""
    before = json.loads(path.read_text())["sides"] if path.exists() else {}
    row = {
        "cases": counts,
        "date": datetime.now(UTC).date().isoformat(),
        "fastws": __version__,
        "python": platform.python_version(),
    }
    rows = before | {side: before.get(side, {}) | {section: row}}
    sides = {name: {n: rows[name][n] for n in SECTIONS if n in rows.get(name, {})} for name in SIDES}
    document = {"suite": f"autobahntestsuite {SUITE_VERSION}", "sides": sides}
    path.write_text(json.dumps(document, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--side", choices=SIDES, action="append", help="one side instead of both")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="N")
    parser.add_argument("--json", type=Path, help="where the counts go")
    parser.add_argument(
        "--reports", type=Path, help="a directory for the suite's own reports, which is emptied"
    )
    arguments = parser.parse_args()
    bad: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fastws-autobahn-") as temporary:
        reports = arguments.reports or Path(temporary)
        for side, section in itertools.product(arguments.side or SIDES, arguments.sections):
            directory = reports / side / section
            shutil.rmtree(directory, ignore_errors=True)
            try:
                cases = SIDES[side](Suite(directory), [f"{section}.*"])
            except MissingError as error:
                print(error, file=sys.stderr)
                return 2
            counts = summary(cases)
            print(
                f"{side} {section:>2}: " + ", ".join(f"{n} {name}" for name, n in counts.items()), flush=True
            )
            if arguments.json:
                note(arguments.json, side, section, counts)
            bad += [
                f"{side} {case.id}: {case.behavior}, closing {case.behavior_close}"
                for case in cases
                if not case.is_good
            ]
            if not cases:
                bad.append(f"{side}: no case of section {section} was run")
    for line in bad:
        print(f"NOT STRICTLY OK: {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
