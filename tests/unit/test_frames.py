"""RFC 6455 frames: by section of the RFC, against a plain reference parser, and through the C interface."""

import importlib.util
import os
import random
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastws import _frames
from fastws._frames import (
    OP_BINARY,
    OP_CLOSE,
    OP_CONT,
    OP_PING,
    OP_PONG,
    OP_TEXT,
    FrameReader,
    buffered_size,
    build_close,
    build_frame,
    mask_payload,
)

Event = tuple[Any, ...]

KEY = b"\x37\xfa\x21\x3d"
VALID_CODES = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4408, 4999]
INVALID_CODES = [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]


@pytest.fixture(autouse=True)
def _no_buffer_is_left() -> Iterator[None]:
    before = buffered_size()
    yield
    assert buffered_size() == before


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


class TestExamplesOfSection57:
    def test_unmasked_text(self) -> None:
        wire = bytes.fromhex("81 05 48 65 6c 6c 6f")
        assert parse(wire, is_client=True) == [text(b"Hello")]
        assert build_frame(OP_TEXT, b"Hello") == wire

    def test_masked_text(self) -> None:
        wire = bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")
        assert parse(wire) == [text(b"Hello")]
        assert build_frame(OP_TEXT, b"Hello", mask=KEY) == wire

    def test_fragmented_unmasked_text(self) -> None:
        first, second = bytes.fromhex("01 03 48 65 6c"), bytes.fromhex("80 02 6c 6f")
        assert parse(first + second, is_client=True) == [text(b"Hello")]
        assert build_frame(OP_TEXT, b"Hel", fin=False) == first
        assert build_frame(OP_CONT, b"lo") == second

    def test_ping_and_masked_pong(self) -> None:
        ping = bytes.fromhex("89 05 48 65 6c 6c 6f")
        pong = bytes.fromhex("8a 85 37 fa 21 3d 7f 9f 4d 51 58")
        assert parse(ping, is_client=True) == [("ping", b"Hello")]
        assert parse(pong) == [("pong", b"Hello")]
        assert build_frame(OP_PING, b"Hello") == ping
        assert build_frame(OP_PONG, b"Hello", mask=KEY) == pong

    def test_256_bytes(self) -> None:
        wire = bytes.fromhex("82 7e 01 00") + bytes(256)
        assert parse(wire, is_client=True) == [binary(bytes(256))]
        assert build_frame(OP_BINARY, bytes(256)) == wire

    def test_64_kib(self) -> None:
        wire = bytes.fromhex("82 7f 00 00 00 00 00 01 00 00") + bytes(65536)
        assert parse(wire, is_client=True) == [binary(bytes(65536))]
        assert build_frame(OP_BINARY, bytes(65536)) == wire


class TestMasking:
    """Sections 5.1 and 5.3."""

    @pytest.mark.parametrize("opcode", [OP_TEXT, OP_BINARY, OP_CLOSE, OP_PING, OP_PONG])
    def test_a_server_refuses_an_unmasked_frame(self, opcode: int) -> None:
        assert violation(frame(opcode, mask=None)) == 1002

    @pytest.mark.parametrize("opcode", [OP_TEXT, OP_BINARY, OP_CLOSE, OP_PING, OP_PONG])
    def test_a_client_refuses_a_masked_frame(self, opcode: int) -> None:
        assert violation(frame(opcode), is_client=True) == 1002

    def test_refused_before_the_payload(self) -> None:
        reader = FrameReader()
        assert reader.feed(frame(OP_TEXT, b"x" * 1000, mask=None)[:2])[0][:2] == ("violation", 1002)

    @given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
    def test_mask_payload(self, data: bytes, key: bytes) -> None:
        masked = mask_payload(data, key)
        assert masked == bytes(byte ^ key[i % 4] for i, byte in enumerate(data))
        assert mask_payload(masked, key) == data

    def test_every_size_and_alignment(self) -> None:
        data = bytes(range(256)) * 2
        for size in range(70):
            for offset in range(9):
                piece = memoryview(data)[offset : offset + size]
                assert mask_payload(piece, KEY) == bytes(b ^ KEY[i % 4] for i, b in enumerate(piece))

    def test_single_byte_objects_are_not_written_to(self) -> None:
        for value in range(256):
            mask_payload(bytes([value]), KEY)
        assert b"".join(bytes([value]) for value in range(256)) == bytearray(range(256))

    def test_phase_over_partial_frames(self) -> None:
        payload = bytes(range(250))
        wire = frame(OP_BINARY, payload)
        for start in range(6, 24):
            for size in range(1, 12):
                chunks = [wire[:start], wire[start : start + size], wire[start + size :]]
                assert feed_all(FrameReader(), chunks) == [binary(payload)]

    def test_input_is_left_as_it_is(self) -> None:
        wire = bytearray(frame(OP_BINARY, b"abcdefgh") + frame(OP_BINARY, b"abcdefgh")[:9])
        before = bytes(wire)
        reader = FrameReader()
        assert reader.feed(wire) == [binary(b"abcdefgh")]
        assert wire == before

    @pytest.mark.parametrize("key", [b"", b"abc", b"abcde"])
    def test_wrong_key(self, key: bytes) -> None:
        with pytest.raises(ValueError, match="4 bytes"):
            mask_payload(b"data", key)
        with pytest.raises(ValueError, match="4 bytes"):
            build_frame(OP_TEXT, b"data", mask=key)


