"""The parts of a server that settings name: its hub, its feed, its instruments, its database, its calendars."""

from __future__ import annotations

import asyncio
import datetime
import logging
import secrets
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import NamedTuple

from fastws import deflate
from fastws._core import Hub
from fastws.errors import InstrumentError, SettingsError
from fastws.feeds.base import Feed
from fastws.feeds.kis import KISFeed, KISOptions, find_keys, has_servable
from fastws.feeds.poll import PollFeed
from fastws.feeds.replay import ReplayFeed
from fastws.feeds.simulator import SimulatorFeed
from fastws.feeds.sources import Source, SourceSetupError, open_source
from fastws.kis.auth import KISAuthManager
from fastws.kis.errors import KISCredentialsError
from fastws.market.calendars import KOREAN_EXCHANGE, CalendarError, find_days, make_calendars
from fastws.market.freshness import Freshness
from fastws.market.instruments import Instruments
from fastws.market.interest import Interest
from fastws.market.korean_days import LISTED_UNTIL
from fastws.market.market import Market
from fastws.market.sessions import KST, Calendar
from fastws.market.store import Store, StoreError
from fastws.server.freshness_watch import warn_of_end
from fastws.settings import Settings
from fastws.settings_checks import parse_feed


def make_feed(
    settings: Settings, instruments: Instruments, interest: Callable[[], Mapping[str, Interest]]
) -> Feed | None:
    """The feed that the setting `feed` names, None for ``none``; `interest` says what clients want.

    Raises:
        SettingsError: it needs something that is not there.
    """
    spec = parse_feed(settings.feed)
    if spec.kind == "kis":
        check_kis_symbols(settings, instruments)
        return KISFeed(
            find_kis_keys(settings),
            interest=interest,
            fixed=fixed_symbols(settings, instruments),
            options=KISOptions(
                exchange=settings.kis_exchange,
                has_books=settings.kis_books,
                registrations=settings.kis_registrations,
                min_dwell=settings.kis_min_dwell,
                poll_rate=settings.kis_poll_rate,
                poll_interval=settings.kis_poll_interval,
            ),
        )
    if spec.kind == "poll":
        return PollFeed(
            find_source(settings, spec.source),
            interval=settings.poll_interval,
            batch_size=settings.poll_batch_size,
            fresh=settings.poll_fresh,
            interest=interest,
            fixed=[] if settings.symbols_file is None else [instrument.code for instrument in instruments],
        )
    if spec.kind == "sim":
        return SimulatorFeed(
            instruments,
            rate=settings.simulator_rate,
            seed=settings.simulator_seed,
            book_share=settings.simulator_book_share,
            opening_burst=settings.simulator_opening_burst,
        )
    if spec.path is not None:
        return ReplayFeed(
            spec.path,
            speed=settings.replay_speed,
            loop=settings.replay_loop,
            max_gap=settings.replay_max_gap,
        )
    return None


def find_kis_keys(settings: Settings) -> list[KISAuthManager]:
    """The app keys of KIS.

    Raises:
        SettingsError: there are none, or they cannot be used.
    """
    try:
        return find_keys(settings.kis_keys)
    except KISCredentialsError as error:
        setting = "kis_keys" if settings.kis_keys else "feed"
        raise settings.error(setting, str(error), "kis_keys takes several of them") from None


def check_kis_symbols(settings: Settings, instruments: Instruments) -> None:
    """Raise SettingsError when KIS has no symbol of `symbols_file`, which `instruments` are from."""
    if settings.symbols_file is not None and len(instruments) and not has_servable(instruments):
        raise settings.error(
            "symbols_file",
            "KIS has none of its symbols",
            "name Korean stocks, with codes such as 005930, or another feed",
        )


def find_source(settings: Settings, text: str, *, setting: str = "feed") -> Source:
    """The source of polled prices that `text` names, which is of `setting`.

    Raises:
        SettingsError: there is none, or it cannot be used.
    """
    try:
        return open_source(text, settings)
    except SourceSetupError as error:
        where = settings.sources.get(setting, "default")
        raise SettingsError(f"{setting}: {error} (from {where})", setting=setting, source=where) from None


