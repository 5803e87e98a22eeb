"""Holds wheels that were built against the tree they are of: ``python tests/installed/contents.py dist/*.whl``.

Needs nothing but Python, so that it runs wherever wheels are built.
"""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Built where there is epoll.
LINUX_ONLY = "fastws/bench/_client"
# What compiled parts are made of, and what others who compile against fastws need none of.
_SOURCES = {".pyx", ".pxd", ".pxi", ".c", ".h"}
_FOR_OTHERS = {"fastws/include/fastws.h", "fastws/__init__.pxd"}
# An absolute path of the machine it was built on tells that something was baked in.
_HOMES = re.compile(rb"/(?:home|root|Users|tmp)/[\w.-]+/[\w./-]+\.(?:pyx|pxi|pxd|py|c)\b")


def compiled(is_linux: bool) -> set[str]:
    """The modules that are compiled, as paths without what a platform appends."""
    found = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "fastws").rglob("*.pyx")}
    return found if is_linux else found - {LINUX_ONLY}


def modules() -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / "fastws").rglob("*.py")}


def problems(wheel: Path) -> list[str]:
    """What is wrong with a wheel, in words; nothing where it is as it should be."""
    found: list[str] = []
    name, version, python, abi, platform = wheel.stem.split("-", 4)
    if python != abi or not re.fullmatch(r"cp3\d\d", python):
        found.append(f"its tag {python}-{abi} is not of one CPython with a GIL")
    with zipfile.ZipFile(wheel) as packed:
        names = {each for each in packed.namelist() if not each.startswith(f"{name}-{version}.dist-info/")}
        if strangers := {each.partition("/")[0] for each in names} - {"fastws"}:
            found.append(f"it installs more than fastws: {sorted(strangers)}")
        extensions = {each for each in names if each.endswith(".so")}
        # As an interpreter of another version would not find it.
        if strange := {each for each in extensions if f".cpython-{python[2:]}-" not in each}:
            found.append(f"extensions that {python} does not load: {sorted(strange)}")
        made = {re.sub(r"\.cpython-[^/]*\.so$", "", each) for each in extensions}
        wanted = compiled("linux" in platform)
        if made != wanted:
            found.append(
                f"compiled parts differ: missing {sorted(wanted - made)}, odd {sorted(made - wanted)}"
            )
        have = {each for each in names if each.endswith(".py")}
        if have != modules():
            found.append(f"modules differ: {sorted(have ^ modules())}")
        sources = {each for each in names if Path(each).suffix in _SOURCES} - _FOR_OTHERS
        if sources or not names >= _FOR_OTHERS:
            found.append(f"sources that nobody needs {sorted(sources)}, or a header is missing")
        found += [
            f"{each} names a file of the machine that built it: {path[0].decode()}"
            for each in sorted(extensions)
            if (path := _HOMES.search(packed.read(each)))
        ]
    return found


def main(paths: list[str]) -> int:
    if not paths:
        print("which wheels?", file=sys.stderr)
        return 2
    n_wrong = 0
    for path in map(Path, paths):
        wrong = problems(path)
        n_wrong += bool(wrong)
        print(f"{path.name}: {'; '.join(wrong) or 'complete'}")
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
