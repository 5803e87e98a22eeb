"""Frames and messages that are wrong, odd or cut: each ends as documented, and nobody else notices."""

from __future__ import annotations

import json
import os
import random
import socket
from contextlib import AsyncExitStack

import pytest
from attacks import MESSAGE_BYTES, in_thread, nobody_else_notices, patient, until_alone

from tests.clients import client
from tests.conftest import StartServer
from tests.rawclient import (
    ABNORMAL,
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    frame,
)
from tests.serving import Server


@pytest.fixture
def target(
    shared_server: StartServer, tmp_path_factory: pytest.TempPathFactory, over: dict[str, str]
) -> Server:
    """See `patient`."""
    return patient(shared_server, tmp_path_factory.getbasetemp(), **over)


WRONG_FRAMES = {
    "not masked": (frame(TEXT, b'{"type":"ping"}', mask=None), 1002),
    "binary": (frame(BINARY, b"\x00"), 1003),
    "binary, begun": (frame(BINARY, b"", fin=False), 1003),
    "bad UTF-8": (frame(TEXT, b'{"type":"\xff"}'), 1007),
    "overlong UTF-8": (frame(TEXT, b"\xc0\xaf"), 1007),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "cut UTF-8": (frame(TEXT, b"\xe2\x82"), 1007),
    "bad UTF-8 over fragments": (frame(TEXT, b"\xe2", fin=False) + frame(CONTINUATION, b"x"), 1007),
    "a byte too big": (frame(TEXT, b"x" * (MESSAGE_BYTES + 1)), 1009),
    "too big, said only": (frame(TEXT, size=MESSAGE_BYTES + 1), 1009),
    "too big over fragments": (
        frame(TEXT, b"x" * MESSAGE_BYTES, fin=False) + frame(CONTINUATION, b"x"),
        1009,
    ),
    "a gigabyte": (frame(TEXT, b"x" * 100, size=1 << 30), 1009),
    "as much as 63 bits say": (frame(TEXT, b"", size=(1 << 63) - 1), 1009),
    "a length of 64 bits": (frame(TEXT, b"", size=1 << 63), 1002),
    "a length written too long": (frame(TEXT, b"xx", size_bytes=2), 1002),
    "a length written much too long": (frame(TEXT, b"xx", size_bytes=8), 1002),
    "RSV1": (frame(TEXT, b"{}", rsv=0x40), 1002),
    "RSV2": (frame(TEXT, b"{}", rsv=0x20), 1002),
    "RSV3 on a ping": (frame(PING, rsv=0x10), 1002),
    "opcode 3": (frame(3), 1002),
    "opcode 11": (frame(11), 1002),
    "a ping in pieces": (frame(PING, fin=False), 1002),
    "a ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"x"), 1002),
    "a message within another": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a close with 1005": (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
    "a close with 999": (frame(CLOSE, (999).to_bytes(2, "big")), 1002),
    "a close with 5000": (frame(CLOSE, (5000).to_bytes(2, "big")), 1002),
    "a close with bad UTF-8": (frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"), 1007),
}


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "byte by byte"])
async def test_wrong_frames_close_with_their_code(target: Server, at_once: bool) -> None:
    def attack(data: bytes) -> int:
        with target.raw_client() as raw:
            if at_once:
                # What comes behind is not looked at any more.
                raw.send_as_far_as_possible(data + frame(TEXT, b'{"type":"ping"}') * 50)
            else:
                raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for place in range(min(len(data), 200)):
                    if raw.send_as_far_as_possible(data[place : place + 1]) == 0:
                        break
                raw.send_as_far_as_possible(data[200:])
            return raw.read_close_code()

    async with nobody_else_notices(target):
        for name, (data, code) in WRONG_FRAMES.items():
            assert await in_thread(attack, data) == code, name
        await in_thread(until_alone, target)


async def test_good_frames_in_odd_shapes_are_understood(target: Server) -> None:
    def attack() -> None:
        with target.raw_client() as raw:
            assert raw.read_message()["type"] == "connection"
            whole = b'{"type":"ping","id":"\xe2\x82\xac"}'
            for pieces in range(2, len(whole), 5):
                cut = [whole[i : i + pieces] for i in range(0, len(whole), pieces)]
                data = frame(TEXT, cut[0], fin=False) + frame(PING, b"between")
                for piece in cut[1:]:
                    data += frame(CONTINUATION, piece, fin=False)
                raw.send(data + frame(CONTINUATION, b"", mask=b"\0\0\0\0"))
                pong, answer = raw.read_frame(), raw.read_frame()
                assert pong is not None
                assert (pong.opcode, pong.payload) == (PONG, b"between")
                assert answer is not None
                assert json.loads(answer.payload)["id"] == "€"
            big = json.dumps({"type": "ping", "id": "big", "x": "y" * 65000}).encode()
            raw.send(frame(TEXT, big + b" " * (MESSAGE_BYTES - len(big))))
            assert raw.read_message()["id"] == "big"
            raw.send(frame(CLOSE, (4000).to_bytes(2, "big") + b"bye"))
            assert raw.read_close_code() == 4000

    async with nobody_else_notices(target):
        await in_thread(attack)


