"""What a server finds in its database: queries for another application's portfolios, and instruments."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa

from fastws.errors import SettingsError
from fastws.market.instruments import Instruments
from fastws.market.store import Store
from fastws.server.preflight import start_problems
from fastws.server.stored import check_stored, find_queries, with_stored
from fastws.settings import Settings

PORTFOLIOS = "SELECT 1 AS id, 'kim' AS owner, 'name' AS name"
POSITIONS = "SELECT 1 AS portfolio_id, 'A' AS symbol, 1 AS quantity"


def problems_of(settings: Settings) -> list[str]:
    return [f"{problem.setting}: {problem}" for problem in start_problems(settings, ())]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            {"portfolios_query": PORTFOLIOS},
            "portfolios_query: there is no positions_query (from default); set both",
        ),
        ({"positions_query": POSITIONS}, "positions_query: there is no portfolios_query"),
        ({"closes_query": "SELECT 1", "database": None}, "closes_query: there is no database to ask"),
        ({"changes_query": "SELECT 1"}, "changes_query: there is no query of which it could tell changes"),
    ],
)
def test_queries_that_need_another_setting(given: dict[str, str], problem: str) -> None:
    settings = Settings(**({"database": "sqlite://"} | given))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=re.escape(problem)):
        find_queries(settings)
    assert problem in "".join(problems_of(settings))


async def test_a_query_without_a_column_names_its_setting(lasting_url: str) -> None:
    settings = Settings(
        database=lasting_url,
        portfolios_query=PORTFOLIOS,
        positions_query="SELECT 1 AS portfolio_id, 2 AS amount, 'A' AS symbol",
        sources={"positions_query": "fastws.toml"},
    )
    expected = (
        "positions_query: the column quantity is missing; there is amount, portfolio_id, symbol; write the right one "
        "AS quantity (from fastws.toml); correct the query, or the database that it asks"
    )
    # Before there is a database, and in one that is open.
    assert problems_of(settings) == [f"positions_query: {expected}"]
    store = Store(lasting_url)
    await store.open()
    with pytest.raises(SettingsError) as caught:
        await check_stored(store, settings)
    assert str(caught.value) == expected
    assert problems_of(settings) == [f"positions_query: {expected}"]
    await store.close()
    works = Settings(database=lasting_url, portfolios_query=PORTFOLIOS, positions_query=POSITIONS)
    assert problems_of(works) == []


async def test_instruments_of_the_database(store: Store) -> None:
    table = Instruments.load_default()
    assert await with_stored(store, table) is table
    statement = "INSERT INTO instruments (symbol, name) VALUES ('AAPL', 'Apfel'), ('NEW', 'Neu')"
    await store.run(lambda connection: connection.exec_driver_sql(statement))
    newer = await with_stored(store, table)
    assert len(newer) == len(table) + 1
    assert [newer.get(code).name for code in ("AAPL", "NEW")] == ["Apfel", "Neu"]  # type: ignore[union-attr]


async def test_without_the_database_there_are_those_of_the_file(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/fastws.db")
    await store.open()
    await store.run(lambda connection: connection.execute(sa.text("DROP TABLE instruments")))
    table = Instruments.load_default()
    assert await with_stored(store, table) is table
    await store.close()