class TestBaseFraming:
    """Section 5.2."""

    @pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
    @pytest.mark.parametrize("payload", [b"", b"x"])
    def test_reserved_opcodes(self, opcode: int, payload: bytes) -> None:
        assert violation(frame(opcode, payload)) == 1002
        assert violation(frame(OP_TEXT, b"a") + frame(opcode, payload)) == 1002

    @pytest.mark.parametrize("rsv", range(0x10, 0x80, 0x10))
    @pytest.mark.parametrize("opcode", [OP_CONT, OP_TEXT, OP_BINARY, OP_CLOSE, OP_PING, OP_PONG])
    def test_reserved_bits_without_negotiation(self, rsv: int, opcode: int) -> None:
        assert violation(frame(OP_TEXT, b"a") + frame(opcode, rsv=rsv)) == 1002

    @pytest.mark.parametrize("opcode", [OP_TEXT, OP_BINARY])
    def test_rsv1_negotiated(self, opcode: int) -> None:
        wire = frame(opcode, b"\xff\xfe", rsv=0x40) + frame(OP_BINARY, b"plain")
        assert parse(wire, rsv_allowed=0x40) == [("message", opcode, True, b"\xff\xfe"), binary(b"plain")]

    def test_rsv1_counts_on_the_first_fragment(self) -> None:
        wire = frame(OP_TEXT, b"\xff", fin=False, rsv=0x40) + frame(OP_CONT, b"\xfe")
        assert parse(wire, rsv_allowed=0x40) == [("message", OP_TEXT, True, b"\xff\xfe")]

    @pytest.mark.parametrize("opcode", [OP_CONT, OP_CLOSE, OP_PING, OP_PONG])
    def test_rsv1_on_other_frames(self, opcode: int) -> None:
        start = frame(OP_TEXT, b"a", fin=False)
        assert violation(start + frame(opcode, rsv=0x40), rsv_allowed=0x40) == 1002

    @pytest.mark.parametrize("rsv", [0x10, 0x20, 0x50])
    def test_only_what_was_negotiated(self, rsv: int) -> None:
        assert violation(frame(OP_TEXT, rsv=rsv), rsv_allowed=0x40) == 1002

    @pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536, 65537])
    def test_sizes(self, size: int) -> None:
        payload = os.urandom(size)
        for is_client, mask in ((False, KEY), (True, None)):
            wire = frame(OP_BINARY, payload, mask=mask)
            assert build_frame(OP_BINARY, payload, mask=mask) == wire
            reader = FrameReader(is_client=is_client, max_message_size=70000)
            assert reader.feed(wire) == [binary(payload)]
            chunks = [wire[i : i + 1000] for i in range(0, len(wire), 1000)]
            assert feed_all(reader, chunks) == [binary(payload)]

    @pytest.mark.parametrize(
        ("size", "form"), [(0, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8)], ids=str
    )
    def test_length_not_minimal(self, size: int, form: int) -> None:
        wire = frame(OP_BINARY, bytes(size), form=form)
        assert violation(wire) == 1002
        # Refused at the last byte of the length, before mask and payload.
        assert FrameReader().feed(wire[: 2 + form - 1]) == []
        assert FrameReader().feed(wire[: 2 + form])[0][:2] == ("violation", 1002)

    @pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, (1 << 63) + 5])
    def test_length_with_the_highest_bit(self, length: int) -> None:
        assert violation(frame(OP_BINARY, b"abc", length=length)) == 1002

    def test_binary_not_accepted(self) -> None:
        assert violation(frame(OP_BINARY, b"abc"), allow_binary=False) == 1003
        assert violation(frame(OP_BINARY, b"abc", fin=False), allow_binary=False) == 1003
        assert parse(frame(OP_TEXT, b"abc"), allow_binary=False) == [text(b"abc")]


class TestFragmentation:
    """Section 5.4."""

    def test_text_in_many_fragments(self) -> None:
        wire = frame(OP_TEXT, b"a", fin=False) + frame(OP_CONT, b"b", fin=False) * 3 + frame(OP_CONT, b"c")
        assert parse(wire) == [text(b"abbbc")]

    def test_empty_fragments(self) -> None:
        empty = frame(OP_TEXT, fin=False) + frame(OP_CONT, fin=False) + frame(OP_CONT)
        assert parse(empty) == [text(b"")]
        wire = frame(OP_TEXT, fin=False) + frame(OP_CONT, b"middle", fin=False) + frame(OP_CONT)
        assert parse(wire + empty + wire) == [text(b"middle"), text(b""), text(b"middle")]

    def test_control_frames_between_fragments(self) -> None:
        wire = (
            frame(OP_TEXT, b"Hel", fin=False)
            + frame(OP_PING, b"1")
            + frame(OP_CONT, b"l", fin=False)
            + frame(OP_PONG, b"2" * 125)
            + frame(OP_PING)
            + frame(OP_CONT, b"o")
        )
        assert parse(wire) == [("ping", b"1"), ("pong", b"2" * 125), ("ping", b""), text(b"Hello")]

    def test_close_inside_a_message(self) -> None:
        wire = frame(OP_TEXT, b"Hel", fin=False) + close_frame(1001, b"gone") + frame(OP_CONT, b"lo")
        assert parse(wire) == [("close", 1001, "gone")]

    def test_continuation_of_nothing(self) -> None:
        assert violation(frame(OP_CONT, b"x")) == 1002
        assert violation(frame(OP_CONT, b"x", fin=False)) == 1002
        assert violation(frame(OP_TEXT, b"x") + frame(OP_CONT)) == 1002
        assert violation(frame(OP_TEXT, b"", fin=False) + frame(OP_CONT) + frame(OP_CONT)) == 1002

    @pytest.mark.parametrize("opcode", [OP_TEXT, OP_BINARY])
    @pytest.mark.parametrize("payload", [b"", b"abc"])
    def test_new_message_inside_a_message(self, opcode: int, payload: bytes) -> None:
        assert violation(frame(OP_TEXT, payload, fin=False) + frame(opcode, b"x")) == 1002
        assert violation(frame(OP_BINARY, payload, fin=False) + frame(opcode, b"x", fin=False)) == 1002

    def test_counts_for_the_rate_caps(self) -> None:
        reader = FrameReader()
        reader.feed(frame(OP_TEXT, b"whole") + frame(OP_BINARY, b"whole"))
        assert (reader.n_fragments, reader.n_control) == (0, 0)
        reader.feed(frame(OP_TEXT, fin=False) + frame(OP_CONT, fin=False) + frame(OP_PING))
        assert (reader.n_fragments, reader.n_control) == (2, 1)
        reader.feed(frame(OP_CONT) + frame(OP_PONG) + close_frame(1000))
        assert (reader.n_fragments, reader.n_control) == (3, 3)


