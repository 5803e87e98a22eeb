"""Parts of the test page in Node: JSON as text, and which answer belongs to which request."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from tests.serving import require_program

SCRIPT = Path(__file__).parent / "testpage_parts.mjs"
TYPES = {"subscribe": "subscribed", "unsubscribe": "unsubscribed", "ping": "pong"}


def run(texts: list[str], sessions: list[list[Any]]) -> dict[str, list[Any]]:
    result = subprocess.run(
        [require_program("node"), str(SCRIPT)],
        input=json.dumps({"texts": texts, "types": TYPES, "sessions": sessions}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    outcome: dict[str, list[Any]] = json.loads(result.stdout)
    return outcome


def made_value(dice: random.Random, depth: int = 0) -> Any:
    """Any JSON value, with what is hard about it: brackets and quotes in texts, empty containers, equal keys."""
    kind = dice.randrange(7 if depth < 4 else 5)
    if kind == 0:
        return dice.choice([None, True, False])
    if kind in (1, 2):
        return dice.choice([0, -1, 2**63, 10**40, -(2**53) - 1, 1.5, -2.5e-7, 1e300])
    if kind in (3, 4):
        return "".join(dice.choices('ab{}[],:"\\/ \n\t\u2028한\U0001f600', k=dice.randrange(8)))
    n = dice.randrange(4)
    if kind == 5:
        return [made_value(dice, depth + 1) for _ in range(n)]
    names = dice.choices(["messages", "a", 'b"{', "", "type"], k=n)
    return {name: made_value(dice, depth + 1) for name in names}


def exact(text: str) -> Any:
    """The value of JSON, its numbers as they are written."""
    return json.loads(
        text, parse_int=lambda digits: f"int {digits}", parse_float=lambda digits: f"float {digits}"
    )


def test_json_keeps_every_digit() -> None:
    dice = random.Random(7)
    values = [made_value(dice) for _ in range(300)]
    values += [{"a": 1, "messages": [made_value(dice, 1) for _ in range(3)], "z": [2]} for _ in range(300)]
    texts = []
    for value in values:
        layout: dict[str, Any] = dice.choice(
            [{}, {"indent": 3}, {"separators": (",", ":")}, {"ensure_ascii": False}]
        )
        texts.append(json.dumps(value, **layout))
    written = '{"price": 1.50, "big": 18446744073709551615, "tiny": 1E-9}'
    outcome = run([*texts, written], [])
    for value, text, told in zip(values, texts, outcome["texts"], strict=False):
        assert exact(told["pretty"]) == exact(told["compact"]) == exact(text)
        assert "\n" not in told["compact"]
        inside = value.get("messages") if isinstance(value, dict) else None
        assert [exact(part) for part in told["elements"]] == (
            exact(json.dumps(inside)) if isinstance(inside, list) else []
        )
    assert outcome["texts"][-1] == {
        "pretty": '{\n  "price": 1.50,\n  "big": 18446744073709551615,\n  "tiny": 1E-9\n}',
        "compact": '{"price":1.50,"big":18446744073709551615,"tiny":1E-9}',
        "elements": [],
    }


def test_answers_find_their_requests() -> None:
    sent, got = "sent", "received"
    sessions: list[list[Any]] = [
        # By id, in any order.
        [
            [sent, {"type": "ping", "id": 1}],
            [sent, {"type": "ping", "id": "1"}],
            [got, {"type": "pong", "id": "1"}],
            [got, {"type": "pong", "id": 1}],
            [got, {"type": "pong", "id": 1}],
        ],
        # Without one, in the order of the requests; what is published answers nothing.
        [
            [sent, {"type": "subscribe"}],
            [sent, {"type": "ping"}],
            [got, {"type": "pong"}],
            [got, {"type": "price_update"}],
            [got, {"type": "subscribed"}],
            [got, {"type": "subscribed"}],
        ],
        # An error answers what was first; one with an id what has that.
        [
            [sent, {"type": "ping"}],
            [sent, {"type": "subscribe"}],
            [sent, {"type": "subscribe", "id": 5}],
            [got, {"type": "error", "id": 5}],
            [got, {"type": "error"}],
            [got, {"type": "subscribed"}],
            [got, {"type": "error"}],
        ],
        # What has no answer waits for none, and what is no object is no answer.
        [
            [sent, {"type": "hello"}],
            [sent, None],
            [sent, [1]],
            [got, None],
            [got, 5],
            [got, {"type": "error"}],
        ],
    ]
    assert run([], sessions)["sessions"] == [
        [None, None, 1, 3, None],
        [None, None, 1, None, 4, None],
        [None, None, None, 1, 4, 4, None],
        [None, None, None, None, None, None],
    ]
