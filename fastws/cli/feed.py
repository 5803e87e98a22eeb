"""``fastws feed``: the price-feed service, a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Final, TextIO

import structlog
import uvloop

from fastws._market import Instrument
from fastws.cli.arguments import count, some_duration
from fastws.cli.options import add_config, add_settings, begin
from fastws.cli.symbols import choose_instruments
from fastws.errors import SettingsError
from fastws.feeds.asker import Asker
from fastws.feeds.base import FeedState
from fastws.feeds.poller import SourcePoller
from fastws.feeds.publisher import HttpPublisher, Publisher
from fastws.feeds.service import Keep, PriceFeedService, Progress
from fastws.feeds.sources import SourceSetupError
from fastws.relay.address import parse_address
from fastws.server.parts import find_source
from fastws.settings import Settings
from fastws.settings_checks import check_standby

FEED_FLAGS: Final = (
    "source",
    "publish_url",
    "relay",
    "feed_standby",
    "admin_token",
    "database",
    "symbols_file",
    "log_level",
    "log_format",
)
FEED_EXAMPLES: Final = """\
examples:
  fastws feed --source yahoo --symbols-file symbols.csv --admin-token "$TOKEN"
      to the server of this machine, every 30 s
  fastws feed --source kis --interval 15 --batch-size 100 --publish-url http://10.0.0.5:8000,http://10.0.0.6:8000
      to two servers, twice as often
  fastws feed --source yahoo --relay redis://10.0.0.7/0
      to all servers that this Redis joins
  fastws feed --source yahoo --relay redis://10.0.0.7/0 --feed-standby 1
      on another machine: polls once the first one is gone
  REALTIME_UPDATE_INTERVAL=60 fastws start_price_feed --source csv:/data/prices.csv
      with the name and the variables that it has elsewhere

REALTIME_UPDATE_INTERVAL (30 s), REALTIME_BATCH_SIZE (50) and REALTIME_CACHE_TIMEOUT (300 s, how long a polled
price counts as fresh) are variables for poll_interval, poll_batch_size and poll_fresh. The token belongs into
FASTWS_ADMIN_TOKEN: flags show in lists of processes.

A file of prices (csv:FILE) is CSV in UTF-8, with a header; columns in any order, those in brackets may be left out:
  symbol,price[,previous_close,change,change_percent,volume,open,high,low,currency,time,date]
