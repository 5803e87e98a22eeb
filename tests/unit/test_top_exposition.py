"""What is read of ``/metrics``."""

from __future__ import annotations

import math

import pytest
from top_readings import metrics, metrics_text

from fastws.top.exposition import Histogram, read_metrics


def test_what_is_wanted_is_read() -> None:
    found = metrics(12.5, n_fast=10, n_slow=5, cpu=3.25)
    assert (found.uptime, found.cpu_seconds, found.memory, found.start) == (12.5, 3.25, 104_857_600.0, 1e9)
    assert set(found.histograms) == {"total", "loop_lag"}
    assert found.histograms["total"] == Histogram((0.01, 0.02, math.inf), (10.0, 15.0, 15.0))


def test_what_is_missing_is_none() -> None:
    assert read_metrics("# nothing\nother_metric 1\n") == (None, None, None, None, {})
    with pytest.raises(ValueError, match="float"):
        read_metrics("fastws_uptime_seconds soon\n")


def test_quantiles() -> None:
    histogram = Histogram((0.01, 0.02, math.inf), (50.0, 90.0, 100.0))
    assert histogram.quantile(0.25) == pytest.approx(0.005)
    assert histogram.quantile(0.5) == pytest.approx(0.01)
    assert histogram.quantile(0.7) == pytest.approx(0.015)
    assert histogram.quantile(0.99) == math.inf
    assert Histogram((0.01, math.inf), (0.0, 0.0)).quantile(0.5) is None
    assert Histogram().quantile(0.5) is None


def test_what_came_between_two_answers() -> None:
    earlier, later = (read_metrics(metrics_text(1, n_fast=n)).histograms["total"] for n in (10, 14))
    assert later.since(earlier).counts == (4.0, 4.0, 4.0)
    assert later.since(Histogram()) == later
