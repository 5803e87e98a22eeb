"""What a worker makes of its own answer and of those of the others."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from top_readings import FIRST

from fastws.server.together import add_up, join, label
from fastws.top.exposition import read_metrics

PLAIN = """\
# HELP fastws_connections open WebSocket connections
# TYPE fastws_connections gauge
fastws_connections{{dialect="screener"}} {0}.0
fastws_connections{{dialect="a }} b"}} 1.0
# HELP fastws_uptime_seconds time
# TYPE fastws_uptime_seconds gauge
fastws_uptime_seconds {0}.5
# HELP process_cpu_seconds_total CPU
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total {0}.25
"""
OPEN = """\
# HELP fastws_sends sends
# TYPE fastws_sends counter
fastws_sends_total {0}.0
# EOF
"""


def test_figures_are_labelled_and_each_family_is_there_once() -> None:
    text = join([label(PLAIN.format(n), str(n)) for n in (1, 2)])
    families = {family.name: family for family in read_text(text)}
    assert len(text.splitlines()) == 6 + 2 * 4
    assert {
        sample.labels["worker"]: sample.value for sample in families["fastws_uptime_seconds"].samples
    } == {
        "1": 1.5,
        "2": 2.5,
    }
    assert {"worker": "2", "dialect": "a } b"} in [
        sample.labels for sample in families["fastws_connections"].samples
    ]
    # `fastws top` adds them up.
    metrics = read_metrics(text)
    assert (metrics.cpu_seconds, metrics.uptime) == (3.5, 1.5)


def test_figures_as_openmetrics() -> None:
    text = join([label(OPEN.format(n), str(n)) for n in (1, 2, 3)])
    assert text.endswith("# EOF\n")
    assert text.count("# EOF") == 1
    (family,) = read_openmetrics(text)
    assert [sample.value for sample in family.samples] == [1.0, 2.0, 3.0]


def test_statistics_are_added_up() -> None:
    one = FIRST | {"epoch": "aa", "last_update_age_ms": None, "loop_lag_ms": 3.0, "addresses": 2}
    two = FIRST | {"epoch": "bb", "closes": {"1000": 1, "4408": 2}, "sequence": 2000, "addresses": 1}
    body = add_up({2: two, 1: one}, 3)
    assert body["active_connections"] == 400
    assert body["subscriptions_by_type"] == {"stock": 4000, "market": 0}
    assert body["closes"] == {"1000": 11, "4408": 2}
    assert body["updates"] == {"published": 12000, "delivered": 10000, "lost": 0}
    assert body["flush_seconds"] == pytest.approx(2.0)
    # What is no sum.
    assert (body["sequence"], body["batch_interval_ms"], body["loop_lag_ms"]) == (2000, 30, 3.0)
    assert (body["last_update_age_ms"], body["addresses"], body["feeds"]) == (30, 2, {"kis": "live"})
    assert body["epoch"] == "aa-bb"
    assert (body["workers"], [each["worker"] for each in body["by_worker"]]) == (3, [1, 2])
    assert body["draining"] is False
