"""Portfolios read from the database: in memory, in a file and on a real PostgreSQL server."""

from __future__ import annotations

import asyncio
import threading
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from fastws import logs
from fastws.market import peek
from fastws.market.daily_prices import DailyPrice, DailyPrices
from fastws.market.instrument_store import read_instruments
from fastws.market.portfolio_merge import merge
from fastws.market.portfolio_queries import QueryError, check_queries, make_queries
from fastws.market.portfolio_store import Changes, Close, Closes, Loaded, PortfolioStore
from fastws.market.store import Store, StoreError, probe
from tests.postgres import PostgresServer

DAY = date(2025, 11, 11)
UNIT = 10**8

Holdings = dict[int, dict[str, int]]


async def execute(store: Store, *statements: str) -> None:
    def job(connection: sa.Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})

    await store.run(job)


async def fill(store: Store) -> None:
    await execute(
        store,
        "INSERT INTO portfolios (id, owner, name, currency) VALUES"
        " (123, 'kim', 'Growth Portfolio', 'USD'), (7, '김 철수', '성장', 'KRW'), (50, 'kim', 'Empty', NULL)",
        "INSERT INTO positions (portfolio_id, symbol, quantity, cost) VALUES"
        " (123, 'MSFT', '0.00000001', NULL), (123, 'AAPL', '100.50', '15000.10'),"
        " (7, '005930', '10', NULL), (7, 'AAPL', '-2', NULL), (7, 'ZERO', '0.00', NULL), (99, 'LOST', '5', NULL)",
    )


def holdings(loaded: Loaded) -> Holdings:
    found: Holdings = {int(number): {} for number in loaded.ids}
    for portfolio, symbol, quantity in zip(
        loaded.position_portfolios, loaded.position_symbols, loaded.quantities, strict=True
    ):
        of = found[int(loaded.ids[portfolio])]
        assert loaded.symbols[symbol] not in of
        of[loaded.symbols[symbol]] = int(quantity)
    return found


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


# What has changed.


async def version_of(reader: PortfolioStore) -> int:
    return (await reader.changes(0)).version


def sorted_changes(changes: Changes) -> tuple[list[int] | None, list[str] | None]:
    portfolios, symbols = changes.portfolios, changes.symbols
    return None if portfolios is None else sorted(portfolios), None if symbols is None else sorted(symbols)


# What a statement changes: portfolios, and symbols with other closes.
STATEMENTS: tuple[tuple[str, list[int], list[str]], ...] = (
    ("UPDATE positions SET quantity = '5' WHERE portfolio_id = 7", [7], []),
    ("UPDATE positions SET portfolio_id = 50 WHERE symbol = '005930'", [7, 50], []),
    ("INSERT INTO positions (portfolio_id, symbol, quantity) VALUES (50, 'AAPL', '1')", [50], []),
    ("DELETE FROM positions WHERE symbol = 'AAPL'", [7, 50, 123], []),
    ("UPDATE portfolios SET owner = 'lee' WHERE id = 123", [123], []),
    ("UPDATE portfolios SET id = 8 WHERE id = 7", [7, 8], []),
    ("INSERT INTO portfolios (id, owner, name) VALUES (9, 'lee', 'New')", [9], []),
    ("DELETE FROM portfolios WHERE owner = 'lee'", [9, 123], []),
    ("INSERT INTO instruments (symbol, name, previous_close) VALUES ('AAPL', 'Apple', '1')", [], ["AAPL"]),
    ("INSERT INTO daily_prices (symbol, date, close) VALUES ('X', '2025-11-11', '1')", [], ["X"]),
)


async def test_changes_are_told_whoever_makes_them(store: Store) -> None:
    await fill(store)
    reader = PortfolioStore(store)
    first = version = (await reader.load()).version
    for statement, portfolios, symbols in STATEMENTS:
        assert await reader.changes(version) == Changes(version, [], [])
        await execute(store, statement)
        changes = await reader.changes(version)
        assert sorted_changes(changes) == (portfolios, symbols)
        assert changes.version == await version_of(reader) != version
        version = changes.version
    # One who has missed all of it hears of it later.
    assert sorted_changes(await reader.changes(first)) == ([7, 8, 9, 50, 123], ["AAPL", "X"])


