"""Brings instruments, portfolios and positions from CSV files into the database: all rows of a file, or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from fastws.errors import FastwsError, TableError
from fastws.market.bulk import delete_rows, insert_tuples
from fastws.market.csv_tables import TableRow, read_rows, read_text, repeated
from fastws.market.import_kinds import KINDS, Kind, portfolio_id
from fastws.market.schema import INSTRUMENTS, PORTFOLIO_VERSION, PORTFOLIOS, POSITIONS

if TYPE_CHECKING:
    from fastws.market.store import Store

MAX_PROBLEMS: Final = 20
"""How many problems of a file are told; the others are counted."""

_MAX_KEYS: Final = 500  # in one statement
_SHOWN_SYMBOLS: Final = 5

Key = tuple[Any, ...]
Values = tuple[Any, ...]


class ImportRefused(FastwsError):  # noqa: N818 - it is the file that is wrong
    """Nothing was imported. `problems` are lines that say why, the first ones of `n_problems`."""

    def __init__(self, problems: Sequence[str], n_problems: int) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems
        self.n_problems = n_problems


class Table(msgspec.Struct):
    """The rows of a file by key, with the values of the other columns. No row has a problem of its own.

    `lines` are those in which keys stand; `portfolios` those of which the file names all positions.
    """

    kind: Kind
    shown: str
    rows: dict[Key, Values]
    lines: dict[Key, int]
    portfolios: dict[int, int]
    """The first line of each."""


class Imported(NamedTuple):
    """What became of rows: of those of the file, and of those that only the database had. `notes` are for the user."""

    n_rows: int
    n_added: int
    n_changed: int
    n_unchanged: int
    n_removed: int
    notes: list[str]


class Problems:
    """What is wrong with a file."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._n = 0

    def add(self, line: str) -> None:
        self._n += 1
        if self._n <= MAX_PROBLEMS:
            self._lines.append(line)

    def __bool__(self) -> bool:
        return self._n > 0

    def raise_any(self) -> None:
        """Refuse the file if anything is wrong with it.

        Raises:
            ImportRefused: naming what it is.
        """
        if self._n:
            raise ImportRefused(self._lines, self._n)


def read_table(kind: str, path: str, problems: Problems | None = None) -> Table:
    """Read the CSV file of a kind in `KINDS`: in UTF-8, with its header; see `read_rows`.

    What is wrong with rows goes to `problems` where they are given; such a table is not to be written.

    Raises:
        ImportRefused: naming every row that cannot be used.
    """
    table = Table(KINDS[kind], path, {}, {}, {})
    found = Problems() if problems is None else problems

    def note(error: TableError) -> None:
        found.add(str(error))

    try:
        for row in read_rows(read_text(Path(path), path), path, table.kind.columns, on_problem=note):
            try:
                _take(table, row)
            except TableError as error:
                note(error)
    except TableError as error:
        note(error)  # what comes after it cannot be read
    if problems is None:
        found.raise_any()
    if not table.lines and not found:
        raise ImportRefused([f"{path}: has a header and no {kind}"], 1)
    return table


def _take(table: Table, row: TableRow) -> None:
    if table.kind.table is POSITIONS:
        # Also of a row that is wrong elsewhere: its portfolio may not be there, too.
        table.portfolios.setdefault(portfolio_id(row), row.line)
    values = table.kind.parse(row)
    key = tuple([values.pop(column) for column in table.kind.keys])
    first = table.lines.setdefault(key, row.line)
    if first != row.line:
        named = key[0] if len(key) == 1 else f"{key[1]} of portfolio {key[0]}"
        raise repeated(named, first, row.where)
    if table.kind.table is POSITIONS and not values["quantity"].strip("-0."):
        return  # nothing is held, which the other rows of the portfolio could not say
    table.rows[key] = tuple(values.values())


async def write_table(store: Store, table: Table, *, prune: bool = False, dry_run: bool = False) -> Imported:
    """Put rows in the place of what the database has of them, in one transaction.

    Of the portfolios of which positions are named, all others are removed; with `prune`, every row that the file does
    not have, and with a portfolio its positions. `store` is open; with `dry_run` it never was, and nothing is changed.

    Raises:
        ImportRefused: a row does not fit to what the database has.
        StoreError: the database does not do its part.
    """

    def job(connection: sa.Connection) -> Imported:
        return _Import(connection, table, prune=prune).run()

    return await (store.rehearse(job) if dry_run else store.run(job))


