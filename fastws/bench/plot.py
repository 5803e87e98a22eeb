"""Bars for a terminal: a histogram of latencies, and how far something has come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

_STEPS: Final = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
"""Edges within a power of ten; each a third to a half above the last."""
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"


def can_draw_blocks(encoding: str | None) -> bool:
    """Whether a stream of that encoding takes block characters."""
    try:
        "█▏".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def bar(share: float, width: int, *, has_blocks: bool) -> str:
    """Return a bar of `share` of `width` columns. What is not 0 is seen."""
    if not has_blocks:
        n = round(share * width)
        return "#" * n if n or not share else "."
    eighths = max(round(8 * share * width), 1 if share else 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def histogram(
    buckets: Sequence[tuple[float, float]], *, width: int = 78, has_blocks: bool = True
) -> list[str]:
    """Return lines of `width` columns at most that show (upper edge in ms, count) pairs.

    Lines cover steps of about a half; each has its share and that of all up to it.
    """
    total = sum(count for _, count in buckets)
    if not total:
        return []
    rows: list[tuple[float, float]] = []
    for upper, count in buckets:
        edge = _edge(upper)
        while rows and edge > _after(rows[-1][0]):
            rows.append((_after(rows[-1][0]), 0.0))
        if rows and rows[-1][0] == edge:
            rows[-1] = (edge, rows[-1][1] + count)
        else:
            rows.append((edge, count))
    most = max(count for _, count in rows)
    lines = []
    seen = 0.0
    for edge, count in rows:
        seen += count
        label = f"  to {edge:>6,g} ms"
        figures = f" {_percent(count / total)} {_percent(seen / total)}"
        room = width - len(label) - len(figures) - 1
        drawn = bar(count / most, room, has_blocks=has_blocks)
        lines.append(f"{label} {drawn:<{room}}{figures}")
    return lines


def _percent(share: float) -> str:
    # 100 % is what is complete, and 0 % what is empty.
    if 0 < share < 0.0005:
        return " <0.1%"
    if 0.9995 <= share < 1 - 1e-9:
        return ">99.9%"
    return f"{100 * share:5.1f}%"


def _edge(value: float) -> float:
    """The lowest edge that is not below `value`; from 1 ms on, as times of messages are whole milliseconds."""
    if value <= 1.0:
        return 1.0
    exponent = math.floor(math.log10(value))
    for step in (*_STEPS, 10.0):
        edge = step * 10.0**exponent
        # Edges of the fine buckets are sums of floats.
        if value <= edge * (1 + 1e-9):
            return edge
    raise AssertionError(value)


def _after(edge: float) -> float:
    return _edge(edge * 1.01)
