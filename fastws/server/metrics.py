"""``/metrics`` for Prometheus: reads the counters of the server when asked, and costs nothing in between.

Anybody may ask, and an answer takes milliseconds in which no price leaves; so it is given again for a second. What
portfolios are worth changes, and what is in them, is in figures for the administrator only: on a server of few users
others could tell from them what somebody does.

Labels have values from fixed sets only, never anything that a client has sent.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Protocol, get_args

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client import generate_latest as encode_text
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as encode_openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from fastws._core import HISTOGRAM_BOUNDS, Hub
from fastws._version import __version__
from fastws.auth import Authenticator
from fastws.auth.tokens import Reason
from fastws.clock import wall_ms
from fastws.dialects.conversation import Conversation
from fastws.errors import CloseCode
from fastws.feeds.base import LIVE, RECONNECTING, STALE, STOPPED
from fastws.limits import Limits
from fastws.market.alerts import AlertBook
from fastws.market.freshness import Freshness
from fastws.market.market import Market
from fastws.market.portfolios import Portfolios
from fastws.server.callers import is_administrator
from fastws.server.feed_runner import FeedRunner
from fastws.server.http import Endpoint, add_endpoints
from fastws.server.last_values import LastValues
from fastws.server.listener import Listener
from fastws.server.tls import TlsContext
from fastws.server.workers import Worker
from fastws.sessions import Sessions

if TYPE_CHECKING:
    from fastws._inlet import Inlet
    from fastws.relay.relay import Relay
    from fastws.server.shared import Shared

PARENT: Final = "parent"
"""The value of the label `worker` of the process that has started the workers."""

# What is no code of ours: the client's own end without one (RFC 6455 §7.4.1), and whatever else clients send.
_FOREIGN_CLOSES: Final = {1005: "no_status", 1006: "abnormal"}
_OTHER_CLOSES: Final = "other"

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

KEPT_SECONDS: Final = 1.0
"""How old an answer may be."""

_LE: Final = (*map(floatToGoString, HISTOGRAM_BOUNDS), "+Inf")


class MetricsView(Protocol):
    """What the metrics read of the server."""

    @property
    def admin_token(self) -> str | None: ...

    @property
    def hub(self) -> Hub: ...

    @property
    def inlet(self) -> Inlet | None: ...

    @property
    def market(self) -> Market: ...

    @property
    def freshness(self) -> Freshness: ...

    @property
    def last_values(self) -> LastValues: ...

    @property
    def feed_runner(self) -> FeedRunner: ...

    @property
    def screener(self) -> Conversation: ...

    @property
    def realtime(self) -> Conversation: ...

    @property
    def alerts(self) -> AlertBook: ...

    @property
    def portfolios(self) -> Portfolios: ...

    @property
    def authenticator(self) -> Authenticator: ...

    @property
    def sessions(self) -> Sessions: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def listener(self) -> Listener: ...

    @property
    def tls(self) -> TlsContext | None: ...

    @property
    def relay(self) -> Relay | None: ...


def add_metrics_routes(
    app: web.Application, server: MetricsView, *, is_own_place: bool, shared: Shared | None = None
) -> None:
    """Answer ``/metrics`` from `server`, in the Prometheus text format or as OpenMetrics, whichever is asked for.

    Everybody is shown all of it where `is_own_place`, which is the administrator's; elsewhere who has the
    administrator's token is. Where workers share a port, all of them are shown, each with its label.
    """
    registries = {whole: _make_registry(server, is_whole=whole) for whole in (False, True)}

    def exposition(is_open: bool, is_whole: bool) -> bytes:
        return _encode(registries[is_whole], is_open=is_open)

    if shared is not None:
        shared.give_metrics(exposition)
    kept: dict[tuple[str, bool], tuple[bytes, float]] = {}

    async def metrics(request: web.Request) -> web.Response:
        is_open = "application/openmetrics-text" in request.headers.get("Accept", "")
        is_whole = is_own_place or is_administrator(request, server.admin_token)
        kind = OPENMETRICS if is_open else _TEXT
        body, made_at = kept.get((kind, is_whole), (b"", -math.inf))
        if time.monotonic() - made_at >= KEPT_SECONDS:
            body = (
                exposition(is_open, is_whole) if shared is None else await shared.metrics(is_open, is_whole)
            )
            kept[kind, is_whole] = body, time.monotonic()
        return web.Response(body=body, headers={"Content-Type": kind})

    add_endpoints(app, (Endpoint("GET", "/metrics", metrics, "figures for Prometheus", is_for_pages=False),))


def workers_exposition(worker: Worker, answering: Collection[int], *, is_open: bool) -> bytes:
    """What the workers have in common: who of them answers, how often each was started anew, and their parent."""
    registry = CollectorRegistry()
    numbers = range(1, worker.n_workers + 1)
    registry.register(
        _Given(
            [
                _gauge(
                    "worker_up",
                    "1 for a worker that has answered for this",
                    {str(number): int(number in answering) for number in numbers},
                    "worker",
                ),
                _counter(
                    "worker_restarts",
                    "times that a worker was started anew, because it had ended",
                    {str(number): n for number, n in zip(numbers, worker.crew.n_restarts, strict=True)},
                    "worker",
                ),
                _counter(
                    "exchange_dropped",
                    "messages between workers that were dropped because one did not keep up",
                    worker.crew.n_dropped,
                ),
            ]
        )
    )
    return _encode(registry, is_open=is_open)


def parent_exposition(*, is_open: bool) -> bytes:
    """What the parent of this process takes."""
    registry = CollectorRegistry()
    ProcessCollector(pid=os.getppid, registry=registry)
    return _encode(registry, is_open=is_open)


class _Given(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics


def _encode(registry: CollectorRegistry, *, is_open: bool) -> bytes:
    text: bytes = encode_openmetrics(registry) if is_open else encode_text(registry)  # type: ignore[no-untyped-call]
    return text


def _make_registry(server: MetricsView, *, is_whole: bool) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(ServerCollector(server, is_whole=is_whole))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class ServerCollector(Collector):
    """The figures of one server, those of portfolios if they are to be the `is_whole`.

    Belongs to the loop's thread, as they do.
    """

    def __init__(self, server: MetricsView, *, is_whole: bool) -> None:
        self._server = server
        self._is_whole = is_whole
        self._started_at = time.time()
        self._began = time.monotonic()

    def collect(self) -> Iterator[Metric]:
        yield from self._process()
        yield from self._connections()
        yield from self._updates()
        yield from self._slow_clients()
        yield from self._time()
        yield from self._compression()
        yield from self._feeds()
        yield from self._users()
        if self._is_whole:
            yield from self._portfolios()
        yield from self._inlet()
        yield from self._relay()

    def _process(self) -> Iterator[Metric]:
        running = {(__version__, platform.python_version()): 1}
        yield _gauge("build_info", "1, labelled with what runs", running, "version", "python")
        yield _gauge("start_time_seconds", "when the server was made, Unix time", self._started_at)
        yield _gauge(
            "uptime_seconds",
            "time since the server was made; between two answers, how far their figures are apart",
            time.monotonic() - self._began,
        )

    def _connections(self) -> Iterator[Metric]:
        hub, listener, limits = self._server.hub, self._server.listener, self._server.limits
        conversations = (self._server.screener, self._server.realtime)
        none = {conversation.dialect.name: 0 for conversation in conversations}
        yield _gauge("connections", "open WebSocket connections", none | hub.n_by_dialect(), "dialect")
        yield _counter(
            "connections_opened", "WebSocket connections opened", none | hub.meters.opened, "dialect"
        )
        yield _counter(
            "connections_closed",
            "WebSocket connections ended, by why and by whom",
            _closes(conversations),
            "reason",
            "by",
        )
        yield _gauge("addresses", "addresses that WebSocket connections come from", limits.n_addresses)
        yield _gauge("http_connections", "open connections of other HTTP requests", listener.n_http)
        yield _gauge(
            "handshakes_pending", "connections whose request is not complete yet", listener.n_pending
        )
        yield _counter("handshakes", "WebSocket handshakes answered with 101", listener.upgrades.n_opened)
        yield _counter(
            "handshakes_refused",
            "request heads and WebSocket handshakes refused, by why",
            {code.lower(): n for code, n in listener.upgrades.refusals.items()},
            "reason",
        )
        yield _counter(
            "handshakes_timed_out", "connections whose request was not complete in time", listener.n_timed_out
        )
        yield _counter("limit_refusals", "connections not let in, by the limit", limits.refusals, "limit")
        yield _counter(
            "accept_pauses",
            "times that accepting stopped for want of file descriptors",
            listener.accept_pauses,
        )
        if self._server.tls is not None:
            tls = self._server.tls
            yield _counter("tls_failures", "connections that came to no TLS handshake", tls.n_failed)
            yield _gauge(
                "certificate_expires_seconds",
                "when the certificate of new connections ends, Unix time",
                tls.expires_at.timestamp(),
            )

    def _updates(self) -> Iterator[Metric]:
        hub = self._server.hub
        meters = hub.meters
        yield _gauge("subscriptions", "subscriptions held, by kind", hub.subscription_counts(), "kind")
        yield _gauge("cohorts", "groups of connections with equal subscriptions", len(hub.cohorts))
        yield _gauge("sequence", "number of the last update published", hub.sequence)
        counts = hub.update_counts(private=self._is_whole)
        yield _counter("updates_published", "updates published", counts, "channel")
        ledger = hub.ledger()
        yield _counter(
            "deliveries", "updates due to connections, one for each of them", ledger.pop("published")
        )
        yield _gauge("deliveries_waiting", "of these, not yet decided", ledger.pop("waiting"))
        yield _counter(
            "deliveries_ended",
            "of these, delivered, replaced by a newer value, declared lost, or left at the end of the connection",
            ledger,
            "outcome",
        )
        yield _counter("messages_sent", "messages sent, each of a batch", hub.n_messages_sent)
        yield _counter("messages_received", "messages received", hub.n_messages_received)
        yield _counter("sent_bytes", "bytes sent in WebSocket frames", meters.n_bytes_sent)
        yield _counter("received_bytes", "bytes received in WebSocket frames", meters.n_bytes_received)
        yield _counter("messages_rate_limited", "messages refused by the rate limit", meters.n_rate_limited)
        yield _gauge("history_bytes", "size of the updates kept for restored sessions", hub.history_size)
        yield _gauge("history_updates", "updates kept for restored sessions", hub.n_history)
        yield _gauge("sessions", "ended sessions that can be restored", len(self._server.sessions))
        yield _counter("restores", "sessions that went on without a gap", meters.n_restores)

    def _slow_clients(self) -> Iterator[Metric]:
        meters, outboxes = self._server.hub.meters, self._server.hub.outboxes()
        yield _gauge("connections_blocked", "connections that take no more just now", outboxes["blocked"])
        yield _counter("blocks", "times that a connection took no more", meters.n_blocks)
        yield _counter(
            "overflows", "times that a client was told what was dropped for it", meters.n_overflows
        )
        yield _gauge("outbox_bytes", "waiting for slow connections, all together", outboxes["bytes"])
        yield _gauge("outbox_messages", "waiting for slow connections, all together", outboxes["messages"])
        yield _gauge("outbox_largest_bytes", "waiting for the slowest connection", outboxes["max_bytes"])
        yield _gauge(
            "outbox_largest_messages", "waiting for the slowest connection", outboxes["max_messages"]
        )

    def _time(self) -> Iterator[Metric]:
        hub = self._server.hub
        flusher = hub.flusher
        yield _gauge("flush_interval_seconds", "flush interval that was asked for", hub.interval_ms / 1000)
        yield _gauge(
            "flush_interval_effective_seconds",
            "flush interval that there is, as a moving average",
            max(flusher.effective_interval_ms, hub.interval_ms) / 1000,
        )
        yield _counter("flush_busy_seconds", "time spent on flushes", flusher.busy_ns / 1e9)
        yield _counter("flush_sends", "frames handed to sockets in flushes", flusher.n_sends)
        histograms = hub.meters.histograms()
        yield _histogram(
            "stage_seconds",
            "how long updates take: feed (receipt to publication), wait (publication to the begin of the flush), "
            "send (begin of a flush to its last connection), total (receipt to the last connection)",
            {stage: histograms[stage] for stage in ("feed", "wait", "send", "total")},
            "stage",
        )
        yield _histogram(
            "flush_delay_seconds", "how late flushes begin; overload shows here", histograms["flush_delay"]
        )
        yield _histogram("loop_lag_seconds", "how late the event loop's timers are", histograms["loop_lag"])

    def _compression(self) -> Iterator[Metric]:
        meters = self._server.hub.meters
        yield _counter("compressions", "frames compressed, once for all that share one", meters.n_compressed)
        yield _counter("compression_input_bytes", "bytes before compression", meters.n_bytes_to_compress)
        yield _counter("compression_output_bytes", "bytes after compression", meters.n_bytes_compressed)
        yield _counter("decompressions", "messages of clients expanded", meters.n_expanded)
        yield _counter("decompression_input_bytes", "bytes before expansion", meters.n_bytes_to_expand)
        yield _counter("decompression_output_bytes", "bytes after expansion", meters.n_bytes_expanded)

    def _feeds(self) -> Iterator[Metric]:
        supervisor = self._server.feed_runner.supervisor
        yield _gauge(
            "feed_status",
            "1 for the state that a feed is in",
            {
                (feed, status): int(current == status)
                for feed, current in self._server.market.feeds.items()
                for status in (LIVE, STALE, RECONNECTING, STOPPED)
            },
            "feed",
            "status",
        )
        last = self._server.market.last_update_ms
        yield _gauge(
            "last_update_age_seconds",
            "time since the last price or order book, of a feed or published over HTTP, or since the start",
            time.monotonic() - self._began if last is None else max(0, wall_ms() - last) / 1000,
        )
        freshness = self._server.freshness
        known, judged, stale = freshness.counts
        yield _gauge("symbols", "symbols that there have been updates of", known)
        yield _gauge("judged_symbols", "of these, whose silence would be noticed now", judged)
        yield _gauge("stale_symbols", "of these, silent for longer than they usually are", stale)
        yield _histogram(
            "exchange_lag_seconds",
            "how long after the exchange's time prices were received: of each symbol the last one of each second",
            (freshness.lag_counts, freshness.lag_seconds),
        )
        counts, _ = self._server.hub.meters.histograms()["feed"]
        yield _counter("feed_updates", "updates that feeds have delivered", sum(counts))
        if supervisor is not None:
            yield _gauge(
                "feed_failures",
                "failures of a feed in a row",
                {supervisor.feed.name: supervisor.n_failures},
                "feed",
            )
            keeper = self._server.feed_runner.keeper
            yield _gauge(
                "feed_owner",
                "1 where this server runs the feed, 0 where it stands by",
                {supervisor.feed.name: int(keeper is None or keeper.is_owner)},
                "feed",
            )
            yield _counter(
                "feed_takeovers",
                "times that this server has taken a feed over from another one",
                {supervisor.feed.name: 0 if keeper is None else keeper.post.n_takeovers},
                "feed",
            )
            for figure in supervisor.feed.figures():
                make = _counter if figure.kind == "counter" else _gauge
                yield make(figure.name, figure.about, figure.values, *figure.labels)

    def _users(self) -> Iterator[Metric]:
        alerts, authenticator = self._server.alerts, self._server.authenticator
        yield _gauge(
            "alerts",
            "price alerts: waiting for a price, or crossed and waiting for the database",
            {"waiting": alerts.n_waiting, "crossed": alerts.n_crossed},
            "state",
        )
        yield _counter("alerts_fired", "price alerts fired", alerts.n_fired)
        yield _counter(
            "last_value_save_failures",
            "times that last prices and books could not be saved",
            self._server.last_values.n_failures,
        )
        yield _counter(
            "auth_failures",
            "tokens not accepted, by why",
            dict.fromkeys(get_args(Reason), 0) | authenticator.failures,
            "reason",
        )
        if authenticator.keys_age is not None:
            yield _gauge(
                "jwks_age_seconds", "time since the issuer's keys were fetched", authenticator.keys_age
            )

    def _portfolios(self) -> Iterator[Metric]:
        portfolios = self._server.portfolios
        yield _gauge("portfolios", "portfolios known", portfolios.n_portfolios)
        yield _gauge("portfolio_positions", "positions of all portfolios", portfolios.n_positions)
        yield _gauge(
            "portfolios_left_out",
            "portfolios that are left out because a row of them cannot be used",
            portfolios.n_left_out,
        )
        yield _gauge("portfolios_watched", "portfolios that are valued", portfolios.n_watched)
        yield _gauge(
            "portfolio_load_seconds", "how long reading portfolios took last", portfolios.load_seconds
        )
        yield _counter("portfolio_loads", "times that portfolios were read", portfolios.n_loads)
        yield _counter(
            "portfolio_load_failures", "times that portfolios could not be read", portfolios.n_failures
        )
        yield _counter(
            "portfolio_mismatches",
            "watched portfolios whose sums were wrong and were corrected; there must be none",
            portfolios.n_mismatches,
        )
        yield _counter(
            "portfolio_overflows",
            "values that did not fit 128 bits and were made another way, as exact and slower",
            portfolios.n_wide,
        )

    def _inlet(self) -> Iterator[Metric]:
        inlet = self._server.inlet
        if inlet is None:
            return
        yield _counter(
            "inlet_publications",
            "publications of C extensions: taken, which are published, rejected and undelivered; and refused, full and "
            "invalid",
            inlet.counts(),
            "what",
        )
        yield _gauge("inlet_waiting_bytes", "what waits in their ring", inlet.waiting_bytes)

    def _relay(self) -> Iterator[Metric]:
        relay = self._server.relay
        if relay is None:
            return
        counts, link = relay.counts, relay.link
        yield _gauge(
            "relay_info", "1, labelled with what others call this server", {relay.name: 1}, "instance_name"
        )
        yield _gauge("relay_up", "1 while the relay is there", int(relay.is_up))
        yield _counter("relay_connects", "times that the relay was reached", link.n_connects)
        yield _gauge("relay_instances", "other instances that are heard", len(relay.peers))
        yield _gauge(
            "relay_entries",
            "entries of tables that this server tells others: users with connections, and codes looked at",
            relay.sharing.sizes,
            "table",
        )
        yield _gauge("relay_shards", "channels listened to", len(relay.shards))
        yield _counter("relay_envelopes", "envelopes of updates, by what happened", counts.envelopes, "what")
        yield _counter(
            "relay_updates",
            "updates sent and received; of these outdated when they came, and refused; missed: known of and lost",
            counts.updates,
            "what",
        )
        yield _counter("relay_bytes", "bytes of envelopes", counts.bytes, "what")
        yield _counter("relay_refused", "messages of the relay that could not be read", counts.refused)
        yield _counter(
            "relay_gaps", "gaps seen in what others send, and those not closed in time", counts.gaps, "what"
        )
        yield _gauge("relay_gaps_open", "gaps that others are asked about", relay.n_streams_with_gaps)
        yield _counter(
            "relay_values", "channels whose last values went between instances", counts.values, "what"
        )
        if relay.sessions is not None:
            sessions = relay.sessions.known
            yield _gauge("relay_sessions", "sessions of other instances that are known", len(sessions))
            yield _gauge("relay_sessions_bytes", "what they take", sessions.size)
            yield _counter("relay_sessions_dropped", "those forgotten for want of room", sessions.n_dropped)
            yield _gauge(
                "relay_sessions_waiting", "own ones to tell others of", relay.sessions.news.n_waiting
            )
            yield _counter(
                "relay_session_moves", "sessions between instances, by what happened", counts.sessions, "what"
            )
        yield _gauge("relay_history_bytes", "what was sent and is kept for others", relay.ring_size)
        yield _gauge("relay_queue_bytes", "what waits to be sent", link.queue_size)
        yield _counter("relay_dropped", "messages dropped because too much waited", link.n_dropped)
        yield _counter("relay_not_taken", "messages that Redis has refused to hand on", link.n_refused)


Values = float | Mapping[str, float] | Mapping[tuple[str, str], float]
Figures = tuple[list[int], float]


def _counter(name: str, about: str, values: Values, *labels: str) -> Metric:
    family = CounterMetricFamily(f"fastws_{name}", about, labels=labels)
    for label_values, value in _items(values):
        family.add_metric(label_values, value)
    return family


def _gauge(name: str, about: str, values: Values, *labels: str) -> Metric:
    family = GaugeMetricFamily(f"fastws_{name}", about, labels=labels)
    for label_values, value in _items(values):
        family.add_metric(label_values, value)
    return family


def _histogram(name: str, about: str, values: Figures | Mapping[str, Figures], *labels: str) -> Metric:
    family = HistogramMetricFamily(f"fastws_{name}", about, labels=labels)
    for label, (counts, total) in values.items() if isinstance(values, Mapping) else (("", values),):
        buckets, n = [], 0
        for bound, count in zip(_LE, counts, strict=True):
            n += count
            buckets.append((bound, n))
        family.add_metric([label] if labels else [], buckets, total)
    return family


def _items(values: Values) -> Iterable[tuple[tuple[str, ...], float]]:
    if not isinstance(values, Mapping):
        return [((), values)]
    return [(key if isinstance(key, tuple) else (key,), value) for key, value in values.items()]


def _closes(conversations: Iterable[Conversation]) -> dict[tuple[str, str], int]:
    """Ended connections by the label of their close code and by who has ended them; clients may send any code."""
    labels: dict[int | str, str] = {code.value: code.label for code in CloseCode}
    labels |= _FOREIGN_CLOSES | {"kicked": "kicked"}
    closes = {(label, by): 0 for label in (*labels.values(), _OTHER_CLOSES) for by in ("server", "client")}
    for conversation in conversations:
        for (code, by), n in conversation.closes.items():
            closes[labels.get(code, _OTHER_CLOSES), by] += n
    return closes
