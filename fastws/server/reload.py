"""Takes over other settings while the server runs: all that is new in them, or nothing."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import NamedTuple

import msgspec

from fastws import logs
from fastws.market.instruments import TableChange
from fastws.server.parts import configure_hub, load_instruments
from fastws.server.server import Server
from fastws.server.stored import with_stored
from fastws.server.tls import make_tls
from fastws.settings import SETTINGS, Settings
from fastws.settings_catalog import display


class Reloaded(NamedTuple):
    """What came of it: `changed` has "old -> new" by setting, `kept` names those that only a restart changes.

    `certificate` is the end of validity of another certificate than before.
    """

    changed: dict[str, str]
    kept: list[str]
    has_new_keys: bool
    certificate: datetime | None
    instruments: TableChange


async def reload(server: Server, settings: Settings) -> Reloaded:
    """Let `server` go on with `settings`; the files that they name are read again, changed or not.

    Open connections stay. What a setting limits at the beginning of a connection, such as `message_bytes`, holds for
    new ones; keys for tokens that come from now on. Instruments that the table does not name any more are served on.

    Raises:
        SettingsError: something in them cannot be used, and nothing has changed.
    """
    old = server.settings
    settings, kept = carry_over(old, settings)
    # In a thread: a large table takes longer than clients should wait for their prices.
    named = await asyncio.to_thread(load_instruments, settings)
    instruments = await with_stored(server.store, named)
    table_change = await asyncio.to_thread(server.market.instruments.compare, instruments)
    tls = make_tls(settings)
    # The last that can fail, and it changes nothing when it does.
    has_new_keys = await server.authenticator.reload(settings)
    certificate = None
    if server.tls is not None and tls is not None:
        certificate = tls.expires_at if server.tls.adopt(tls) else None
    _apply(server, settings)
    for _ in server.market.update_instruments(instruments, table_change):
        await asyncio.sleep(0)
    server.feed_runner.fix_symbols(settings, named)
    # Their currencies and previous closes may be others now.
    await server.portfolios.rebuild()
    return Reloaded(
        changed={
            name: f"{display(setting, before)} -> {display(setting, after)}"
            for name, setting in SETTINGS.items()
            if (before := getattr(old, name)) != (after := getattr(settings, name))
        },
        kept=kept,
        has_new_keys=has_new_keys,
        certificate=certificate,
        instruments=table_change,
    )


def carry_over(old: Settings, new: Settings) -> tuple[Settings, list[str]]:
    """Return `new` with what only a restart changes as in `old`, and the names of what is kept so."""
    kept = [name for name in SETTINGS if _is_fixed(name, old, new)]
    return _with(new, old, kept), kept


def _is_fixed(name: str, old: Settings, new: Settings) -> bool:
    if getattr(old, name) == getattr(new, name):
        return False
    if name in ("certfile", "keyfile"):
        # Another certificate is fine; what was begun without TLS cannot go on with it.
        return (old.certfile is None) != (new.certfile is None)
    return SETTINGS[name].needs_restart


def _with(settings: Settings, old: Settings, names: list[str]) -> Settings:
    """Return `settings` with the values of `old` for `names`."""
    sources = {name: source for name, source in settings.sources.items() if name not in names}
    sources |= {name: old.sources[name] for name in names if name in old.sources}
    return msgspec.structs.replace(settings, sources=sources, **{name: getattr(old, name) for name in names})


def _apply(server: Server, settings: Settings) -> None:
    """Hand out the settings. None of this can fail: they are within the bounds that `Settings` declares."""
    if (settings.log_level, settings.log_format) != (server.settings.log_level, server.settings.log_format):
        logs.configure(settings.log_level, settings.log_format)
    server.settings = settings
    configure_hub(server.hub, settings)
    server.hub.configure(history_size=settings.history_bytes)
    server.conversations.configure(settings)
    server.peers.update(settings.trusted_proxies)
    server.limits.update(
        connection_limit=settings.connection_limit,
        connections_per_ip=settings.connections_per_ip,
        handshake_rate=settings.handshake_rate,
        half_open_per_ip=settings.half_open_per_ip,
    )
    for listener in filter(None, (server.listener, server.admin_listener)):
        listener.configure(
            handshake_timeout=settings.handshake_timeout,
            allowed_origins=settings.allowed_origins,
            compression=settings.compression,
        )
    if server.relay is not None:
        server.relay.listen_on(settings.session_ttl)
    server.alerts.alerts_per_user = settings.alerts_per_user
    server.last_values.configure(interval=settings.save_interval)
    server.freshness.configure(
        least=settings.symbol_stale_min,
        most=settings.symbol_stale_max,
        learning=settings.symbol_stale_learning,
    )
    server.portfolios.configure(
        interval_ms=settings.portfolio_interval_ms, poll_interval=settings.portfolio_poll_interval
    )
