"""The micro-benchmarks' figures as text: the page in bench_results/, and what a run and a comparison print."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from benchmarks import results
from benchmarks.micro_results import Benchmark, Document, ratio_to
from benchmarks.micro_verdict import Comparison, Verdict

BEGIN: Final = "<!-- written by make bench -->"
END: Final = "<!-- end of what make bench has written -->"
_SUITES: Final = Path(__file__).parent


def page(document: Document) -> str:
    """Return the section of the page: every benchmark with its figures, and the command that measures it."""
    machine = document.machine
    lines = [
        "## Micro-benchmarks",
        "",
        f"By `make bench` on {machine['processor']}, {machine['cores']} cores, {machine['python']}; all of it is in"
        " [micro.json](micro.json).",
        f"The shortest time of {document.passes} passes counts; between them the machine's own pace changed by"
        f" {document.noise:.1%}. Times are of one item, such as one message.",
        "",
    ]
    lines += _targets(document)
    for suite, names in _by_suite(document.benchmarks).items():
        lines += [f"### {suite}", "", _purpose(suite), "", f"`python -m benchmarks.micro run -k {suite}`", ""]
        lines += ["| | per second | each | MB/s | beside |", "|---|--:|--:|--:|---|"]
        for name in names:
            benchmark = document.benchmarks[name]
            if not benchmark.against:
                lines.append(_row(name, benchmark, document))
        lines.append("")
    return "\n".join(lines)


def put(path: Path, section: str) -> None:
    """Write `section` into a page in the place of the one before; the rest of the page stays."""
    results.put(path, section, BEGIN, END)


def summary(document: Document) -> list[str]:
    """Return what a run prints: a line per benchmark."""
    rows = [("", "per second", "each", "MB/s", "beside")]
    for name, benchmark in document.benchmarks.items():
        if not benchmark.against:
            rows.append((name, *_figures(name, benchmark, document)))
    return [*_aligned(rows), "", noise_of(document)]


def noise_of(document: Document) -> str:
    return f"the machine's own pace changed by {document.noise:.1%} between the {document.passes} passes"


def verdicts(comparison: Comparison) -> list[str]:
    """Return what a comparison prints: a line per benchmark of ours, then the yardsticks, the noise, and the peers."""
    rows = [("", "base", "now", "ratio", "verdict")]
    rows += [_verdict(verdict) for verdict in comparison.verdicts if verdict.judgement != "peer"]
    paces = ", ".join(f"{name} {pace:.2f}" for name, pace in comparison.pace.items())
    return [
        *_aligned(rows),
        "",
        f"the machine's pace, times as long as in the base: {paces}; ratios are corrected by it",
        f"noise of the machine, of both runs: {comparison.noise:.1%}",
    ]


def differences(base: Document, now: Document) -> list[str]:
    """Return what makes two runs hard to compare."""
    lines = []
    for name in now.machine:
        if base.machine.get(name) != now.machine[name]:
            lines.append(
                f"differs: {name}: {_short(base.machine.get(name))}, now {_short(now.machine[name])}"
            )
    return lines


def _targets(document: Document) -> list[str]:
    """A table of the targets; of a benchmark with parameters the one that comes off worst."""
    worst: dict[tuple[str, float], tuple[float, str, str, str]] = {}
    for name, benchmark in document.benchmarks.items():
        if not benchmark.at_least:
            continue
        value, what = benchmark.per_second, benchmark.unit
        if benchmark.against:
            ours = document.benchmarks.get(benchmark.against)
            if ours is None:
                continue
            name, value, what = (
                benchmark.against,
                ratio_to(ours, benchmark),
                f"times as fast as {benchmark.what}",
            )
        key = (name.partition("[")[0] + benchmark.against, benchmark.at_least)
        shown = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
        row = (value, f"{name}, {what}", f"{benchmark.at_least:,.0f}", shown)
        worst[key] = min(worst.get(key, row), row)
    if not worst:
        return []
    return [
        "| target | at least | measured | |",
        "|---|--:|--:|---|",
        *(
            f"| {what} | {least} | {shown} | {'met' if value >= key[1] else '**missed**'} |"
            for key, (value, what, least, shown) in worst.items()
        ),
        "",
    ]


def _row(name: str, benchmark: Benchmark, document: Document) -> str:
    per_second, each, megabytes, beside = _figures(name, benchmark, document)
    label = name.partition(".")[2]
    return f"| **{label}**: {benchmark.what} | {per_second} | {each} | {megabytes} | {beside} |"


def _figures(name: str, benchmark: Benchmark, document: Document) -> tuple[str, str, str, str]:
    beside = [
        f"{ratio_to(benchmark, peer):.1f} x {_peer_name(peer_name, peer)}"
        for peer_name, peer in document.benchmarks.items()
        if peer.against == name
    ]
    beside += [f"{key.replace('_', ' ')}: {value}" for key, value in benchmark.extra.items()]
    if not benchmark.unit:
        return "", duration(benchmark.ns_per_item), "", "; ".join(beside)
    megabytes = f"{benchmark.bytes / benchmark.min_ns * 1e3:,.0f}" if benchmark.bytes else ""
    unit = benchmark.unit.removesuffix("/s")
    return (
        f"{count(benchmark.per_second)} {unit}",
        duration(benchmark.ns_per_item),
        megabytes,
        "; ".join(beside),
    )


def _peer_name(name: str, peer: Benchmark) -> str:
    """What sets one peer apart from others: the last of its parameters where it serves for several."""
    _, _, parameters = name.rstrip("]").partition("[")
    last = parameters.rpartition("-")[2]
    return last if last and last in peer.what else peer.what.partition(",")[0]


def _verdict(verdict: Verdict) -> tuple[str, str, str, str, str]:
    base, now = (
        duration(benchmark.ns_per_item) if benchmark else "-" for benchmark in (verdict.base, verdict.now)
    )
    ratio = "" if verdict.ratio is None else f"{verdict.ratio:.2f}"
    word = {
        "slower": "SLOWER",
        "gone": "is gone",
        "told": "not judged",
        "shared": "not judged: others had the processor",
    }.get(verdict.judgement, verdict.judgement)
    if verdict.judgement in ("slower", "faster"):
        word += f" (noise {verdict.tolerance:.0%})"
    return verdict.name, base, now, ratio, word


def duration(ns: float) -> str:
    """A time that is easy to read: 84.1 ns, 1.67 µs, 354 ms."""
    for unit, size in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if ns < 999.5 * size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def count(per_second: float) -> str:
    """How many in a second: 940, 12.3 k, 3.64 M."""
    for unit, size in (("", 1.0), (" k", 1e3)):
        if per_second < 999.5 * size:
            return f"{per_second / size:.3g}{unit}"
    return f"{per_second / 1e6:.3g} M"


def _by_suite(names: Iterable[str]) -> dict[str, list[str]]:
    suites: dict[str, list[str]] = {}
    for name in names:
        suites.setdefault(name.partition(".")[0], []).append(name)
    return suites


def _purpose(suite: str) -> str:
    source = _SUITES / f"test_bench_{suite}.py"
    return (
        " ".join((ast.get_docstring(ast.parse(source.read_text())) or "").split()) if source.exists() else ""
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns of equal width: the first and the last to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return lines


def _short(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {of_key}" for key, of_key in value.items())
    return str(value)
