"""What a decoder says of JSON, in JSON's words: whoever sends it need not know what Python calls things. Sans-IO."""

from __future__ import annotations

import re
from typing import Final

_PLACED: Final = re.compile(r"(?P<reason>.*?)(?: - at (?:`key` in )?`\$(?P<path>[^`]*)`)?", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `([^`]*)`")
_TYPES: Final = re.compile(r"`([a-z]+(?: \| [a-z]+)*)`")
_WORDS: Final = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "an integer",
    "null": "null",
    "object": "an object",
    "str": "a text",
}


def explain(text: str) -> tuple[str, str]:
    """Return the field that the text of a `msgspec.ValidationError` is about, and what is wrong with it.

    A field in a list or an object is told with its path, as ``targets[3]`` or ``[0].price``; it is "" for the whole.
    The other text begins with a small letter.
    """
    found = _PLACED.fullmatch(text)
    reason, path = (text, "") if found is None else (found["reason"], found["path"] or "")
    if (missing := _MISSING.fullmatch(reason)) is not None:
        path, reason = f"{path}.{missing[1]}", "is missing"
    elif reason.startswith("Expected "):
        reason = _TYPES.sub(_in_words, reason)
    elif reason.startswith("Invalid enum value "):
        reason = reason.replace(" enum", "", 1)
    if not reason.startswith("JSON"):
        reason = reason[:1].lower() + reason[1:]
    return path.removeprefix("."), reason


def _in_words(match: re.Match[str]) -> str:
    return " or ".join(_WORDS.get(name, name) for name in match[1].split(" | "))
