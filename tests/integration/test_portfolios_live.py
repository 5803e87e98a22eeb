"""A server with portfolios in its database: values to the cent, over both dialects, while positions change."""

from __future__ import annotations

import asyncio
import decimal
import json
import sqlite3
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from fastws.auth.tokens import sign
from fastws.market.importer import read_table, write_table
from fastws.market.store import Store
from tests import serving
from tests.clients import Client, Message, client, parse

SECRET = "a secret of at least thirty-two bytes"
ADMIN = "the administrator"
EXACT = decimal.Context(prec=100, rounding=ROUND_HALF_UP)
HELD = {"AAPL": Decimal("12.345678"), "MSFT": Decimal(-7), "NVDA": Decimal("1000.5")}
NAME = "Growth Portfolio"
LATER = {"AAPL": Decimal("99.00000001"), "NVDA": Decimal(3)}


def token(user: str) -> str:
    return sign({"sub": user}, SECRET.encode(), "HS256")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("portfolios")


async def fill(url: str, directory: Path) -> None:
    """As `fastws import` does."""
    store = Store(url)
    await store.open()
    for kind in ("portfolios", "positions"):
        await write_table(store, read_table(kind, str(directory / f"{kind}.csv")))
    await store.close()


@pytest.fixture(scope="module")
def server(directory: Path) -> Iterator[serving.Server]:
    """One for all tests, each with a portfolio of its own."""
    rows = "".join(f"{number},kim,{NAME},USD\n" for number in (1, 2, 3))
    (directory / "portfolios.csv").write_text("id,owner,name,currency\n" + rows)
    rows = "".join(f"{number},{code},{held}\n" for number in (1, 2, 3) for code, held in HELD.items())
    (directory / "positions.csv").write_text("portfolio_id,symbol,quantity\n" + rows)
    url = f"sqlite:///{directory}/fastws.db"
    asyncio.run(fill(url, directory))
    server = serving.Server(
        directory,
        "--feed",
        "sim",
        database=url,
        jwt_secret=SECRET,
        admin_token=ADMIN,
        simulator_rate=500,
        simulator_book_share=0,
        portfolio_interval_ms=20,
        portfolio_poll_interval=0,
    )
    yield server
    server.end()
    # Neither what it holds nor what it is worth is anybody's business.
    assert NAME not in server.log


class Ledger:
    """The last prices that one client has had, and what a portfolio is worth by them: counted in `decimal`."""

    def __init__(self) -> None:
        self.prices: dict[str, Message] = {}
        self.held = [HELD, LATER]
        self.n_checked = 0
        self.totals: set[Decimal] = set()

    def take(self, message: Message) -> None:
        """Take over prices, and hold values against those before them."""
        for item in message.get("messages", (message,)):
            if item["type"] == "price_update":
                self.prices[item["code"]] = item
            elif item["type"] == "portfolio_update" and self.prices.keys() >= HELD.keys():
                self.check(item)

    def check(self, value: Message) -> None:
        assert "unpriced" not in value
        while self.worth(self.held[0]).items() - value.items():
            # From one moment on it is what it was changed to.
            del self.held[0]
            assert self.held, f"{value} is none of {self.worth(HELD)} and {self.worth(LATER)}"
        self.n_checked += 1
        self.totals.add(value["total_value"])

    def worth(self, held: dict[str, Decimal]) -> dict[str, Any]:
        total = base = Decimal(0)
        for code, quantity in held.items():
            price, change = (Decimal(self.prices[code][name]) for name in ("price", "change"))
            total = EXACT.add(total, EXACT.multiply(quantity, price))
            base = EXACT.add(base, EXACT.multiply(quantity, EXACT.subtract(price, change)))
        change = EXACT.subtract(total, base)
        percent = EXACT.divide(EXACT.multiply(change, Decimal(100)), abs(base))
        cents = {"total_value": total, "daily_change": change, "daily_change_percent": percent}
        return {name: number.quantize(Decimal("0.01"), context=EXACT) for name, number in cents.items()}


