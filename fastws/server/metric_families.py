"""Figures for Prometheus in the form that its client library writes them; each name begins with ``fastws_``.

Labels have values from fixed sets only, never anything that a client has sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, TypeAlias

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as _Metric
from prometheus_client.utils import floatToGoString

from fastws._core import HISTOGRAM_BOUNDS

Metric: TypeAlias = _Metric

_LE: Final = (*map(floatToGoString, HISTOGRAM_BOUNDS), "+Inf")

Values = float | Mapping[str, float] | Mapping[tuple[str, str], float]
Figures = tuple[list[int], float]


def counter(name: str, about: str, values: Values, *labels: str) -> Metric:
    family = CounterMetricFamily(f"fastws_{name}", about, labels=labels)
    for label_values, value in _items(values):
        family.add_metric(label_values, value)
    return family


def gauge(name: str, about: str, values: Values, *labels: str) -> Metric:
    family = GaugeMetricFamily(f"fastws_{name}", about, labels=labels)
    for label_values, value in _items(values):
        family.add_metric(label_values, value)
    return family


def histogram(name: str, about: str, values: Figures | Mapping[str, Figures], *labels: str) -> Metric:
    family = HistogramMetricFamily(f"fastws_{name}", about, labels=labels)
    for label, (counts, total) in values.items() if isinstance(values, Mapping) else (("", values),):
        buckets, n = [], 0
        for bound, count in zip(_LE, counts, strict=True):
            n += count
            buckets.append((bound, n))
        family.add_metric([label] if labels else [], buckets, total)
    return family


def _items(values: Values) -> Iterable[tuple[tuple[str, ...], float]]:
    if not isinstance(values, Mapping):
        return [((), values)]
    return [(key if isinstance(key, tuple) else (key,), value) for key, value in values.items()]
