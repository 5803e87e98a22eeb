"""Run the micro-benchmarks, and tell whether a change made something slower.

    python -m benchmarks.micro run --json bench_results/micro.json --page bench_results/README.md
    python -m benchmarks.micro run -k frames
    python -m benchmarks.micro compare --base bench_results/micro.json
    python -m benchmarks.micro compare --base bench_results/micro.json -k hub,fanout.one_cohort
    python -m benchmarks.micro page --json bench_results/micro.json --page bench_results/README.md

Each pass runs every suite in a process of its own; of each benchmark the shortest time counts. A comparison is judged
by yardsticks, fixed work that is measured before and after each benchmark, and what seems slower is measured again
before it is called so. The exit status is 1 when a target was missed or something is slower, and 2 when nothing can be
said.

What -k chooses is named as in the output, with commas between: a suite (frames), a benchmark with all its parameters
(limits.take) or with some (limits.take[1]). * and ? stand for any characters and for one: kis*, *.come_and_go.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks import micro_results, micro_table
from benchmarks.micro_results import Document, ResultsError
from benchmarks.micro_verdict import MAX_NOISE, Comparison
from benchmarks.micro_verdict import compare as judge
from benchmarks.program import make_parser, prepare
from fastws import __version__
from fastws.bench.process import machine as facts_of_machine

ROOT: Final = Path(__file__).parents[1]
PASSES: Final = 3
RETRIES: Final = 3
"""How often what seems slower is measured again, two passes each time."""
_NO_TESTS: Final = 5  # an exit status of pytest
# Plugins that would take longer to load than a suite to run.
_PYTEST: Final = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist")
# What the peers and the yardsticks are made of.
_PACKAGES: Final = ("numpy", "orjson", "msgspec", "isal", "pyjwt", "cryptography", "uvloop")


def parser() -> argparse.ArgumentParser:
    top = make_parser("benchmarks.micro", __doc__)
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure, and tell whether targets are met")
    run.add_argument("--page", type=Path, metavar="FILE", help="Markdown to write the figures into")
    compare = commands.add_parser("compare", help="measure, and compare with what was measured before")
    compare.add_argument(
        "--base", type=Path, required=True, metavar="FILE", help="what `run --json` has written"
    )
    compare.add_argument(
        "--retries",
        type=int,
        default=RETRIES,
        metavar="N",
        help="how often what seems slower is measured again, two passes each time (default: %(default)d)",
    )
    page = commands.add_parser("page", help="write the page again from what was measured before")
    page.add_argument(
        "--json", type=Path, required=True, metavar="FILE", help="what `run --json` has written"
    )
    page.add_argument(
        "--page", type=Path, required=True, metavar="FILE", help="Markdown to write the figures into"
    )
    for command in (run, compare):
        add = command.add_argument
        add("-k", dest="select", metavar="NAME,…", help="only these suites and benchmarks; see below")
        add("--passes", type=_count, default=PASSES, metavar="N", help="(default: %(default)d)")
        add(
            "--seconds",
            type=float,
            default=0.1,
            metavar="S",
            help="for a benchmark in a pass (default: %(default)g)",
        )
        add("--json", type=Path, metavar="FILE", help="write what was measured")
    return top


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, not {text}")
    return value


def machine() -> dict[str, Any]:
    """What figures depend on."""
    facts = facts_of_machine()
    return {
        "processor": facts["processor"],
        "cores": facts["cores"],
        "kernel": facts["kernel"],
        "python": f"{platform.python_implementation()} {facts['python']}",
        "packages": {name: version(name) for name in _PACKAGES} | {"fastws": __version__},
    }


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Runner:
    """Runs passes; `seconds` is what a benchmark without rounds of its own gets in each.

    A suite always runs whole, but for what `select` leaves out, and in a process of its own: where a benchmark stands
    in a process decides what memory it finds, which can make a tenth.
    """

    def __init__(self, seconds: float, select: str | None, directory: Path) -> None:
        self.seconds = seconds
        self.select = [part.strip() for part in select.split(",")] if select else []
        # What `select` leaves of a suite, as pytest names it; of one that is not in it, all.
        self._tests: dict[str, list[str]] = {}
        self.report = directory / "report.json"
        self._is_first = True

    def suites(self) -> list[str]:
        """The files in which there is something to run.

        Raises:
            ResultsError: what is to be selected is not there.
        """
        if not self.select:
            return [f"benchmarks/{path.name}" for path in sorted(ROOT.glob("benchmarks/test_bench_*.py"))]
        output = self._pytest("benchmarks", "--collect-only", "-v", may_find_none=False)
        tests = re.findall(r"^benchmarks/\w+\.py::.+$", output, re.MULTILINE)
        for pattern in self.select:
            if not any(is_meant(micro_results.name_of(test), pattern) for test in tests):
                raise ResultsError(
                    f"there is no benchmark {pattern}: name one as frames, limits.take or kis*"
                )
        for test in tests:
            if any(is_meant(micro_results.name_of(test), pattern) for pattern in self.select):
                self._tests.setdefault(test.partition("::")[0], []).append(test)
        return list(self._tests)

    def measure(self, suites: Sequence[str], n: int, title: str) -> Document:
        """Return what `n` passes of `suites` have found.

        Raises:
            ResultsError: a benchmark has failed.
        """
        passes = []
        for i in range(n):
            say(f"{title}: {i + 1} of {n}")
            # What takes seconds and is told only needs one.
            marks = [] if self._is_first else ["-m", "not once"]
            rows: list[Any] = []
            for suite in suites:
                self._pytest(
                    *self._tests.get(suite, [suite]), *marks,
                    "--benchmark-only", "--benchmark-disable-gc", "--benchmark-min-rounds=5",
                    f"--benchmark-max-time={self.seconds}", f"--benchmark-json={self.report}",
                    # Else it is an error and not an exit status.
                    "-W", "ignore:Not saving anything", may_find_none=bool(marks),
                )  # fmt: skip
                rows += json.loads(self.report.read_bytes() or b'{"benchmarks": []}')["benchmarks"]
            passes.append({"benchmarks": rows})
            self._is_first = False
        return micro_results.merge(passes, machine())

    def _pytest(self, *arguments: str, may_find_none: bool) -> str:
        command = [sys.executable, "-m", "pytest", *arguments, "-q", "--tb=short", *_PYTEST]
        # Hashes decide how long a dict's collisions are: the same ones in every pass and every run.
        # Options for pytest that the caller has set are for other tests, as are marks of a run this is a part of.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment["PYTHONHASHSEED"] = "0"
        self.report.write_bytes(b"")
        result = subprocess.run(  # a constant program
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if result.returncode != 0 and not (may_find_none and result.returncode == _NO_TESTS):
            raise ResultsError(f"a benchmark has failed:\n{result.stdout[-6000:]}{result.stderr[-2000:]}")
        return result.stdout


def run(runner: Runner, options: argparse.Namespace) -> int:
    found = runner.measure(runner.suites(), options.passes, "pass")
    print(*micro_table.summary(found), sep="\n")
    if options.json:
        micro_results.write(found, options.json)
    if options.page:
        micro_table.put(options.page, micro_table.page(found))
    missed = found.missed()
    for text in missed:
        print(f"MISSED: {text}")
    return 1 if missed else 0


def compare(runner: Runner, options: argparse.Namespace) -> int:
    base = micro_results.read(options.base)
    found = runner.measure(runner.suites(), options.passes, "pass")
    if options.select:
        wanted = found.benchmarks.keys()
        base.benchmarks = {name: row for name, row in base.benchmarks.items() if name in wanted}
    comparison = judge(base, found)
    for i in range(options.retries):
        doubtful = comparison.slower + comparison.shared
        if not doubtful:
            break
        again = sorted({suite_of(verdict.name) for verdict in doubtful})
        title = f"{_benchmarks(len(doubtful))} may be slower, again, {i + 1} of at most {options.retries}"
        found = micro_results.joined(found, runner.measure(again, 2, title))
        comparison = judge(base, found)
    print(*micro_table.verdicts(comparison), *micro_table.differences(base, found), sep="\n")
    if options.json:
        micro_results.write(found, options.json)
    return conclude(comparison, options.base)


def conclude(comparison: Comparison, base: Path) -> int:
    """Say the last word, and return the exit status."""
    if not comparison.is_possible:
        print(f"NOT JUDGED: noise is over {MAX_NOISE:.0%}; measure when the machine has less to do")
        return 2
    if not any(verdict.ratio is not None for verdict in comparison.verdicts):
        print(f"NOT JUDGED: {base} has none of these benchmarks")
        return 2
    for verdict in comparison.slower:
        assert verdict.ratio is not None
        print(f"SLOWER: {verdict.name} takes {verdict.ratio - 1:.0%} longer")
    if comparison.slower:
        return 1
    if comparison.shared:
        names = ", ".join(verdict.name for verdict in comparison.shared)
        print(f"NOT JUDGED: {names}: others had the processors; measure when the machine has less to do")
        return 2
    print("nothing is slower beyond noise")
    return 0


def is_meant(name: str, pattern: str) -> bool:
    """Whether `pattern` names a benchmark, its suite, or it without its parameters."""
    suite, _, _ = name.partition(".")
    without, _, _ = name.partition("[")
    # A bracket begins parameters, and no set of characters.
    return any(fnmatchcase(text, pattern.replace("[", "[[]")) for text in (name, without, suite))


def suite_of(name: str) -> str:
    """The file of a benchmark; see `micro_results.name_of`."""
    return f"benchmarks/test_bench_{name.partition('.')[0]}.py"


def _benchmarks(n: int) -> str:
    return "1 benchmark" if n == 1 else f"{n} benchmarks"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    prepare()
    try:
        if options.command == "page":
            micro_table.put(options.page, micro_table.page(micro_results.read(options.json)))
            return 0
        with tempfile.TemporaryDirectory(prefix="fastws-bench-") as directory:
            runner = Runner(options.seconds, options.select, Path(directory))
            return {"run": run, "compare": compare}[options.command](runner, options)
    except (ResultsError, OSError) as error:
        say(str(error))
        return 2


if __name__ == "__main__":
    sys.exit(main())
