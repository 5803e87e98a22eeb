"""What a server says to a WebSocket that we open: the head of its answer, and frames, whole and in any cut."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from fastws._frames import FrameReader, build_close, build_frame
from fastws.deflate import compress
from fastws.opening import Cause, OpenError
from fastws.upgrading import accept_value
from fastws.websocket import ABNORMAL, Ending, WebSocket
from tests.fake_transport import FakeTransport
from tests.fuzz.source import Source, cuts

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HEAD = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Accept: {accept_value(KEY)}\r\n"
)
AGREED = (
    f"{HEAD}Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_max_window_bits=9\r\n\r\n"
).encode()
GRANTED = f"{HEAD}\r\n".encode()
TOKENS = (
    *(b"HTTP/1.1 ", b"HTTP/1.0 ", b"101 ", b"200 OK", b"\r\n", b"\r\n\r\n", b"Upgrade: websocket\r\n"),
    *(b"Connection: Upgrade\r\n", b"Sec-WebSocket-Accept: ", accept_value(KEY).encode()),
    *(b"Sec-WebSocket-Extensions: ", b"permessage-deflate", b"; server_no_context_takeover"),
    *(b"; client_no_context_takeover", b"; server_max_window_bits=", b"Sec-WebSocket-Protocol: "),
    *(b"\x81\x7e", b"\x82\x7f", b"\xc1", b"\x01", b"\x80", b"\x88\x02\x03\xe8", b"\x89\x00"),
)
MAX_SIZE = 4096


class Outcome(NamedTuple):
    """What came of it: why it is not open, what was delivered, how it ended, what the server was sent."""

    cause: Cause | None
    messages: list[bytes]
    endings: list[Ending]
    sent: list[Any]


class Kept(WebSocket):
    """One that is at its handshake, without a network."""

    def __init__(self, *, takes_binary: bool, deflate: bool) -> None:
        super().__init__(max_message_size=MAX_SIZE, peer="the server", takes_binary=takes_binary)
        self._key = KEY
        self._may_inflate = deflate
        self.messages: list[bytes] = []
        self.endings: list[Ending] = []

    def on_message(self, message: bytes) -> None:
        assert not self.endings, "nothing is delivered after the end"
        self.messages.append(message)

    def on_over(self, ending: Ending) -> None:
        self.endings.append(ending)

    def cause(self) -> Cause | None:
        """Why it was not opened."""
        error = self._granted.exception()
        assert error is None or isinstance(error, OpenError)
        return error.cause if error else None


def check(data: bytes) -> None:
    source = Source(data)
    seed, flags = source.whole(1), source.whole(1)
    takes_binary, deflate, is_granted = bool(flags & 1), bool(flags & 2), bool(flags & 4)
    wire = ((AGREED if deflate else GRANTED) if is_granted else b"") + source.rest()
    whole = asyncio.run(converse([wire], takes_binary=takes_binary, deflate=deflate))
    for pieces in (cuts(wire, seed), cuts(wire, 1)):
        assert asyncio.run(converse(pieces, takes_binary=takes_binary, deflate=deflate)) == whole
    check_outcome(whole, takes_binary=takes_binary)


async def converse(pieces: Iterable[bytes], *, takes_binary: bool, deflate: bool) -> Outcome:
    socket = Kept(takes_binary=takes_binary, deflate=deflate)
    transport = FakeTransport(asyncio.get_running_loop())
    transport.set_protocol(socket)
    socket.connection_made(transport)
    for piece in pieces:
        if not transport.is_closing():
            socket.get_buffer(-1)[: len(piece)] = piece
            socket.buffer_updated(len(piece))
    transport.abort()
    await asyncio.sleep(0)
    sent = FrameReader(max_message_size=MAX_SIZE).feed(transport.received)
    return Outcome(socket.cause(), socket.messages, socket.endings, sent)


def check_outcome(outcome: Outcome, *, takes_binary: bool) -> None:
    cause, messages, endings, sent = outcome
    if cause is not None:
        assert (messages, endings, sent) == ([], [], [])
        return
    # It was ended by then, if by nothing else by the loss of the connection.
    assert len(endings) == 1
    assert all(len(message) <= MAX_SIZE for message in messages)
    if not takes_binary:
        for message in messages:
            message.decode()
    goodbyes = [event for event in sent if event[0] == "close"]
    assert goodbyes in ([], sent[-1:])
    assert {event[0] for event in sent} <= {"pong", "close"}
    code, reason = endings[0]
    if code != ABNORMAL:
        assert goodbyes == [("close", code, "")]
    elif reason.startswith("the server "):
        assert goodbyes[0][1] in (1002, 1007, 1009)
    else:
        assert not goodbyes


def seeds() -> Iterator[bytes]:
    packed = compress(b"the same again and again " * 4, 15)
    frames = (
        build_frame(1, "가격 1".encode()),
        build_frame(1, b"one, ", fin=False) + build_frame(9, b"?") + build_frame(0, b"two"),
        build_frame(2, b"\x00\xff") + build_frame(1, b"\xff"),
        build_frame(1, packed, rsv1=True) + build_frame(2, packed[:-3], rsv1=True),
        build_frame(1, compress(bytes(9999), 15), rsv1=True),
        build_frame(1, b"good") + b"\x83",
        build_frame(2, bytes(MAX_SIZE)) + build_close(1012, "restart"),
        build_close(1005) + b"more",
        build_frame(1, bytes(MAX_SIZE + 1)),
    )
    for n, wire in enumerate(frames):
        yield bytes((n, 7)) + wire
        yield bytes((n, 4)) + wire
    heads = (
        GRANTED,
        AGREED,
        AGREED + frames[3],
        HEAD.encode() + b"Sec-WebSocket-Protocol: x\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n folded\r\n\r\n",
        b"220 mail.example ESMTP\r\n",
        b"HTTP/1.1 101 " + bytes(20_000),
    )
    for n, head in enumerate(heads):
        yield bytes((n, 2)) + head
