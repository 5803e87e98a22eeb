"""Rows of portfolios and positions, of fastws's tables or of another application's, as lists and arrays."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fastws.market.quantities import QuantityError, scaled_array

if TYPE_CHECKING:
    from fastws.market.portfolio_queries import Query

_MAX_ID: Final = 2**63 - 1
_TAKEN: Final = (
    2000  # positions that become arrays together; less than a millisecond in which other threads wait
)
# Sums beyond would not fit; far enough from it that a float can tell.
_MAX_SUM: Final = 2.0**63 * (1 - 1e-9)
_PRICE: Final = re.compile(r"[0-9]{1,30}(\.[0-9]{1,30})?")


class PortfolioRows:
    """The rows of a query for portfolios; `add` them, then `finish`, and then the members are there.

    One without an owner can be shown to nobody and is left out.
    """

    def __init__(self, query: Query) -> None:
        self.query = query
        self.ids: npt.NDArray[np.int64] = np.empty(0, np.int64)
        """Ascending, each once; the following are in its order."""
        self.owners: list[str] = []
        self.names: list[str] = []
        self.currencies: list[str | None] = []
        self._places: dict[int, int] = {}

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Take over rows of id, owner, name and, if the query has it, currency.

        Raises:
            StoreError: an id is none, or comes twice.
        """
        for number, owner, name, *rest in rows:
            portfolio_id = self._id(number)
            if portfolio_id in self._places:
                raise self.query.error(f"portfolio {portfolio_id} comes twice")
            currency = rest[0] if rest else None
            if owner is not None and owner != "":
                self._places[portfolio_id] = len(self.owners)
                self.owners.append(str(owner))
                self.names.append(str(portfolio_id) if name is None else str(name))
                self.currencies.append(None if currency is None or currency == "" else str(currency))

    def _id(self, value: object) -> int:
        portfolio_id = _whole(value)
        if portfolio_id is None:
            raise self.query.error(f"id: expected a whole number, got {value!r:.60}")
        return portfolio_id

    def finish(self) -> None:
        self.ids = np.fromiter(self._places, np.int64, len(self._places))
        self._places = {}
        if (self.ids[1:] < self.ids[:-1]).any():
            order = np.argsort(self.ids)
            self.ids = self.ids[order]
            places = order.tolist()
            self.owners = [self.owners[place] for place in places]
            self.names = [self.names[place] for place in places]
            self.currencies = [self.currencies[place] for place in places]


