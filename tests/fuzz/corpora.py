"""The inputs that are kept: what the fuzzer has found to be different, one a line, and what it is begun with."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.fuzz.targets import Target

DIRECTORY: Final = Path(__file__).parent / "corpora"
# Bytes of a target's inputs that are committed: the shortest that the fuzzer kept.
_KEPT_SIZE: Final = 8192


def path_of(name: str) -> Path:
    return DIRECTORY / f"{name}.txt"


def committed(name: str) -> list[bytes]:
    """The inputs in the repository; none of a target that was never run."""
    path = path_of(name)
    return [base64.b85decode(line) for line in path.read_bytes().split()] if path.exists() else []


def of(target: Target) -> list[bytes]:
    """All inputs to begin with: the seeds and those in the repository, each once."""
    return list(dict.fromkeys([*target.seeds(), *committed(target.name)]))


def unpack(target: Target, directory: Path) -> None:
    """Put them where libFuzzer reads them, with what is there already."""
    directory.mkdir(parents=True, exist_ok=True)
    for data in of(target):
        (directory / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def keep(target: Target, found: Iterable[bytes]) -> int:
    """Commit the shortest of `found`, without the seeds; returns how many."""
    known = set(target.seeds())
    left = _KEPT_SIZE
    kept = []
    for data in sorted(set(found) - known, key=lambda data: (len(data), data)):
        left -= len(data)
        if left < 0:
            break
        kept.append(base64.b85encode(data))
    path_of(target.name).write_bytes(b"\n".join(kept) + b"\n")
    return len(kept)
