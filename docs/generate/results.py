"""What was measured, from the results in bench_results/."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from benchmarks.results import Document, command_of, machines_of, read
from benchmarks.scenarios.goals import bound, number, value
from docs.generate.markdown import code, table

RESULTS: Final = Path(__file__).parents[2] / "bench_results"


def load() -> str:
    """Each figure that has a goal, with the command that measured it."""
    rows = []
    for name, document in _documents().items():
        command = code(command_of(document).removeprefix("python -m benchmarks."))
        place = [f"**{name}**<br>{command}<br><small>{document.get('date') or ''}</small>"]
        for goal in document.get("goals") or ():
            rows.append([*place, goal["figure"], _value(goal), _goal(goal)])
            place = [""]
    return table(("`python -m benchmarks.…`", "figure", "measured", "goal"), rows)


def figure(name: str) -> str:
    """What one figure was, with a goal or without, named as ``SCENARIO: FIGURE``; KeyError where there is none."""
    scenario, _, wanted = name.partition(": ")
    document = _documents()[scenario]
    for goal in document.get("goals") or ():
        if goal["figure"] == wanted:
            return _value(goal)
    return number(document[wanted])


def faults() -> str:
    """How many faults the runs had, which is none as a rule."""
    loads = {name: document for name, document in _documents().items() if "faults" in document}
    bad = {name: len(document["faults"]) for name, document in loads.items() if document["faults"]}
    if not bad:
        return f"None of the {len(loads)} load runs had a fault: nothing was lost, doubled or out of order."
    told = ", ".join(f"{name} ({n})" for name, n in bad.items())
    return f"Of the {len(loads)} load runs these had faults, which the page of results lists: {told}."


def machine() -> str:
    """Where it was measured."""
    return machines_of(_documents().values())


@cache
def _documents() -> dict[str, Document]:
    loads, peers = read(RESULTS)
    return loads | {f"{name}, beside other servers": document for name, document in peers.items()}


def _goal(goal: Document) -> str:
    missed = goal["value"] is not None and not goal["is_met"]
    return bound(goal) + (f", **missed** by {goal['distance']:.0%}" if missed else "")


def _value(goal: Document) -> str:
    return "not measured" if goal["value"] is None else value(goal)
