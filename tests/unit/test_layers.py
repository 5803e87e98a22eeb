"""Keeps imports in the directions of the architecture, and each outside package in the one place that may use it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "fastws"

# A module may import those of its own rank and of lower ranks. The longest matching name counts.
RANKS = {
    "fastws._frames": 0,
    "fastws.errors": 0,
    "fastws.clock": 0,
    "fastws.wording": 0,
    "fastws.deflate": 0,
    "fastws._version": 0,
    "fastws.data": 0,
    "fastws._core": 1,
    "fastws._market": 1,
    "fastws._rings": 1,
    "fastws.settings": 1,
    "fastws.settings_catalog": 1,
    "fastws.settings_checks": 1,
    "fastws.configuration": 2,
    "fastws.auth": 1,
    "fastws.limits": 1,
    "fastws.messages": 1,
    "fastws.sessions": 2,
    "fastws.opening": 0,
    "fastws.upgrading": 0,
    "fastws.connecting": 1,
    "fastws.websocket": 1,
    "fastws.mailboxes": 0,
    "fastws.logs": 1,
    "fastws.market": 2,
    "fastws.market.sessions": 1,
    "fastws.market.calendars": 1,
    "fastws.market.korean_days": 1,
    "fastws._alerts": 2,
    "fastws._portfolios": 2,
    "fastws._relay": 2,
    "fastws._inlet": 2,
    "fastws._freshness": 2,
    "fastws._kis": 2,
    "fastws._simulator": 2,
    "fastws.feeds": 3,
    "fastws.dialects": 3,
    "fastws.relay": 3,
    "fastws.relay.address": 1,
    "fastws.kis": 3,
    "fastws.kis.testing": 4,
    "fastws.server": 4,
    "fastws.web": 4,
    "fastws.bench": 4,
    "fastws.top": 4,
    "fastws.client": 2,
    "fastws.cli": 5,
    "fastws.__main__": 6,
    "fastws": 6,
}
# Where an outside package may be imported.
HOMES = {
    "aiofastnet": {"fastws.connecting"},
    "exchange_calendars": {"fastws.market.calendars"},
    "isal": {"fastws.deflate"},
    "aiohttp": {
        "fastws.server",
        "fastws.web.routes",
        "fastws.kis.auth",
        "fastws.kis.testing",
        "fastws.feeds.kis.rest",
        "fastws.feeds.publisher",
    },
    "jwt": {"fastws.auth"},
    "cryptography": {"fastws.auth", "fastws.server.tls", "fastws.kis.ciphers", "fastws.kis.testing"},
    "pandas": {"fastws.client.frames", "fastws.kis.dataframes"},
    "python_socks": {"fastws.connecting"},
    "redis": {
        "fastws.relay.redis_access",
        "fastws.relay.redis_links",
        "fastws.relay.redis_listening",
        "fastws.relay.redis_sending",
    },
    "yaml": {"fastws.kis.credentials"},
    "yfinance": {"fastws.feeds.sources.yahoo"},
    "sqlalchemy": {
        "fastws.market.store",
        "fastws.market.schema",
        "fastws.market.alert_store",
        "fastws.market.value_store",
        "fastws.market.peek",
        "fastws.market.bulk",
        "fastws.market.daily_prices",
        "fastws.market.import_kinds",
        "fastws.market.importer",
        "fastws.market.instrument_store",
        "fastws.market.portfolio_queries",
        "fastws.market.portfolio_store",
        "fastws.market.sqlite",
        "fastws.market.triggers",
    },
    "structlog": {
        "fastws.dialects",
        "fastws.logs",
        "fastws.auth",
        "fastws.market.alerts",
        "fastws.market.portfolio_store",
        "fastws.market.portfolio_reader",
        "fastws.market.portfolios",
        "fastws.feeds",
        "fastws.kis",
        "fastws.relay",
        "fastws.server",
        "fastws.cli",
    },
    "uvloop": {"fastws.server.lifecycle", "fastws.cli", "fastws.kis.testing"},
    "prometheus_client": {"fastws.server.metric_families", "fastws.server.metrics", "fastws.top.exposition"},
    "rich": {"fastws.top.screen", "fastws.cli.top"},
    "orjson": {"fastws.server.http", "fastws.feeds"},
}
# Bytes or values in, values out: no event loop in these.
SANS_IO = {
    "fastws.opening",
    "fastws.upgrading",
    "fastws._relay",
    "fastws.relay.address",
    "fastws.relay.awake_clock",
    "fastws.relay.carrier",
    "fastws.relay.channels",
    "fastws.relay.control",
    "fastws.relay.counts",
    "fastws.relay.delays",
    "fastws.relay.expiring",
    "fastws.relay.exchange",
    "fastws.relay.exchange_frames",
    "fastws.relay.interest",
    "fastws.relay.late_answers",
    "fastws.relay.moved_sessions",
    "fastws.relay.numbering",
    "fastws.relay.outbox",
    "fastws.relay.peer_sessions",
    "fastws.relay.peers",
    "fastws.relay.posts",
    "fastws.relay.tables",
    "fastws.relay.ring",
    "fastws.relay.session_messages",
    "fastws.relay.streams",
    "fastws.relay.waiting_claims",
    "fastws._alerts",
    "fastws._portfolios",
    "fastws._frames",
    "fastws._kis",
    "fastws.feeds.breaker",
    "fastws.feeds.turns",
    "fastws.feeds.waiting",
    "fastws.feeds.sources",
    "fastws.feeds.sources.base",
    "fastws.feeds.sources.checks",
    "fastws.feeds.kis.allocation",
    "fastws.feeds.kis.figures",
    "fastws.feeds.kis.keys",
    "fastws.feeds.kis.options",
    "fastws.feeds.kis.outages",
    "fastws.feeds.kis.phase_reader",
    "fastws.feeds.kis.phases",
    "fastws.feeds.kis.polling",
    "fastws.feeds.kis.published",
    "fastws.feeds.kis.publisher",
    "fastws.feeds.kis.quotations",
    "fastws.feeds.kis.renewals",
    "fastws.feeds.kis.silence",
    "fastws.feeds.kis.symbols",
    "fastws.kis.ciphers",
    "fastws.kis.control",
    "fastws.kis.credentials",
    "fastws.kis.dataframes",
    "fastws.kis.errors",
    "fastws.kis.events",
    "fastws.kis.registration",
    "fastws.kis.registrations",
    "fastws.kis.retry",
    "fastws.kis.slots",
    "fastws.kis.volume",
    "fastws.kis.wishes",
    "fastws.kis.testing.actions",
    "fastws.kis.testing.credentials",
    "fastws.kis.testing.faults",
    "fastws.kis.testing.journal",
    "fastws.kis.testing.market",
    "fastws.kis.testing.notices",
    "fastws.kis.testing.records",
    "fastws.kis.testing.replies",
    "fastws.kis.testing.script",
    "fastws.kis.testing.settings",
    "fastws._market",
    "fastws._rings",
    "fastws.limits",
    "fastws.messages",
    "fastws.messages.client",
    "fastws.messages.examples",
    "fastws.messages.fields",
    "fastws.messages.published",
    "fastws.messages.realtime",
    "fastws.messages.server",
    "fastws.errors",
    "fastws.wording",
    "fastws.settings",
    "fastws.settings_catalog",
    "fastws.settings_checks",
    "fastws.bench.compare",
    "fastws.client.ages",
    "fastws.client.arrays",
    "fastws.client.backoff",
    "fastws.client.errors",
    "fastws.client.frames",
    "fastws.client.held",
    "fastws.client.messages",
    "fastws.client.numbers",
    "fastws.client.realtime_messages",
    "fastws.client.realtime_session",
    "fastws.client.session",
    "fastws.client.tokens",
    "fastws.client.wire",
    "fastws.bench.plot",
    "fastws.bench.subscriptions",
    "fastws.auth.authenticator",
    "fastws.auth.identity",
    "fastws.auth.keys",
    "fastws.auth.revocations",
    "fastws.auth.tokens",
    "fastws.dialects.admission",
    "fastws.dialects.answers",
    "fastws.dialects.clients",
    "fastws.dialects.conversation",
    "fastws.dialects.credentials",
    "fastws.dialects.holdings",
    "fastws.dialects.mail",
    "fastws.dialects.permits",
    "fastws.dialects.presence",
    "fastws.dialects.realtime",
    "fastws.dialects.restoration",
    "fastws.dialects.screener",
    "fastws.dialects.subscriptions",
    "fastws.dialects.takeover",
    "fastws.dialects.targets",
    "fastws.mailboxes",
    "fastws.sessions",
    "fastws.server.arrivals",
    "fastws.server.asyncapi",
    "fastws.server.handshake",
    "fastws.server.peers",
    "fastws.server.waiting",
    "fastws.top.exposition",
    "fastws.top.figures",
    "fastws.top.history",
    "fastws.top.plain",
    "fastws.top.readings",
    "fastws.top.units",
    "fastws.web.assets",
    "fastws.market.market",
    "fastws.market.alert_messages",
    "fastws._freshness",
    "fastws.market.calendars",
    "fastws.market.csv_tables",
    "fastws.market.currencies",
    "fastws.market.freshness",
    "fastws.market.import_kinds",
    "fastws.market.instruments",
    "fastws.market.korean_days",
    "fastws.market.sessions",
    "fastws.market.portfolio_rows",
    "fastws.market.quantities",
    "fastws.market.interest",
}
_CIMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", re.MULTILINE)


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(ROOT.rglob("*")):
        if path.suffix in {".py", ".pyx"}:
            name = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    if path.suffix == ".pyx":
        texts = [path.read_text()]
        texts += [part.read_text() for part in sorted((path.parent / f"{path.stem}_impl").glob("*.pxi"))]
        for match in _CIMPORT.finditer("\n".join(texts)):
            yield match.group(1) or match.group(2)
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rank(name: str) -> int:
    while name not in RANKS:
        assert "." in name, f"{name} has no place in the layers"
        name = name.rpartition(".")[0]
    return RANKS[name]


def lies_in(name: str, places: set[str]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in places)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_inwards(name: str) -> None:
    for other in imported(modules()[name]):
        if other == "fastws._version" or not other.startswith("fastws."):
            continue
        assert rank(other) <= rank(name), f"{name} must not import {other}"


@pytest.mark.parametrize("name", sorted(modules()))
def test_outside_packages_stay_in_their_place(name: str) -> None:
    for other in imported(modules()[name]):
        package = other.partition(".")[0]
        assert package not in HOMES or lies_in(name, HOMES[package]), f"{name} must not import {package}"
        assert package != "asyncio" or name not in SANS_IO, f"{name} is sans-IO and must not import asyncio"


def test_the_core_knows_no_field_of_a_market_message() -> None:
    """Only the envelopes `batch` and `overflow` are the core's own."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "_core_impl").glob("*.pxi")))
    for field in ("price", "change_percent", "volume", "bids", "quantity"):
        assert f'"{field}"' not in text
