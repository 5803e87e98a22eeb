"""POST /api/realtime/force_price_update/: who may, how often, and what is answered; with a real poll feed behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from api_site import View, bearer, token
from listening import Client, listening

from fastws._market import Instrument
from fastws.feeds.base import FeedSupervisor
from fastws.feeds.poll import NO_SOURCE, PollFeed
from fastws.feeds.sources import open_source
from fastws.server.force_update import MAX_SYMBOLS, Cooldowns, add_force_routes
from fastws.server.http import bare_app
from fastws.settings import Settings

PATH = "/api/realtime/force_price_update/"


class ForceServer(View):
    """A server as the route sees it; `feed` is None where it has no source."""

    def __init__(self, feed: PollFeed | None) -> None:
        super().__init__()
        self.feed = feed
        self.force_update_interval = 0.0

    async def force_update(self, codes: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        if self.feed is None:
            return [], dict.fromkeys(codes, NO_SOURCE)
        return await self.feed.force(codes)


class Site:
    def __init__(self, server: ForceServer, client: Client) -> None:
        self.server = server
        self.client = client
        self.now = 0.0

    async def ask(self, body: object, status: int = 202, path: str = PATH, **claims: object) -> Any:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"Host": "localhost", "Content-Length": str(len(data)), **bearer(token(**claims))}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.client.send(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
        response = await self.client.response()
        assert response.status == status, response.body
        self.headers = response.headers
        answer = json.loads(response.body)
        return answer if status == 202 else answer["error"]


@contextlib.asynccontextmanager
async def site(file: Path | None = None) -> AsyncIterator[Site]:
    feed = None
    if file is not None:
        feed = PollFeed(
            open_source(f"csv:{file}", Settings()),
            interval=3600.0,
            batch_size=50,
            fresh=300.0,
            interest=dict,
        )
    server = ForceServer(feed)
    await server.store.open()
    server.market.instruments.extend([Instrument("AAPL", currency="USD"), Instrument("MSFT", currency="USD")])
    supervisor = None if feed is None else FeedSupervisor(feed, server.market)
    made: list[Site] = []
    app = bare_app()
    add_force_routes(app, server, clock=lambda: made[0].now)
    try:
        async with listening(app) as harness:
            if supervisor is not None:
                supervisor.start()
                await asyncio.sleep(0)
            made.append(Site(server, await harness.connect()))
            yield made[0]
    finally:
        if supervisor is not None:
            await supervisor.stop()
        await server.alerts.stop()
        await server.store.close()
        server.hub.stop()


async def test_prices_are_polled_and_published_now(tmp_path: Path) -> None:
    file = tmp_path / "prices.csv"
    file.write_text("symbol,price\nAAPL,150.25\nMSFT,0\n")
    async with site(file) as ours:
        answer = await ours.ask({"symbols": ["AAPL", "MSFT", "GOOGL", "005930", "AAPL"]})
        assert answer == {
            "updated": ["AAPL"],
            "failed": [
                {"symbol": "MSFT", "reason": "not positive: price: 0"},
                {"symbol": "GOOGL", "reason": "unknown symbol"},
                {"symbol": "005930", "reason": "missing: not in the answer"},
            ],
        }
        body = ours.server.market.stock_body("AAPL")
        assert body is not None
        assert b'"price":150.25' in body
        assert ours.server.market.stock_body("MSFT") is None
        assert await ours.ask({"symbols": ["AAPL"]}, path=PATH.rstrip("/")) == {
            "updated": ["AAPL"],
            "failed": [],
        }
        file.write_text("no prices\n")
        answer = await ours.ask({"symbols": ["MSFT"]})
        # Where the prices come from is no business of a user.
        assert answer["failed"] == [{"symbol": "MSFT", "reason": "source away"}]
        file.write_text("symbol,price,time\nMSFT,1,yesterday\n")
        answer = await ours.ask({"symbols": ["MSFT"]})
        assert answer["failed"] == [{"symbol": "MSFT", "reason": "malformed"}]


async def test_without_a_source_nothing_is() -> None:
    async with site() as ours:
        answer = await ours.ask({"symbols": ["AAPL", "GOOGL", "MSFT"]})
        assert answer == {
            "updated": [],
            "failed": [{"symbol": code, "reason": "no source"} for code in ("AAPL", "GOOGL", "MSFT")],
        }


async def test_only_users_may_and_only_what_their_tokens_allow() -> None:
    async with site() as ours:
        ours.client.send(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        response = await ours.client.response()
        assert response.status == 401
        assert "www-authenticate" in response.headers
        answer = await ours.ask({"symbols": ["AAPL", "MSFT"]}, topics=["stock:MSFT"])
        assert answer["failed"] == [
            {"symbol": "AAPL", "reason": "the token does not allow it"},
            {"symbol": "MSFT", "reason": "no source"},
        ]


async def test_a_user_may_now_and_then() -> None:
    async with site() as ours:
        ours.server.force_update_interval = 10.0
        await ours.ask({"symbols": ["AAPL"]})
        error = await ours.ask({"symbols": ["AAPL"]}, 429)
        assert (error["code"], error["details"]) == ("RATE_LIMIT_EXCEEDED", {"retry_after": 10})
        assert ours.headers["retry-after"] == "10"
        await ours.ask({"symbols": ["AAPL"]}, sub="another user")
        ours.now = 9.5
        assert (await ours.ask({"symbols": ["AAPL"]}, 429))["details"] == {"retry_after": 1}
        ours.now = 10.0
        await ours.ask({"symbols": ["AAPL"]})


async def test_malformed_requests_are_named_and_cost_nothing() -> None:
    async with site() as ours:
        ours.server.force_update_interval = 10.0
        bad: list[tuple[object, int, str]] = [
            (b"", 400, "symbols"),
            (b"{", 400, "symbols"),
            (b"\xff", 400, "symbols"),
            ([], 400, "symbols"),
            ({}, 400, "symbols: is missing"),
            ({"symbols": "AAPL"}, 400, "symbols: expected a list"),
            ({"symbols": []}, 400, "symbols: name at least one"),
            ({"symbols": ["AAPL", 5]}, 400, "symbols[1]: expected a text"),
            ({"symbols": [""]}, 400, "symbols[0]"),
            ({"symbols": ["x" * 65]}, 400, "symbols[0]"),
            ({"symbols": [f"S{n}" for n in range(MAX_SYMBOLS + 1)]}, 413, "100 symbols, this one names 101"),
        ]
        for body, status, text in bad:
            assert text in (await ours.ask(body, status))["message"]
        await ours.ask({"symbols": ["AAPL"]})


def test_cooldowns_are_bounded() -> None:
    cooldowns = Cooldowns(max_users=3)
    assert [cooldowns.take(user, 10.0, 0.0) for user in "aabc"] == [0.0, 10.0, 0.0, 0.0]
    assert cooldowns.take("d", 10.0, 1.0) == 0.0  # and who has waited longest is forgotten
    assert cooldowns.take("a", 10.0, 1.0) == 0.0
    assert cooldowns.take("c", 10.0, 4.0) == 6.0
    assert cooldowns.take("c", 10.0, 10.0) == 0.0
    assert cooldowns.take("c", 0.0, 10.0) == 0.0
