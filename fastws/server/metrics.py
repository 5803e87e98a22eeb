"""``/metrics`` for Prometheus: reads the counters of the server when asked, and costs nothing in between.

Anybody may ask, and an answer takes milliseconds in which no price leaves; so it is given again for a second. What
portfolios are worth changes, and what is in them, is in figures for the administrator only: on a server of few users
others could tell from them what somebody does.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client import generate_latest as encode_text
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as encode_openmetrics
from prometheus_client.registry import Collector

from fastws._core import Hub
from fastws._version import __version__
from fastws.auth import Authenticator
from fastws.dialects.conversation import Conversation
from fastws.limits import Limits
from fastws.market.alerts import AlertBook
from fastws.market.freshness import Freshness
from fastws.market.market import Market
from fastws.market.portfolios import Portfolios
from fastws.server import hub_metrics, market_metrics, relay_metrics
from fastws.server.callers import is_administrator
from fastws.server.feed_runner import FeedRunner
from fastws.server.http import Endpoint, add_endpoints
from fastws.server.last_values import LastValues
from fastws.server.listener import Listener
from fastws.server.metric_families import Metric, counter, gauge
from fastws.server.tls import TlsContext
from fastws.server.workers import Worker
from fastws.sessions import Sessions

if TYPE_CHECKING:
    from fastws._inlet import Inlet
    from fastws.relay.relay import Relay
    from fastws.server.shared import Shared

PARENT: Final = "parent"
"""The value of the label `worker` of the process that has started the workers."""

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

KEPT_SECONDS: Final = 1.0
"""How old an answer may be."""


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
                gauge(
                    "worker_up",
                    "1 for a worker that has answered for this",
                    {str(number): int(number in answering) for number in numbers},
                    "worker",
                ),
                counter(
                    "worker_restarts",
                    "times that a worker was started anew, because it had ended",
                    {str(number): n for number, n in zip(numbers, worker.crew.n_restarts, strict=True)},
                    "worker",
                ),
                counter(
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
        server = self._server
        hub = server.hub
        yield from self._process()
        yield from hub_metrics.of_connections(
            hub, (server.screener, server.realtime), server.listener, server.limits, server.tls
        )
        yield from hub_metrics.of_updates(hub, server.sessions, is_whole=self._is_whole)
        yield from hub_metrics.of_slow_clients(hub)
        yield from hub_metrics.of_time(hub)
        yield from hub_metrics.of_compression(hub)
        yield from market_metrics.of_feeds(
            hub, server.market, server.freshness, server.feed_runner, began=self._began
        )
        yield from market_metrics.of_users(server.alerts, server.last_values, server.authenticator)
        if self._is_whole:
            yield from market_metrics.of_portfolios(server.portfolios)
        if server.inlet is not None:
            yield from market_metrics.of_inlet(server.inlet)
        if server.relay is not None:
            yield from relay_metrics.of_relay(server.relay)

    def _process(self) -> Iterator[Metric]:
        running = {(__version__, platform.python_version()): 1}
        yield gauge("build_info", "1, labelled with what runs", running, "version", "python")
        yield gauge("start_time_seconds", "when the server was made, Unix time", self._started_at)
        yield gauge(
            "uptime_seconds",
            "time since the server was made; between two answers, how far their figures are apart",
            time.monotonic() - self._began,
        )
