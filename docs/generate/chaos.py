"""What faults and hours have done to a server under load, from bench_results/chaos.json and bench_results/soak/."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.results import command_of
from benchmarks.scenarios.faults import words
from benchmarks.scenarios.goals import bound, value
from docs.generate.markdown import code, table
from docs.generate.results import RESULTS


def chaos() -> str:
    """A row for each fault: what clients behind it saw and others, what was declared lost, how soon it was over."""
    document = json.loads((RESULTS / "chaos.json").read_text())
    rows = [
        [f"**{name}**: {result['about']}", *_outcome(result)] for name, result in document["kinds"].items()
    ]
    n = len(document["faults"])
    end = f"{code(command_of(document))}, {document['date']}; {'no fault of ours' if not n else f'{n} faults of ours'}."
    return (
        table(
            (
                "fault",
                "what those behind it saw",
                "what those beside it saw",
                "lost, and declared",
                "over after",
            ),
            rows,
        )
        + f"\n\n{end}"
    )


def _outcome(result: dict[str, Any]) -> list[str]:
    if "left_out" in result:
        return [f"left out: {result['left_out']}", "", "", ""]
    if "behind" not in result:
        return [f"**failed**: {result['faults'][0].splitlines()[0]}", "", "", ""]
    seen = words(result["behind"])
    notes = ", ".join(f"{name}: {text}" for name, text in result["notes"].items())
    return [
        f"{seen}; {notes}" if notes else seen,
        words(result["beside"]),
        f"{result['ledger']['connections']['lost']:,}",
        f"{result['recovery_ms']:.0f} ms",
    ]


def soak() -> str:
    """The figures of the last soak, and its plot."""
    path = RESULTS / "soak" / "soak.json"
    if not path.exists():
        return "No result of one is kept here."
    document = json.loads(path.read_text())
    run = document["run"]
    sums = run["ended"]["ledger"]["connections"]
    grown = document["slopes_per_hour"]
    rows = [
        ["lasted", f"{document['minutes']:g} min"],
        ["clients that came and went", f"{sum(run['ends'].values()):,}"],
        [
            "updates published, delivered, declared lost",
            f"{run['published']:,}, {sums['delivered']:,}, {sums['lost']:,}",
        ],
        ["memory, once warm", f"{grown['rss_percent']:+.2f} %/h"],
        ["descriptors before and after", f"{run['began']['descriptors']}, {run['ended']['descriptors']}"],
        ["descriptors beside those of connections", f"{grown['descriptors']:+.2f}/h"],
        ["latency p50, p99", f"{grown['p50_ms']:+.2f}, {grown['p99_ms']:+.2f} ms/h"],
        [
            "looks at which the ledger added up",
            f"{sum(s['is_balanced'] for s in run['samples'])} of {len(run['samples'])}",
        ],
    ]
    rows += [[f"goal: {goal['figure']}", f"{value(goal)}, {bound(goal)}"] for goal in document["goals"]]
    return table(("figure", "measured"), rows) + f"\n\n{code(command_of(document))}, {document['date']}."
