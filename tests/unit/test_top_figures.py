"""What is said of a server: its state, its figures, and what is to be looked after."""

from __future__ import annotations

import math
from typing import Any

import pytest
from top_readings import Health, history, metrics, reading

from fastws.top.exposition import Histogram
from fastws.top.figures import closes, feeds, notices, refusals, relay, rows, stages, state
from fastws.top.history import History


def told(found: History) -> list[tuple[str, str]]:
    return [tuple(words) for words in notices(found)]


def well(**changes: Any) -> History:
    """Two looks, of which the second has `changes`."""
    return history(reading(0.0, answer=metrics(1)), reading(1.0, answer=metrics(2), **changes))


def test_a_server_that_is_well() -> None:
    found = well(messages_sent=6000, bytes_sent=3 << 20, sequence=1100, connections_accepted=212)
    assert told(found) == []
    assert state(found) == ("serving", "good")
    assert feeds(found.reading.stats) == [("kis live", "good")]
    shown = {row.label: (row.value, row.detail) for row in rows(found)}
    assert shown["connections"] == ("200", "screener 200 · +2/s · room for 1,000")
    assert shown["subscriptions"] == ("2,000", "stock 2,000")
    assert shown["published"] == ("100/s", "up to no. 1,100")
    assert shown["messages sent"] == ("1,000/s", "6,000 in all")
    assert shown["bytes sent"] == ("2.00 MiB/s", "3.00 MiB in all")
    assert shown["flush interval"] == ("30 ms", "of 30 ms asked · busy 0.0 %")
    assert shown["lost"] == ("0/s", "0 in all · told 0 times")
    assert shown["closed"] == ("0/s", "normal 10")
    assert shown["sessions"][0] == "3"
    assert {row.level for row in rows(found)} == {""}
    # Every figure can be drawn.
    assert all(found.series(row.series, 10)[-1] is not None for row in rows(found) if row.value != "-")


@pytest.mark.parametrize(
    ("changes", "text", "level", "row"),
    [
        ({"effective_interval_ms": 50.0}, "overload: a flush every 50 ms instead of 30 ms", "warn", "flush interval"),
        ({"effective_interval_ms": 95.0}, "overload: a flush every 95 ms instead of 30 ms", "bad", "flush interval"),
        ({"loop_lag_ms": 30.0}, "the event loop is late by 30 ms", "warn", "loop lag"),
        ({"loop_lag_ms": 300.0}, "the event loop is late by 300 ms", "bad", "loop lag"),
        ({"updates": {"lost": 12}}, "12 updates lost to slow connections within 3 min", "bad", "lost"),
        ({"closes": {"1000": 10, "4408": 2}}, "2 slow connections closed within 3 min", "warn", "closed"),
        ({"refused_by_limit": {"connections_per_ip": 4}}, "4 connections refused by limits within 3 min", "warn", ""),
        ({"accept_pauses": 1}, "accepting had to stop for want of file descriptors", "bad", ""),
        ({"active_connections": 950}, "950 of 1,000 connections are taken", "warn", "connections"),
        ({"feeds": {"kis": "reconnecting"}}, "feed kis is reconnecting", "bad", ""),
        ({"feeds": {"kis": "stale"}}, "feed kis is stale", "warn", ""),
        ({"feeds": {"replay": "stopped"}}, "feed replay is stopped", "warn", ""),
        ({"last_update_age_ms": 75_000}, "no price or order book for 1 min 15 s", "warn", ""),
        (
            {"symbols_stale": 3, "symbols_judged": 2200},
            "3 of 2,200 symbols silent for longer than usual",
            "warn",
            "",
        ),
        (
            {"feeds": {}, "health": Health("ok", False)},
            "no feed, and nothing was published of late", "warn", "",
        ),
        (
            {"relay": {"is_up": False, "seconds": 75.5}},
            "cut off from the relay for 1 min 15 s: nothing of other servers comes; the log says why", "bad", "",
        ),
        (
            {"relay": {"is_up": True, "instances": 2, "missing": ["a/1", "a/2", "a/3", "b\n/4"]}},
            "not heard any more over the relay: a/1, a/2, a/3 and 1 more", "warn", "",
        ),
        ({"draining": True}, "the server is stopping, and tells its clients to come back", "warn", ""),
    ],
)  # fmt: skip
def test_what_is_to_be_looked_after(changes: dict[str, Any], text: str, level: str, row: str) -> None:
    found = well(**changes)
    assert told(found) == [(text, level)]
    assert [each.level for each in rows(found) if each.label == row] == ([level] if row else [])


