"""What clients of the realtime dialect may say; see `screener`."""

from __future__ import annotations

from collections.abc import Iterator

from tests.fuzz import stack
from tests.fuzz.targets.screener import TRANSCRIPTS, sent

TOKENS = (
    *(
        b'{"type":"subscribe_asset"',
        b'"unsubscribe_asset"',
        b'"subscribe_portfolio"',
        b'"unsubscribe_portfolio"',
    ),
    *(
        b'"ping"',
        b'"auth"',
        b'"data":{',
        b'"asset_id":',
        b'"symbol":"005930"',
        b'"portfolio_id":',
        b'"token":"',
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
    stack.converse("realtime", data)


def seeds() -> Iterator[bytes]:
    for path in sorted(TRANSCRIPTS.glob("*.jsonl")):
        said = [text for text in sent(path) if b'"data"' in text][:12]
        if said:
            yield b"\n@005930 73000\n".join(said)
    token = stack.TOKEN.encode()
    yield b"^token=" + token + b'\n{"type":"subscribe_portfolio","data":{"portfolio_id":1}}'
    yield b'{"type":"auth","data":{"token":"' + token + b'"}}\n{"type":"ping"}\n{"type":"ping","data":null}'
    yield b'{"type":"subscribe_asset","data":{"symbol":"005930"}}\n<2\n@005930 1\n~\n@005930 2\n<9\n~\n<'
