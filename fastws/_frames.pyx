# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: auto_pickle=False
"""RFC 6455 frames, sans-IO: bytes in, callbacks out, and the builders for the other direction.

`FrameParser` is the base class of a connection in C; `FrameReader` is the same parser for Python callers.
Handshake, timeouts, the reply to a close frame and permessage-deflate are their owners' business: a
compressed message is handed over as it came, with a flag. Everything here needs the GIL except what is marked
``nogil``.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, _PyBytes_Resize
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy


cdef enum:
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    INVALID_PAYLOAD = 1007
    MESSAGE_TOO_BIG = 1009

    FIN = 0x80
    RSV1 = 0x40
    RSV_BITS = 0x70
    OPCODE_BITS = 0x0f
    CONTROL_BIT = 0x08
    MASK_BIT = 0x80

    MAX_HEADER_SIZE = 14
    MAX_CONTROL_SIZE = 125
    MAX_REASON_SIZE = 123
    MIN_BUFFER_SIZE = 64

    # Answers of _parse_header that are not a header's size (2 to 14).
    HEADER_INCOMPLETE = 0
    HEADER_REFUSED = 255


# What all parsers together hold in buffers, in bytes.
cdef Py_ssize_t _buffered_size = 0


cdef void xor_mask(uint8_t* data, Py_ssize_t size, const uint8_t* mask) noexcept nogil:
    # memcpy makes the unaligned words legal C; gcc turns the loop into 16-byte vectors.
    cdef uint64_t words, word
    cdef Py_ssize_t i = 0
    memcpy(&words, mask, 4)
    memcpy(<uint8_t*>&words + 4, mask, 4)
    while i + 8 <= size:
        memcpy(&word, data + i, 8)
        word ^= words
        memcpy(data + i, &word, 8)
        i += 8
    while i < size:
        data[i] ^= mask[i & 3]
        i += 1


cdef void turn_mask(uint8_t* mask, Py_ssize_t n_taken) noexcept nogil:
    cdef uint8_t[4] old
    cdef int i
    memcpy(old, mask, 4)
    for i in range(4):
        mask[i] = old[(n_taken + i) & 3]


# A shift-based automaton (Per Vognsen): a state is a shift count, and a byte's row holds the next state of
# every state, 6 bits each. The one dependent operation per byte is a shift.
cdef enum:
    UTF8_ACCEPT = 0     # between characters
    UTF8_REJECT = 6     # absorbing
    UTF8_LAST_1 = 12    # one, two or three more bytes 80..BF
    UTF8_LAST_2 = 18
    UTF8_LAST_3 = 24
    # The second byte is restricted: no overlong forms, no surrogates, nothing over U+10FFFF.
    UTF8_AFTER_E0 = 30
    UTF8_AFTER_ED = 36
    UTF8_AFTER_F0 = 42
    UTF8_AFTER_F4 = 48

cdef uint64_t[256] UTF8_ROWS


cdef void allow_bytes(int state, int first, int last, uint64_t following) noexcept:
    cdef int byte
    for byte in range(first, last + 1):
        UTF8_ROWS[byte] = (UTF8_ROWS[byte] & ~(<uint64_t>63 << state)) | (following << state)


cdef void fill_utf8_rows() noexcept:
    # The Unicode Standard, table 3-7 "Well-Formed UTF-8 Byte Sequences".
    cdef int state
    for state in range(UTF8_ACCEPT, UTF8_AFTER_F4 + 1, 6):
        allow_bytes(state, 0x00, 0xff, UTF8_REJECT)
    allow_bytes(UTF8_ACCEPT, 0x00, 0x7f, UTF8_ACCEPT)
    allow_bytes(UTF8_ACCEPT, 0xc2, 0xdf, UTF8_LAST_1)
    allow_bytes(UTF8_ACCEPT, 0xe0, 0xe0, UTF8_AFTER_E0)
    allow_bytes(UTF8_ACCEPT, 0xe1, 0xec, UTF8_LAST_2)
    allow_bytes(UTF8_ACCEPT, 0xed, 0xed, UTF8_AFTER_ED)
    allow_bytes(UTF8_ACCEPT, 0xee, 0xef, UTF8_LAST_2)
    allow_bytes(UTF8_ACCEPT, 0xf0, 0xf0, UTF8_AFTER_F0)
    allow_bytes(UTF8_ACCEPT, 0xf1, 0xf3, UTF8_LAST_3)
    allow_bytes(UTF8_ACCEPT, 0xf4, 0xf4, UTF8_AFTER_F4)
    allow_bytes(UTF8_LAST_1, 0x80, 0xbf, UTF8_ACCEPT)
    allow_bytes(UTF8_LAST_2, 0x80, 0xbf, UTF8_LAST_1)
    allow_bytes(UTF8_LAST_3, 0x80, 0xbf, UTF8_LAST_2)
    allow_bytes(UTF8_AFTER_E0, 0xa0, 0xbf, UTF8_LAST_1)
    allow_bytes(UTF8_AFTER_ED, 0x80, 0x9f, UTF8_LAST_1)
    allow_bytes(UTF8_AFTER_F0, 0x90, 0xbf, UTF8_LAST_2)
    allow_bytes(UTF8_AFTER_F4, 0x80, 0x8f, UTF8_LAST_2)


fill_utf8_rows()


cdef uint8_t scan_utf8(const uint8_t* data, Py_ssize_t size, uint8_t start) noexcept nogil:
    # Returns the state after `size` more bytes. REJECT is reached at the first byte that no valid text can
    # have there.
    cdef uint64_t state = start
    cdef uint64_t low, high
    cdef uint64_t[8] words
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t stop
    if state == UTF8_ACCEPT:
        # What is all ASCII, as most is, takes a third of the instructions in large steps.
        while i + 64 <= size:
            memcpy(words, data + i, 64)
            low = words[0] | words[1] | words[2] | words[3]
            high = words[4] | words[5] | words[6] | words[7]
            if (low | high) & <uint64_t>0x8080808080808080:
                break
            i += 64
    while i < size:
        if state == UTF8_ACCEPT:
            while i + 16 <= size:
                memcpy(&low, data + i, 8)
                memcpy(&high, data + i + 8, 8)
                if (low | high) & <uint64_t>0x8080808080808080:
                    break
                i += 16
        elif state == UTF8_REJECT:
            break
        stop = i + 16 if i + 16 < size else size
        while i < stop:
            state = UTF8_ROWS[data[i]] >> (state & 63)
            i += 1
        state &= 63
    return <uint8_t>state


cdef bint is_valid_utf8(const uint8_t* data, Py_ssize_t size) noexcept nogil:
    return scan_utf8(data, size, UTF8_ACCEPT) == UTF8_ACCEPT


cdef Py_ssize_t write_header(uint8_t* out, int first_byte, Py_ssize_t payload_size) noexcept nogil:
    """Write an unmasked frame header and return its size: 2, 4 or 10 bytes. `out` has room for 10."""
    cdef int i
    out[0] = <uint8_t>first_byte
    if payload_size < 126:
        out[1] = <uint8_t>payload_size
        return 2
    if payload_size < 0x10000:
        out[1] = 126
        out[2] = <uint8_t>(payload_size >> 8)
        out[3] = <uint8_t>payload_size
        return 4
    out[1] = 127
    for i in range(8):
        out[2 + i] = <uint8_t>(<uint64_t>payload_size >> (56 - 8 * i))
    return 10


cdef bint is_valid_close_code(int code) noexcept nogil:
    # RFC 6455 section 7.4 and the IANA registry: 1004 is undefined; 1005, 1006 and 1015 never stand in a
    # frame; nothing is registered from 1016 on; 3000 to 4999 belong to libraries and applications.
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def build_frame(int opcode, payload, *, bint fin=True, bint rsv1=False, bytes mask=None):
    """Return one frame as bytes (RFC 6455 section 5.2).

    `payload` is any bytes-like object; that text is UTF-8 is up to the caller. `mask` is the 4-byte masking
    key that a client must use, None for a server. Raises ValueError for what RFC 6455 forbids in any role: a
    reserved opcode, a control frame that is fragmented, marked with RSV1 or longer than 125 bytes, RSV1 on a
    continuation; and for a `mask` that is not 4 bytes.
    """
    cdef Py_buffer view
    cdef uint8_t[10] header
    cdef Py_ssize_t header_size, mask_size = 0
    cdef bytes frame
    cdef uint8_t* out
    if not (OP_CONT <= opcode <= OP_BINARY or OP_CLOSE <= opcode <= OP_PONG):
        raise ValueError(f"opcode {opcode} is reserved")
    if rsv1 and opcode != OP_TEXT and opcode != OP_BINARY:
        raise ValueError("rsv1 may be set on the first frame of a text or binary message only")
    if mask is not None:
        mask_size = len(mask)
        if mask_size != 4:
            raise ValueError(f"mask must be 4 bytes, got {mask_size}")
    PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
    try:
        if opcode & CONTROL_BIT:
            if not fin:
                raise ValueError("a control frame cannot be fragmented")
            if view.len > MAX_CONTROL_SIZE:
                raise ValueError(f"a control frame holds at most {MAX_CONTROL_SIZE} bytes, got {view.len}")
        header_size = write_header(header, (FIN if fin else 0) | (RSV1 if rsv1 else 0) | opcode, view.len)
        if mask_size:
            header[1] |= MASK_BIT
        frame = PyBytes_FromStringAndSize(NULL, header_size + mask_size + view.len)
        out = <uint8_t*>PyBytes_AS_STRING(frame)
        memcpy(out, header, header_size)
        if view.len:
            memcpy(out + header_size + mask_size, view.buf, view.len)
        if mask_size:
            memcpy(out + header_size, PyBytes_AS_STRING(mask), 4)
            xor_mask(out + header_size + 4, view.len, out + header_size)
        return frame
    finally:
        PyBuffer_Release(&view)


def build_close(int code, str reason="", *, bytes mask=None):
    """Return a close frame (RFC 6455 section 5.5.1).

    `reason` is cut to the 123 bytes of UTF-8 that fit, between two characters. Code 1005, with which an empty
    close frame is reported, gives an empty close frame. `mask` is as for `build_frame`. Raises ValueError for
    a code that must not be sent, and for a reason together with 1005.
    """
    cdef bytes text = reason.encode()
    cdef Py_ssize_t size = len(text)
    if code == NO_STATUS:
        if size:
            raise ValueError("a close frame without a code cannot carry a reason")
        return build_frame(OP_CLOSE, b"", mask=mask)
    if not is_valid_close_code(code):
        raise ValueError(f"close code {code} must not be sent; use 1000-1003, 1007-1014 or 3000-4999")
    if size > MAX_REASON_SIZE:
        size = MAX_REASON_SIZE
        while ((<const uint8_t*>PyBytes_AS_STRING(text))[size] & 0xc0) == 0x80:
            size -= 1
    return build_frame(OP_CLOSE, bytes((code >> 8, code & 0xff)) + text[:size], mask=mask)


def mask_payload(data, bytes key not None):
    """Return the bytes-like `data` masked, or unmasked: it is the same (RFC 6455 section 5.3).

    Raises ValueError when `key` is not 4 bytes.
    """
    cdef Py_buffer view
    cdef bytes masked
    if len(key) != 4:
        raise ValueError(f"key must be 4 bytes, got {len(key)}")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        # Not built from view.buf: for a single byte CPython would give an object that everybody shares.
        masked = PyBytes_FromStringAndSize(NULL, view.len)
        if view.len:
            memcpy(PyBytes_AS_STRING(masked), view.buf, view.len)
    finally:
        PyBuffer_Release(&view)
    xor_mask(<uint8_t*>PyBytes_AS_STRING(masked), len(masked), <const uint8_t*>PyBytes_AS_STRING(key))
    return masked


cdef class FrameParser:
    """Turns what a connection receives into messages and control frames (RFC 6455 section 5).

    The owner subclasses it in Cython, writes the settings, and calls ``feed(data, size)`` with whatever has
    arrived. `feed` calls the ``on_*`` methods in the order of the wire, raises what they raise, and returns 1
    once the parser is dead, else 0.

    Invariants:

    1. How the input is cut into calls of `feed` changes neither the callbacks nor their order.
    2. The caller's buffer is written to (unmasked in place, server role only) and never kept: nothing points
       into it after `feed` returns. A pointer given to a callback is valid during that call.
    3. A callback gets either something whole and valid, or the one violation. Text is UTF-8 unless it is
       compressed. A wrong header is reported before its payload, wrong UTF-8 at the first byte that no valid
       text can have there.
    4. The parser is dead after a violation, a close frame, a callback that returned non-zero, or an
       exception; `has_failed` is set before `on_violation` and `on_close_frame` run. The owner may set it
       too, within a callback or between two calls. Once `feed` has returned 1 there is no buffer, and nothing
       more is called.
    5. A message or control frame that lies in one piece in the caller's buffer is not copied. Everything else
       is collected in `_buffer`, which grows with what was received (at most to twice that, in steps from 64
       bytes on) and ends at `max_message_size` plus 125 bytes: a claimed length allocates nothing. A client has
       few servers, and takes the length of a frame at its word when its second piece comes: growing would cost
       more than the rest, and memory that nothing is written to is none yet.
    6. `_buffer` is freed when the last thing in it was delivered; between messages there is none.
    7. Between calls, ``_message_size <= max_message_size`` (or the owner lowered that inside a message: the
       next fragment is refused then), and a header is either incomplete in `_header`, or checked in full.
       Lengths are checked before they are added to anything.
    8. Frames of a message do not nest: while `_message_opcode` is set, only continuations and control frames
       pass. An incomplete control frame stands behind the message's bytes in `_buffer`, so both can be under
       way together.
    9. `feed` is not called from within a callback: the buffer that callback reads could move. It raises
       RuntimeError.
    """

    def __cinit__(self):
        self.max_message_size = 65536
        self.allow_binary = True

    def __dealloc__(self):
        self._release()

    cdef int feed(self, uint8_t* data, Py_ssize_t size) except -1:
        cdef int status = 1
        if self._is_feeding:
            raise RuntimeError("feed() was called from a callback of the same parser")
        self._is_feeding = True
        try:
            if not self.has_failed:
                status = self._parse(data, size)
        finally:
            self._is_feeding = False
            if status:
                self.has_failed = True
                self._release()
        return status

    cdef int on_message(self, int opcode, bint compressed, const uint8_t* payload, Py_ssize_t size) except -1:
        """One complete message, OP_TEXT or OP_BINARY. `compressed`: RSV1 was set and `payload` is as sent."""
        return 0

    cdef int on_ping(self, const uint8_t* payload, Py_ssize_t size) except -1:
        """A ping of at most 125 bytes, to be answered with a pong of the same bytes."""
        return 0

    cdef int on_pong(self, const uint8_t* payload, Py_ssize_t size) except -1:
        """A pong of at most 125 bytes."""
        return 0

    cdef int on_close_frame(self, int code, const uint8_t* reason, Py_ssize_t size) except -1:
        """The peer's close frame with a valid code, or 1005 when the frame was empty; `reason` is UTF-8."""
        return 0

    cdef int on_violation(self, int code, str reason) except -1:
        """The peer broke the protocol: close with this `code` (1002, 1003, 1007, 1009) and `reason`."""
        return 0

    cdef int _parse(self, uint8_t* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t position = 0
        cdef Py_ssize_t n
        cdef int header_size
        while True:
            if not self._is_in_frame:
                if position == size:
                    return 0
                if self._header_size == 0:
                    header_size = self._parse_header(data + position, size - position)
                    if header_size == HEADER_INCOMPLETE:
                        self._header_size = <uint8_t>(size - position)
                        memcpy(self._header, data + position, self._header_size)
                        return 0
                    position += header_size
                else:
                    n = min(<Py_ssize_t>MAX_HEADER_SIZE - self._header_size, size - position)
                    memcpy(self._header + self._header_size, data + position, n)
                    header_size = self._parse_header(self._header, self._header_size + n)
                    if header_size == HEADER_INCOMPLETE:
                        self._header_size += <uint8_t>n
                        return 0
                    position += header_size - self._header_size
                    self._header_size = 0
                if header_size == HEADER_REFUSED:
                    return 1
            n = min(self._frame_remaining, size - position)
            if self._take_payload(data + position, n) or self.has_failed:
                return 1
            if self._is_in_frame:
                return 0
            position += n

    cdef int _parse_header(self, const uint8_t* header, Py_ssize_t available) except -1:
        # Nothing changes before the header is complete and valid: an incomplete one is parsed again with more
        # bytes.
        cdef int first, opcode, rsv, size = 2
        cdef bint is_masked, is_control
        cdef uint64_t length
        cdef int i
        if available < 2:
            return HEADER_INCOMPLETE
        first = header[0]
        opcode = first & OPCODE_BITS
        is_control = (opcode & CONTROL_BIT) != 0
        is_masked = (header[1] & MASK_BIT) != 0
        length = header[1] & 0x7f

        rsv = first & RSV_BITS
        if rsv:
            if rsv & ~<int>self.rsv_allowed:
                return self._refuse_header(PROTOCOL_ERROR, "a reserved bit is set that was not negotiated")
            if rsv & RSV1 and (is_control or opcode == OP_CONT):
                return self._refuse_header(PROTOCOL_ERROR, "RSV1 on a frame that does not start a message")
        if opcode > OP_PONG or OP_BINARY < opcode < OP_CLOSE:
            return self._refuse_header(PROTOCOL_ERROR, "reserved opcode")
        if is_masked == (self.is_client != 0):
            return self._refuse_header(
                PROTOCOL_ERROR, "frame from a server is masked" if is_masked else "frame is not masked"
            )
        if is_control:
            if not first & FIN:
                return self._refuse_header(PROTOCOL_ERROR, "control frame is fragmented")
            if length > MAX_CONTROL_SIZE:
                return self._refuse_header(PROTOCOL_ERROR, "control frame is longer than 125 bytes")
        elif opcode == OP_CONT:
            if not self._message_opcode:
                return self._refuse_header(PROTOCOL_ERROR, "continuation without a message to continue")
        else:
            if self._message_opcode:
                return self._refuse_header(PROTOCOL_ERROR, "new message inside a fragmented one")
            if opcode == OP_BINARY and not self.allow_binary:
                return self._refuse_header(UNSUPPORTED_DATA, "binary messages are not accepted")

        if length == 126:
            if available < 4:
                return HEADER_INCOMPLETE
            length = (<uint64_t>header[2] << 8) | header[3]
            if length < 126:
                return self._refuse_header(PROTOCOL_ERROR, "frame length is not in its shortest form")
            size = 4
        elif length == 127:
            if available < 10:
                return HEADER_INCOMPLETE
            length = 0
            for i in range(2, 10):
                length = (length << 8) | header[i]
            if length >> 63:
                return self._refuse_header(PROTOCOL_ERROR, "frame length has its highest bit set")
            if length < 0x10000:
                return self._refuse_header(PROTOCOL_ERROR, "frame length is not in its shortest form")
            size = 10
        if not is_control and (
            self.max_message_size < self._message_size
            or length > <uint64_t>(self.max_message_size - self._message_size)
        ):
            return self._refuse_header(MESSAGE_TOO_BIG, f"message is over {self.max_message_size} bytes")
        if is_masked:
            if available < size + 4:
                return HEADER_INCOMPLETE
            memcpy(self._mask, header + size, 4)
            size += 4

        self._first_byte = <uint8_t>first
        self._frame_remaining = <Py_ssize_t>length
        self._is_in_frame = True
        if is_control:
            self.n_control += 1
        else:
            if opcode != OP_CONT:
                self._message_opcode = <uint8_t>opcode
                self._is_compressed = (rsv & RSV1) != 0
            if opcode == OP_CONT or not first & FIN:
                self.n_fragments += 1
        return size

    cdef int _take_payload(self, uint8_t* payload, Py_ssize_t size) except -1:
        # `size` bytes of the frame under way, none of them if the input ends behind the header.
        cdef bint is_last = size == self._frame_remaining
        if not self.is_client:
            xor_mask(payload, size, self._mask)
            if not is_last:
                turn_mask(self._mask, size)
        self._frame_remaining -= size
        if is_last:
            self._is_in_frame = False
        if self._first_byte & CONTROL_BIT:
            return self._take_control(payload, size, is_last)
        return self._take_data(payload, size, is_last)

    cdef int _take_data(self, const uint8_t* payload, Py_ssize_t size, bint is_last) except -1:
        cdef bint is_end = is_last and self._first_byte & FIN
        cdef int opcode = self._message_opcode
        cdef int status
        if opcode == OP_TEXT and not self._is_compressed:
            self._utf8_state = scan_utf8(payload, size, self._utf8_state)
            if self._utf8_state == UTF8_REJECT or (is_end and self._utf8_state != UTF8_ACCEPT):
                return self._refuse(INVALID_PAYLOAD, "text is not UTF-8")
        if not is_end:
            return self._store(payload, size)
        self._message_opcode = 0
        if self._message_size:
            self._store(payload, size)
            payload = self._buffer
            size = self._message_size
        status = self.on_message(opcode, self._is_compressed, payload, size)
        if self._buffer != NULL:
            self._release()
        return status

    cdef int _take_control(self, const uint8_t* payload, Py_ssize_t size, bint is_last) except -1:
        cdef int opcode = self._first_byte & OPCODE_BITS
        cdef int status
        if self._control_size or not is_last:
            self._store(payload, size)
            if not is_last:
                return 0
            payload = self._buffer + self._message_size
            size = self._control_size
            self._control_size = 0
        if opcode == OP_PING:
            status = self.on_ping(payload, size)
        elif opcode == OP_PONG:
            status = self.on_pong(payload, size)
        else:
            status = self._take_close(payload, size)
        if self._buffer != NULL and self._message_size == 0:
            self._release()
        return status

    cdef int _take_close(self, const uint8_t* payload, Py_ssize_t size) except -1:
        cdef int code
        if size == 1:
            return self._refuse(PROTOCOL_ERROR, "close frame has half a code")
        if size == 0:
            self.has_failed = True
            self.on_close_frame(NO_STATUS, payload, 0)
            return 1
        code = (payload[0] << 8) | payload[1]
        if not is_valid_close_code(code):
            return self._refuse(PROTOCOL_ERROR, f"close code {code} is not allowed")
        if not is_valid_utf8(payload + 2, size - 2):
            return self._refuse(INVALID_PAYLOAD, "close reason is not UTF-8")
        self.has_failed = True
        self.on_close_frame(code, payload + 2, size - 2)
        return 1

    cdef int _refuse(self, int code, str reason) except -1:
        self.has_failed = True
        self.on_violation(code, reason)
        return 1

    cdef int _refuse_header(self, int code, str reason) except -1:
        self._refuse(code, reason)
        return HEADER_REFUSED

    cdef int _store(self, const uint8_t* payload, Py_ssize_t size) except -1:
        # Appends to whichever is under way, the message or the control frame.
        global _buffered_size
        cdef Py_ssize_t used = self._message_size + self._control_size
        cdef Py_ssize_t wanted
        if size == 0:
            return 0
        if used + size > self._buffer_size:
            # Doubling keeps the copying linear in what was received, however small the pieces.
            wanted = min(2 * self._buffer_size, self.max_message_size)
            wanted = max(wanted, used + size, <Py_ssize_t>MIN_BUFFER_SIZE)
            # With the first piece the message before it may be there still, and as much more memory would be new.
            if self.is_client and used:
                wanted = max(wanted, used + size + self._frame_remaining)
            self._buffer = self._resize(wanted)
            _buffered_size += wanted - self._buffer_size
            self._buffer_size = wanted
        memcpy(self._buffer + used, payload, size)
        if self._first_byte & CONTROL_BIT:
            self._control_size += <uint8_t>size
        else:
            self._message_size += size
        return 0

    cdef uint8_t* _resize(self, Py_ssize_t size) except NULL:
        # What `_buffer` is from now on. After an error nothing is read from it.
        cdef uint8_t* buffer = <uint8_t*>realloc(self._buffer, size)
        if buffer == NULL:
            raise MemoryError()
        return buffer

    cdef void _free(self) noexcept:
        free(self._buffer)

    cdef void _release(self) noexcept:
        global _buffered_size
        self._free()
        _buffered_size -= self._buffer_size
        self._buffer = NULL
        self._buffer_size = 0
        self._message_size = 0
        self._control_size = 0


cdef class _EventParser(FrameParser):
    # What is incomplete is collected in a bytes object, so that a message of many pieces is handed over as it is. A
    # copy of some megabytes would cost more than all else, because all of its pages are new.
    cdef list events
    cdef PyObject* _collected           # owned, the only reference; what `_buffer` points into, NULL where that is

    def __dealloc__(self):
        self._release()

    cdef uint8_t* _resize(self, Py_ssize_t size) except NULL:
        if self._collected == NULL:
            message = PyBytes_FromStringAndSize(NULL, size)
            Py_INCREF(message)
            self._collected = <PyObject*>message
        else:
            _PyBytes_Resize(&self._collected, size)
        return <uint8_t*>PyBytes_AS_STRING(<object>self._collected)

    cdef void _free(self) noexcept:
        Py_XDECREF(self._collected)
        self._collected = NULL

    cdef int on_message(self, int opcode, bint compressed, const uint8_t* payload, Py_ssize_t size) except -1:
        cdef object message
        if self._message_size:
            _PyBytes_Resize(&self._collected, size)
            message = <object>self._collected
            self._release()
        else:
            message = PyBytes_FromStringAndSize(<const char*>payload, size)
        self.events.append(("message", opcode, compressed, message))
        return 0

    cdef int on_ping(self, const uint8_t* payload, Py_ssize_t size) except -1:
        self.events.append(("ping", PyBytes_FromStringAndSize(<const char*>payload, size)))
        return 0

    cdef int on_pong(self, const uint8_t* payload, Py_ssize_t size) except -1:
        self.events.append(("pong", PyBytes_FromStringAndSize(<const char*>payload, size)))
        return 0

    cdef int on_close_frame(self, int code, const uint8_t* reason, Py_ssize_t size) except -1:
        self.events.append(("close", code, PyUnicode_DecodeUTF8(<const char*>reason, size, NULL)))
        return 0

    cdef int on_violation(self, int code, str reason) except -1:
        self.events.append(("violation", code, reason))
        return 0


cdef class FrameReader:
    """`FrameParser` for Python: bytes in, a list of events out.

    is_client: the role of this end. A client expects unmasked frames, a server masked ones.
    max_message_size: bytes of one message, its fragments joined, as on the wire; a longer one is refused with
    1009.
    allow_binary: whether binary messages are taken; otherwise they are refused with 1003.
    rsv_allowed: the reserved bits of a frame's first byte that an extension negotiated (0x40 is RSV1), else
    0.

    Raises ValueError for a negative `max_message_size` and for bits in `rsv_allowed` outside 0x70.
    """

    cdef _EventParser _parser

    def __init__(
        self,
        *,
        bint is_client=False,
        Py_ssize_t max_message_size=65536,
        bint allow_binary=True,
        int rsv_allowed=0,
    ):
        if max_message_size < 0:
            raise ValueError(f"max_message_size must not be negative, got {max_message_size}")
        if rsv_allowed & ~<int>RSV_BITS:
            raise ValueError(f"rsv_allowed may hold the bits 0x40, 0x20 and 0x10 only, got {rsv_allowed:#x}")
        self._parser = _EventParser.__new__(_EventParser)
        self._parser.events = []
        self._parser.is_client = is_client
        self._parser.max_message_size = max_message_size
        self._parser.allow_binary = allow_binary
        self._parser.rsv_allowed = <uint8_t>rsv_allowed

    def feed(self, data):
        """Parse the bytes-like `data`, which is left as it is, and return what it completed, in order:

        ``("message", opcode, compressed, payload)`` with `opcode` OP_TEXT or OP_BINARY and `payload` bytes;
        ``("ping", payload)``, ``("pong", payload)``;
        ``("close", code, reason)`` with code 1005 when the frame was empty;
        ``("violation", code, reason)`` with code 1002, 1003, 1007 or 1009.

        The last two end the stream: from then on the result is empty.
        """
        cdef _EventParser parser = self._parser
        cdef Py_buffer view
        cdef bytearray copy
        cdef list events
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if parser.is_client:
                # The parser does not write to unmasked input.
                parser.feed(<uint8_t*>view.buf, view.len)
            else:
                copy = PyByteArray_FromStringAndSize(<const char*>view.buf, view.len)
                parser.feed(<uint8_t*>PyByteArray_AS_STRING(copy), view.len)
        finally:
            PyBuffer_Release(&view)
        events = parser.events
        parser.events = []
        return events

    @property
    def has_failed(self):
        """Whether the stream has ended with a close frame or a violation."""
        return self._parser.has_failed

    @property
    def n_fragments(self):
        """Data frames seen that continue a message or leave it unfinished."""
        return self._parser.n_fragments

    @property
    def n_control(self):
        """Ping, pong and close frames seen."""
        return self._parser.n_control

    @property
    def buffer_size(self):
        """Bytes allocated for what is incomplete; 0 between messages."""
        return self._parser._buffer_size


def buffered_size():
    """Return the bytes that all live parsers together have allocated for incomplete messages."""
    return _buffered_size
