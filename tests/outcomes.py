"""What runs of the tests on other builds came to, for bench_results/sanitize.json: a row for each build."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

BUILDS: Final = {
    "memory": "AddressSanitizer and UndefinedBehaviorSanitizer; tests of units, protocol, C API and embedding",
    "threads": "ThreadSanitizer; the C API, and extensions that publish into it",
    "ring": "ThreadSanitizer, then the two others; the ring that extensions publish into, without Python",
    "debug": "bounds and None checks on, objects counted; all tests",
}


def note(path: Path, build: str, ran: str, is_clean: bool, seconds: float) -> None:
    """Put the row of a build into the table, in the place of the one before."""
    row = {
        "about": BUILDS[build],
        "ran": ran,
        "is_clean": is_clean,
        "seconds": round(seconds),
        "date": datetime.now(UTC).date().isoformat(),
    }
    rows = (json.loads(path.read_text())["builds"] if path.exists() else {}) | {build: row}
    document = {"builds": {name: rows[name] for name in BUILDS if name in rows}}
    path.write_text(json.dumps(document, indent=1) + "\n")
