"""Write the page and the plots of what was measured, from the results in bench_results/.

    python -m benchmarks.figures

It reads load_*.json and peers*.json, writes the plots beside them as SVG, and puts its section into README.md there;
the rest of that page stays. A result that is not there is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks import plots
from benchmarks.program import make_parser
from benchmarks.results import Document, command_of, machines_of, put, read
from benchmarks.scenarios.goals import bound, value

RESULTS: Final = Path("bench_results")
BEGIN: Final = "<!-- written by python -m benchmarks.figures -->"
END: Final = "<!-- end of what python -m benchmarks.figures has written -->"


def page(load: Mapping[str, Document], peers: Mapping[str, Document], drawn: Sequence[plots.Plot]) -> str:
    """The section: targets, peers, plots, and how it was measured."""
    lines = ["## Under load", "", *_conditions([*load.values(), *peers.values()]), ""]
    rows = [(f"{name}", document) for name, document in load.items() if document.get("goals")]
    rows += [(f"{name} beside peers", document) for name, document in peers.items() if document.get("goals")]
    if rows:
        lines += [
            "| scenario | figure | measured | target | | command | date |",
            "|---|---|--:|--:|---|---|---|",
        ]
        for name, document in rows:
            command = f"`{command_of(document)}`"
            for i, goal in enumerate(document["goals"]):
                first = (name, command, document.get("date") or "") if i == 0 else ("", "", "")
                lines.append(
                    f"| {first[0]} | {goal['figure']} | {_value(goal)} | {bound(goal)} | {_outcome(goal)} |"
                    f" {first[1]} | {first[2]} |"
                )
        lines.append("")
    lines += _found_table(load)
    for name, document in peers.items():
        lines += [*_peer_table(name, document), ""]
    for plot in drawn:
        lines += [f"![{plot.title}]({plot.path.name})", "", plot.text, ""]
    lines += _faults(load)
    return "\n".join(lines).rstrip() + "\n"


def _conditions(documents: Sequence[Document]) -> list[str]:
    """How the results were measured, and where."""
    return [
        f"On {machines_of(documents) or 'an unknown machine'}, server and clients together, over loopback.",
        "A latency runs from the stamp that the server gives a message to its receipt. Every run checks that no",
        "message was lost, came twice or out of order without being declared.",
    ]


def _value(goal: Document) -> str:
    return "-" if goal["value"] is None else value(goal)


def _outcome(goal: Document) -> str:
    if goal["value"] is None:
        return "not measured"
    return "met" if goal["is_met"] else f"**missed** by {goal['distance']:.0%}"


def _peer_table(name: str, document: Document) -> list[str]:
    """Medians of the rounds, and the ratios of ours to each: they are steadier than the figures."""
    servers: Mapping[str, Document] = document["servers"]
    ours = next(
        (row["median"] for title, row in servers.items() if title.startswith("fastws") and row["median"]),
        None,
    )
    lines = [
        f"### {name}: {document['connections']:,} connections, {document['rate']:,g} messages/s to each",
        "",
        f"`{command_of(document)}`",
        "",
        "| server | cores | µs/message | p50 | p99 | of the rate | memory | CPU: ours is | p99: ours is |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    notes = []
    for title, row in servers.items():
        median = row["median"]
        if median is None:
            lines.append(f"| {title} | - | | | | | | | |")
        else:
            ratios = ("", "")
            if ours and not title.startswith("fastws"):
                is_in_time = median["share"] >= 0.95
                ratios = (
                    f"{ours['cpu_us'] / median['cpu_us']:.2f} x",
                    f"{ours['p99_ms'] / median['p99_ms']:.2f} x" if is_in_time else "it is behind",
                )
            lines.append(
                f"| {title} | {median['cpu_cores']:.2f} | {median['cpu_us']:.2f} | {median['p50_ms']:.1f} ms |"
                f" {median['p99_ms']:.1f} ms | {median['share']:.1%} | {median['rss_most'] / 2**20:,.0f} MiB |"
                f" {ratios[0]} | {ratios[1]} |"
            )
        notes += [f"- {title}: {text}" for text in (*row["failures"], *row["faults"])]
    skipped = document.get("skipped") or {}
    notes += [f"- {title} was left out: {reason}" for title, reason in skipped.items()]
    return [*lines, *(["", *notes] if notes else [])]


def _slow_figures(document: Document) -> list[str]:
    without, beside = document["runs"].values()
    slow = beside["load"]["slow"]
    p99 = [run["load"]["latency"]["p99_ms"] for run in (without, beside)]
    figures = [
        f"p99 of those that read {p99[1]:.1f} ms beside {slow['connections']:,} that do not, {p99[0]:.1f} ms without",
        f"{slow['open']:,} of these still open",
    ]
    if without["server"] and beside["server"]:
        sizes = [run["server"]["rss_most"] / 2**20 for run in (without, beside)]
        figures.append(f"server memory {sizes[1]:,.0f} MiB at most, {sizes[0]:,.0f} without")
    return figures


def _deflate_figures(document: Document) -> list[str]:
    return [
        f"{document['saved']:.0%} saved on the wire, {document['messages_per_batch']:.0f} messages in a batch",
        f"server {document['cost_ratio']:.2f} times the processor time of plain runs",
    ]


def _alerts_figures(document: Document) -> list[str]:
    cores = document["cores"]
    return [
        f"the rules cost {document['cost_cores_median']:+.3f} cores (median of pairs; {cores['without']:.3f} without)",
        f"{document['prices_per_second']['with']:,.0f} prices/s",
        f"started in {document['start_seconds']['with']:.2f} s, {document['start_seconds']['without']:.2f} without",
    ]


def _storm_figures(document: Document) -> list[str]:
    run = document["run"]
    answers = ", ".join(f"{n:,} {answer}" for answer, n in run["answers"].items())
    return [
        answers,
        f"each within p50 {1000 * run['return_s']['p50']:.1f}, p99 {1000 * run['return_s']['p99']:.1f} ms",
        f"ping of a bystander p99 {run['during']['p99_ms']:.1f} ms, {run['calm']['p99_ms']:.1f} before",
        f"{run['missing']:,} updates missing",
    ]


def _stop_figures(document: Document) -> list[str]:
    closes = ", ".join(f"{n:,} closed with {code}" for code, n in document["closes"].items())
    return [
        f"ended in {document['stop_seconds']:.2f} s with status {document['exit_status']}",
        closes,
        f"{document['told']:,} told when to come back",
        f"{document['prices_known_after_a_restart']:,} last prices known after a restart",
    ]


def _restore_figures(document: Document) -> list[str]:
    run = document["run"]
    cycles = run["cycles"]
    n_recovered = sum(cycle["recovered"] for cycle in cycles)
    # One that finds its old connection still open waits for that, however fast the server is.
    times = sorted(cycle["return_s"] for cycle in cycles if cycle["death"] != "half_open")
    back = [f"back within {1000 * times[len(times) // 2]:.0f} ms (median)"] if times else []
    return [
        f"{n_recovered:,} of {len(cycles):,} outages recovered",
        *back,
        f"{sum(run['missing'].values()):,} of {run['received']:,} updates missing",
    ]


def _clients_figures(document: Document) -> list[str]:
    run = document["run"]
    figures = [f"{run['published_per_second']:,.0f} updates/s, {run['restarts']} restarts of the server"]
    for name, program in run["programs"].items():
        counts = program["counts"]
        figures.append(
            f"{name}: {sum(program['kills'].values()):,} kills, {counts.get('updates', 0):,} updates,"
            f" {len(program['faults'])} faults"
        )
    return figures


_FIGURES: Final = {
    "slow": _slow_figures,
    "deflate": _deflate_figures,
    "alerts": _alerts_figures,
    "storm": _storm_figures,
    "stop": _stop_figures,
    "restore": _restore_figures,
    "clients": _clients_figures,
}
"""Of scenarios that have no targets of their own: what a run has found, by the name of the scenario."""


def _found_table(load: Mapping[str, Document]) -> list[str]:
    rows = [
        f"| {name} | {'; '.join(_FIGURES[document['scenario']](document))} | {len(document['faults']) or 'none'} |"
        f" `{command_of(document)}` | {document.get('date') or ''} |"
        for name, document in load.items()
        if document.get("scenario") in _FIGURES and not document.get("goals")
    ]
    if not rows:
        return []
    return [
        "What else a run found:",
        "",
        "| scenario | found | faults | command | date |",
        "|---|---|---|---|---|",
        *rows,
        "",
    ]


def _faults(load: Mapping[str, Document]) -> list[str]:
    """What a run says that must not have been, which is nothing as a rule."""
    found = [f"- {name}: {fault}" for name, document in load.items() for fault in document["faults"]]
    return ["### Faults", "", *found] if found else [f"None of {len(load)} load runs had a fault."]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("benchmarks.figures", __doc__)
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIRECTORY", help="(default: %(default)s)"
    )
    directory: Path = parser.parse_args(arguments).results
    load, peers = read(directory)
    if not load and not peers:
        print(f"figures: there are no results in {directory}: make bench-load bench-peers", file=sys.stderr)
        return 2
    drawn = plots.draw(load, peers, directory)
    put(directory / "README.md", page(load, peers, drawn), BEGIN, END)
    print(f"{directory / 'README.md'}, {', '.join(plot.path.name for plot in drawn)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
