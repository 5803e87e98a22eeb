"""The C interface of the frame parser, through an owner such as the connection is one."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from written_frames import close_frame, frame, keeping_no_buffer, text

from fastws import _frames
from fastws._frames import (
    OP_BINARY,
    OP_CLOSE,
    OP_CONT,
    OP_PING,
    OP_PONG,
    OP_TEXT,
    FrameReader,
    build_frame,
)
from tests.reference_frames import is_utf8


@pytest.fixture(autouse=True)
def _no_buffer_is_left() -> Iterator[None]:
    yield from keeping_no_buffer()


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
