"""Puts the settings together: defaults < TOML file < environment < command line."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, get_origin

import msgspec

from fastws.errors import SettingsError
from fastws.settings import HINTS, SETTINGS, Settings
from fastws.settings_catalog import ENV_PREFIX, KEY_TABLE, SPEED, Setting, is_plain_path, shown
from fastws.settings_checks import parse_feed, suggest

CONFIG_VARIABLE: Final = "FASTWS_CONFIG"

# Names that deployments of the price-feed service already set; the FASTWS_ name wins over them.
ENV_ALIASES: Final = {
    "REALTIME_UPDATE_INTERVAL": "poll_interval",
    "REALTIME_BATCH_SIZE": "poll_batch_size",
    "REALTIME_CACHE_TIMEOUT": "poll_fresh",
    "WEBSOCKET_TIMEOUT": "idle_timeout",
}
# Read by the build, not by the server; a shell that has built fastws may still carry them.
_FOREIGN_VARIABLES: Final = frozenset(
    {CONFIG_VARIABLE}
    | {f"FASTWS_{name}" for name in ("DEBUG", "SANITIZE", "PORTABLE", "MODULES", "COMPILED", "ANNOTATE")}
)

# What Kubernetes sets in every container of a namespace with a Service named fastws or fastws-something. A port
# of that kind has the value tcp://10.0.0.1:8000.
_SERVICE_LINK: Final = re.compile(
    r"FASTWS_(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_LINKED_PORT: Final = re.compile(r"(tcp|udp|sctp)://")

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


class Reading(NamedTuple):
    """What was found when the settings were put together.

    `problems` are in the order in which they were found; a setting with a problem has its default in `settings`.
    `wrong` names those settings.
    """

    settings: Settings
    problems: list[SettingsError]
    wrong: frozenset[str]


def load(
    config_path: str | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    *,
    are_keywords: bool = False,
) -> Settings:
    """Put the settings together.

    `config_path` is a TOML file (None: the variable FASTWS_CONFIG, else no file). `flags` are the options
    given on the command line by setting name, or a program's keywords; a value is text or already of the setting's
    type. An environment variable with an empty value counts as absent, and so does a service link of Kubernetes
    (see :func:`linked_variables`). Paths are relative to the working directory.

    Raises:
        SettingsError: naming the setting, the source and what to do.
    """
    reading = read(config_path, environ, flags, are_keywords=are_keywords)
    if reading.problems:
        raise first_of(reading.problems)
    return reading.settings


def first_of(problems: Sequence[SettingsError]) -> SettingsError:
    """Return the first of `problems`, saying how many more there are."""
    first, *others = problems
    if not others:
        return first
    return SettingsError(
        f"{first} (and {len(others)} more: run fastws check-config)",
        setting=first.setting,
        source=first.source,
        opposes=first.opposes,
    )


def read(
    config_path: str | None,
    environ: Mapping[str, str],
    flags: Mapping[str, object],
    *,
    are_keywords: bool = False,
) -> Reading:
    """Like :func:`load`, but report everything that is wrong instead of raising the first of it."""
    problems: list[SettingsError] = []
    wrong: set[str] = set()
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def take(name: str, source: str, value: Callable[[], Any]) -> None:
        try:
            values[name] = value()
        except SettingsError as error:
            problems.append(error)
            wrong.add(name)
            values.pop(name, None)
            sources.pop(name, None)
        else:
            wrong.discard(name)
            sources[name] = source

    path = config_path or environ.get(CONFIG_VARIABLE)
    if path:
        for name, given in _read_toml(path, problems).items():
            take(name, path, partial(_from_toml, name, given, path))
    for variable, name in _variables(environ, problems):
        take(name, variable, partial(_from_text, SETTINGS[name], environ[variable], variable))
    for name, option in flags.items():
        setting = SETTINGS[name]
        source = f"{name}=" if are_keywords else setting.flag
        if isinstance(option, str):
            take(name, source, partial(_from_text, setting, option, source))
        else:
            take(name, source, partial(_check, setting, option, source))
    settings = _together(values, sources, problems, wrong)
    for name, file in (("symbols_file", settings.symbols_file), ("feed", parse_feed(settings.feed).path)):
        try:
            _check_file(settings, name, file)
        except SettingsError as error:
            problems.append(error)
            wrong.add(name)
    return Reading(settings, problems, frozenset(wrong))


def _together(
    values: dict[str, Any], sources: dict[str, str], problems: list[SettingsError], wrong: set[str]
) -> Settings:
    """Return the settings without the values that contradict each other, which become problems."""
    while True:
        try:
            return Settings(**values, sources=sources)
        except SettingsError as error:
            # What it contradicts may be a default in the place of what somebody wrote: that is no news.
            if error.opposes not in wrong:
                problems.append(error)
            wrong.add(error.setting)
            del values[error.setting], sources[error.setting]


def linked_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the variables of settings that hold a service link of Kubernetes and therefore do not count.

    Where a Service is named fastws, FASTWS_PORT is tcp://10.0.0.1:8000 in every container.
    """
    variables = [setting.variable for setting in SETTINGS.values()]
    return [variable for variable in variables if _is_linked_port(variable, environ.get(variable, ""))]


