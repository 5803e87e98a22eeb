"""The instrument table: what can be subscribed to, and the files it is read from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, KeysView
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fastws._market import Instrument
from fastws.errors import InstrumentError
from fastws.market.csv_tables import (
    Columns,
    TableRow,
    check_new,
    check_separator,
    read_rows,
    read_text,
)

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_MAX_NAME: Final = 255
COLUMNS: Final = Columns(("symbol", "name", "market", "sector", "previous_close"), ("currency",))

CURRENCIES: Final = {
    "KOSPI": "KRW",
    "KOSDAQ": "KRW",
    "KONEX": "KRW",
    "NASDAQ": "USD",
    "NYSE": "USD",
    "AMEX": "USD",
}
"""The currency of a market whose instruments come without one."""

MAX_INSTRUMENTS: Final = 100_000
"""A table that has so many gets none for a code that only turns up: of a subscriber, a publisher, a saved value."""

# How the columns are called in messages of Instrument, where the two differ.
_FIELDS: Final = {"code": "symbol"}


class TableChange(NamedTuple):
    """What a newer table has changed: codes, in the order of the table that they are of."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]


class Instruments:
    """Instruments by code, in the order in which they were added.

    None is ever replaced or removed: what was handed out stays valid, and one code is one object.
    """

    def __init__(self, instruments: Iterable[Instrument] = ()) -> None:
        self._by_code: dict[str, Instrument] = {}
        # Codes of tables, and not those that were added because somebody used them.
        self._tabled: set[str] = set()
        # By code again, so that one leaves a large group as fast as a small one.
        self._by_market: dict[str, dict[str, Instrument]] = {}
        self._by_sector: dict[str, dict[str, Instrument]] = {}
        self.extend(instruments)

    @classmethod
    def load_default(cls) -> Instruments:
        """Return the table that ships with fastws: well-known Korean and US stocks."""
        return cls(_read_csv(resources.files("fastws.data") / "instruments.csv", "instruments.csv"))

    @classmethod
    def load_csv(cls, path: str | Path) -> Instruments:
        """Read a CSV file (UTF-8) with the header ``symbol,name,market,sector,previous_close[,currency]``.

        The columns may stand in any order. `market`, `sector`, `previous_close` and `currency` may be empty;
        the currency is then that of the market, if `CURRENCIES` knows it. Blank lines do not count, nor do
        lines that begin with ``#`` above the header, and below it such without a comma.

        Raises:
            InstrumentError: naming file, line and column; a code comes twice, or the file has no instruments.
        """
        return cls(_read_csv(Path(path), str(path)))

    @classmethod
    def load_symbols_file(cls, path: str | Path) -> Instruments:
        """Read the table of a server from a CSV file, as `load_csv`, or from a plain list of codes.

        A list has one code per line; ``#`` starts a comment. What the default table knows about a code is
        taken from there; another code becomes an instrument named like it. A file is a CSV when its first
        line that is neither blank nor a comment holds a comma.

        Raises:
            InstrumentError: naming file and line.
        """
        shown = str(path)
        text = read_text(Path(path), shown, InstrumentError)
        lines = (line.strip() for line in text.splitlines())
        first = next((line for line in lines if line and not line.startswith("#")), "")
        return cls(_parse_csv(text, shown) if "," in first else _parse_list(text, shown))

    def __len__(self) -> int:
        return len(self._by_code)

    def __iter__(self) -> Iterator[Instrument]:
        return iter(self._by_code.values())

    def __contains__(self, code: object) -> bool:
        return code in self._by_code

    def get(self, code: str) -> Instrument | None:
        """Return the instrument of `code`, or None."""
        return self._by_code.get(code)

    def add(self, instrument: Instrument) -> None:
        """Add an instrument.

        Raises:
            InstrumentError: its code is taken.
        """
        if instrument.code in self._by_code:
            raise InstrumentError(f"{instrument.code} is already in the instrument table")
        self._by_code[instrument.code] = instrument
        _enter(self._by_market, instrument.market, instrument)
        _enter(self._by_sector, instrument.sector, instrument)

    def extend(self, instruments: Iterable[Instrument]) -> None:
        """Add all of `instruments`, or none when the code of one is taken or comes twice.

        Raises:
            InstrumentError: naming that code.
        """
        added: dict[str, Instrument] = {}
        for instrument in instruments:
            if instrument.code in self._by_code or instrument.code in added:
                raise InstrumentError(f"{instrument.code} is already in the instrument table")
            added[instrument.code] = instrument
        for instrument in added.values():
            self.add(instrument)
        self._tabled.update(added)

    def compare(self, newer: Instruments) -> TableChange:
        """Return what a newer table changes. Another thread may do this, while codes are added here.

        A code that is `missing` there stays as it is: somebody may hold a subscription to it, or an alert. Those that
        were in no table either, because they came by :meth:`add`, are not missed.
        """
        known_by_code = self._by_code.copy()
        tabled = self._tabled.copy()
        return TableChange(
            added=tuple(code for code in newer._by_code if code not in known_by_code),
            changed=tuple(
                code
                for code, instrument in newer._by_code.items()
                if code in known_by_code and _facts(known_by_code[code]) != _facts(instrument)
            ),
            missing=tuple(code for code in known_by_code if code in tabled and code not in newer._by_code),
        )

    def update(self, newer: Instruments, change: TableChange) -> Iterator[str]:
        """Take over the new codes of a newer table, and what it says of known ones; yield each when it is done.

        `change` is what :meth:`compare` has found. Between two of them others may go on.
        """
        self._tabled.update(newer._by_code)
        for code in (*change.changed, *change.added):
            instrument = newer._by_code[code]
            known = self._by_code.get(code)
            if known is None:
                self.add(instrument)
            else:
                _leave(self._by_market, known.market, known)
                _leave(self._by_sector, known.sector, known)
                known.become(instrument)
                _enter(self._by_market, known.market, known)
                _enter(self._by_sector, known.sector, known)
            yield code

    @property
    def markets(self) -> KeysView[str]:
        """Names of the markets that have members; follows later additions."""
        return self._by_market.keys()

    @property
    def sectors(self) -> KeysView[str]:
        """Names of the sectors that have members; follows later additions."""
        return self._by_sector.keys()

    def members_of_market(self, market: str) -> tuple[Instrument, ...]:
        """Return the instruments listed on `market`, none for an unknown one."""
        return tuple(self._by_market.get(market, {}).values())

    def members_of_sector(self, sector: str) -> tuple[Instrument, ...]:
        """Return the instruments of `sector` on all markets, none for an unknown one."""
        return tuple(self._by_sector.get(sector, {}).values())


