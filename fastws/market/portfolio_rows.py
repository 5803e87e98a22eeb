"""Rows of portfolios and positions, of fastws's tables or of another application's, as lists and arrays."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fastws.market.currencies import currency_code
from fastws.market.quantities import QuantityError, scaled, scaled_array

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

    One without an owner can be shown to nobody and is left out. So is one with a row that cannot be used, and one that
    comes twice, as nobody can tell whose it is: what is wrong with one is no matter of the others.
    """

    def __init__(self, query: Query) -> None:
        self.query = query
        self.ids: npt.NDArray[np.int64] = np.empty(0, np.int64)
        """Ascending, each once; the following are in its order."""
        self.owners: list[str] = []
        self.names: list[str] = []
        self.currencies: list[str | None] = []
        self.left_out: dict[int | None, str] = {}
        """What is wrong with those that cannot be used, by their ids; None stands for those whose id cannot."""
        self._places: dict[int, int] = {}

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Take over rows of id, owner, name and, if the query has it, currency."""
        for number, owner, name, *rest in rows:
            portfolio_id = _whole(number)
            if portfolio_id is None:
                self.left_out.setdefault(None, "id: expected a whole number")
            elif portfolio_id in self._places:
                self.left_out[portfolio_id] = "comes twice"
            elif owner is not None and owner != "":
                texts = [_text(value) for value in (owner, name, *rest)]
                for column, text in zip(("owner", "name", "currency"), texts, strict=False):
                    if text is None:
                        self.left_out.setdefault(portfolio_id, f"{column}: expected a text or a number")
                try:
                    currency = currency_code(texts[2]) if rest and texts[2] else None
                except ValueError as error:
                    problem = str(error).partition(", got ")[0]
                    self.left_out.setdefault(portfolio_id, f"currency: {problem}")
                    currency = None
                self._places[portfolio_id] = len(self.owners)
                self.owners.append(texts[0] or "")
                self.names.append(str(portfolio_id) if name is None else texts[1] or "")
                self.currencies.append(currency)

    def finish(self) -> None:
        """Put them in order, without those that cannot be used."""
        self.ids = np.fromiter(self._places, np.int64, len(self._places))
        self._places = {}
        if (self.ids[1:] < self.ids[:-1]).any():
            order = np.argsort(self.ids)
            self.ids = self.ids[order]
            places = order.tolist()
            self.owners = [self.owners[place] for place in places]
            self.names = [self.names[place] for place in places]
            self.currencies = [self.currencies[place] for place in places]
        self.leave_out(self.left_out)

    def check(self) -> None:
        """After `finish`, see that some of all rows can be used: where none can, it is the query that is wrong.

        Raises:
            StoreError: saying what is wrong with the first.
        """
        if self.left_out and not len(self.ids):
            raise self.query.error(next(iter(self.left_out.values())))

    def leave_out(self, ids: Iterable[int | None]) -> npt.NDArray[np.bool_]:
        """Take some out, after `finish`; return which of those that were there stay."""
        stays = ~np.isin(self.ids, np.array([number for number in ids if number is not None], np.int64))
        if not stays.all():
            kept = np.flatnonzero(stays).tolist()
            self.ids = self.ids[stays]
            self.owners = [self.owners[place] for place in kept]
            self.names = [self.names[place] for place in kept]
            self.currencies = [self.currencies[place] for place in kept]
        return stays


class PositionRows:
    """The rows of a query for positions of the portfolios `ids`; see `PortfolioRows`.

    A portfolio of which a row cannot be used has none of its positions here: part of them would be another value.
    """

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
        """Rows of other portfolios, or of none, which were left out."""
        self.left_out: dict[int, str] = {}
        """What is wrong with those of `ids` that cannot be used."""
        self.problem: str | None = None
        """What is wrong with the first row that cannot be used, whosever it is."""
        self.n_used = 0
        self._ids = ids
        self._numbers = _Numbers()
        # What waits to be taken over, by column.
        self._waiting: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        self._parts: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int64]]] = []

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Take over rows of portfolio id, symbol and quantity."""
        for waiting, values in zip(self._waiting, zip(*rows, strict=True), strict=False):
            waiting.extend(values)
        if len(self._waiting[0]) >= _TAKEN:
            self._take()

    def _take(self) -> None:
        numbers, symbols, values = self._waiting
        self._waiting = ([], [], [])
        if not numbers:
            return
        ids, quantities = _ids_of(numbers), _quantities_of(values)
        if ids is None or quantities is None or set(map(type, symbols)) != {str}:
            numbers, symbols, values = self._find_usable(numbers, symbols, values)
            ids, quantities = np.array(numbers, np.int64), scaled_array(values)
        self.n_used += len(ids)
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

    def _find_usable(
        self, numbers: Sequence[object], symbols: Sequence[object], values: Sequence[object]
    ) -> tuple[list[Any], list[Any], list[Any]]:
        """Return the rows that can be used, and note the portfolios of the others."""
        found: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        for number, symbol, value in zip(numbers, symbols, values, strict=True):
            portfolio_id = _whole(number)
            problem = None if type(symbol) is str else "symbol: expected text"
            try:
                scaled(value)
            except QuantityError as error:
                problem = problem or f"quantity: {str(error).partition(', got ')[0]}"
            if portfolio_id is None:
                self.n_orphans += 1
                self.problem = self.problem or "portfolio_id: expected a whole number"
            elif problem is not None:
                self.problem = self.problem or problem
                self.left_out.setdefault(portfolio_id, problem)
            else:
                for column, cell in zip(found, (portfolio_id, symbol, value), strict=True):
                    column.append(cell)
        return found

    def finish(self) -> None:
        """Sort what was added, and add up what is of one portfolio and symbol, without what cannot be used."""
        self._take()
        self._join()
        if not self.left_out:
            return
        wrong = np.array(list(self.left_out), np.int64)
        strange = wrong[~np.isin(wrong, self._ids)].tolist()
        self.n_orphans += len(strange)
        for portfolio_id in strange:
            del self.left_out[portfolio_id]
        stays = ~np.isin(self._ids[self.portfolios], wrong)
        self.portfolios, self.places = self.portfolios[stays], self.places[stays]
        self.quantities = self.quantities[stays]

    def check(self) -> None:
        """As that of `PortfolioRows`."""
        if self.problem is not None and not self.n_used:
            raise self.query.error(self.problem)

    def _join(self) -> None:
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
        for portfolio_id in self._ids[portfolios[starts[sizes > _MAX_SUM]]].tolist():
            self.left_out.setdefault(portfolio_id, "quantity: rows of one symbol add up to too much")
        sums = np.add.reduceat(self.quantities[order], starts)
        is_held = sums != 0
        self.portfolios = portfolios[starts][is_held]
        self.places = places[starts][is_held]
        self.quantities = sums[is_held]


