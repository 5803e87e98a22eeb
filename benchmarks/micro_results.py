"""What the micro-benchmarks have found: several passes of pytest-benchmark as one small document, and the file of it.

A pass runs every suite once, each in a process of its own. What counts of a benchmark is its shortest time of all
passes: whatever a machine does beside only ever adds to it. The same holds for the yardsticks around it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.calibration import YARDSTICKS
from fastws.errors import FastwsError

FORMAT: Final = 1
"""Of the JSON; another number is another shape."""

_KNOWN: Final = {
    "unit",
    "items",
    "what",
    "yardstick",
    "yardsticks",
    "bytes",
    "against",
    "at_least",
    "waiting",
}


class ResultsError(FastwsError):
    """There are no results where they were expected, or none that can be read."""


class Benchmark(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Times are in nanoseconds of one call, which makes `items` of what `unit` names (as "messages/s")."""

    what: str
    min_ns: float
    median_ns: float
    stddev_ns: float
    rounds: int
    passes_ns: list[float]
    """The shortest time of each pass."""
    unit: str = ""
    items: int = 1
    bytes: int = 0
    """What one call goes through; 0 where that says nothing."""
    yardstick: str = ""
    """The one that it is judged by; none: it is told and not judged."""
    yardstick_ns: float = 0.0
    """The shortest time of that yardstick right before and after this benchmark."""
    against: str = ""
    """The benchmark of ours that this one, of a peer, is compared with."""
    at_least: float = 0.0
    """Target: items per second, or how many times faster ours is than this peer; 0: there is none."""
    waiting: float = 0.0
    """Which share of its time it waited for a processor that others had, in the pass where that was least."""
    extra: dict[str, float | str] = {}

    @property
    def per_second(self) -> float:
        return self.items / self.min_ns * 1e9

    @property
    def ns_per_item(self) -> float:
        return self.min_ns / self.items


class Document(msgspec.Struct, kw_only=True):
    """`calibration` holds the shortest time of each yardstick in each pass, in nanoseconds."""

    format: int = FORMAT
    passes: int
    machine: dict[str, Any]
    calibration: dict[str, list[float]]
    benchmarks: dict[str, Benchmark]

    @property
    def noise(self) -> float:
        """How much the machine itself changed its pace from pass to pass: 0.05 is 5 %."""
        found = 0.0
        for times in self.calibration.values():
            if times:
                found = max(found, statistics.median(times) / min(times) - 1)
        return found

    def missed(self) -> list[str]:
        """What is under its target, as sentences."""
        texts = []
        for name, benchmark in self.benchmarks.items():
            if "missed" in benchmark.extra:
                texts.append(f"{name}: {benchmark.extra['missed']}")
            if not benchmark.at_least:
                continue
            if benchmark.against:
                ours = self.benchmarks.get(benchmark.against)
                ratio = ratio_to(ours, benchmark) if ours else None
                if ratio is not None and ratio < benchmark.at_least:
                    texts.append(
                        f"{benchmark.against}: {ratio:.1f} times {benchmark.what}, not {benchmark.at_least:g}"
                    )
            elif benchmark.per_second < benchmark.at_least:
                texts.append(
                    f"{name}: {benchmark.per_second:,.0f} {benchmark.unit}, not {benchmark.at_least:,.0f}"
                )
        return texts


def ratio_to(ours: Benchmark, peer: Benchmark) -> float:
    """How many times faster ours is."""
    return peer.ns_per_item / ours.ns_per_item


def name_of(fullname: str) -> str:
    """``benchmarks/test_bench_frames.py::test_parse[small]`` is called ``frames.parse[small]``."""
    path, _, test = fullname.partition("::")
    return f"{Path(path).stem.removeprefix('test_bench_')}.{test.removeprefix('test_')}"


