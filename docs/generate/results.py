"""What was measured, from the results in bench_results/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

from benchmarks.scenarios.goals import number
from docs.generate.markdown import code, table

Document = dict[str, Any]

RESULTS: Final = Path(__file__).parents[2] / "bench_results"


def load() -> str:
    """Each figure that has a goal, with the command that measured it."""
    rows = []
    for name, document in _documents().items():
        command = code(_command(document).removeprefix("python -m benchmarks."))
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
    machines = {
        f"{facts['processor']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}"
        for document in _documents().values()
        if (facts := document.get("machine"))
    }
    return " and ".join(sorted(machines))


@cache
def _documents() -> dict[str, Document]:
    return dict(_read())


def _read() -> Iterator[tuple[str, Document]]:
    for path in sorted(RESULTS.glob("load_*.json")):
        yield path.stem.removeprefix("load_"), json.loads(path.read_text())
    for path in sorted(RESULTS.glob("peers*.json")):
        document = json.loads(path.read_text())
        common = {key: document.get(key) for key in ("command", "machine", "date")}
        for name, scenario in document["scenarios"].items():
            yield f"{name}, beside other servers", {"goals": scenario.get("goals")} | common


def _command(document: Document) -> str:
    """As it was typed, but for where the result went."""
    words = list(document.get("command") or ())
    if "--json" in words:
        at = words.index("--json")
        del words[at : at + 2]
    return " ".join(words)


def _value(goal: Document) -> str:
    if goal["value"] is None:
        return "not measured"
    return f"{number(goal['value'])} {goal['unit']}".rstrip()


def _goal(goal: Document) -> str:
    bound = f"{'≥' if goal['is_least'] else '≤'} {goal['bound']:,.10g} {goal['unit']}".rstrip()
    missed = goal["value"] is not None and not goal["is_met"]
    return f"{bound}, **missed** by {goal['distance']:.0%}" if missed else bound
