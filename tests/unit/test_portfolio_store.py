"""Portfolios read from the database: in memory, in a file and on a real PostgreSQL server."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from stored_portfolios import DAY, UNIT, execute, fill, holdings
from structlog.testing import capture_logs

from fastws import logs
from fastws.market import peek
from fastws.market.daily_prices import DailyPrice, DailyPrices
from fastws.market.instrument_store import read_instruments
from fastws.market.portfolio_merge import merge
from fastws.market.portfolio_queries import check_queries, make_queries
from fastws.market.portfolio_store import Changes, Close, Closes, PortfolioStore
from fastws.market.store import Store, StoreError, probe
from tests.postgres import PostgresServer


async def test_everything(store: Store) -> None:
    portfolios = PortfolioStore(store)
    nothing = await portfolios.load()
    assert (len(nothing.ids), len(nothing.quantities), nothing.closes, nothing.n_orphans) == (0, 0, {}, 0)
    await fill(store)
    loaded = await portfolios.load()
    assert loaded.ids.tolist() == [7, 50, 123]
    assert loaded.owners == ["김 철수", "kim", "kim"]
    assert loaded.names == ["성장", "Empty", "Growth Portfolio"]
    assert loaded.currencies == ["KRW", None, "USD"]
    assert holdings(loaded) == {
        7: {"005930": 10 * UNIT, "AAPL": -2 * UNIT},
        50: {},
        123: {"AAPL": 10_050_000_000, "MSFT": 1},
    }
    assert loaded.n_orphans == 1
    assert (np.diff(loaded.position_portfolios) >= 0).all()
    assert [array.dtype.name for array in (loaded.ids, loaded.position_portfolios, loaded.quantities)] == [
        "int64",
        "int32",
        "int64",
    ]


async def test_some_portfolios(store: Store) -> None:
    await fill(store)
    portfolios = PortfolioStore(store)
    some = await portfolios.load_portfolios([123, 50, 8, 2**70])
    assert holdings(some) == {50: {}, 123: {"AAPL": 10_050_000_000, "MSFT": 1}}
    assert sorted(some.symbols) == ["AAPL", "MSFT"]
    assert holdings(await portfolios.load_portfolios([7])) == {7: {"005930": 10 * UNIT, "AAPL": -2 * UNIT}}
    assert len((await portfolios.load_portfolios([8])).ids) == 0
    assert len((await portfolios.load_portfolios([])).ids) == 0
    assert len((await portfolios.load_portfolios(range(2000))).ids) == 3


async def test_many(store: Store) -> None:
    expected = {
        i: {f"S{(i * 7 + n) % 300}": (i + 1) * (n + 1) * 10**6 for n in range(20)} for i in range(120)
    }

    def job(connection: sa.Connection) -> None:
        for i, held in expected.items():
            connection.execute(
                sa.text("INSERT INTO portfolios VALUES (:id, 'kim', 'name', 'USD')"), {"id": i * 3}
            )
            rows = [
                {"id": i * 3, "symbol": symbol, "quantity": format(Decimal(quantity).scaleb(-8), "f")}
                for symbol, quantity in held.items()
            ]
            connection.execute(sa.text("INSERT INTO positions VALUES (:id, :symbol, :quantity, NULL)"), rows)

    await store.run(job)
    loaded = await PortfolioStore(store).load()
    assert holdings(loaded) == {i * 3: held for i, held in expected.items()}
    assert len(loaded.symbols) == 300


async def test_a_quantity_that_is_none_leaves_its_portfolio_out(store: Store) -> None:
    await fill(store)
    portfolios = PortfolioStore(store)
    whole = await portfolios.load()
    n_told = 0
    for quantity in ("ten", "1e3", "", "1.000000001", "92233720368.54775808"):
        await execute(
            store, f"UPDATE positions SET quantity = '{quantity}' WHERE portfolio_id = 7 AND symbol = 'AAPL'"
        )
        with capture_logs() as logs:
            loaded = await portfolios.load()
        assert holdings(loaded) == {50: {}, 123: {"AAPL": 10_050_000_000, "MSFT": 1}}
        assert (loaded.owners, loaded.names) == (["kim", "kim"], ["Empty", "Growth Portfolio"])
        assert loaded.left_out.keys() == {7}
        # Also where only its own rows are looked at, all of which may be of no use.
        part = await portfolios.load_portfolios([7])
        assert (holdings(part), part.left_out) == ({}, loaded.left_out)
        assert merge(whole, [7], part).left_out == loaded.left_out
        told = [(log["portfolios"], log["first"]) for log in logs if "left out: rows" in log["event"]]
        assert told in ([(1, 7)], [])  # not each time
        n_told += len(told)
        assert "AAPL" not in str(logs)
        assert "got" not in str(logs)
    assert n_told >= 1
    # Another one is told of at once.
    await execute(store, "UPDATE positions SET quantity = 'x' WHERE portfolio_id = 123 AND symbol = 'AAPL'")
    with capture_logs() as logs:
        await portfolios.load_portfolios([123])
        await portfolios.load_portfolios([123])
    assert [(log["portfolios"], log["first"]) for log in logs if "left out: rows" in log["event"]] == [
        (1, 123)
    ]
    await execute(
        store, "UPDATE positions SET quantity = '100.50' WHERE portfolio_id = 123 AND symbol = 'AAPL'"
    )
    loaded = merge(loaded, [123], await portfolios.load_portfolios([123]))
    await execute(store, "UPDATE positions SET quantity = '-2' WHERE portfolio_id = 7 AND symbol = 'AAPL'")
    mended = merge(loaded, [7], await portfolios.load_portfolios([7]))
    assert (holdings(mended), mended.left_out) == (holdings(whole), {})


async def test_closes_of_both_tables(store: Store) -> None:
    await fill(store)
    await execute(
        store,
        "INSERT INTO instruments (symbol, name, previous_close, currency) VALUES"
        " ('AAPL', 'Apple', '149.90', 'USD'), ('005930', 'Samsung', NULL, 'KRW'), ('NVDA', 'Nvidia', '9', 'USD')",
    )
    days = [DAY - timedelta(n) for n in range(4)]
    await DailyPrices(store).write(
        [DailyPrice("AAPL", day, None, None, None, Decimal(f"15{n}.50"), None) for n, day in enumerate(days)]
        + [DailyPrice("MSFT", days[2], None, None, None, 400, 7)]
    )
    portfolios = PortfolioStore(store)
    expected = {
        "AAPL": Closes(
            Decimal("149.90"), (Close(days[0], Decimal("150.50")), Close(days[1], Decimal("151.50"))), "USD"
        ),
        "005930": Closes(None, (), "KRW"),
        "MSFT": Closes(None, (Close(days[2], 400),), None),
    }
    loaded = await portfolios.load()
    assert loaded.closes == expected
    assert str(loaded.closes["AAPL"].previous) == "149.90"
    assert await portfolios.load_closes(["AAPL", "UNKNOWN"]) == {"AAPL": expected["AAPL"]}


async def test_closes_that_cannot_be_used_are_no_matter_of_the_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "limiter", logs.LogLimiter())
    await fill(store)
    await execute(
        store,
        "INSERT INTO instruments (symbol, name, previous_close) VALUES"
        " ('AAPL', 'Apple', 'much'), ('MSFT', 'Microsoft', '400'), ('005930', 'Samsung', '-1'), ('NVDA', 'Nvidia', '')",
        "INSERT INTO daily_prices (symbol, date, close) VALUES ('MSFT', '2025-11-11', '0x'), ('X', '2025-11-11', 'x')",
    )
    portfolios = PortfolioStore(store)
    with capture_logs() as logged:
        loaded = await portfolios.load()
    assert (len(loaded.ids), loaded.closes) == (3, {})
    assert loaded.closes_left_out == {
        "AAPL": "instruments: expected a price above 0, got 'much'",
        "005930": "instruments: expected a price above 0, got '-1'",
        "MSFT": "daily_prices: close on 2025-11-11: expected a price above 0, got '0x'",
    }
    (entry,) = [entry for entry in logged if entry["event"].startswith("closes were left out")]
    assert (entry["symbols"], entry["first"]) == (3, next(iter(loaded.closes_left_out)))
    queries = make_queries(
        closes="SELECT 'AAPL' AS symbol, '1' AS close, '2025-11-10' AS date UNION ALL SELECT '005930', '7', 'no day'"
        " UNION ALL SELECT 'MSFT', 'x', NULL UNION ALL SELECT 'MSFT', '5', NULL"
    )
    await execute(store, "DELETE FROM daily_prices", "UPDATE instruments SET previous_close = '5'")
    loaded = await PortfolioStore(store, queries).load()
    assert loaded.closes == {"AAPL": Closes(5, (Close(DAY - timedelta(1), 1),))}
    assert loaded.closes_left_out == {
        "005930": "closes_query: date: expected a day such as 2025-11-11, got 'no day'",
        "MSFT": "closes_query: expected a price above 0, got 'x'",
    }


async def test_a_text_of_sqlite_that_is_no_utf_8(tmp_path: Path) -> None:
    """What it stands in is left out, what is in it is told to nobody, and the rest is there."""
    store = Store(f"sqlite:///{tmp_path}/fastws.db")
    await store.open()
    await fill(store)
    await execute(
        store,
        "INSERT INTO portfolios (id, owner, name) VALUES (8, 'kim', CAST(x'536563726574ff' AS TEXT)), (9, 'kim', 'x')",
        "INSERT INTO positions (portfolio_id, symbol, quantity) VALUES (9, CAST(x'41ff' AS TEXT), '1'), (50, 'B', '1')",
        "INSERT INTO instruments (symbol, name, previous_close, currency) VALUES ('AAPL', 'Apple', '1', 'USD'),"
        " ('B', CAST(x'ff' AS TEXT), CAST(x'31ff' AS TEXT), NULL), (CAST(x'ff' AS TEXT), 'x', '1', NULL)",
    )
    portfolios = PortfolioStore(store)
    with capture_logs() as logged:
        loaded = await portfolios.load()
    assert sorted(loaded.ids.tolist()) == [7, 50, 123]
    assert loaded.left_out == {8: "name: expected a text or a number", 9: "symbol: expected text"}
    assert (loaded.closes, [*loaded.closes_left_out]) == ({"AAPL": Closes(1, (), "USD")}, ["B"])
    assert "Secret" not in str(logged)
    await portfolios.changes(loaded.version)
    stored = await read_instruments(store)
    assert [instrument.code for instrument in stored.instruments] == ["AAPL"]
    assert stored.problems == ["B: is not UTF-8", "\\xff: is not UTF-8"]
    assert peek.look(f"sqlite:///{tmp_path}/fastws.db").symbols == [
        "005930",
        "AAPL",
        "B",
        "LOST",
        "MSFT",
        "ZERO",
    ]
    # Where it cannot be left out, the error does not repeat it.
    with pytest.raises(StoreError, match="a text in it is not UTF-8; correct or delete it"):
        await store.run(lambda connection: connection.exec_driver_sql("SELECT name FROM portfolios").all())
    await store.close()


async def test_reading_delays_nobody(lasting_url: str) -> None:
    store = Store(lasting_url)
    await store.open()
    go, started = threading.Event(), threading.Event()

    def long_look(connection: sa.Connection) -> list[int]:
        counts = [connection.scalar(sa.text("SELECT count(*) FROM portfolios")) or 0]
        started.set()
        go.wait(30)
        return [*counts, connection.scalar(sa.text("SELECT count(*) FROM portfolios")) or 0]

    reading = asyncio.ensure_future(store.read(long_look))
    await asyncio.to_thread(started.wait, 30)
    await fill(store)
    go.set()
    # Written beside it, and not seen by it.
    assert await reading == [0, 0]
    assert len((await PortfolioStore(store).load()).ids) == 3
    await store.close()


async def test_what_only_reads_writes_nothing(lasting_url: str) -> None:
    store = Store(lasting_url)
    await store.open()
    await fill(store)
    queries = make_queries(changes="DELETE FROM portfolios")
    refused = r"readonly|syntax error"  # PostgreSQL reads queries through a cursor, which has none of it
    for _ in range(3):  # whichever connection of the pool it gets
        with pytest.raises(StoreError, match=r"read-?only"):
            await store.read(lambda connection: connection.exec_driver_sql("DELETE FROM portfolios"))
        with pytest.raises(StoreError, match=refused):
            await store.read(partial(check_queries, queries))
        with pytest.raises(StoreError, match=refused):
            await asyncio.to_thread(probe, lasting_url, partial(check_queries, queries))
        await execute(store, "UPDATE portfolios SET name = 'written'")
    assert len((await PortfolioStore(store).load()).ids) == 3
    await store.close()


async def test_a_store_that_closes_ends_what_is_being_read(lasting_url: str, monkeypatch: Any) -> None:
    store = Store(lasting_url)
    await store.open()
    await fill(store)
    monkeypatch.setattr(Store, "is_open", property(lambda store: False))
    with pytest.raises(StoreError, match="was closed"):
        await PortfolioStore(store).load()
    await store.close()
    with pytest.raises(StoreError, match="is not open"):
        await PortfolioStore(store).changes(1)


async def test_a_database_that_goes_and_comes_back(postgres: PostgresServer) -> None:
    store = Store(postgres.new_database())
    await store.open()
    await fill(store)
    reader = PortfolioStore(store)
    version = (await reader.load()).version
    postgres.stop()
    try:
        for _ in range(2):
            with pytest.raises(StoreError):
                await reader.changes(version)
    finally:
        postgres.start()
    assert await reader.changes(version) == Changes(version, [], [])
    await store.close()
