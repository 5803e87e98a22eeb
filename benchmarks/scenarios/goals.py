"""What a figure should be at a given load, and whether it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fastws.bench.report import Table


@dataclass(frozen=True)
class Goal:
    """A bound that `figure` should keep: at most `bound`, with `is_least` at least."""

    figure: str
    bound: float
    unit: str
    is_least: bool = False

    def judge(self, value: float | None) -> dict[str, Any]:
        """As results have it; `distance` is by how much of the bound it is missed, 0 when it is met."""
        distance = None
        if value is not None:
            over = self.bound - value if self.is_least else value - self.bound
            distance = max(0.0, over / self.bound)
        return {
            "figure": self.figure,
            "value": value,
            "bound": self.bound,
            "unit": self.unit,
            "is_least": self.is_least,
            "is_met": distance == 0.0,
            "distance": distance,
        }


def judge(goals: Iterable[Goal], figures: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """Hold figures against their goals, by name; what was not measured is missed."""
    return [goal.judge(figures.get(goal.figure)) for goal in goals]


def wording(judged: Mapping[str, Any]) -> str:
    """As ``87.4 ms, target ≤ 100 ms: met``."""
    if judged["value"] is None:
        return f"not measured, target {bound(judged)}"
    outcome = "met" if judged["is_met"] else f"missed by {judged['distance']:.0%}"
    return f"{value(judged)}, target {bound(judged)}: {outcome}"


def value(judged: Mapping[str, Any]) -> str:
    """What was measured, with its unit."""
    return f"{number(judged['value'])} {judged['unit']}".rstrip()


def bound(judged: Mapping[str, Any]) -> str:
    """As ``≤ 100 ms``."""
    return f"{'≥' if judged['is_least'] else '≤'} {judged['bound']:,.10g} {judged['unit']}".rstrip()


def tell(table: Table, judged: Iterable[Mapping[str, Any]]) -> None:
    """Add a row for each."""
    for row in judged:
        table.add(f"→ {row['figure']}", wording(row))


def number(value: float) -> str:
    """With about three digits, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
