"""What is said when a server has come to serve: lines for people, or one of the log for programs."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import structlog

from fastws.server.listener import Listener
from fastws.server.workers import Ready
from fastws.settings import Settings
from fastws.web.routes import DASHBOARD_PATH, TEST_PATH

if TYPE_CHECKING:
    from fastws.server.server import Server

_log = structlog.get_logger("fastws")


def ready_of(server: Server) -> Ready:
    """What a server tells that has just come to serve."""
    instruments = server.market.instruments
    first = next(iter(instruments), None)
    return Ready(
        len(instruments),
        None if first is None else first.code,
        _base_url(server.listener),
        None if server.admin_listener is None else _base_url(server.admin_listener),
        0 if server.relay is None else server.relay.origin,
    )


def print_welcome(settings: Settings, ready: Ready, *, n_workers: int = 1) -> None:
    """For people as lines to click on; for programs as one log line."""
    n, base, admin = ready.n_instruments, ready.url, ready.admin_url
    websocket = None if base is None else f"ws{base.removeprefix('http')}/v1/ws"
    realtime = None if base is None else f"ws{base.removeprefix('http')}/ws/realtime/"
    if settings.log_format == "json":
        places = {
            "websocket": websocket,
            "realtime": realtime,
            "unix_socket": settings.unix_socket,
            "admin": admin,
            "dashboard": f"{base}{DASHBOARD_PATH}" if base is not None and settings.web_pages else None,
        }
        given: dict[str, object] = {name: place for name, place in places.items() if place is not None}
        if n_workers > 1:
            given["workers"] = n_workers
        _log.info("ready", **given, instruments=n, feed=settings.feed)
        return
    several = f", {n_workers} workers" if n_workers > 1 else ""
    lines = [f"fastws is ready: {n} instrument{'' if n == 1 else 's'}, feed {settings.feed}{several}"]
    if base is not None:
        lines += [
            f"  WebSocket  {websocket}",
            f"  realtime   {realtime}",
            f"  health     {base}/health",
            f"  statistics {base}/v1/ws/stats",
        ]
        if settings.web_pages:
            lines[1:1] = [f"  dashboard  {base}{DASHBOARD_PATH}", f"  test page  {base}{TEST_PATH}"]
        if ready.first_code is not None and settings.feed != "none":
            lines.append(f"  a stock    {base}/v1/stocks/{ready.first_code}")
    if settings.unix_socket is not None:
        lines.append(f"  socket     {settings.unix_socket}, for proxies")
    if admin is not None:
        lines.append(f"  admin      {admin}/")
    if settings.feed == "none":
        if settings.admin_token:
            lines.append(f"  no feed    prices come by POST {admin or base or ''}/v1/publish")
        elif settings.load is not None:
            lines.append(f"  no feed    prices come from {settings.load}, if it publishes any")
        else:
            lines.append("  no prices will arrive: name a feed, as --feed sim or --feed replay:FILE")
    with contextlib.suppress(OSError):  # nobody reads it; that is no reason not to serve
        print("\n".join(lines), file=sys.stderr, flush=True)


def _base_url(listener: Listener) -> str | None:
    """A URL at which a browser on this machine reaches `listener`; None where it has only a Unix socket."""
    if not listener.addresses:
        return None
    host, port = listener.addresses[0]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{'https' if listener.is_tls else 'http'}://{shown}:{port}"
