"""``fastws serve`` and ``fastws check-config``, which take the same flags."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import Final

import structlog

from fastws import logs
from fastws.cli import config_report
from fastws.cli.options import (
    SERVE_FLAGS,
    add_config,
    add_settings,
    begin,
    fail,
    flags_of,
    load_settings,
    other_settings,
    warn_of_linked_variables,
)
from fastws.cli.parsers import FAILED, USAGE
from fastws.configuration import read
from fastws.errors import FastwsError, SettingsError
from fastws.relay.address import parse_address
from fastws.server import lifecycle, supervisor
from fastws.server.advice import warnings
from fastws.server.preflight import relay_problems, start_problems

SERVE_EXAMPLES: Final = """\
examples:
  fastws serve --feed sim
      made-up prices at ws://127.0.0.1:8000/v1/ws
  fastws serve --host 0.0.0.0 --port 9000 --feed replay:day.txt --replay-speed 10
      a recording, ten times as fast
  fastws serve --host 0.0.0.0 --workers 4 --feed kis
      four processes behind one port
  FASTWS_RATE_LIMIT=500 fastws serve --config fastws.toml
      settings from a file, one of them replaced by the environment
"""
CHECK_EXAMPLES: Final = """\
examples:
  fastws check-config --config fastws.toml && kill -HUP "$PID"
      let a running server take the file over, if it can be used
  FASTWS_PORT=9000 fastws check-config --feed sim --json
      the same for programs
"""

_log = structlog.get_logger("fastws.cli")


def fill_serve(serve: argparse.ArgumentParser) -> None:
    serve.epilog = SERVE_EXAMPLES + other_settings(SERVE_FLAGS)
    add_config(serve)
    add_settings(serve, SERVE_FLAGS)
    serve.set_defaults(run=_serve)


def fill_check_config(checking: argparse.ArgumentParser) -> None:
    checking.epilog = CHECK_EXAMPLES + other_settings(SERVE_FLAGS)
    add_config(checking)
    checking.add_argument("--json", action="store_true", help="print JSON for programs")
    checking.add_argument(
        "--try-relay", action="store_true", help="connect to the relay as well, and send a message over it"
    )
    add_settings(checking, SERVE_FLAGS)
    checking.set_defaults(run=_check_config)


def _serve(options: argparse.Namespace) -> int:
    settings = begin(options)
    if settings.workers > 1 or settings.upgrade_socket is not None:
        # Several processes write to one log, or will.
        logs.label(pid=os.getpid())
    run = supervisor.serve if settings.workers > 1 else lifecycle.serve
    try:
        return run(settings, partial(load_settings, options))
    except FastwsError as error:
        if settings.log_format == "console":
            raise
        # Whoever reads the lines of this process expects JSON from here on.
        if isinstance(error, SettingsError):
            _log.error(str(error), setting=error.setting)
            return USAGE
        _log.error(str(error))
        return FAILED


def _check_config(options: argparse.Namespace) -> int:
    logs.configure("warning")  # what is found that the server would only warn of
    warn_of_linked_variables()
    settings, problems, wrong = read(options.config, os.environ, flags_of(options))
    problems += start_problems(settings, wrong)
    starts = not problems
    tries_relay = options.try_relay and "relay" not in wrong
    if tries_relay:
        problems += relay_problems(settings)
    if options.json:
        print(config_report.document(settings, problems, wrong))
    elif not problems:
        for line in warnings(settings):
            _log.warning(line)
        print(config_report.table(settings))
        print("\n".join(config_report.notes(settings)))
        if tries_relay:
            print(f"the relay delivers what is sent: {parse_address(settings.relay or '').shown}")
        print(config_report.conclusion(settings))
    else:
        for problem in problems:
            fail(str(problem))
        n = len(problems)
        outcome = "start, and do without the relay" if starts else "not start"
        print(f"{n} problem{'s' if n > 1 else ''}; a server would {outcome}", file=sys.stderr)
    return USAGE if problems else 0
