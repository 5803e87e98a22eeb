"""What clients of the screener dialect may say, in any order, with prices in between and however slowly they read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tests.fuzz import stack

TRANSCRIPTS = Path(__file__).parents[2] / "protocol" / "transcripts"
TOKENS = (
    *(
        b'{"type":"subscribe"',
        b'"unsubscribe"',
        b'"set_subscriptions"',
        b'"list_subscriptions"',
        b'"reconnect"',
    ),
    *(
        b'"ping"',
        b'"pause"',
        b'"resume"',
        b'"auth"',
        b'"refresh_token"',
        b'"subscription_type":',
        b'"targets":[',
    ),
    *(b'"stock"', b'"market"', b'"sector"', b'"portfolio"', b'"005930"', b'"mode":"latest"', b'"max_rate":'),
    *(
        b'"snapshot":false',
        b'"channels":["price"]',
        b'"id":1',
        b'"token":"',
        b'"session_id":"',
        b'"subscriptions":{',
    ),
    *(
        b"\n@005930 73000",
        b"\n~",
        b"\n<",
        b"\n<5",
        b"\n^",
        b"token=" + stack.TOKEN.encode(),
        b"\\ud800",
        b"1e999",
    ),
)


def check(data: bytes) -> None:
    stack.converse("screener", data)


def seeds() -> Iterator[bytes]:
    for path in sorted(TRANSCRIPTS.glob("*.jsonl")):
        said = [text for text in sent(path) if b'"data"' not in text][:12]
        if said:
            yield b"\n@005930 73000\n".join(said)
    subscribe = b'{"type":"subscribe","subscription_type":"stock","targets":["005930","AAPL"],"id":7}'
    market = b'{"type":"subscribe","subscription_type":"market","targets":["KOSPI"],"mode":"latest"}'
    whole = b'{"type":"set_subscriptions","subscriptions":{"stock":["000660"],"sector":["IT"]}}'
    yield b"\n".join((subscribe, b"<3", b"@005930 1", b"@005930 2", b"~", b"<40", b"@AAPL 3", b"<"))
    yield b"\n".join(
        (b"^token=" + stack.TOKEN.encode(), subscribe, b"@005930 1", b"~", b"^", b"@005930 2", b"~")
    )
    yield b"\n".join(
        (market, whole, b'{"type":"pause"}', b"@000660 5", b'{"type":"resume"}', b"@000660 6", b"~")
    )
    yield (
        b'{"type":"auth","token":"' + stack.TOKEN.encode() + b'","id":"a"}\n{"type":"ping","id":null}\n[]\n{'
    )


@cache
def sent(path: Path) -> list[bytes]:
    """What the client says in a transcript."""
    texts = []
    for line in path.read_text().splitlines():
        step: Any = json.loads(line)
        if "send" in step:
            message = step["send"]
            text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
            texts.append(text.replace("\n", " ").encode("utf-8", "replace")[:300])
    return texts
