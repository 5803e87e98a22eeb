"""What ``/metrics`` has that ``/v1/ws/stats`` has not: times as histograms, and what the process takes. Sans-IO."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families as parse

STAGES: Final = ("feed", "wait", "send", "total")
"""Of an update, from its receipt to its last connection; the names of histograms, as are the other two."""
FLUSH_DELAY: Final = "flush_delay"
LOOP_LAG: Final = "loop_lag"

_UPTIME: Final = "fastws_uptime_seconds"
_START: Final = "fastws_start_time_seconds"
_CPU: Final = "process_cpu_seconds_total"
_MEMORY: Final = "process_resident_memory_bytes"
# What several processes have of them: the youngest tells whether they are those of before.
_COMBINED: Final[dict[str, Callable[[float, float], float]]] = {
    _UPTIME: min,
    _START: max,
    _CPU: operator.add,
    _MEMORY: operator.add,
}
_FIGURES: Final = tuple(_COMBINED)
_HISTOGRAMS: Final = {
    "fastws_flush_delay_seconds_bucket": FLUSH_DELAY,
    "fastws_loop_lag_seconds_bucket": LOOP_LAG,
}
_STAGED: Final = "fastws_stage_seconds_bucket"
# The rest is not read: it is most of it, and parsed in Python.
_WANTED: Final = (*_FIGURES, *_HISTOGRAMS, _STAGED)


class Histogram(NamedTuple):
    """How often something took up to so many seconds: `counts` are cumulative, and the last of `bounds` is infinite."""

    bounds: tuple[float, ...] = ()
    counts: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        return self.counts[-1] if self.counts else 0.0

    def since(self, earlier: Histogram) -> Histogram:
        """What came after `earlier`, which is of the same process."""
        if earlier.bounds != self.bounds:
            return self
        return Histogram(
            self.bounds, tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True))
        )

    def quantile(self, q: float) -> float | None:
        """Seconds that a share `q` stays under, infinite beyond the bounds; None where nothing was counted."""
        if self.total <= 0:
            return None
        wanted = q * self.total
        lower, below = 0.0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count >= wanted:
                if bound == math.inf:
                    return math.inf
                return lower + (bound - lower) * (wanted - below) / max(count - below, 1e-9)
            lower, below = bound, count
        return math.inf


class Metrics(NamedTuple):
    """Of one answer. `start` and `uptime` tell of which process it is, and when it was made, which is up to a second
    before it is given; None is what a server does not tell. Where several processes are told of, it is all they take
    together, and they are those of the youngest."""

    start: float | None
    uptime: float | None
    cpu_seconds: float | None
    memory: float | None
    histograms: dict[str, Histogram]


def read_metrics(body: str) -> Metrics:
    """Read an answer of ``/metrics``; raises ValueError for what is none."""
    figures: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    for family in parse("\n".join(_wanted(body.splitlines()))):
        for sample in family.samples:
            if sample.name in _FIGURES:
                before = figures.get(sample.name)
                figures[sample.name] = (
                    sample.value if before is None else _COMBINED[sample.name](before, sample.value)
                )
                continue
            name = sample.labels.get("stage", "") if sample.name == _STAGED else _HISTOGRAMS[sample.name]
            counts = buckets.setdefault(name, {})
            bound = float(sample.labels["le"])
            counts[bound] = counts.get(bound, 0.0) + sample.value
    return Metrics(
        figures.get(_START),
        figures.get(_UPTIME),
        figures.get(_CPU),
        figures.get(_MEMORY),
        {name: _histogram(sorted(counts.items())) for name, counts in buckets.items()},
    )


def _wanted(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        # Without its types every sample is a family of its own, and keeps its name.
        if line.startswith(_WANTED):
            yield line


def _histogram(pairs: list[tuple[float, float]]) -> Histogram:
    return Histogram(tuple(bound for bound, _ in pairs), tuple(count for _, count in pairs))
