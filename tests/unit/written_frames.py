"""Frames written without the code under test, and what a reader makes of them."""

import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from fastws._frames import (
    OP_BINARY,
    OP_CLOSE,
    OP_TEXT,
    FrameReader,
    buffered_size,
)

Event = tuple[Any, ...]

KEY = b"\x37\xfa\x21\x3d"
VALID_CODES = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4408, 4999]
INVALID_CODES = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = KEY,
    length: int | None = None,
    form: int | None = None,
) -> bytes:
    """One frame, written without the code under test and free to break the rules.

    `length` is what the header claims, `form` the width of that claim (0, 2 or 8 bytes).
    """
    n = len(payload) if length is None else length
    if form is None:
        form = 0 if n < 126 else 2 if n < 65536 else 8
    head = bytes([(0x80 if fin else 0) | rsv | opcode])
    mask_bit = 0x80 if mask is not None else 0
    if form == 0:
        head += bytes([mask_bit | n])
    elif form == 2:
        head += bytes([mask_bit | 126]) + struct.pack(">H", n)
    else:
        head += bytes([mask_bit | 127]) + struct.pack(">Q", n)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def close_frame(code: int, reason: bytes = b"", *, mask: bytes | None = KEY) -> bytes:
    return frame(OP_CLOSE, struct.pack(">H", code) + reason, mask=mask)


def feed_all(reader: FrameReader, chunks: Sequence[bytes]) -> list[Event]:
    events: list[Event] = []
    for chunk in chunks:
        events += reader.feed(chunk)
    return events


def single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes, positions: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(p % (len(data) + 1) for p in positions), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


def parse(data: bytes, **options: Any) -> list[Event]:
    """The events of `data`, which must be the same whole and byte by byte."""
    events: list[Event] = list(FrameReader(**options).feed(data))
    assert feed_all(FrameReader(**options), single_bytes(data)) == events
    return events


def violation(data: bytes, **options: Any) -> int:
    """The code of the one violation that `data` ends in."""
    *_, (kind, code, reason) = parse(data, **options)
    assert kind == "violation"
    assert 0 < len(reason.encode()) <= 123
    return int(code)


def text(payload: bytes) -> Event:
    return ("message", OP_TEXT, False, payload)


def binary(payload: bytes) -> Event:
    return ("message", OP_BINARY, False, payload)


# Autobahn 6.3 to 6.22 in short, and table 3-7 of the Unicode Standard at its edges.
INVALID_UTF8 = [
    b"\x80",
    b"\xbf",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xe0\x80\x80",
    b"\xe0\x9f\xbf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xc3\x28",
    b"\xe2\x82\x28",
    b"\xf0\x9f\x98\x28",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
]
EDGES = [0, 0x7F, 0x80, 0x7FF, 0x800, 0xCFFF, 0xD7FF, 0xE000, 0xFFFE, 0xFFFF, 0x10000, 0xFFFFF, 0x10FFFF]
VALID_UTF8 = ["", "κόσμε", "삼성전자 72,900원 😀", *map(chr, EDGES)]


def keeping_no_buffer() -> Iterator[None]:
    """Check that what runs meanwhile gives back every buffer that it has taken."""
    before = buffered_size()
    yield
    assert buffered_size() == before
