"""What CSV files of instruments, portfolios and positions hold, and how a row of each is checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from fastws._market import Instrument
from fastws.errors import TableError
from fastws.market import instruments
from fastws.market.alert_messages import checked_user
from fastws.market.alert_store import number_text
from fastws.market.csv_tables import Columns, TableRow
from fastws.market.currencies import currency_code
from fastws.market.quantities import QuantityError, scaled
from fastws.market.schema import INSTRUMENTS, PORTFOLIOS, POSITIONS

_MAX_ID: Final = 2**63 - 1
_COST: Final = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?")
# A quantity or a cost that is right and written as the database has it, as nearly all of millions are.
_PLAIN: Final = re.compile(r"-?(0|[1-9][0-9]{0,9})(\.[0-9]{1,8})?")

Values = dict[str, Any]


class Kind(NamedTuple):
    """A kind of file: its columns, the table that it goes to, and how a row is read.

    `keys` are the columns that tell rows apart, the first ones of the table. `parse` returns
    the values of a row by column of the table; TableError names line and column.
    """

    name: str
    columns: Columns
    table: sa.Table
    keys: tuple[str, ...]
    parse: Callable[[TableRow], Values]


def _parse_instrument(row: TableRow) -> Values:
    instrument = instruments.parse_instrument(row)
    close = instrument.previous_close
    return {
        "symbol": instrument.code,
        "name": _text(row, "name", INSTRUMENTS),
        "market": _text(row, "market", INSTRUMENTS) or None,
        "sector": _text(row, "sector", INSTRUMENTS) or None,
        "previous_close": None if close is None else number_text(close),
        # What was not given follows from the market.
        "currency": _currency(row) or instrument.currency,
    }


def _parse_portfolio(row: TableRow) -> Values:
    try:
        owner = checked_user(row.cells["owner"])
    except ValueError as error:
        raise _error(row, "owner", str(error).partition(": ")[2]) from None
    for column in ("name", "currency"):
        if not row.cells[column]:
            raise _error(row, column, "must not be empty")
    return {
        "id": portfolio_id(row, "id"),
        "owner": owner,
        "name": _text(row, "name", PORTFOLIOS),
        "currency": _currency(row),
    }


def _parse_position(row: TableRow) -> Values:
    number = portfolio_id(row)
    cells = row.cells
    try:
        symbol = _code_of(cells["symbol"])
    except ValueError as error:
        raise _error(row, "symbol", str(error).partition(": ")[2]) from None
    quantity = cells["quantity"]
    if not _PLAIN.fullmatch(quantity):
        try:
            scaled(quantity)
        except QuantityError as error:
            raise _error(row, "quantity", str(error)) from None
        quantity = number_text(Decimal(quantity))
    cost = cells.get("cost") or None
    if cost is not None and not _PLAIN.fullmatch(cost):
        if not _COST.fullmatch(cost):
            raise _error(row, "cost", f"expected a plain number such as 1250.50 or nothing, got {cost!r:.60}")
        cost = number_text(Decimal(cost))
    return {"portfolio_id": number, "symbol": symbol, "quantity": quantity, "cost": cost}


# What comes again in many rows is looked at once, and is one object in all of them.


@lru_cache(maxsize=100_000)
def _code_of(symbol: str) -> str:
    return Instrument(symbol).code


@lru_cache(maxsize=1000)
def _id_of(text: str) -> int | None:
    is_whole = text.isascii() and text.isdigit() and len(text) < 20
    return number if is_whole and (number := int(text)) <= _MAX_ID else None


def portfolio_id(row: TableRow, column: str = "portfolio_id") -> int:
    """Return the id of the portfolio that a row is about.

    Raises:
        TableError: naming line and column.
    """
    text = row.cells[column]
    number = _id_of(text)
    if number is None:
        raise _error(row, column, f"expected a whole number, got {text!r:.60}")
    return number


def _currency(row: TableRow) -> str:
    try:
        return currency_code(row.cells["currency"]) if row.cells.get("currency") else ""
    except ValueError as error:
        raise _error(row, "currency", str(error)) from None


def _text(row: TableRow, column: str, table: sa.Table) -> str:
    text = row.cells.get(column, "")
    size = table.c[column].type.length  # type: ignore[attr-defined]  # only of texts
    if len(text) > size:
        raise _error(row, column, f"has {len(text)} characters, at most {size} fit")
    if not text.isprintable():
        raise _error(row, column, f"holds what cannot be printed: {text!a:.60}")
    return text


def _error(row: TableRow, column: str, problem: str) -> TableError:
    return TableError(f"{row.where}, column {column}: {problem}")


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind("instruments", instruments.COLUMNS, INSTRUMENTS, ("symbol",), _parse_instrument),
        Kind(
            "portfolios",
            Columns(("id", "owner", "name", "currency")),
            PORTFOLIOS,
            ("id",),
            _parse_portfolio,
        ),
        Kind(
            "positions",
            Columns(("portfolio_id", "symbol", "quantity"), ("cost",)),
            POSITIONS,
            ("portfolio_id", "symbol"),
            _parse_position,
        ),
    )
}
"""By the name that they have on the command line."""
