"""RFC 6455 frames against a plain reference parser: any conversation, any damage, any cut."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from written_frames import Event, cut, feed_all, frame, keeping_no_buffer, single_bytes

from fastws._frames import (
    OP_BINARY,
    OP_CLOSE,
    OP_CONT,
    OP_PING,
    OP_PONG,
    OP_TEXT,
    FrameReader,
    build_close,
    build_frame,
)
from tests.reference_frames import is_utf8, reference_events, without_reasons


@pytest.fixture(autouse=True)
def _no_buffer_is_left() -> Iterator[None]:
    yield from keeping_no_buffer()


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
