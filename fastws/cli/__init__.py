"""The command line: ``fastws serve``, ``check-config``, ``import``, ``record``, ``token`` and ``bench``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fastws._version import __version__
from fastws.cli.feed import add_feed
from fastws.cli.import_ import add_import
from fastws.cli.options import FAILED, INTERRUPTED, Parser, describe_unknown, fail
from fastws.cli.record import add_record
from fastws.cli.serve import add_check_config, add_serve
from fastws.cli.token import add_token
from fastws.cli.update_prices import add_update_prices
from fastws.errors import FastwsError, SettingsError

if sys.platform == "linux":
    from fastws.cli.bench import add_bench


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; `arguments` default to those of the process."""
    _open_standard_streams()
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        return fail(describe_unknown(unknown[0], options.command))
    try:
        status: int = options.run(options)
    except SettingsError as error:
        return fail(str(error))
    except FastwsError as error:
        return fail(str(error), FAILED)
    except OSError as error:
        return fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fastws",
        description="Market-data push server: one feed in, tens of thousands of WebSocket clients out.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastws {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add_serve(commands)
    add_check_config(commands)
    add_feed(commands)
    add_update_prices(commands)
    add_import(commands)
    add_record(commands)
    add_token(commands)
    if sys.platform == "linux":
        add_bench(commands)
    return parser


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
