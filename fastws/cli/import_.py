"""``fastws import``: instruments, portfolios and positions from CSV files into the database."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from typing import Final

from fastws.cli.options import add_config, add_settings, fail, load_settings
from fastws.cli.parsers import FAILED
from fastws.errors import SettingsError
from fastws.market.import_kinds import KINDS
from fastws.market.importer import (
    Imported,
    ImportRefused,
    Problems,
    Table,
    check_table,
    read_table,
    write_table,
)
from fastws.market.store import Store, StoreError

_HEADERS: Final = "\n".join(f"  {kind.name:12} {kind.columns.header}" for kind in KINDS.values())
IMPORT_HELP: Final = f"""\
files are CSV in UTF-8, with a header; columns in any order, those in brackets may be left out:
{_HEADERS}

An import is all or nothing: when one row is wrong, all wrong rows are named and nothing is written. It can be
repeated: rows that are there already are replaced, and what has not changed is left alone. Rows that only the
database has stay, but for positions: a file names all that each of its portfolios holds, so that other positions
of these portfolios are removed. A row with quantity 0 is no position; it is how to name a portfolio that holds
nothing any more. With --prune every row goes that the file does not have.

A server that runs on the database takes changes over by itself within seconds, instruments when it reloads
(SIGHUP). Portfolios must be there before their positions. A portfolio belongs to the user whose id is its owner.

examples:
  fastws import portfolios portfolios.csv --database sqlite:///fastws.db
  fastws import positions positions.csv --database sqlite:///fastws.db --dry-run
      tell what would be changed, or what is wrong
"""


def fill_import(importing: argparse.ArgumentParser) -> None:
    importing.epilog = IMPORT_HELP
    add_config(importing)
    importing.add_argument("kind", metavar="|".join(KINDS), choices=KINDS, help="what the file holds")
    importing.add_argument("file", metavar="FILE.csv", help="the file to read")
    add_settings(importing, ("database",))
    importing.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything and change nothing, not even the tables' version",
    )
    importing.add_argument("--prune", action="store_true", help="remove all rows that the file does not have")
    importing.set_defaults(run=_import)


def _import(options: argparse.Namespace) -> int:
    settings = load_settings(options)
    if settings.database is None:
        raise SettingsError(
            "database: there is none to import into; name it, as --database sqlite:///fastws.db",
            setting="database",
        )
    try:
        store = Store(settings.database)
    except StoreError as error:
        raise SettingsError(str(error), setting="database") from None
    if store.is_in_memory:
        raise SettingsError(
            "database: one in memory ends with this command; name a file, as sqlite:///fastws.db",
            setting="database",
        )
    try:
        problems = Problems()
        table = read_table(options.kind, options.file, problems)
        if problems:
            # Whatever the database says, the file has to be corrected first.
            with contextlib.suppress(StoreError):
                asyncio.run(check_table(store, table, problems))
        problems.raise_any()
        imported = asyncio.run(_write(store, table, options))
    except ImportRefused as refused:
        for problem in refused.problems:
            fail(problem)
        n_more = refused.n_problems - len(refused.problems)
        more = f"; {n_more:,} more problems are not shown" if n_more else ""
        return fail(f"nothing was imported{more}", FAILED)
    print(_summary(imported, options, store))
    for note in imported.notes:
        print(note)
    if settings.portfolios_query is not None and options.kind != "instruments":
        print(
            "portfolios_query is set: a server with these settings reads portfolios there, and none of these"
        )
    return 0


async def _write(store: Store, table: Table, options: argparse.Namespace) -> Imported:
    if options.dry_run:
        return await write_table(store, table, prune=options.prune, dry_run=True)
    await store.open()
    try:
        return await write_table(store, table, prune=options.prune)
    finally:
        await store.close()


def _summary(imported: Imported, options: argparse.Namespace, store: Store) -> str:
    done = "would be imported" if options.dry_run else "imported"
    what = options.kind.removesuffix("s") if imported.n_rows == 1 else options.kind
    return (
        f"{done}: {imported.n_rows:,} {what} of {options.file} into {store.shown_url}: "
        f"{imported.n_added:,} new, {imported.n_changed:,} changed, {imported.n_unchanged:,} as before; "
        f"{imported.n_removed:,} removed"
    )
