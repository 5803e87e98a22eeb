"""Coverage-guided fuzzing of what reads bytes of others: ``make fuzz MINUTES=10 TARGET="frames deflate"``.

The compiled core is built a second time, by clang with coverage, AddressSanitizer and UndefinedBehaviorSanitizer, into
build/fuzz, so that libFuzzer sees which branches of the C code an input takes as well as which lines of Python. What a
target has run, and how much of the code, goes into a table; the inputs it has found go on from run to run in
build/fuzz/corpora, and `--keep` commits the shortest of them.

Exits with 0 when nothing was found, with 1 after a finding, which is left in build/fuzz/findings, and with 2 where it
cannot be run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.fuzz import corpora
from tests.fuzz.targets import NAMES, load
from tests.serving import ROOT

BUILD: Final = ROOT / "build" / "fuzz"
SANITIZERS: Final = "fuzzer-no-link,address,undefined"
# Of one input; none of them takes more than milliseconds.
_INPUT_SECONDS: Final = 30
_INPUT_SIZE: Final = 4096
_MEMORY_MB: Final = 3000
# Beside the fuzzing: to load, and to run what is known.
_START_SECONDS: Final = 300

_PROGRESS: Final = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)/")


class MissingError(Exception):
    """It cannot run here; says what is missing."""


def build() -> None:
    """Compile what has changed since the last time."""
    if shutil.which("clang") is None:
        raise MissingError(
            "fuzzing needs clang with its sanitizers: apt-get install clang libclang-rt-14-dev"
        )
    sources = [path for path in (ROOT / "fastws").rglob("*") if path.suffix in (".pyx", ".pxd", ".pxi", ".h")]
    newest = max(path.stat().st_mtime for path in (*sources, ROOT / "setup.py"))
    stamp = BUILD / "built"
    is_current = stamp.exists() and stamp.stat().st_mtime > newest
    ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    shutil.copytree(ROOT / "fastws", BUILD / "fastws", dirs_exist_ok=True, ignore=ignored)
    if is_current:
        return
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, BUILD)
    print("compiling the core with clang and its sanitizers: some minutes", flush=True)
    log = BUILD / "build.log"
    with log.open("wb") as output:
        result = subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
            cwd=BUILD,
            env=os.environ | {"CC": "clang", "FASTWS_DEBUG": "1", "FASTWS_SANITIZE": SANITIZERS},
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if result.returncode:
        # An older setuptools does not know the form of the licence, and says so at length; a clang without its
        # runtimes fails with the first link.
        raise MissingError(
            f"{log.read_text(errors='replace')[-4000:]}\nthe core could not be compiled. It needs the groups build and "
            "fuzz of pyproject.toml in this environment, and clang with its sanitizers: "
            "apt-get install clang libclang-rt-14-dev"
        )
    stamp.touch()


def environment() -> dict[str, str]:
    """What a target runs in: the sanitizers loaded first, and the copy of fastws that was built with them."""
    distribution = importlib.metadata.distribution("atheris")
    runtime = Path(str(distribution.locate_file("asan_with_fuzzer.so")))
    if not runtime.exists():
        raise MissingError(f"atheris has no {runtime.name} here: install one of the wheels it comes in")
    return os.environ | {
        "LD_PRELOAD": str(runtime),
        "PYTHONPATH": os.pathsep.join((str(BUILD), str(ROOT))),
        # What Python keeps until its end is no leak.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }


def fuzz(name: str, seconds: int) -> dict[str, Any]:
    """Fuzz one target; returns what was run, and what was found."""
    findings = BUILD / "findings"
    findings.mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-P", "-m", "tests.fuzz.run_target", name, str(BUILD / "corpora" / name)),
        *(f"-max_total_time={seconds}", f"-timeout={_INPUT_SECONDS}", f"-max_len={_INPUT_SIZE}"),
        *(f"-rss_limit_mb={_MEMORY_MB}", "-print_final_stats=1", f"-artifact_prefix={findings}/{name}-"),
    ]
    # Of errors only what they begin with is in the result; all of it is here.
    log = BUILD / f"{name}.log"
    try:
        with log.open("wb") as output:
            result = subprocess.run(
                command,
                cwd=BUILD,
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds + _START_SECONDS,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise MissingError(
            f"{name} did not end {_START_SECONDS} s after its time was over: the machine is too busy, see {log}"
        ) from None
    said = log.read_text(errors="replace")
    edges, features, n_inputs = _PROGRESS.findall(said)[-1] if _PROGRESS.search(said) else ("0", "0", "0")
    executions = re.search(r"stat::number_of_executed_units:\s+(\d+)", said)
    is_found = result.returncode != 0
    if is_found and "INFO: Running with entropic" not in said:
        raise MissingError(f"{name} did not start:\n{said[-4000:]}")
    if is_found:
        print(said[-4000:])
    return {
        "seconds": seconds,
        "executions": int(executions[1]) if executions else 0,
        "edges": int(edges),
        "features": int(features),
        "inputs": int(n_inputs),
        "findings": int(is_found),
        "date": datetime.now(UTC).date().isoformat(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)}; all of them")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--json", type=Path, help="where the table goes, in the place of the same targets")
    parser.add_argument("--keep", action="store_true", help="commit the shortest inputs that were found")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(NAMES):
        parser.error(f"there is no target {sorted(unknown)[0]}")
    is_found = False
    try:
        build()
        for name in arguments.targets or NAMES:
            row = fuzz(name, max(1, round(arguments.minutes * 60)))
            print(
                f"{name}: {row['executions']:,} executions in {row['seconds']} s, {row['edges']:,} edges,"
                f" {row['inputs']:,} inputs, {row['findings'] or 'no'} finding",
                flush=True,
            )
            is_found |= bool(row["findings"])
            if arguments.json:
                write(arguments.json, name, row)
            if arguments.keep:
                corpora.keep(load(name), (path.read_bytes() for path in (BUILD / "corpora" / name).iterdir()))
    except MissingError as error:
        print(error, file=sys.stderr)
        return 2
    return int(is_found)


def write(path: Path, name: str, row: dict[str, Any]) -> None:
    """Put the row of a target into the table, in the place of the one before."""
    rows = (json.loads(path.read_text())["targets"] if path.exists() else {}) | {name: row}
    document = {
        "tool": f"atheris {importlib.metadata.version('atheris')}",
        "sanitizers": SANITIZERS,
        "targets": {name: rows[name] for name in NAMES if name in rows},
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
