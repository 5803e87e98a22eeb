"""Rates, quantiles and series of readings: also over restarts, outages and several servers."""

from __future__ import annotations

import pytest
from top_readings import Listing, connection, history, metrics, reading

from fastws.top.history import WINDOW, sort_busy


def test_rates_are_of_two_readings() -> None:
    found = history()
    assert set(found.rates.values()) == {None}
    found.take(reading(2.0, messages_sent=5500, sequence=1100, flush_seconds=1.5))
    assert found.rates["messages_sent"] == 250
    assert found.rates["published"] == 50
    assert found.rates["flush_seconds"] == 0.25
    assert found.rates["lost"] == 0


def test_the_clock_is_the_servers() -> None:
    # The second answer was a second on its way.
    found = history(reading(0.0), reading(2.0, messages_sent=5500, uptime_seconds=101.0))
    assert found.rates["messages_sent"] == 500
    # One that does not tell its own is timed here.
    found = history(reading(0.0, uptime_seconds=None), reading(2.0, messages_sent=5500, uptime_seconds=None))
    assert found.rates["messages_sent"] == 250
    assert history(reading(0.0), reading(1.0, uptime_seconds=100.0)).rates["messages_sent"] is None


def test_a_restart_has_no_negative_rates() -> None:
    found = history(reading(0.0), reading(1.0, messages_sent=6000))
    found.take(reading(2.0, epoch="second", messages_sent=10, uptime_seconds=0.5))
    assert set(found.rates.values()) == {None}
    assert (found.n_restarts, found.restarted_wall, found.is_several) == (1, 1.7e9 + 2, False)
    found.take(reading(3.0, epoch="second", messages_sent=30, uptime_seconds=1.5))
    assert found.rates["messages_sent"] == 20
    assert found.gained("messages_sent") == 20
    # A counter that falls in one life of a server gives none.
    found.take(reading(4.0, epoch="second", messages_sent=5, uptime_seconds=2.5))
    assert found.rates["messages_sent"] is None


def test_several_servers_are_told_from_restarts() -> None:
    found = history(reading(0.0, epoch="a"), reading(1.0, epoch="b"), reading(2.0, epoch="a"))
    assert found.is_several
    assert found.n_restarts == 1
    for at in range(3, 40):
        found.take(reading(float(at), epoch="a"))
    assert not found.is_several


def test_an_outage_is_a_hole() -> None:
    found = history(reading(0.0))
    found.lose(1.0, 101.0, "connection refused")
    found.lose(2.0, 102.0, "no answer")
    assert (found.away_since, found.away_since_wall, found.away_reason) == (1.0, 101.0, "no answer")
    found.take(reading(3.0, active_connections=100))
    assert found.away_since is None
    assert found.series("connections", 200)[-4:] == [200, None, None, 100]
    # The rate is of what lies between, however long that is.
    assert found.rates["messages_sent"] == 0


def test_series_reach_back_so_far_and_no_further() -> None:
    found = history(reading(0.0, active_connections=0))
    for n in range(1, 1000):
        found.take(reading(float(n), active_connections=n))
    assert found.series("connections", 1000) == [float(n) for n in range(820, 1000)]
    values = found.series("connections", 20)
    assert len(values) == 20
    assert values[-2] == pytest.approx(sum(range(990, 999)) / 9)
    assert found.peak("connections") == 999
    assert found.series("connections", 0) == []
    assert found.gained("messages_sent") == 0


def test_a_young_series_fills_the_graph() -> None:
    found = history(reading(0.0, active_connections=0))
    for n in range(1, 16):
        found.take(reading(float(n), active_connections=n))
    assert found.series("connections", 16) == list(range(16))
    found.take(reading(16.0, active_connections=16))
    shown = found.series("connections", 16)
    assert shown[-9:] == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5, 12.5, 14.5, 16]
    assert shown[:7] == [None] * 7


def test_growth_is_of_the_window() -> None:
    found = history(reading(0.0, accept_pauses=5))
    found.take(reading(10.0, accept_pauses=7))
    assert found.gained("accept_pauses") == 2
    found.take(reading(11.0 + WINDOW, accept_pauses=7))
    assert found.gained("accept_pauses") == 0
    assert history(reading(0.0, bytes_sent=None), reading(1.0)).gained("bytes_sent") == 0


def test_times_are_of_the_last_seconds() -> None:
    found = history(reading(0.0, answer=metrics(100, n_slow=100)))
    # All there is to know: of the whole life.
    assert found.quantile("total", 0.5) == pytest.approx(15)
    found.take(reading(1.0, answer=metrics(101, n_fast=10, n_slow=100)))
    assert found.quantile("total", 0.5) == pytest.approx(5)
    found.take(reading(1.5, answer=metrics(101, n_fast=10, n_slow=100)))
    assert found.quantile("total", 0.5) == pytest.approx(5)
    for n in range(2, 30):
        found.take(reading(float(n), answer=metrics(100 + n, n_fast=10, n_slow=100)))
    assert found.quantile("total", 0.5) is None
    assert found.quantile("feed", 0.5) is None


def test_the_processor_is_timed_by_the_server() -> None:
    found = history(reading(0.0, answer=metrics(100, cpu=1.0)))
    assert found.cpu is None
    # An answer is given again for a second: neither 0 nor double.
    found.take(reading(0.9, answer=metrics(100, cpu=1.0)))
    assert found.cpu is None
    found.take(reading(1.0, answer=metrics(102, cpu=1.5)))
    assert found.cpu == 0.25
    found.take(reading(1.4, answer=metrics(102, cpu=1.5)))
    assert found.cpu == 0.25
    # Another process.
    found.take(reading(2.0, answer=metrics(1, cpu=0.5, start=2e9)))
    assert found.cpu is None
    found.take(reading(3.0, answer="gone"))
    assert found.cpu is None
    assert found.quantile("total", 0.5) is None


def test_connections_by_what_they_were_given() -> None:
    first = Listing(1.0, 0.1, (connection("a", 100), connection("b", 500, queued_bytes=9)))
    found = history(reading(1.0, listing=first))
    assert [busy.rate for busy in found.busy] == [None, None]
    later = Listing(3.0, 0.1, (connection("b", 510), connection("a", 300), connection("c", 50)))
    found.take(reading(3.0, listing=later))
    assert [(busy.row.connection_id, busy.rate) for busy in sort_busy(found.busy, "rate")] == [
        ("a", 100.0),
        ("b", 5.0),
        ("c", None),
    ]
    # The same list again, as it is not asked for each time.
    found.take(reading(3.5, listing=later))
    assert [busy.rate for busy in found.busy] == [5.0, 100.0, None]
    found.take(reading(4.0, listing="401"))
    assert found.busy == ()


def test_orders_of_connections() -> None:
    rows = (
        connection("a", 1, queued_bytes=5, updates_lost=0, subscription_count=3),
        connection("b", 1, queued_bytes=9, updates_lost=None, subscription_count=1),
        connection("c", 1, queued_bytes=0, updates_lost=7, subscription_count=2),
    )
    found = history(reading(listing=Listing(0.0, 0.1, rows))).busy
    orders = {key: "".join(busy.row.connection_id for busy in sort_busy(found, key)) for key in
              ("rate", "queue", "lost", "subscriptions", "messages", "age")}  # fmt: skip
    assert orders == {
        "rate": "abc", "queue": "bac", "lost": "cab", "subscriptions": "acb", "messages": "abc", "age": "abc",
    }  # fmt: skip
