"""How the database of an older version is brought to the tables of this one, on SQLite and PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal

import pytest
import sqlalchemy as sa

from fastws.market import schema
from fastws.market.alert_store import AlertStore
from fastws.market.store import Store, StoreError
from fastws.market.value_store import SavedValue, ValueStore
from tests.rules import MS, add, waiting
from tests.serving import ROOT

# What version 1, which knew alert rules only, left behind.
V1_TABLES = {
    "sqlite": """
CREATE TABLE alert_rules (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    user_id VARCHAR(255) NOT NULL,
    code VARCHAR(64) NOT NULL,
    alert_type VARCHAR(32) NOT NULL,
    threshold VARCHAR(40) NOT NULL,
    created_at BIGINT NOT NULL,
    fired_at BIGINT,
    fired_price VARCHAR(40),
    fired_by VARCHAR(32)
)""",
    "postgresql": """
CREATE TABLE alert_rules (
    id BIGSERIAL NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    code VARCHAR(64) NOT NULL,
    alert_type VARCHAR(32) NOT NULL,
    threshold VARCHAR(40) NOT NULL,
    created_at BIGINT NOT NULL,
    fired_at BIGINT,
    fired_price VARCHAR(40),
    fired_by VARCHAR(32),
    PRIMARY KEY (id)
)""",
}
V1_REST = (
    "CREATE INDEX ix_alert_rules_user_id ON alert_rules (user_id)",
    "CREATE TABLE schema_version (version INTEGER NOT NULL, PRIMARY KEY (version))",
    "INSERT INTO schema_version VALUES (1)",
    "INSERT INTO alert_rules (user_id, code, alert_type, threshold, created_at, fired_at, fired_price, fired_by)"
    f" VALUES ('kim', '005930', 'price_above', '75000', {MS}, {MS + 5}, '75100.50', 'somebody')",
    "INSERT INTO alert_rules (user_id, code, alert_type, threshold, created_at)"
    f" VALUES ('김 철수', 'AAPL', 'price_below', '1.90', {MS + 1})",
)


async def versions(store: Store) -> list[int]:
    query = sa.text("SELECT version FROM schema_version ORDER BY version")
    return await store.run(lambda connection: list(connection.scalars(query)))


async def test_the_tables_are_those_that_the_program_uses(store: Store) -> None:
    def shape(connection: sa.Connection, table: sa.Table) -> tuple[object, ...]:
        columns = [
            (column["name"], column["nullable"], str(column["type"]).upper())
            for column in sa.inspect(connection).get_columns(table.name)
        ]
        indexes = [
            (index["name"], index["column_names"]) for index in sa.inspect(connection).get_indexes(table.name)
        ]
        expected_columns = [
            (column.name, column.nullable, column.type.compile(connection.dialect))
            for column in table.columns
        ]
        expected_indexes = [(index.name, index.columns.keys()) for index in table.indexes]
        assert columns == expected_columns
        assert indexes == expected_indexes
        return tuple(columns)

    for table in schema.METADATA.sorted_tables:
        assert await store.run(lambda connection, table=table: shape(connection, table))  # type: ignore[misc]


async def test_a_database_of_the_first_version(lasting_url: str) -> None:
    engine = sa.create_engine(lasting_url)
    with engine.begin() as connection:
        for statement in (V1_TABLES[engine.dialect.name], *V1_REST):
            connection.exec_driver_sql(statement)
    engine.dispose()
    store = Store(lasting_url)
    await store.open()
    assert await versions(store) == [1, 2, 3, 4]
    rules = AlertStore(store)
    (fired,) = await rules.rules_of("kim")
    assert (fired.threshold, fired.fired_ms, fired.fired_price) == (75000, MS + 5, Decimal("75100.50"))
    (left,) = await waiting(store)
    assert (left.user_id, left.code, str(left.threshold)) == ("김 철수", "AAPL", "1.90")
    # What has fired under the old version is not told again.
    assert await rules.untold_rules(0) == []
    assert (await add(store)).id > left.id
    values = [SavedValue("AAPL", "price_update", MS, b"{}")]
    await ValueStore(store).save(values)
    assert await ValueStore(store).load() == values

    def columns(connection: sa.Connection) -> list[str]:
        return [column["name"] for column in sa.inspect(connection).get_columns("alert_rules")]

    assert await store.run(columns) == schema.ALERT_RULES.columns.keys()
    await store.close()


OPENER = """
import asyncio, sys
from fastws.market.store import Store

async def main():
    store = Store(sys.argv[1])
    print("ready", flush=True)
    sys.stdin.readline()
    await store.open()
    await store.close()

asyncio.run(main())
"""


def start_opener(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", OPENER, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


async def test_processes_that_bring_one_database_forward_at_once(
    lasting_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:3])
        old = Store(lasting_url)
        await old.open()
        rule = await add(old)
        values = [SavedValue("AAPL", "price_update", MS, b"{}")]
        await ValueStore(old).save(values)
        await old.close()
    processes = [start_opener(lasting_url) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    store = Store(lasting_url)
    await store.open()
    assert await versions(store) == list(range(1, schema.latest() + 1))
    assert await waiting(store) == [rule]
    assert await ValueStore(store).load() == values
    rows = await store.run(lambda connection: connection.execute(sa.select(schema.PORTFOLIO_VERSION)).all())
    assert rows == [(1, 1)]
    await store.close()


async def test_a_database_is_brought_forward(lasting_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(lasting_url)
    await store.open()
    rule = await add(store)
    n_released = len(schema.MIGRATIONS)
    assert await versions(store) == list(range(1, n_released + 1))
    await store.close()

    def next_one(connection: sa.Connection) -> None:
        connection.execute(sa.text("ALTER TABLE alert_rules ADD COLUMN note VARCHAR(10)"))

    def failing(connection: sa.Connection) -> None:
        connection.execute(sa.text("CREATE TABLE half_done (id INTEGER)"))
        connection.execute(sa.text("SELECT * FROM nowhere"))

    released = schema.MIGRATIONS
    monkeypatch.setattr(schema, "MIGRATIONS", (*released, next_one, failing))
    store = Store(lasting_url)
    with pytest.raises(StoreError, match="nowhere"):
        await store.open()
    monkeypatch.setattr(schema, "MIGRATIONS", (*released, next_one))
    store = Store(lasting_url)
    await store.open()
    assert await versions(store) == list(range(1, n_released + 2))
    assert await waiting(store) == [rule]
    inspected = await store.run(lambda connection: sa.inspect(connection).get_columns("alert_rules"))
    assert inspected[-1]["name"] == "note"
    tables = await store.run(lambda connection: sa.inspect(connection).get_table_names())
    assert "half_done" not in tables
    await store.close()

    monkeypatch.setattr(schema, "MIGRATIONS", released)
    store = Store(lasting_url)
    with pytest.raises(
        StoreError, match=rf"newer fastws \(schema {n_released + 1}, this one knows {n_released}\)"
    ):
        await store.open()
    with pytest.raises(StoreError, match=r"is not open$"):
        await waiting(store)
