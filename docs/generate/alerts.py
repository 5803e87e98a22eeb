"""The alert rules of deploy/prometheus, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from docs.generate.markdown import code, table, words

_RULES: Final = Path(__file__).parents[2] / "deploy" / "prometheus" / "fastws.rules.yml"


def alerts() -> str:
    """Every rule: its name and how urgent it is, what it looks for, and what to do."""
    groups = yaml.safe_load(_RULES.read_text(encoding="utf-8"))["groups"]
    rows = (
        [
            f"{code(rule['alert'])}<br><small>{rule['labels']['severity']}</small>",
            code(rule["expr"]) + (f" for {rule['for']}" if "for" in rule else ""),
            words(rule["annotations"]["action"]),
        ]
        for group in groups
        for rule in group["rules"]
    )
    return table(("alert", "when", "what to do"), rows)
