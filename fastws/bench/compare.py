"""Two load tests side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fastws.errors import FastwsError

FORMAT: Final = 1
"""Of the JSON that `fastws bench --json` writes; another number is another shape."""

_FIGURES: Final = (
    ("opened in, s", "run.connect_s", 2),
    ("messages/s", "run.load.messages_per_second", 0),
    ("MB/s", "run.load.bytes_per_second", 2),
    ("latency p50, ms", "run.load.latency.p50_ms", 1),
    ("latency p90, ms", "run.load.latency.p90_ms", 1),
    ("latency p99, ms", "run.load.latency.p99_ms", 1),
    ("latency p99.9, ms", "run.load.latency.p999_ms", 1),
    ("latency max, ms", "run.load.latency.max_ms", 1),
    ("ping p50, ms", "run.load.ping.p50_ms", 1),
    ("ping p99, ms", "run.load.ping.p99_ms", 1),
    ("server, cores", "run.server.cpu_cores", 3),
    ("server, MiB", "run.server.rss_most", 1),
    ("generator, cores", "run.load.client.cpu_share", 3),
    ("lost", "run.load.lost", 0),
    ("twice", "run.load.duplicates", 0),
    ("back from the cut, s", "storm.seconds", 2),
)
_SCALES: Final = {"run.load.bytes_per_second": 1e6, "run.server.rss_most": 1 << 20}
_PARTS: Final = {"plan", "run", "machine", "notes", "faults"}
_MACHINE: Final = ("processor", "cores", "kernel")
_NAME_WIDTH: Final = 22
_COLUMN_WIDTH: Final = 18


class CompareError(FastwsError):
    """A file holds no result of a load test."""


def load(path: Path) -> dict[str, Any]:
    """Read what `fastws bench --json` has written."""
    try:
        document = json.loads(path.read_text())
    except ValueError:
        raise CompareError(f"{path} is no JSON: give files of fastws bench --json") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT or not document.keys() >= _PARTS:
        raise CompareError(f"{path} is no result of this version's fastws bench --json")
    return document


def compare(names: tuple[str, str], documents: tuple[Mapping[str, Any], Mapping[str, Any]]) -> str:
    """Return a table of the figures that either has, and what makes them hard to compare."""
    heads = [name if len(name) < _COLUMN_WIDTH else "…" + name[2 - _COLUMN_WIDTH :] for name in names]
    lines = [
        f"{'':{_NAME_WIDTH}}" + "".join(f"{head:>{_COLUMN_WIDTH}}" for head in heads) + f"{'change':>12}"
    ]
    for title, path, digits in _FIGURES:
        first, second = (_figure(document, path) for document in documents)
        if first is None and second is None:
            continue
        cells = ["-" if value is None else f"{value:,.{digits}f}" for value in (first, second)]
        columns = "".join(f"{cell:>{_COLUMN_WIDTH}}" for cell in cells)
        lines.append(f"{title:<{_NAME_WIDTH}}{columns}{_change(first, second):>12}")
    return "\n".join([*lines, *_differences(documents), *_reservations(names, documents)])


def _figure(document: Mapping[str, Any], path: str) -> float | None:
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return None if value is None else value / _SCALES.get(path, 1)


def _change(first: float | None, second: float | None) -> str:
    if first is None or second is None:
        return ""
    if first == second:
        return "="
    return f"{100 * (second / first - 1):+,.1f}%" if first else ""


def _differences(documents: tuple[Mapping[str, Any], Mapping[str, Any]]) -> list[str]:
    lines = []
    for part, names in (("plan", None), ("machine", _MACHINE)):
        first, second = (document[part] for document in documents)
        for name in names or first:
            # A server has another process id each time.
            if name != "pid" and first.get(name) != second.get(name):
                lines.append(f"differs: {name} {_short(first.get(name))} and {_short(second.get(name))}")
    return ["", *lines] if lines else []


def _short(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _reservations(
    names: tuple[str, str], documents: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> list[str]:
    lines = [
        f"{name}: {remark}"
        for name, document in zip(names, documents, strict=True)
        for remark in (*document["notes"], *(f"FAULT: {fault}" for fault in document["faults"]))
    ]
    return ["", *lines] if lines else []
