"""Scripts: what is to happen when. Sans-IO but for reading the file.

A script is TOML, or JSON with one object a line. In TOML::

    [settings]
    cap = 40
    pingpong_interval = 5

    [[step]]
    at = 10.0               # seconds after the start
    do = "drop"

    [[step]]
    session = 2             # the second connection
    request = 3             # when its third request has come, before the answer
    do = "drop"

The same as JSON lines; ``#`` begins a comment::

    {"settings": {"cap": 40, "pingpong_interval": 5}}
    {"at": 10.0, "do": "drop"}
    {"session": 2, "request": 3, "do": "drop"}

A step happens once:

    at         so many seconds after the start; with `every` again and again in that interval
    session    after the opening of that connection, counted from 1; `after` seconds later, or when
               its `request`-th request has come, or when it was sent `records` records of data
    request, records    without `session`: on the first connection that gets there
    (nothing)  at the start
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from fastws.kis.testing.actions import Action, UnknownActionError, read_action
from fastws.kis.testing.settings import FakeSettings, ScriptError, changed, convert

_Some = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(ge=0.0)]
_Positive = Annotated[float, msgspec.Meta(gt=0.0)]
_FIELD: Final = re.compile(r"(\w+)")


class When(msgspec.Struct, kw_only=True, frozen=True):
    """What a step waits for; see the module."""

    at: _Seconds | None = None
    every: _Positive | None = None
    session: _Some | None = None
    after: _Seconds | None = None
    request: _Some | None = None
    records: _Some | None = None

    @property
    def is_by_clock(self) -> bool:
        return self.session is None and self.request is None and self.records is None


class Step(msgspec.Struct, kw_only=True, frozen=True):
    when: When
    action: Action
    place: str
    """File and line, for messages."""


class Script(msgspec.Struct, kw_only=True, frozen=True):
    """`settings` are those that the script sets, as a table."""

    settings: dict[str, Any] = {}
    steps: tuple[Step, ...] = ()


_WHEN_FIELDS: Final = frozenset(When.__struct_fields__)


def load(path: str | Path) -> Script:
    """Read a script. Raises ScriptError that names file, line and field, and what is wrong."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ScriptError(f"{path}: cannot be read: {reason}") from None
    return parse(text, str(path), is_toml=path.suffix.lower() == ".toml")


def parse(text: str, name: str = "script", *, is_toml: bool | None = None) -> Script:
    """Take the text of a script apart; TOML or JSON lines, by its first character where that is not said."""
    if is_toml is None:
        lines = [
            line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")
        ]
        is_toml = not (lines and lines[0].startswith("{"))
    return _parse_toml(text, name) if is_toml else _parse_lines(text, name)


def read_step(fields: dict[str, Any], place: str) -> Step:
    """Make a step of a table. Raises ScriptError without a place."""
    when = {key: value for key, value in fields.items() if key in _WHEN_FIELDS}
    waits: When = convert(when, When)
    if waits.every is not None and not waits.is_by_clock:
        raise ScriptError("every: goes with at, not with session, request or records")
    if waits.at is not None and not waits.is_by_clock:
        raise ScriptError("at: a step waits for a time or for a session, not for both")
    if waits.after is not None and waits.session is None:
        raise ScriptError("after: counts from the opening of a session; name it with session, or use at")
    if sum(value is not None for value in (waits.after, waits.request, waits.records)) > 1:
        raise ScriptError("after, request, records: a step waits for one of them")
    action = read_action({key: value for key, value in fields.items() if key not in _WHEN_FIELDS})
    return Step(when=waits, action=action, place=place)


def _parse_toml(text: str, name: str) -> Script:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of whole numbers with thousands of digits
        raise ScriptError(f"{name}: is not valid TOML: {error}") from None
    lines = text.splitlines()
    settings, steps = document.pop("settings", {}), document.pop("step", [])
    if document:
        key = next(iter(document))
        place = _line_of(lines, 0, key) or 1
        raise ScriptError(
            f"{name} line {place}: {key}: unknown; a script has a table settings and tables [[step]]"
        )
    start = _find(lines, r"\[\s*settings\s*\]")
    _check_settings(settings, name, lines, start)
    if not isinstance(steps, list):
        raise ScriptError(f"{name}: step: write [[step]] above each step")
    starts = [i for i, line in enumerate(lines) if re.match(r"\s*\[\[\s*step\s*\]\]", line)]
    made = []
    for i, fields in enumerate(steps):
        first = starts[i] if i < len(starts) else 0
        made.append(_step(fields, name, lines, first))
    return Script(settings=settings, steps=tuple(made))


def _parse_lines(text: str, name: str) -> Script:
    settings: dict[str, Any] = {}
    steps = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise ScriptError(f"{name} line {number}: is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise ScriptError(f'{name} line {number}: expected an object, as {{"at": 10, "do": "drop"}}')
        if "settings" in fields and "do" not in fields:
            if len(fields) > 1:
                raise ScriptError(f"{name} line {number}: settings: stands alone on its line")
            _check_settings(fields["settings"], name, [line], None, number)
            settings |= fields["settings"]
        else:
            steps.append(_step(fields, name, [line], 0, number))
    return Script(settings=settings, steps=tuple(steps))


def _step(fields: Any, name: str, lines: list[str], first: int, number: int | None = None) -> Step:
    line = number or first + 1
    try:
        return read_step(fields, f"{name} line {line}")
    except UnknownActionError as error:
        place = number or _line_of(lines, first, "do") or line
        raise ScriptError(f"{name} line {place}: {error}") from None
    except ScriptError as error:
        place = number or _line_of(lines, first, _field_of(str(error))) or line
        raise ScriptError(f"{name} line {place}: {error}") from None


def _check_settings(
    settings: Any, name: str, lines: list[str], first: int | None, number: int | None = None
) -> None:
    try:
        if not isinstance(settings, dict):
            raise ScriptError("settings: expected a table")
        changed(FakeSettings(), settings)
    except ScriptError as error:
        place = number or _line_of(lines, first or 0, _field_of(str(error))) or 1
        raise ScriptError(f"{name} line {place}: {error}") from None


def _field_of(text: str) -> str:
    """The field that a message is about: its first word, or what it says is unknown."""
    unknown = re.search(r"unknown field `(\w+)`", text)
    found = unknown or _FIELD.match(text)
    return found[1] if found else ""


def _find(lines: list[str], pattern: str) -> int | None:
    return next((i for i, line in enumerate(lines) if re.match(rf"\s*{pattern}", line)), None)


def _line_of(lines: list[str], first: int, field: str) -> int | None:
    """The line, counted from 1, that sets a field in the table that begins at `first`."""
    for i in range(first, len(lines)):
        if i > first and re.match(r"\s*\[", lines[i]):
            break
        if re.match(rf"\s*\[?\s*\"?{re.escape(field)}\"?\s*[\].=]", lines[i]) and field:
            return i + 1
    return None
