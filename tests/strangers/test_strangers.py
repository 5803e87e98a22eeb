"""Programs that users of the two protocols have had for years work as they are: in Node, in Chromium, and in React."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scenarios.faultproxy import FaultProxy
from fastws.auth.tokens import sign
from tests.browser.publishing import ADMIN, SECRET, book, price, publish
from tests.clients_js.node import end, require_package, start_node
from tests.conftest import StartServer
from tests.serving import Server, run
from tests.strangers.stage import DIRECTORY, WAIT_SECONDS, Stage, Stranger, in_chromium, in_node

pytestmark = pytest.mark.plain("the proxy would have to speak TLS")

STOCKS = ["005930", "000660"]
NAME = "Growth Portfolio"
# 10 AAPL and 2 MSFT.
POSITIONS = "portfolio_id,symbol,quantity\n123,AAPL,10\n123,MSFT,2\n124,AAPL,1\n"
PORTFOLIOS = f"id,owner,name,currency\n123,kim,{NAME},USD\n124,lee,{NAME},USD\n"
SETTINGS = {"admin_token": ADMIN, "jwt_secret": SECRET, "allowed_origins": "*"}
Start = Callable[[], Server]
StageIn = Callable[[Path], AbstractAsyncContextManager[Stage]]


def token(user: str | int) -> str:
    return sign({"sub": user}, SECRET.encode(), "HS256")


async def kill(server: Server) -> None:
    """As a machine that loses its power: nobody is told."""
    server.process.kill()
    await asyncio.to_thread(server.process.wait)


@pytest.fixture
def doomed(tmp_path: Path) -> Server:
    """A server that the test kills."""
    return Server(tmp_path, "--feed", "none", **SETTINGS)


@pytest.fixture
def start(server: StartServer, doomed: Server) -> Start:
    """Start another one in its place."""
    return lambda: server("--feed", "none", "--port", str(doomed.port), **SETTINGS)


def prices(stranger: Stranger, code: str = STOCKS[0]) -> list[int]:
    return [update["price"] for update in stranger.values("price_update") if update["code"] == code]


async def watch_stocks(stage: Stage, doomed: Server, start: Start) -> None:
    """Four programs, each of which comes back in its own way: from a cut, and from the end of the server."""
    proxy: FaultProxy
    async with FaultProxy.run(doomed.port) as proxy:
        url = f"ws://127.0.0.1:{proxy.port}/v1/ws"
        ways = {way: stage.make(way, "screener", url, comeBack=way) for way in ("query", "message", "again")}
        signed_in = stage.make("signed in", "screener", url, token("kim"))
        everyone = [*ways.values(), signed_in]
        for stranger in everyone:
            await stranger.until("open")
            stranger.call("subscribe", "stock", STOCKS)
            stranger.call("subscribe", "market", ["KOSPI"])
            await stranger.until("subscribed", subscription_type="market")
        assert [(await stranger.until("connection"))["authenticated"] for stranger in everyone] == [
            *[False] * 3,
            True,
        ]
        assert await ways["query"].read("url") == f"{url}?token=undefined"

        published = [73000, 73100, 73200]
        publish(doomed, *(price(STOCKS[0], value) for value in published), book(STOCKS[1], 250000))
        # What these programs have never heard of.
        publish(doomed, {"type": "market_status", "market": "KOSPI", "status": "open", "session": {"of": []}})
        for stranger in everyone:
            batch = await stranger.until("batch", batch_size=4)
            assert [message["type"] for message in batch["messages"]] == ["price_update"] * 3 + [
                "orderbook_update"
            ]
            await stranger.until("market_status", status="open")
            assert prices(stranger) == published
            assert (await stranger.read("books"))[STOCKS[1]]["bids"][0]["quantity"] == 1

        # The network is gone for a while.
        proxy.is_open = False
        counts = [len(stranger.events) for stranger in everyone]
        proxy.kill()
        for stranger, since in zip(everyone, counts, strict=True):
            while stranger.values("waiting", since)[:4] != [50, 100, 200, 400]:
                assert (
                    stranger.values("waiting", since)
                    == [50, 100, 200, 400][: len(stranger.values("waiting", since))]
                )
                n = len(stranger.events)
                await stage.until(lambda stranger=stranger, n=n: len(stranger.events) > n, "another attempt")
        missed = [73300, 73400]
        publish(doomed, *(price(STOCKS[0], value) for value in missed))
        proxy.is_open = True
        for stranger, since in zip(everyone, counts, strict=True):
            await stranger.until("price_update", since, price=73400)
            if stranger is not ways["again"]:
                restored = await stranger.until("reconnected", since)
                assert restored["restored_subscriptions"] == {"stock": STOCKS, "market": ["KOSPI"]}
                assert restored["missed_messages_count"] == 2
                # Then the last value again: they do not say what they have seen, and it may have been lost on its way.
                await stage.until(
                    lambda stranger=stranger: prices(stranger) == [*published, *missed, 73400], "all of it"
                )
        session = await ways["query"].read("sessionId")
        assert await ways["query"].read("url") == f"{url}?session_id={session}&token=undefined"
        assert f"&token={token('kim')}" in await signed_in.read("url")

        # The server believes that they are still there.
        counts = [len(stranger.events) for stranger in everyone]
        proxy.strand()
        publish(doomed, price(STOCKS[0], 73500))
        for stranger, since in zip(everyone, counts, strict=True):
            await stranger.until("price_update", since, price=73500)
            if stranger is not ways["again"]:
                await stranger.until("reconnected", since)

        await kill(doomed)
        counts = [len(stranger.events) for stranger in everyone]
        second = await asyncio.to_thread(start)
        for stranger, since in zip(everyone, counts, strict=True):
            if stranger is not ways["again"]:
                # Another server, which knows nothing of these sessions.
                await stranger.until("error", since, code="SESSION_RESTORATION_FAILED")
            await stranger.until("subscribed", since, subscription_type="market")
        publish(second, price(STOCKS[0], 74000))
        for stranger, since in zip(everyone, counts, strict=True):
            await stranger.until("price_update", since, price=74000)
            assert (await stranger.read("prices"))[STOCKS[0]] == 74000
            await stranger.until("pong", since)
        assert second.stats()["subscriptions_by_type"]["stock"] == 2 * len(everyone)
        for stranger in everyone:
            stranger.call("close")


@pytest.fixture(scope="module")
def portfolios(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two of them."""
    directory = tmp_path_factory.mktemp("portfolios")
    for kind, text in (("portfolios", PORTFOLIOS), ("positions", POSITIONS)):
        path = directory / f"{kind}.csv"
        path.write_text(text)
        done = run(directory, "import", kind, str(path), "--database", f"sqlite:///{directory}/fastws.db")
        assert done.returncode == 0, done.stdout + done.stderr
    return directory / "fastws.db"


