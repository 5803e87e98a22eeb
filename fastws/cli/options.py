"""What the commands share: settings as flags, and how they are loaded."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, Literal, get_origin

import structlog

from fastws import logs
from fastws.cli.parsers import USAGE
from fastws.configuration import CONFIG_VARIABLE, linked_variables, load
from fastws.settings import SETTINGS, Settings
from fastws.settings_catalog import Setting
from fastws.settings_checks import suggest

SERVE_FLAGS: Final = (
    "host",
    "port",
    "workers",
    "unix_socket",
    "upgrade_socket",
    "certfile",
    "keyfile",
    "admin_bind",
    "allowed_origins",
    "feed",
    "feed_standby",
    "load",
    "symbols_file",
    "replay_speed",
    "replay_loop",
    "replay_max_gap",
    "simulator_rate",
    "simulator_seed",
    "kis_keys",
    "kis_exchange",
    "poll_interval",
    "poll_batch_size",
    "batch_interval_ms",
    "rate_limit",
    "relay",
    "jwt_secret",
    "admin_token",
    "database",
    "log_level",
    "log_format",
)
"""Settings that are flags of `fastws serve`; the others are in the file and in variables only."""

_METAVARS: Final = {
    "admin_bind": "HOST:PORT",
    "allowed_origins": "ORIGIN,...",
    "certfile": "FILE",
    "keyfile": "FILE",
    "publish_url": "URL,...",
    "load": "MODULE:FUNCTION",
    "relay": "URL",
    "source": "SOURCE",
    "kis_keys": "FILE",
    "unix_socket": "PATH",
    "upgrade_socket": "PATH",
    "feed": "FEED",
    "jwt_secret": "SECRET",
    "admin_token": "SECRET",
    "database": "URL",
    "replay_max_gap": "SECONDS",
    "replay_speed": "FACTOR",
    "symbols_file": "FILE",
}

_log = structlog.get_logger("fastws.cli")


def add_config(command: argparse.ArgumentParser) -> None:
    """Add the flag that `load_settings` needs."""
    command.add_argument(
        "--config",
        metavar="FILE",
        help=f"TOML file with settings (default: the file in {CONFIG_VARIABLE}, else none)",
    )


def add_settings(command: argparse._ActionsContainer, names: Sequence[str]) -> None:
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


def _choices(setting: Setting) -> str:
    return f": {_metavar(setting.kind, '')}" if get_origin(setting.kind) is Literal else ""


def other_settings(names: Sequence[str]) -> str:
    lines = [
        f"  {setting.name} ({setting.default_text}){_restart_mark(setting)}\n"
        f"      {setting.description}{_choices(setting)}"
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


def describe_unknown(argument: str, command: argparse.ArgumentParser) -> str:
    flag = argument.partition("=")[0]
    name = flag.removeprefix("--").replace("-", "_")
    setting = SETTINGS.get(name) or SETTINGS.get(name.removeprefix("no_"))
    if flag.startswith("--") and setting is not None and setting.flag not in command._option_string_actions:
        if setting.name in SERVE_FLAGS:
            return f"{flag} is a flag of fastws serve, not of {command.prog}"
        return f"{flag} is no flag; set {setting.name} in the TOML file or {setting.variable}"
    hint = suggest(flag, command._option_string_actions)
    return f"{flag}: unknown option{hint} (see {command.prog} --help)"


def load_settings(options: argparse.Namespace) -> Settings:
    return load(options.config, os.environ, flags_of(options))


def flags_of(options: argparse.Namespace) -> dict[str, object]:
    return {name: value for name, value in vars(options).items() if name in SETTINGS}


def begin(options: argparse.Namespace) -> Settings:
    """Load the settings and begin to log."""
    settings = load_settings(options)
    logs.configure(settings.log_level, settings.log_format)
    logs.capture()
    warn_of_linked_variables()
    return settings


def warn_of_linked_variables() -> None:
    for variable in linked_variables(os.environ):
        _log.warning(
            "variable ignored: it is no setting but what Kubernetes sets for a Service named fastws "
            "(enableServiceLinks: false leaves it out)",
            variable=variable,
            value=os.environ[variable],
        )


def fail(text: str, status: int = USAGE) -> int:
    print("fastws: error:", logs.redact_text(text), file=sys.stderr)
    return status
