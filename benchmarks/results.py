"""Results of load scenarios and of peers as they lie in a directory, and the page that they are told on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

Document = Mapping[str, Any]

_TITLE: Final = "# Measured\n"


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


def command_of(document: Document) -> str:
    """As it was typed, but for where the result went."""
    words = list(document.get("command") or ())
    if "--json" in words:
        at = words.index("--json")
        del words[at : at + 2]
    return " ".join(words)


def machines_of(documents: Iterable[Document]) -> str:
    """Where they were measured; on one machine as a rule, and empty where no result tells."""
    machines = {
        f"{facts['processor']}, {facts['cores']} cores, Linux {facts['kernel']}, Python {facts['python']}"
        for document in documents
        if (facts := document.get("machine"))
    }
    return " and ".join(sorted(machines))


def put(path: Path, section: str, begin: str, end: str) -> None:
    """Write a section of a page between its two marks, in the place of the one before; the rest of the page stays."""
    whole = f"{begin}\n{section.strip()}\n{end}"
    text = path.read_text() if path.exists() else f"{_TITLE}\n"
    before, found, rest = text.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    path.write_text((before if found else f"{text.rstrip()}\n\n") + whole + after)
