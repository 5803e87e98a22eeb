"""What conformance runs, fuzzing and sanitizers have found, from the results in bench_results/."""

from __future__ import annotations

import json
from typing import Any, Final

from docs.generate.markdown import table
from docs.generate.results import RESULTS

_SECTIONS: Final = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragments",
    "6": "UTF-8",
    "7": "closing",
    "9": "messages of up to 16 MiB",
    "10": "many small writes",
    "12": "compression",
    "13": "compression with parameters",
}
_GOOD: Final = ("OK", "INFORMATIONAL")


def conformance() -> str:
    """The cases of each section by how they went, for the server and the Python client."""
    sides = _read("conformance.json")["sides"]
    dates = {run["date"] for sections in sides.values() for run in sections.values()}
    rows = [
        [
            f"{number}: {what}",
            *(_cases(sides[side].get(number, {}).get("cases", {})) for side in ("server", "client")),
        ]
        for number, what in _SECTIONS.items()
    ]
    rows.append(["all", *(_cases(_sum(sides[side].values())) for side in ("server", "client"))])
    return f"{table(('section', 'server', '`fastws.client`'), rows)}\n\nRun on {', '.join(sorted(dates))}."


def fuzzing() -> str:
    """What each target has run, and what was found."""
    targets = _read("fuzz.json")["targets"]
    rows = [
        [
            f"`{name}`",
            f"{row['executions']:,}",
            f"{row['seconds'] / 60:g}",
            f"{row['edges']:,}",
            f"{row['inputs']:,}",
            str(row["findings"] or "none"),
            row["date"],
        ]
        for name, row in targets.items()
    ]
    heads = ("target", "inputs run", "minutes", "edges covered", "inputs that differ", "findings", "on")
    return table(heads, rows)


def sanitizers() -> str:
    """How the tests went on each build that looks for faults itself."""
    rows = [
        [f"`{name}`", row["about"], row["ran"], "none" if row["is_clean"] else "**some**", row["date"]]
        for name, row in _read("sanitize.json")["builds"].items()
    ]
    return table(("build", "what runs on it", "tests", "findings", "on"), rows)


def _cases(counts: dict[str, int]) -> str:
    bad = sum(n for behavior, n in counts.items() if behavior not in _GOOD)
    if not counts:
        return "not run"
    told = ", ".join(f"{n} {behavior.lower()}" for behavior, n in counts.items())
    return f"**{told}**" if bad else told


def _sum(runs: Any) -> dict[str, int]:
    whole: dict[str, int] = {}
    for run in runs:
        for behavior, n in run["cases"].items():
            whole[behavior] = whole.get(behavior, 0) + n
    return dict(sorted(whole.items()))


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return document
