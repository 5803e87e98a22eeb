"""The instrument table in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa

from fastws._market import Instrument
from fastws.market.currencies import currency_code
from fastws.market.instruments import CURRENCIES, Instruments
from fastws.market.schema import INSTRUMENTS

if TYPE_CHECKING:
    from fastws.market.store import Store


class StoredInstruments(NamedTuple):
    """The instruments that were read, and a line for each row that makes none."""

    instruments: list[Instrument]
    problems: list[str]


async def read_instruments(store: Store) -> StoredInstruments:
    """Return the instruments in `store`, by their symbols.

    Raises:
        StoreError: the database does not do its part.
    """

    return await store.read(instruments_of)


def instruments_of(connection: sa.Connection) -> StoredInstruments:
    """Return the instruments of a database, by their symbols; see :func:`read_instruments`."""
    read = StoredInstruments([], [])
    for row in connection.execute(sa.select(INSTRUMENTS).order_by(INSTRUMENTS.c.symbol)):
        if any(isinstance(cell, bytes) for cell in row):
            read.problems.append(f"{_shown(row.symbol)}: is not UTF-8")
            continue
        try:
            currency = currency_code(row.currency) if row.currency else CURRENCIES.get(row.market)
            read.instruments.append(
                Instrument(
                    row.symbol,
                    row.name,
                    row.market or None,
                    row.sector or None,
                    row.previous_close or None,
                    currency,
                )
            )
        except ValueError as error:
            read.problems.append(f"{row.symbol}: {error}")
    return read


def _shown(symbol: str | bytes) -> str:
    return symbol if isinstance(symbol, str) else symbol.decode(errors="backslashreplace")


def merge(table: Instruments, stored: list[Instrument]) -> Instruments:
    """Return a table with all of both, in which those of the database are in the place of those of `table`."""
    by_code = {instrument.code: instrument for instrument in table}
    by_code.update((instrument.code, instrument) for instrument in stored)
    return Instruments(by_code.values())
