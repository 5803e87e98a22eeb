"""What comes to a WebSocket of ours, as the Python client and the feed of KIS have it: from the socket's bytes to
`on_message`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from benchmarks.conftest import Measure
from fastws._frames import OP_TEXT, build_frame
from fastws.deflate import compress
from fastws.upgrading import accept_value
from fastws.websocket import WebSocket

PRICE = (
    b'{"type":"price_update","code":"005930","price":73000,"change":1000,"volume":12345678,"sequence":12345}'
)
BATCH = b'{"type":"batch","messages":[' + b",".join([PRICE] * 60) + b"]}"
READ_SIZE = 64 << 10


class Counted(WebSocket):
    """Counts its messages. It is open, and has no network: reads are what is put into its buffer."""

    def __init__(self) -> None:
        super().__init__(max_message_size=64 << 20, peer="the server", takes_binary=True)
        self.n_messages = 0
        self._may_inflate = True
        self.read(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n"
            b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\r\n"
            % accept_value(self._key).encode()
        )

    def on_message(self, message: bytes) -> None:
        self.n_messages += 1

    def read(self, data: bytes) -> None:
        self.get_buffer(-1)[: len(data)] = data
        self.buffer_updated(len(data))

    def take(self, reads: list[bytes]) -> int:
        """How many messages there were in `reads`."""
        before = self.n_messages
        for data in reads:
            self.read(data)
        return self.n_messages - before


@pytest.fixture
def counted() -> Iterator[Counted]:
    async def make() -> Counted:
        return Counted()

    with asyncio.Runner() as runner:
        yield runner.run(make())


def cut(stream: bytes) -> list[bytes]:
    return [stream[first : first + READ_SIZE] for first in range(0, len(stream), READ_SIZE)]


def test_small(measure: Measure, counted: Counted) -> None:
    """Messages of 100 bytes, many in one read"""
    reads = cut(build_frame(OP_TEXT, PRICE) * 1000)
    assert measure(counted.take, reads, unit="messages", items=1000, size=1000 * len(PRICE)) == 1000


def test_small_one_by_one(measure: Measure, counted: Counted) -> None:
    """Messages of 100 bytes, each a read of its own"""
    reads = [build_frame(OP_TEXT, PRICE)] * 1000
    assert measure(counted.take, reads, unit="messages", items=1000, size=1000 * len(PRICE)) == 1000


def test_compressed(measure: Measure, counted: Counted) -> None:
    """Batches of 60 prices, compressed, many in one read"""
    reads = cut(build_frame(OP_TEXT, compress(BATCH, 15), rsv1=True) * 1000)
    assert measure(counted.take, reads, unit="messages", items=1000, size=1000 * len(BATCH)) == 1000


def test_large(measure: Measure, counted: Counted) -> None:
    """Messages of 4 MB, in reads of 64 KiB"""
    text = b"x" * 4_000_000
    reads = cut(build_frame(OP_TEXT, text))
    assert measure(counted.take, reads, unit="messages", items=1, size=len(text)) == 1
