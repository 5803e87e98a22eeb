"""The settings of a server as `fastws check-config` shows them, to people and to programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Sequence
from typing import Any, Final

from fastws.configuration import ENV_ALIASES
from fastws.errors import SettingsError
from fastws.market.store import file_of
from fastws.server.acceptor import capacity
from fastws.server.advice import warnings
from fastws.settings import SETTINGS, Settings
from fastws.settings_catalog import HIDDEN, Setting, display, shown

WIDTH: Final = 100
"""Columns of the table at most, unless a single word is longer."""

_LONGEST_SOURCE: Final = 36
_NO_LIMIT: Final = 1 << 30
_VARIABLES: Final = {setting.variable for setting in SETTINGS.values()} | ENV_ALIASES.keys()


def table(settings: Settings) -> str:
    """Return a line for each setting: a star if it differs from its default, value, what a change takes, source.

    A long value goes on below.
    """
    sources = {name: _cut(settings.sources.get(name, "default")) for name in SETTINGS}
    values = {
        name: display(setting, getattr(settings, name), max_size=_NO_LIMIT)
        for name, setting in SETTINGS.items()
    }
    name_size = max(map(len, SETTINGS))
    room = WIDTH - name_size - max(map(len, sources.values())) - len("*   restart  ") - 2
    value_size = min(room, max(map(len, values.values())))
    lines = [f"  {'SETTING':{name_size}}  {'VALUE':{value_size}}  TAKES    SOURCE"]
    for name, setting in SETTINGS.items():
        mark = "*" if _is_changed(settings, setting) else " "
        first, *others = textwrap.wrap(values[name], value_size, break_on_hyphens=False)
        lines.append(f"{mark} {name:{name_size}}  {first:{value_size}}  {_takes(setting):7}  {sources[name]}")
        lines += [f"  {'':{name_size}}  {other}" for other in others]
    return "\n".join(lines)


def conclusion(settings: Settings) -> str:
    """Return the last line of a table that has no problems."""
    n = sum(_is_changed(settings, setting) for setting in SETTINGS.values())
    if n == 0:
        return "ok: every setting has its default"
    return (
        f"ok: {n} settings differ from their defaults" if n > 1 else "ok: 1 setting differs from its default"
    )


def notes(settings: Settings) -> list[str]:
    """Return lines on what the settings come to here."""
    lines = [f"{_room(settings)} connections fit, by the limit of file descriptors"]
    path = file_of(settings.database)
    return lines if path is None else [*lines, f"the database is the file {path}"]


def document(settings: Settings, problems: Sequence[SettingsError], wrong: Collection[str]) -> str:
    """Return all of it as JSON; a setting in `wrong` has no value."""
    return json.dumps(
        {
            "ok": not problems,
            "settings": [
                _entry(settings, setting, is_wrong=name in wrong) for name, setting in SETTINGS.items()
            ],
            "problems": [
                {"setting": problem.setting, "source": problem.source, "message": str(problem)}
                for problem in problems
            ],
            "warnings": warnings(settings),
            "room_for_connections": _room(settings),
            "database_file": None if problems else file_of(settings.database),
        },
        indent=2,
        ensure_ascii=False,
    )


def _room(settings: Settings) -> int:
    # Each worker has descriptors of its own.
    return settings.workers * capacity()


def _entry(settings: Settings, setting: Setting, *, is_wrong: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": setting.name}
    if not is_wrong:
        source = settings.sources.get(setting.name)
        entry |= {
            "value": _plain(setting, getattr(settings, setting.name)),
            "is_default": not _is_changed(settings, setting),
            "source": source or "default",
            "source_kind": _kind(source),
        }
    return entry | {
        "default": _plain(setting, setting.default),
        "unit": setting.unit or None,
        "takes": _takes(setting),
        "description": setting.description,
    }


def _plain(setting: Setting, value: Any) -> Any:
    """Return a value as JSON has it, without what is secret in it."""
    if setting.is_secret:
        return HIDDEN if value else None
    if isinstance(value, str):
        text = shown(setting, value, max_size=_NO_LIMIT)
        return json.loads(text) if text.startswith('"') else text
    return value


def _is_changed(settings: Settings, setting: Setting) -> bool:
    return bool(getattr(settings, setting.name) != setting.default)


def _takes(setting: Setting) -> str:
    return "restart" if setting.needs_restart else "reload"


def _kind(source: str | None) -> str:
    if source is None:
        return "default"
    if source.startswith("--"):
        return "flag"
    return "variable" if source in _VARIABLES else "file"


def _cut(source: str) -> str:
    """The end of a path tells more than its beginning."""
    return source if len(source) <= _LONGEST_SOURCE else "…" + source[1 - _LONGEST_SOURCE :]
