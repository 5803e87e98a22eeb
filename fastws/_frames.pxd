# Internal to the fastws distribution: the layout of this class is not a public interface.
from libc.stdint cimport uint8_t


cpdef enum:
    OP_CONT = 0
    OP_TEXT = 1
    OP_BINARY = 2
    OP_CLOSE = 8
    OP_PING = 9
    OP_PONG = 10


cdef class FrameParser:
    # Settings. The owner writes them before the first feed.
    cdef Py_ssize_t max_message_size    # bytes of a message, fragments joined, as on the wire; over it: 1009
    cdef bint is_client                 # our role: a client takes unmasked frames, a server masked ones
    cdef bint allow_binary              # else a binary message is refused with 1003
    cdef uint8_t rsv_allowed            # negotiated reserved bits of a frame's first byte (0x40 is RSV1)

    # Counts for the owner's rate caps. The owner reads and resets them.
    cdef int n_fragments                # data frames that continue a message or leave it unfinished
    cdef int n_control                  # ping, pong and close frames

    cdef bint has_failed                # dead: feed() ignores all further input

    # The frame under way.
    cdef Py_ssize_t _frame_remaining    # payload bytes still to come
    cdef uint8_t _is_in_frame           # its header is complete, its payload is not
    cdef uint8_t _first_byte            # FIN, RSV and opcode
    cdef uint8_t _mask[4]               # turned so that _mask[0] belongs to the next payload byte
    cdef uint8_t _header[14]            # bytes of an incomplete header
    cdef uint8_t _header_size

    # The message under way.
    cdef uint8_t _message_opcode        # 0 when there is none
    cdef uint8_t _is_compressed
    cdef uint8_t _utf8_state
    cdef uint8_t _is_feeding
    cdef uint8_t _control_size          # bytes of an incomplete control frame

    # Owned; NULL unless something incomplete is kept: the message's bytes, then those of an incomplete
    # control frame.
    cdef uint8_t* _buffer
    cdef Py_ssize_t _buffer_size
    cdef Py_ssize_t _message_size

    # Both are for the owner to call; see the docstring of the class. feed returns 1 when the parser is dead,
    # else 0.
    cdef int feed(self, uint8_t* data, Py_ssize_t size) except -1

    # For the owner to override. Pointers are valid during the call only. Return 0, or 1 to stop: the parser
    # is dead then.
    cdef int on_message(self, int opcode, bint compressed, const uint8_t* payload, Py_ssize_t size) except -1
    cdef int on_ping(self, const uint8_t* payload, Py_ssize_t size) except -1
    cdef int on_pong(self, const uint8_t* payload, Py_ssize_t size) except -1
    cdef int on_close_frame(self, int code, const uint8_t* reason, Py_ssize_t size) except -1
    cdef int on_violation(self, int code, str reason) except -1

    cdef int _parse(self, uint8_t* data, Py_ssize_t size) except -1
    cdef int _parse_header(self, const uint8_t* header, Py_ssize_t available) except -1
    cdef int _take_payload(self, uint8_t* payload, Py_ssize_t size) except -1
    cdef int _take_data(self, const uint8_t* payload, Py_ssize_t size, bint is_last) except -1
    cdef int _take_control(self, const uint8_t* payload, Py_ssize_t size, bint is_last) except -1
    cdef int _take_close(self, const uint8_t* payload, Py_ssize_t size) except -1
    cdef int _refuse(self, int code, str reason) except -1
    cdef int _refuse_header(self, int code, str reason) except -1
    cdef int _store(self, const uint8_t* payload, Py_ssize_t size) except -1
    cdef uint8_t* _resize(self, Py_ssize_t size) except NULL
    cdef void _free(self) noexcept
    cdef void _release(self) noexcept


cdef Py_ssize_t write_header(uint8_t* out, int first_byte, Py_ssize_t payload_size) noexcept nogil
cdef bint is_valid_utf8(const uint8_t* data, Py_ssize_t size) noexcept nogil
