"""The server's AsyncAPI document as something to hold messages against."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from jsonschema import Draft202012Validator

from tests.transcript import Transcript

Json = dict[str, Any]

# What may stand in the places that transcripts leave open.
_SAMPLES = {
    "timestamp": '"2025-11-11T09:30:00.000Z"',
    "connection_id": '"550e8400-e29b-41d4-a716-446655440000"',
    "session_id": '"550e8400-e29b-41d4-a716-446655440000"',
    "epoch": '"k3f9"',
    "text": '"a sentence"',
    "flag": "true",
}
_PLACE = re.compile(r'"<([a-z_]+)(?:[+-]\d+)?>"')


class Contract:
    """A document; the messages of either direction by their types, of one of its channels."""

    def __init__(self, document: Json, channel: str = "screener") -> None:
        self.document = document
        place = {"$ref": f"#/channels/{channel}"}
        operations = [one for one in document["operations"].values() if one["channel"] == place]
        received = [operation for operation in operations if operation["action"] == "receive"]
        self.requests = _types(received)
        self.answers = _types([operation for operation in operations if operation["action"] == "send"])
        self.answers |= _types([operation["reply"] for operation in received])
        found = document["components"]["messages"]
        self.messages: Json = {
            name: found[ref["$ref"].rpartition("/")[2]]
            for name, ref in document["channels"][channel]["messages"].items()
        }
        self._validators = {
            name: Draft202012Validator({**message["payload"], "components": document["components"]})
            for name, message in self.messages.items()
        }

    def flaws(self, message: Any, types: Iterable[str]) -> list[str]:
        """What is wrong with a message that is to be one of `types`; empty when nothing is."""
        kind = message.get("type") if isinstance(message, dict) else None
        if kind not in types:
            return [f"{kind!r} is none of {sorted(types)}"]
        return [f"{flaw.json_path}: {flaw.message}" for flaw in self._validators[kind].iter_errors(message)]

    def check(self, text: str) -> Any:
        """Fail unless a text from the server is a message of the contract; returns it parsed."""
        message = json.loads(text)
        assert self.flaws(message, self.answers) == [], text
        return message


def _types(operations: Iterable[Json]) -> set[str]:
    return {ref["$ref"].rpartition("/")[2] for operation in operations for ref in operation["messages"]}


def exchanged(script: Transcript) -> tuple[list[str], list[str]]:
    """The texts of a transcript that are sent and those that are received, their open places filled."""
    sent = [_filled(step.text) for step in script.steps if step.kind in ("send", "send_text", "flood")]
    return sent, [_filled(step.text) for step in script.steps if step.kind == "expect"]


def _filled(text: str) -> str:
    return _PLACE.sub(lambda place: _SAMPLES.get(place[1], "1"), text)
