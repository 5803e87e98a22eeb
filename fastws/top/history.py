"""What follows from the readings of a server: rates, times, and whether it is there. Sans-IO."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Final, NamedTuple

from fastws.top.exposition import Histogram, Metrics
from fastws.top.readings import ConnectionRow, Listing, Reading, Stats

WINDOW: Final = 180.0
"""How far back, in s, graphs and what "lately" means reach."""
QUANTILE_WINDOW: Final = 10.0
"""Of what time, in s, at least, quantiles are; of the process's whole life until there is that much."""

_SEVERAL_SECONDS: Final = 30.0
_SLOW: Final = "4408"
# Whatever the interval, there is no more than this to go through for a graph.
_MAX_KEPT: Final = 2000


def _lost(stats: Stats) -> float | None:
    return None if stats.updates is None else stats.updates.lost


def _delivered(stats: Stats) -> float | None:
    return None if stats.updates is None else stats.updates.delivered


COUNTERS: Final[dict[str, Callable[[Stats], float | None]]] = {
    "messages_sent": lambda stats: stats.messages_sent,
    "messages_received": lambda stats: stats.messages_received,
    "bytes_sent": lambda stats: stats.bytes_sent,
    "bytes_received": lambda stats: stats.bytes_received,
    "published": lambda stats: stats.sequence,
    "delivered": _delivered,
    "lost": _lost,
    "overflows": lambda stats: stats.overflows,
    "rate_limited": lambda stats: stats.messages_rate_limited,
    "accepted": lambda stats: stats.connections_accepted,
    "closed": lambda stats: sum(stats.closes.values()),
    "closed_slow": lambda stats: stats.closes.get(_SLOW, 0),
    "refused": lambda stats: sum(stats.refused_by_limit.values()),
    "accept_pauses": lambda stats: stats.accept_pauses,
    "flush_seconds": lambda stats: stats.flush_seconds,
}
"""What only grows while a server runs, and is shown by how fast."""


class Busy(NamedTuple):
    """A connection and what it was given lately, in updates a second; None on the first look at it."""

    row: ConnectionRow
    rate: float | None


