"""What this process is called in ``ps -o comm`` and ``top``, which is the file that it was started from at first."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

_PLACE: Final = Path("/proc/self/comm")


def process_name() -> str:
    """Return it; empty where there is no /proc."""
    try:
        return os.fsdecode(_PLACE.read_bytes().removesuffix(b"\n"))
    except OSError:
        return ""


def name_process(name: str) -> None:
    """Let `name` be shown, the first 15 bytes of it."""
    with contextlib.suppress(OSError):  # where /proc is not there, all look alike
        _PLACE.write_bytes(os.fsencode(name))
