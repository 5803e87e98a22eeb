"""What is fuzzed: one module per target.

Each has `check(data)`, which raises where the code under test breaks a promise; `seeds()`, inputs to begin with; and
`TOKENS`, words that mutations are made of. `check` is deterministic, and leaves nothing behind that the next call
sees, so that an input that fails fails again alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Final, NamedTuple

NAMES: Final = (
    "frames",
    "handshake",
    "client",
    "deflate",
    "screener",
    "realtime",
    "kis_records",
    "kis_control",
    "envelopes",
    "publications",
    "config",
)


class Target(NamedTuple):
    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    tokens: tuple[bytes, ...]


def load(name: str) -> Target:
    module = import_module(f"tests.fuzz.targets.{name}")
    return Target(name, module.check, module.seeds, module.TOKENS)