class TestControlFrames:
    """Section 5.5."""

    @pytest.mark.parametrize("opcode", [OP_PING, OP_PONG])
    @pytest.mark.parametrize("size", [0, 1, 124, 125])
    def test_sizes(self, opcode: int, size: int) -> None:
        payload = os.urandom(size)
        assert parse(frame(opcode, payload)) == [("ping" if opcode == OP_PING else "pong", payload)]

    @pytest.mark.parametrize("opcode", [OP_CLOSE, OP_PING, OP_PONG])
    @pytest.mark.parametrize("size", [126, 127, 65536])
    def test_too_long(self, opcode: int, size: int) -> None:
        wire = frame(opcode, bytes(size))
        assert FrameReader().feed(wire[:2])[0][:2] == ("violation", 1002)
        assert violation(wire) == 1002

    @pytest.mark.parametrize("opcode", [OP_CLOSE, OP_PING, OP_PONG])
    def test_fragmented(self, opcode: int) -> None:
        assert violation(frame(opcode, b"", fin=False)) == 1002

    def test_nothing_passes_after_close(self) -> None:
        reader = FrameReader()
        assert reader.feed(close_frame(1000) + frame(OP_TEXT, b"late")) == [("close", 1000, "")]
        assert reader.has_failed
        assert reader.feed(frame(OP_PING) + b"\xff" * 10) == []

    def test_nothing_passes_after_a_violation(self) -> None:
        reader = FrameReader()
        assert [event[0] for event in reader.feed(frame(3) + frame(OP_TEXT, b"late"))] == ["violation"]
        assert reader.has_failed
        assert reader.feed(frame(OP_TEXT, b"late")) == []


class TestClose:
    """Sections 5.5.1 and 7.4."""

    def test_empty(self) -> None:
        assert parse(frame(OP_CLOSE)) == [("close", 1005, "")]

    def test_half_a_code(self) -> None:
        assert violation(frame(OP_CLOSE, b"\x03")) == 1002
        # Not completed by what follows the frame.
        assert violation(frame(OP_CLOSE, b"\x03") + b"\xe8") == 1002

    @pytest.mark.parametrize("code", VALID_CODES)
    def test_valid_codes(self, code: int) -> None:
        assert parse(close_frame(code)) == [("close", code, "")]
        assert parse(build_close(code, "x"), is_client=True) == [("close", code, "x")]

    @pytest.mark.parametrize("code", INVALID_CODES)
    def test_invalid_codes(self, code: int) -> None:
        assert violation(close_frame(code)) == 1002
        assert violation(close_frame(code, b"reason")) == 1002

    @pytest.mark.parametrize("code", [-1, *INVALID_CODES, 65536 + 1000])
    def test_invalid_codes_are_not_built(self, code: int) -> None:
        if code != 1005:
            with pytest.raises(ValueError, match="must not be sent"):
                build_close(code)

    def test_every_code(self) -> None:
        allowed = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
        for code in range(65536):
            (event,) = FrameReader().feed(close_frame(code))
            assert event[:2] == (("close", code) if code in allowed else ("violation", 1002))

    def test_reason(self) -> None:
        reason = "가" * 41
        assert parse(close_frame(1000, reason.encode())) == [("close", 1000, reason)]

    @pytest.mark.parametrize("reason", [b"\xff", b"abc\xed\xa0\x80", "가".encode()[:2]])
    def test_reason_is_not_utf8(self, reason: bytes) -> None:
        assert violation(close_frame(1000, reason)) == 1007

    def test_the_code_is_judged_first(self) -> None:
        assert violation(close_frame(1005, b"\xff")) == 1002

    @given(st.sampled_from(VALID_CODES), st.text(max_size=140), st.none() | st.just(KEY))
    @example(4408, "a" * 123, None)
    @example(4408, "a" * 124, None)
    @example(4408, "a" * 122 + "가", None)
    @example(4408, "😀" * 31, KEY)
    def test_build_close_cuts_between_characters(self, code: int, reason: str, mask: bytes | None) -> None:
        wire = build_close(code, reason, mask=mask)
        ((kind, got_code, got),) = feed_all(FrameReader(is_client=mask is None), [wire])
        assert (kind, got_code) == ("close", code)
        expected = reason
        while len(expected.encode()) > 123:
            expected = expected[:-1]
        assert got == expected

    def test_build_close_without_code(self) -> None:
        assert build_close(1005) == b"\x88\x00"
        with pytest.raises(ValueError, match="reason"):
            build_close(1005, "because")


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