class History:
    """The readings of one server in their order.

    1. Rates are of two readings of one life of the server, which its `epoch` names. With another epoch all begins
       anew; a counter that has fallen anyway gives no rate.
    2. What was not there at a time is None in its series, not 0.
    3. An epoch that comes back is that of another server: several answer in turns, and nothing follows from their
       figures.
    4. `at` never falls, neither of readings nor of failures.
    """

    def __init__(self, first: Reading, interval: float = 1.0) -> None:
        self.interval = interval
        self.reading = first
        self.rates: dict[str, float | None] = dict.fromkeys(COUNTERS)
        self.cpu: float | None = None
        self.busy: tuple[Busy, ...] = ()
        self.n_restarts = 0
        self.restarted_wall: float | None = None
        self.away_since: float | None = None
        self.away_since_wall: float | None = None
        self.away_reason = ""
        self._epochs: set[str] = set()
        self._stats: deque[tuple[float, Stats]] = deque(maxlen=_MAX_KEPT)
        # What graphs show, at each look that was taken, also those in vain.
        self._points: deque[dict[str, float | None]] = deque(maxlen=_MAX_KEPT)
        self._n_points = 0
        self._bodies: deque[Metrics] = deque(maxlen=_MAX_KEPT)
        self._listing: Listing | None = None
        self._several_at = -math.inf
        self.take(first)

    def take(self, reading: Reading) -> None:
        """Add an answer."""
        stats = reading.stats
        before = None if reading is self.reading else self.reading
        if before is not None and before.stats.epoch != stats.epoch:
            if stats.epoch in self._epochs:
                self._several_at = reading.at
            else:
                self.n_restarts += 1
                self.restarted_wall = reading.wall
            before = None
            self._stats.clear()
        self._epochs.add(stats.epoch)
        self.away_since = self.away_since_wall = None
        self.reading = reading
        self._stats.append((reading.at, stats))
        while self._stats[0][0] < reading.at - WINDOW:
            self._stats.popleft()
        self.rates = {
            name: None if before is None else _rate(counter, before, reading)
            for name, counter in COUNTERS.items()
        }
        self._take_metrics(reading)
        self._take_listing(reading)
        self._note(self._values(stats))

    def lose(self, at: float, wall: float, reason: str) -> None:
        """Note that there was no answer, and why."""
        if self.away_since is None:
            self.away_since, self.away_since_wall = at, wall
        self.away_reason = reason
        self._note({})

    @property
    def is_several(self) -> bool:
        """Whether several servers answer, in turns."""
        return self.reading.at - self._several_at < _SEVERAL_SECONDS

    def gained(self, counter: str) -> float:
        """How much a counter has grown within `WINDOW`."""
        if not self._stats:
            return 0.0
        first, last = (COUNTERS[counter](self._stats[i][1]) for i in (0, -1))
        return max(0.0, last - first) if first is not None and last is not None else 0.0

    def quantile(self, name: str, q: float) -> float | None:
        """A quantile of one of the histograms, in ms, lately; None where nothing was counted, or is not told."""
        histogram = self.histogram(name)
        seconds = None if histogram is None else histogram.quantile(q)
        return None if seconds is None else 1000 * seconds

    def histogram(self, name: str) -> Histogram | None:
        """What was counted lately; of the whole life of a server that was not looked at before."""
        if not self._bodies:
            return None
        last = self._bodies[-1].histograms.get(name)
        if last is None or len(self._bodies) == 1:
            return last
        return last.since(self._bodies[0].histograms.get(name, Histogram()))

    def series(self, name: str, width: int) -> list[float | None]:
        """`width` values at most of the last `WINDOW`, each the mean of an equal number of looks, the newest last.

        As long as there is less than that, of the time that there is.
        """
        if width < 1:
            return []
        n_looks = math.ceil(WINDOW / self.interval)
        n_most = math.ceil(n_looks / width)
        n_each = 1
        while n_each < n_most and n_each * width < self._n_points:
            n_each = min(2 * n_each, n_most)
        n_shown = min(width, math.ceil(n_looks / n_each))
        sums: dict[int, tuple[float, int]] = {}
        for i, point in enumerate(self._points, self._n_points - len(self._points)):
            value = point.get(name)
            if value is not None:
                # Places are counted from the first look: a graph moves on by whole columns.
                total, n = sums.get(i // n_each, (0.0, 0))
                sums[i // n_each] = total + value, n + 1
        newest = (self._n_points - 1) // n_each
        found = (sums.get(i) for i in range(newest - n_shown + 1, newest + 1))
        return [None if each is None else each[0] / each[1] for each in found]

    def peak(self, name: str) -> float | None:
        """The most that there was at one look in the last `WINDOW`."""
        n_looks = math.ceil(WINDOW / self.interval)
        found = (point.get(name) for point in islice(reversed(self._points), n_looks))
        return max((value for value in found if value is not None), default=None)

    def _note(self, values: dict[str, float | None]) -> None:
        self._points.append(values)
        self._n_points += 1

    def _values(self, stats: Stats) -> dict[str, float | None]:
        """What graphs are drawn of."""
        metrics = self.reading.metrics
        return self.rates | {
            "connections": stats.active_connections,
            "subscriptions": stats.total_subscriptions,
            "effective_interval": stats.effective_interval_ms,
            "loop_lag": stats.loop_lag_ms,
            "queued": stats.queued_messages,
            "sessions": stats.saved_sessions,
            # That of the whole life of a server would be a peak that was long ago.
            "latency": self.quantile("total", 0.99) if len(self._bodies) > 1 else None,
            "cpu": self.cpu,
            "memory": None if isinstance(metrics, str) else metrics.memory,
        }

    def _take_metrics(self, reading: Reading) -> None:
        metrics = reading.metrics
        if isinstance(metrics, str):
            self._bodies.clear()
            self.cpu = None
            return
        if self._bodies and self._bodies[-1].start != metrics.start:
            self._bodies.clear()
            self.cpu = None
        if self._bodies and self._bodies[-1].uptime == metrics.uptime:
            return  # the answer of before, given again
        if self._bodies:
            last = self._bodies[-1]
            self.cpu = _share(last, metrics)
        self._bodies.append(metrics)
        newest = metrics.uptime or 0.0
        while len(self._bodies) > 2 and newest - (self._bodies[1].uptime or 0.0) >= QUANTILE_WINDOW:
            self._bodies.popleft()

    def _take_listing(self, reading: Reading) -> None:
        if not isinstance(reading.listing, Listing):
            self.busy, self._listing = (), None
            return
        listing, before = reading.listing, self._listing
        if before is not None and listing.at == before.at:
            return
        known: dict[str, ConnectionRow] = {}
        seconds = 0.0
        if before is not None:
            known = {row.connection_id: row for row in before.rows}
            seconds = listing.at - before.at
        self._listing = listing
        self.busy = tuple(
            Busy(row, _given(known.get(row.connection_id), row, seconds)) for row in listing.rows
        )


def sort_busy(busy: Sequence[Busy], key: str) -> list[Busy]:
    """The connections, the most of `key` first: rate, queue, lost, subscriptions, messages, or age."""
    keys: dict[str, Callable[[Busy], float | int]] = {
        "rate": lambda each: -1 if each.rate is None else each.rate,
        "queue": lambda each: each.row.queued_bytes or 0,
        "lost": lambda each: each.row.updates_lost or 0,
        "subscriptions": lambda each: each.row.subscription_count or 0,
        "messages": lambda each: each.row.message_count,
    }
    if key == "age":
        return sorted(busy, key=lambda each: each.row.connected_at)
    # Equal ones stay in their places from look to look.
    return sorted(busy, key=lambda each: (-keys[key](each), each.row.connected_at, each.row.connection_id))


def _rate(counter: Callable[[Stats], float | None], before: Reading, now: Reading) -> float | None:
    first, last = counter(before.stats), counter(now.stats)
    if first is None or last is None or last < first:
        return None
    # The server's own clock, where it tells: answers take differently long.
    if before.stats.uptime_seconds is not None and now.stats.uptime_seconds is not None:
        seconds = now.stats.uptime_seconds - before.stats.uptime_seconds
    else:
        seconds = now.at - before.at
    return (last - first) / seconds if seconds > 0 else None


def _share(before: Metrics, now: Metrics) -> float | None:
    """Processors that were taken between two answers of one process."""
    if before.cpu_seconds is None or now.cpu_seconds is None or before.uptime is None or now.uptime is None:
        return None
    seconds = now.uptime - before.uptime
    return max(0.0, now.cpu_seconds - before.cpu_seconds) / seconds if seconds > 0 else None


def _given(before: ConnectionRow | None, now: ConnectionRow, seconds: float) -> float | None:
    if before is None or seconds <= 0 or before.updates_delivered is None or now.updates_delivered is None:
        return None
    return max(0, now.updates_delivered - before.updates_delivered) / seconds
