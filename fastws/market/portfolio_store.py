"""Portfolios, their positions and the closes of what they hold, read from the database into arrays."""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
import structlog

from fastws.logs import log_limited
from fastws.market.currencies import currency_code
from fastws.market.daily_prices import newest_days
from fastws.market.portfolio_queries import (
    Digest,
    Queries,
    Query,
    execute_raw,
    make_queries,
)
from fastws.market.portfolio_rows import PortfolioRows, PositionRows, date_of, leave_out, price_of
from fastws.market.quantities import SCALE
from fastws.market.schema import DAILY_PRICES, INSTRUMENTS, PORTFOLIO_CHANGES, PORTFOLIO_VERSION
from fastws.market.store import ANSWER_SECONDS, StoreError
from fastws.market.triggers import ALL, has_triggers

if TYPE_CHECKING:
    from fastws.market.store import Store

QUANTITY_SCALE: Final = SCALE

_MAX_IDS: Final = 500  # in one statement
_MAX_CHANGES: Final = 10_000  # beyond, reading everything is as fast
_MAX_ID: Final = 2**63 - 1
_MAX_VERSIONS: Final = 100  # that changes can be told from
# Where nobody notes changes, everything is read to find them; that may take this share of the time.
_DIGEST_SHARE: Final = 0.05

_log = structlog.get_logger("fastws.portfolios")


class Close(NamedTuple):
    """A daily close; `date` is the trading day where the symbol is listed."""

    date: datetime.date
    close: int | Decimal


class Closes(NamedTuple):
    """What is known of the closes of a symbol; numbers keep their digits.

    `previous` is the `previous_close` of the instrument table in the database. `days` are the newest daily closes, two
    at most, the newest first; that may be one of today.
    """

    previous: int | Decimal | None = None
    days: tuple[Close, ...] = ()
    currency: str | None = None


class Loaded(msgspec.Struct, frozen=True):
    """P portfolios and their N positions in S symbols, as they were at one moment.

    A position is one in each of three arrays; no two have the same portfolio and symbol, and none is of nothing.
    """

    version: int
    """To be compared with that of `PortfolioStore.changes`."""
    ids: npt.NDArray[np.int64]
    """P, ascending, each once."""
    owners: list[str]
    names: list[str]
    currencies: list[str | None]
    symbols: list[str]
    position_portfolios: npt.NDArray[np.int32]
    """N places in `ids`, ascending."""
    position_symbols: npt.NDArray[np.int32]
    """N places in `symbols`."""
    quantities: npt.NDArray[np.int64]
    """N exact quantities in units of 10**-QUANTITY_SCALE; what was sold short is below 0."""
    closes: dict[str, Closes]
    """By symbol, of those of `symbols` of which something is known."""
    n_orphans: int
    """Positions that were left out, because there is no such portfolio, or it has no owner."""
    left_out: dict[int | None, str] = {}
    """Portfolios that were left out, and what is wrong with a row of them; None stands for those without an id."""
    closes_left_out: dict[str, str] = {}
    """Symbols whose closes were left out, and what is wrong with a row of them."""


class Changes(NamedTuple):
    """What differs from a version: ids of portfolios, also of new and deleted ones, and symbols with other closes.

    None stands for: nobody can tell, so everything may differ.
    """

    version: int
    portfolios: list[int] | None
    symbols: list[str] | None


class _State(NamedTuple):
    """What a version stands for: the number that triggers raise, and what was seen of where there are none."""

    number: int
    portfolios: int
    closes: int


