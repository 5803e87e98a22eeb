cdef bytearray _read_buffer = bytearray(READ_BUFFER_SIZE)
cdef uint8_t* _read_pointer = <uint8_t*><char*>_read_buffer
cdef object _read_view = memoryview(_read_buffer)
cdef bytes _ping_frame = b"\x89\x00"


cdef class Connection(Subscriber):
    """One WebSocket client: the asyncio protocol of its transport.

    1. Reads go to one buffer of the whole process: the loop calls `buffer_updated` before anyone else can ask for it,
       and only an incomplete frame is copied to its connection.
    2. It is OPEN until a close frame was sent or received, CLOSING until the peer's part has come or the time for it
       is over, and then CLOSED; `finish` runs once. Where very many end together, some wait with their transport
       lost until it is their turn: they are sent nothing, and hold what they held until then.
    3. One that takes nothing for `stall_ns` is closed with 4408, one that says nothing with 4409.

    `window_bits` is what permessage-deflate was agreed with, 0 when it was not; see `fastws.deflate`.

    `handler` gets ``on_open(connection)``, ``on_message(connection, bytes, is_text)``, ``on_rate_limited(connection)``
    and ``on_close(connection, code)``, all on the loop's thread. `context` is the handler's to use.
    """

    def __init__(
        self,
        Hub hub,
        transport,
        handler,
        Dialect dialect,
        *,
        int max_message_size,
        bint allow_binary=False,
        int window_bits=0,
    ):
        cdef int64_t now = monotonic_ns()
        self.hub = hub
        self.transport = transport
        self.handler = handler
        self.dialect = dialect
        self.max_message_size = max_message_size
        self.allow_binary = allow_binary
        self.window_bits = window_bits
        if window_bits:
            self.rsv_allowed = 0x40
        self.fd = -1
        self.tokens = hub.rate_limit
        self.refilled_ns = self.received_ns = self.heard_ns = self.pinged_ns = self.swept_ns = now
        self.taken_ns = now
        self.opened_ms = fastws_wall_ms()
        if FASTWS_DEBUG:
            count_live("Connection", 1)

    def __dealloc__(self):
        if FASTWS_DEBUG:
            count_live("Connection", -1)

    def open(self, bytes leftover=b""):
        """Take over the transport after the handshake. `leftover` is what came behind the request head."""
        transport = self.transport
        # The protocol first: if the response to the handshake still waits in the transport, the new limit pauses
        # this protocol at once, and nothing sent straight to the socket can overtake that response.
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=0)
        sock = transport.get_extra_info("socket")
        if sock is not None and transport.get_extra_info("sslcontext") is None and MSG_NOSIGNAL:
            self.fd = sock.fileno()
            # The response to the handshake, for the first message.
            self.is_held = 1
        self.hub.add_connection(self)
        self.hub.join(self, self.dialect, False, {})
        try:
            self.handler.on_open(self)
        except Exception:
            self.hub.logger.exception("opening a connection failed")
            self.fail(1011, "internal error")
        self.push()
        if leftover:
            data = bytearray(leftover)
            self.feed_bytes(<uint8_t*><char*>data, len(leftover))

    # What the loop calls.

    def connection_made(self, transport):
        pass

    def get_buffer(self, sizehint):
        return _read_view

    def buffer_updated(self, Py_ssize_t nbytes):
        self.feed_bytes(_read_pointer, nbytes)

    def data_received(self, bytes data):
        copied = bytearray(data)
        self.feed_bytes(<uint8_t*><char*>copied, len(data))

    def eof_received(self):
        return False

    def connection_lost(self, exc):
        self.is_lost = 1
        if self.state != CLOSED:
            self.hub.depart(self)

    # What the handler calls.

    @property
    def is_open(self):
        return self.state == OPEN

    @property
    def opened_at_ms(self):
        """When the connection was opened: Unix epoch, ms."""
        return self.opened_ms

    @property
    def last_activity_ms(self):
        """When the last message of the client came: Unix epoch, ms."""
        return fastws_wall_ms() - (monotonic_ns() - self.received_ns) // MS

    def send(self, bytes data, bint is_text=True):
        """Send one message in its place behind the data already queued, and never drop it."""
        if self.state == OPEN:
            self.send_frame(plain_frame(pack(self.hub, 1 if is_text else 2, data, self.window_bits), 1))

    def send_control(self, bytes data, *, bint is_followed=False):
        """Send one text message ahead of all data: an acknowledgement, a pong, an error.

        `is_followed`: more is about to be sent in the same call of the handler, so that both may leave together.
        """
        if self.state == OPEN:
            self.hub.n_messages_sent += 1
            self.send_ahead(frame_text(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)), is_followed)

    def charge(self, int n):
        """Count a message that was accepted as `n` more against the rate limit, for the work that it asked for."""
        self.tokens -= n

    def close(self, int code, str reason=""):
        """Send a close frame ahead of all data and wait a moment for the peer's. Idempotent."""
        if self.state != OPEN:
            return
        self.send_ahead(close_frame_bytes(code, reason))
        if self.state != OPEN:
            return
        self.leave_for_good()
        self.state = CLOSING
        self.close_code = code
        self.close_reason = reason
        self.deadline_ns = monotonic_ns() + CLOSE_GRACE_NS

    cpdef abort(self, int code, str reason=None):
        """Close without a word: the peer does not read."""
        if self.state == CLOSED:
            return
        self.close_code = code
        self.close_reason = reason
        self.transport.abort()
        self.finish(code)

    # Input.

    cdef int feed_bytes(self, uint8_t* data, Py_ssize_t size) except -1:
        if self.state == CLOSED:
            return 0
        self.heard_ns = monotonic_ns()
        self.hub.meters.n_bytes_received += size
        try:
            self.feed(data, size)
            if (
                self.hub.control_rate_limit
                and self.n_control + self.n_fragments > self.hub.control_rate_limit
                and self.state == OPEN
            ):
                self.fail(4429, "too many control frames or fragments")
        except Exception:
            self.hub.logger.exception("a connection failed and was closed")
            self.fail(1011, "internal error")
        return 0

    cdef bint take_token(self, int64_t now_ns) noexcept:
        cdef int limit = self.hub.rate_limit
        self.n_recent += 1
        if limit == 0:
            return True
        self.tokens += (now_ns - self.refilled_ns) * 1e-9 * limit
        if self.tokens > limit:
            self.tokens = limit
        self.refilled_ns = now_ns
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True

    cdef int on_message(self, int opcode, bint compressed, const uint8_t* payload, Py_ssize_t size) except -1:
        cdef int64_t now
        if self.state != OPEN:
            return 0
        now = monotonic_ns()
        self.received_ns = now
        self.message_count += 1
        self.hub.n_messages_received += 1
        if self.take_token(now):
            data = PyBytes_FromStringAndSize(<const char*>payload, size)
            if compressed:
                data = self.inflated(data, opcode == 1)
                if data is None:
                    return 1
            self.handler.on_message(self, data, opcode == 1)
            self.push()
            return 0
        self.hub.meters.n_rate_limited += 1
        if now - self.complained_ns >= 1000 * MS:
            self.complained_ns = now
            self.handler.on_rate_limited(self)
        return 0

    cdef bytes inflated(self, bytes payload, bint is_text):
        """The expanded message, or None after the connection was failed for it."""
        cdef bytes data
        cdef Meters meters = self.hub.meters
        meters.n_expanded += 1
        meters.n_bytes_to_expand += PyBytes_GET_SIZE(payload)
        try:
            data = self.hub.inflate(payload, self.max_message_size)
            meters.n_bytes_expanded += PyBytes_GET_SIZE(data)
        except ValueError as error:
            code, reason = error.args
            self.fail(code, reason)
            return None
        if is_text and not is_valid_utf8(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)):
            self.fail(1007, "invalid UTF-8")
            return None
        return data

    cdef int on_ping(self, const uint8_t* payload, Py_ssize_t size) except -1:
        cdef uint8_t frame[127]
        if self.state == OPEN:
            if self.hub.control_rate_limit and self.n_control > self.hub.control_rate_limit:
                self.fail(4429, "too many control frames")
                return 1
            frame[0] = 0x8A
            frame[1] = <uint8_t>size
            memcpy(frame + 2, payload, size)
            self.send_ahead(PyBytes_FromStringAndSize(<char*>frame, size + 2))
        return 0

    cdef int on_pong(self, const uint8_t* payload, Py_ssize_t size) except -1:
        return 0

    cdef int on_close_frame(self, int code, const uint8_t* reason, Py_ssize_t size) except -1:
        if self.state == OPEN:
            self.send_ahead(close_frame_bytes(code, "") if code != 1005 else b"\x88\x00")
            if self.state != OPEN:
                return 1
            self.leave_for_good()
            self.state = CLOSING
            self.close_code = code
        if self.state == CLOSING:
            self.deadline_ns = monotonic_ns() + CLOSE_GRACE_NS
            self.hub.depart(self)
        return 1

    cdef int on_violation(self, int code, str reason) except -1:
        self.fail(code, reason)
        return 1

    cdef int fail(self, int code, str reason) except -1:
        """Close for a fault of the peer: say why, end our direction, and let the peer end its own.

        Closing the socket while input lies unread would make the kernel send a reset, which can destroy the close
        frame on its way.
        """
        if self.state != OPEN:
            return 0
        self.close(code, reason)
        self.has_failed = True
        if self.state == CLOSING and not self.transport.is_closing() and self.transport.can_write_eof():
            self.transport.write_eof()
        return 0

    def ping(self):
        """Ask for a sign of life; `heard_at_ns` tells when one came."""
        if self.state == OPEN:
            self.send_ahead(_ping_frame)

    @property
    def heard_at_ns(self):
        """When anything at all last came from the client: monotonic clock, ns."""
        return self.heard_ns

    # Life.

    cdef void excuse(self, int64_t ns) noexcept:
        """Leave `ns` out of all accounts of time."""
        self.heard_ns += ns
        self.received_ns += ns
        self.pinged_ns += ns
        self.taken_ns += ns
        self.swept_ns += ns
        self.deadline_ns += ns

    cdef int sweep(self, int64_t now_ns) except -1:
        """Once a second: liveness, idleness, stalls and abuse."""
        cdef Hub hub = self.hub
        cdef double seconds = (now_ns - self.swept_ns) * 1e-9
        cdef Py_ssize_t waiting
        self.swept_ns = now_ns
        self.n_control = 0
        self.n_fragments = 0
        if self.state == CLOSING:
            if now_ns >= self.deadline_ns:
                self.abort(self.close_code, self.close_reason)
            return 0
        if hub.rate_limit and self.n_recent >= 9.5 * hub.rate_limit * seconds and seconds > 0:
            self.abuse_seconds += 1
        else:
            self.abuse_seconds = 0
        self.n_recent = 0
        if self.abuse_seconds >= 10:
            self.fail(4429, "rate abuse")
            return 0
        if self.is_blocked:
            # A slow client that takes a little at a time is seen by the transport's buffer getting shorter.
            waiting = self.transport.get_write_buffer_size()
            if self.waiting_size == 0 or waiting < self.waiting_size:
                self.taken_ns = now_ns if self.waiting_size else self.taken_ns
                self.waiting_size = waiting
            if hub.stall_ns and now_ns - self.taken_ns > hub.stall_ns:
                self.close_code = 4408
                self.send_ahead(close_frame_bytes(4408, "slow consumer"))
                if self.state != CLOSED:
                    self.abort(4408, "slow consumer: took nothing for too long")
                return 0
        if hub.pong_timeout_ns and now_ns - self.heard_ns > hub.pong_timeout_ns:
            self.close(4409, "no pong")
        elif hub.idle_timeout_ns and not self.has_subscribed and now_ns - self.received_ns > hub.idle_timeout_ns:
            self.close(4409, "idle")
        elif hub.ping_interval_ns and now_ns - self.pinged_ns >= hub.ping_interval_ns:
            self.pinged_ns = now_ns
            self.send_ahead(_ping_frame)
        return 0

    cdef int part(self) except -1:
        """The next step of a connection that is on its way out; `Hub.depart` has it wait for its turn."""
        if self.state == CLOSED:
            return 0
        if not self.is_lost:
            self.transport.close()
            return 0
        return self.finish(self.close_code if self.close_code else 1006)

    cdef int finish(self, int code) except -1:
        """The end, once: leave everything, count what could not be delivered, tell the handler."""
        if self.state == CLOSED:
            return 0
        self.leave_for_good()
        self.state = CLOSED
        self.has_failed = True
        self.fd = -1
        self.hub.remove_connection(self)
        self.hub.count_close(code)
        self.cut = None
        self.outbox = None
        self.backlog = None
        self.backlog_all = None
        self.overflow = None
        self.outbox_size = self.backlog_size = 0
        try:
            self.handler.on_close(self, code)
        except Exception:
            self.hub.logger.exception("closing a connection failed")
        return 0


def send_followed(int fd, bytes data):
    """Send to a TCP socket what a connection is about to be opened behind; returns how many bytes it took.

    They may wait in the kernel until `Connection.open` has sent something, or returns.

    :raises OSError: as `os.write`.
    """
    cdef Py_ssize_t n_sent = c_send(
        fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL | MSG_DONTWAIT | MSG_MORE
    )
    if n_sent < 0:
        raise OSError(errno, "send")
    return n_sent


cdef bytes close_frame_bytes(int code, str reason):
    """A close frame; the reason is cut to 123 bytes at a character."""
    cdef bytes text = reason.encode()[:123].decode(errors="ignore").encode()
    return bytes((0x88, len(text) + 2, code >> 8, code & 0xFF)) + text
