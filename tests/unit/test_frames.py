"""RFC 6455 frames by section of the RFC."""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from written_frames import (
    INVALID_CODES,
    INVALID_UTF8,
    KEY,
    VALID_CODES,
    VALID_UTF8,
    binary,
    close_frame,
    feed_all,
    frame,
    keeping_no_buffer,
    parse,
    single_bytes,
    text,
    violation,
)

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
from tests.reference_frames import is_utf8, is_viable


@pytest.fixture(autouse=True)
def _no_buffer_is_left() -> Iterator[None]:
    yield from keeping_no_buffer()


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


class TestUtf8:
    """Section 8.1."""

    @pytest.mark.parametrize("payload", INVALID_UTF8)
    @pytest.mark.parametrize("n_before", [0, 1, 7, 8, 15, 16, 17, 63, 64, 65, 100, 127, 128])
    def test_invalid(self, payload: bytes, n_before: int) -> None:
        for before in (b"a" * n_before, "가".encode() * n_before):
            assert violation(frame(OP_TEXT, before + payload)) == 1007
            assert violation(frame(OP_TEXT, before + payload + b"a" * 140)) == 1007

    @pytest.mark.parametrize("payload", VALID_UTF8)
    def test_valid(self, payload: str) -> None:
        for before in ("", "a" * 15, "a" * 16, "가" * 9, "a" * 63, "a" * 64, "a" * 150):
            for after in ("", "a" * 100):
                data = (before + payload + after).encode()
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

    def test_a_client_takes_a_claim_within_its_limit_at_its_word(self) -> None:
        reader = FrameReader(is_client=True, max_message_size=1 << 20)
        wire = build_frame(OP_BINARY, bytes(1 << 20))
        # With its second piece: with the first, the message before it may be there still.
        reader.feed(wire[:100])
        assert reader.buffer_size < 200
        reader.feed(wire[100:101])
        assert reader.buffer_size == 1 << 20
        ((_, _, _, message),) = reader.feed(wire[101:])
        # What was collected is the message itself.
        assert message == bytes(1 << 20)
        assert sys.getsizeof(message) == sys.getsizeof(b"") + len(message)
        assert reader.buffer_size == 0

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