class PositionRows:
    """The rows of a query for positions of the portfolios `ids`; see `PortfolioRows`."""

    def __init__(self, query: Query, ids: npt.NDArray[np.int64]) -> None:
        self.query = query
        self.symbols: list[str] = []
        """What is held, each once."""
        self.portfolios: npt.NDArray[np.int32] = np.empty(0, np.int32)
        """Places in `ids`, ascending."""
        self.places: npt.NDArray[np.int32] = np.empty(0, np.int32)
        """Places in `symbols`."""
        self.quantities: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self.n_orphans = 0
        """Rows of other portfolios, which were left out."""
        self._ids = ids
        self._numbers = _Numbers()
        # What waits to be taken over, by column.
        self._waiting: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        self._parts: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]] = []

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Take over rows of portfolio id, symbol and quantity.

        Raises:
            StoreError: naming the portfolio, the symbol and what is wrong.
        """
        for waiting, values in zip(self._waiting, zip(*rows, strict=True), strict=False):
            waiting.extend(values)
        if len(self._waiting[0]) >= _TAKEN:
            self._take()

    def _take(self) -> None:
        numbers, symbols, values = self._waiting
        self._waiting = ([], [], [])
        if not numbers:
            return
        ids = self._read_ids(numbers)
        if set(map(type, symbols)) != {str}:
            wrong = next(symbol for symbol in symbols if type(symbol) is not str)
            raise self.query.error(f"symbol: expected text, got {wrong!r:.60}")
        try:
            quantities = scaled_array(values)
        except QuantityError as error:
            i = error.index
            raise self.query.error(f"portfolio {ids[i]}, {symbols[i]!s:.64}: quantity: {error}") from None
        places = np.searchsorted(self._ids, ids)
        if len(self._ids):
            is_known = self._ids[np.minimum(places, len(self._ids) - 1)] == ids
        else:
            is_known = np.zeros(len(ids), bool)
        self.n_orphans += len(ids) - int(np.count_nonzero(is_known))
        is_held = is_known & (quantities != 0)
        if not is_held.all():
            places, quantities = places[is_held], quantities[is_held]
            symbols = [symbol for symbol, counts in zip(symbols, is_held.tolist(), strict=True) if counts]
        symbol_places = np.fromiter(map(self._numbers.__getitem__, symbols), np.int32, len(symbols))
        self._parts.append((places.astype(np.int32), symbol_places, quantities))

    def _read_ids(self, numbers: Sequence[object]) -> npt.NDArray[np.int64]:
        ids = numbers if set(map(type, numbers)) == {int} else [_whole(number) for number in numbers]
        try:
            return np.fromiter(ids, np.int64, len(ids))  # what is None raises
        except (TypeError, OverflowError):
            wrong = next(number for number in numbers if _whole(number) is None)
            raise self.query.error(f"portfolio_id: expected a whole number, got {wrong!r:.60}") from None

    def finish(self) -> None:
        """Sort what was added, and add up what is of one portfolio and symbol.

        Raises:
            StoreError: a sum is too large.
        """
        self._take()
        if not self._parts:
            return
        portfolios, places, quantities = map(np.concatenate, zip(*self._parts, strict=True))
        self._parts = []
        self.symbols = list(self._numbers)
        if (portfolios[1:] < portfolios[:-1]).any():
            order = np.argsort(portfolios, kind="stable")
            portfolios, places, quantities = portfolios[order], places[order], quantities[order]
        self.portfolios, self.places, self.quantities = portfolios, places, quantities
        # The tables of fastws hold none twice.
        if self.query.setting is not None:
            self._add_up()

    def _add_up(self) -> None:
        order = np.lexsort((self.places, self.portfolios))
        portfolios, places = self.portfolios[order], self.places[order]
        is_first = np.ones(len(order), bool)
        is_first[1:] = (portfolios[1:] != portfolios[:-1]) | (places[1:] != places[:-1])
        if is_first.all():
            return
        starts = np.flatnonzero(is_first)
        sizes = np.add.reduceat(np.abs(self.quantities[order].astype(np.float64)), starts)
        if (sizes > _MAX_SUM).any():
            i = starts[int(np.argmax(sizes))]
            raise self.query.error(
                f"portfolio {self._ids[portfolios[i]]}, {self.symbols[places[i]]}: its rows add up to too much"
            )
        sums = np.add.reduceat(self.quantities[order], starts)
        is_held = sums != 0
        self.portfolios = portfolios[starts][is_held]
        self.places = places[starts][is_held]
        self.quantities = sums[is_held]


class _Numbers(dict[str, int]):
    """Numbers symbols in the order in which they are first asked for."""

    def __missing__(self, symbol: str) -> int:
        self[symbol] = number = len(self)
        return number


def price_of(value: object) -> int | Decimal:
    """Return a price with its digits; of a float, those of 15 with which it was written.

    Raises:
        ValueError: it is no number above 0.
    """
    if isinstance(value, float):
        text = format(Decimal(f"{value:.15g}"), "f") if 0 < value < _MAX_ID else ""
    elif isinstance(value, Decimal):
        text = format(value, "f") if value.is_finite() and abs(value.adjusted()) < 30 else ""
    else:
        text = "" if isinstance(value, bool) else str(value)
    if not _PRICE.fullmatch(text) or not text.strip("0."):
        raise ValueError(f"expected a price above 0, got {value!r:.60}")
    return Decimal(text) if "." in text else int(text)


def date_of(value: object) -> datetime.date | None:
    """Return the day of a date, a time, or a text that begins with one such as 2025-11-11; None for None.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date) or value is None:
        return value
    try:
        return datetime.date.fromisoformat(str(value)[:10])
    except ValueError:
        raise ValueError(f"date: expected a day such as 2025-11-11, got {value!r:.60}") from None


def _whole(value: object) -> int | None:
    """`value` as a whole number; None where it is none that fits."""
    if isinstance(value, str | Decimal | float) and not isinstance(value, bool):
        try:
            number = Decimal(value)
            value = int(number) if abs(number) <= _MAX_ID and number == int(number) else None
        except (ArithmeticError, ValueError):
            return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MAX_ID:
        return value
    return None