async def check_table(store: Store, table: Table, problems: Problems) -> None:
    """Add to the problems of a file what the database has to say of it. `store` never was open; nothing is changed.

    Raises:
        StoreError: the database does not do its part.
    """
    if table.kind.table is POSITIONS:
        await store.rehearse(lambda connection: _check_portfolios(connection, table, problems))


def _check_portfolios(connection: sa.Connection, table: Table, problems: Problems) -> None:
    """Note the first line of each portfolio that is missing."""
    there = set(connection.scalars(sa.select(PORTFOLIOS.c.id)))
    for number, line in table.portfolios.items():
        if number not in there:
            problems.add(
                f"{table.shown}, line {line}, column portfolio_id: there is no portfolio {number} "
                "in the database; import portfolios first"
            )


class _Import:
    """One import within the transaction of `connection`."""

    def __init__(self, connection: sa.Connection, table: Table, *, prune: bool) -> None:
        self._connection = connection
        self._table = table
        self._prune = prune
        self._sql = table.kind.table
        self._n_keys = len(table.kind.keys)

    def run(self) -> Imported:
        # One import after the other: what is read here is still so when it is written.
        self._connection.execute(sa.update(PORTFOLIO_VERSION).values(version=PORTFOLIO_VERSION.c.version))
        notes = self._check_positions() if self._sql is POSITIONS else []
        rows = self._table.rows
        known: set[Key] = set()  # of the file
        changed: list[Key] = []
        removed: list[Key] = []
        for key, values in self._known():
            if key in rows:
                known.add(key)
                if rows[key] != values:
                    changed.append(key)
            elif self._removes_others:
                removed.append(key)
        # Only what differs is written: nobody has to value a portfolio again in which nothing has changed.
        delete_rows(self._connection, self._sql, removed + changed)
        added = (key for key in rows if key not in known)
        insert_tuples(self._connection, self._sql, (key + rows[key] for key in chain(changed, added)))
        if self._sql is PORTFOLIOS and removed:
            notes.append(self._remove_orphans())
        return Imported(
            n_rows=len(self._table.lines),
            n_added=len(rows) - len(known),
            n_changed=len(changed),
            n_unchanged=len(known) - len(changed),
            n_removed=len(removed),
            notes=notes,
        )

    @property
    def _removes_others(self) -> bool:
        return self._prune or self._sql is POSITIONS

    def _known(self) -> Iterator[tuple[Key, Values]]:
        """Rows of the database that the file may say something of."""
        statement = sa.select(self._sql)
        if self._sql is POSITIONS and not self._prune:
            ids = list(self._table.portfolios)
            for i in range(0, len(ids), _MAX_KEYS):
                some = POSITIONS.c.portfolio_id.in_(ids[i : i + _MAX_KEYS])
                yield from self._rows(statement.where(some))
        else:
            yield from self._rows(statement)

    def _rows(self, statement: sa.Select[Any]) -> Iterator[tuple[Key, Values]]:
        n = self._n_keys
        for row in self._connection.execute(statement):
            values = tuple(row)
            yield values[:n], values[n:]

    def _check_positions(self) -> list[str]:
        """See that the portfolios are there; return a note on symbols that are not.

        Raises:
            ImportRefused: naming the first line of each portfolio that is missing.
        """
        problems = Problems()
        _check_portfolios(self._connection, self._table, problems)
        problems.raise_any()
        instruments = set(self._connection.scalars(sa.select(INSTRUMENTS.c.symbol)))
        unknown = list(dict.fromkeys(symbol for _, symbol in self._table.rows if symbol not in instruments))
        if not instruments or not unknown:
            return []
        shown = ", ".join(unknown[:_SHOWN_SYMBOLS]) + (", ..." if len(unknown) > _SHOWN_SYMBOLS else "")
        what = "1 symbol" if len(unknown) == 1 else f"{len(unknown)} symbols"
        return [f"not in the instruments of the database: {what} ({shown})"]

    def _remove_orphans(self) -> str:
        is_orphan = POSITIONS.c.portfolio_id.not_in(sa.select(PORTFOLIOS.c.id))
        n = self._connection.execute(sa.delete(POSITIONS).where(is_orphan)).rowcount
        what = (
            "1 position of a removed portfolio was" if n == 1 else f"{n} positions of removed portfolios were"
        )
        return f"{what} removed, too"
