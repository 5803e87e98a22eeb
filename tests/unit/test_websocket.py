"""WebSockets that are opened: what the other side may do in the handshake and after it, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from fastws._frames import FrameReader
from fastws.client import ConnectError
from fastws.client.socket import Socket
from fastws.deflate import compress
from fastws.kis import KISConnectionError
from fastws.kis.socket import KISSocket
from fastws.opening import Cause, OpenError
from fastws.websocket import ABNORMAL, FAREWELL, NO_CODE, Ending, WebSocket

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10
DEFLATE = b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Peer:
    """The other side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def upgrade(self, and_then: bytes = b"", *, agrees: bool = True) -> None:
        head = await self.reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
        assert found is not None
        accept = base64.b64encode(hashlib.sha1(found[1] + GUID, usedforsecurity=False).digest())
        self.writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: "
            + accept
            + (DEFLATE if agrees and b"permessage-deflate" in head else b"")
            + b"\r\n\r\n"
            + and_then
        )

    def send(self, opcode: int, payload: bytes, *, fin: bool = True) -> None:
        self.writer.write(frame(opcode, payload, fin=fin))

    async def until_end(self) -> bytes:
        """All that comes until the connection ends."""
        data = bytearray()
        try:
            while chunk := await self.reader.read(65_536):
                data += chunk
        except ConnectionError:
            pass  # it was aborted, which is an end, too
        return bytes(data)


