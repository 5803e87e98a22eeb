"""The Python client of the realtime dialect, on a server in the process of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest
from realtime_site import Site, serving, token

from benchmarks.scenarios.faultproxy import FaultProxy
from fastws.client import Backoff, Error, Interrupted, RequestError, Restored, UsageError, Withdrawn
from fastws.client.realtime import AssetUpdate, Message, PortfolioUpdate, RealtimeClient

SOON = Backoff(0.01, 0.05)
T = TypeVar("T")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with serving(tmp_path, batch_interval_ms=5, portfolio_interval_ms=5) as found:
        await found.import_portfolios("123,alice,Growth,USD", "124,bob,Value,USD")
        await found.import_positions("123,AAPL,10", "123,MSFT,2", "124,AAPL,1")
        yield found


def connect(site: Site, port: int | None = None, **options: Any) -> RealtimeClient:
    return RealtimeClient(f"ws://127.0.0.1:{port or site.port}", **{"backoff": SOON, **options})


async def until(client: RealtimeClient, kind: type[T], **members: object) -> tuple[T, list[Message]]:
    """The next message of a type that has `members`, and those before it."""
    before: list[Message] = []
    async with asyncio.timeout(30):
        async for message in client:
            if isinstance(message, kind) and all(
                getattr(message, name) == value for name, value in members.items()
            ):
                return message, before
            before.append(message)
    raise AssertionError("the client has ended")


async def test_values_of_symbols_and_of_a_portfolio(site: Site) -> None:
    async with connect(site, token=token()) as client:
        assert client.user_id == "alice"
        accepted = await client.subscribe("asset", ["AAPL", "no such", "MSFT"])
        assert accepted.targets == ["AAPL", "MSFT"]
        assert [(item.target, item.reason) for item in accepted.rejected] == [("no such", "unknown symbol")]
        assert (await client.subscribe("portfolio", [123])).targets == [123]
        site.publish("AAPL", Decimal("150.25"), change=Decimal("2.5"))
        site.publish("MSFT", 400)
        asset, _ = await until(client, AssetUpdate, symbol="AAPL")
        assert (asset.price, asset.change, asset.high) == (
            Decimal("150.25"),
            Decimal("2.5"),
            Decimal("150.25"),
        )
        assert (asset.volume, asset.stale, asset.timestamp.tzinfo) == (None, False, UTC)
        value, _ = await until(client, PortfolioUpdate, total_value=Decimal("2302.5"))
        assert (value.portfolio_id, value.name, value.unpriced) == (123, "Growth", [])
        assert client.subscriptions == {"asset": ["AAPL", "MSFT"], "portfolio": [123]}
        with pytest.raises(RequestError) as caught:
            await client.subscribe("portfolio", [124])
        assert caught.value.code == "FORBIDDEN"
        await client.unsubscribe("asset", ["AAPL", "MSFT"])
        await client.unsubscribe("portfolio", [123])
        assert client.subscriptions == {}
        assert 0 < await client.ping() < 5
        await client.replace_token(token())
        with pytest.raises(RequestError, match="INVALID_TOKEN"):
            await client.replace_token("no token")
        assert client.statistics.unknown == 0


async def test_after_an_interruption_all_of_it_is_held_again(site: Site) -> None:
    async with FaultProxy.run(site.port) as proxy, connect(site, proxy.port, token=token()) as client:
        await client.subscribe("asset", ["AAPL", "MSFT"])
        await client.subscribe("portfolio", [123])
        site.publish("AAPL", 150)
        await until(client, AssetUpdate, price=150)
        site.publish("MSFT", 399)
        await until(client, AssetUpdate, price=399)
        proxy.is_open = False
        proxy.kill()
        await until(client, Interrupted)
        # Asked for while there is no connection, so that it is not asked for once more before.
        asking = asyncio.create_task(client.unsubscribe("asset", ["MSFT"]))
        site.publish("AAPL", 151)
        await site.import_portfolios("123,bob,Growth,USD")
        proxy.is_open = True
        restored, _ = await until(client, Restored)
        assert not restored.recovered
        withdrawn, before = await until(client, Withdrawn)
        assert withdrawn.subscription_type == "portfolio"
        assert [item.target for item in withdrawn.rejected] == ["123"]
        assert [message.price for message in before if isinstance(message, AssetUpdate)] == [151]
        await asking
        assert client.subscriptions == {"asset": ["AAPL"]}
        site.publish("MSFT", 400)
        site.publish("AAPL", 152)
        _, before = await until(client, AssetUpdate, price=152)
        assert before == []


async def test_requests_over_the_rate_limit_are_made_again(tmp_path: Path) -> None:
    async with serving(tmp_path, rate_limit=3) as site, connect(site) as client:
        symbols = ["AAPL", "MSFT", "NVDA", "JPM", "005930", "000660"]
        await asyncio.gather(*(client.subscribe("asset", [symbol]) for symbol in symbols))
        assert client.subscriptions == {"asset": symbols}
        error, _ = await until(client, Error)
        assert error.code == "RATE_LIMIT_EXCEEDED"


async def test_wrong_arguments_are_named() -> None:
    client = RealtimeClient("ws://localhost")
    for arguments, text in (
        (("stock", ["A"]), 'kind: expected "asset" or "portfolio"'),
        (("asset", "AAPL"), r"targets: expected a list; write \['AAPL'\]"),
        (("asset", []), "targets: it is empty"),
        (("asset", [5]), "targets: expected texts"),
        (("portfolio", ["123"]), "targets: expected ids"),
    ):
        with pytest.raises(UsageError, match=text):
            await client.subscribe(*arguments)  # type: ignore[arg-type]
