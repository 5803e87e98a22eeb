"""What the database tells of changed portfolios, whoever has changed them."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa
from stored_portfolios import execute, fill, holdings, sorted_changes, version_of

from fastws.market.portfolio_store import Changes, PortfolioStore
from fastws.market.store import Store
from tests.postgres import PostgresServer

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
