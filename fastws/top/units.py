"""Figures as people read them: few digits, and a unit. None is a figure that there is not. Sans-IO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

NONE: Final = "-"

# Without the whole block: lines below each other would run into one.
_BLOCKS: Final = "▁▂▃▄▅▆▇"
_LETTERS: Final = "_.-:=*#"
_EXACT: Final = 100_000


def number(value: float | None) -> str:
    """``12,345``, and from a hundred thousand on ``123 k``, ``1.23 M``."""
    if value is None:
        return NONE
    if abs(value) < _EXACT:
        # What there is of something rare is seen.
        digits = 0 if value == int(value) or abs(value) >= 10 else 1 if abs(value) >= 0.05 else 2
        return f"{value:,.{digits}f}"
    return _scaled(value, 1000, ("", " k", " M", " G", " T"))


def rate(value: float | None) -> str:
    """So many a second."""
    return NONE if value is None else f"{number(value)}/s"


def size(value: float | None) -> str:
    """Bytes."""
    if value is None:
        return NONE
    return f"{value:.0f} B" if value < 1024 else _scaled(value, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def size_rate(value: float | None) -> str:
    """Bytes a second."""
    return NONE if value is None else f"{size(value)}/s"


def milliseconds(value: float | None) -> str:
    """A short time, given in ms."""
    if value is None:
        return NONE
    if value == math.inf:
        return "over 10 s"
    if value >= 1000:
        return f"{value / 1000:.3g} s"
    return f"{value:.2f} ms" if value < 1 else f"{value:.3g} ms"


def percent(value: float | None) -> str:
    """A share, of which 1 is all."""
    if value is None:
        return NONE
    return f"{100 * value:.1f} %" if value < 0.0995 else f"{100 * value:.0f} %"


def age(seconds: float | None) -> str:
    """A long time, given in s: its two largest units."""
    if seconds is None:
        return NONE
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def text(value: object, longest: int = 64) -> str:
    """What another has sent, on one line and without what would move a cursor."""
    shown = "".join(char if char.isprintable() else "�" for char in str(value)[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def sparkline(values: Sequence[float | None], *, has_blocks: bool) -> str:
    """One character for each value, from nothing to the largest of them; a blank where there is none.

    Below 0 is nothing, too.
    """
    marks = _BLOCKS if has_blocks else _LETTERS
    most = max((value for value in values if value is not None and value > 0), default=0.0)
    step = most / (len(marks) - 1)
    return "".join(
        # What is not 0 is seen.
        " " if value is None else marks[max(1, round(value / step))] if value > 0 else marks[0]
        for value in values
    )


def _scaled(value: float, base: int, units: Sequence[str]) -> str:
    power = 0
    # 999.6 would be written as 1000.
    while abs(value) >= base - 0.5 and power < len(units) - 1:
        value /= base
        power += 1
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}{units[power]}"
