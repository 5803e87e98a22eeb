"""The figures of the relay between instances."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastws.server.metric_families import Metric, counter, gauge

if TYPE_CHECKING:
    from fastws.relay.relay import Relay


def of_relay(relay: Relay) -> Iterator[Metric]:
    counts, link = relay.counts, relay.link
    yield gauge(
        "relay_info", "1, labelled with what others call this server", {relay.name: 1}, "instance_name"
    )
    yield gauge("relay_up", "1 while the relay is there", int(relay.is_up))
    yield counter("relay_connects", "times that the relay was reached", link.n_connects)
    yield gauge("relay_instances", "other instances that are heard", len(relay.peers))
    yield gauge(
        "relay_entries",
        "entries of tables that this server tells others: users with connections, and codes looked at",
        relay.sharing.sizes,
        "table",
    )
    yield gauge("relay_shards", "channels listened to", len(relay.shards))
    yield counter("relay_envelopes", "envelopes of updates, by what happened", counts.envelopes, "what")
    yield counter(
        "relay_updates",
        "updates sent and received; of these outdated when they came, and refused; missed: known of and lost",
        counts.updates,
        "what",
    )
    yield counter("relay_bytes", "bytes of envelopes", counts.bytes, "what")
    yield counter("relay_refused", "messages of the relay that could not be read", counts.refused)
    yield counter(
        "relay_gaps", "gaps seen in what others send, and those not closed in time", counts.gaps, "what"
    )
    yield gauge("relay_gaps_open", "gaps that others are asked about", relay.n_streams_with_gaps)
    yield counter("relay_values", "channels whose last values went between instances", counts.values, "what")
    if relay.sessions is not None:
        sessions = relay.sessions.known
        yield gauge("relay_sessions", "sessions of other instances that are known", len(sessions))
        yield gauge("relay_sessions_bytes", "what they take", sessions.size)
        yield counter("relay_sessions_dropped", "those forgotten for want of room", sessions.n_dropped)
        yield gauge("relay_sessions_waiting", "own ones to tell others of", relay.sessions.news.n_waiting)
        yield counter(
            "relay_session_moves", "sessions between instances, by what happened", counts.sessions, "what"
        )
    yield gauge("relay_history_bytes", "what was sent and is kept for others", relay.ring_size)
    yield gauge("relay_queue_bytes", "what waits to be sent", link.queue_size)
    yield counter("relay_dropped", "messages dropped because too much waited", link.n_dropped)
    yield counter("relay_not_taken", "messages that Redis has refused to hand on", link.n_refused)
