"""The messages of both dialects, from the document that the server publishes about itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import msgspec

from docs.generate.markdown import code, fence, table, words
from fastws.messages import examples
from fastws.server.asyncapi import document

Json = dict[str, Any]

# Of a schema: the least, the most, and what is counted.
_LIMITS: Final = (
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " of them"),
    ("minimum", "maximum", ""),
)
_UNSAID: Final = frozenset({2**63 - 1, -(2**63)})
"""Limits that are only those of the machine."""
_CODE: Final = re.compile(r"`(\w+)`")


def screener() -> str:
    """Everything of ``/v1/ws``."""
    return _channel("screener", examples._LINES)


def realtime() -> str:
    """Everything of ``/ws/realtime/``."""
    return _channel("realtime", examples._REALTIME_LINES)


@cache
def _document() -> Json:
    # As it leaves the server: enumerations have become texts.
    found: Json = json.loads(msgspec.json.encode(document()))
    return found


def _channel(name: str, lines: str) -> str:
    """`lines` are the examples, as they are written: a number that was decoded has lost its last zeros."""
    made = _document()
    place = {"$ref": f"#/channels/{name}"}
    operations = [one for one in made["operations"].values() if one["channel"] == place]
    asked = [one for one in operations if one["action"] == "receive"]
    said = [one for one in operations if one["action"] == "send"]
    requests = [_type_of(one["messages"][0]) for one in asked]
    answers = [kind for kind in made["channels"][name]["messages"] if kind not in requests]
    shown = _examples(lines)
    parts: dict[str, None] = {}
    query = made["channels"][name]["bindings"]["ws"]["query"]["properties"]
    rows = ([code(name), member["type"], words(member["description"])] for name, member in query.items())
    text = ["## In the address", "", "All of it is optional.", ""]
    text += [table(("parameter", "type", "what"), rows), "", "## What clients send", ""]
    text += [f"Every request may be answered by {_links(['error'])} instead, with its `id`.", ""]
    for kind in requests:
        text += _message(name, kind, shown[kind], parts)
    text += ["## What the server sends", ""]
    text += [_occasions(said), ""]
    for kind in answers:
        text += _message(name, kind, shown[kind], parts)
    text += _parts(parts)
    return "\n".join(text)


def _type_of(ref: Mapping[str, str]) -> str:
    return ref["$ref"].rpartition("/")[2]


def _link(kind: str) -> str:
    return f"[`{kind}`](#{kind})"


def _links(kinds: Iterable[str]) -> str:
    return ", ".join(map(_link, kinds))


def _occasions(operations: Iterable[Json]) -> str:
    rows = ([words(one["summary"]), _links(map(_type_of, one["messages"]))] for one in operations)
    return table(("unasked", "messages"), rows)


def _examples(lines: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in filter(None, lines.split("\n")):
        found.setdefault(json.loads(line)["type"], []).append(line)
    return found


def _message(channel: str, kind: str, shown: list[str], parts: dict[str, None]) -> list[str]:
    made = _document()
    message = made["components"]["messages"][_type_of(made["channels"][channel]["messages"][kind])]
    schema = _resolved(message["payload"])
    kinds = made["channels"][channel]["messages"]
    text = [f"### `{kind}` {{ #{kind} }}", ""]
    for told in (message["summary"], message.get("description", "")):
        text += [_CODE.sub(lambda name: _link(name[1]) if name[1] in kinds else name[0], words(told)), ""]
    rows = _rows(schema, parts)
    if rows:
        text += [table(("member", "type", "what"), rows), ""]
    return [*text, fence("\n".join(shown), "json"), ""]


def _rows(schema: Json, parts: dict[str, None], within: str = "") -> list[list[str]]:
    """The members of an object; those of `data`, which every message of one dialect has, stand with them."""
    rows = []
    for name, member in schema["properties"].items():
        if name == "type" and not within:
            continue
        inner = _resolved(member) if "$ref" in member else {}
        shown = code(f"{within}{name}")
        if name in schema["required"]:
            shown += "<br><small>required</small>"
        if name == "data" and "properties" in inner:
            if inner["properties"]:
                rows += _rows(inner, parts, "data.")
            else:
                rows.append([shown, "object", words(inner.get("description", ""))])
            continue
        rows.append([shown, _kind(member, parts), _meaning(member)])
    return rows


def _meaning(member: Json) -> str:
    text = member.get("description")
    if text is None and "items" in member:
        text = member["items"].get("description")
    told = [words(text)] if text else []
    if "default" in member:
        told.append(f"Default: {code(json.dumps(member['default']))}.")
    return " ".join(told)


def _kind(member: Json, parts: dict[str, None]) -> str:
    """The type of a member and its limits, in words."""
    if "$ref" in member:
        name = _type_of(member)
        if name == "ErrorCode":
            return "[error code](codes.md#error-codes)"
        target = _resolved(member)
        tag = target["properties"].get("type", {}).get("enum", [None])[0]
        if tag is not None:
            return f"[`{tag}`](#{tag})"
        parts.setdefault(name)
        return f"[{name}](#{name.lower()})"
    if "enum" in member:
        return " or ".join(code(json.dumps(value)) for value in member["enum"])
    if "anyOf" in member:
        return " or ".join(_kind(one, parts) for one in member["anyOf"])
    if member.get("type") == "array":
        return ", ".join([f"list of: {_kind(member['items'], parts)}", *_limits(member)])
    if isinstance(member.get("additionalProperties"), dict):
        return f"object: {_kind(member['additionalProperties'], parts)} by name"
    kind: str = "time" if member.get("format") == "date-time" else member.get("type", "anything")
    return ", ".join([kind, *_limits(member)])


def _limits(member: Json) -> list[str]:
    found = []
    for least, most, unit in _LIMITS:
        low, high = (None if member.get(name) in _UNSAID else member.get(name) for name in (least, most))
        if low is not None and high is not None:
            found.append(f"{low:,} to {high:,}{unit}")
        elif low is not None:
            found.append(f"{low:,}{unit} or more")
        elif high is not None:
            found.append(f"up to {high:,}{unit}")
    return found


def _parts(names: dict[str, None]) -> list[str]:
    """The objects within messages; new ones may turn up while they are described."""
    text = ["## Objects within messages", ""] if names else []
    done: set[str] = set()
    while left := [name for name in names if name not in done]:
        name = left[0]
        done.add(name)
        schema = _document()["components"]["schemas"][name]
        text += [f"### {name} {{ #{name.lower()} }}", ""]
        if "description" in schema:
            text += [words(schema["description"]), ""]
        text += [table(("member", "type", "what"), _rows(schema, names)), ""]
    return text


def _resolved(schema: Json) -> Json:
    found: Json = _document()["components"]["schemas"][_type_of(schema)]
    return found


def error_codes() -> str:
    """The table of the codes of ``error``."""
    rows = (
        [
            code(one["code"]),
            words(one["meaning"]),
            ", ".join(map(code, one["details"])),
            "" if one["closes"] is None else str(one["closes"]),
        ]
        for one in _document()["channels"]["screener"]["x-error-codes"]
    )
    return table(("code", "meaning", "`details` may have", "may close with"), rows)


def close_codes() -> str:
    """The table of close codes."""
    rows = (
        [str(one["code"]), words(one["meaning"]), "yes" if one["reconnect"] else "no"]
        for one in _document()["channels"]["screener"]["x-close-codes"]
    )
    return table(("code", "meaning", "simply connect again"), rows)
