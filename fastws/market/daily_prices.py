"""Daily prices in the database: what a symbol has opened, closed and traded at, day by day."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import sqlalchemy as sa

from fastws.market.alert_store import number_text
from fastws.market.bulk import delete_rows, insert_rows
from fastws.market.portfolio_rows import date_of, price_of
from fastws.market.schema import DAILY_PRICES

if TYPE_CHECKING:
    from fastws.market.store import Store

_CHUNK: Final = 300  # symbols in one statement, three values of each at most; SQLite before 3.32 takes 999
_MAX_SIZE: Final = 40  # of the text of a number
_MAX_VOLUME: Final = 2**63 - 1


class DailyPrice(NamedTuple):
    """One trading day of a symbol; `date` is that where it is listed. Numbers keep their digits.

    None stands for what the source did not say.
    """

    symbol: str
    date: datetime.date
    open: int | Decimal | None
    high: int | Decimal | None
    low: int | Decimal | None
    close: int | Decimal
    volume: int | None


class DailyPrices:
    """The daily prices in `store`, one a symbol and day. Every method raises StoreError; see :class:`Store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def write(self, rows: Sequence[DailyPrice]) -> int:
        """Store days in the place of what is there of them, all or none; return how many are new or differ.

        Of several rows of one symbol and day the last counts.

        Raises:
            ValueError: a number is none, is not above zero (a volume: is below), or is too long; nothing is stored.
        """
        # In one order, so that instances that share a database wait for each other and do not block each other.
        newest = {(row.symbol, row.date): _values(row) for row in rows}
        wanted = dict(sorted(newest.items()))
        if not wanted:
            return 0

        def job(connection: sa.Connection) -> int:
            known = _read_days(connection, wanted)
            written = [key for key, values in wanted.items() if known.get(key) != values]
            delete_rows(connection, DAILY_PRICES, [key for key in written if key in known])
            columns = DAILY_PRICES.columns.keys()
            rows = [dict(zip(columns, key + wanted[key], strict=True)) for key in written]
            insert_rows(connection, DAILY_PRICES, rows)
            return len(written)

        return await self._store.run(job)


def newest_days(
    connection: sa.Connection, symbols: Sequence[str], problems: dict[str, str]
) -> dict[str, list[DailyPrice]]:
    """Return the newest two days of each of `symbols`, newest first; a symbol without any is not in it.

    Neither is one with a day that cannot be used, as an older one would be taken for the newest: `problems` gets what
    is wrong with it. Each costs a few look-ups, however many days there are.
    """
    found: dict[str, list[DailyPrice]] = {}
    wrong = set()
    for i in range(0, len(symbols), _CHUNK):
        chunk = symbols[i : i + _CHUNK]
        names = {f"s{n}": symbol for n, symbol in enumerate(chunk)}
        text = sa.text(_NEWEST.format(values=", ".join(f"(CAST(:{name} AS VARCHAR(64)))" for name in names)))
        for row in connection.execute(text, names):
            try:
                found.setdefault(row.symbol, []).append(_daily_price(row))
            except ValueError as error:
                wrong.add(row.symbol)
                problems.setdefault(row.symbol, f"daily_prices: {error}")
    for days in found.values():
        days.sort(key=lambda day: day.date, reverse=True)
    return {symbol: days for symbol, days in found.items() if symbol not in wrong}


# A join with the two newest dates of each symbol; a window over all days would read them all.
_NEWEST: Final = """
WITH meant (symbol) AS (VALUES {values}),
newest AS (
  SELECT symbol, (SELECT max(p.date) FROM daily_prices p WHERE p.symbol = meant.symbol) AS date FROM meant
),
both_days AS (
  SELECT symbol, date FROM newest
  UNION ALL
  SELECT symbol, (SELECT max(p.date) FROM daily_prices p WHERE p.symbol = newest.symbol AND p.date < newest.date)
  FROM newest
)
SELECT p.symbol, p.date, p.open, p.high, p.low, p.close, p.volume
FROM both_days JOIN daily_prices p ON p.symbol = both_days.symbol AND p.date = both_days.date
"""


def _read_days(
    connection: sa.Connection, wanted: Mapping[tuple[str, datetime.date], object]
) -> dict[tuple[str, datetime.date], tuple[Any, ...]]:
    first = min(date for _, date in wanted)
    known = {}
    for symbols in _chunks(list(dict.fromkeys(symbol for symbol, _ in wanted))):
        is_meant = DAILY_PRICES.c.symbol.in_(symbols) & (DAILY_PRICES.c.date >= first)
        for row in connection.execute(sa.select(DAILY_PRICES).where(is_meant)):
            known[row.symbol, row.date] = tuple(row)[2:]
    return known


def _chunks(symbols: Sequence[str]) -> Iterator[Sequence[str]]:
    for i in range(0, len(symbols), _CHUNK):
        yield symbols[i : i + _CHUNK]


def _values(row: DailyPrice) -> tuple[str | None, str | None, str | None, str, int | None]:
    if row.volume is not None and not 0 <= row.volume <= _MAX_VOLUME:
        raise ValueError(
            f"{row.symbol} on {row.date}: volume: expected a volume of 0 or more, got {row.volume}"
        )
    return (
        _optional_text(row, "open"),
        _optional_text(row, "high"),
        _optional_text(row, "low"),
        _price_text(row, "close"),
        row.volume,
    )


def _optional_text(row: DailyPrice, column: str) -> str | None:
    return None if getattr(row, column) is None else _price_text(row, column)


def _price_text(row: DailyPrice, column: str) -> str:
    price = getattr(row, column)
    is_number = isinstance(price, Decimal) and price.is_finite() and abs(price.adjusted()) < _MAX_SIZE
    if isinstance(price, int) or is_number:
        text = number_text(price)
        if price > 0 and len(text) <= _MAX_SIZE:
            return text
    raise ValueError(f"{row.symbol} on {row.date}: {column}: expected a price above 0, got {price!s:.60}")


def _daily_price(row: sa.Row[Any]) -> DailyPrice:
    """A row as the driver has it; SQLite holds whatever was written to it.

    Raises:
        ValueError: saying what is wrong.
    """
    date = date_of(row.date)
    if date is None:
        raise ValueError("date: is missing")

    def number(column: str) -> int | Decimal:
        try:
            return price_of(getattr(row, column))
        except ValueError as error:
            raise ValueError(f"{column} on {date}: {error}") from None

    others = ("open", "high", "low")
    open_, high, low = (None if getattr(row, column) is None else number(column) for column in others)
    return DailyPrice(row.symbol, date, open_, high, low, number("close"), row.volume)
