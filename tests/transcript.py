"""Golden transcripts: what is sent, and what has to come back, byte for byte.

A transcript is a file of JSON lines: a header that says which server it is for, then steps in order:

``{"send":…}``          send this message; ``send_text`` sends a text that is no JSON
``{"expect":…}``        receive this message
``{"flood":…}``         send this message 150 times at once, and pass over its pongs
``{"connect":"?…"}``    close the connection, if one is open, and open another one with this query
``{"closed":4401}``     the server closes with this code
``{"ask":…}``           an HTTP request: ``method``, ``path``, ``bearer``, ``body``; its answer is the next step
``{"answer":…}``        ``status`` and ``body``; objects may have more members, anywhere
``{"stop":true}``       end the server by SIGTERM

A first ``connect`` may be left out. A transcript of nothing but the first two is *plain*: every WebSocket client can
act it out. What is expected is compared as compact JSON text with the order of its keys. Only these values may vary:

``"<timestamp>"``       UTC with milliseconds and Z
``"<connection_id>"``   a UUID
``"<session_id>"``      a UUID, kept: the next one has to be the same
``"<epoch>"``           a short word
``"<text>"``            a sentence for people, not empty
``"<flag>"``            true or false
``"<name>"``            any other name: an integer, kept under that name
``"<name+3>"``          that integer plus three (or minus)

What was kept may stand in what is sent, and so may ``<token:NAME>``, a token with the claims that the header's
``tokens`` has under that name.

The last step has to be an answer, so that a message too many would be noticed in its place.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import jwt

DIRECTORY = Path(__file__).parent / "protocol" / "transcripts"

_VARYING = re.compile(r'"<([a-z_]+)(?:([+-])(\d+))?>"')
_TEXTS = {
    "timestamp": r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"',
    "connection_id": r'"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"',
    "epoch": r'"[0-9a-z]{1,16}"',
    "text": r'"[^"\\]+(?:\\.[^"\\]*)*"',
    "flag": r"(?:true|false)",
}
_KINDS = ("send", "send_text", "expect", "flood", "connect", "closed", "ask", "answer", "stop")
_ANSWERS = ("expect", "closed", "answer")
_KEPT = re.compile(r'"<([a-z_]+)([+-]\d+)>"|<([a-z_]+)(?::([a-z_]+))?>')

Known = dict[str, Any]


class Step(NamedTuple):
    """One line. `text` is what is sent or expected, as JSON text where it is JSON."""

    kind: str
    text: str


class Transcript(NamedTuple):
    name: str
    flags: tuple[str, ...]
    settings: dict[str, object]
    tokens: dict[str, dict[str, Any]]
    feed_status: str | None
    steps: list[Step]
    channel: str
    imports: dict[str, list[str]]

    @property
    def is_plain(self) -> bool:
        return (
            self.channel == "screener"
            and not self.imports
            and all(step.kind in ("send", "send_text", "expect") for step in self.steps)
        )

    @property
    def expected(self) -> list[str]:
        """The messages, close codes and answers that have to come."""
        return [step.text for step in self.steps if step.kind in _ANSWERS]

    def for_client(self) -> list[dict[str, str | bool]]:
        """The steps as other programs are told them: send this text, receive one message."""
        assert self.is_plain
        return [{"receive": True} if step.kind == "expect" else {"send": step.text} for step in self.steps]

    def filled(self, text: str, known: Known) -> str:
        """A text to send, with tokens and what is known in the places left for them."""

        def fill(place: re.Match[str]) -> str:
            counted, offset, name, token = place.groups()
            if counted:
                return str(known[counted] + int(offset))
            if token:
                return jwt.encode(self.tokens[token], str(self.settings["jwt_secret"]), "HS256")
            return str(known[name])

        return _KEPT.sub(fill, text)

    def compare(self, received: list[str]) -> None:
        """Fail unless `received` is what is expected."""
        known: Known = {}
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


def names(*, plain: bool = False) -> list[str]:
    """All transcripts, or those that every client can act out."""
    found = sorted(path.stem for path in DIRECTORY.glob("*.jsonl"))
    return [name for name in found if not plain or load(name).is_plain]


def load(name: str) -> Transcript:
    """Read a transcript.

    Its header names flags, settings, tokens, and the state of the feed to wait for, if any; the channel of the
    contract that it is about, if it is not the screener's; and what is imported into the server's database, as lines of
    CSV by kind of file.
    """
    lines = (DIRECTORY / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    header, *rest = [decode(line) for line in lines if line]
    flags = [
        str(DIRECTORY / flag[1:]).join(("replay:", "")) if flag[0] == "@" else flag
        for flag in header["flags"]
    ]
    steps = []
    for line in rest:
        ((kind, value),) = line.items()
        assert kind in _KINDS, kind
        steps.append(Step(kind, value if kind in ("send_text", "connect") else compact(value)))
    assert steps
    assert steps[-1].kind in _ANSWERS
    tokens = header.get("tokens", {})
    return Transcript(
        name,
        tuple(flags),
        header["settings"],
        tokens,
        header["feed_status"],
        steps,
        header.get("channel", "screener"),
        header.get("imports", {}),
    )


def part_of(body: Any, expected: Any) -> Any:
    """What `expected` asks for of a body: the members of its objects that it names, in the order of the body."""
    if isinstance(body, dict) and isinstance(expected, dict):
        return {key: part_of(value, expected[key]) for key, value in body.items() if key in expected}
    if isinstance(body, list) and isinstance(expected, list) and len(body) == len(expected):
        return [part_of(item, wanted) for item, wanted in zip(body, expected, strict=True)]
    return body


def match(expected: str, text: str, known: Known, where: str) -> None:
    """Compare one message; integers that may vary are looked up in `known`, and put there."""
    pattern, position, captured = "", 0, []
    for place in _VARYING.finditer(expected):
        pattern += re.escape(expected[position : place.start()])
        position = place.end()
        name, sign, offset = place.groups()
        if name in _TEXTS:
            pattern += _TEXTS[name]
        elif name == "session_id" and name in known:
            pattern += f'"{known[name]}"'
        elif name == "session_id":
            pattern += f"({_TEXTS['connection_id']})"
            captured.append(name)
        elif sign:
            pattern += str(known[name] + int(sign + offset))
        else:
            pattern += r"(\d+)"
            captured.append(name)
    found = re.fullmatch(pattern + re.escape(expected[position:]), text)
    assert found, f"{where}\nexpected {expected}\nreceived {text}\nwith     {known}"
    known.update(zip(captured, map(json.loads, found.groups()), strict=True))


def compact(value: Any) -> str:
    """JSON without spaces, numbers with the digits they were read with."""
    if isinstance(value, dict):
        members = ",".join(f"{compact(key)}:{compact(item)}" for key, item in value.items())
        return f"{{{members}}}"
    if isinstance(value, list):
        return f"[{','.join(map(compact, value))}]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False)


def decode(line: str) -> Any:
    return json.loads(line, parse_float=Decimal)
