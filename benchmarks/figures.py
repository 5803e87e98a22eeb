"""Write the page and the plots of what was measured, from the results in bench_results/.

    python -m benchmarks.figures

It reads load_*.json and peers*.json, writes the plots beside them as SVG, and puts its section into README.md there;
the rest of that page stays. A result that is not there is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import plots
from benchmarks.scenarios.goals import number

RESULTS: Final = Path("bench_results")
BEGIN: Final = "<!-- written by python -m benchmarks.figures -->"
END: Final = "<!-- end of what python -m benchmarks.figures has written -->"
TITLE: Final = "# Measured\n"
Document = Mapping[str, Any]


def read(directory: Path) -> tuple[dict[str, Document], dict[str, Document]]:
    """The results of load scenarios by file name, and those of the peers by scenario."""
    load = {
        path.stem.removeprefix("load_"): json.loads(path.read_text())
        for path in sorted(directory.glob("load_*.json"))
    }
    peers: dict[str, Document] = {}
    for path in sorted(directory.glob("peers*.json")):
        document = json.loads(path.read_text())
        for name, scenario in document["scenarios"].items():
            peers[name] = scenario | {
                key: document.get(key) for key in ("command", "machine", "date", "skipped")
            }
    return load, peers


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
            command = f"`{_command(document)}`"
            for i, goal in enumerate(document["goals"]):
                first = (name, command, document.get("date") or "") if i == 0 else ("", "", "")
                lines.append(
                    f"| {first[0]} | {goal['figure']} | {_value(goal)} | {_bound(goal)} | {_outcome(goal)} |"
                    f" {first[1]} | {first[2]} |"
                )
        lines.append("")
    for name, document in peers.items():
        lines += [*_peer_table(name, document), ""]
    for plot in drawn:
        lines += [f"![{plot.title}]({plot.path.name})", "", plot.text, ""]
    lines += _faults(load)
    return "\n".join(lines).rstrip() + "\n"


def put(path: Path, section: str) -> None:
    """Write `section` into a page in the place of the one before; the rest of the page stays."""
    whole = f"{BEGIN}\n{section.strip()}\n{END}"
    text = path.read_text() if path.exists() else f"{TITLE}\n"
    before, begin, rest = text.partition(BEGIN)
    after = rest.partition(END)[2] if begin else "\n"
    path.write_text((before if begin else f"{text.rstrip()}\n\n") + whole + after)


def _conditions(documents: Sequence[Document]) -> list[str]:
    """The machines of the results; one as a rule."""
    machines = {
        f"{facts['processor']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}"
        for document in documents
        if (facts := document.get("machine"))
    }
    return [
        f"On {' and '.join(sorted(machines)) or 'an unknown machine'}, server and clients together, over loopback.",
        "A latency runs from the stamp that the server gives a message to its receipt. Every run checks that no",
        "message was lost, came twice or out of order without being declared.",
    ]


def _command(document: Document) -> str:
    words: Sequence[str] = document.get("command") or ()
    shown = list(words)
    if "--json" in shown:
        at = shown.index("--json")
        del shown[at : at + 2]
    return " ".join(shown)


def _value(goal: Document) -> str:
    if goal["value"] is None:
        return "-"
    return f"{number(goal['value'])} {goal['unit']}".rstrip()


def _bound(goal: Document) -> str:
    return f"{'≥' if goal['is_least'] else '≤'} {goal['bound']:,.10g} {goal['unit']}".rstrip()


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
        f"`{_command(document)}`",
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


def _faults(load: Mapping[str, Document]) -> list[str]:
    """What a run says that must not have been, which is nothing as a rule."""
    found = [f"- {name}: {fault}" for name, document in load.items() for fault in document["faults"]]
    return ["### Faults", "", *found] if found else [f"None of {len(load)} load runs had a fault."]


def main(arguments: Sequence[str] | None = None) -> int:
    description, _, epilog = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="benchmarks.figures",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIRECTORY", help="(default: %(default)s)"
    )
    directory: Path = parser.parse_args(arguments).results
    load, peers = read(directory)
    if not load and not peers:
        print(f"figures: there are no results in {directory}: make bench-load bench-peers", file=sys.stderr)
        return 2
    drawn = plots.draw(load, peers, directory)
    put(directory / "README.md", page(load, peers, drawn))
    print(f"{directory / 'README.md'}, {', '.join(plot.path.name for plot in drawn)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
