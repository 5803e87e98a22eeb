"""``fastws update-prices``: daily prices of a source into the database."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import signal
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import structlog
import uvloop

from fastws._market import Instrument
from fastws.cli.arguments import count
from fastws.cli.options import add_config, add_settings, begin
from fastws.cli.parsers import FAILED, INTERRUPTED
from fastws.cli.symbols import choose_instruments
from fastws.errors import SettingsError
from fastws.feeds.asker import Asker, SourceAwayError
from fastws.feeds.sources import NoPricesError, Source, SourceSetupError
from fastws.market.daily_prices import DailyPrice, DailyPrices
from fastws.server.parts import find_source, make_store
from fastws.settings import Settings

UPDATE_FLAGS: Final = ("source", "database", "symbols_file", "log_level", "log_format")
UPDATE_EXAMPLES: Final = """\
examples:
  fastws update-prices --database sqlite:///fastws.db
      the last close of every symbol of the database, or of symbols_file
  fastws update-prices --symbols AAPL MSFT --historical --days 30 --dry-run
      what would be written of the last 30 days, and nothing written

Only trading days that are over are written: the close of the others is not known yet. What is there of a day is
replaced. The exit status is 1 when there are no prices of some symbol; those of the others are written.
"""

DEFAULT_DAYS: Final = 30
# Long enough to find a last trading day behind any holidays.
_LAST_DAYS: Final = 14
_PATIENCE: Final = 300.0
_TELL_INTERVAL: Final = 10.0

_log = structlog.get_logger("fastws.cli")


class Outcome(NamedTuple):
    """What came of an update: rows new or changed, and by symbol why there are none."""

    n_rows: int
    n_changed: int
    failed: dict[str, str]


def fill_update_prices(command: argparse.ArgumentParser) -> None:
    command.epilog = UPDATE_EXAMPLES
    add_config(command)
    add_settings(command, UPDATE_FLAGS)
    command.add_argument(
        "--symbols",
        nargs="+",
        metavar="SYMBOL",
        help="these only (default: those of the database, or all of symbols_file)",
    )
    command.add_argument(
        "--historical", action="store_true", help="not the last trading day only, but those of --days"
    )
    command.add_argument(
        "--days", type=count, metavar="N", help=f"with --historical: how far back (default: {DEFAULT_DAYS})"
    )
    command.add_argument("--dry-run", action="store_true", help="write nothing, show what would be written")
    command.set_defaults(run=_update)


def _update(options: argparse.Namespace) -> int:
    if options.days is not None and not options.historical:
        raise SettingsError("days: --days goes with --historical; add it", setting="days", source="--days")
    settings = begin(options)
    if settings.database is None and not options.dry_run:
        raise settings.error(
            "database",
            "there is none to write to",
            "name one, as --database sqlite:///fastws.db, or add --dry-run",
        )
    source = find_source(settings, settings.source, setting="source")
    chosen = choose_instruments(settings, options.symbols)

    async def run() -> Outcome | None:
        task = asyncio.ensure_future(_fill(settings, source, chosen, options))
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signal_number, task.cancel)
        await asyncio.wait((task,))
        return None if task.cancelled() else task.result()

    outcome = uvloop.run(run())
    if outcome is None:
        return INTERRUPTED
    n = outcome.n_rows if options.dry_run else outcome.n_changed
    rows = "1 row" if n == 1 else f"{n} rows"
    prices = "1 daily price" if outcome.n_rows == 1 else f"{outcome.n_rows} daily prices"
    print(
        f"{f'would write {rows}' if options.dry_run else f'{rows} new or changed'}, {prices} from {source.name}"
    )
    for symbol, reason in outcome.failed.items():
        print(f"fastws: error: no daily prices of {symbol}: {reason}", file=sys.stderr)
    return FAILED if outcome.failed else 0


async def _fill(
    settings: Settings, source: Source, chosen: Sequence[Instrument], options: argparse.Namespace
) -> Outcome:
    store = None if options.dry_run else make_store(settings)
    try:
        if store is not None:
            await store.open()
        update = _Update(source, settings.poll_fresh, None if store is None else DailyPrices(store))
        last = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(
            days=1
        )  # somewhere it is that day
        if options.historical:
            first = last - datetime.timedelta(days=options.days or DEFAULT_DAYS)
            return await update.run(chosen, first, last)
        return await update.run(chosen, last - datetime.timedelta(days=_LAST_DAYS), last, newest_only=True)
    except SourceSetupError as error:
        raise SettingsError(f"source: {error}", setting="source") from None
    finally:
        await source.close()
        if store is not None:
            await store.close()


class _Update:
    """Asks for one symbol after the other, and writes what comes of each; shows it where there is no table."""

    def __init__(self, source: Source, max_age: float, table: DailyPrices | None) -> None:
        self._source = source
        self._asker = Asker(source, max_age=max_age)
        self._table = table
        self._told_at = time.monotonic()

    async def run(
        self,
        instruments: Sequence[Instrument],
        first: datetime.date,
        last: datetime.date,
        *,
        newest_only: bool = False,
    ) -> Outcome:
        n_rows = n_changed = 0
        failed: dict[str, str] = {}
        for n, instrument in enumerate(instruments):
            code = instrument.code
            self._tell(n, len(instruments))
            if not self._source.serves(instrument):
                failed[code] = f"the source {self._source.name} does not serve it"
                continue
            try:
                rows, refused = await self._asker.days(instrument, first, last, _PATIENCE)
            except NoPricesError as error:
                failed[code] = str(error)
                continue
            except SourceAwayError as error:
                # It was tried several times, and would be with each of the others.
                failed |= {other.code: f"source away: {error}" for other in instruments[n:]}
                break
            for date, reason in refused.items():
                _log.warning("daily price refused", symbol=code, date=str(date), why=reason)
            if newest_only:
                rows = rows[-1:]
            if not rows:
                failed[code] = "the source has none that can be used"
                continue
            n_rows += len(rows)
            if self._table is None:
                _show(rows)
            else:
                n_changed += await self._table.write(rows)
        return Outcome(n_rows, n_changed, failed)

    def _tell(self, n: int, n_all: int) -> None:
        now = time.monotonic()
        if now - self._told_at >= _TELL_INTERVAL:
            self._told_at = now
            _log.info("prices are updated", done=n, symbols=n_all)


def _show(rows: Sequence[DailyPrice]) -> None:
    for row in rows:
        texts = ["-" if value is None else str(value) for value in row[2:]]
        names = ("open", "high", "low", "close", "volume")
        values = " ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
        print(f"would write {row.symbol} {row.date}: {values}")
