"""Where portfolios, positions and closes are read from: the tables of fastws, or those of another application."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from fastws.market.store import StoreError

# Rows fetched in one go. So few at a time never make the garbage collector go through everything that there is, in
# which other threads would wait: it counts 700 new containers, and a row is two.
CHUNK: Final = 250

_ALL_BITS: Final = 2**64 - 1
_RAW: Final = {"no_parameters": True, "stream_results": True, "max_row_buffer": CHUNK}


class QueryError(StoreError):
    """A configured query cannot be used, or returns what cannot; `setting` names it."""

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(f"{setting}: {problem}")
        self.setting = setting
        self.problem = problem


class Digest:
    """A number that tells one content of a query from another, whatever the order of its rows."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        self.value = (self.value + sum(map(_number_of, rows))) & _ALL_BITS


def _number_of(row: Sequence[Any]) -> int:
    # hash() of a row would not do: it is the same for -1 and -2, and for 1 and 2**61.
    return int.from_bytes(blake2b(repr(row).encode(errors="surrogatepass"), digest_size=8).digest(), "little")


class Query(NamedTuple):
    """Where something is read from: the columns that it must have and may have, and the text of the query.

    `setting` names the setting that holds the text, None where it reads a table of fastws; `key` is the column by
    which some of its rows are picked.
    """

    setting: str | None
    required: tuple[str, ...]
    optional: tuple[str, ...]
    key: str
    text: str

    def error(self, problem: str) -> StoreError:
        """Return the error that blames the query."""
        if self.setting is None:
            return StoreError(f"database: {self.text.rpartition(' ')[2]}: {problem}; correct or delete it")
        return QueryError(self.setting, problem)

    def columns(self, connection: sa.Connection) -> tuple[str, ...]:
        """Return the names of those of its columns that count, as :meth:`rows` has them.

        Raises:
            QueryError: the database does not understand it, or a column is missing.
        """
        result = self._execute(connection, "SELECT * FROM", "WHERE 1 = 0")
        found = {name.lower() for name in result.keys()}  # noqa: SIM118 - a result is no mapping
        result.close()
        for column in self.required:
            if column not in found:
                raise self.error(
                    f"the column {column} is missing; there is {', '.join(sorted(found))}; "
                    f"write the right one AS {column}"
                )
        return (*self.required, *(column for column in self.optional if column in found))

    def rows(
        self,
        connection: sa.Connection,
        columns: Sequence[str],
        keys: Sequence[int] | None = None,
    ) -> Generator[Sequence[Sequence[Any]], None, None]:
        """Yield the rows in pieces, with values as the driver has them; `keys` picks some.

        To be closed by who does not take them all: the database may hold the others ready.
        """
        condition = "" if keys is None else f"WHERE {self.key} IN ({', '.join(map(str, keys))})"
        result = self._execute(connection, f"SELECT {', '.join(columns)} FROM", condition)
        try:
            yield from result.partitions(CHUNK)
        finally:
            result.close()

    def _execute(self, connection: sa.Connection, select: str, condition: str) -> sa.CursorResult[Any]:
        # On lines of its own: it may end with a comment.
        statement = f"{select} (\n{self.text.strip().rstrip(';')}\n) AS rows_of_query {condition}"
        return execute_raw(connection, statement, self.setting)


def execute_raw(connection: sa.Connection, statement: str, setting: str | None) -> sa.CursorResult[Any]:
    """Execute a statement of which the text is in `setting`.

    Raises:
        QueryError: the database does not understand it.
    """
    try:
        # Not as a text of SQLAlchemy, for which the :: and the % of SQL have a meaning of their own.
        return connection.exec_driver_sql(statement, execution_options=_RAW)
    except sa.exc.DBAPIError as error:
        is_lost = connection.dialect.name != "sqlite" and isinstance(error, sa.exc.OperationalError)
        if setting is None or is_lost:
            raise
        raise QueryError(setting, " ".join(str(error.orig).split())[:300]) from None


class Queries(NamedTuple):
    """What is read of portfolios. `closes` and `changes` are None where no setting holds them."""

    portfolios: Query
    positions: Query
    closes: Query | None
    changes: str | None

    @property
    def is_own(self) -> bool:
        """Whether portfolios and positions are the tables of fastws, of which the database notes changes."""
        return self.portfolios.setting is None


def check_queries(queries: Queries, connection: sa.Connection) -> None:
    """See that the database understands the queries of settings, and that they have the columns they need.

    Raises:
        QueryError: naming the setting and what is wrong.
    """
    for query in (queries.portfolios, queries.positions, queries.closes):
        if query is not None and query.setting is not None:
            query.columns(connection)
    if queries.changes is not None:
        execute_raw(connection, queries.changes, "changes_query").close()


def make_queries(
    portfolios: str | None = None,
    positions: str | None = None,
    closes: str | None = None,
    changes: str | None = None,
) -> Queries:
    """Return what the settings `portfolios_query` and so on come to; both of the first two are given, or none."""
    return Queries(
        portfolios=Query(
            setting=None if portfolios is None else "portfolios_query",
            required=("id", "owner", "name"),
            optional=("currency",),
            key="id",
            text=portfolios or "SELECT id, owner, name, currency FROM portfolios",
        ),
        positions=Query(
            setting=None if positions is None else "positions_query",
            required=("portfolio_id", "symbol", "quantity"),
            optional=(),
            key="portfolio_id",
            text=positions or "SELECT portfolio_id, symbol, quantity FROM positions",
        ),
        closes=None
        if closes is None
        else Query("closes_query", ("symbol", "close"), ("date", "currency"), "symbol", closes),
        changes=changes,
    )
