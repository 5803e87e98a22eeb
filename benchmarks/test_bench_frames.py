"""Frames of RFC 6455: taking apart what clients send, and building frames. MB/s are of payload."""

from __future__ import annotations

import os

import pytest

from benchmarks.conftest import Measure
from fastws._frames import OP_BINARY, OP_CONT, OP_TEXT, FrameReader, build_frame

MASK = b"\x12\x34\x56\x78"
SMALL = b'{"type":"subscribe","subscription_type":"stock","targets":["005930"]}'
KOREAN = "삼성전자 005930 호가 72,900원 ".encode() * 1600
LARGE = os.urandom(64 * 1024)
SEGMENT = 1448  # what a TCP segment on Ethernet carries
N_SMALL = 1000


def parse(pieces: list[bytes]) -> list[bytes]:
    reader = FrameReader(max_message_size=1 << 20)
    return [event[3] for piece in pieces for event in reader.feed(piece) if event[0] == "message"]


def test_parse_small(measure: Measure) -> None:
    """Masked text messages of 70 bytes, many in one read"""
    stream = build_frame(OP_TEXT, SMALL, mask=MASK) * N_SMALL
    found = measure(parse, [stream], unit="messages", items=N_SMALL, size=N_SMALL * len(SMALL))
    assert found == [SMALL] * N_SMALL


def test_parse_small_one_by_one(measure: Measure) -> None:
    """Masked text messages of 70 bytes, each a read of its own"""
    pieces = [build_frame(OP_TEXT, SMALL, mask=MASK)] * N_SMALL
    found = measure(parse, pieces, unit="messages", items=N_SMALL, size=N_SMALL * len(SMALL))
    assert found == [SMALL] * N_SMALL


@pytest.mark.parametrize("payload", [LARGE, KOREAN], ids=["binary", "korean text"])
def test_parse_64_kib(measure: Measure, payload: bytes) -> None:
    """A masked message of 64 KiB in one read; text is checked to be UTF-8"""
    opcode = OP_BINARY if payload is LARGE else OP_TEXT
    stream = [build_frame(opcode, payload, mask=MASK)] * 20
    found = measure(parse, stream, unit="messages", items=20, size=20 * len(payload))
    assert found == [payload] * 20


def test_parse_fragmented(measure: Measure) -> None:
    """A masked message of 64 KiB in 16 fragments, in reads of 1,448 bytes"""
    step = len(LARGE) // 16
    stream = b"".join(
        build_frame(
            OP_CONT if first else OP_BINARY,
            LARGE[first : first + step],
            fin=first + step == len(LARGE),
            mask=MASK,
        )
        for first in range(0, len(LARGE), step)
    )
    pieces = [stream[first : first + SEGMENT] for first in range(0, len(stream), SEGMENT)] * 10
    # The last segment of one message is shorter, so the ten follow each other.
    found = measure(parse, pieces, unit="messages", items=10, size=10 * len(LARGE))
    assert found == [LARGE] * 10


def build(payload: bytes, n: int, mask: bytes | None) -> bytes:
    for _ in range(n):
        frame = build_frame(OP_BINARY, payload, mask=mask)
    return frame


@pytest.mark.parametrize("mask", [None, MASK], ids=["plain", "masked"])
@pytest.mark.parametrize(("payload", "n"), [(SMALL, N_SMALL), (LARGE, 50)], ids=["small", "64 KiB"])
def test_build(measure: Measure, payload: bytes, n: int, mask: bytes | None) -> None:
    """Frames from payloads, as a server builds them and (masked) a client"""
    frame = measure(build, payload, n, mask, unit="frames", items=n, size=n * len(payload))
    (event,) = FrameReader(is_client=mask is None, max_message_size=1 << 20).feed(frame)
    assert event == ("message", OP_BINARY, False, payload)