def is_viable(prefix: bytes) -> bool:
    """Whether some valid text begins with `prefix`."""
    return any(
        is_utf8(prefix + rest)
        for rest in (b"", b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\xbf\x80", b"\xbf\x80\x80")
    )


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class TestUtf8:
    """Section 8.1."""

    @pytest.mark.parametrize("payload", INVALID_UTF8)
    @pytest.mark.parametrize("n_before", [0, 1, 7, 8, 15, 16, 17, 100])
    def test_invalid(self, payload: bytes, n_before: int) -> None:
        for before in (b"a" * n_before, "가".encode() * n_before):
            assert violation(frame(OP_TEXT, before + payload)) == 1007
            assert violation(frame(OP_TEXT, before + payload + b"a" * 40)) == 1007

    @pytest.mark.parametrize("payload", VALID_UTF8)
    def test_valid(self, payload: str) -> None:
        for before in ("", "a" * 15, "a" * 16, "가" * 9):
            data = (before + payload).encode()
            assert parse(frame(OP_TEXT, data)) == [text(data)]

    def test_every_character(self) -> None:
        data = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000).encode()
        wire = frame(OP_TEXT, data)
        assert FrameReader(max_message_size=len(data)).feed(wire) == [text(data)]

    def test_binary_is_not_checked(self) -> None:
        assert parse(frame(OP_BINARY, b"\xff\xfe")) == [binary(b"\xff\xfe")]

    def test_character_over_two_fragments(self) -> None:
        data = "원".encode()
        assert parse(frame(OP_TEXT, data[:1], fin=False) + frame(OP_CONT, data[1:])) == [text(data)]

    def test_character_unfinished_at_the_end(self) -> None:
        assert violation(frame(OP_TEXT, "원".encode()[:2])) == 1007
        assert violation(frame(OP_TEXT, "원".encode()[:2], fin=False) + frame(OP_CONT)) == 1007
        assert parse(frame(OP_TEXT, "원".encode()[:2], fin=False)) == []

    @pytest.mark.parametrize("payload", INVALID_UTF8)
    @pytest.mark.parametrize("fragment_size", [0, 1, 2, 5])
    def test_fails_at_the_first_octet_that_cannot_be(self, payload: bytes, fragment_size: int) -> None:
        """Autobahn 6.4: without waiting for the rest of the frame, or of the message."""
        data = "시장".encode() + payload + b"tail"
        n_good = max(n for n in range(len(data)) if is_viable(data[:n]))
        reader = FrameReader()
        step = fragment_size or len(data)
        pieces = [data[i : i + step] for i in range(0, len(data), step)]
        n_fed = 0
        for i, piece in enumerate(pieces):
            wire = frame(OP_TEXT if i == 0 else OP_CONT, piece, fin=piece is pieces[-1])
            header, payload_bytes = wire[: -len(piece)], wire[-len(piece) :]
            assert reader.feed(header) == []
            for byte in single_bytes(payload_bytes):
                events = reader.feed(byte)
                n_fed += 1
                if n_fed <= n_good:
                    assert events == []
                else:
                    assert [event[:2] for event in events] == [("violation", 1007)]
                    return
        pytest.fail("no violation")

    @given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
    def test_agrees_with_python(self, data: bytes) -> None:
        expected = [text(data)] if is_utf8(data) else [("violation", 1007, "text is not UTF-8")]
        wire = frame(OP_TEXT, data)
        assert FrameReader().feed(wire) == expected
        for position in range(len(data) + 1):
            fragments = frame(OP_TEXT, data[:position], fin=False) + frame(OP_CONT, data[position:])
            assert FrameReader().feed(fragments) == expected
            start = len(wire) - len(data) + position
            assert feed_all(FrameReader(), [wire[:start], wire[start:]]) == expected


class TestSizes:
    """Section 10.4."""

    def test_at_the_limit_and_over_it(self) -> None:
        assert parse(frame(OP_TEXT, b"a" * 100), max_message_size=100) == [text(b"a" * 100)]
        assert violation(frame(OP_TEXT, b"a" * 101), max_message_size=100) == 1009

    def test_fragments_add_up(self) -> None:
        start = frame(OP_TEXT, b"a" * 60, fin=False)
        assert parse(start + frame(OP_CONT, b"a" * 40), max_message_size=100) == [text(b"a" * 100)]
        assert violation(start + frame(OP_CONT, b"a" * 41), max_message_size=100) == 1009
        assert violation(start + frame(OP_CONT, b"a" * 41, fin=False), max_message_size=100) == 1009

    def test_the_limit_is_one_of_messages(self) -> None:
        wire = frame(OP_TEXT, b"a" * 100) * 5 + frame(OP_PING, b"p" * 125)
        assert parse(wire, max_message_size=100) == [text(b"a" * 100)] * 5 + [("ping", b"p" * 125)]

    def test_limit_of_zero(self) -> None:
        assert parse(frame(OP_TEXT) + frame(OP_PING, b"x"), max_message_size=0) == [text(b""), ("ping", b"x")]
        assert violation(frame(OP_TEXT, b"a"), max_message_size=0) == 1009

    @pytest.mark.parametrize("length", [101, 1 << 30, 1 << 40, (1 << 63) - 1])
    def test_refused_at_the_header(self, length: int) -> None:
        wire = frame(OP_TEXT, length=length)[:-4]
        reader = FrameReader(max_message_size=100)
        assert [event[:2] for event in reader.feed(wire)] == [("violation", 1009)]
        assert reader.buffer_size == 0

    @pytest.mark.parametrize("length", [1 << 30, (1 << 63) - 1])
    def test_refused_for_a_fragment_without_overflow(self, length: int) -> None:
        wire = frame(OP_TEXT, b"a" * 60, fin=False) + frame(OP_CONT, length=length)
        assert violation(wire, max_message_size=sys.maxsize - 1 if length >> 62 else 100) == 1009

    def test_a_claim_allocates_nothing(self) -> None:
        reader = FrameReader(max_message_size=sys.maxsize)
        assert reader.feed(frame(OP_BINARY, length=1 << 30)) == []
        assert reader.buffer_size == 0
        n_fed = 0
        for size in (1, 10, 100, 1000, 100_000, 1):
            reader.feed(bytes(size))
            n_fed += size
            assert n_fed <= reader.buffer_size <= max(64, 2 * n_fed)
            assert buffered_size() >= reader.buffer_size

    def test_the_buffer_ends_at_the_limit(self) -> None:
        reader = FrameReader(max_message_size=1000)
        for byte in single_bytes(frame(OP_BINARY, bytes(1000), fin=False) + frame(OP_PING, bytes(125))[:-1]):
            assert reader.feed(byte) == []
            assert reader.buffer_size <= 1125
        assert reader.buffer_size == 1124

    def test_the_buffer_goes_with_the_message(self) -> None:
        reader = FrameReader()
        wire = frame(OP_TEXT, b"a" * 60000)
        reader.feed(wire[:50000])
        assert reader.buffer_size >= 49000
        assert len(reader.feed(wire[50000:])) == 1
        assert reader.buffer_size == 0

    @pytest.mark.parametrize(
        "end",
        [
            frame(OP_CONT, b"c"),
            frame(OP_CONT),
            frame(3),
            close_frame(1000),
            frame(OP_CONT, b"\xff", fin=False),
        ],
    )
    def test_the_buffer_goes_at_every_end(self, end: bytes) -> None:
        reader = FrameReader()
        reader.feed(frame(OP_TEXT, b"a" * 1000, fin=False))
        assert reader.buffer_size == 1000
        assert len(feed_all(reader, single_bytes(end))) == 1
        assert reader.buffer_size == 0

    def test_a_cut_control_frame_leaves_nothing(self) -> None:
        reader = FrameReader()
        wire = frame(OP_PING, b"p" * 100)
        reader.feed(wire[:50])
        assert reader.buffer_size == 64
        assert reader.feed(wire[50:]) == [("ping", b"p" * 100)]
        assert reader.buffer_size == 0

    def test_whole_frames_are_not_kept(self) -> None:
        reader = FrameReader()
        reader.feed(frame(OP_TEXT, b"a" * 1000) + frame(OP_PING, b"b") + frame(OP_TEXT, b"c")[:5])
        assert reader.buffer_size == 0

    def test_a_discarded_reader_frees_its_buffer(self) -> None:
        before = buffered_size()
        reader = FrameReader()
        reader.feed(frame(OP_TEXT, b"a" * 1000, fin=False))
        assert buffered_size() == before + 1000
        del reader
        assert buffered_size() == before

    def test_idle_parser_is_small(self) -> None:
        assert _frames.FrameParser.__basicsize__ - object.__basicsize__ - 8 <= 100


