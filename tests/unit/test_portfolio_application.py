"""Portfolios in the tables of another application."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from functools import partial

import pytest
import sqlalchemy as sa
from stored_portfolios import DAY, UNIT, execute, fill, holdings, version_of

from fastws.market.daily_prices import DailyPrice, DailyPrices
from fastws.market.portfolio_queries import QueryError, check_queries, make_queries
from fastws.market.portfolio_store import Changes, Close, Closes, PortfolioStore
from fastws.market.store import Store, StoreError
from tests.postgres import PostgresServer

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
