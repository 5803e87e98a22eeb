"""The figures of where prices come from, and of what is made of them: alerts, last values and portfolios."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, get_args

from fastws._core import Hub
from fastws.auth import Authenticator
from fastws.auth.tokens import Reason
from fastws.clock import wall_ms
from fastws.feeds.base import LIVE, RECONNECTING, STALE, STOPPED
from fastws.market.alerts import AlertBook
from fastws.market.freshness import Freshness
from fastws.market.market import Market
from fastws.market.portfolios import Portfolios
from fastws.server.feed_runner import FeedRunner
from fastws.server.last_values import LastValues
from fastws.server.metric_families import Metric, counter, gauge, histogram

if TYPE_CHECKING:
    from fastws._inlet import Inlet


def of_feeds(
    hub: Hub, market: Market, freshness: Freshness, feed_runner: FeedRunner, *, began: float
) -> Iterator[Metric]:
    """The server was made at `began`, of the monotonic clock."""
    yield gauge(
        "feed_status",
        "1 for the state that a feed is in",
        {
            (feed, status): int(current == status)
            for feed, current in market.feeds.items()
            for status in (LIVE, STALE, RECONNECTING, STOPPED)
        },
        "feed",
        "status",
    )
    last = market.last_update_ms
    yield gauge(
        "last_update_age_seconds",
        "time since the last price or order book, of a feed or published over HTTP, or since the start",
        time.monotonic() - began if last is None else max(0, wall_ms() - last) / 1000,
    )
    known, judged, stale = freshness.counts
    yield gauge("symbols", "symbols that there have been updates of", known)
    yield gauge("judged_symbols", "of these, whose silence would be noticed now", judged)
    yield gauge("stale_symbols", "of these, silent for longer than they usually are", stale)
    yield histogram(
        "exchange_lag_seconds",
        "how long after the exchange's time prices were received: of each symbol the last one of each second",
        (freshness.lag_counts, freshness.lag_seconds),
    )
    counts, _ = hub.meters.histograms()["feed"]
    yield counter("feed_updates", "updates that feeds have delivered", sum(counts))
    supervisor = feed_runner.supervisor
    if supervisor is not None:
        yield gauge(
            "feed_failures",
            "failures of a feed in a row",
            {supervisor.feed.name: supervisor.n_failures},
            "feed",
        )
        keeper = feed_runner.keeper
        yield gauge(
            "feed_owner",
            "1 where this server runs the feed, 0 where it stands by",
            {supervisor.feed.name: int(keeper is None or keeper.is_owner)},
            "feed",
        )
        yield counter(
            "feed_takeovers",
            "times that this server has taken a feed over from another one",
            {supervisor.feed.name: 0 if keeper is None else keeper.post.n_takeovers},
            "feed",
        )
        for figure in supervisor.feed.figures():
            make = counter if figure.kind == "counter" else gauge
            yield make(figure.name, figure.about, figure.values, *figure.labels)


def of_users(alerts: AlertBook, last_values: LastValues, authenticator: Authenticator) -> Iterator[Metric]:
    yield gauge(
        "alerts",
        "price alerts: waiting for a price, or crossed and waiting for the database",
        {"waiting": alerts.n_waiting, "crossed": alerts.n_crossed},
        "state",
    )
    yield counter("alerts_fired", "price alerts fired", alerts.n_fired)
    yield counter(
        "last_value_save_failures",
        "times that last prices and books could not be saved",
        last_values.n_failures,
    )
    yield counter(
        "auth_failures",
        "tokens not accepted, by why",
        dict.fromkeys(get_args(Reason), 0) | authenticator.failures,
        "reason",
    )
    if authenticator.keys_age is not None:
        yield gauge("jwks_age_seconds", "time since the issuer's keys were fetched", authenticator.keys_age)


def of_portfolios(portfolios: Portfolios) -> Iterator[Metric]:
    yield gauge("portfolios", "portfolios known", portfolios.n_portfolios)
    yield gauge("portfolio_positions", "positions of all portfolios", portfolios.n_positions)
    yield gauge(
        "portfolios_left_out",
        "portfolios that are left out because a row of them cannot be used",
        portfolios.n_left_out,
    )
    yield gauge("portfolios_watched", "portfolios that are valued", portfolios.n_watched)
    yield gauge("portfolio_load_seconds", "how long reading portfolios took last", portfolios.load_seconds)
    yield counter("portfolio_loads", "times that portfolios were read", portfolios.n_loads)
    yield counter("portfolio_load_failures", "times that portfolios could not be read", portfolios.n_failures)
    yield counter(
        "portfolio_mismatches",
        "watched portfolios whose sums were wrong and were corrected; there must be none",
        portfolios.n_mismatches,
    )
    yield counter(
        "portfolio_overflows",
        "values that did not fit 128 bits and were made another way, as exact and slower",
        portfolios.n_wide,
    )


def of_inlet(inlet: Inlet) -> Iterator[Metric]:
    yield counter(
        "inlet_publications",
        "publications of C extensions: taken, which are published, rejected and undelivered; and refused, full and "
        "invalid",
        inlet.counts(),
        "what",
    )
    yield gauge("inlet_waiting_bytes", "what waits in their ring", inlet.waiting_bytes)
