"""What the commands that ask a source ask it for."""

from __future__ import annotations

from collections.abc import Sequence

from fastws._market import Instrument
from fastws.errors import SettingsError
from fastws.market.instrument_store import merge
from fastws.market.peek import look
from fastws.server.parts import load_instruments
from fastws.settings import Settings


def choose_instruments(settings: Settings, symbols: Sequence[str] | None) -> list[Instrument]:
    """Return the instruments of `symbols`; without any, those that the database knows of, else the instrument table's.

    The database is only read, and need not be there. What it says of an instrument wins over the table.

    Raises:
        SettingsError: a symbol cannot be one, or the table cannot be read.
        StoreError: the database cannot be read.
    """
    known = look(settings.database)
    table = merge(load_instruments(settings), known.instruments)
    chosen = dict.fromkeys(symbols or known.symbols)
    return [table.get(symbol) or _unlisted(symbol) for symbol in chosen] or list(table)


def _unlisted(symbol: str) -> Instrument:
    """An instrument for a symbol that no table has."""
    try:
        return Instrument(symbol)
    except ValueError as error:
        raise SettingsError(f"symbols: {error}", setting="symbols", source="--symbols") from None
