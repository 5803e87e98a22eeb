"""The command line: ``fastws serve``, ``check-config``, ``record`` and ``token``."""

from __future__ import annotations

import argparse
import asyncio
import difflib
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec
import structlog
import uvloop

from fastws import config_report, logs
from fastws._version import __version__
from fastws.auth.keys import KeyMaterialError, PrivateKey, is_symmetric, read_private_key, read_secret
from fastws.auth.tokens import sign
from fastws.configuration import CONFIG_VARIABLE, linked_variables, load, read
from fastws.errors import FastwsError, SettingsError
from fastws.feeds.record import Recorder, record
from fastws.server import lifecycle
from fastws.server.preflight import start_problems
from fastws.server.server import load_instruments, make_feed
from fastws.settings import SETTINGS, Setting, Settings, parse_feed

FAILED: Final = 1
"""Exit status: the command was understood and did not succeed."""
USAGE: Final = 2
"""Exit status: a flag or a setting is wrong, and nothing was begun."""
INTERRUPTED: Final = 130

SERVE_FLAGS: Final = (
    "host",
    "port",
    "unix_socket",
    "certfile",
    "keyfile",
    "admin_bind",
    "allowed_origins",
    "feed",
    "symbols_file",
    "replay_speed",
    "replay_loop",
    "replay_max_gap",
    "simulator_rate",
    "simulator_seed",
    "batch_interval_ms",
    "rate_limit",
    "jwt_secret",
    "admin_token",
    "database",
    "log_level",
    "log_format",
)
RECORD_FLAGS: Final = (
    "feed",
    "symbols_file",
    "replay_speed",
    "replay_loop",
    "replay_max_gap",
    "simulator_rate",
    "simulator_seed",
    "log_level",
    "log_format",
)
_METAVARS: Final = {
    "admin_bind": "HOST:PORT",
    "allowed_origins": "ORIGIN,...",
    "certfile": "FILE",
    "keyfile": "FILE",
    "unix_socket": "PATH",
    "feed": "FEED",
    "jwt_secret": "SECRET",
    "admin_token": "SECRET",
    "database": "URL",
    "replay_max_gap": "SECONDS",
    "replay_speed": "FACTOR",
    "symbols_file": "FILE",
}

SERVE_EXAMPLES: Final = """\
examples:
  fastws serve --feed sim
      made-up prices at ws://127.0.0.1:8000/v1/ws
  fastws serve --host 0.0.0.0 --port 9000 --feed replay:day.txt --replay-speed 10
      a recording, ten times as fast
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
RECORD_EXAMPLES: Final = """\
examples:
  fastws record --feed sim --output sim.txt --duration 60
      a minute of made-up prices, for `fastws serve --feed replay:sim.txt`
"""

TOKEN_EXAMPLES: Final = """\
examples:
  fastws token --sub user-123 --jwt-secret "$SECRET"
      a token of user-123 for an hour, for `fastws serve --jwt-secret "$SECRET"`
  fastws token --config fastws.toml --sub user-123 --expires never --tier gold --claim 'topics=["stock:*"]'
      secret, algorithm, audience and issuer as the server has them
  fastws token --sub user-123 --algorithm ES256 --key private.pem --kid key-1
      for a server that has the public key
"""  # noqa: S105 - no password but a help text

_log = structlog.get_logger("fastws.cli")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; `arguments` default to those of the process."""
    _open_standard_streams()
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:
        return _fail(_describe_unknown(unknown[0], options.command))
    try:
        status: int = options.run(options)
    except SettingsError as error:
        return _fail(str(error))
    except FastwsError as error:
        return _fail(str(error), FAILED)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


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


def _fail(text: str, status: int = USAGE) -> int:
    print("fastws: error:", logs.redact_text(text), file=sys.stderr)
    return status


