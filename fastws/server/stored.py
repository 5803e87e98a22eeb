"""What a server does with its database at the start, besides loading alerts, portfolios and last values."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import islice

import structlog

from fastws.errors import SettingsError
from fastws.feeds.simulator import SimulatorFeed
from fastws.market.alerts import AlertBook
from fastws.market.instrument_store import merge, read_instruments
from fastws.market.instruments import Instruments, TableChange
from fastws.market.market import Market
from fastws.market.portfolio_queries import Queries, QueryError, check_queries, make_queries
from fastws.market.store import Store, StoreError
from fastws.settings import Settings

_log = structlog.get_logger("fastws")


def find_queries(settings: Settings) -> Queries:
    """Where settings say that portfolios are read from.

    Raises:
        SettingsError: a setting needs another one.
    """
    for given, missing in (("portfolios_query", "positions_query"), ("positions_query", "portfolios_query")):
        if getattr(settings, given) is not None and getattr(settings, missing) is None:
            raise settings.error(given, f"there is no {missing}", "set both, or neither")
    for name in ("portfolios_query", "closes_query", "changes_query"):
        if getattr(settings, name) is not None and settings.database is None:
            raise settings.error(name, "there is no database to ask", "set database, too")
    if settings.changes_query is not None and settings.portfolios_query is settings.closes_query is None:
        raise settings.error(
            "changes_query",
            "there is no query of which it could tell changes",
            "leave it out; of fastws's own tables they are known",
        )
    return make_queries(
        settings.portfolios_query, settings.positions_query, settings.closes_query, settings.changes_query
    )


def query_error(settings: Settings, error: QueryError) -> SettingsError:
    """The error of a query that cannot be used, as one of its setting."""
    return settings.error(error.setting, error.problem, "correct the query, or the database that it asks")


async def check_stored(store: Store, settings: Settings) -> None:
    """See that the database understands the queries of settings.

    Raises:
        SettingsError: it does not, or a query has not the columns that it needs.
        StoreError: the database does not do its part.
    """
    try:
        await store.read(partial(check_queries, find_queries(settings)))
    except QueryError as error:
        raise query_error(settings, error) from None


async def with_stored(store: Store, instruments: Instruments) -> Instruments:
    """Return a table with the instruments of the database, too, which win over those of `instruments`.

    What the database cannot give is left out and logged: prices are served without it.
    """
    try:
        stored = await read_instruments(store)
    except StoreError as error:
        _log.warning("the instruments of the database are not there", error=str(error))
        return instruments
    if stored.problems:
        _log.warning(
            "rows of instruments were left out; correct or delete them",
            rows=len(stored.problems),
            first=list(islice(stored.problems, 3)),
        )
    if not stored.instruments:
        return instruments
    # In a thread: a large table takes longer than clients should wait for their prices.
    return await asyncio.to_thread(merge, instruments, stored.instruments)


async def take_instruments(store: Store, market: Market, simulator: SimulatorFeed | None) -> None:
    """Give `market` the instruments of the database, too, and have them played by `simulator`, where it is to."""
    newer = await with_stored(store, market.instruments)
    change = market.instruments.compare(newer)
    named = [instrument.code for instrument in market.instruments]
    for _ in market.update_instruments(newer, change):
        await asyncio.sleep(0)
    if simulator is not None:
        await _simulate(simulator, market.instruments, named, change)


async def _simulate(
    simulator: SimulatorFeed, instruments: Instruments, named: Sequence[str], change: TableChange
) -> None:
    """Play the instruments of the database, too; those that it adds need a previous close to begin at."""
    if not change.added and not change.changed:
        return
    get = instruments.get
    added = [instrument for code in change.added if (instrument := get(code)) is not None]
    known = [instrument for code in named if (instrument := get(code)) is not None]
    played = [instrument for instrument in added if instrument.previous_close is not None]
    # In a thread: each is opened, and there may be many.
    refused = await asyncio.to_thread(simulator.play, known + played)
    refused += [instrument.code for instrument in added if instrument.previous_close is None]
    if refused:
        _log.warning(
            "instruments of the database are not simulated: they have no previous_close that a day could begin at",
            symbols=len(refused),
            first=refused[:5],
        )


def claim(store: Store, *, is_joined: bool) -> None:
    """Take the database for this server; say so where another one has it, unless the two are joined."""
    if not store.claim() and not is_joined:
        _log.warning(
            "another server uses this database: an alert made at one of them does not fire at the other, and "
            "each saves its last values over the other's; join them with a relay, or give each a database "
            "of its own",
            database=store.shown_url,
        )


def warn_of_unknown(alerts: AlertBook) -> None:
    """Say which symbols alerts wait for that are in no table."""
    if unknown := alerts.unknown_codes():
        _log.warning(
            "alerts wait for symbols that nobody knows; they fire once there are prices of them",
            alerts=sum(unknown.values()),
            symbols=len(unknown),
            first=list(islice(unknown, 5)),
        )
