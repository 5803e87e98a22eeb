"""The compiled parts under sanitizers: `make sanitize`.

    python -m tests.sanitized [memory | threads | ring] ...

Each part works in a copy of its own of the tree, below build/sanitize, so that the build that is in use stays as it is:

memory   all compiled parts under AddressSanitizer and UndefinedBehaviorSanitizer: the tests of units, of the protocol,
         of the C API and of embedding
threads  the consumer of the C API, and extensions that publish into it, under ThreadSanitizer: its tests in Python
ring     the ring between them alone, without Python, under both

The first finding ends the process that has it, and so its part. Leaks are not looked for in this way: Python keeps
what it has until its end. `make debug` counts objects, and the load scenario cycles weighs the server.

The exit status is 0 where nothing was found and every test has passed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests import capi, outcomes

ROOT: Final = Path(__file__).parents[1]
COPIES: Final = ROOT / "build" / "sanitize"
# What is built, measured or installed, and what belongs to others.
LEFT_OUT: Final = shutil.ignore_patterns(
    ".*", "__pycache__", "node_modules", "build", "dist", "site", "bench_results", "*.egg-info", "*.c.dep"
)
SOURCES: Final = (".pyx", ".pxd", ".pxi", ".h")

MEMORY_TESTS: Final = (
    "tests/unit",
    "tests/protocol",
    "tests/integration/test_capi.py",
    "tests/integration/test_embedding.py",
)
# What is preloaded gets into every program that a test starts, which some programs cannot do with, and not into what
# systemd starts for them; and what is packed is not what is looked at here.
MEMORY_FILTER: Final = (
    "not package_contents and not benchmark_programs and not no_server_runs"
    # It has a program of its own for each sanitizer, as the part `ring` has.
    " and not a_sanitizer"
)
THREAD_TESTS: Final = ("tests/integration/test_capi.py", "tests/integration/test_embedding.py")
# Those that compile for a sanitizer themselves, and that start programs.
THREAD_FILTER: Final = "not sanitizer and not serve_loads and not cannot_be_loaded and not log_lines"
# A program, and what it is given each time.
RING_RUNS: Final[Mapping[str, Sequence[tuple[str, ...]]]] = {
    "ring_held": [()],
    "ring_threads": [("20000", "0"), ("20000", "50000"), ("200000", "0")],
}


class Outcome(NamedTuple):
    """What has become of a part: its name, what was run, whether all went well, and what it took."""

    part: str
    ran: str
    is_clean: bool
    seconds: float


def memory(arguments: Sequence[str]) -> tuple[str, bool]:
    tree = _copied("memory", is_whole=False)
    _build(tree, "address,undefined")
    environment = {
        "LD_PRELOAD": f"{_library('libasan.so')} {_library('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    return _run_tests(
        tree, environment, [*MEMORY_TESTS, "-k", MEMORY_FILTER, "-n", "2", "--dist", "loadfile", *arguments]
    )


def threads(arguments: Sequence[str]) -> tuple[str, bool]:
    # Of all compiled parts this is the only one that threads come to without the GIL.
    tree = _copied("threads", is_whole=True)
    _build(tree, "thread", "_inlet")
    with tempfile.TemporaryDirectory() as logs:
        environment = {
            "LD_PRELOAD": _library("libtsan.so"),
            "TSAN_OPTIONS": f"halt_on_error=1:log_path={logs}/found",
            "CC": f"{' '.join(capi.compiler())} -fsanitize=thread -g",
        }
        ran, is_clean = _run_tests(tree, environment, [*THREAD_TESTS, "-k", THREAD_FILTER, *arguments])
        for log in sorted(Path(logs).iterdir()):
            print(log.read_text(errors="replace"))
            is_clean = False
    return ran, is_clean


def ring(arguments: Sequence[str]) -> tuple[str, bool]:
    n_runs = 0
    with tempfile.TemporaryDirectory() as directory:
        for sanitizer, name in itertools.product(("thread", "address,undefined"), RING_RUNS):
            program, refused = capi.ring_program(name, Path(directory), sanitizer)
            if refused:
                sys.exit(f"sanitize: {refused}")
            for numbers in RING_RUNS[name]:
                done = capi.run(program, *numbers, seconds=600)
                print(f"{sanitizer}: {done.stdout}{done.stderr}", end="")
                if done.returncode or done.stderr:
                    return f"{n_runs} runs, then a finding", False
                n_runs += 1
    return f"{n_runs} runs", True


PARTS: Final[Mapping[str, Callable[[Sequence[str]], tuple[str, bool]]]] = {
    "memory": memory, "threads": threads, "ring": ring,
}  # fmt: skip


def _library(name: str) -> str:
    """Where the compiler has a library of a sanitizer."""
    found = capi.run(*capi.compiler(), f"-print-file-name={name}").stdout.strip()
    if "/" not in found:
        sys.exit(f"sanitize: the compiler has no {name}; with Debian's gcc it comes along, clang has others")
    return found


def _copied(name: str, *, is_whole: bool) -> Path:
    """A copy of the tree, with what was compiled of it where it `is_whole`; a newer one takes over what is the same."""
    tree = COPIES / name

    def ignored(directory: str, names: list[str]) -> set[str]:
        out = LEFT_OUT(directory, names)
        if not is_whole:
            out |= {each for each in names if each.endswith(".so")}
        # What Cython has written is nothing to copy: it would be taken for newer than its source.
        return out | {
            each for each in names if each.endswith(".c") and f"{each}.".replace(".c.", ".pyx") in names
        }

    kept = {path: path.read_bytes() for path in tree.rglob("*.so")} if tree.exists() and not is_whole else {}
    stamp = _text_of(tree / ".built")
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(ROOT, tree, ignore=ignored, symlinks=True)
    for path, data in kept.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if kept:
        (tree / ".built").write_text(stamp)
    return tree


def _build(tree: Path, sanitizer: str, module: str = "") -> None:
    """Compile with a sanitizer what is there, or one module, unless it is compiled from the same sources already."""
    digest = hashlib.sha256(f"{sanitizer} {sys.version}".encode())
    for path in sorted(tree.glob("fastws/**/*")):
        if path.suffix in SOURCES:
            digest.update(path.read_bytes())
    digest.update((tree / "setup.py").read_bytes())
    if _text_of(tree / ".built") == digest.hexdigest():
        return
    print(f"compiling {module or 'all'} with -fsanitize={sanitizer}: two minutes at most", flush=True)
    environment = os.environ | {"FASTWS_SANITIZE": sanitizer, "FASTWS_MODULES": module}
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        "--inplace",
        "--force",
        "-j",
        str(os.cpu_count()),
    ]
    subprocess.run(command, cwd=tree, env=environment, check=True)
    (tree / ".built").write_text(digest.hexdigest())


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _run_tests(tree: Path, environment: Mapping[str, str], arguments: Sequence[str]) -> tuple[str, bool]:
    """Run pytest in a copy of the tree; what it says of the tests, and whether all have passed."""
    # Not captured below Python: a sanitizer says what it has found there, and ends the process.
    options = ["-p", "no:cacheprovider", "--benchmark-disable", "--capture=sys"]
    # Sanitizers take their time, above all to start a server; the usual limit would end the process that tests.
    command = [sys.executable, "-m", "pytest", "--timeout=900", *options, *arguments]
    last = ""
    with _started(command, tree, environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line if re.search(r"\d+ (passed|failed)", line) else last
    counts = re.findall(r"\d+ (?:passed|failed|errors?|skipped|deselected)", last)
    return ", ".join(counts) or "it ended early", process.returncode == 0


@contextlib.contextmanager
def _started(
    command: Sequence[str], tree: Path, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command,
        cwd=tree,
        env=os.environ | environment | {"PYTHONPATH": str(tree)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        yield process


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sanitized", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--json", type=Path, help="where the outcomes go, in the place of the same parts")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], help="what else pytest is given")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    told = []
    for name in options.parts or PARTS:
        began = time.monotonic()
        ran, is_clean = PARTS[name](options.pytest)
        seconds = time.monotonic() - began
        told.append(Outcome(name, ran, is_clean, seconds))
        if options.json:
            outcomes.note(options.json, name, ran, is_clean, seconds)
    for outcome in told:
        verdict = "clean" if outcome.is_clean else "FOUND SOMETHING"
        print(f"{outcome.part:8} {verdict}: {outcome.ran}, {outcome.seconds:.0f} s in all")
    return 0 if all(outcome.is_clean for outcome in told) else 1


if __name__ == "__main__":
    sys.exit(main())