@pytest.fixture
def house(portfolios: Path, tmp_path: Path) -> tuple[Server, Start]:
    """A server with portfolios that the test kills, and how to start it again."""
    shutil.copy(portfolios, tmp_path)
    settings = SETTINGS | {"database": f"sqlite:///{tmp_path}/fastws.db", "portfolio_interval_ms": 20}
    first = Server(tmp_path, "--feed", "none", **settings)
    return first, lambda: Server(tmp_path, "--feed", "none", "--port", str(first.port), **settings)


async def watch_holdings(stage: Stage, house: tuple[Server, Start]) -> None:
    """A user with a portfolio, and somebody who has not signed in."""
    first, begin = house
    url = first.url_of("/ws/realtime/")
    kim, nobody = stage.make("kim", "realtime", url, token("kim")), stage.make("nobody", "realtime", url)
    for stranger in (kim, nobody):
        await stage.until(lambda stranger=stranger: "open" in stranger.values("status"), "the connection")
        stranger.call("subscribeAsset", "AAPL")
        stranger.call("subscribeAsset", "MSFT")
    kim.call("subscribePortfolio", 123)
    nobody.call("subscribePortfolio", 123)
    await kim.until("portfolio", portfolio_id=123)
    assert (await nobody.until("error"))["code"] == "FORBIDDEN"
    publish(first, price("AAPL", 150.25, change=2.5, volume=50_000_000), price("MSFT", 400, change=-1))
    asset = await kim.until("asset", symbol="AAPL")
    assert asset == {"symbol": "AAPL", "price": 150.25, "change": 2.5, "volume": 50_000_000} | {
        "high": 150.25,
        "low": 150.25,
    }
    value = await kim.until("portfolio", total_value=2302.5)
    # Ten and two of them; a day ago they were worth 147.75 and 401.
    assert value == {
        "portfolio_id": 123,
        "name": NAME,
        "total_value": 2302.5,
        "daily_change": 23,
        "daily_change_percent": 1.01,
    }
    await nobody.until("asset", symbol="MSFT", price=400)
    kim.call("unsubscribeAsset", "MSFT")
    await stage.until(lambda: "unsubscribed" in [told["type"] for told in kim.values("other")], "the answer")
    kim.call("subscribePortfolio", 124)
    assert (await kim.until("error"))["code"] == "FORBIDDEN"
    await stage.until(lambda: "pong" in [told["type"] for told in kim.values("other")], "a pong")

    counts = [len(stranger.events) for stranger in (kim, nobody)]
    await kill(first)
    second = await asyncio.to_thread(begin)
    try:
        for stranger, since in zip((kim, nobody), counts, strict=True):
            await stage.until(
                lambda stranger=stranger, since=since: "open" in stranger.values("status", since), "it back"
            )
        await kim.until("portfolio", counts[0], portfolio_id=123)
        await nobody.until("error", counts[1])
        publish(second, price("MSFT", 401), price("AAPL", 151))
        for stranger, since in zip((kim, nobody), counts, strict=True):
            await stranger.until("asset", since, symbol="AAPL", price=151)
        await kim.until("portfolio", counts[0], total_value=2312)
        assert all(asset["symbol"] == "AAPL" for asset in kim.values("asset", counts[0]))
        for stranger in (kim, nobody):
            stranger.call("disconnect")
    finally:
        second.end()