def test_slow_updates() -> None:
    found = well()
    late = metrics(3)._replace(histograms={"total": Histogram((0.3, 0.5, math.inf), (0.0, 100.0, 100.0))})
    found.take(reading(2.0, answer=late))
    assert told(found) == [("updates take 498 ms (p99) to their last client", "warn")]
    assert [row.level for row in rows(found) if row.label == "latency p99"] == ["warn"]
    # Less than ten intervals.
    found.take(reading(3.0, answer=late, batch_interval_ms=50, effective_interval_ms=50.0))
    assert told(found) == []


def test_the_worst_comes_first() -> None:
    found = well(loop_lag_ms=30.0, accept_pauses=1)
    assert [level for _, level in told(found)] == ["bad", "warn"]
    found.lose(2.0, 1.7e9, "http://x: connection\nrefused")
    assert told(found)[0] == ("http://x: connection�refused", "bad")
    assert state(found).text.startswith("unreachable since ")
    assert state(well(draining=True)) == ("stopping", "warn")


def test_what_cannot_be_seen_is_said() -> None:
    found = history(reading(answer="http://x has no /metrics", listing="not its admin token"))
    assert told(found) == [("not its admin token", "warn"), ("http://x has no /metrics", "")]
    several = history(reading(0.0, epoch="a"), reading(1.0, epoch="b"), reading(2.0, epoch="a"))
    assert told(several)[0] == ("several servers answer here in turns; name one of them with --url", "bad")


def test_servers_that_a_relay_joins() -> None:
    def shown(**state: Any) -> tuple[str, str] | None:
        words = relay(well(relay=state, feed_roles={"kis": "standby"}).reading.stats)
        return None if words is None else (words.text, words.level)

    assert relay(well().reading.stats) is None
    assert shown(is_up=True, seconds=61.0, instances=3) == ("up for 1 min 01 s, 3 servers", "good")
    assert shown(is_up=True, seconds=2.0) == ("up for 2 s, no other server", "good")
    assert shown(is_up=True, seconds=2.0, instances=2, missing=["a/1"]) == ("up for 2 s, 2 servers", "warn")
    assert shown(is_up=False, seconds=2.0) == ("away for 2 s", "bad")
    standby = well(relay={"is_up": True}, feed_roles={"kis": "standby"}).reading.stats
    assert feeds(standby) == [("kis live (runs elsewhere)", "good")]
    owner = well(relay={"is_up": True}, feed_roles={"kis": "owner"}).reading.stats
    assert feeds(owner) == feeds(well(feed_roles={"kis": "owner"}).reading.stats) == [("kis live", "good")]


def test_a_server_of_before_these_figures() -> None:
    names = (
        "messages_received", "queued_bytes", "effective_interval_ms", "flush_seconds", "loop_lag_ms", "sequence",
        "connections_accepted", "updates", "version", "uptime_seconds", "room_for_connections", "connections_blocked",
        "overflows", "bytes_sent", "bytes_received", "messages_rate_limited", "last_update_age_ms",
    )  # fmt: skip
    contract: dict[str, Any] = dict.fromkeys(names)
    found = history(reading(0.0, **contract), reading(1.0, messages_sent=5010, **contract))
    shown = {row.label: row.value for row in rows(found)}
    assert shown["messages sent"] == "10/s"
    assert shown["bytes sent"] == shown["lost"] == shown["loop lag"] == "-"


def test_why_connections_ended_or_did_not_begin() -> None:
    stats = well(
        closes={"1000": 5, "1001": 9, "4408": 1, "4999": 2}, refused_by_limit={"connections_per_ip": 3}
    ).reading.stats
    assert closes(stats) == ["slow consumer 1", "going away 9", "normal 5", "4999 2"]
    assert refusals(stats) == ["connections per ip 3"]


def test_stages() -> None:
    found = history(reading(answer=metrics(100, n_fast=50, n_slow=50)))
    assert stages(found) == [
        ("receipt to last connection", "10 ms", "18 ms", "19.8 ms"),
        ("loop is late by", "10 ms", "18 ms", "19.8 ms"),
    ]
