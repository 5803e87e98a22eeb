"""Answers of a server that is not there, for the tests of what `fastws top` makes of them."""

from __future__ import annotations

from typing import Any

import msgspec

from fastws.top.exposition import Metrics, read_metrics
from fastws.top.history import History
from fastws.top.readings import ConnectionRow, Health, Listing, Reading, Stats, Updates

FIRST: dict[str, Any] = {
    "active_connections": 200, "total_subscriptions": 2000, "subscriptions_by_type": {"stock": 2000, "market": 0},
    "messages_sent": 5000, "saved_sessions": 3, "batching_enabled": True, "batch_interval_ms": 30, "queued_messages": 0,
    "rate_limiting_enabled": True, "rate_limit": 100, "messages_received": 200, "queued_bytes": 0,
    "effective_interval_ms": 30.0, "flush_seconds": 1.0, "loop_lag_ms": 0.2, "sequence": 1000, "epoch": "first",
    "feeds": {"kis": "live"}, "connections_accepted": 210, "closes": {"1000": 10}, "accept_pauses": 0,
    "refused_by_limit": {"connection_limit": 0}, "updates": {"published": 6000, "delivered": 5000, "lost": 0},
    "version": "1.2.3", "uptime_seconds": 100.0, "draining": False, "connections_by_dialect": {"screener": 200},
    "room_for_connections": 1000, "connections_blocked": 0, "largest_outbox_bytes": 0, "overflows": 0,
    "bytes_sent": 1 << 20, "bytes_received": 4096, "messages_rate_limited": 0, "last_update_age_ms": 30,
}  # fmt: skip


def metrics_text(
    uptime: float, *, n_fast: int = 0, n_slow: int = 0, cpu: float = 1.0, start: float = 1e9
) -> str:
    """Of ``/metrics``, with times of `n_fast` updates under 10 ms and of `n_slow` between 10 and 20 ms."""
    buckets = (("0.01", n_fast), ("0.02", n_fast + n_slow), ("+Inf", n_fast + n_slow))
    return "\n".join(
        [
            "# HELP fastws_stage_seconds how long updates take",
            "# TYPE fastws_stage_seconds histogram",
            *(f'fastws_stage_seconds_bucket{{stage="total",le="{le}"}} {n}.0' for le, n in buckets),
            *(f'fastws_loop_lag_seconds_bucket{{le="{le}"}} {n}.0' for le, n in buckets),
            "# TYPE process_cpu_seconds counter",
            f"process_cpu_seconds_total {cpu}",
            "process_resident_memory_bytes 1.048576e+08",
            f"fastws_start_time_seconds {start}",
            f"fastws_uptime_seconds {uptime}",
            'fastws_connections{dialect="screener"} 200.0',
            "",
        ]
    )


def metrics(uptime: float, **options: Any) -> Metrics:
    return read_metrics(metrics_text(uptime, **options))


def connection(name: str, delivered: int, **others: Any) -> ConnectionRow:
    return ConnectionRow(
        name, "2026-11-21T23:00:00.000Z", "2026-11-21T23:10:00.000Z", 1, updates_delivered=delivered, **others
    )


def reading(
    at: float = 0.0,
    *,
    health: Health | None = None,
    answer: Metrics | str = "no /metrics here",
    listing: Listing | str | None = None,
    **changes: Any,
) -> Reading:
    """The answer at a time; what is not said is as in `FIRST`, the uptime 100 s more."""
    stats = msgspec.convert(FIRST | {"uptime_seconds": 100.0 + at} | changes, Stats)
    return Reading(at, 1.7e9 + at, stats, health or Health("ok", True), answer, listing)


def history(*readings: Reading, interval: float = 1.0) -> History:
    first, *others = readings or [reading()]
    made = History(first, interval)
    for each in others:
        made.take(each)
    return made


__all__ = [
    "FIRST",
    "Health",
    "Listing",
    "Updates",
    "connection",
    "history",
    "metrics",
    "metrics_text",
    "reading",
]