def _describe_unknown(argument: str, command: argparse.ArgumentParser) -> str:
    flag = argument.partition("=")[0]
    name = flag.removeprefix("--").replace("-", "_")
    setting = SETTINGS.get(name) or SETTINGS.get(name.removeprefix("no_"))
    if flag.startswith("--") and setting is not None and setting.flag not in command._option_string_actions:
        if setting.name in SERVE_FLAGS:
            return f"{flag} is a flag of fastws serve, not of {command.prog}"
        return f"{flag} is no flag; set {setting.name} in the TOML file or {setting.variable}"
    matches = difflib.get_close_matches(flag, command._option_string_actions, n=1)
    hint = f", did you mean {matches[0]}?" if matches else ""
    return f"{flag}: unknown option{hint} (see {command.prog} --help)"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line; the usage of a command with many flags would bury it."""
        self.exit(USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="fastws",
        description="Market-data push server: one feed in, tens of thousands of WebSocket clients out.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"fastws {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = _command(
        commands, "serve", "serve prices to WebSocket clients", SERVE_EXAMPLES + _other_settings(SERVE_FLAGS)
    )
    _add_settings(serve, SERVE_FLAGS)
    serve.set_defaults(run=_serve)

    checking = _command(
        commands,
        "check-config",
        "show every setting, and find what would keep the server from starting",
        CHECK_EXAMPLES + _other_settings(SERVE_FLAGS),
    )
    checking.add_argument("--json", action="store_true", help="print JSON for programs")
    _add_settings(checking, SERVE_FLAGS)
    checking.set_defaults(run=_check_config)

    recording = _command(commands, "record", "write what a feed delivers to a file", RECORD_EXAMPLES)
    _add_settings(recording, RECORD_FLAGS)
    recording.add_argument(
        "--output", metavar="FILE", required=True, help="file to write; appended to when it exists"
    )
    recording.add_argument(
        "--duration",
        metavar="SECONDS",
        type=_seconds,
        help="stop after so long (default: when the feed ends, or at Ctrl-C)",
    )
    recording.set_defaults(run=_record)

    token = _command(commands, "token", "print a token for tests and trials", TOKEN_EXAMPLES)
    token.add_argument("--sub", metavar="ID", required=True, help="id of the user")
    token.add_argument(
        "--expires",
        metavar="SECONDS",
        type=_lifetime,
        default=3600.0,
        help="how long it is valid; below 0 it has expired, never leaves the expiry out (default: 3600 s)",
    )
    token.add_argument("--tier", help="the claim tier")
    token.add_argument(
        "--claim",
        metavar="NAME=VALUE",
        type=_claim,
        action="append",
        default=[],
        help="a further claim; VALUE is JSON, or else a text; may be given several times",
    )
    key = token.add_mutually_exclusive_group()
    _add_settings(key, ("jwt_secret",))
    key.add_argument("--key", metavar="FILE", help="file with the private key in PEM, or with the secret")
    token.add_argument("--kid", metavar="ID", help="key id to write into the token; picks from jwt_keys")
    token.add_argument(
        "--algorithm",
        SETTINGS["jwt_algorithm"].flag,
        metavar="NAME",
        dest="jwt_algorithm",
        default=argparse.SUPPRESS,
        help=f"algorithm to sign with (default: {SETTINGS['jwt_algorithm'].default_text})",
    )
    token.set_defaults(run=_token)
    return parser


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, purpose: str, epilog: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name,
        help=purpose,
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument(
        "--config",
        metavar="FILE",
        help=f"TOML file with settings (default: the file in {CONFIG_VARIABLE}, else none)",
    )
    command.set_defaults(command=command)
    return command


def _add_settings(command: argparse._ActionsContainer, names: Sequence[str]) -> None:
    for name in names:
        setting = SETTINGS[name]
        text = f"{setting.description} (default: {setting.default_text})".replace("%", "%%")
        if names is SERVE_FLAGS:
            text += _restart_mark(setting)
        # Values stay text here: the settings check flags, variables and file alike, with the same messages.
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text, "dest": name}
        if setting.kind is bool:
            command.add_argument(setting.flag, action=argparse.BooleanOptionalAction, **options)
        else:
            metavar = _METAVARS.get(name, _metavar(setting.kind, name))
            command.add_argument(setting.flag, metavar=metavar, **options)


def _restart_mark(setting: Setting) -> str:
    return " [restart]" if setting.needs_restart else ""


def _metavar(kind: Any, name: str) -> str:
    choices = getattr(kind, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    return "N" if kind in (int, float) else name.upper()


def _other_settings(names: Sequence[str]) -> str:
    lines = [
        f"  {setting.name} ({setting.default_text}){_restart_mark(setting)}\n      {setting.description}"
        for setting in SETTINGS.values()
        if setting.name not in names
    ]
    return "\n".join(
        [
            "",
            "Each flag is also a key of the TOML file (batch_interval_ms = 30) and a variable",
            "(FASTWS_BATCH_INTERVAL_MS=30). Flags win over variables, and variables over the file.",
            "",
            "On SIGHUP the server reads file, keys, certificate and symbols again and takes over what has",
            "changed, all of it or nothing; settings with [restart] stay as they were at its start.",
            "",
            "Settings without a flag, with their defaults:",
            *lines,
        ]
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write seconds above 0, such as 60")
    return seconds


def _lifetime(text: str) -> float | None:
    if text == "never":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = float("inf")
    if not abs(seconds) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration; write seconds, such as 60, or never")
    return seconds


def _claim(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no claim; write NAME=VALUE")
    try:
        return name, msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return name, value


def _load(options: argparse.Namespace) -> Settings:
    return load(options.config, os.environ, _flags(options))


def _flags(options: argparse.Namespace) -> dict[str, object]:
    return {name: value for name, value in vars(options).items() if name in SETTINGS}


def _begin(options: argparse.Namespace) -> Settings:
    """Load the settings and begin to log."""
    settings = _load(options)
    logs.configure(settings.log_level, settings.log_format)
    logs.capture()
    _warn_of_linked_variables()
    return settings


def _warn_of_linked_variables() -> None:
    for variable in linked_variables(os.environ):
        _log.warning(
            "variable ignored: it is no setting but what Kubernetes sets for a Service named fastws "
            "(enableServiceLinks: false leaves it out)",
            variable=variable,
            value=os.environ[variable],
        )


def _serve(options: argparse.Namespace) -> int:
    settings = _begin(options)
    try:
        return lifecycle.serve(settings, partial(_load, options))
    except SettingsError as error:
        if settings.log_format == "console":
            raise
        # Whoever reads the lines of this process expects JSON from here on.
        _log.error(str(error), setting=error.setting)
        return USAGE


def _check_config(options: argparse.Namespace) -> int:
    logs.configure("warning")  # what is found that the server would only warn of
    _warn_of_linked_variables()
    settings, problems, wrong = read(options.config, os.environ, _flags(options))
    problems += start_problems(settings, wrong)
    if options.json:
        print(config_report.document(settings, problems, wrong))
    elif not problems:
        print(config_report.table(settings))
        print(config_report.conclusion(settings))
    else:
        for problem in problems:
            _fail(str(problem))
        n = len(problems)
        print(f"{n} problem{'s' if n > 1 else ''}; a server would not start", file=sys.stderr)
    return USAGE if problems else 0


def _record(options: argparse.Namespace) -> int:
    settings = _begin(options)
    instruments = load_instruments(settings)
    feed = make_feed(settings, instruments)
    if feed is None:
        raise SettingsError(
            f"feed: {parse_feed(settings.feed).kind} delivers nothing to record; name one, as --feed sim",
            setting="feed",
            source=settings.sources.get("feed", "default"),
        )

    _check_output(settings, options.output)
    recorder = Recorder(options.output, instruments)

    async def run() -> None:
        recording = asyncio.ensure_future(record(feed, recorder, duration=options.duration))
        # The usual end of a recording without a duration; the file is complete then as well.
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signal_number, recording.cancel)
        _log.info("recording", feed=settings.feed, file=options.output)
        await asyncio.wait((recording,))
        if not recording.cancelled():
            recording.result()
        event = "recording was ended" if recording.cancelled() else "recording has ended"
        _log.info(event, file=options.output, updates=recorder.n_updates)

    with recorder:
        uvloop.run(run())
    return 0


def _check_output(settings: Settings, output: str) -> None:
    source = parse_feed(settings.feed).path
    if source is not None and os.path.exists(output) and os.path.samefile(source, output):
        raise SettingsError(
            f"output: {output} is the file that is replayed, and would grow while it is read; name another one",
            setting="output",
            source="--output",
        )


def _token(options: argparse.Namespace) -> int:
    settings = _load(options)
    now = int(time.time())
    claims: dict[str, Any] = {settings.user_id_claim: options.sub, "iat": now}
    if options.expires is not None:
        claims["exp"] = now + round(options.expires)
    for name, value in (
        ("tier", options.tier),
        ("aud", settings.jwt_audience),
        ("iss", settings.jwt_issuer),
    ):
        if value is not None:
            claims[name] = value
    claims.update(options.claim)
    print(sign(claims, _signing_key(options, settings), settings.jwt_algorithm, options.kid))
    return 0


def _signing_key(options: argparse.Namespace, settings: Settings) -> PrivateKey:
    algorithm = settings.jwt_algorithm
    if options.key is not None:
        text, source = Path(options.key).read_text().strip(), "--key"
    elif not is_symmetric(algorithm):
        raise SettingsError(f"--key: {algorithm} signs with a private key; give its file: --key FILE")
    elif options.kid in settings.jwt_keys:
        text, source = settings.jwt_keys[options.kid], "jwt_keys"
    elif settings.jwt_secret is not None:
        text, source = settings.jwt_secret, "jwt_secret"
    else:
        raise SettingsError(
            "jwt_secret: there is nothing to sign with; give --jwt-secret, or a private key with --key FILE "
            "and --algorithm",
            setting="jwt_secret",
        )
    try:
        return read_secret(text, algorithm) if is_symmetric(algorithm) else read_private_key(text, algorithm)
    except KeyMaterialError as error:
        raise SettingsError(f"{source}: the key {error}") from None