class PortfolioStore:
    """The portfolios in `store`, in the tables of fastws or where `queries` say. Every method raises StoreError.

    1. Nothing is written. Everything is read beside what else the store does; see :meth:`Store.read`.
    2. Versions are numbers of this object. They are equal when nothing has changed.
    3. A database that hangs fails: `ANSWER_SECONDS` without a row are too long.
    4. Changes in the tables of fastws are known row by row, whichever program has made them. Where a query reads, or
       a database has no triggers, one is only known to have happened: by the answer to `changes_query`, or by reading
       all of it again, with a twentieth of the time.
    """

    def __init__(self, store: Store, queries: Queries | None = None) -> None:
        self._store = store
        self._queries = make_queries() if queries is None else queries
        # The following belong to the jobs, which come one after the other.
        self._version = 0
        # Of the last versions, so that one who has missed some can catch up.
        self._states: dict[int, _State] = {}
        self._next_digest = 0.0
        self._told: set[int | None] = set()  # portfolios that the log has as left out

    async def load(self) -> Loaded:
        """Return everything."""
        return await self._load(None)

    async def load_portfolios(self, ids: Sequence[int]) -> Loaded:
        """Return some portfolios, and of positions and closes only what is theirs. One that is missing is not there."""
        return await self._load(sorted({number for number in ids if abs(number) <= _MAX_ID}))

    async def load_closes(self, symbols: Sequence[str]) -> dict[str, Closes]:
        """Return the closes of those of `symbols` of which something is known, and can be used."""
        closes, problems = await self._store.read(
            lambda connection: self._read_closes(connection, symbols), silence=ANSWER_SECONDS
        )
        _tell_of_closes(problems)
        return closes

    async def changes(self, since: int) -> Changes:
        """Return what differs from the version `since`; nothing does when the version is still that one."""
        return await self._store.read(
            lambda connection: self._find_changes(connection, since), silence=ANSWER_SECONDS
        )

    async def _load(self, ids: Sequence[int] | None) -> Loaded:
        loaded = await self._store.read(
            lambda connection: self._read(connection, ids), silence=ANSWER_SECONDS
        )
        if loaded.n_orphans:
            _log.warning(
                "positions were left out: their portfolios are not there", positions=loaded.n_orphans
            )
        self._tell_of_left_out(loaded.left_out, ids)
        _tell_of_closes(loaded.closes_left_out)
        return loaded

    def _tell_of_left_out(self, left_out: Mapping[int | None, str], ids: Sequence[int] | None) -> None:
        """Log what was left out of all portfolios, or of `ids`: a new one at once, whatever was logged before it."""
        known = self._told
        self._told = set(left_out) if ids is None else known.difference(ids).union(left_out)
        new = [number for number in left_out if number not in known]
        if not left_out:
            return
        # What is in the row is of a user, and stays out of the log.
        event = "portfolios were left out: rows of them cannot be used"
        first = new[0] if new else next(iter(left_out))
        fields: dict[str, Any] = {"portfolios": len(left_out), "first": first, "problem": left_out[first]}
        if new:
            _log.warning(event, **fields)
        else:
            log_limited(_log, "portfolios-left-out", event, **fields)

    # Jobs.

    def _read(self, connection: sa.Connection, ids: Sequence[int] | None) -> Loaded:
        keys = [None] if ids is None else [ids[i : i + _MAX_IDS] for i in range(0, len(ids), _MAX_IDS)]
        portfolios = PortfolioRows(self._queries.portfolios)
        self._fill(connection, portfolios, keys)
        positions = PositionRows(self._queries.positions, portfolios.ids)
        self._fill(connection, positions, keys)
        left_out = leave_out(portfolios, positions)
        closes, closes_left_out = self._read_closes(connection, positions.symbols)
        return Loaded(
            version=self._find_version(connection),
            ids=portfolios.ids,
            owners=portfolios.owners,
            names=portfolios.names,
            currencies=portfolios.currencies,
            symbols=positions.symbols,
            position_portfolios=positions.portfolios,
            position_symbols=positions.places,
            quantities=positions.quantities,
            closes=closes,
            n_orphans=positions.n_orphans,
            left_out=left_out,
            closes_left_out=closes_left_out,
        )

    def _fill(
        self,
        connection: sa.Connection,
        rows: PortfolioRows | PositionRows,
        keys: Sequence[Sequence[int] | None],
    ) -> None:
        columns = rows.query.columns(connection)
        for some in keys:
            with closing(rows.query.rows(connection, columns, some)) as parts:
                for part in parts:
                    self._go_on()
                    rows.add(part)
        rows.finish()
        if keys == [None]:
            rows.check()

    def _go_on(self) -> None:
        if not self._store.is_open:
            raise StoreError(f"database {self._store.shown_url}: was closed")
        self._store.get_on()

    def _read_closes(
        self, connection: sa.Connection, symbols: Sequence[str]
    ) -> tuple[dict[str, Closes], dict[str, str]]:
        """Return what can be used, and of the other symbols what is wrong with them."""
        found = {symbol: Closes() for symbol in symbols}
        problems: dict[str, str] = {}
        for row in connection.execute(
            sa.select(INSTRUMENTS.c.symbol, INSTRUMENTS.c.previous_close, INSTRUMENTS.c.currency)
        ):
            if row.symbol in found:
                try:
                    previous = None if row.previous_close is None else price_of(row.previous_close)
                    found[row.symbol] = Closes(previous, (), _currency_of(row.currency))
                except ValueError as error:
                    problems[row.symbol] = f"instruments: {error}"
        for symbol, days in newest_days(connection, symbols, problems).items():
            closes = tuple(Close(day.date, day.close) for day in days)
            found[symbol] = found[symbol]._replace(days=closes)
        if self._queries.closes is not None:
            for symbol, queried in self._query_closes(connection, self._queries.closes, problems).items():
                if symbol in found:
                    found[symbol] = _over(queried, found[symbol])
        problems = {symbol: problem for symbol, problem in problems.items() if symbol in found}
        usable = {symbol: closes for symbol, closes in found.items() if closes != Closes()}
        return {symbol: closes for symbol, closes in usable.items() if symbol not in problems}, problems

    def _query_closes(
        self, connection: sa.Connection, query: Query, problems: dict[str, str]
    ) -> dict[str, Closes]:
        """Return what `closes_query` says: the close of before is one without a date, of the others two count.

        `problems` gets symbols with a row that cannot be used, and what is wrong with it.
        """
        columns = query.columns(connection)
        found: dict[str, Closes] = {}
        with closing(query.rows(connection, columns)) as parts:
            for part in parts:
                self._go_on()
                for values in part:
                    row = dict(zip(columns, values, strict=True))
                    if not row["close"]:  # many write 0 for a price that they do not know
                        continue
                    try:
                        price, date = price_of(row["close"]), date_of(row.get("date"))
                        currency = _currency_of(row.get("currency") or None)
                    except ValueError as error:
                        problems.setdefault(row["symbol"], f"closes_query: {error}")
                        continue
                    known = found.get(row["symbol"], Closes(currency=currency))
                    if date is None:
                        known = known._replace(previous=price)
                    else:
                        days = sorted(
                            (*known.days, Close(date, price)), key=lambda day: day.date, reverse=True
                        )
                        known = known._replace(days=tuple(days[:2]))
                    found[row["symbol"]] = known
        return found

    # Versions.

    def _find_version(self, connection: sa.Connection) -> int:
        state = self._find_state(connection)
        if state != self._states.get(self._version):
            self._version += 1
            self._states[self._version] = state
            self._states.pop(self._version - _MAX_VERSIONS, None)
        return self._version

    def _find_state(self, connection: sa.Connection) -> _State:
        is_noted = has_triggers(connection)
        number = connection.scalar(sa.select(PORTFOLIO_VERSION.c.version)) or 0
        if is_noted and self._queries.is_own and self._queries.closes is None:
            return _State(number, 0, 0)
        now = time.monotonic()
        last = self._states.get(self._version)
        if last is not None and now < self._next_digest:
            return last._replace(number=number)
        portfolios, closes = Digest(), Digest()
        if self._queries.changes is not None:
            result = execute_raw(connection, self._queries.changes, "changes_query")
            portfolios.add([tuple(row) for row in result])
            closes = portfolios
        else:
            if not (is_noted and self._queries.is_own):
                self._digest(connection, self._queries.portfolios, portfolios)
                self._digest(connection, self._queries.positions, portfolios)
            if self._queries.closes is not None:
                self._digest(connection, self._queries.closes, closes)
        if not is_noted:
            for statement in (
                sa.select(INSTRUMENTS.c.symbol, INSTRUMENTS.c.previous_close, INSTRUMENTS.c.currency),
                sa.select(sa.func.count(), sa.func.max(DAILY_PRICES.c.date)).select_from(DAILY_PRICES),
            ):
                closes.add([tuple(row) for row in connection.execute(statement)])
        took = time.monotonic() - now
        self._next_digest = time.monotonic() + took / _DIGEST_SHARE
        return _State(number, portfolios.value, closes.value)

    def _digest(self, connection: sa.Connection, query: Query, digest: Digest) -> None:
        with closing(query.rows(connection, query.columns(connection))) as parts:
            for part in parts:
                self._go_on()
                digest.add(part)

    def _find_changes(self, connection: sa.Connection, since: int) -> Changes:
        version = self._find_version(connection)
        if version == since:
            return Changes(version, [], [])
        before, after = self._states.get(since), self._states[version]
        # A lower number is that of another database, or of a copy that was put back.
        if before is None or after.number < before.number:
            return Changes(version, None, None)
        noted = connection.execute(
            sa.select(PORTFOLIO_CHANGES.c.kind, PORTFOLIO_CHANGES.c.item)
            .where(PORTFOLIO_CHANGES.c.version > before.number)
            .limit(_MAX_CHANGES + 1)
        ).all()
        if len(noted) > _MAX_CHANGES or any(item == ALL for _, item in noted):
            return Changes(version, None, None)
        # What goes on in the tables of fastws is no matter where portfolios are elsewhere.
        portfolios = [int(item) for kind, item in noted if kind == "portfolio" and self._queries.is_own]
        symbols = [item for kind, item in noted if kind == "symbol"]
        return Changes(
            version,
            portfolios if before.portfolios == after.portfolios else None,
            symbols if before.closes == after.closes else None,
        )


def _over(queried: Closes, stored: Closes) -> Closes:
    """What is known of a symbol from a query and from the tables of fastws, where the query wins."""
    days = {day.date: day for day in (*stored.days, *queried.days)}
    newest = sorted(days, reverse=True)[:2]
    return Closes(
        stored.previous if queried.previous is None else queried.previous,
        tuple(days[date] for date in newest),
        queried.currency or stored.currency,
    )


def _currency_of(value: object) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        try:
            return currency_code(value)
        except ValueError as error:
            raise ValueError(f"currency: {error}") from None
    raise ValueError("currency: expected text")


def _tell_of_closes(problems: Mapping[str, str]) -> None:
    if problems:
        symbol, problem = next(iter(problems.items()))
        log_limited(
            _log,
            "closes-left-out",
            "closes were left out: rows of their symbols cannot be used; what was known of these stays",
            symbols=len(problems),
            first=symbol,
            problem=problem,
        )
