"""Runs a server until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

import structlog
import uvloop

from fastws import logs
from fastws.server.server import Server
from fastws.settings import Settings

_log = structlog.get_logger("fastws")


def serve(settings: Settings) -> int:
    """Run a server until SIGTERM or SIGINT; returns the exit status.

    Raises:
        SettingsError: a setting turns out to be unusable, such as a port that is taken.
    """
    logs.configure(settings.log_level, settings.log_format)
    return uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopped.set)
    server = Server(settings)
    await server.start()
    # What is here now stays: the collector need not look at it again, which would cost every client a pause.
    gc.collect()
    gc.freeze()
    _print_welcome(server)
    await stopped.wait()
    _log.info("stopping", connections=server.n_connections)
    n_cut = await server.stop()
    logs.limiter.flush(_log)
    _log.info("stopped", cut=n_cut)
    return 0


def _print_welcome(server: Server) -> None:
    """For people as lines to click on; for programs as one log line."""
    settings = server.settings
    host, port = server.listener.addresses[0]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    instruments = server.market.instruments
    n = len(instruments)
    if settings.log_format == "json":
        _log.info("ready", websocket=f"ws://{shown}:{port}/v1/ws", instruments=n, feed=settings.feed)
        return
    lines = [
        f"fastws is ready: {n} instrument{'' if n == 1 else 's'}, feed {settings.feed}",
        f"  WebSocket  ws://{shown}:{port}/v1/ws",
        f"  health     http://{shown}:{port}/health",
        f"  statistics http://{shown}:{port}/v1/ws/stats",
    ]
    if n and settings.feed != "none":
        lines.append(f"  a stock    http://{shown}:{port}/v1/stocks/{next(iter(instruments)).code}")
    if settings.feed == "none":
        lines.append("  no prices will arrive: name a feed, as --feed sim or --feed replay:FILE")
    print("\n".join(lines), file=sys.stderr, flush=True)
