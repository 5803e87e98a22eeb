"""A snapshot of a server for scripts: as text, a line for each figure, or as JSON. Sans-IO."""

from __future__ import annotations

import json
import math
from typing import Any, Final

import msgspec

from fastws.top.exposition import FLUSH_DELAY, LOOP_LAG, STAGES
from fastws.top.figures import clock, feeds, notices, relay, rows, stages, state
from fastws.top.history import History, sort_busy
from fastws.top.readings import Listing
from fastws.top.units import NONE, age, number, rate, size, text

MAX_CONNECTIONS: Final = 10
"""How many of the busiest are printed; JSON has them all."""


def snapshot(url: str, history: History) -> str:
    """The text, which ends without a line end."""
    stats, wall = history.reading.stats, history.reading.wall
    lines = [
        ("server", f"{url}, fastws {stats.version or 'of an unknown version'}"),
        ("state", f"{state(history).text} at {clock(wall)}, up {age(stats.uptime_seconds)}"),
        ("feeds", ", ".join(words.text for words in feeds(stats))),
        *(("relay", words.text) for words in (relay(stats),) if words is not None),
        *((row.label, f"{row.value:<12} {row.detail}") for row in rows(history)),
        *((name, f"p50 {p50}, p90 {p90}, p99 {p99}") for name, p50, p90, p99 in stages(history)),
        *(("notice", words.text) for words in notices(history)),
    ]
    width = max(len(name) for name, _ in lines) + 2
    return "\n".join([*(f"{name:<{width}}{shown}".rstrip() for name, shown in lines), *_connections(history)])


def _connections(history: History) -> list[str]:
    if not history.busy:
        return []
    table = [("connection", "user", "peer", "dialect", "subscriptions", "updates", "lost", "queue")]
    for row, given in sort_busy(history.busy, "rate")[:MAX_CONNECTIONS]:
        table.append(
            (
                text(row.connection_id, 36),
                NONE if row.user_id is None else text(row.user_id, 24),
                text(row.peer, 45),
                text(row.dialect, 12),
                number(row.subscription_count),
                rate(given),
                number(row.updates_lost),
                size(row.queued_bytes),
            )
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "",
        *("  ".join(f"{cell:<{n}}" for cell, n in zip(line, widths, strict=True)).rstrip() for line in table),
    ]


def document(url: str, history: History) -> str:
    """The same for programs, and more: all that the server has told, rates a second, and times in ms.

    A rate or a time that nothing is known of is null, as are connections that nobody has asked for.
    """
    reading = history.reading
    metrics = None if isinstance(reading.metrics, str) else reading.metrics
    listed = isinstance(reading.listing, Listing)
    return json.dumps(
        {
            "url": url,
            "read_at": reading.wall,
            "state": state(history).text,
            "notices": [words._asdict() for words in notices(history)],
            "rates": history.rates,
            "times": {
                name: {
                    key: _finite(history.quantile(name, q))
                    for key, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
                }
                for name in (*STAGES, FLUSH_DELAY, LOOP_LAG)
            },
            "process": {"processors": history.cpu, "memory": None if metrics is None else metrics.memory},
            "health": msgspec.to_builtins(reading.health),
            "stats": msgspec.to_builtins(reading.stats),
            "connections": [_entry(*busy) for busy in sort_busy(history.busy, "rate")] if listed else None,
        },
        ensure_ascii=False,
    )


def _entry(row: Any, given: float | None) -> dict[str, Any]:
    entry: dict[str, Any] = msgspec.to_builtins(row)
    return entry | {"updates_per_second": given}


def _finite(value: float | None) -> float | None:
    """JSON has no infinity; 10 s is the last bound."""
    return 10_000.0 if value == math.inf else value