@pytest.mark.parametrize("stage_in", [in_node, in_chromium])
async def test_watching_stocks(stage_in: StageIn, doomed: Server, start: Start, tmp_path: Path) -> None:
    try:
        async with stage_in(tmp_path) as stage:
            await watch_stocks(stage, doomed, start)
    finally:
        await kill(doomed)


@pytest.mark.parametrize("stage_in", [in_node, in_chromium])
async def test_watching_holdings(stage_in: StageIn, house: tuple[Server, Start], tmp_path: Path) -> None:
    try:
        async with stage_in(tmp_path) as stage:
            await watch_holdings(stage, house)
    finally:
        await kill(house[0])


async def test_a_hook_of_react(house: tuple[Server, Start], tmp_path: Path) -> None:
    for package in ("react", "react-test-renderer"):
        require_package(package)
    first, begin = house
    process = await start_node(
        tmp_path, str(DIRECTORY / "hook.js"), first.url_of("/ws/realtime/"), token("kim")
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def show(symbols: list[str], portfolio: int | None) -> None:
        stdin.write(json.dumps({"symbols": symbols, "portfolio": portfolio}).encode() + b"\n")

    async def until_shown(is_it: Callable[[Any], object]) -> Any:
        shown = None
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    shown = json.loads(await stdout.readline())
                    if is_it(shown):
                        return shown
        except TimeoutError:
            raise AssertionError(f"last shown: {shown}") from None

    second: Server | None = None
    try:
        publish(first, price("AAPL", 150.25), price("MSFT", 400))
        show(["AAPL"], None)
        shown = await until_shown(lambda shown: shown["connected"] and shown["prices"])
        assert (shown["prices"], shown["portfolio"]) == ({"AAPL": 150.25}, None)
        show(["AAPL", "MSFT"], 123)
        await until_shown(lambda shown: (shown["portfolio"] or {}).get("total_value") == 2302.5)
        publish(first, price("MSFT", 401))
        await until_shown(
            lambda shown: (
                shown["prices"] == {"AAPL": 150.25, "MSFT": 401}
                and shown["portfolio"]["total_value"] == 2304.5
            )
        )
        show(["MSFT"], 123)
        await kill(first)
        await until_shown(lambda shown: not shown["connected"])
        second = await asyncio.to_thread(begin)
        await until_shown(lambda shown: shown["connected"])
        publish(second, price("MSFT", 402), price("AAPL", 150))
        shown = await until_shown(lambda shown: (shown["portfolio"] or {}).get("total_value") == 2304)
        assert shown["error"] is None
        await end(process)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended, as it should
            process.kill()
        await process.wait()
        await kill(first)
        if second is not None:
            second.end()