def leave_out(portfolios: PortfolioRows, positions: PositionRows) -> dict[int | None, str]:
    """Take the portfolios of which positions cannot be used out of those that are there.

    Both are finished. Returns what is wrong with what was left out of either.
    """
    if positions.left_out:
        stays = portfolios.leave_out(positions.left_out)
        moved = np.cumsum(stays, dtype=np.int32) - np.int32(1)
        positions.portfolios = moved[positions.portfolios]
    return portfolios.left_out | dict(positions.left_out)


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


def _ids_of(numbers: Sequence[Any]) -> npt.NDArray[np.int64] | None:
    """`numbers` as ids; None where one of them is none."""
    ids = numbers if set(map(type, numbers)) == {int} else [_whole(number) for number in numbers]
    try:
        return np.fromiter(ids, np.int64, len(ids))  # what is None raises
    except (TypeError, OverflowError):
        return None


def _quantities_of(values: Sequence[object]) -> npt.NDArray[np.int64] | None:
    try:
        return scaled_array(values)
    except QuantityError:
        return None


def _text(value: object) -> str | None:
    """`value` as a text, empty for None; None where it is neither a text nor a number nor one such as a UUID.

    A whole number has no point, whatever the column: SQLite makes 7.0 of an id 7 in one that is REAL.
    """
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool | bytes | bytearray | memoryview):
        return None
    if isinstance(value, float | Decimal):
        whole = _whole(value)
        if whole is not None:
            return str(whole)
        return str(value) if Decimal(value).is_finite() else None
    return str(value)


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
