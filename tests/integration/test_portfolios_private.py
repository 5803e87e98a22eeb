"""Portfolios that others watch: a stranger sees the same of a server whether there are any or not."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from fastws.auth.tokens import sign
from fastws.market.importer import read_table, write_table
from fastws.market.store import Store
from tests.clients import Message, client
from tests.conftest import StartServer
from tests.serving import Server

SECRET = "a secret of at least thirty-two bytes"
ADMIN = "the administrator"
NAME = "Growth Portfolio"
PRICES = [*range(27010, 27022)]

# Totals over all connections, whatever it is that they hold and get: what section 8 of the contract demands...
DEMANDED = {"messages_sent", "total_subscriptions", "subscriptions_by_type", "portfolio_subscriptions"}
# ...what is the same in other words, and how much the server has to do.
WORK = {
    "messages_received",
    "bytes_received",
    "bytes_sent",
    "updates",
    "flushes",
    "flush_seconds",
    "loop_lag_ms",
    "effective_interval_ms",
    "uptime_seconds",
    "last_update_age_ms",
    "symbols_judged",
    "symbols_stale",
}
WORK_METRICS = re.compile(
    r"(process|python)_|fastws_(messages_(sent|received)|deliveries|(sent|received)_bytes|flush_|stage_seconds|"
    r"(de)?compression|loop_lag|http_connections|start_time|uptime|last_update_age|"
    r"judged_symbols|stale_symbols|exchange_lag)|"
    r"fastws_subscriptions\{kind=\"portfolio\"\}"
)


class View(NamedTuple):
    """What somebody without a right to a portfolio has seen."""

    messages: list[Message]
    answers: list[Any]
    stats: dict[str, Any]
    status: dict[str, Any]
    metrics: dict[str, str]
    log: list[str]


def token(user: str) -> str:
    return sign({"sub": user}, SECRET.encode(), "HS256")


async def fill(directory: Path) -> str:
    (directory / "portfolios.csv").write_text(f"id,owner,name,currency\n1,kim,{NAME},USD\n2,kim,{NAME},USD\n")
    (directory / "positions.csv").write_text("portfolio_id,symbol,quantity\n1,AAPL,12.5\n2,AAPL,1000\n")
    url = f"sqlite:///{directory}/fastws.db"
    store = Store(url)
    await store.open()
    for kind in ("portfolios", "positions"):
        await write_table(store, read_table(kind, str(directory / f"{kind}.csv")))
    await store.close()
    return url


async def ask(server: Server, path: str, *rest: Any) -> Any:
    status, body = await asyncio.to_thread(server.get, path, *rest)
    assert status in (200, 202), (path, status, body)
    return body.decode() if path == "/metrics" else json.loads(body)


def figures(text: str) -> dict[str, str]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: value for name, _, value in lines if not WORK_METRICS.match(name)}


def without(message: Message) -> Message:
    """A message without what is another one each time."""
    varying = ("timestamp", "connection_id", "session_id", "epoch", "expires_at")
    kept = {name: value for name, value in message.items() if name not in varying}
    return kept | {"messages": [without(item) for item in kept["messages"]]} if "messages" in kept else kept


def events(log: str) -> list[str]:
    """The lines of a log, without what differs from run to run, in no order."""
    return sorted(
        re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|/\S+/test_\S*|[\d.]+", "#", line) for line in log.splitlines()
    )


async def view(server: Server, *, is_watched: bool) -> View:
    """Prices one after the other, a client that hears of them, and a stranger."""
    messages: list[Message] = []
    answers: list[Any] = []
    bearer = {"Authorization": f"Bearer {ADMIN}"}
    realtime = server.url_of("/ws/realtime/")
    async with (
        client(f"{server.url}?token={token('kim')}") as owner,
        client(f"{realtime}?token={token('kim')}") as other,
    ):
        await owner.subscribe(
            "stock", "AAPL", "MSFT"
        )  # not what the stranger holds: that they share a cohort would show
        await owner.until_snapshot()
        await other.send(type="subscribe_asset", data={"symbol": "AAPL"})
        await other.until_type("subscribed")
        if is_watched:
            await owner.subscribe("portfolio", "1")
            await owner.until_snapshot()
            await other.send(type="subscribe_portfolio", data={"portfolio_id": 2})
            await other.until(lambda message: message.get("data", {}).get("portfolio_id") == 2)
        async with client(f"{server.url}?token={token('lee')}") as stranger:
            messages.append(stranger.greeting)
            stranger.on_message = messages.append
            await stranger.subscribe("portfolio", "1", "2")
            await stranger.until_type("error")
            await stranger.subscribe("stock", "AAPL")
            await stranger.until_snapshot()
            session = stranger.greeting
            for price in PRICES[:-2]:
                body = b'{"type":"price_update","code":"AAPL","price":%d}' % price
                answers.append(await ask(server, "/v1/publish", "POST", body, bearer))
                for joined in (owner, other):
                    kind = (
                        "portfolio_update"
                        if is_watched
                        else "price_update"
                        if joined is owner
                        else "asset_update"
                    )
                    await joined.until_type(kind)
            await stranger.until(lambda message: message.get("price") == PRICES[-3])
            await stranger.sync()
        for price in PRICES[-2:]:
            body = b'{"type":"price_update","code":"AAPL","price":%d}' % price
            answers.append(await ask(server, "/v1/publish", "POST", body, bearer))
            await owner.until_type("portfolio_update" if is_watched else "price_update")
        last = max(message.get("sequence", 0) for message in messages)
        query = f"token={token('lee')}&session_id={session['connection_id']}&last_sequence={last}"
        async with client(f"{server.url}?{query}") as stranger:
            stranger.on_message = messages.append
            await stranger.until(lambda message: message.get("price") == PRICES[-1])
            await stranger.sync()
            stats, status, metrics = [
                await ask(server, path) for path in ("/v1/ws/stats", "/realtime/status/", "/metrics")
            ]
            whole = await ask(server, "/metrics", "GET", None, bearer)
            # What the administrator sees, and only he.
            n = float(figures(whole).get('fastws_updates_published_total{channel="portfolio"}', 0))
            assert (n >= 2 * len(PRICES) - 3) == is_watched
            assert ("fastws_portfolios_watched 2.0" in whole) == is_watched
    del stats["epoch"]
    del status["global_stats"]["portfolio_subscriptions"]
    return View(
        [without(message) for message in messages],
        answers,
        {name: value for name, value in stats.items() if name not in DEMANDED | WORK},
        status,
        figures(metrics),
        events(server.log),
    )


async def test_a_stranger_sees_the_same(server: StartServer, tmp_path: Path) -> None:
    seen = []
    for is_watched in (True, False):
        directory = tmp_path / str(is_watched)
        directory.mkdir()
        target = server(
            "--feed",
            "none",
            database=await fill(directory),
            jwt_secret=SECRET,
            admin_token=ADMIN,
            # Each update by itself, and each value as soon as its price has come.
            batch_interval_ms=0,
            portfolio_interval_ms=0,
        )
        seen.append(await view(target, is_watched=is_watched))
        target.end()
    watched, alone = seen
    numbers = [message["sequence"] for message in watched.messages if "price" in message]
    assert len(numbers) == len(set(numbers)) == len(PRICES)
    assert numbers == [*range(numbers[0], numbers[0] + len(numbers))], "no hole"
    assert watched.messages == alone.messages
    assert watched.answers == alone.answers
    assert watched.stats == alone.stats
    assert watched.status == alone.status
    assert watched.metrics == alone.metrics
    assert not any("portfolio" in name for name in watched.metrics)
    assert watched.log == alone.log
    everything = json.dumps(watched, default=str)
    assert NAME not in everything
    refused = [message for message in watched.messages if message["type"] == "error"]
    assert [(message["code"], message["details"]) for message in refused] == [
        ("FORBIDDEN", {"rejected": [{"target": number, "reason": "forbidden"} for number in "12"]})
    ]
