"""Fuzzes one target in this process: ``python -m tests.fuzz.run_target NAME CORPUS [libFuzzer's flags]``.

It is for `tests.fuzz`, which builds the core for it and loads the sanitizers; an input that fails is written down and
ends it.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import atheris

# What is imported from here on tells which of its lines are run.
with atheris.instrument_imports(include=["fastws"]):
    from fastws import logs
    from tests.fuzz import corpora
    from tests.fuzz.targets import load

    target = load(sys.argv[1])


def check(data: bytes) -> None:
    try:
        target.check(data)
    except BaseException:
        # libFuzzer writes it as well, where it comes that far.
        (
            Path("findings") / f"{target.name}-{hashlib.sha1(data, usedforsecurity=False).hexdigest()}"
        ).write_bytes(data)
        raise


def main() -> None:
    logs.configure("error")
    directory = Path(sys.argv[2])
    corpora.unpack(target, directory)
    words = "\n".join('"' + "".join(map("\\x{:02x}".format, token)) + '"' for token in target.tokens)
    with tempfile.NamedTemporaryFile("w", suffix=".dict") as dictionary:
        dictionary.write(words + "\n")
        dictionary.flush()
        atheris.Setup([sys.argv[0], str(directory), f"-dict={dictionary.name}", *sys.argv[3:]], check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