def _is_linked_port(variable: str, value: str) -> bool:
    return variable.endswith("_PORT") and _LINKED_PORT.match(value) is not None


def _read_toml(path: str, problems: list[SettingsError]) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        problem = f"config: cannot read {path}: {error.strerror}; check the path and its permissions"
    except RecursionError:
        problem = (
            f"config: {path} is not valid TOML: it is nested too deeply; write lines such as port = 8000"
        )
    except ValueError as error:  # bad TOML, bad UTF-8, and whole numbers with thousands of digits
        problem = f"config: {path} is not valid TOML: {error}; write lines such as port = 8000"
    problems.append(SettingsError(problem, setting="config", source="--config"))
    return {}


def _from_toml(name: str, value: Any, path: str) -> Any:
    setting = SETTINGS.get(name)
    if setting is None:
        hint = (
            "; settings stand at the top level of the file, outside of tables"
            if isinstance(value, dict)
            else ""
        )
        raise SettingsError(
            f"{name}: unknown setting{suggest(name.replace('-', '_'), SETTINGS)} (from {path}){hint}",
            setting=name,
            source=path,
        )
    if setting.kind == KEY_TABLE and isinstance(value, str):
        value = _read_key_table(setting, value, path)
    return _check(setting, value, path)


def _read_key_table(setting: Setting, path: str, source: str) -> dict[str, Any]:
    # What is in the file is not shown, and neither is what does not look like a path: it may be a secret.
    named = (
        f"the file {path}, which {source} names," if is_plain_path(path) else f"the file that {source} names"
    )
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not TOML"
        raise SettingsError(
            f'{setting.name}: {named} cannot be read: {reason}; name a file of lines such as key-1 = "…"',
            setting=setting.name,
            source=source,
        ) from None


def _variables(environ: Mapping[str, str], problems: list[SettingsError]) -> Iterator[tuple[str, str]]:
    """Yield (variable, setting name) of the variables that are set, aliases first so that real names win."""
    for variable, name in ENV_ALIASES.items():
        if environ.get(variable):
            yield variable, name
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX) or variable in _FOREIGN_VARIABLES:
            continue
        if _SERVICE_LINK.fullmatch(variable) or _is_linked_port(variable, environ[variable]):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in SETTINGS or variable != variable.upper():
            hint = suggest(variable.upper(), [setting.variable for setting in SETTINGS.values()])
            problems.append(
                SettingsError(
                    f"{variable}: unknown setting{hint} (from the environment); correct or unset it",
                    setting=variable,
                    source="environment",
                )
            )
        elif environ[variable]:
            yield variable, name


def _from_text(setting: Setting, text: str, source: str) -> Any:
    typed, text = text, text.strip()
    kind = setting.kind
    value: Any = text
    try:
        if kind is bool:
            value = True if text.lower() in _TRUE else False if text.lower() in _FALSE else text
        elif kind == KEY_TABLE:
            value = _read_key_table(setting, text, source)
        elif get_origin(kind) is tuple:
            value = tuple(part.strip() for part in text.split(",") if part.strip())
        elif kind is int:
            value = int(text)
        elif kind is float or (kind == SPEED and text != "max"):
            value = float(text)
    except ValueError:
        value = text  # of the wrong type, which _check reports
    return _check(setting, value, source, typed)


def _check(setting: Setting, value: Any, source: str, typed: str | None = None) -> Any:
    """Return `value` as the setting has it; `typed` is the text that it was read from, if it was."""
    try:
        checked = msgspec.convert(value, HINTS[setting.name])
        is_wrong = isinstance(checked, float) and (
            not math.isfinite(checked) or (setting.name == "replay_speed" and checked <= 0)
        )
    except (
        msgspec.ValidationError,
        UnicodeEncodeError,
    ):  # variables and flags may have bytes that are no UTF-8
        is_wrong = True
    if is_wrong:
        given = shown(setting, value) if typed is None else shown(setting, typed, as_typed=True)
        raise SettingsError(
            f"{setting.name}: {given} (from {source}) is not usable; expected {setting.expects}",
            setting=setting.name,
            source=source,
        )
    return checked


def _check_file(settings: Settings, name: str, path: str | None) -> None:
    if path is None or (file := Path(path)).is_file():
        return
    if file.is_dir():
        raise settings.error(name, f"{path} is a directory", "name a file")
    if file.exists():
        raise settings.error(name, f"{path} is not a regular file", "name one")
    raise settings.error(name, f"there is no file {path}", "check the path")
