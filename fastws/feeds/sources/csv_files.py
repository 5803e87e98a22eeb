"""Prices from CSV files that another program writes: one file, or all of a directory."""

from __future__ import annotations

import asyncio
import csv
import datetime
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from fastws._market import Instrument
from fastws.errors import TableError
from fastws.feeds.sources.base import Answer, Day, Quote, Source, SourceError, SourceSetupError
from fastws.logs import log_limited
from fastws.market.csv_tables import check_separator, csv_problem

if TYPE_CHECKING:
    from fastws.settings import Settings

DEFAULT_FILE: Final = "prices.csv"
_MAX_FILE_SIZE: Final = 64 << 20
_MAX_TIME_DIGITS: Final = 11
HEADER: Final = "symbol,price[,previous_close,change,change_percent,volume,open,high,low,currency,time,date]"
"""As it is shown to people."""

_log = structlog.get_logger("fastws.feeds")

_Cells = dict[str, str]
_State = tuple[tuple[str, int, int], ...]


class _Table(NamedTuple):
    """`last` has the newest row of each symbol and its time in ms, `days` the rows with a date, in their order; `wrong`
    says why the newest row of a symbol cannot be used."""

    last: dict[str, tuple[int, _Cells]]
    days: dict[str, dict[datetime.date, _Cells]]
    wrong: dict[str, str]


