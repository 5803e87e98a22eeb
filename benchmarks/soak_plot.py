"""Draw what a soak has measured: memory, descriptors, latencies and what is waiting, over its time.

    python -m benchmarks.soak_plot bench_results/soak/soak.json

The plot is written beside the result, as soak.svg.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.plots import GRID, INK, OURS, STYLE
from benchmarks.program import make_parser
from benchmarks.scenarios.soak import WARM_UP_SHARE


def draw(samples: Sequence[dict[str, Any]], grown: dict[str, float]) -> Figure:
    """Four panels: what every sample of ``benchmarks.load soak`` says, and how it grows in an hour."""
    minutes = [sample["at_s"] / 60 for sample in samples]
    warm = minutes[int(len(minutes) * WARM_UP_SHARE)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.0, 6.0), layout="constrained")
        panels = [figure.add_subplot(2, 2, i + 1) for i in range(4)]
        memory, descriptors, latencies, ledger = panels
        memory.plot(minutes, [sample["rss"] / 1e6 for sample in samples], color=OURS)
        _tell(memory, f"memory: {grown['rss_percent']:+.2f} %/h", "MB")
        descriptors.plot(
            minutes, [sample["descriptors"] - sample["connections"] for sample in samples], color=OURS
        )
        _tell(descriptors, f"descriptors beside connections: {grown['descriptors']:+.2f}/h", "")
        for name, colour in (("p50_ms", INK), ("p99_ms", OURS)):
            latencies.plot(minutes, [sample[name] for sample in samples], color=colour, label=name[:3])
        latencies.set_yscale("log")
        latencies.legend()
        _tell(latencies, f"latency: {grown['p50_ms']:+.2f}, {grown['p99_ms']:+.2f} ms/h", "ms")
        ledger.plot(minutes, [sample["lost"] for sample in samples], color=OURS, label="declared lost")
        ledger.plot(minutes, [sample["waiting"] for sample in samples], color=INK, label="waiting")
        ledger.legend()
        n_well = sum(sample["is_balanced"] for sample in samples)
        _tell(ledger, f"ledger: adds up in {n_well} of {len(samples)} looks", "updates")
        for axes in panels:
            axes.axvspan(0, warm, color=GRID, alpha=0.15, linewidth=0)
            axes.set_xlabel("min")
            axes.set_xlim(0, minutes[-1])
    return figure


def _tell(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_ylabel(unit)
    if axes.get_yscale() == "linear":
        axes.set_ylim(bottom=0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("benchmarks.soak_plot", __doc__)
    parser.add_argument("result", type=Path)
    path: Path = parser.parse_args(arguments).result
    document = json.loads(path.read_text())
    figure = draw(document["run"]["samples"], document["slopes_per_hour"])
    with mpl.rc_context(STYLE):
        figure.savefig(
            path.with_suffix(".svg"), transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
    print(path.with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
