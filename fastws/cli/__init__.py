"""The command line: ``fastws serve``, ``check-config``, ``top``, ``import``, ``record``, ``token`` and others.

Nothing is imported here but what every command needs; see :mod:`fastws.cli.parsers`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import select
import sys
from collections.abc import Sequence
from typing import Final

from fastws._version import __version__
from fastws.cli.parsers import FAILED, INTERRUPTED, UNREAD, USAGE, Command, make_parser
from fastws.errors import FastwsError, SettingsError

COMMANDS: Final = (
    Command("serve", "serve prices to WebSocket clients", "fastws.cli.serve:fill_serve"),
    Command(
        "check-config",
        "show every setting, and find what would keep the server from starting",
        "fastws.cli.serve:fill_check_config",
    ),
    Command("health", "ask a running server whether it is well", "fastws.cli.health:fill_health"),
    Command("top", "watch a running server in the terminal", "fastws.cli.top:fill_top"),
    Command(
        "feed",
        "poll prices from a source and publish them to servers",
        "fastws.cli.feed:fill_feed",
        ("start_price_feed",),
    ),
    Command(
        "update-prices",
        "fill the daily-price table from a source",
        "fastws.cli.update_prices:fill_update_prices",
        ("update_asset_prices",),
    ),
    Command(
        "import",
        "bring instruments, portfolios or positions into the database",
        "fastws.cli.import_:fill_import",
    ),
    Command("record", "write what a feed delivers to a file", "fastws.cli.record:fill_record"),
    Command("token", "print a token for tests and trials", "fastws.cli.token:fill_token"),
    *(
        # Its client is made of epoll.
        [Command("bench", "put load on a server and measure it", "fastws.cli.bench:fill_bench")]
        if sys.platform == "linux"
        else []
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; `arguments` default to those of the process."""
    _open_standard_streams()
    return flushed(_run(arguments))


def flushed(status: int) -> int:
    """Return the exit status of a process that has nothing more to write: `status`, or that nobody reads the rest."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            # Python flushes once more at its end, and would complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            status = UNREAD
    return status


def is_unread(error: OSError) -> bool:
    """Whether an error says that nobody reads the output any more; the broken pipe may also be that of a socket."""
    if not isinstance(error, BrokenPipeError):
        return False
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(io.UnsupportedOperation):  # a stream that is in memory
            poll.register(stream.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        parser = make_parser(
            "Market-data push server: one feed in, tens of thousands of WebSocket clients out.",
            __version__,
            COMMANDS,
        )
        options, unknown = parser.parse_known_args(arguments)
        if unknown:
            return _refuse(unknown[0], options.command)
        status: int = options.run(options)
    except SettingsError as error:
        return _fail(str(error), USAGE)
    except FastwsError as error:
        return _fail(str(error), FAILED)
    except OSError as error:
        if is_unread(error):
            return UNREAD
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _refuse(argument: str, command: argparse.ArgumentParser) -> int:
    from fastws.cli.options import describe_unknown  # noqa: PLC0415 - knows the settings, and takes its time

    return _fail(describe_unknown(argument, command), USAGE)


def _fail(text: str, status: int) -> int:
    from fastws.cli.options import fail  # noqa: PLC0415 - as above

    return fail(text, status)


def _open_standard_streams() -> None:
    """Give a process that was started without standard streams ones that lead nowhere.

    Otherwise its first sockets would get their descriptors, which libuv refuses to close by ending the process.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    # Python knows them only when they were there at its start.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)