def fixed_symbols(settings: Settings, instruments: Instruments) -> list[str]:
    """The symbols of `symbols_file` that come before those that clients look at."""
    if settings.symbols_file is None:
        return []
    return [instrument.code for instrument in islice(instruments, settings.kis_fixed_symbols)]


def load_instruments(settings: Settings) -> Instruments:
    """The instrument table: that of `symbols_file`, or the one that comes with fastws.

    Raises:
        SettingsError: the file is none.
    """
    if settings.symbols_file is None:
        return Instruments.load_default()
    try:
        return Instruments.load_symbols_file(settings.symbols_file)
    except InstrumentError as error:
        raise settings.error("symbols_file", str(error), "correct the file or name another") from None


def make_store(settings: Settings) -> Store:
    """The database that the setting `database` names, not yet connected.

    Raises:
        SettingsError: it names none, or one whose driver is not installed.
    """
    try:
        return Store(settings.database)
    except StoreError as error:
        raise SettingsError(str(error), setting="database") from None


class Calendars(NamedTuple):
    """The calendar of each market that has one, and the last day off in Korea that they know of."""

    by_market: dict[str, Calendar]
    last_day: datetime.date


def find_calendars(settings: Settings, today: datetime.date) -> Calendars:
    """The calendars that settings name; it is `today` in Korea.

    Raises:
        SettingsError: one cannot be used.
    """
    try:
        days = find_days(settings.holidays, today)
        # A day that somebody has named beyond the list says nothing of those between; the library knows them.
        last_day = max(days) if KOREAN_EXCHANGE in settings.holidays else LISTED_UNTIL
        return Calendars(make_calendars(settings.calendars, days.values(), today), last_day)
    except CalendarError as error:
        # The texts were checked, so it is a library: that of whoever names an exchange.
        setting = "holidays" if KOREAN_EXCHANGE in settings.holidays else "calendars"
        raise settings.error(setting, str(error), "install it, or name days and other calendars") from None


def make_freshness(settings: Settings, market: Market, *, is_quiet: Callable[[str], bool]) -> Freshness:
    """What judges whether symbols are stale; see `Freshness`. Where the listed days off end soon, it is said.

    Raises:
        SettingsError: a calendar cannot be used.
    """
    today = datetime.datetime.now(KST).date()
    calendars = find_calendars(settings, today)
    warn_of_end(calendars.last_day, today)
    return Freshness(
        market,
        calendars.by_market,
        least=settings.symbol_stale_min,
        most=settings.symbol_stale_max,
        learning=settings.symbol_stale_learning,
        is_quiet=is_quiet,
    )


def make_hub(settings: Settings) -> Hub:
    """A hub on the running loop, which keeps no history yet."""
    hub = Hub(
        asyncio.get_running_loop(),
        epoch=secrets.token_hex(4),
        interval_ms=settings.batch_interval_ms,
        inflate=deflate.inflate,
        # None before the values of before are in place: nobody has missed those.
        history_size=0,
        logger=logging.getLogger("fastws.core"),
    )
    configure_hub(hub, settings)
    return hub


def configure_hub(hub: Hub, settings: Settings) -> None:
    """Give `hub` all that can change while it runs, but for the size of its history."""
    hub.configure(
        outbox_soft_size=settings.outbox_soft_bytes,
        outbox_hard_size=settings.outbox_hard_bytes,
        stall_timeout=settings.stall_timeout,
        rate_limit=settings.rate_limit,
        control_rate_limit=settings.control_rate_limit,
        ping_interval=settings.ping_interval,
        pong_timeout=settings.pong_timeout,
        idle_timeout=settings.idle_timeout,
        flush_share=settings.flush_share,
        deflate_threshold=settings.compression_threshold,
        compress=partial(deflate.compress, level=settings.compression_level),
    )