async def watch(joined: Client, number: int) -> Ledger:
    """Let a client follow a portfolio and what it holds."""
    ledger = Ledger()
    joined.on_message = ledger.take
    await joined.subscribe("stock", *HELD)
    await joined.until_snapshot()
    await joined.until(lambda _: ledger.prices.keys() >= HELD.keys())
    await joined.subscribe("portfolio", str(number))
    return ledger


def reload(server: serving.Server, number: int) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{server.http_url}/v1/portfolios/reload",
        data=b'{"ids":[%d]}' % number,
        headers={"Authorization": f"Bearer {ADMIN}"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=10, context=server.tls) as response:
        found: dict[str, Any] = json.load(response)
    return found


def write(directory: Path, *statements: str) -> None:
    """As another program writes to the database."""
    with closing(sqlite3.connect(directory / "fastws.db", timeout=10)) as database, database:
        for statement in statements:
            database.execute(statement)


async def test_a_portfolio_follows_its_prices_to_the_cent(server: serving.Server, directory: Path) -> None:
    async with client(f"{server.url}?token={token('kim')}") as joined:
        ledger = await watch(joined, 1)
        await joined.until(lambda _: ledger.n_checked >= 60)
        assert len(ledger.totals) > 20
        held = ", ".join(f"(1, '{code}', '{quantity}')" for code, quantity in LATER.items())
        write(
            directory,
            "DELETE FROM positions WHERE portfolio_id = 1",
            f"INSERT INTO positions (portfolio_id, symbol, quantity) VALUES {held}",
        )
        done = await asyncio.to_thread(reload, server, 1)
        assert (done["portfolios"], done["positions"], done["owners_changed"]) == (3, 8, 0)
        await joined.until(lambda _: ledger.held == [LATER])
        n = ledger.n_checked
        await joined.until(lambda _: ledger.n_checked > n + 30)


async def test_another_owner(server: serving.Server, directory: Path) -> None:
    """Who it was taken from is told, and hears nothing of it any more; who has it now gets it."""
    async with (
        client(f"{server.url}?token={token('kim')}") as old,
        client(f"{server.url}?token={token('lee')}") as new,
    ):
        await watch(old, 2)
        await old.until(lambda message: "portfolio_update" in str(message))
        write(directory, "UPDATE portfolios SET owner = 'lee' WHERE id = 2")
        assert (await asyncio.to_thread(reload, server, 2))["owners_changed"] == 1
        error = await old.until_type("error")
        assert error["code"] == "FORBIDDEN"
        heard: list[str] = []
        old.on_message = lambda message: heard.append(str(message))
        await new.subscribe("portfolio", "2")
        await new.until(lambda message: "portfolio_update" in str(message))
        for _ in range(20):
            await old.receive()
        assert heard
        assert not any("portfolio_update" in text for text in heard)


async def test_the_realtime_dialect_shows_the_same(server: serving.Server) -> None:
    url = server.url.replace("/v1/ws", "/ws/realtime/")
    async with (
        client(f"{server.url}?token={token('kim')}") as screener,
        client(f"{url}?token={token('kim')}") as other,
    ):
        seen: dict[int, Message] = {}

        def note(message: Message) -> None:
            for item in message.get("messages", (message,)):
                if item["type"] == "portfolio_update":
                    seen[len(seen)] = item

        screener.on_message = note
        await screener.subscribe("portfolio", "3")
        await screener.until_snapshot()
        await other.send(type="subscribe_portfolio", data={"portfolio_id": 3})
        shown: list[Message] = []

        def n_shown_by_both() -> int:
            members = shown[-1].keys()
            values = [
                {name: item[name] for name in members} for item in seen.values() if members <= item.keys()
            ]
            return sum(data in values for data in shown)

        # Each is flushed at its own moments, so one may get a value that for the other was replaced before it left.
        async with asyncio.timeout(30):
            while len(shown) < 20 or n_shown_by_both() < 15:
                message = parse(await other.receive_text())
                if message["type"] == "portfolio_update":
                    assert set(message) >= {"type", "data", "timestamp"}
                    shown.append(message["data"])
                    await screener.until(lambda _: len(seen) > len(shown) + 10)
