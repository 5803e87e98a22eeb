"""Looks into a database without making or changing anything."""

from __future__ import annotations

import os
from typing import Final, NamedTuple
from urllib.parse import quote

import sqlalchemy as sa

from fastws._market import Instrument
from fastws.market.instrument_store import instruments_of
from fastws.market.schema import INSTRUMENTS, POSITIONS
from fastws.market.sqlite import tolerant
from fastws.market.store import StoreError, file_of, probe


class Known(NamedTuple):
    """What a database knows of: its instruments, and the symbols of those and of all positions, in order."""

    instruments: list[Instrument]
    symbols: list[str]


NOTHING: Final = Known([], [])


def look(url: str | None) -> Known:
    """Return what the database of `url` knows of; nothing where it is not there yet. Blocks.

    Raises:
        StoreError: it cannot be read.
    """
    if url is None:
        return NOTHING
    probe(url)
    path = file_of(url)
    if path is not None:
        if not os.path.exists(path):
            return NOTHING
        # A file without a log beside it is open nowhere; opened as usual it would get one.
        mode = "ro" if os.path.exists(f"{path}-wal") else "ro&immutable=1"
        url = f"sqlite:///file:{quote(path)}?mode={mode}&uri=true"
    engine = sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    try:
        with engine.connect() as connection:
            return tolerant(_known)(connection)
    except sa.exc.SQLAlchemyError as error:
        raise StoreError(f"database: what it knows cannot be read: {type(error).__name__}") from None


def _known(connection: sa.Connection) -> Known:
    tables = sa.inspect(connection)
    if not all(tables.has_table(table.name) for table in (INSTRUMENTS, POSITIONS)):
        return NOTHING
    symbols = connection.scalars(sa.union(sa.select(INSTRUMENTS.c.symbol), sa.select(POSITIONS.c.symbol)))
    usable = sorted(symbol for symbol in symbols if isinstance(symbol, str))
    return Known(instruments_of(connection).instruments, usable)