"""

_ANY: Final = ("0.0.0.0", "::", "")  # noqa: S104 - what a server listens on, which is no address to connect to

_log = structlog.get_logger("fastws.cli")


def fill_feed(command: argparse.ArgumentParser) -> None:
    command.epilog = FEED_EXAMPLES
    add_config(command)
    _add_polling_flags(command)
    add_settings(command, FEED_FLAGS)
    command.add_argument(
        "--symbols",
        nargs="+",
        metavar="SYMBOL",
        help="poll these only (default: those of the database, or all of symbols_file)",
    )
    command.add_argument("--verbose", action="store_true", help="a line for every answer")
    command.set_defaults(run=_feed)


def _add_polling_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--interval",
        "--poll-interval",
        dest="poll_interval",
        type=some_duration,
        default=argparse.SUPPRESS,
        metavar="SECONDS",
        help="pause between two polls of a symbol (default: 30 s)",
    )
    command.add_argument(
        "--batch-size",
        "--poll-batch-size",
        dest="poll_batch_size",
        type=count,
        default=argparse.SUPPRESS,
        metavar="N",
        help="symbols asked for at once, where the source takes so many (default: 50)",
    )


def _feed(options: argparse.Namespace) -> int:
    settings = begin(options)
    check_standby(settings)
    urls = [] if settings.relay is not None and not settings.publish_url else publish_urls(settings)
    if urls and not settings.admin_token:
        # Not by `settings.error`: that would say that it comes from the default.
        raise SettingsError(
            "admin_token: publishing needs the server's admin token, and there is none; set FASTWS_ADMIN_TOKEN",
            setting="admin_token",
        )
    source = find_source(settings, settings.source, setting="source")
    chosen = choose_instruments(settings, options.symbols)
    line = StatusLine(sys.stderr)

    async def run() -> None:
        poller = SourcePoller(
            Asker(source, max_age=settings.poll_fresh),
            interval=settings.poll_interval,
            batch_size=settings.poll_batch_size,
            fresh=settings.poll_fresh,
        )
        publishers = make_publishers(settings, urls, chosen)
        service = PriceFeedService(
            poller,
            chosen,
            publishers,
            is_verbose=options.verbose,
            on_progress=line.show,
            keep=make_keep(settings, source.name, publishers, lambda: service.status),
        )
        if not poller.wanted:
            raise SettingsError(
                f"source: {source.name} serves none of the {len(chosen)} symbols; name others with --symbols",
                setting="source",
            )
        _log.info(
            "price feed begins",
            source=source.name,
            symbols=len(poller.wanted),
            not_served=len(chosen) - len(poller.wanted),
            interval_s=settings.poll_interval,
            servers=[publisher.name for publisher in publishers],
        )
        task = asyncio.ensure_future(service.run())
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signal_number, task.cancel)
        await asyncio.wait((task,))
        line.clear()
        if not task.cancelled():
            task.result()
        done = service.progress
        _log.info("price feed was ended", published=done.n_published, not_published=done.n_waiting)

    with line:
        try:
            uvloop.run(run())
        except SourceSetupError as error:
            raise SettingsError(f"source: {error}", setting="source") from None
    return 0


def make_publishers(
    settings: Settings, urls: Iterable[str], instruments: Iterable[Instrument]
) -> list[Publisher]:
    """What brings prices to `urls`, and over the relay where there is one."""
    token = settings.admin_token or ""
    publishers: list[Publisher] = [HttpPublisher(url, token, fresh=settings.poll_fresh) for url in urls]
    if settings.relay is not None:
        from fastws.relay.publisher import RelayPublisher  # noqa: PLC0415 - it takes 60 ms, for those who need it

        publishers.append(
            RelayPublisher(
                parse_address(settings.relay),
                instruments,
                prefix=settings.relay_prefix,
                n_shards=settings.relay_shards,
                interval_ms=settings.relay_interval_ms,
                history_bytes=settings.relay_history_bytes,
                fresh=settings.poll_fresh,
                name=settings.relay_name,
            )
        )
    return publishers


def make_keep(
    settings: Settings, feed: str, publishers: Iterable[Publisher], status: Callable[[], FeedState]
) -> Keep | None:
    """What has one of several processes poll, where a relay lets them know of each other; `status` is this one's."""
    if settings.relay is None:
        return None
    from fastws.relay.publisher import RelayPublisher  # noqa: PLC0415 - see make_publishers

    (publisher,) = (each for each in publishers if isinstance(each, RelayPublisher))
    return publisher.make_keeper(
        feed, rank=settings.feed_standby, patience=settings.feed_takeover, status=status
    ).keep


def publish_urls(settings: Settings) -> list[str]:
    """The servers to publish to: those that are named, else the one that listens on host and port.

    Raises:
        SettingsError: there is none.
    """
    if settings.publish_url:
        return list(settings.publish_url)
    if settings.admin_bind is not None:
        return [f"{_scheme(settings)}://{settings.admin_bind}"]
    if settings.port == 0:
        raise settings.error(
            "publish_url", "the server's port is not known", "name it, as http://127.0.0.1:8000"
        )
    host = "127.0.0.1" if settings.host in _ANY else settings.host
    return [f"{_scheme(settings)}://{f'[{host}]' if ':' in host else host}:{settings.port}"]


def _scheme(settings: Settings) -> str:
    return "http" if settings.certfile is None else "https"


class StatusLine:
    """How the service is doing, in the last line of a terminal; nothing elsewhere, where log lines tell it.

    Log lines take its place while they are written, inside of ``with``.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._is_shown = False

    def __enter__(self) -> StatusLine:
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._make_room)
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()
        for handler in logging.getLogger().handlers:
            handler.removeFilter(self._make_room)

    def show(self, progress: Progress) -> None:
        if not self._is_terminal:
            return
        text = (
            f"{progress.state}: {progress.n_fresh} of {progress.n_symbols} symbols fresh, "
            f"{progress.n_published} prices published, {progress.n_waiting} waiting"
        )
        # One column stays free: a full line would wrap.
        self._stream.write(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K")
        self._stream.flush()
        self._is_shown = True

    def clear(self) -> None:
        if self._is_shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._is_shown = False

    def _make_room(self, record: logging.LogRecord) -> bool:
        self.clear()
        return True