class TestArguments:
    @pytest.mark.parametrize("opcode", [-1, 3, 7, 11, 15, 16, 256])
    def test_reserved_opcodes_are_not_built(self, opcode: int) -> None:
        with pytest.raises(ValueError, match="reserved"):
            build_frame(opcode, b"")

    @pytest.mark.parametrize("opcode", [OP_CLOSE, OP_PING, OP_PONG])
    def test_wrong_control_frames_are_not_built(self, opcode: int) -> None:
        assert len(build_frame(opcode, bytes(125))) == 127
        with pytest.raises(ValueError, match="125 bytes"):
            build_frame(opcode, bytes(126))
        with pytest.raises(ValueError, match="fragmented"):
            build_frame(opcode, b"", fin=False)
        with pytest.raises(ValueError, match="rsv1"):
            build_frame(opcode, b"", rsv1=True)

    def test_rsv1(self) -> None:
        assert build_frame(OP_TEXT, b"a", rsv1=True) == b"\xc1\x01a"
        assert build_frame(OP_BINARY, b"a", rsv1=True, fin=False) == b"\x42\x01a"
        with pytest.raises(ValueError, match="rsv1"):
            build_frame(OP_CONT, b"a", rsv1=True)

    @pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
    def test_bytes_like(self, make: Callable[[bytes], Any]) -> None:
        wire = frame(OP_TEXT, b"abc")
        assert build_frame(OP_TEXT, make(b"abc"), mask=KEY) == wire
        assert mask_payload(make(b"abc"), KEY) == wire[-3:]
        assert FrameReader().feed(make(wire)) == [text(b"abc")]
        assert FrameReader(is_client=True).feed(make(b"\x81\x01a")) == [text(b"a")]
        assert FrameReader().feed(make(b"")) == []

    def test_not_bytes_like(self) -> None:
        for wrong in ("text", 5, None):
            with pytest.raises(TypeError):
                build_frame(OP_TEXT, wrong)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                mask_payload(wrong, KEY)  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                FrameReader().feed(wrong)  # type: ignore[arg-type]

    def test_reader_options(self) -> None:
        with pytest.raises(ValueError, match="max_message_size"):
            FrameReader(max_message_size=-1)
        for wrong in (0x80, 0x08, 0x140, -1):
            with pytest.raises(ValueError, match="rsv_allowed"):
                FrameReader(rsv_allowed=wrong)

    @given(
        st.sampled_from([OP_CONT, OP_TEXT, OP_BINARY]),
        st.binary(max_size=200),
        st.booleans(),
        st.none() | st.binary(min_size=4, max_size=4),
    )
    def test_build_frame_agrees_with_the_plain_one(
        self, opcode: int, payload: bytes, fin: bool, mask: bytes | None
    ) -> None:
        assert build_frame(opcode, payload, fin=fin, mask=mask) == frame(opcode, payload, fin=fin, mask=mask)


def reference_events(
    data: bytes, is_client: bool, limit: int, allow_binary: bool, rsv_allowed: int
) -> list[Event]:
    """The events of `data` by the plainest reading of the RFC, violations without their reason."""
    events: list[Event] = []
    message = b""
    opcode_of_message = 0
    is_compressed = False

    while True:
        if len(data) < 2:
            return events
        fin, rsv, opcode = data[0] >> 7, data[0] & 0x70, data[0] & 0x0F
        is_masked, length = data[1] >> 7, data[1] & 0x7F
        if rsv & ~rsv_allowed or (rsv & 0x40 and opcode not in (1, 2)):
            return [*events, ("violation", 1002)]
        if opcode not in (0, 1, 2, 8, 9, 10) or is_masked == is_client:
            return [*events, ("violation", 1002)]
        if opcode >= 8 and (not fin or length > 125):
            return [*events, ("violation", 1002)]
        if opcode < 8 and (opcode == 0) != (opcode_of_message != 0):
            return [*events, ("violation", 1002)]
        if opcode == 2 and not allow_binary:
            return [*events, ("violation", 1003)]
        position = 2
        if length >= 126:
            width, least = (2, 126) if length == 126 else (8, 65536)
            if len(data) < 2 + width:
                return events
            length = int.from_bytes(data[2 : 2 + width], "big")
            if not least <= length < 1 << 63:
                return [*events, ("violation", 1002)]
            position += width
        if opcode < 8 and len(message) + length > limit:
            return [*events, ("violation", 1009)]
        mask = bytes(4)
        if is_masked:
            if len(data) < position + 4:
                return events
            mask = data[position : position + 4]
            position += 4
        payload = bytes(b ^ mask[i % 4] for i, b in enumerate(data[position : position + length]))
        is_whole = len(payload) == length
        data = data[position + length :]

        if opcode < 8:
            if opcode:
                opcode_of_message, is_compressed = opcode, bool(rsv & 0x40)
            message += payload
            is_end = is_whole and fin
            is_checked = opcode_of_message == 1 and not is_compressed
            if is_checked and not (is_utf8(message) if is_end else is_viable(message)):
                return [*events, ("violation", 1007)]
            if is_end:
                events.append(("message", opcode_of_message, is_compressed, message))
                message, opcode_of_message = b"", 0
        if not is_whole:
            return events
        if opcode == 8:
            if not payload:
                return [*events, ("close", 1005, "")]
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1 or not (
                1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
            ):
                return [*events, ("violation", 1002)]
            if not is_utf8(payload[2:]):
                return [*events, ("violation", 1007)]
            return [*events, ("close", code, payload[2:].decode())]
        if opcode == 9:
            events.append(("ping", payload))
        if opcode == 10:
            events.append(("pong", payload))