def frame(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    head = bytes((opcode | 0x80 * fin,))
    if len(payload) < 126:
        return head + bytes((len(payload),)) + payload
    if len(payload) < 65536:
        return head + bytes((126,)) + struct.pack(">H", len(payload)) + payload
    return head + bytes((127,)) + struct.pack(">Q", len(payload)) + payload


@asynccontextmanager
async def peer(serve: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[str]:
    """A server that does `serve` with each connection, and ends it then; gives the URL."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(Peer(reader, writer))
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"ws://{host}:{port}/x"
    finally:
        server.close()
        await server.wait_closed()


class Kept(WebSocket):
    """Keeps what it gets."""

    def __init__(self, *, takes_binary: bool = False) -> None:
        super().__init__(max_message_size=1 << 20, peer="the peer", takes_binary=takes_binary)
        self.messages: list[bytes] = []
        self.endings: list[Ending] = []

    def on_message(self, message: bytes) -> None:
        self.messages.append(message)

    def on_over(self, ending: Ending) -> None:
        self.endings.append(ending)

    async def end(self) -> Ending:
        ending = await asyncio.wait_for(asyncio.shield(self.ended), 10.0)
        assert self.endings == [ending]
        return ending


def answering(text: bytes) -> Callable[[Peer], Awaitable[None]]:
    async def serve(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(text)

    return serve


async def silent(peer: Peer) -> None:
    await peer.until_end()


async def stranger(peer: Peer) -> None:
    peer.writer.write(b"220 mail.example ESMTP\r\n\r\n")
    await peer.until_end()


REFUSALS = {
    "ends at once": (answering(b""), Cause.ENDED, 0),
    "ends in its answer": (answering(b"HTTP/1.1 101 Swit"), Cause.ENDED, 0),
    "another status": (answering(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), Cause.STATUS, 503),
    "a redirection": (answering(b"HTTP/1.1 302 F\r\nLocation: ws://127.0.0.1:1/\r\n\r\n"), Cause.STATUS, 302),
    "another protocol": (stranger, Cause.NO_WEBSOCKET, 0),
    "a wrong accept": (
        answering(
            b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
        ),
        Cause.NO_WEBSOCKET,
        0,
    ),
    "silence": (silent, Cause.TIMEOUT, 0),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_what_is_no_handshake(name: str) -> None:
    serve, cause, status = REFUSALS[name]
    async with peer(serve) as url:
        with pytest.raises(OpenError) as caught:
            await Kept().connect(url, time_limit=0.3 if cause is Cause.TIMEOUT else 10.0)
        assert (caught.value.cause, caught.value.status) == (cause, status)
        # Both users say it in the same words, KIS's with the one that existing programs look for.
        address = urlsplit(url)
        with pytest.raises(KISConnectionError, match="connection") as kis:
            await KISSocket.open(url, 0.3, lambda socket, message: None, asyncio.Event())
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1") as told:
            await Socket.open(
                url,
                lambda text: None,
                time_limit=0.3,
                headers={},
                compression=False,
                proxy=None,
                ssl_context=None,
            )
        assert caught.value.statement(address.netloc, 0.3) in str(kis.value)
        assert caught.value.statement(address.netloc, 0.3, address.path) in str(told.value)
        assert told.value.may_retry is (cause in (Cause.ENDED, Cause.TIMEOUT) or status == 503)


async def test_hosts_and_ports_that_are_none() -> None:
    for url, cause in (
        ("ws://127.0.0.1:1/", Cause.NO_LISTENER),
        ("ws://host.invalid/", Cause.UNKNOWN_HOST),
        (f"ws://{'a' * 64}.example/", Cause.UNKNOWN_HOST),
        ("ws://224.0.0.1:1/", Cause.UNREACHABLE),
    ):
        with pytest.raises(OpenError) as caught:
            await Kept().connect(url, time_limit=10.0)
        assert caught.value.cause is cause, url


async def test_tls_that_is_none_is_told() -> None:
    async with peer(stranger) as url:
        with pytest.raises(OpenError) as caught:
            await Kept().connect(
                url.replace("ws:", "wss:"), time_limit=10.0, ssl_context=ssl.create_default_context()
            )
        assert caught.value.cause is Cause.NO_TLS
        assert caught.value.detail


async def test_who_gives_up_leaves_nothing_open() -> None:
    ended = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.until_end()
        ended.set()

    async with peer(serve) as url:
        connecting = asyncio.create_task(Kept().connect(url, time_limit=30.0))
        await asyncio.sleep(0.05)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await asyncio.wait_for(ended.wait(), 5.0)


async def test_what_comes_with_the_upgrade_is_taken() -> None:
    async def serve(peer: Peer) -> None:
        await peer.upgrade(frame(TEXT, b"welcome"))
        await peer.until_end()

    async with peer(serve) as url:
        socket = Kept()
        await socket.connect(url, time_limit=10.0)
        assert socket.messages == [b"welcome"]
        socket.abort()
        assert (await socket.end()).code == ABNORMAL


@pytest.mark.parametrize("takes_binary", [False, True])
async def test_messages_come_whole(takes_binary: bool) -> None:
    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        peer.send(TEXT, b"one")
        peer.send(TEXT, b"tw", fin=False)
        peer.send(PONG, b"")
        peer.send(CONTINUATION, b"", fin=False)
        peer.send(CONTINUATION, b"o")
        peer.send(BINARY, b"\x00")
        peer.send(BINARY, b"\x01", fin=False)
        peer.send(CONTINUATION, b"\x02")
        peer.send(TEXT, b"three")
        await peer.until_end()

    async with peer(serve) as url:
        socket = Kept(takes_binary=takes_binary)
        await socket.connect(url, time_limit=10.0)
        async with asyncio.timeout(10.0):
            while b"three" not in socket.messages:
                await asyncio.sleep(0.005)
        binary = [b"\x00", b"\x01\x02"] if takes_binary else []
        assert socket.messages == [b"one", b"two", *binary, b"three"]
        socket.abort()


@pytest.mark.parametrize(
    ("payload", "ending"),
    [
        (struct.pack(">H", 1000), Ending(1000, "")),
        (struct.pack(">H", 1012) + b"restart", Ending(1012, "restart")),
        (struct.pack(">H", 4001) + b"Ende\n", Ending(4001, "Ende")),
        (b"", Ending(NO_CODE, "")),
    ],
)
async def test_close_frames(payload: bytes, ending: Ending) -> None:
    answers: list[bytes] = []

    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        peer.send(CLOSE, payload)
        peer.send(TEXT, b"too late")
        answers.append(await peer.until_end())

    async with peer(serve) as url:
        socket = Kept()
        await socket.connect(url, time_limit=10.0)
        assert await socket.end() == ending
        assert socket.messages == []
        async with asyncio.timeout(5.0):
            while not answers:
                await asyncio.sleep(0.005)
        # It is answered with what it says.
        assert FrameReader().feed(answers[0]) == [("close", ending.code, "")]


async def test_a_loss_without_a_close_frame() -> None:
    async def serve(peer: Peer) -> None:
        await peer.upgrade()

    async with peer(serve) as url:
        socket = Kept()
        await socket.connect(url, time_limit=10.0)
        assert await socket.end() == Ending(ABNORMAL, "it ended without a close frame")
        socket.send(b"dropped")
        socket.ping()
        socket.abort("too late")
        assert len(socket.endings) == 1


@pytest.mark.parametrize("n_parts", [1, 3])
async def test_a_message_that_is_too_big_ends_it(n_parts: int) -> None:
    size = (1 << 20) // n_parts + 16

    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        for n in range(n_parts):
            opcode = CONTINUATION if n else TEXT
            peer.send(opcode, b"x" * size, fin=n == n_parts - 1)
        peer.send(TEXT, b"after")
        await peer.until_end()

    async with peer(serve) as url:
        socket = Kept()
        await socket.connect(url, time_limit=10.0)
        ending = await socket.end()
        assert ending.code == ABNORMAL
        assert ending.reason == "the peer sent a message of over 1 MiB"
        assert socket.messages == []


async def test_what_is_compressed_is_expanded_where_that_was_offered() -> None:
    text = b"the same again and again " * 40
    packed = compress(text, 15)
    compressed = 0x40

    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        peer.send(TEXT | compressed, packed)
        peer.send(TEXT | compressed, packed[:10], fin=False)
        peer.send(CONTINUATION, packed[10:])
        peer.send(TEXT, b"plain")
        peer.send(TEXT | compressed, b"\xff\xff no such thing")
        await peer.until_end()

    async with peer(serve) as url:
        kept = Kept()
        await kept.connect(url, time_limit=5, deflate=True)
        ending = await asyncio.wait_for(kept.ended, 5)
        assert kept.messages == [text, text, b"plain"]
        assert (ending.code, "cannot be expanded" in ending.reason) == (ABNORMAL, True)
        unasked = Kept()
        await unasked.connect(url, time_limit=5)
        ending = await asyncio.wait_for(unasked.ended, 5)
        assert (unasked.messages, "not negotiated" in ending.reason) == ([], True)


# Name, frames, the close code that the other side is told, what the reason says.
BREACHES = {
    "a reserved bit": ([(TEXT | 0x20, b"x", True)], 1002, "reserved bit"),
    "a reserved bit of a compressed message": ([(TEXT | 0x50, b"x", True)], 1002, "reserved bit"),
    "a compressed pong": ([(PONG | 0x40, b"x", True)], 1002, "RSV1"),
    "a compressed part": ([(TEXT, b"x", False), (CONTINUATION | 0x40, b"x", True)], 1002, "RSV1"),
    "a part of nothing": ([(CONTINUATION, b"x", True)], 1002, "without a message"),
    "a message inside another": ([(TEXT, b"x", False), (TEXT, b"y", True)], 1002, "inside a fragmented"),
    "what goes on with a binary message": (
        [(BINARY, b"x", False), (CONTINUATION, b"y", True), (CONTINUATION, b"z", True)],
        1002,
        "without a message",
    ),
    "no UTF-8": ([(TEXT, b"\xce\xba\xed\xa0\x80", True)], 1007, "not UTF-8"),
    "no UTF-8 in the first part": ([(TEXT, b"\xce\xba\xed\xa0\x80", False)], 1007, "not UTF-8"),
    "half a character at the end": (
        [(TEXT, b"\xce", False), (CONTINUATION, b"\xba\xce", True)],
        1007,
        "not UTF-8",
    ),
    "no UTF-8 when expanded": ([(TEXT | 0x40, compress(b"\xff" * 9, 15), True)], 1007, "not UTF-8"),
    "no deflate data": ([(TEXT | 0x40, b"\xff\xff no", True)], 1007, "cannot be expanded"),
    "a bomb": ([(TEXT | 0x40, compress(bytes(2 << 20), 15), True)], 1009, "cannot be expanded"),
    "a bomb in parts": (
        [(TEXT | 0x40, (bomb := compress(bytes(2 << 20), 15))[:99], False), (CONTINUATION, bomb[99:], True)],
        1009,
        "cannot be expanded",
    ),
    **{
        f"a close code of {code}": ([(CLOSE, struct.pack(">H", code), True)], 1002, "")
        for code in (0, 999, 1005, 1006, 1015, 2999, 5000, 65535)
    },
}


@pytest.mark.parametrize("name", BREACHES)
async def test_what_breaks_the_protocol_ends_it_and_is_told(name: str) -> None:
    frames, code, reason = BREACHES[name]
    told: list[bytes] = []

    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        for opcode, payload, fin in frames:
            peer.send(opcode, payload, fin=fin)
        told.append(await peer.until_end())

    async with peer(serve) as url:
        socket = Kept()
        await socket.connect(url, time_limit=10.0, deflate=True)
        ending = await socket.end()
        assert ending.code == ABNORMAL
        assert reason in ending.reason
        assert socket.messages == []
    (frame_,) = told
    key, masked = frame_[2:6], frame_[6:8]
    assert frame_[0] == 0x80 | CLOSE
    assert struct.unpack(">H", bytes(a ^ b for a, b in zip(masked, key, strict=False)))[0] == code


async def test_what_comes_before_a_breach_is_taken_whatever_it_comes_with() -> None:
    async def serve(peer: Peer) -> None:
        # All of it in one packet, and of the last frame no more than shows that it is wrong.
        await peer.upgrade(frame(TEXT, b"good") + frame(PING, b"?") + b"\x83\x7f")
        answers.append(await peer.until_end())

    answers: list[bytes] = []
    async with peer(serve) as url:
        socket = Kept()
        await socket.connect(url, time_limit=10.0)
        ending = await socket.end()
        assert (socket.messages, ending.code, "reserved opcode" in ending.reason) == (
            [b"good"],
            ABNORMAL,
            True,
        )
    reader = FrameReader()
    assert reader.feed(answers[0]) == [("pong", b"?"), ("close", 1002, "")]


async def test_no_utf8_is_refused_within_its_frame() -> None:
    async def serve(peer: Peer) -> None:
        await peer.upgrade(frame(TEXT, b"\xff" * 1000)[:10])
        await peer.until_end()

    async with peer(serve) as url:
        socket = Kept()
        await socket.connect(url, time_limit=10.0)
        assert "not UTF-8" in (await socket.end()).reason


async def test_compression_that_was_not_agreed_is_none() -> None:
    async def serve(peer: Peer) -> None:
        await peer.upgrade(frame(TEXT, b"plain"), agrees=False)
        peer.send(TEXT | 0x40, compress(b"packed", 15))
        await peer.until_end()

    async with peer(serve) as url:
        socket = Kept()
        await socket.connect(url, time_limit=10.0, deflate=True)
        assert "not negotiated" in (await socket.end()).reason
        assert socket.messages == [b"plain"]


async def test_what_fails_in_taking_a_message_ends_it_and_is_told_the_loop() -> None:
    class Failing(Kept):
        def on_message(self, message: bytes) -> None:
            raise ZeroDivisionError

    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        peer.send(TEXT, b"x")
        await peer.until_end()

    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: told.append(context))
    async with peer(serve) as url:
        socket = Failing()
        await socket.connect(url, time_limit=10.0)
        assert (await socket.end()).code == ABNORMAL
    (context,) = told
    assert isinstance(context["exception"], ZeroDivisionError)


async def test_nothing_is_sent_after_the_farewell() -> None:
    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        said = await peer.reader.readexactly(len(frame(TEXT, b"one") + frame(CLOSE, b"..")) + 2 * 4)
        peer.send(CLOSE, struct.pack(">H", 1000))
        heard.set_result(said + await peer.until_end())

    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with peer(serve) as url:
        socket = Kept()
        socket.send(b"too early")
        await socket.connect(url, time_limit=10.0)
        socket.send(b"one")
        closing = asyncio.create_task(socket.close())
        await asyncio.sleep(0)
        socket.send(b"too late")
        socket.ping()
        await closing
        said = await asyncio.wait_for(heard, 10.0)
    assert FrameReader().feed(said) == [("message", TEXT, False, b"one"), ("close", 1000, "")]


@pytest.mark.parametrize("what", ["requests", "answers to pings"])
async def test_what_nobody_reads_is_not_kept_for_ever(what: str) -> None:
    pings = frame(PING, b"x" * 125) * 500 if what == "answers to pings" else b""

    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        # It reads nothing, until the other side has gone.
        peer.writer.transport.pause_reading()
        try:
            while not over.is_set():
                peer.writer.write(pings)
                await peer.writer.drain()
                await asyncio.sleep(0)
        except ConnectionError:
            pass  # it has gone

    over = asyncio.Event()
    async with peer(serve) as url:
        socket = Kept()
        await socket.connect(url, time_limit=10.0)
        try:
            async with asyncio.timeout(30.0):
                while not socket.ended.done():
                    if not pings:
                        socket.send(b"x" * 65_536)
                    await asyncio.sleep(0)
        finally:
            over.set()
        assert await socket.end() == (ABNORMAL, "the peer does not read what it is sent")


async def test_parts_of_characters_become_whole_ones() -> None:
    text = "가격 12,340원 \U0001f4c8".encode()

    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        for n, byte in enumerate(text):
            peer.send(CONTINUATION if n else TEXT, bytes((byte,)), fin=n == len(text) - 1)
        await peer.until_end()

    async with peer(serve) as url:
        socket = Kept()
        await socket.connect(url, time_limit=10.0)
        async with asyncio.timeout(10.0):
            while not socket.messages:
                await asyncio.sleep(0.001)
        await socket.close()
        assert socket.messages == [text]


async def test_a_farewell_that_is_not_answered_is_not_waited_for_long() -> None:
    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        await peer.until_end()

    async with peer(serve) as url:
        socket = Kept()
        await socket.connect(url, time_limit=10.0)
        socket.pause()
        began = asyncio.get_running_loop().time()
        await socket.close()
        assert asyncio.get_running_loop().time() - began >= FAREWELL * 0.9
        assert (await socket.end()).code == ABNORMAL


async def test_a_paused_socket_takes_nothing_until_it_goes_on() -> None:
    told = asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.upgrade()
        await told.wait()
        peer.send(TEXT, b"waits")
        await peer.until_end()

    async with peer(serve) as url:
        socket = Kept()
        await socket.connect(url, time_limit=10.0)
        socket.pause()
        told.set()
        await asyncio.sleep(0.05)
        assert socket.messages == []
        heard_at = socket.heard_at
        socket.resume()
        async with asyncio.timeout(10.0):
            while not socket.messages:
                await asyncio.sleep(0.005)
        assert socket.heard_at >= heard_at
        socket.abort()
