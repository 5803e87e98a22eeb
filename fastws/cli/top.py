"""``fastws top``: a running server in the terminal, or a snapshot of it for scripts."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Final

from fastws.cli.addresses import add_trust, address_of, trust_of
from fastws.cli.arguments import some_duration
from fastws.errors import FastwsError, SettingsError
from fastws.top.asking import Asker, Reader
from fastws.top.history import History
from fastws.top.plain import document, snapshot
from fastws.top.readings import Reading

DEFAULT_URL: Final = "http://127.0.0.1:8000"
TOKEN_VARIABLE: Final = "FASTWS_ADMIN_TOKEN"  # noqa: S105 - no token but where it is
SHORTEST: Final = 0.1
TOP_EXAMPLES: Final = """\
The figures are those of /v1/ws/stats and /metrics; with the admin token, the
busiest connections as well. A server with admin_bind has metrics and connections
on a port of its own: --admin-url names it. The token is sent there only.

On a terminal the screen is kept up to date, and needs the package rich. Keys: q
quits, p pauses, s sorts the connections by something else, ? explains the figures.
Elsewhere, and with --once, two looks --interval apart are printed as text, so that
there are rates. Where NO_COLOR is set there are no colours.

The exit status is 0; 1 when the server is not there at the start, or is none of
fastws, or does not take the token; 2 when a flag is wrong.

examples:
  fastws top
      the server of this machine
  FASTWS_ADMIN_TOKEN="$TOKEN" fastws top --url https://ws.example.com \\
      --admin-url http://10.0.0.5:9000
      with the connections; a flag --token would show in lists of processes
  fastws top --json | jq .rates.messages_sent
      a figure for a script
"""


def fill_top(top: argparse.ArgumentParser) -> None:
    top.epilog = TOP_EXAMPLES
    add = top.add_argument
    add("--url", default=DEFAULT_URL, help="the server (default: %(default)s)")
    add("--admin-url", metavar="URL", help="where its metrics and connections are (default: that of --url)")
    add(
        "--token",
        metavar="TOKEN",
        help=f"admin token, for the connections (default: {TOKEN_VARIABLE}, else none)",
    )
    add(
        "--interval",
        type=_interval,
        default=1.0,
        metavar="SECONDS",
        help="between two looks (default: %(default)g s)",
    )
    add("--once", action="store_true", help="print a snapshot and end; so where there is no terminal")
    add("--json", action="store_true", help="print a snapshot as JSON, with all there is")
    add_trust(top)
    top.set_defaults(run=_top)


def _top(options: argparse.Namespace) -> int:
    token = _token(options)
    address = address_of(options.url, "--url")
    admin_address = address if options.admin_url is None else address_of(options.admin_url, "--admin-url")
    tls = trust_of(options) if address.is_tls or admin_address.is_tls or options.cafile else None
    main = admin = Asker(address, tls=tls)
    if options.admin_url is not None:
        admin = Asker(admin_address, flag="--admin-url", tls=tls)
    reader = Reader(main, admin, token)
    is_live = not options.once and not options.json and _has_screen()
    if is_live:
        _check_rich()
    try:
        history = History(_look(reader), options.interval)
        if not is_live:
            time.sleep(options.interval)
            history.take(_look(reader))
    except BaseException:
        reader.close()
        raise
    url = str(main.address)
    if is_live:
        return _watch(reader, history, url, has_token=token is not None)
    reader.close()
    _print((document if options.json else snapshot)(url, history))
    return 0


def _look(reader: Reader) -> Reading:
    """Take one of the first answers, which tell whether everything is in order that was named."""
    reading = reader.read()
    if isinstance(reading.listing, str):
        raise FastwsError(reading.listing)
    return reading


def _print(text: str) -> None:
    # Names may have letters that the terminal has not.
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "replace").decode(encoding))


def _has_screen() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def _check_rich() -> None:
    try:
        import rich  # noqa: F401, PLC0415 - of the extra
    except ImportError:
        raise FastwsError(
            "top needs rich, which is not installed: pip install rich; --once does without it"
        ) from None


def _watch(reader: Reader, history: History, url: str, *, has_token: bool) -> int:
    # They need what a snapshot does not.
    from fastws.top.live import watch  # noqa: PLC0415
    from fastws.top.terminal import Terminal  # noqa: PLC0415

    sys.stdout.flush()
    source = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    watch(reader, history, url, Terminal(sys.stdout.fileno(), source), has_token=has_token)
    return 0


def _token(options: argparse.Namespace) -> str | None:
    token: str | None = options.token if options.token is not None else os.environ.get(TOKEN_VARIABLE)
    if token and (not token.isprintable() or token != token.strip()):
        where = "--token" if options.token is not None else TOKEN_VARIABLE
        raise SettingsError(f"{where}: a token has no blanks at its ends and no line breaks")
    return token or None


def _interval(text: str) -> float:
    seconds = some_duration(text)
    if seconds < SHORTEST:
        raise argparse.ArgumentTypeError(f"expected {SHORTEST:g} seconds or more, not {text!r}")
    return seconds
