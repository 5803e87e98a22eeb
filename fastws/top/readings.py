"""The answers of a server, typed. What a server of another version does not tell is None. Sans-IO."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeVar

import msgspec

from fastws.top.exposition import Metrics

STATS_PATH: Final = "/v1/ws/stats"
HEALTH_PATH: Final = "/health"
METRICS_PATH: Final = "/metrics"
CONNECTIONS_PATH: Final = "/v1/ws/connections"


class Updates(msgspec.Struct, frozen=True):
    """Updates due to connections, and what became of them."""

    published: int = 0
    delivered: int = 0
    conflated: int = 0
    lost: int = 0
    undelivered: int = 0
    waiting: int = 0


class Relay(msgspec.Struct, frozen=True):
    """Whether the servers that this one is joined with are heard; `seconds` is for how long that is so.

    `instances` counts itself as well. `missing` are names of those that have ceased without a word.
    """

    is_up: bool
    seconds: float = 0.0
    instances: int = 1
    missing: list[str] = []


class Stats(msgspec.Struct, frozen=True):
    """The body of ``/v1/ws/stats``. Those without a default tell a fastws server from others."""

    active_connections: int
    total_subscriptions: int
    subscriptions_by_type: dict[str, int]
    messages_sent: int
    saved_sessions: int
    batch_interval_ms: float
    queued_messages: int
    messages_received: int | None = None
    queued_bytes: int | None = None
    effective_interval_ms: float | None = None
    flush_seconds: float | None = None
    loop_lag_ms: float | None = None
    cohorts: int | None = None
    sequence: int | None = None
    epoch: str = ""
    feeds: dict[str, str] = {}
    feed_roles: dict[str, str] = {}
    connections_accepted: int | None = None
    closes: dict[str, int] = {}
    accept_pauses: int = 0
    addresses: int | None = None
    refused_by_limit: dict[str, int] = {}
    updates: Updates | None = None
    version: str | None = None
    uptime_seconds: float | None = None
    draining: bool = False
    connections_by_dialect: dict[str, int] = {}
    room_for_connections: int | None = None
    connections_blocked: int | None = None
    largest_outbox_bytes: int | None = None
    overflows: int | None = None
    bytes_sent: int | None = None
    bytes_received: int | None = None
    messages_rate_limited: int | None = None
    last_update_age_ms: int | None = None
    symbols_judged: int = 0
    symbols_stale: int = 0
    workers: int = 1
    relay: Relay | None = None


class Health(msgspec.Struct, frozen=True):
    """The body of ``/health``."""

    status: str
    price_feed_running: bool


class ConnectionRow(msgspec.Struct, frozen=True):
    """An element of ``/v1/ws/connections``."""

    connection_id: str
    connected_at: str
    last_activity: str
    message_count: int
    user_id: str | int | None = None
    peer: str = ""
    dialect: str = ""
    subscription_count: int | None = None
    updates_delivered: int | None = None
    updates_lost: int | None = None
    queued_messages: int | None = None
    queued_bytes: int | None = None


class Listing(NamedTuple):
    """The connections at a time of the monotonic clock, and how long it took to get them."""

    at: float
    seconds: float
    rows: tuple[ConnectionRow, ...]


class Reading(NamedTuple):
    """What a server has answered. `at` is monotonic, `wall` Unix time, of its statistics.

    Metrics and connections may be elsewhere, or not for everybody: then there is a sentence in their place. `listing`
    is None where nobody has asked, and may be older than the rest.
    """

    at: float
    wall: float
    stats: Stats
    health: Health | None
    metrics: Metrics | str
    listing: Listing | str | None


_T = TypeVar("_T")

_stats: Final = msgspec.json.Decoder(Stats)
_health: Final = msgspec.json.Decoder(Health)
_rows: Final = msgspec.json.Decoder(tuple[ConnectionRow, ...])


def read_stats(body: bytes) -> Stats | None:
    """None: these are no statistics of fastws."""
    return _read(_stats, body)


def read_health(body: bytes) -> Health | None:
    """None: this is nothing that fastws answers."""
    return _read(_health, body)


def read_rows(body: bytes) -> tuple[ConnectionRow, ...] | None:
    """None: this is no list of connections."""
    return _read(_rows, body)


def _read(decoder: msgspec.json.Decoder[_T], body: bytes) -> _T | None:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
