"""What is known of each setting without its value, and how a value of it is shown."""

from __future__ import annotations

import json
import os
import re
from types import NoneType
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

ENV_PREFIX: Final = "FASTWS_"
SPEED = float | Literal["max"]
KEY_TABLE = dict[str, str]

HIDDEN: Final = "***"
"""What stands for a secret wherever a setting is shown."""

# In a URL: behind the user, up to the last @ (SQLAlchemy allows any character before it), or as a parameter.
_PASSWORD: Final = re.compile(r"(://[^/:@]*:).*(?=@)|((?:password|passwd|pwd)=)[^&\"]*", re.IGNORECASE)

_KEY_FILES: Final = (".pem", ".pub", ".key", ".crt", ".toml", ".txt")
_LONGEST_PATH: Final = 255


def meta(
    description: str, unit: str = "", *, secret: bool = False, restart: bool = False, **constraints: Any
) -> Meta:
    """`restart`: a running server keeps the value that it was started with; the others it can read again."""
    return Meta(
        description=description, extra={"unit": unit, "secret": secret, "restart": restart}, **constraints
    )


class Setting(NamedTuple):
    """What is known of one setting without its value.

    `kind` is its type without None and limits, `expects` completes "expected …". A value of a setting that
    `is_secret` is never shown, and one that `needs_restart` is not changed by SIGHUP.
    """

    name: str
    kind: Any
    default: Any
    description: str
    unit: str
    expects: str
    is_secret: bool
    needs_restart: bool

    @property
    def variable(self) -> str:
        return ENV_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def default_text(self) -> str:
        """The default as a user would write it, with its unit; ``unset`` where there is none."""
        if self.default is None or self.default in ((), {}):
            return "unset"
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        text = f"{self.default:g}" if isinstance(self.default, float) else str(self.default)
        return f"{text} {self.unit}" if self.unit else text


def collect(declarations: type[msgspec.Struct]) -> dict[str, Setting]:
    """Return what a structure declares with :func:`meta`, by name, in its order."""
    hints = get_type_hints(declarations, include_extras=True)
    settings = {}
    for field in msgspec.structs.fields(declarations):
        if field.name == "sources":
            continue
        kind, described = get_args(hints[field.name])
        limits = described
        if NoneType in get_args(kind):
            kind = get_args(kind)[0]
            if get_origin(kind) is Annotated:
                kind, limits = get_args(kind)
        has_factory = field.default_factory is not msgspec.NODEFAULT
        settings[field.name] = Setting(
            name=field.name,
            kind=kind,
            default=field.default_factory() if has_factory else field.default,
            description=described.description,
            unit=described.extra["unit"],
            expects=_expectation(kind, limits),
            is_secret=described.extra["secret"],
            needs_restart=described.extra["restart"],
        )
    return settings


def shown(setting: Setting, value: Any, *, as_typed: bool = False, max_size: int = 80) -> str:
    """Return a value of `setting` as it may be printed: never a secret, and no longer than `max_size`.

    It is spelled as in TOML; `as_typed` is for the text of a flag or a variable.
    """
    if setting.is_secret and value:
        return HIDDEN
    if isinstance(value, str) and "-----BEGIN" in value:
        # Even where a public key belongs, somebody may have put the private one.
        return "PEM text"
    is_plain = as_typed and value and value.isprintable() and " " not in value
    text = _PASSWORD.sub(
        lambda found: (found[1] or found[2]) + HIDDEN, value if is_plain else _spelled(value)
    )
    return text if len(text) <= max_size else text[: max_size - 3] + "..."


def is_plain_path(text: str) -> bool:
    """Whether a text in the place of a key file may be shown: it names a file, and is no key in the wrong place.

    That is a short text with the ending of a key file, or one below a directory that there is, the root not counted:
    Base64 has slashes, too.
    """
    if not 0 < len(text) <= _LONGEST_PATH or not text.isprintable() or "-----" in text:
        return False
    if text.endswith(_KEY_FILES):
        return True
    directory = os.path.dirname(text)
    return directory.strip("/.") != "" and os.path.isdir(directory)


def display(setting: Setting, value: Any, *, max_size: int = 80) -> str:
    """Return a value as `shown`, with its unit; ``unset`` where there is none."""
    if value is None or value in ((), {}):
        return "unset"
    text = f"{value:.15g}" if isinstance(value, float) else shown(setting, value, max_size=max_size)
    return f"{text} {setting.unit}" if setting.unit else text


def _spelled(value: Any) -> str:
    """`value` as it is written in TOML."""
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_spelled, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name} = {_spelled(item)}' for name, item in value.items())}}}"
    return str(value)


def _expectation(kind: Any, limits: Meta) -> str:
    if kind is bool:
        return "true or false"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return "a list of texts (in a variable or flag: separated by commas)"
    if kind == KEY_TABLE:
        return "texts by key id, or the path of a TOML file with them"
    if kind is str:
        if limits.pattern:
            return "three octal digits, such as 660"
        return "a text that is not empty" if limits.min_length else "a text"
    if kind == SPEED:
        return "a number above 0, or max"
    text = "a whole number" if kind is int else "a number"
    if limits.gt is not None:
        return f"{text} above {limits.gt:g} and up to {limits.le:g}"
    return f"{text} from {limits.ge:.15g} to {limits.le:.15g}"
