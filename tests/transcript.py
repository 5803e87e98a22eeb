"""Golden transcripts: what is sent, and what has to come back, byte for byte.

A transcript is a file of JSON lines: a header that says which server it is for, then steps ``{"send":…}`` and
``{"expect":…}`` in order; ``send_text`` sends a text that is no JSON. What is expected is compared as compact JSON text
with the order of its keys. Only these values may vary:

``"<timestamp>"``       UTC with milliseconds and Z
``"<connection_id>"``   a UUID
``"<epoch>"``           a short word
``"<text>"``            a sentence for people, not empty
``"<name>"``            any other name: an integer, kept under that name
``"<name+3>"``          that integer plus three (or minus)

The last step has to be an answer, so that a message too many would be noticed in its place.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

DIRECTORY = Path(__file__).parent / "protocol" / "transcripts"

_VARYING = re.compile(r'"<([a-z_]+)(?:([+-])(\d+))?>"')
_TEXTS = {
    "timestamp": r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"',
    "connection_id": r'"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"',
    "epoch": r'"[0-9a-z]{1,16}"',
    "text": r'"[^"\\]+(?:\\.[^"\\]*)*"',
}


class Step(NamedTuple):
    """One line: the text to send, or the text expected."""

    is_sent: bool
    text: str


class Transcript(NamedTuple):
    name: str
    flags: tuple[str, ...]
    settings: dict[str, object]
    feed_status: str
    steps: list[Step]

    @property
    def expected(self) -> list[str]:
        return [step.text for step in self.steps if not step.is_sent]

    def for_client(self) -> list[dict[str, str | bool]]:
        """The steps as other programs are told them: send this text, receive one message."""
        return [{"send": step.text} if step.is_sent else {"receive": True} for step in self.steps]

    def compare(self, received: list[str]) -> None:
        """Fail unless `received` is what is expected."""
        known: dict[str, int] = {}
        for number, (expected, text) in enumerate(zip(self.expected, received, strict=False), 1):
            match(expected, text, known, f"{self.name}, message {number}")
        assert len(received) == len(self.expected), f"{self.name}: {len(received)} messages received"


def compare_all(scripts: list[Transcript], received: list[list[str]]) -> None:
    """Compare what a client received of several, and tell every one that differs."""
    differences = []
    for script, texts in zip(scripts, received, strict=False):
        try:
            script.compare(texts)
        except AssertionError as difference:
            differences.append(str(difference))
    assert not differences, "\n".join(differences)
    assert len(received) == len(scripts)


def names() -> list[str]:
    return sorted(path.stem for path in DIRECTORY.glob("*.jsonl"))


def load(name: str) -> Transcript:
    """Read a transcript. Its header names flags, settings, and the state of the feed to wait for."""
    lines = (DIRECTORY / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    header, *rest = [_decode(line) for line in lines if line]
    flags = [
        str(DIRECTORY / flag[1:]).join(("replay:", "")) if flag[0] == "@" else flag
        for flag in header["flags"]
    ]
    steps = []
    for line in rest:
        ((kind, value),) = line.items()
        assert kind in ("send", "send_text", "expect"), kind
        steps.append(Step(kind != "expect", value if kind == "send_text" else compact(value)))
    assert steps
    assert not steps[-1].is_sent
    return Transcript(name, tuple(flags), header["settings"], header["feed_status"], steps)


def match(expected: str, text: str, known: dict[str, int], where: str) -> None:
    """Compare one message; integers that may vary are looked up in `known`, and put there."""
    pattern, position, captured = "", 0, []
    for place in _VARYING.finditer(expected):
        pattern += re.escape(expected[position : place.start()])
        position = place.end()
        name, sign, offset = place.groups()
        if name in _TEXTS:
            pattern += _TEXTS[name]
        elif sign:
            pattern += str(known[name] + int(sign + offset))
        else:
            pattern += r"(\d+)"
            captured.append(name)
    found = re.fullmatch(pattern + re.escape(expected[position:]), text)
    assert found, f"{where}\nexpected {expected}\nreceived {text}\nwith     {known}"
    known.update(zip(captured, map(int, found.groups()), strict=True))


def compact(value: Any) -> str:
    """JSON without spaces, numbers with the digits they were read with."""
    if isinstance(value, dict):
        members = ",".join(f"{compact(key)}:{compact(item)}" for key, item in value.items())
        return f"{{{members}}}"
    if isinstance(value, list):
        return f"[{','.join(map(compact, value))}]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


def _decode(line: str) -> Any:
    return json.loads(line, parse_float=Decimal)
