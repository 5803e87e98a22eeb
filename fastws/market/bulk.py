"""Many rows written at once, in as few statements as a database takes.

In PostgreSQL a statement costs what its triggers cost, however many rows it has; in SQLite a row does, and one
statement that is executed for each of them is the fastest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa

_CHUNK: Final = 10_000  # rows handed to the driver in one go
_MAX_KEYS: Final = 500  # in one statement

Values = dict[str, Any]


def insert_rows(connection: sa.Connection, table: sa.Table, rows: Iterable[Values]) -> None:
    """Insert rows, each with a value for every column; no more of them are held at a time than the driver gets."""
    statement: Any = sa.insert(table)
    if not _is_sqlite(connection) and connection.dialect.insert_executemany_returning:
        # Asked to return something, SQLAlchemy makes statements of many rows.
        statement = statement.returning(sa.literal(1))
    rest = iter(rows)
    while chunk := list(islice(rest, _CHUNK)):
        connection.execute(statement, chunk).close()


def insert_tuples(connection: sa.Connection, table: sa.Table, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert rows of texts, whole numbers and None, each in the order of the table's columns."""
    if not _is_sqlite(connection):
        names = table.columns.keys()
        insert_rows(connection, table, (dict(zip(names, row, strict=True)) for row in rows))
        return
    # The driver's own: SQLAlchemy would take longer over each row than SQLite with its triggers.
    statement = str(sa.insert(table).compile(dialect=connection.dialect))
    rest = iter(rows)
    while chunk := list(islice(rest, _CHUNK)):
        connection.exec_driver_sql(statement, chunk).close()


def delete_rows(connection: sa.Connection, table: sa.Table, keys: Sequence[tuple[Any, ...]]) -> None:
    """Delete rows by their primary keys."""
    columns = list(table.primary_key)
    if _is_sqlite(connection):
        is_meant = sa.and_(*(column == sa.bindparam(f"of_{column.name}") for column in columns))
        names = [f"of_{column.name}" for column in columns]
        for i in range(0, len(keys), _CHUNK):
            rows = [dict(zip(names, key, strict=True)) for key in keys[i : i + _CHUNK]]
            connection.execute(sa.delete(table).where(is_meant), rows)
        return
    for i in range(0, len(keys), _MAX_KEYS):
        connection.execute(sa.delete(table).where(sa.tuple_(*columns).in_(keys[i : i + _MAX_KEYS])))


def _is_sqlite(connection: sa.Connection) -> bool:
    return connection.dialect.name == "sqlite"
