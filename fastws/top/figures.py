"""What is shown of a server, in words: its state, its figures, and what is to be looked after. Sans-IO."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

from fastws.errors import CloseCode
from fastws.top.exposition import FLUSH_DELAY, LOOP_LAG, STAGES
from fastws.top.history import WINDOW, History
from fastws.top.readings import Stats
from fastws.top.units import NONE, age, milliseconds, number, percent, rate, size, size_rate, text

Level = Literal["", "good", "warn", "bad"]

LATE: Final = 1.5
VERY_LATE: Final = 3.0
"""How many times the asked interval flushes may take before that is told."""
SLOW: Final = 10.0
SLOW_MS: Final = 300.0
"""How many flush intervals, and at least how long, updates may take before that is told."""
LAG_MS: Final = 20.0
BAD_LAG_MS: Final = 100.0
QUIET_SECONDS: Final = 10.0
"""After how long without a price a live feed is told of."""
FULL: Final = 0.9
"""Of the room for connections."""

_FEED_LEVELS: Final[dict[str, Level]] = {
    "live": "good",
    "stale": "warn",
    "stopped": "warn",
    "reconnecting": "bad",
}
_STAGE_NAMES: Final = {
    "feed": "receipt to publication",
    "wait": "publication to flush",
    "send": "flush to last connection",
    "total": "receipt to last connection",
}


class Words(NamedTuple):
    """A text and how serious it is."""

    text: str
    level: Level = ""


class Row(NamedTuple):
    """A figure: its name, what it is now, more about it, how serious that is, its series, and how that is written."""

    label: str
    value: str
    detail: str
    level: Level
    series: str
    show: Callable[[float], str]


def state(history: History) -> Words:
    """Whether the server is there."""
    if history.away_since_wall is not None:
        return Words(f"unreachable since {clock(history.away_since_wall)}", "bad")
    if history.reading.stats.draining:
        return Words("stopping", "warn")
    return Words("serving", "good")


def clock(wall: float) -> str:
    """A Unix time as the local time of day."""
    return time.strftime("%H:%M:%S", time.localtime(wall))


def feeds(stats: Stats) -> list[Words]:
    """Each feed with its state; of joined servers also whether this one stands by."""
    found = []
    for name, status in stats.feeds.items():
        role = stats.feed_roles.get(name)
        elsewhere = " (runs elsewhere)" if stats.relay is not None and role not in ("owner", None) else ""
        found.append(
            Words(f"{text(name, 24)} {text(status, 16)}{elsewhere}", _FEED_LEVELS.get(status, "warn"))
        )
    return found or [Words("none")]


def relay(stats: Stats) -> Words | None:
    """Whether other servers are heard; None where there is no relay."""
    if stats.relay is None:
        return None
    since = age(stats.relay.seconds)
    if not stats.relay.is_up:
        return Words(f"away for {since}", "bad")
    n = stats.relay.instances
    return Words(
        f"up for {since}, {n} servers" if n > 1 else f"up for {since}, no other server",
        "warn" if stats.relay.missing else "good",
    )


def last_price(stats: Stats) -> str:
    """How long ago there was a price or a book."""
    if stats.last_update_age_ms is None:
        return NONE
    seconds = stats.last_update_age_ms / 1000
    return f"{seconds:.1f} s ago" if seconds < QUIET_SECONDS else f"{age(seconds)} ago"


def rows(history: History) -> list[Row]:
    """The figures of the last answer."""
    stats, rates = history.reading.stats, history.rates
    return [
        *_traffic(stats, history),
        *_times(stats, history),
        *_losses(stats, history),
        *_process(stats, history),
        Row("received", rate(rates["messages_received"]), _received(stats), "", "messages_received", rate),
        Row("sessions", number(stats.saved_sessions), "ended, and can be restored", "", "sessions", number),
    ]


def _traffic(stats: Stats, history: History) -> Iterator[Row]:
    rates, room = history.rates, stats.room_for_connections
    dialects = [f"{name} {number(n)}" for name, n in stats.connections_by_dialect.items() if n]
    moves = [
        f"{sign}{rate(rates[name])}" for sign, name in (("+", "accepted"), ("-", "closed")) if rates[name]
    ]
    full = room is not None and stats.active_connections >= FULL * room
    yield Row(
        "connections",
        number(stats.active_connections),
        _joined(*dialects, *moves, room and f"room for {number(room)}"),
        "warn" if full else "",
        "connections",
        number,
    )
    kinds = [f"{text(kind, 16)} {number(n)}" for kind, n in stats.subscriptions_by_type.items() if n]
    yield Row(
        "subscriptions", number(stats.total_subscriptions), _joined(*kinds), "", "subscriptions", number
    )
    shown = "" if stats.sequence is None else f"up to no. {stats.sequence:,}"
    yield Row("published", rate(rates["published"]), shown, "", "published", rate)
    conflated = stats.updates.conflated if stats.updates is not None else 0
    yield Row(
        "messages sent",
        rate(rates["messages_sent"]),
        _joined(
            f"{number(stats.messages_sent)} in all", conflated and f"{number(conflated)} replaced by newer"
        ),
        "",
        "messages_sent",
        rate,
    )
    yield Row(
        "bytes sent",
        size_rate(rates["bytes_sent"]),
        f"{size(stats.bytes_sent)} in all",
        "",
        "bytes_sent",
        size_rate,
    )


def _times(stats: Stats, history: History) -> Iterator[Row]:
    flushing = history.rates["flush_seconds"]
    # Each worker has a loop of its own, and is the busier the more of its time goes into flushes.
    busy = None if flushing is None else flushing / max(1, stats.workers)
    asked = (
        f"of {milliseconds(stats.batch_interval_ms)} asked" if stats.batch_interval_ms else "batching is off"
    )
    yield Row(
        "flush interval",
        milliseconds(stats.effective_interval_ms),
        _joined(asked, busy is not None and f"busy {percent(busy)}"),
        _lateness(stats),
        "effective_interval",
        milliseconds,
    )
    latency = history.quantile("total", 0.5)
    yield Row(
        "latency p99",
        milliseconds(history.quantile("total", 0.99)),
        "" if latency is None else f"p50 {milliseconds(latency)} to last client",
        _slowness(history),
        "latency",
        milliseconds,
    )
    lag = history.quantile(LOOP_LAG, 0.99)
    yield Row(
        "loop lag",
        milliseconds(stats.loop_lag_ms),
        "" if lag is None else f"p99 {milliseconds(lag)}",
        _lag(stats),
        "loop_lag",
        milliseconds,
    )


def _losses(stats: Stats, history: History) -> Iterator[Row]:
    rates = history.rates
    blocked = stats.connections_blocked
    yield Row(
        "queue",
        number(stats.queued_messages),
        _joined(
            size(stats.queued_bytes),
            blocked is not None and f"{number(blocked)} blocked",
            stats.largest_outbox_bytes and f"largest {size(stats.largest_outbox_bytes)}",
        ),
        "warn" if blocked else "",
        "queued",
        number,
    )
    lost = stats.updates.lost if stats.updates is not None else None
    yield Row(
        "lost",
        rate(rates["lost"]),
        _joined(
            f"{number(lost)} in all", stats.overflows is not None and f"told {number(stats.overflows)} times"
        ),
        "bad" if rates["lost"] else "",
        "lost",
        rate,
    )
    yield Row(
        "closed",
        rate(rates["closed"]),
        _joined(*closes(stats)) or "none",
        "warn" if history.gained("closed_slow") else "",
        "closed",
        rate,
    )


def _process(stats: Stats, history: History) -> Iterator[Row]:
    metrics = history.reading.metrics
    memory = None if isinstance(metrics, str) else metrics.memory
    yield Row("processor", percent(history.cpu), "" if history.cpu is None else "of one", "", "cpu", percent)
    yield Row("memory", size(memory), "" if memory is None else "resident", "", "memory", size)


def _received(stats: Stats) -> str:
    limited = stats.messages_rate_limited
    return _joined(
        size(stats.bytes_received) + " in all" if stats.bytes_received is not None else "",
        limited and f"{number(limited)} over the rate limit",
    )


def closes(stats: Stats) -> list[str]:
    """Ended connections by why, the most first; those of slow consumers before all others."""
    labels = {str(code.value): code.label.replace("_", " ") for code in CloseCode}
    ordered = sorted(stats.closes.items(), key=lambda item: (item[0] != "4408", -item[1]))
    return [f"{labels.get(code, code)} {number(n)}" for code, n in ordered if n]


def refusals(stats: Stats) -> list[str]:
    """Connections that were not let in, by the limit."""
    return [
        f"{text(limit.replace('_', ' '), 32)} {number(n)}" for limit, n in stats.refused_by_limit.items() if n
    ]


def stages(history: History) -> list[tuple[str, str, str, str]]:
    """What takes how long: name, p50, p90 and p99, lately."""
    names = {name: _STAGE_NAMES[name] for name in STAGES}
    names |= {FLUSH_DELAY: "flush begins late by", LOOP_LAG: "loop is late by"}
    found = []
    for name, shown in names.items():
        times = [history.quantile(name, q) for q in (0.5, 0.9, 0.99)]
        if any(each is not None for each in times):
            p50, p90, p99 = map(milliseconds, times)
            found.append((shown, p50, p90, p99))
    return found


def notices(history: History) -> list[Words]:
    """What is to be looked after, the worst first; nothing where all is well."""
    found = list(_notices(history))
    return sorted(found, key=lambda words: {"bad": 0, "warn": 1}.get(words.level, 2))


def _notices(history: History) -> Iterator[Words]:
    if history.away_since_wall is not None:
        yield Words(text(history.away_reason, 300), "bad")
    stats = history.reading.stats
    lately = f"within {age(WINDOW).removesuffix(' 00 s')}"
    if history.is_several:
        yield Words("several servers answer here in turns; name one of them with --url", "bad")
    if stats.draining:
        yield Words("the server is stopping, and tells its clients to come back", "warn")
    yield from _relay_notices(stats)
    yield from _feed_notices(history)
    if level := _lateness(stats):
        yield Words(
            f"overload: a flush every {milliseconds(stats.effective_interval_ms)} instead of "
            f"{milliseconds(stats.batch_interval_ms)}",
            level,
        )
    if level := _slowness(history):
        latency = milliseconds(history.quantile("total", 0.99))
        yield Words(f"updates take {latency} (p99) to their last client", level)
    if level := _lag(stats):
        yield Words(f"the event loop is late by {milliseconds(stats.loop_lag_ms)}", level)
    if lost := history.gained("lost"):
        yield Words(f"{number(lost)} updates lost to slow connections {lately}", "bad")
    if slow := history.gained("closed_slow"):
        yield Words(f"{number(slow)} slow connections closed {lately}", "warn")
    if refused := history.gained("refused"):
        yield Words(f"{number(refused)} connections refused by limits {lately}", "warn")
    if history.gained("accept_pauses"):
        yield Words("accepting had to stop for want of file descriptors", "bad")
    room = stats.room_for_connections
    if room is not None and stats.active_connections >= FULL * room:
        yield Words(f"{number(stats.active_connections)} of {number(room)} connections are taken", "warn")
    if isinstance(history.reading.metrics, str):
        yield Words(history.reading.metrics)
    if isinstance(history.reading.listing, str):
        yield Words(history.reading.listing, "warn")


def _relay_notices(stats: Stats) -> Iterator[Words]:
    if stats.relay is None:
        return
    missing = [text(name, 60) for name in stats.relay.missing]
    if not stats.relay.is_up:
        yield Words(
            f"cut off from the relay for {age(stats.relay.seconds)}: nothing of other servers comes; the log says why",
            "bad",
        )
    elif missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        yield Words(f"not heard any more over the relay: {shown}", "warn")


def _feed_notices(history: History) -> Iterator[Words]:
    stats, health = history.reading.stats, history.reading.health
    for name, status in stats.feeds.items():
        if status != "live":
            yield Words(f"feed {text(name, 24)} is {text(status, 16)}", _FEED_LEVELS.get(status, "warn"))
    quiet = stats.last_update_age_ms is not None and stats.last_update_age_ms / 1000 > QUIET_SECONDS
    if stats.feeds and quiet and "live" in stats.feeds.values():
        yield Words(f"no price or order book for {age(stats.last_update_age_ms / 1000)}", "warn")  # type: ignore[operator]
    if stats.symbols_stale:
        n = f"{stats.symbols_stale:,} of {stats.symbols_judged:,}"
        yield Words(f"{n} symbols silent for longer than usual", "warn")
    if not stats.feeds and health is not None and not health.price_feed_running:
        yield Words("no feed, and nothing was published of late", "warn")


def _lateness(stats: Stats) -> Level:
    asked, there_is = stats.batch_interval_ms, stats.effective_interval_ms
    if not asked or there_is is None or there_is < LATE * asked:
        return ""
    return "bad" if there_is >= VERY_LATE * asked else "warn"


def _slowness(history: History) -> Level:
    latency = history.quantile("total", 0.99)
    is_slow = latency is not None and latency >= max(SLOW_MS, SLOW * history.reading.stats.batch_interval_ms)
    return "warn" if is_slow else ""


def _lag(stats: Stats) -> Level:
    lag = stats.loop_lag_ms or 0.0
    return "bad" if lag >= BAD_LAG_MS else "warn" if lag >= LAG_MS else ""


def _joined(*parts: object) -> str:
    """Those that there are."""
    return " · ".join(str(part) for part in parts if part)