def merge(passes: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> Document:
    """Make one document of what pytest-benchmark has written in each pass (``--benchmark-json``)."""
    calibration: dict[str, list[float]] = {name: [] for name in YARDSTICKS}
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for run in passes:
        least: dict[str, float] = {}
        for row in run["benchmarks"]:
            rows.setdefault(name_of(row["fullname"]), []).append(row)
            for yardstick, seconds in row["extra_info"].get("yardsticks", {}).items():
                least[yardstick] = min(least.get(yardstick, seconds), seconds)
        for yardstick, seconds in least.items():
            calibration[yardstick].append(_rounded(seconds * 1e9))
    return Document(
        passes=len(passes),
        machine=dict(machine),
        calibration=calibration,
        benchmarks={name: _merged(found) for name, found in rows.items()},
    )


def _merged(rows: Sequence[Mapping[str, Any]]) -> Benchmark:
    stats = [row["stats"] for row in rows]
    info = rows[0]["extra_info"]
    yardstick = info.get("yardstick", "")
    unit = info.get("unit", "")
    derived = (
        unit.removesuffix("/s") + "_per_s",
        "ns_per_" + unit.removesuffix("/s").rstrip("s"),
        "MB_per_s",
    )
    return Benchmark(
        what=info.get("what", ""),
        unit=unit,
        items=info.get("items", 1),
        bytes=info.get("bytes", 0),
        min_ns=_rounded(min(stat["min"] for stat in stats) * 1e9),
        median_ns=_rounded(statistics.median(stat["median"] for stat in stats) * 1e9),
        stddev_ns=_rounded(statistics.median(stat["stddev"] for stat in stats) * 1e9),
        rounds=sum(stat["rounds"] for stat in stats),
        passes_ns=[_rounded(stat["min"] * 1e9) for stat in stats],
        yardstick=yardstick,
        yardstick_ns=_rounded(min(row["extra_info"]["yardsticks"][yardstick] for row in rows) * 1e9)
        if yardstick
        else 0.0,
        against=info.get("against", ""),
        at_least=info.get("at_least", 0.0),
        waiting=min(row["extra_info"].get("waiting", 0.0) for row in rows),
        extra={name: value for name, value in info.items() if name not in _KNOWN and name not in derived},
    )


def joined(first: Document, more: Document) -> Document:
    """`first` with the benchmarks that were run again in `more`: of each the best of both.

    The machine's pace stays that of `first`, all of whose passes were of the same length.
    """
    benchmarks = dict(first.benchmarks)
    for name, again in more.benchmarks.items():
        before = benchmarks.get(name, again)
        if before is again:
            continue
        benchmarks[name] = msgspec.structs.replace(
            before,
            min_ns=min(before.min_ns, again.min_ns),
            rounds=before.rounds + again.rounds,
            passes_ns=before.passes_ns + again.passes_ns,
            yardstick_ns=min(before.yardstick_ns, again.yardstick_ns),
            waiting=min(before.waiting, again.waiting),
        )
    return msgspec.structs.replace(first, benchmarks=benchmarks)


def write(document: Document, path: Path) -> None:
    """Write what :func:`read` reads: one line per benchmark, so that a change of one is a change of one line."""
    whole = msgspec.to_builtins(document)
    benchmarks = whole.pop("benchmarks")
    head = json.dumps(whole, indent=2).removesuffix("\n}")
    lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in benchmarks.items())
    path.write_text(f'{head},\n  "benchmarks": {{\n{lines}\n  }}\n}}\n')


def read(path: Path) -> Document:
    """Read a file of `make bench`.

    Raises:
        ResultsError: there is none, or it is something else.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ResultsError(f"{path}: {error.strerror}: make bench writes one") from None
    try:
        return msgspec.json.decode(text, type=_Shape, strict=False).document(text)
    except msgspec.MsgspecError as error:
        raise ResultsError(f"{path} holds no results of make bench: {error}") from None


class _Shape(msgspec.Struct):
    """Looked at first, so that another format is told as such and not as a missing field."""

    format: int

    def document(self, text: bytes) -> Document:
        if self.format != FORMAT:
            raise ResultsError(
                f"the results are of format {self.format}, this is {FORMAT}: make bench writes new ones"
            )
        return msgspec.json.decode(text, type=Document)


def _rounded(value: float) -> float:
    """Five digits: enough, and the file stays small."""
    return float(f"{value:.5g}")
