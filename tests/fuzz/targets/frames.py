"""RFC 6455 frames: the reader against the plain reference, in any cut."""

from __future__ import annotations

from collections.abc import Iterator

from fastws._frames import OP_BINARY, OP_CONT, OP_PING, OP_TEXT, FrameReader, build_close, build_frame
from tests.fuzz.source import Source, cuts
from tests.reference_frames import Event, reference_events, without_reasons

TOKENS = (b"\x81", b"\x88\x82", b"\xfe\x00\x7e", b"\xff", b"\x7f" + bytes(8), b"\xed\xa0\x80", b"\x03\xe8")
_LIMITS = (0, 125, 1000, 65536)
_RESERVED = (0, 0x40, 0x70)


def check(data: bytes) -> None:
    source = Source(data)
    flags, seed, wire = source.whole(1), source.whole(1), source.rest()
    is_client, allow_binary = bool(flags & 1), bool(flags & 2)
    limit, rsv_allowed = _LIMITS[flags >> 2 & 3], _RESERVED[(flags >> 4 & 3) % 3]
    expected = reference_events(wire, is_client, limit, allow_binary, rsv_allowed)
    for pieces in (cuts(wire, 0), cuts(wire, seed)):
        reader = FrameReader(
            is_client=is_client, max_message_size=limit, allow_binary=allow_binary, rsv_allowed=rsv_allowed
        )
        events: list[Event] = []
        for piece in pieces:
            events += reader.feed(piece)
        assert without_reasons(events) == expected
        assert reader.has_failed == (expected[-1:] != [] and expected[-1][0] in ("close", "violation"))
        assert reader.buffer_size <= limit + 125 or reader.buffer_size == 64
    for event in expected:
        if event[0] == "message" and not event[2]:
            again = build_frame(event[1], event[3], mask=None if is_client else b"\x01\x02\x03\x04")
            assert FrameReader(is_client=is_client, max_message_size=limit).feed(again) == [event]


def seeds() -> Iterator[bytes]:
    key = b"\x37\xfa\x21\x3d"
    price = "삼성전자 72,900원".encode()
    texts = (b'{"type":"ping"}', price, b"x" * 126, b"")
    for flags in (0x0E, 0x0F, 0x1A, 0x06):
        mask = None if flags & 1 else key
        for text in texts:
            yield bytes((flags, 2)) + build_frame(OP_TEXT, text, mask=mask)
        yield bytes((flags, 1)) + b"".join(
            (
                build_frame(OP_TEXT, price[:7], fin=False, mask=mask),
                build_frame(OP_PING, b"alive?", mask=mask),
                build_frame(OP_CONT, price[7:], mask=mask),
                build_frame(OP_BINARY, bytes(9), mask=mask),
                build_frame(OP_TEXT, b"packed", rsv1=True, mask=mask),
                build_close(4000, "going", mask=mask),
            )
        )
    yield b"\x0e\x00\x81\xff\x80\x00\x00\x00\x00\x00\x00\x00" + key
    yield b"\x0e\x00\x81\xff\x7f" + b"\xff" * 7 + key