async def test_random_bytes_instead_of_frames(target: Server) -> None:
    rng = random.Random(2)

    def attack() -> list[int]:
        codes = []
        for _ in range(150):
            with target.raw_client() as raw:
                # Some of it looks like a frame at first.
                head = rng.choice(
                    (b"", b"\x81", b"\x81\xfe", b"\x81\xff\0\0\0\0", b"\x01\x85", b"\x88\x82", b"\x89\x80")
                )
                raw.send_as_far_as_possible(head + rng.randbytes(rng.choice((1, 7, 100, 5000))))
                raw.half_close()
                codes.append(raw.read_close_code())
        return codes

    async with nobody_else_notices(target):
        codes = await in_thread(attack)
        # An incomplete frame is no mistake; the end of the stream in it is an abnormal closure. A random close frame
        # is answered with its own code.
        assert {code for code in codes if code < 3000} <= {
            1002,
            1003,
            1007,
            1009,
            ABNORMAL,
            *range(1000, 1015),
        }
        assert {1002, 1007} <= set(codes)
        await in_thread(until_alone, target)


async def test_frames_cut_anywhere_by_the_end_of_the_connection(target: Server) -> None:
    data = frame(TEXT, b'{"type":"subscribe","subscription_type":"stock","targets":["S00","S01"]}')

    def attack() -> None:
        for size in range(len(data) + 1):
            raw = target.raw_client()
            raw.send(data[:size])
            raw.reset() if size % 2 else raw.close()

    async with nobody_else_notices(target):
        await in_thread(attack)
        await in_thread(until_alone, target)


async def test_claimed_lengths_cost_nothing(target: Server) -> None:
    # 400 clients claim messages of the full size, and send their first byte.
    async with AsyncExitStack() as stack:
        clients = [stack.enter_context(await in_thread(target.raw_client)) for _ in range(400)]
        async with nobody_else_notices(target, 8 << 20):
            for raw in clients:
                raw.send(frame(TEXT, b"{", size=MESSAGE_BYTES))
            assert target.stats()["active_connections"] == 401


# Messages.


def nested(opening: str, closing: str, depth: int) -> str:
    return opening * depth + closing * depth


WRONG_TEXTS = [
    "",
    " ",
    "{",
    "null",
    "true",
    "1e999",
    "-",
    '"text"',
    "[]",
    '{"type":"ping"} {"type":"ping"}',
    '{"type":"ping",}',
    "{'type':'ping'}",
    '{"type":"ping"',
    '\ufeff{"type":"ping"}',
    '{"type":"ping","id":"\\ud800"}',
    '{"type":"ping","id":1e999}',
    '{"type":"ping","id":' + "9" * 60_000 + "}",
    '{"type":"ping","id":NaN}',
    '{"type":{"type":"ping"}}',
    '{"type":"subscribe","subscription_type":"stock","targets":{"0":"S00"}}',
    '{"type":"subscribe","subscription_type":"stock","targets":["S00"],"max_rate":1e-300}',
    '{"type":"subscribe","subscription_type":"stock","targets":["S00"],"max_rate":1e300}',
    '{"type":"subscribe","subscription_type":["stock"],"targets":["S00"]}',
    nested("[", "]", 30_000),
    nested('{"a":', "}", 9_000),
    '{"type":"ping","x":' + nested("[", "]", 30_000) + "}",
    '{"type":"ping","id":' + nested("[", "]", 30_000) + "}",
    '{"type":"subscribe","subscription_type":"stock","targets":' + nested("[", "]", 30_000) + "}",
    '{"type":"set_subscriptions","subscriptions":' + nested('{"stock":', "}", 5_000) + "}",
    "[" * 60_000,
    '{"type":' * 8_000,
]


async def test_wrong_texts_are_answered_and_the_connection_goes_on(target: Server) -> None:
    async with nobody_else_notices(target), client(target.url) as connection:
        for text in WRONG_TEXTS:
            assert len(text.encode()) <= MESSAGE_BYTES
            await connection.connection.send(text)
            answer = await connection.receive()
            assert (answer["type"], answer["code"]) == ("error", "INVALID_MESSAGE"), text[:80]
            assert len(json.dumps(answer)) < 1000, text[:80]
        await connection.sync()


async def test_thousands_of_unknown_targets(target: Server) -> None:
    async with nobody_else_notices(target), client(target.url) as connection:
        targets = [f"{number:x}" for number in range(8000)]
        for _ in range(5):
            await connection.subscribe("stock", *targets)
            answer = await connection.receive()
            assert answer["code"] == "SUBSCRIPTION_FAILED"
            assert len(answer["details"]["rejected"]) == len(targets)
            await connection.unsubscribe("stock", *targets)
            assert (await connection.receive())["type"] == "unsubscribed"
        # Nothing stays behind of symbols that do not exist.
        assert target.get("/v1/stocks/1f3f")[0] == 404


def test_masks_and_sizes_of_the_raw_client() -> None:
    """The tools of this file, against the example of RFC 6455 section 5.7."""
    assert frame(TEXT, b"Hello", mask=bytes.fromhex("37fa213d")) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert frame(TEXT, b"Hello", mask=None) == bytes.fromhex("810548656c6c6f")
    payload = os.urandom(70_000)
    for size in (0, 125, 126, 65535, 65536):
        assert len(frame(BINARY, payload[:size])) == size + 4 + (
            2 if size < 126 else 4 if size < 65536 else 10
        )
