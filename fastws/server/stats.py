"""What a server tells about itself: its figures and its connections (section 8 of the wire contract)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastws._core import Hub
from fastws._market import utc_text
from fastws._version import __version__
from fastws.clock import wall_ms
from fastws.dialects.admission import Admission
from fastws.limits import Limits
from fastws.market.freshness import Counts
from fastws.market.market import Market
from fastws.server.acceptor import capacity
from fastws.server.listener import Listener
from fastws.sessions import Sessions


def totals(
    hub: Hub,
    market: Market,
    sessions: Sessions,
    listener: Listener,
    limits: Limits,
    *,
    freshness: Counts,
    feed_roles: Mapping[str, str],
    uptime: float,
    is_draining: bool,
) -> dict[str, Any]:
    """The body of ``/v1/ws/stats``. `feed_roles`: which part this instance has in each feed; see `FeedKeeper.role`."""
    by_type = {"stock": 0, "market": 0, "sector": 0}
    counts = hub.subscription_counts()
    by_type |= {kind: n for kind, n in counts.items() if kind in by_type or (kind == "portfolio" and n)}
    last = market.last_update_ms
    outboxes = hub.outboxes()
    room = capacity()
    return {
        "active_connections": hub.n_connections,
        "total_subscriptions": sum(by_type.values()),
        "subscriptions_by_type": by_type,
        "messages_sent": hub.n_messages_sent,
        "saved_sessions": len(sessions),
        "batching_enabled": hub.interval_ms > 0,
        "batch_interval_ms": hub.interval_ms,
        "queued_messages": hub.queued_messages(),
        "rate_limiting_enabled": hub.rate_limit > 0,
        "rate_limit": hub.rate_limit,
        "messages_received": hub.n_messages_received,
        "queued_bytes": hub.queued_bytes(),
        "effective_interval_ms": round(max(hub.flusher.effective_interval_ms, hub.interval_ms), 1),
        "flushes": hub.flusher.n_flushes,
        "flush_seconds": round(hub.flusher.busy_ns / 1e9, 3),
        # uvloop counts whole milliseconds: a timer may be early by less than one.
        "loop_lag_ms": max(0.0, round(hub.loop_lag_ms, 2)),
        "cohorts": len(hub.cohorts),
        "sequence": hub.sequence,
        "epoch": hub.epoch,
        "feeds": market.feeds,
        "feed_roles": dict(feed_roles),
        "connections_accepted": hub.n_accepted,
        "closes": {str(code): n for code, n in sorted(hub.closes.items())},
        "accept_pauses": listener.accept_pauses,
        "addresses": limits.n_addresses,
        "refused_by_limit": limits.refusals,
        "updates": hub.ledger(),
        "version": __version__,
        "uptime_seconds": round(uptime, 3),
        "draining": is_draining,
        "connections_by_dialect": hub.n_by_dialect(),
        "room_for_connections": min(room, limits.connection_limit or room),
        "connections_blocked": outboxes["blocked"],
        "largest_outbox_bytes": outboxes["max_bytes"],
        "overflows": hub.meters.n_overflows,
        "bytes_sent": hub.meters.n_bytes_sent,
        "bytes_received": hub.meters.n_bytes_received,
        "messages_rate_limited": hub.meters.n_rate_limited,
        "symbols_judged": freshness.judged,
        "symbols_stale": freshness.stale,
        "last_update_age_ms": None if last is None else max(0, wall_ms() - last),
    }


def realtime_totals(hub: Hub, admission: Admission) -> dict[str, int]:
    """The member `global_stats` of ``/realtime/status/``; connections of both dialects count."""
    counts = hub.subscription_counts()
    return {
        "total_connections": hub.n_connections,
        "authenticated_users": len(admission.presence.by_user),
        "portfolio_subscriptions": counts.get("portfolio", 0),
        "asset_subscriptions": counts.get("stock", 0),
    }


def user_stats(admission: Admission, user_key: str) -> dict[str, Any]:
    """The member `user_stats` of ``/realtime/status/``: what all connections of a user hold together."""
    clients = list(admission.presence.by_user.get(user_key, ()))
    held = dict.fromkeys(topic for client in clients for topic in client.connection.subscriptions())
    return {
        "connection_count": len(clients),
        "subscriptions": {
            "portfolios": [int(topic.name) for topic in held if topic.kind == "portfolio"],
            "assets": [topic.name for topic in held if topic.kind == "stock"],
        },
    }


def connections(admission: Admission, *, has_subscriptions: bool = True) -> Iterator[dict[str, Any]]:
    """Yield the elements of ``/v1/ws/connections``: who was there at the first and has not gone meanwhile.

    Without `has_subscriptions` their names, which are most of it, are left out; the number stays.
    """
    by_id = admission.presence.by_id
    for client in list(by_id.values()):
        if by_id.get(client.connection_id) is not client:
            continue
        connection = client.connection
        held = connection.subscriptions()
        named: dict[str, Any] = {}
        if has_subscriptions:
            by_kind: dict[str, list[str]] = {}
            for topic in held:
                by_kind.setdefault(topic.kind, []).append(topic.name)
            named["subscriptions"] = by_kind
        updates = connection.ledger()
        yield {
            "connection_id": client.connection_id,
            "user_id": None if client.identity is None else client.identity.user_id,
            "peer": client.arrival.address,
            "connected_at": utc_text(connection.opened_at_ms),
            **named,
            "message_count": connection.message_count,
            "last_activity": utc_text(connection.last_activity_ms),
            "dialect": connection.dialect.name,
            "subscription_count": len(held),
            "updates_delivered": updates["delivered"],
            "updates_lost": updates["lost"],
            "queued_messages": connection.queued_messages,
            "queued_bytes": connection.queued_bytes,
        }
