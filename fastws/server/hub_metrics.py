"""The figures of connections, of what they are sent, and of the time that it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from fastws._core import Hub
from fastws.dialects.conversation import Conversation
from fastws.errors import CloseCode
from fastws.limits import Limits
from fastws.server.listener import Listener
from fastws.server.metric_families import Metric, counter, gauge, histogram
from fastws.server.tls import TlsContext
from fastws.sessions import Sessions

# What is no code of ours: the client's own end without one (RFC 6455 §7.4.1), and whatever else clients send.
_FOREIGN_CLOSES: Final = {1005: "no_status", 1006: "abnormal"}
_OTHER_CLOSES: Final = "other"


def of_connections(
    hub: Hub,
    conversations: Sequence[Conversation],
    listener: Listener,
    limits: Limits,
    tls: TlsContext | None,
) -> Iterator[Metric]:
    none = {conversation.dialect.name: 0 for conversation in conversations}
    yield gauge("connections", "open WebSocket connections", none | hub.n_by_dialect(), "dialect")
    yield counter("connections_opened", "WebSocket connections opened", none | hub.meters.opened, "dialect")
    yield counter(
        "connections_closed",
        "WebSocket connections ended, by why and by whom",
        _closes(conversations),
        "reason",
        "by",
    )
    yield gauge("addresses", "addresses that WebSocket connections come from", limits.n_addresses)
    yield gauge("http_connections", "open connections of other HTTP requests", listener.n_http)
    yield gauge("handshakes_pending", "connections whose request is not complete yet", listener.n_pending)
    yield counter("handshakes", "WebSocket handshakes answered with 101", listener.upgrades.n_opened)
    yield counter(
        "handshakes_refused",
        "request heads and WebSocket handshakes refused, by why",
        {code.lower(): n for code, n in listener.upgrades.refusals.items()},
        "reason",
    )
    yield counter(
        "handshakes_timed_out", "connections whose request was not complete in time", listener.n_timed_out
    )
    yield counter("limit_refusals", "connections not let in, by the limit", limits.refusals, "limit")
    yield counter(
        "accept_pauses",
        "times that accepting stopped for want of file descriptors",
        listener.accept_pauses,
    )
    if tls is not None:
        yield counter("tls_failures", "connections that came to no TLS handshake", tls.n_failed)
        yield gauge(
            "certificate_expires_seconds",
            "when the certificate of new connections ends, Unix time",
            tls.expires_at.timestamp(),
        )


def of_updates(hub: Hub, sessions: Sessions, *, is_whole: bool) -> Iterator[Metric]:
    """`is_whole`: updates of private channels, which are those of portfolios, count too."""
    meters = hub.meters
    yield gauge("subscriptions", "subscriptions held, by kind", hub.subscription_counts(), "kind")
    yield gauge("cohorts", "groups of connections with equal subscriptions", len(hub.cohorts))
    yield gauge("sequence", "number of the last update published", hub.sequence)
    counts = hub.update_counts(private=is_whole)
    yield counter("updates_published", "updates published", counts, "channel")
    ledger = hub.ledger()
    yield counter("deliveries", "updates due to connections, one for each of them", ledger.pop("published"))
    yield gauge("deliveries_waiting", "of these, not yet decided", ledger.pop("waiting"))
    yield counter(
        "deliveries_ended",
        "of these, delivered, replaced by a newer value, declared lost, or left at the end of the connection",
        ledger,
        "outcome",
    )
    yield counter("messages_sent", "messages sent, each of a batch", hub.n_messages_sent)
    yield counter("messages_received", "messages received", hub.n_messages_received)
    yield counter("sent_bytes", "bytes sent in WebSocket frames", meters.n_bytes_sent)
    yield counter("received_bytes", "bytes received in WebSocket frames", meters.n_bytes_received)
    yield counter("messages_rate_limited", "messages refused by the rate limit", meters.n_rate_limited)
    yield gauge("history_bytes", "size of the updates kept for restored sessions", hub.history_size)
    yield gauge("history_updates", "updates kept for restored sessions", hub.n_history)
    yield gauge("sessions", "ended sessions that can be restored", len(sessions))
    yield counter("restores", "sessions that went on without a gap", meters.n_restores)


def of_slow_clients(hub: Hub) -> Iterator[Metric]:
    meters, outboxes = hub.meters, hub.outboxes()
    yield gauge("connections_blocked", "connections that take no more just now", outboxes["blocked"])
    yield counter("blocks", "times that a connection took no more", meters.n_blocks)
    yield counter("overflows", "times that a client was told what was dropped for it", meters.n_overflows)
    yield gauge("outbox_bytes", "waiting for slow connections, all together", outboxes["bytes"])
    yield gauge("outbox_messages", "waiting for slow connections, all together", outboxes["messages"])
    yield gauge("outbox_largest_bytes", "waiting for the slowest connection", outboxes["max_bytes"])
    yield gauge("outbox_largest_messages", "waiting for the slowest connection", outboxes["max_messages"])


def of_time(hub: Hub) -> Iterator[Metric]:
    flusher = hub.flusher
    yield gauge("flush_interval_seconds", "flush interval that was asked for", hub.interval_ms / 1000)
    yield gauge(
        "flush_interval_effective_seconds",
        "flush interval that there is, as a moving average",
        max(flusher.effective_interval_ms, hub.interval_ms) / 1000,
    )
    yield counter("flush_busy_seconds", "time spent on flushes", flusher.busy_ns / 1e9)
    yield counter("flush_sends", "frames handed to sockets in flushes", flusher.n_sends)
    histograms = hub.meters.histograms()
    yield histogram(
        "stage_seconds",
        "how long updates take: feed (receipt to publication), wait (publication to the begin of the flush), "
        "send (begin of a flush to its last connection), total (receipt to the last connection)",
        {stage: histograms[stage] for stage in ("feed", "wait", "send", "total")},
        "stage",
    )
    yield histogram(
        "flush_delay_seconds", "how late flushes begin; overload shows here", histograms["flush_delay"]
    )
    yield histogram("loop_lag_seconds", "how late the event loop's timers are", histograms["loop_lag"])


def of_compression(hub: Hub) -> Iterator[Metric]:
    meters = hub.meters
    yield counter("compressions", "frames compressed, once for all that share one", meters.n_compressed)
    yield counter("compression_input_bytes", "bytes before compression", meters.n_bytes_to_compress)
    yield counter("compression_output_bytes", "bytes after compression", meters.n_bytes_compressed)
    yield counter("decompressions", "messages of clients expanded", meters.n_expanded)
    yield counter("decompression_input_bytes", "bytes before expansion", meters.n_bytes_to_expand)
    yield counter("decompression_output_bytes", "bytes after expansion", meters.n_bytes_expanded)


def _closes(conversations: Iterable[Conversation]) -> dict[tuple[str, str], int]:
    """Ended connections by the label of their close code and by who has ended them; clients may send any code."""
    labels: dict[int | str, str] = {code.value: code.label for code in CloseCode}
    labels |= _FOREIGN_CLOSES | {"kicked": "kicked"}
    closes = {(label, by): 0 for label in (*labels.values(), _OTHER_CLOSES) for by in ("server", "client")}
    for conversation in conversations:
        for (code, by), n in conversation.closes.items():
            closes[labels.get(code, _OTHER_CLOSES), by] += n
    return closes
