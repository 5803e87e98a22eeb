"""Many rows written at once, in as few statements as a database takes.

In PostgreSQL a statement costs what its triggers cost, however many rows it has; in SQLite a row does, and one
statement that is executed for each of them is the fastest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

_CHUNK: Final = 10_000  # rows handed to the driver in one go
_MAX_KEYS: Final = 500  # in one statement

Values = dict[str, Any]


def insert_rows(connection: sa.Connection, table: sa.Table, rows: Sequence[Values]) -> None:
    """Insert rows, each with a value for every column."""
    statement: Any = sa.insert(table)
    if not _is_sqlite(connection) and connection.dialect.insert_executemany_returning:
        # Asked to return something, SQLAlchemy makes statements of many rows.
        statement = statement.returning(sa.literal(1))
    for i in range(0, len(rows), _CHUNK):
        connection.execute(statement, rows[i : i + _CHUNK]).close()


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
