"""Finds what would keep a server from starting with its settings, without starting one or changing anything."""

from __future__ import annotations

import asyncio
import datetime
import importlib.util
import os
import socket
import sys
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Final

from fastws.auth import Authenticator
from fastws.errors import SettingsError
from fastws.feeds.replay import ReplayFeed
from fastws.market.portfolio_queries import QueryError, check_queries
from fastws.market.sessions import KST
from fastws.market.store import StoreError, probe
from fastws.relay.address import parse_address
from fastws.server.application import ApplicationClient
from fastws.server.fetch import fetch
from fastws.server.parts import (
    check_kis_symbols,
    find_calendars,
    find_kis_keys,
    find_source,
    load_instruments,
    make_store,
)
from fastws.server.stored import find_queries, query_error
from fastws.server.tls import make_tls
from fastws.settings import SETTINGS, Settings
from fastws.settings_checks import check_standby, parse_bind, parse_feed

# sun_path has 108 bytes on Linux and 104 on macOS, the last of which ends the path.
_MAX_SOCKET_PATH: Final = 103


def start_problems(settings: Settings, wrong: Collection[str]) -> list[SettingsError]:
    """Return everything that is found; what depends on a setting in `wrong` is not looked at.

    Files are read, addresses looked up, and the database is connected to, for up to five seconds. Whether a port is
    taken is not asked, because the server that these settings are for may be running, and neither is whether an
    issuer of keys answers, for which a server does not wait.
    """
    problems = []
    for names, check in _CHECKS.items():
        if not any(name in wrong for name in names):
            try:
                check(settings)
            except SettingsError as error:
                problems.append(error)
    return problems


def relay_problems(settings: Settings) -> list[SettingsError]:
    """Return why the relay cannot be used; it takes five seconds at most.

    A server starts without it and goes on trying, so this is asked on request only.
    """
    if settings.relay is None:
        return [settings.error("relay", "there is none to be tried", "set relay, or leave --try-relay out")]
    from fastws.relay.trial import find_fault  # noqa: PLC0415 - it takes 60 ms, for those who need it

    address = parse_address(settings.relay)
    fault = asyncio.run(find_fault(address, prefix=settings.relay_prefix, n_shards=settings.relay_shards))
    if fault is None:
        return []
    return [
        settings.error("relay", f"{address.shown}: {fault}", "let Redis run there, and let fastws use it")
    ]


def _check_calendars(settings: Settings) -> None:
    find_calendars(settings, datetime.datetime.now(KST).date())


def _check_load(settings: Settings) -> None:
    """See that there is such a module; what is in it shows only when it is run."""
    if settings.load is None:
        return
    name = settings.load.partition(":")[0]
    # As where it is loaded; see `fastws.server.embedding.load`.
    sys.path.insert(0, os.getcwd())
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    finally:
        sys.path.remove(os.getcwd())
    if found is None:
        raise settings.error(
            "load",
            f"No module named {name!r}",
            "name a function of a module that Python finds, such as my_feed:setup",
        )


def _check_host(settings: Settings) -> None:
    _check_address(settings, "host", settings.host)


def _check_address(settings: Settings, setting: str, host: str) -> None:
    """See that `host` is an address of this machine: one that can be bound, on a port that nobody has."""
    try:
        infos = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise settings.error(
            setting, f"{host!r} is no address ({reason})", "use 127.0.0.1, 0.0.0.0 or one of this machine"
        ) from None
    for family, kind, protocol, _, address in infos:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
        except OSError:
            continue
        return
    raise settings.error(
        setting, f"{host} is no address of this machine", "use 127.0.0.1, 0.0.0.0 or one of its own"
    )


def _check_admin_bind(settings: Settings) -> None:
    bind = None if settings.admin_bind is None else parse_bind(settings.admin_bind)
    if bind is not None:
        _check_address(settings, "admin_bind", bind[0])


def _check_unix_socket(settings: Settings) -> None:
    for name in ("unix_socket", "upgrade_socket"):
        if (path := getattr(settings, name)) is not None:
            _check_socket_path(settings, name, path)


def _check_socket_path(settings: Settings, name: str, path: str) -> None:
    directory = os.path.dirname(path) or "."
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        raise settings.error(name, f"{path} is too long", f"choose one of up to {_MAX_SOCKET_PATH} bytes")
    if not os.path.isdir(directory):
        raise settings.error(name, f"there is no directory {directory}", "make it or choose another path")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise settings.error(
            name,
            f"no permission to make files in {directory}",
            "let this user write to it or choose another path",
        )
    if os.path.lexists(path) and not Path(path).is_socket():
        raise settings.error(name, f"{path} exists and is no socket", "remove it or choose another path")


def _check_tls(settings: Settings) -> None:
    make_tls(settings)


def _check_symbols_file(settings: Settings) -> None:
    load_instruments(settings)


def _check_feed(settings: Settings) -> None:
    kind, path, source = parse_feed(settings.feed)
    if kind == "kis":
        find_kis_keys(settings)
    if kind == "poll":
        find_source(settings, source)
    if path is not None and not os.access(path, os.R_OK):
        raise settings.error("feed", f"no permission to read {path}", "let this user read it")
    if path is not None:
        ReplayFeed(path)


def _check_kis_symbols(settings: Settings) -> None:
    if parse_feed(settings.feed).kind != "kis":
        return
    try:
        instruments = load_instruments(settings)
    except SettingsError:
        return  # `_check_symbols_file` has told
    check_kis_symbols(settings, instruments)


def _check_database(settings: Settings) -> None:
    make_store(settings)
    queries = find_queries(settings)
    if settings.database is None:
        return
    try:
        probe(settings.database, partial(check_queries, queries))
    except QueryError as error:
        raise query_error(settings, error) from None
    except StoreError as error:
        source = settings.sources.get("database", "default")
        raise SettingsError(str(error), setting="database", source=source) from None


def _check_keys(settings: Settings) -> None:
    Authenticator(settings, fetch=fetch, ask=ApplicationClient().ask)


_CHECKS: Final[dict[tuple[str, ...], Callable[[Settings], None]]] = {
    ("host",): _check_host,
    ("admin_bind",): _check_admin_bind,
    ("unix_socket", "upgrade_socket"): _check_unix_socket,
    ("certfile", "keyfile"): _check_tls,
    ("symbols_file",): _check_symbols_file,
    ("feed", "kis_keys"): _check_feed,
    ("feed", "symbols_file"): _check_kis_symbols,
    ("feed_standby", "relay"): check_standby,
    ("calendars", "holidays"): _check_calendars,
    ("load",): _check_load,
    ("database", "portfolios_query", "positions_query", "closes_query", "changes_query"): _check_database,
    (*(name for name in SETTINGS if name.startswith("jwt_")), "jwks_url", "allow_anonymous"): _check_keys,
}