masks = st.binary(min_size=4, max_size=4)
controls = st.tuples(st.sampled_from([OP_PING, OP_PONG]), st.binary(max_size=125))
messages = st.tuples(
    st.sampled_from([OP_TEXT, OP_BINARY]),
    st.binary(max_size=400) | st.text(max_size=150).map(str.encode),
    st.lists(st.integers(0, 400), max_size=4),
    st.lists(st.tuples(st.integers(0, 4), controls), max_size=3),
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bool, bytes, list[Event]]:
    """Role of the reader, wire bytes and the events they must give."""
    is_client = draw(st.booleans())
    wire = b""
    expected: list[Event] = []

    def send(opcode: int, payload: bytes, *, fin: bool = True) -> None:
        nonlocal wire
        wire += build_frame(opcode, payload, fin=fin, mask=None if is_client else draw(masks))

    for opcode, payload, cuts, interleaved in draw(st.lists(messages, max_size=4)):
        if opcode == OP_TEXT and not is_utf8(payload):
            opcode = OP_BINARY
        pieces = cut(payload, cuts)
        for i, piece in enumerate(pieces):
            send(opcode if i == 0 else OP_CONT, piece, fin=i == len(pieces) - 1)
            if i == len(pieces) - 1:
                expected.append(("message", opcode, False, payload))
            for after, (control, data) in interleaved:
                if after == i:
                    send(control, data)
                    expected.append(("ping" if control == OP_PING else "pong", data))
    if draw(st.booleans()):
        reason = draw(st.text(max_size=30))
        wire += build_close(4000, reason, mask=None if is_client else draw(masks))
        expected.append(("close", 4000, reason))
        wire += draw(st.binary(max_size=20))
    return is_client, wire, expected


def without_reasons(events: Sequence[Event]) -> list[Event]:
    return [event[:2] if event[0] == "violation" else event for event in events]


class TestProperties:
    @given(conversations(), st.lists(st.integers(0, 1 << 16), max_size=8))
    def test_round_trip(self, conversation: tuple[bool, bytes, list[Event]], cuts: list[int]) -> None:
        is_client, wire, expected = conversation
        assert FrameReader(is_client=is_client).feed(wire) == expected
        assert feed_all(FrameReader(is_client=is_client), single_bytes(wire)) == expected
        assert feed_all(FrameReader(is_client=is_client), cut(wire, cuts)) == expected

    @given(
        conversations(),
        st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=3),
        st.lists(st.integers(0, 1 << 16), max_size=4),
        st.sampled_from([50, 65536]),
        st.booleans(),
        st.sampled_from([0, 0x40, 0x70]),
    )
    def test_damaged_conversations(
        self,
        conversation: tuple[bool, bytes, list[Event]],
        damages: list[tuple[int, int]],
        cuts: list[int],
        limit: int,
        allow_binary: bool,
        rsv_allowed: int,
    ) -> None:
        is_client, wire, _ = conversation
        damaged = bytearray(wire)
        for position, value in damages:
            if damaged:
                damaged[position % len(damaged)] = value
        self.check(bytes(damaged), cuts, is_client, limit, allow_binary, rsv_allowed)

    @given(
        st.binary(max_size=300),
        st.lists(st.integers(0, 1 << 16), max_size=4),
        st.booleans(),
        st.sampled_from([0, 10, 1000]),
        st.booleans(),
        st.sampled_from([0, 0x40, 0x10, 0x70]),
    )
    def test_garbage(
        self, data: bytes, cuts: list[int], is_client: bool, limit: int, allow_binary: bool, rsv_allowed: int
    ) -> None:
        self.check(data, cuts, is_client, limit, allow_binary, rsv_allowed)

    @pytest.mark.parametrize("seed", range(5))
    def test_likely_frames(self, seed: int) -> None:
        """Frames that are mostly right reach states that damaged bytes seldom do."""
        rng = random.Random(seed)
        price = "가격".encode()
        pieces = [
            b"",
            b"a",
            b"hello" * 5,
            price,
            price[:2],
            price[2:],
            b"\xed\xa0",
            b"\x03\xe8ok",
            b"\x0f\xa0",
        ]
        for _ in range(3000):
            is_client = rng.random() < 0.5
            wire = b""
            is_open = False
            for _ in range(rng.randrange(1, 10)):
                opcode = OP_CONT if is_open else rng.choice([OP_TEXT, OP_TEXT, OP_BINARY])
                fin = rng.random() < 0.4
                if rng.random() < 0.3:
                    opcode = rng.choice([OP_PING, OP_PING, OP_PONG, OP_CLOSE])
                    fin = True
                else:
                    is_open = not fin
                if rng.random() < 0.03:
                    opcode = rng.randrange(16)
                is_masked = is_client == (rng.random() < 0.01)
                wire += frame(
                    opcode,
                    rng.choice(pieces) * rng.choice([1, 1, 1, 4]),
                    fin=fin,
                    rsv=0x40 if rng.random() < 0.1 else 0x20 if rng.random() < 0.02 else 0,
                    mask=rng.randbytes(4) if is_masked else None,
                    form=rng.choice([2, 8]) if rng.random() < 0.01 else None,
                )
            wire = wire[: rng.choice([len(wire), rng.randrange(len(wire) + 1)])]
            cuts = [rng.randrange(len(wire) + 1) for _ in range(rng.randrange(5))]
            limit, rsv_allowed = rng.choice([20, 65536]), rng.choice([0, 0x40, 0x40])
            self.check(wire, cuts, is_client, limit, rng.random() < 0.9, rsv_allowed)

    @staticmethod
    def check(
        data: bytes, cuts: list[int], is_client: bool, limit: int, allow_binary: bool, rsv_allowed: int
    ) -> None:
        expected = reference_events(data, is_client, limit, allow_binary, rsv_allowed)

        def reader() -> FrameReader:
            return FrameReader(
                is_client=is_client,
                max_message_size=limit,
                allow_binary=allow_binary,
                rsv_allowed=rsv_allowed,
            )

        for chunks in ([data], single_bytes(data), cut(data, cuts)):
            parser = reader()
            assert without_reasons(feed_all(parser, chunks)) == expected
            assert parser.has_failed == (expected[-1:] != [] and expected[-1][0] in ("close", "violation"))
            assert parser.buffer_size <= limit + 125 or parser.buffer_size == 64