def _facts(instrument: Instrument) -> tuple[object, ...]:
    # The previous close as text, so that 1.90 and 1.9 differ, as they do in messages.
    close = None if instrument.previous_close is None else str(instrument.previous_close)
    return instrument.name, instrument.market, instrument.sector, instrument.currency, close


def _enter(groups: dict[str, dict[str, Instrument]], name: str | None, instrument: Instrument) -> None:
    if name is not None:
        groups.setdefault(name, {})[instrument.code] = instrument


def _leave(groups: dict[str, dict[str, Instrument]], name: str | None, instrument: Instrument) -> None:
    if name is not None:
        del groups[name][instrument.code]
        if not groups[name]:
            del groups[name]


def _read_csv(path: Traversable, shown: str) -> list[Instrument]:
    return _parse_csv(read_text(path, shown, InstrumentError), shown)


def _parse_csv(text: str, shown: str) -> list[Instrument]:
    instruments: dict[str, Instrument] = {}
    lines_of: dict[object, int] = {}
    for row in read_rows(text, shown, COLUMNS, InstrumentError):
        instrument = parse_instrument(row)
        check_new(instrument.code, lines_of, row.line, row.where, InstrumentError)
        instruments[instrument.code] = instrument
    if not instruments:
        raise InstrumentError(f"{shown}: has a header and no instruments")
    return list(instruments.values())


def parse_instrument(row: TableRow) -> Instrument:
    """Return the instrument of a row with `COLUMNS`.

    Raises:
        InstrumentError: naming line and column.
    """
    where, cells = row.where, row.cells
    for column in ("symbol", "name"):
        if not cells[column]:
            raise InstrumentError(f"{where}, column {column}: must not be empty")
        if not cells[column].isprintable():
            raise InstrumentError(
                f"{where}, column {column}: holds what cannot be printed: {cells[column]!a:.60}"
            )
    if len(cells["name"]) > _MAX_NAME:
        raise InstrumentError(
            f"{where}, column name: has {len(cells['name'])} characters, at most {_MAX_NAME} fit"
        )
    market = cells["market"] or None
    try:
        instrument = Instrument(
            cells["symbol"],
            cells["name"],
            market,
            cells["sector"] or None,
            cells["previous_close"] or None,
            cells.get("currency") or (CURRENCIES.get(market) if market else None),
        )
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise InstrumentError(f"{where}, column {_FIELDS.get(field, field)}: {problem}") from None
    if instrument.previous_close is not None and instrument.previous_close <= 0:
        raise InstrumentError(
            f"{where}, column previous_close: expected a price above 0, got {cells['previous_close']}; "
            "leave it empty when there is none"
        )
    return instrument


def _parse_list(text: str, shown: str) -> list[Instrument]:
    known = Instruments.load_default()
    instruments: list[Instrument] = []
    lines_of: dict[object, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        code = line.partition("#")[0].strip()
        if not code:
            continue
        where = f"{shown}, line {number}"
        check_separator(code, where, ", or write one code per line", InstrumentError)
        check_new(code, lines_of, number, where, InstrumentError)
        try:
            instruments.append(known.get(code) or Instrument(code))
        except ValueError as error:
            raise InstrumentError(f"{where}: {error}") from None
    if not instruments:
        raise InstrumentError(f"{shown}: names no symbols; write one code per line")
    return instruments
