"""The plots of what was measured, as SVG without a background, in colours that can be read on white and on black."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

INK: Final = "#7a828e"
GRID: Final = "#7a828e40"
OURS: Final = "#e5534b"
COLOURS: Final = {
    "fastws 30 ms": OURS,
    "fastws 0 ms": "#e0823d",
    "floor": "#7a828e",
    "bun": "#3f8fd8",
    "socketify": "#9a6dd7",
    "nchan": "#3aa06b",
    "picows": "#c9971f",
    "websockets": "#d0659f",
}
STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "fastws",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
}
# Who is lucky is not asked about, and beyond the last share a latency is one of chance.
_FIRST_SHARE: Final = 0.1
_LAST_SHARE: Final = 0.9999
_NINES: Final = (0.5, 0.9, 0.99, 0.999, 0.9999)
_LOAD_RUNS: Final = (
    ("fanout", "1,000 connections x 4,000/s"),
    ("flood", "10,000 connections x 1,000/s"),
    ("watchlists", "10,000 watchlists"),
    ("watchlists_3000", "3,000 watchlists"),
)


@dataclass(frozen=True)
class Plot:
    """A plot that was written: its file, and what it shows in a few words and in a sentence."""

    path: Path
    title: str
    text: str


def draw(
    load: Mapping[str, Mapping[str, Any]], peers: Mapping[str, Mapping[str, Any]], directory: Path
) -> list[Plot]:
    """Draw what the results allow; returns what was written."""
    wanted: tuple[tuple[str, str, str, Callable[[], Figure | None]], ...] = (
        (
            "peers_cpu",
            "CPU per delivered message beside peers",
            "Processor time of each server per delivered message; shorter is better.",
            lambda: _cpu(peers),
        ),
        (
            "peers_latency",
            "Latencies beside peers",
            "Which share of messages came within which time (the scale stretches the slowest ones); lower is better.",
            lambda: _latencies(peers),
        ),
        (
            "load_latency",
            "Latencies under load",
            "The same of fastws alone under heavier loads, which the peers do not stand.",
            lambda: _load_latencies(load),
        ),
        (
            "growth",
            "CPU per delivered message as connections and topics grow",
            "The same number of messages is delivered at each point, each sent by itself; the floor is a bare loop of"
            " sends to as many connections.",
            lambda: _growth(load.get("growth")),
        ),
    )
    drawn = []
    with mpl.rc_context(STYLE):
        for name, title, text, make in wanted:
            figure = make()
            if figure is not None:
                path = directory / f"{name}.svg"
                figure.savefig(path, transparent=True, bbox_inches="tight", metadata={"Date": None})
                drawn.append(Plot(path, title, text))
    return drawn


def _title(scenario: Mapping[str, Any]) -> str:
    return f"{scenario['connections']:,} connections x {scenario['rate']:,g}/s"


def _panels(n: int, *, height: float) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(4.6 * n, height), layout="constrained")
    return figure, [figure.add_subplot(1, n, i + 1) for i in range(n)]


def _cpu(peers: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    rows = [
        (scenario, names)
        for scenario in peers.values()
        if len(names := [name for name, row in scenario["servers"].items() if row["median"]]) > 1
    ]
    if not rows:
        return None
    figure, panels = _panels(len(rows), height=0.8 + 0.32 * max(len(names) for _, names in rows))
    for axes, (scenario, names) in zip(panels, rows, strict=True):
        costs = {name: scenario["servers"][name]["median"]["cpu_us"] for name in names}
        ordered = sorted(names, key=lambda name: -costs[name])
        bars = axes.barh(
            ordered,
            [costs[name] for name in ordered],
            color=[COLOURS.get(name, INK) for name in ordered],
            height=0.65,
        )
        axes.bar_label(bars, fmt="%.2f", padding=3, color=INK, fontsize=9)
        axes.set_title(_title(scenario))
        axes.set_xlabel("µs/message")
        axes.margins(x=0.15)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
    return figure


def _distribution(axes: Axes, quantiles: Sequence[Sequence[float]], label: str, colour: str | None) -> None:
    points = [(share, ms) for share, ms in quantiles if _FIRST_SHARE <= share <= _LAST_SHARE]
    axes.plot([1 / (1 - share) for share, _ in points], [ms for _, ms in points], label=label, color=colour)


def _as_shares(axes: Axes) -> None:
    """A scale on which each nine takes as much room."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1 / (1 - _FIRST_SHARE), 1 / (1 - _LAST_SHARE))
    axes.set_xticks([1 / (1 - share) for share in _NINES], [f"{100 * share:g} %" for share in _NINES])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("share of messages")
    axes.set_ylabel("ms")


def _latencies(peers: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    rows = [
        (scenario, found)
        for scenario in peers.values()
        if len(
            found := {name: row for name, row in scenario["servers"].items() if row.get("latency_quantiles")}
        )
        > 1
    ]
    if not rows:
        return None
    figure, panels = _panels(len(rows), height=3.6)
    for axes, (scenario, servers) in zip(panels, rows, strict=True):
        for name, row in servers.items():
            # A server that is behind publishes late, which its stamps do not show.
            if row["median"] and row["median"]["share"] >= 0.95:
                _distribution(axes, row["latency_quantiles"][-1], name, COLOURS.get(name))
        _as_shares(axes)
        axes.set_title(_title(scenario))
        axes.legend()
    return figure


def _load_latencies(load: Mapping[str, Mapping[str, Any]]) -> Figure | None:
    rows = [(load[name], label) for name, label in _LOAD_RUNS if load.get(name, {}).get("latency_quantiles")]
    if not rows:
        return None
    figure, (axes,) = _panels(1, height=3.6)
    for (document, label), colour in zip(
        rows, list(COLOURS.values())[:1] + list(COLOURS.values())[3:], strict=False
    ):
        _distribution(axes, document["latency_quantiles"], label, colour)
    _as_shares(axes)
    axes.legend()
    return figure


def _growth(document: Mapping[str, Any] | None) -> Figure | None:
    if document is None:
        return None
    figure, panels = _panels(2, height=3.2)
    for axes, part in zip(panels, ("connections", "topics"), strict=True):
        points = document[part]
        at = [point["at"] for point in points]
        axes.plot(at, [point["us"] for point in points], marker="o", color=OURS, label="fastws")
        if all("floor_us" in point for point in points):
            floor = [point["floor_us"] for point in points]
            axes.plot(at, floor, marker="o", color=COLOURS["floor"], linestyle="--", label="the floor")
        axes.set_xscale("log")
        axes.set_xticks(at, [f"{n:,}" for n in at])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(
            0, 1.15 * max(point[name] for point in points for name in ("us", "floor_us") if name in point)
        )
        axes.set_xlabel(part)
        axes.set_ylabel("µs/message")
        axes.legend()
    return figure