# An owner in Cython, as the connection is one. It is built here because what it tests (pointers, stopping,
# errors from callbacks, feeding from within one) exists only in C.
OWNER_SOURCE = """
# cython: language_level=3
from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdint cimport uint8_t

from fastws._frames cimport FrameParser, is_valid_utf8, write_header


cdef class Owner(FrameParser):
    cdef readonly list calls
    cdef public object respond
    cdef uint8_t* lent
    cdef Py_ssize_t lent_size

    def __cinit__(self):
        self.calls = []
        self.respond = lambda call: 0

    def push(self, bytearray data not None):
        self.lent = <uint8_t*>PyByteArray_AS_STRING(data)
        self.lent_size = len(data)
        return self.feed(self.lent, self.lent_size)

    def kill(self):
        self.has_failed = True

    def limit(self, Py_ssize_t size):
        self.max_message_size = size

    def reset_counts(self):
        self.n_fragments = self.n_control = 0

    @property
    def state(self):
        return self.has_failed, self._buffer_size, self.n_fragments, self.n_control

    cdef int note(self, str name, const uint8_t* payload, Py_ssize_t size) except -1:
        # Where the payload lies in the caller's buffer; None when it does not.
        cdef Py_ssize_t offset = payload - self.lent
        call = (name, payload[:size], offset if 0 <= offset <= self.lent_size else None)
        self.calls.append(call)
        return self.respond(call)

    cdef int on_message(self, int opcode, bint compressed, const uint8_t* payload, Py_ssize_t size) except -1:
        return self.note("message", payload, size)

    cdef int on_ping(self, const uint8_t* payload, Py_ssize_t size) except -1:
        return self.note("ping", payload, size)

    cdef int on_pong(self, const uint8_t* payload, Py_ssize_t size) except -1:
        return self.note("pong", payload, size)

    cdef int on_close_frame(self, int code, const uint8_t* reason, Py_ssize_t size) except -1:
        return self.note("close", reason, size)

    cdef int on_violation(self, int code, str reason) except -1:
        self.calls.append(("violation", code))
        return self.respond(("violation", code))


def header(int first_byte, Py_ssize_t size):
    cdef uint8_t[10] out
    cdef Py_ssize_t n = write_header(out, first_byte, size)
    return out[:n]


def utf8(bytes data not None):
    return is_valid_utf8(data, len(data))


def new_parser():
    return FrameParser()


def push_plain(FrameParser parser, bytearray data not None):
    return parser.feed(<uint8_t*>PyByteArray_AS_STRING(data), len(data))
"""