@pytest.mark.parametrize("prefix", ["INSERT OR REPLACE", "INSERT OR IGNORE"])
async def test_changes_by_statements_of_sqlite(prefix: str) -> None:
    store = Store()
    await store.open()
    await fill(store)
    reader = PortfolioStore(store)
    version = await version_of(reader)
    await execute(
        store,
        f"{prefix} INTO positions (portfolio_id, symbol, quantity) VALUES (7, 'NEW', '1'), (50, 'NEW', '2')",
        f"{prefix} INTO positions (portfolio_id, symbol, quantity) VALUES (7, 'NEWER', '1')",
    )
    assert sorted_changes(await reader.changes(version)) == ([7, 50], [])
    await store.close()


async def test_an_emptied_table_on_postgresql(postgres: PostgresServer) -> None:
    store = Store(postgres.new_database())
    await store.open()
    await fill(store)
    reader = PortfolioStore(store)
    version = await version_of(reader)
    await execute(store, "TRUNCATE positions")
    changes = await reader.changes(version)
    assert changes == Changes(version + 1, None, None)
    assert holdings(await reader.load()) == {7: {}, 50: {}, 123: {}}
    await store.close()


async def test_changes_of_another_user_of_postgresql(postgres: PostgresServer) -> None:
    """Who may write positions and nothing else changes them, and the change is told."""
    url = postgres.new_database()
    store = Store(url)
    await store.open()
    await fill(store)
    reader = PortfolioStore(store)
    version = await version_of(reader)
    await execute(
        store,
        "CREATE ROLE application LOGIN",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON positions TO application",
    )
    engine = sa.create_engine(url.replace("postgres@", "application@"), poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql("SET search_path TO pg_catalog")
        connection.exec_driver_sql("UPDATE public.positions SET quantity = '3' WHERE portfolio_id = 123")
    assert sorted_changes(await reader.changes(version)) == ([123], [])
    await execute(store, "DROP OWNED BY application", "DROP ROLE application")
    await store.close()


async def test_a_change_that_is_committed_late_is_not_missed(postgres: PostgresServer) -> None:
    """Two transactions of which the one that begins first ends last."""
    url = postgres.new_database()
    store = Store(url)
    await store.open()
    await fill(store)
    reader = PortfolioStore(store)
    version = await version_of(reader)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as slow:
        slow.exec_driver_sql("UPDATE positions SET quantity = '8' WHERE portfolio_id = 7")
        quick = asyncio.ensure_future(
            execute(store, "UPDATE positions SET quantity = '9' WHERE portfolio_id = 123")
        )
        # It has to wait: a reader sees neither, however long it looks.
        assert await reader.changes(version) == Changes(version, [], [])
        assert not quick.done()
        slow.commit()
        await quick
    assert sorted_changes(await reader.changes(version)) == ([7, 123], [])
    await store.close()


async def test_more_changes_than_are_worth_telling(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastws.market.portfolio_store._MAX_CHANGES", 100)
    reader = PortfolioStore(store)
    version = await version_of(reader)

    def job(connection: sa.Connection) -> None:
        rows = [{"id": i} for i in range(101)]
        connection.execute(sa.text("INSERT INTO portfolios VALUES (:id, 'kim', 'name', 'USD')"), rows)

    await store.run(job)
    changes = await reader.changes(version)
    assert (changes.portfolios, changes.symbols) == (None, None)
    assert len((await reader.load()).ids) == 101


async def test_a_version_of_elsewhere(store: Store) -> None:
    await fill(store)
    reader = PortfolioStore(store)
    version = await version_of(reader)
    for since in (0, -1, version + 5):
        assert await reader.changes(since) == Changes(version, None, None)
    # A copy of before was put back under the running server.
    await execute(store, "UPDATE portfolio_version SET version = 0")
    changes = await reader.changes(version)
    assert (changes.portfolios, changes.symbols) == (None, None)


# Beside what else goes on.


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


# Tables of another application.

APPLICATION = (
    "CREATE TABLE app_asset (symbol VARCHAR(20) PRIMARY KEY, current_price DECIMAL(14, 4), last_updated TIMESTAMP)",
    "CREATE TABLE app_portfolio (pk INTEGER PRIMARY KEY, user_id INTEGER, title VARCHAR(50))",
    "CREATE TABLE app_position (portfolio_id INTEGER, asset VARCHAR(20), quantity DECIMAL(18, 8), note VARCHAR(9))",
    "INSERT INTO app_asset VALUES ('AAPL', 150.25, '2025-11-11 09:30:00'), ('MSFT', 0, '2025-11-11 09:30:00'),"
    " ('NVDA', 99.5, NULL)",
    "INSERT INTO app_portfolio VALUES (1, 11, 'Growth'), (2, 12, NULL), (3, NULL, 'Nobody''s')",
    "INSERT INTO app_position VALUES (1, 'AAPL', 0.1, '100%'), (1, 'AAPL', 2.00000001, ''), (2, 'MSFT', 7, ''),"
    " (3, 'AAPL', 1, ''), (2, 'NVDA', 5, ''), (2, 'NVDA', -5, '')",
)
QUERIES = make_queries(
    portfolios="SELECT pk AS id, user_id AS owner, title AS name, 'USD' AS currency FROM app_portfolio;",
    positions="SELECT *, asset AS symbol FROM app_position WHERE note NOT LIKE '%gone' -- all that is held",
    closes="SELECT symbol, current_price AS close, last_updated AS date FROM app_asset",
)


@pytest.fixture
async def application(store: Store) -> Store:
    await execute(store, *APPLICATION)
    return store


async def test_tables_of_another_application(application: Store) -> None:
    await application.read(lambda connection: check_queries(QUERIES, connection))
    reader = PortfolioStore(application, QUERIES)
    loaded = await reader.load()
    assert (loaded.owners, loaded.names, loaded.currencies) == (["11", "12"], ["Growth", "2"], ["USD", "USD"])
    assert holdings(loaded) == {1: {"AAPL": 210_000_001}, 2: {"MSFT": 7 * UNIT}}
    assert loaded.n_orphans == 1
    assert loaded.closes["AAPL"].days == (Close(DAY, Decimal("150.25")),)
    assert loaded.closes["NVDA"].previous == Decimal("99.5")
    assert "MSFT" not in loaded.closes
    assert holdings(await reader.load_portfolios([2])) == {2: {"MSFT": 7 * UNIT}}


async def test_an_application_with_tables_of_the_same_names(postgres: PostgresServer) -> None:
    """Beside it, the tables of fastws are in a schema of their own."""
    url = postgres.new_database()
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in (
            "CREATE TABLE portfolios (id BIGINT, owner INTEGER, name TEXT)",
            "CREATE TABLE positions (portfolio_id BIGINT, symbol TEXT, quantity NUMERIC(20, 10))",
            "INSERT INTO portfolios VALUES (5, 11, 'Theirs')",
            "INSERT INTO positions VALUES (5, 'AAPL', 1.5)",
            "CREATE SCHEMA fastws",
        ):
            connection.exec_driver_sql(statement)
    store = Store(f"{url}&options=-csearch_path%3Dfastws")
    await store.open()
    await fill(store)
    assert (await PortfolioStore(store).load()).ids.tolist() == [7, 50, 123]
    theirs = make_queries("SELECT * FROM public.portfolios", "SELECT * FROM public.positions")
    loaded = await PortfolioStore(store, theirs).load()
    assert (loaded.names, holdings(loaded)) == (["Theirs"], {5: {"AAPL": 150_000_000}})
    reader = PortfolioStore(store)
    version = await version_of(reader)
    await execute(store, "DELETE FROM portfolios WHERE id = 7")
    assert (await reader.changes(version)).portfolios == [7]
    await store.close()


async def test_changes_of_another_application(application: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    # However long it takes to compare, it may be done again.
    monkeypatch.setattr("fastws.market.portfolio_store._DIGEST_SHARE", 1e9)
    reader = PortfolioStore(application, QUERIES)
    version = (await reader.load()).version
    assert await reader.changes(version) == Changes(version, [], [])
    await execute(application, "UPDATE app_position SET quantity = 3 WHERE asset = 'MSFT'")
    changes = await reader.changes(version)
    assert changes == Changes(version + 1, None, [])
    await execute(application, "UPDATE app_asset SET current_price = 151 WHERE symbol = 'AAPL'")
    assert await reader.changes(changes.version) == Changes(version + 2, [], None)


async def test_closes_of_a_query_win_over_those_of_the_tables(application: Store) -> None:
    await execute(
        application,
        "INSERT INTO instruments (symbol, name, previous_close, currency) VALUES ('AAPL', 'Apple', '1', 'USD'),"
        " ('NVDA', 'Nvidia', '1', 'USD')",
    )
    days = [DAY - timedelta(n) for n in range(3)]
    await DailyPrices(application).write([DailyPrice("AAPL", day, None, None, None, 5, None) for day in days])
    closes = await PortfolioStore(application, QUERIES).load_closes(["AAPL", "NVDA"])
    assert closes == {
        "AAPL": Closes(1, (Close(days[0], Decimal("150.25")), Close(days[1], 5)), "USD"),
        "NVDA": Closes(Decimal("99.5"), (), "USD"),
    }


async def test_a_database_without_triggers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("portfolio_store.has_triggers", "portfolio_store._DIGEST_SHARE"):
        value = 1e9 if place.endswith("SHARE") else lambda connection: False
        monkeypatch.setattr(f"fastws.market.{place}", value)
    await execute(store, *(f"DROP TRIGGER {trigger}" for trigger in await triggers_of(store)))
    await fill(store)
    reader = PortfolioStore(store)
    version = (await reader.load()).version
    assert await reader.changes(version) == Changes(version, [], [])
    await execute(store, "UPDATE positions SET quantity = '5' WHERE portfolio_id = 7")
    assert await reader.changes(version) == Changes(version + 1, None, [])
    await DailyPrices(store).write([DailyPrice("AAPL", DAY, None, None, None, 5, None)])
    assert await reader.changes(version + 1) == Changes(version + 2, [], None)


async def triggers_of(store: Store) -> list[str]:
    def job(connection: sa.Connection) -> list[str]:
        if connection.dialect.name == "sqlite":
            return list(connection.scalars(sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")))
        query = sa.text(
            "SELECT DISTINCT trigger_name || ' ON ' || event_object_table FROM information_schema.triggers"
        )
        return [*connection.scalars(query), *(f"fastws_truncate ON {table}" for table in WATCHED)]

    return await store.run(job)


WATCHED = ("portfolios", "positions", "instruments", "daily_prices")


async def test_comparing_takes_no_more_than_its_share(application: Store) -> None:
    reader = PortfolioStore(application, QUERIES)
    version = await version_of(reader)
    reader._next_digest += 1000
    await execute(application, "DELETE FROM app_position")
    assert await version_of(reader) == version
    reader._next_digest = 0
    assert await version_of(reader) == version + 1


async def test_no_two_numbers_look_the_same(application: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of Python's hash() do: -1 and -2, 1 and 2**61."""
    monkeypatch.setattr("fastws.market.portfolio_store._DIGEST_SHARE", 1e9)
    await execute(application, "UPDATE app_position SET quantity = -1 WHERE asset = 'MSFT'")
    reader = PortfolioStore(application, QUERIES)
    version = await version_of(reader)
    await execute(application, "UPDATE app_position SET quantity = -2 WHERE asset = 'MSFT'")
    assert await reader.changes(version) == Changes(version + 1, None, [])


async def test_a_query_that_tells_changes(application: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastws.market.portfolio_store._DIGEST_SHARE", 1e9)
    queries = QUERIES._replace(changes="SELECT count(*), max(quantity) FROM app_position")
    reader = PortfolioStore(application, queries)
    version = await version_of(reader)
    await execute(application, "UPDATE app_portfolio SET title = 'unnoticed'")
    assert await version_of(reader) == version
    await execute(application, "UPDATE app_position SET quantity = 100 WHERE asset = 'MSFT'")
    assert await reader.changes(version) == Changes(version + 1, None, None)


UNUSABLE = (
    (make_queries("SELECT pk AS id FROM app_portfolio", "SELECT 1"), "portfolios_query", "the column owner is missing"),
    (QUERIES._replace(positions=make_queries("x", "SELECT * FROM app_position").positions), "positions_query",
     "the column symbol is missing; there is asset, note, portfolio_id, quantity; "),
    (make_queries(closes="SELECT 1 AS close"), "closes_query", "the column symbol is missing"),
    (make_queries(closes="SELECT symbol, close FROM nowhere"), "closes_query", "nowhere"),
    (make_queries(closes="SELECT nonsense nonsense nonsense"), "closes_query", "nonsense"),
    (QUERIES._replace(changes="SELECT max(x) FROM app_position"), "changes_query", "x"),
)  # fmt: skip


async def test_queries_that_cannot_be_used(application: Store) -> None:
    for queries, setting, problem in UNUSABLE:
        with pytest.raises(QueryError) as caught:
            await application.read(partial(check_queries, queries))
        assert caught.value.setting == setting
        assert str(caught.value).startswith(f"{setting}: ")
        assert problem in caught.value.problem
        assert "\n" not in str(caught.value)


UNUSABLE_PORTFOLIOS = (
    ("SELECT 1 AS id, 'a' AS owner, 'b' AS name UNION ALL SELECT 1, 'c', 'd'", "comes twice"),
    ("SELECT 'one' AS id, 'a' AS owner, 'b' AS name", "id: expected a whole number"),
)
UNUSABLE_POSITIONS = (
    ("SELECT 1.5 AS portfolio_id, 'A' AS symbol, 1 AS quantity", "portfolio_id: expected a whole number"),
    ("SELECT NULL AS portfolio_id, 'A' AS symbol, 1 AS quantity", "portfolio_id: expected a whole number"),
    ("SELECT 1 AS portfolio_id, 5930 AS symbol, 1 AS quantity", "symbol: expected text"),
    (
        "SELECT 1 AS portfolio_id, 'A' AS symbol, 'x' AS quantity",
        "quantity: expected a plain",
    ),
)


async def test_rows_that_cannot_be_used(store: Store) -> None:
    portfolios = "SELECT '1' AS id, 'kim' AS owner, 'name' AS name"
    positions = "SELECT 1 AS portfolio_id, 'A' AS symbol, 1 AS quantity"
    assert len((await PortfolioStore(store, make_queries(portfolios, positions)).load()).ids) == 1
    for queries, problem in [
        *((make_queries(query, positions), problem) for query, problem in UNUSABLE_PORTFOLIOS),
        *((make_queries(portfolios, query), problem) for query, problem in UNUSABLE_POSITIONS),
    ]:
        with pytest.raises(QueryError, match="_query: ") as caught:
            await PortfolioStore(store, queries).load()
        assert problem in str(caught.value)


OTHERS_USABLE = (
    "SELECT 7 AS id, 'kim' AS owner, 'Growth' AS name",
    "SELECT 7 AS portfolio_id, 'A' AS symbol, '1' AS quantity",
)


@pytest.mark.parametrize(
    ("portfolio", "position", "left_out"),
    [
        ("8, 'lee', 'x'", "8, 'A', '0.123456789'", {8}),
        ("6, 'lee', 'x'", "6, 'A', '92233720368' UNION ALL SELECT 6, 'A', '9'", {6}),
        ("8, 'lee', 'x'", "8, 'B', '1' UNION ALL SELECT 8, 'A', 'NaN'", {8}),
        ("8, 'lee', 'x' UNION ALL SELECT 8, 'mallory', 'y'", "8, 'A', '1'", {8}),
        ("8, 'lee', 'x' UNION ALL SELECT NULL, 'lee', 'y'", "8, 'A', 'x'", {None, 8}),
        ("8, NULL, 'x'", "8, 'A', 'x'", set()),
        ("8, NULL, 'x'", "NULL, 'A', '1'", set()),
    ],
)
async def test_what_cannot_be_used_is_no_matter_of_the_others(
    store: Store, portfolio: str, position: str, left_out: set[int | None]
) -> None:
    queries = make_queries(
        f"{OTHERS_USABLE[0]} UNION ALL SELECT {portfolio}", f"{OTHERS_USABLE[1]} UNION ALL SELECT {position}"
    )
    loaded = await PortfolioStore(store, queries).load()
    assert (holdings(loaded), loaded.owners) == ({7: {"A": UNIT}}, ["kim"])
    assert set(loaded.left_out) == left_out


async def test_owners_and_symbols_of_other_types() -> None:
    """SQLite has a type for each value, and makes a float of what is in a column that is REAL."""
    store = Store()
    await store.open()
    queries = make_queries(
        "SELECT 1 AS id, 7.0 AS owner, 5 AS name UNION ALL SELECT 2, 7.5, 'b' UNION ALL SELECT 3, x'6b', 'c'"
        " UNION ALL SELECT 4, 'd', x'ff' UNION ALL SELECT 5, 9e999, 'e' UNION ALL SELECT 6, 6, 'f'",
        "SELECT 1 AS portfolio_id, 'A' AS symbol, 1 AS quantity UNION ALL SELECT 6, 5930, 1",
    )
    loaded = await PortfolioStore(store, queries).load()
    assert (loaded.ids.tolist(), loaded.owners, loaded.names) == ([1, 2], ["7", "7.5"], ["5", "b"])
    assert loaded.left_out.keys() == {3, 4, 5, 6}
    await store.close()


async def test_a_query_that_the_database_fails_over_later(store: Store) -> None:
    queries = make_queries("SELECT 1 AS id, 'kim' AS owner, 'name' AS name", "SELECT * FROM app_position")
    with pytest.raises(StoreError, match="app_position"):
        await PortfolioStore(store, queries).load()
