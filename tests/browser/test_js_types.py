"""The declarations of ``clients/js`` say what the message types say: the compiler holds one against the other."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from msgspec import inspect

from fastws import messages
from fastws.errors import ErrorCode
from fastws.messages import realtime
from tests.clients_js.node import MODULES, require_package
from tests.serving import ROOT, require_program

DECLARATIONS = ROOT / "clients" / "js" / "fastws.d.ts"
# What the client tells of itself, beside the messages.
OWN_EVENTS = ("message", "state", "gap", "lost", "withdrawn")
OWN_ERRORS = ("CONNECT_FAILED", "TOKEN_HOOK_FAILED")
# What it marks when it was in a snapshot: all that has a last value.
MARKED = ("price_update", "orderbook_update", "market_status", "symbol_status", "portfolio_update")
# What `send` takes: the rest is sent by `subscribe` and by the client itself.
SENT = ("ping", "list_subscriptions", "auth", "refresh_token")
# Any text covers those that are known, and what is put together is the same as what is written out.
PROLOGUE = """\
import type { ClientMessage, Events, RealtimeData, SubscribeOptions } from "./fastws.js";
type Part<T> = T extends (infer One)[] ? Flat<One>[] : T extends object ? { [Key in keyof T]: Flat<T[Key]> } : T;
type Flat<T> = [string] extends [T] ? string | Part<Exclude<T, string>> : Part<T>;
type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
"""


def typescript(info: inspect.Type, extra: Mapping[str, Any]) -> str:
    """A type as the declarations would have it; `extra` is what it has of JSON Schema."""
    match info:
        case inspect.Metadata(type=inner, extra_json_schema=more):
            return typescript(inner, {**extra, **(more or {})})
        case inspect.UnionType(types=types):
            return " | ".join(typescript(each, extra) for each in types)
        case inspect.StructType(cls=realtime.Target):
            # One of both.
            return " | ".join(
                f"{{ {field.encode_name}: {typescript(field.type, {})} }}" for field in info.fields
            )
        case inspect.StructType(fields=()):
            return "Record<string, never>"
        case inspect.StructType():
            return written_out(info)
        case inspect.ListType(item_type=item):
            return f"({typescript(item, {})})[]"
        case inspect.DictType(value_type=value):
            keys = extra.get("propertyNames", {}).get("enum")
            if keys is None:
                return f"{{ [key: string]: {typescript(value, {})} }}"
            return f"{{ {'; '.join(f'{key}?: {typescript(value, {})}' for key in keys)} }}"
        case inspect.LiteralType(values=values):
            return alternatives(values)
        case inspect.EnumType(cls=cls):
            assert cls is ErrorCode
            return alternatives((*cls, *OWN_ERRORS))
        case inspect.StrType():
            return alternatives(extra.get("enum", ())) or "string"
        case inspect.IntType() | inspect.FloatType():
            return "number"
        case inspect.BoolType():
            return "boolean"
        case inspect.NoneType():
            return "null"
        case inspect.AnyType():
            return "unknown"
        case _:
            raise AssertionError(f"what is {info} in TypeScript?")


def alternatives(values: Iterable[object]) -> str:
    return " | ".join(json.dumps(value) for value in values)


def written_out(info: inspect.StructType, without: tuple[str, ...] = ()) -> str:
    members = {
        field.encode_name: ("" if field.required else "?", typescript(field.type, {}))
        for field in info.fields
    }
    if info.tag_field is not None:
        members[info.tag_field] = ("", json.dumps(info.tag))
    if info.tag in MARKED and "sequence" in members:
        members["snapshot"] = ("?", "true")
    if info.tag == "error" and "code" in members:
        # In its own errors.
        members["timestamp"] = ("?", "string")
    texts = [f"{name}{mark}: {kind}" for name, (mark, kind) in members.items() if name not in without]
    return f"{{ {'; '.join(texts)} }}"


def struct(kind: type) -> inspect.StructType:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return info


def by_tag(union: Any) -> dict[str, inspect.StructType]:
    return {str(info.tag): info for info in map(struct, get_args(union))}


def comparisons() -> Iterator[tuple[str, str, str]]:
    """What is compared, what is declared, and what it should be."""
    answers = by_tag(messages.ServerMessage)
    yield "the events", "keyof Events", alternatives((*answers, *OWN_EVENTS))
    for tag, info in answers.items():
        yield tag, f'Events["{tag}"]', written_out(info)
    answers = by_tag(realtime.ServerMessage)
    yield "the events of the realtime dialect", "keyof RealtimeData", alternatives(answers)
    for tag, info in answers.items():
        (data,) = (field.type for field in info.fields if field.encode_name == "data")
        yield f"{tag} of the realtime dialect", f'RealtimeData["{tag}"]', typescript(data, {})
    requests = by_tag(messages.ClientMessage)
    yield "what is sent", "ClientMessage", " | ".join(written_out(requests[tag]) for tag in SENT)
    options = written_out(requests["subscribe"], without=("type", "id", "subscription_type", "targets"))
    yield "the options of subscribe", "SubscribeOptions", options


def test_they_are_the_same(tmp_path: Path) -> None:
    node = require_program("node")
    require_package("typescript")
    shutil.copy(DECLARATIONS, tmp_path)
    compared = list(comparisons())
    lines = [f"export const n{i}: Same<Flat<{a}>, Flat<{b}>> = true;" for i, (_, a, b) in enumerate(compared)]
    (tmp_path / "same.ts").write_text(PROLOGUE + "\n".join(lines) + "\n", encoding="utf-8")
    compiler = MODULES / "typescript" / "bin" / "tsc"
    options = "--noEmit --strict --target es2022 --module nodenext --lib es2022,dom --pretty false"
    result = subprocess.run(
        [node, str(compiler), *options.split(), "same.ts"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    differences = []
    for line in result.stdout.splitlines():
        place = int(line.partition("(")[2].partition(",")[0]) - PROLOGUE.count("\n") - 1
        what, _, wanted = compared[place]
        differences.append(f"{what}: the message types have {wanted}")
    assert (differences, result.stderr) == ([], "")
    assert result.returncode == 0