@pytest.fixture(scope="module")
def c_owner(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    reason = "Cython builds the owner"
    build = pytest.importorskip("Cython.Build", reason=reason)
    dist = pytest.importorskip("setuptools", reason=reason)
    folder = tmp_path_factory.mktemp("owner")
    source = folder / "frames_owner.pyx"
    source.write_text(OWNER_SOURCE)
    root = Path(_frames.__file__).parent.parent
    extension = dist.Extension("frames_owner", [str(source)], extra_compile_args=["-O0", "-w"])
    modules = build.cythonize([extension], include_path=[str(root)], build_dir=str(folder), quiet=True)
    command = dist.Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = command.build_temp = str(folder)
    command.ensure_finalized()
    command.run()
    spec = importlib.util.spec_from_file_location("frames_owner", command.get_ext_fullpath("frames_owner"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestInterfaceInC:
    def test_write_header(self, c_owner: ModuleType) -> None:
        for size in (0, 1, 125, 126, 127, 65535, 65536, 1 << 32, sys.maxsize):
            assert c_owner.header(0x82, size) == frame(OP_BINARY, length=size, mask=None)

    def test_is_valid_utf8_at_every_lead_and_edge(self, c_owner: ModuleType) -> None:
        edges = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC2, 0xE0, 0xED, 0xF0, 0xF4, 0xFF]
        for first in range(256):
            for second in range(256):
                assert c_owner.utf8(bytes((first, second))) == is_utf8(bytes((first, second)))
            for tail in ((a, b, c) for a in edges for b in edges for c in (0x41, 0x80, 0xBF)):
                assert c_owner.utf8(bytes((first, *tail))) == is_utf8(bytes((first, *tail)))
                assert c_owner.utf8(bytes((first, *tail[:2]))) == is_utf8(bytes((first, *tail[:2])))

    def test_whole_frames_are_lent_not_copied(self, c_owner: ModuleType) -> None:
        owner = c_owner.Owner()
        wire = bytearray(frame(OP_TEXT, b"abc") + frame(OP_PING, b"de") + frame(OP_CLOSE, b"\x03\xe8fg"))
        assert owner.push(wire) == 1
        assert owner.calls == [("message", b"abc", 6), ("ping", b"de", 15), ("close", b"fg", 25)]
        assert wire[6:9] == b"abc"

    def test_incomplete_ones_are_collected(self, c_owner: ModuleType) -> None:
        owner = c_owner.Owner()
        wire = frame(OP_TEXT, b"abc")
        assert owner.push(bytearray(wire[:7])) == 0
        assert owner.push(bytearray(wire[7:])) == 0
        assert owner.calls == [("message", b"abc", None)]
        owner.calls.clear()
        # The last fragment alone holds the whole message, so there is nothing to join.
        assert owner.push(bytearray(frame(OP_TEXT, fin=False))) == 0
        assert owner.push(bytearray(frame(OP_CONT, b"abc"))) == 0
        assert owner.calls == [("message", b"abc", 6)]

    def test_a_client_does_not_write_to_its_input(self, c_owner: ModuleType) -> None:
        reader = FrameReader(is_client=True)
        wire = build_frame(OP_TEXT, b"abc")
        assert reader.feed(wire) == [text(b"abc")]
        assert wire == b"\x81\x03abc"

    @pytest.mark.parametrize("opcode", [OP_TEXT, OP_PING, OP_PONG])
    @pytest.mark.parametrize("n_first", [0, 8])
    def test_a_callback_stops_the_parser(self, c_owner: ModuleType, opcode: int, n_first: int) -> None:
        owner = c_owner.Owner()
        owner.respond = lambda call: 1
        wire = frame(opcode, b"abcd") + frame(OP_TEXT, b"dropped")
        assert owner.push(bytearray(wire[:n_first])) == 0
        assert owner.push(bytearray(wire[n_first:])) == 1
        assert len(owner.calls) == 1
        assert owner.state[:2] == (True, 0)
        assert owner.push(bytearray(frame(OP_TEXT, b"late"))) == 1
        assert len(owner.calls) == 1

    @pytest.mark.parametrize(
        "wire",
        [frame(OP_TEXT, b"abcd"), frame(OP_PING, b"abcd"), close_frame(1000, b"ab"), frame(3, b"abcd")],
    )
    @pytest.mark.parametrize("n_first", [0, 1, 8])
    def test_an_error_in_a_callback_kills_the_parser(
        self, c_owner: ModuleType, wire: bytes, n_first: int
    ) -> None:
        def fail(call: object) -> int:
            raise LookupError("from the callback")

        owner = c_owner.Owner()
        owner.push(bytearray(frame(OP_BINARY, b"abc", fin=False)))
        if wire[0] & 0x0F == OP_TEXT:
            wire = frame(OP_CONT) + wire
            owner.respond = lambda call: 0 if call[1] == b"abc" else fail(call)
        else:
            owner.respond = fail

        def push_both() -> None:
            owner.push(bytearray(wire[:n_first]))
            owner.push(bytearray(wire[n_first:]))

        with pytest.raises(LookupError, match="from the callback"):
            push_both()
        assert owner.state[:2] == (True, 0)
        assert owner.push(bytearray(frame(OP_PING))) == 1

    def test_has_failed_is_set_before_the_last_callback(self, c_owner: ModuleType) -> None:
        for wire in (frame(3), close_frame(1000), frame(OP_CLOSE)):
            owner = c_owner.Owner()
            seen: list[bool] = []
            owner.respond = lambda call, owner=owner, seen=seen: seen.append(owner.state[0]) or 0
            assert owner.push(bytearray(wire)) == 1
            assert seen == [True]
            owner.respond = None

    def test_the_owner_kills_its_parser(self, c_owner: ModuleType) -> None:
        owner = c_owner.Owner()
        owner.respond = lambda call: owner.kill() or 0
        assert owner.push(bytearray(frame(OP_TEXT, b"a") + frame(OP_TEXT, b"b"))) == 1
        assert owner.calls == [("message", b"a", 6)]
        owner = c_owner.Owner()
        assert owner.push(bytearray(frame(OP_TEXT, b"a" * 100, fin=False))) == 0
        owner.kill()
        assert owner.push(bytearray(frame(OP_CONT, b"b"))) == 1
        assert owner.calls == []
        assert owner.state[:2] == (True, 0)

    def test_a_limit_lowered_inside_a_message(self, c_owner: ModuleType) -> None:
        owner = c_owner.Owner()
        assert owner.push(bytearray(frame(OP_TEXT, b"a" * 100, fin=False))) == 0
        owner.limit(50)
        assert owner.push(bytearray(frame(OP_CONT))) == 1
        assert owner.calls == [("violation", 1009)]

    def test_feeding_from_a_callback(self, c_owner: ModuleType) -> None:
        owner = c_owner.Owner()
        owner.respond = lambda call: owner.push(bytearray(frame(OP_PING)))
        with pytest.raises(RuntimeError, match="callback"):
            owner.push(bytearray(frame(OP_TEXT, b"a")))
        assert owner.calls == [("message", b"a", 6)]
        owner.respond = None

    def test_the_owner_resets_the_counts(self, c_owner: ModuleType) -> None:
        owner = c_owner.Owner()
        owner.push(bytearray(frame(OP_PING) + frame(OP_TEXT, fin=False)))
        assert owner.state[2:] == (1, 1)
        owner.reset_counts()
        owner.push(bytearray(frame(OP_PING) * 2))
        assert owner.state[2:] == (0, 2)

    def test_a_parser_without_callbacks_drops_what_it_reads(self, c_owner: ModuleType) -> None:
        parser = c_owner.new_parser()
        wire = frame(OP_TEXT, b"a") + frame(OP_PING) + frame(OP_PONG)
        assert c_owner.push_plain(parser, bytearray(wire)) == 0
        assert c_owner.push_plain(parser, bytearray(close_frame(1000))) == 1