class CSVSource(Source):
    """Reads ``csv:FILE`` or ``csv:DIRECTORY``, without either the file prices.csv, again whenever it has changed.

    A file begins with a header of the columns that it has, in any order: ``symbol``, ``price`` (or ``close``),
    ``previous_close, change, change_percent, volume, open, high, low, currency``, ``time`` (ISO 8601 with its zone, or
    seconds since the Unix epoch) of the price, and ``date`` (2026-11-20) of a daily price. Without a column symbol the
    name of the file is the symbol: AAPL.csv. Other columns are not read.

    The price of a symbol is that of its newest row: by its time, else its date, else the last one. Where it has no time
    and no date, it is as old as the file. Rows with a date are also the daily prices, once that day is over in UTC.
    Lines that begin with ``#`` are comments above the header, and below it those without a comma. Write a new file
    beside the old one and rename it, so that none is read half-written; a last line without its end is not used. A row
    with too few or too many cells is left out: its symbol has no price until there is a newer row.
    """

    name = "csv"
    symbols_per_call = 100_000

    def __init__(self, argument: str, settings: Settings) -> None:
        self._path = Path(argument or DEFAULT_FILE)
        if not self._path.exists():
            how = "name another as csv:FILE" if argument else "write it, or name another as csv:FILE"
            raise SourceSetupError(f"the source csv has no file {self._path}; {how}")
        self._state: _State | None = None
        self._table = _Table({}, {}, {})

    async def quotes(self, instruments: Sequence[Instrument]) -> Answer:
        table = await self._read()
        quotes, refused = [], {}
        for instrument in instruments:
            code = instrument.code
            if code in table.wrong:
                refused[code] = table.wrong[code]
            elif code in table.last:
                quotes.append(_quote(code, *table.last[code]))
        return Answer(quotes, refused)

    async def days(self, instrument: Instrument, first: datetime.date, last: datetime.date) -> Sequence[Day]:
        table = await self._read()
        # The file does not say when a session ends; none goes on after its date has ended in UTC.
        today = datetime.datetime.now(datetime.UTC).date()
        return [
            Day(
                date=date,
                close=cells.get("close") or cells.get("price"),
                open=cells.get("open") or None,
                high=cells.get("high") or None,
                low=cells.get("low") or None,
                volume=cells.get("volume") or None,
                currency=cells.get("currency") or None,
            )
            for date, cells in table.days.get(instrument.code, {}).items()
            if date < today
        ]

    async def _read(self) -> _Table:
        self._state, self._table = await asyncio.to_thread(self._read_changed)
        return self._table

    def _read_changed(self) -> tuple[_State, _Table]:
        """Off the loop."""
        try:
            paths = sorted(self._path.glob("*.csv")) if self._path.is_dir() else [self._path]
            state: _State = tuple((str(path), *_stamp(path)) for path in paths)
            if state == self._state:
                return state, self._table
            table = _Table({}, {}, {})
            for path in paths:
                _read_file(path, table)
        except OSError as error:
            raise SourceError(f"{error.filename or self._path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise SourceError(f"{self._path} is not UTF-8") from None
        if not paths:
            raise SourceError(f"the directory {self._path} has no file *.csv")
        return state, table


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    if status.st_size > _MAX_FILE_SIZE:
        raise SourceError(f"{path} has more than {_MAX_FILE_SIZE >> 20} MiB")
    return status.st_mtime_ns, status.st_size


def _read_file(path: Path, table: _Table) -> None:
    with path.open(encoding="utf-8-sig", newline="") as file:
        written_ms = os.fstat(file.fileno()).st_mtime_ns // 1_000_000
        text = file.read()
    rows = list(_rows(path, csv.reader(io.StringIO(text, newline=""), strict=True)))
    for n, (where, cells, problem) in enumerate(rows, 1):
        code = cells.get("symbol", path.stem)
        if not code:
            continue
        if problem:
            table.wrong[code] = f"malformed: {where}: {problem}"
            continue
        if n == len(rows) and not text.endswith(("\n", "\r")):
            # Of 410 that is being written 41 may be there.
            table.wrong[code] = f"malformed: {where}: may be cut off; end the last line, too"
            continue
        try:
            date = datetime.date.fromisoformat(cells["date"]) if cells.get("date") else None
            at_ms = _time_of(cells.get("time", ""), date, written_ms)
        except ValueError as error:
            table.wrong[code] = f"malformed: {where}: {error}"
            continue
        if date is not None:
            table.days.setdefault(code, {})[date] = cells
        if code not in table.last or at_ms >= table.last[code][0]:
            table.last[code] = at_ms, cells
            table.wrong.pop(code, None)


def _rows(path: Path, reader: Iterator[list[str]]) -> Iterator[tuple[str, _Cells, str]]:
    """Yield where each row is, its cells, and what is wrong with it as a whole; those have no cell but their symbol."""
    header: list[str] | None = None
    try:
        for number, cells in enumerate(reader, 1):
            cells = [cell.strip() for cell in cells]
            is_comment = cells[:1] != [] and cells[0].startswith("#")
            if not any(cells) or (is_comment and (header is None or len(cells) == 1)):
                continue
            if header is None:
                header = [cell.lower().replace(" ", "_") for cell in cells]
                if "price" not in header and "close" not in header:
                    try:
                        check_separator(cells[0].replace(" ", ""), str(path))
                    except TableError as error:
                        raise SourceError(f"{error}; expected the header {HEADER}") from None
                    raise SourceError(
                        f"{path}: the header has neither the column price nor close; expected {HEADER}"
                    )
                continue
            if is_comment:
                raise SourceError(
                    f"{path}, row {number}: begins with '#' and has {len(cells)} cells; "
                    "delete it if it is a comment, put another column first if it is a row"
                )
            where = f"{path}, row {number}"
            if len(cells) == len(header):
                yield where, dict(zip(header, cells, strict=True)), ""
                continue
            # Cut off, as while the file is written: no price of it could be trusted.
            problem = f"has {len(cells)} cells, the header has {len(header)}"
            log_limited(_log, "csv-row", "a row of prices was left out", row=where, problem=problem)
            known = dict(zip(header, cells, strict=False))
            yield where, {"symbol": known.get("symbol", "")} if "symbol" in header else {}, problem
    except csv.Error as error:
        raise SourceError(f"{path}: {csv_problem(error)}") from None
    if header is None:
        raise SourceError(f"{path} is empty")


def _time_of(text: str, date: datetime.date | None, written_ms: int) -> int:
    """When the price of a row was made, ms since the Unix epoch."""
    if text.isascii() and text.isdigit() and len(text) <= _MAX_TIME_DIGITS:
        return int(text) * 1000
    if text:
        at = datetime.datetime.fromisoformat(text)
        if at.tzinfo is None:
            raise ValueError(f"the time {text[:40]!r} has no zone")
    elif date is not None:
        at = datetime.datetime.combine(date, datetime.time(), datetime.UTC)
    else:
        return written_ms
    return int(at.timestamp() * 1000)


def _quote(code: str, at_ms: int, cells: _Cells) -> Quote:
    return Quote(
        code=code,
        price=cells.get("price") or cells.get("close") or "",
        previous_close=cells.get("previous_close") or None,
        change=cells.get("change") or None,
        change_percent=cells.get("change_percent") or None,
        volume=cells.get("volume") or None,
        high=cells.get("high") or None,
        low=cells.get("low") or None,
        currency=cells.get("currency") or None,
        time_ms=at_ms,
        # A daily price is the last one until there is a newer.
        is_closed=not cells.get("time") and bool(cells.get("date")),
    )
