cdef enum:
    OPEN = 0
    CLOSING = 1     # our close frame is sent; the peer's is awaited until `deadline_ns`
    CLOSED = 2

cdef bytearray _read_buffer = bytearray(READ_BUFFER_SIZE)
cdef uint8_t* _read_pointer = <uint8_t*><char*>_read_buffer
cdef object _read_view = memoryview(_read_buffer)
cdef bytes _ping_frame = b"\x89\x00"


cdef class Connection(FrameParser):
    """One WebSocket client: the asyncio protocol of its transport.

    1. Reads go to one buffer of the whole process: the loop calls `buffer_updated` before anyone else can ask for it,
       and only an incomplete frame is copied to its connection.
    2. Output has one order: the cut frame (in the transport), `outbox` (shared frames), `backlog` (updates). Data
       goes past a non-empty one of these never; pongs, acknowledgements, errors and close frames go past the last two.
    3. `is_blocked` is true from a short write until the transport has written what it was given.
    4. A blocked connection takes frames of mode `all` into the outbox, up to `outbox_soft_size`: beyond, the oldest
       go and are declared. Of a frame with entries of mode `latest` it takes the updates into the backlog, where the
       newest of each channel stays, and gets them in a frame of its own when it is writable again.
    5. More than `outbox_hard_size` waiting, or nothing taken for `stall_ns`: closed with 4408.
    6. Any send may end the connection and take its cohort from it: who has sent looks at `state` before going on.
    7. n_published = n_delivered + n_conflated + n_lost + what waits; at the end what waits is undelivered.

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
        self.hub.add_connection(self)
        try:
            self.handler.on_open(self)
        except Exception:
            self.hub.logger.exception("opening a connection failed")
            self.fail(1011, "internal error")
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

    def pause_writing(self):
        self.taken_ns = monotonic_ns()
        self.waiting_size = 0
        self.is_blocked = 1
        self.hub.meters.n_blocks += 1

    def resume_writing(self):
        self.taken_ns = monotonic_ns()
        self.is_blocked = 0
        self.drain()

    def connection_lost(self, exc):
        cdef int code = self.close_code
        if self.state == CLOSED:
            return
        self.finish(code if code else 1006)

    # What the handler calls.

    @property
    def is_open(self):
        return self.state == OPEN

    @property
    def is_paused(self):
        if self.replay_wanted is not None:
            return self.replay_paused
        return self.cohort is not None and self.cohort.is_paused

    @property
    def opened_at_ms(self):
        """When the connection was opened: Unix epoch, ms."""
        return self.opened_ms

    @property
    def last_activity_ms(self):
        """When the last message of the client came: Unix epoch, ms."""
        return fastws_wall_ms() - (monotonic_ns() - self.received_ns) // MS

    @property
    def queued_bytes(self):
        return self.queued_size()

    @property
    def queued_messages(self):
        cdef Frame frame
        cdef int64_t n = 0
        if self.cut is not None:
            n += self.cut.n_messages
        if self.outbox is not None:
            for frame in self.outbox:
                n += frame.n_messages
        if self.backlog is not None:
            n += len(self.backlog)
        if self.backlog_all is not None:
            n += len(self.backlog_all)
        return n

    def ledger(self):
        """The conservation law in numbers: published = delivered + conflated + lost + waiting."""
        return {
            "published": self.n_published,
            "delivered": self.n_delivered,
            "conflated": self.n_conflated,
            "lost": self.n_lost,
            "waiting": self.n_published - self.n_delivered - self.n_conflated - self.n_lost,
        }

    def subscriptions(self):
        """dict[Topic, Options] of what this connection holds, in the order in which it was asked for."""
        cdef dict held = {}
        cdef uint32_t i
        if self.replay_wanted is not None:
            return dict(self.replay_wanted)
        if self.cohort is not None:
            for i in range(self.cohort.n_subs):
                held[<object>self.cohort.subs[i].topic] = <object>self.cohort.subs[i].options
            if self.order is not None:
                held = {topic: held[topic] for topic in self.order}
        return held

    def set_subscriptions(self, dict wanted, is_paused=None):
        """Hold exactly `wanted` (dict[Topic, Options]) from now on.

        What is pending for the connection is handed to its outbox first, so nothing published until now is missing
        or doubled by a snapshot sent right after this call.
        """
        cdef bint paused = self.is_paused if is_paused is None else is_paused
        if self.state != OPEN:
            return
        if wanted:
            self.has_subscribed = 1
        if self.replay_wanted is not None:
            # What is new begins now, whatever is still to be caught up for the rest.
            for topic in wanted:
                if topic not in self.replay_wanted:
                    self.replay_starts[topic] = self.hub.sequence
            self.replay_wanted = wanted
            self.replay_channels = {}
            self.replay_paused = paused
            return
        if self.settle():
            self.hub.leave(self)
            self.hub.join(self, self.dialect, paused, wanted)

    def send_snapshot(self, topics):
        """One batch marked `snapshot` with the last update of every channel of `topics` ((Topic, Options) pairs)."""
        cdef Frame frame
        if self.state != OPEN or not self.settle():
            return
        if self.replay_wanted is None:
            frame = self.hub.snapshot(self.dialect, list(topics), self.window_bits, self.hub.sequence)
        else:
            # It must not claim what is still to be caught up.
            frame = self.hub.snapshot(self.dialect, list(topics), self.window_bits, self.replay_sequence)
        self.allowance = max(self.allowance, frame.size())
        self.send_frame(frame)

    def send(self, bytes data, bint is_text=True):
        """Send one message in its place behind the data already queued, and never drop it."""
        if self.state == OPEN:
            self.send_frame(plain_frame(pack(self.hub, 1 if is_text else 2, data, self.window_bits), 1))

    def send_control(self, bytes data):
        """Send one text message ahead of all data: an acknowledgement, a pong, an error."""
        if self.state == OPEN:
            self.hub.n_messages_sent += 1
            self.send_ahead(frame_text(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)))

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
            self.transport.close()
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
        if self.state == CLOSING and self.transport.can_write_eof():
            self.transport.write_eof()
        return 0

    # Output.

    cdef bint is_usable(self) except? 0:
        return self.state == OPEN and not self.transport.is_closing()

    cdef Py_ssize_t queued_size(self):
        cdef Py_ssize_t size = self.outbox_size + self.backlog_size
        if self.backlog is not None:
            # One value per channel that it holds: bounded by its subscriptions, however slow it is.
            size += min(256 * <Py_ssize_t>len(self.backlog), self.hub.outbox_soft_size // 2)
        if self.state != CLOSED:
            size += <Py_ssize_t>self.transport.get_write_buffer_size()
        return size

    cdef int send_ahead(self, bytes data) except -1:
        """Bytes of whole frames that go past queued data, behind the frame that was cut."""
        cdef Py_ssize_t n_sent = 0
        if self.state == CLOSED or self.transport.is_closing():
            return 0
        self.hub.meters.n_bytes_sent += PyBytes_GET_SIZE(data)
        if self.fd >= 0 and not self.is_blocked:
            n_sent = c_send(self.fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL | MSG_DONTWAIT)
            if n_sent == PyBytes_GET_SIZE(data):
                return 0
            if n_sent < 0:
                n_sent = 0
        self.transport.write(data[n_sent:] if n_sent else data)
        if self.is_blocked and self.state != CLOSED:
            self.check_cap()
        return 0

    cdef int check_cap(self) except -1:
        """Close a connection that is owed too much. A snapshot that it asked for is not held against it."""
        if self.queued_size() > self.hub.outbox_hard_size + self.allowance:
            self.abort(4408, "slow consumer: too much unsent data")
        return 0

    cdef int send_frame(self, Frame frame) except -1:
        """Data, in order: now if nothing waits, else into the queue."""
        self.assign(frame)
        if self.state != OPEN:
            return 0
        if self.is_blocked or self.outbox is not None or self.backlog_size or self.backlog:
            return self.enqueue(frame)
        return self.write_frame(frame)

    cdef int assign(self, Frame frame) except -1:
        self.n_published += frame.n_entries + frame.n_conflated
        self.n_conflated += frame.n_conflated
        if frame.sequence > self.assigned_sequence:
            self.assigned_sequence = frame.sequence
        return 0

    cdef int write_frame(self, Frame frame) except -1:
        cdef Py_ssize_t n_sent = 0
        if not self.is_usable():
            self.refuse(frame)
            return 0
        if self.fd >= 0:
            n_sent = c_send(self.fd, PyBytes_AS_STRING(frame.data), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT)
            if n_sent < 0:
                n_sent = 0 if errno == EAGAIN or errno == EINTR else -2
        return self.on_sent(frame, n_sent)

    cdef int on_sent(self, Frame frame, Py_ssize_t n_sent) except -1:
        """The kernel took `n_sent` bytes of a frame (-2: the socket is broken); give the transport the rest."""
        self.is_blocked = 0
        if n_sent == frame.size():
            if frame.n_entries:
                self.delivered_sequence = frame.sequence
            self.n_delivered += frame.n_entries
            self.hub.n_messages_sent += frame.n_messages
            self.hub.meters.n_bytes_sent += n_sent
            return 0
        if n_sent == -2:
            self.refuse(frame)
            self.abort(1006)
            return 0
        self.cut = frame
        self.transport.write(memoryview(frame.data)[n_sent:] if n_sent else frame.data)
        if not self.is_blocked:
            self.on_cut_written()
        return 0

    cdef void refuse(self, Frame frame) noexcept:
        """The socket is broken: what it did not take must come again in a restored session."""
        if self.refused_sequence == 0:
            self.refused_sequence = frame.first_sequence if frame.n_entries else -1

    cdef int on_cut_written(self) except -1:
        cdef Frame frame = self.cut
        if frame is not None:
            self.cut = None
            if frame.n_entries:
                self.delivered_sequence = frame.sequence
            self.n_delivered += frame.n_entries
            self.hub.n_messages_sent += frame.n_messages
            self.hub.meters.n_bytes_sent += frame.size()
        return 0

    cdef int enqueue(self, Frame frame) except -1:
        if frame.has_latest or self.backlog or self.backlog_all:
            if frame.n_entries and not frame.is_addressed:
                return self.enqueue_backlog(frame)
            # What stands before it must not claim its number.
            self.move_backlog(frame.first_sequence - 1 if frame.n_entries else self.assigned_sequence)
        if self.outbox is None:
            self.outbox = []
        self.outbox.append(frame)
        self.outbox_size += frame.size()
        while self.outbox_size > self.hub.outbox_soft_size and self.drop_oldest(1):
            pass
        return self.check_cap()

    cdef int drop_oldest(self, Py_ssize_t n_kept) except -1:
        """Drop the oldest frame of updates for everyone, but none of the newest `n_kept`, and declare them.

        Returns 0 when there is none.
        """
        cdef Frame frame
        cdef Update update
        cdef uint32_t i
        cdef Py_ssize_t index
        for index in range(len(self.outbox) - n_kept):
            frame = <Frame>self.outbox[index]
            if frame.n_entries and not frame.is_addressed:
                self.outbox_size -= frame.size()
                del self.outbox[index]
                for i in range(frame.n_entries):
                    update = <Update>entry_update(frame.entries[i])
                    if not entry_is_latest(frame.entries[i]):
                        self.declare_lost(update)
                    elif self.backlog is not None and update.channel in self.backlog:
                        self.n_conflated += 1
                    else:
                        # The last value of mode `latest` always comes.
                        if self.backlog is None:
                            self.backlog = {}
                            self.backlog_all = []
                        self.backlog[update.channel] = update
                return 1
        return 0

    cdef int declare_lost(self, Update update) except -1:
        cdef list ranges, newest
        self.n_lost += 1
        if self.overflow is None:
            self.overflow = {}
        ranges = self.overflow.get(update.channel)
        if ranges is None:
            self.overflow[update.channel] = [[1, update.seq, update.seq]]
            return 0
        newest = <list>ranges[len(ranges) - 1]
        if <int64_t>newest[2] + 1 == update.seq:
            newest[0] += 1
            newest[2] = update.seq
        else:
            ranges.append([1, update.seq, update.seq])
        return 0

    cdef int enqueue_backlog(self, Frame frame) except -1:
        cdef uint32_t i
        cdef Update update
        cdef Update oldest
        if self.backlog is None:
            self.backlog = {}
            self.backlog_all = []
        for i in range(frame.n_entries):
            update = <Update>entry_update(frame.entries[i])
            if entry_is_latest(frame.entries[i]):
                if update.channel in self.backlog:
                    self.n_conflated += 1
                self.backlog[update.channel] = update
            else:
                self.backlog_all.append(update)
                self.backlog_size += PyBytes_GET_SIZE(update.text(self.dialect))
        while self.outbox_size + self.backlog_size > self.hub.outbox_soft_size and self.backlog_all:
            if self.outbox and self.drop_oldest(0):
                continue
            oldest = self.backlog_all.pop(0)
            self.backlog_size -= PyBytes_GET_SIZE(oldest.text(self.dialect))
            self.declare_lost(oldest)
        return self.check_cap()

    cdef int move_backlog(self, int64_t sequence) except -1:
        """Turn the backlog into frames of the outbox, in publish order; the last one carries `sequence`."""
        cdef list updates
        cdef Update update
        cdef Frame frame
        cdef uintptr_t* entries
        cdef uint32_t n = 0
        if not self.backlog and not self.backlog_all:
            return 0
        updates = [((<Update>item).sequence, 1, item) for item in self.backlog.values()]
        updates += [((<Update>item).sequence, 0, item) for item in self.backlog_all]
        updates.sort(key=_first)
        entries = <uintptr_t*>malloc(len(updates) * sizeof(uintptr_t))
        if entries is NULL:
            raise MemoryError
        try:
            for _, is_latest, update in updates:
                entries[n] = <uintptr_t><void*>update | <uintptr_t>(1 if is_latest else 0)
                n += 1
            if self.outbox is None:
                self.outbox = []
            for frame in build_frames(
                self.hub, self.dialect, entries, n, 0, -1, sequence, self.window_bits
            ):
                self.outbox.append(frame)
                self.outbox_size += frame.size()
        finally:
            free(entries)
        self.backlog = None
        self.backlog_all = None
        self.backlog_size = 0
        return 0

    cdef int drain(self) except -1:
        """Send what waits, in order, until the socket takes no more."""
        cdef Frame frame
        self.on_cut_written()
        while not self.is_blocked and self.state == OPEN:
            if self.overflow is not None:
                lost = self.overflow
                self.overflow = None
                self.hub.meters.n_overflows += 1
                text = overflow_text(lost)
                self.write_frame(plain_frame(frame_text(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)), 1))
            elif self.outbox:
                frame = <Frame>self.outbox.pop(0)
                self.outbox_size -= frame.size()
                self.write_frame(frame)
            elif self.backlog or self.backlog_all:
                self.move_backlog(self.assigned_sequence)
            else:
                self.outbox = None
                self.allowance = 0
                if self.replay_wanted is not None:
                    self._catch_up()
                break
        return 0

    # Restoration.

    def restore(self, dict wanted, int64_t cursor, bint is_paused=False, also=()):
        """Hold `wanted` (dict[Topic, Options]) too, and first get what was published for it since number `cursor`.

        Targets of mode `all` get every update in order, those of `latest` their current value, as fast as the client
        takes them; then the connection joins its cohort. Nothing live comes in between, and nothing twice. A client
        so slow that history ends before it has caught up is closed with 4408. What the connection held before goes
        on from now; its options hold. `also` are numbers of updates that come in their places though no topic asks
        for them: what `Hub.tell` has told others.

        :return: False, and nothing was done, when history does not reach back to `cursor`.
        """
        if self.state != OPEN:
            return True
        if not self.hub.history_limit or not self.hub.history_start - 1 <= cursor <= self.hub.sequence:
            return False
        held = self.subscriptions()
        if not self.settle():
            return True
        self.hub.leave(self)
        if wanted:
            self.has_subscribed = 1
        if self.replay_wanted is None:
            self.replay_starts = dict.fromkeys(held, self.hub.sequence)
            self.replay_also = set(also)
            self.replay_sequence = cursor
        else:
            # It catches up with another session already; that goes on from where it is.
            self.replay_starts = {
                topic: max(self.replay_starts.get(topic, 0), self.replay_sequence) if topic in held else cursor
                for topic in wanted | held
            }
            self.replay_also |= set(also)
            self.replay_sequence = min(cursor, self.replay_sequence)
        self.replay_wanted = wanted | held
        self.replay_channels = {}
        self.replay_paused = is_paused
        # What follows has not been handed over, whatever was before.
        self.base_sequence = self.delivered_sequence = self.replay_sequence
        self.hub.meters.n_restores += 1
        self._catch_up()
        return True

    def _catch_up(self):
        """Send the next of what was missed; called again when the client has taken it."""
        cdef Hub hub = self.hub
        cdef uintptr_t* entries
        cdef Update update
        cdef Frame frame
        cdef uint32_t n = 0
        cdef Py_ssize_t size = 0
        cdef int64_t sequence
        cdef int wish
        if self.replay_wanted is None or self.state != OPEN or self.is_blocked:
            return
        if self.replay_sequence < hub.sequence and (
            not hub.history_limit or self.replay_sequence < hub.history_start - 1
        ):
            self.fail(4408, "fell behind the history while catching up")
            return
        entries = <uintptr_t*>malloc(CATCH_UP * sizeof(uintptr_t))
        if entries is NULL:
            raise MemoryError
        try:
            sequence = self.replay_sequence
            # No more at a time than a batch holds: the outbox must never have to drop what is being caught up.
            while n < CATCH_UP and size < MAX_BATCH_SIZE and sequence < hub.sequence and not self.replay_paused:
                sequence += 1
                update = hub.past(sequence)
                if sequence in self.replay_also:
                    self.replay_also.discard(sequence)
                    wish = 1
                else:
                    wish = wish_for(update, self.replay_wanted, self.replay_starts, self.replay_channels)
                if wish == 1 or (wish == 2 and update.channel.last is update):
                    entries[n] = <uintptr_t><void*>update | <uintptr_t>(wish == 2)
                    n += 1
                    size += PyBytes_GET_SIZE(update.text(self.dialect))
            if self.replay_paused:
                sequence = hub.sequence
            self.replay_sequence = sequence
            for frame in build_frames(hub, self.dialect, entries, n, 0, -1, sequence, self.window_bits):
                self.send_frame(frame)
        finally:
            free(entries)
        if self.state != OPEN:
            return
        if self.replay_sequence == hub.sequence:
            self.end_replay()
        elif not self.is_blocked:
            hub.loop.call_soon(self._catch_up)

    cdef int end_replay(self) except -1:
        cdef dict wanted = self.replay_wanted
        self.replay_wanted = self.replay_starts = self.replay_channels = self.replay_also = None
        self.hub.join(self, self.dialect, self.replay_paused, wanted)
        return 0

    def ping(self):
        """Ask for a sign of life; `heard_at_ns` tells when one came."""
        if self.state == OPEN:
            self.send_ahead(_ping_frame)

    @property
    def is_restoring(self):
        """True while the connection catches up with history."""
        return self.replay_wanted is not None

    @property
    def addressed_ahead(self):
        """Numbers of what is addressed to this connection and still to come while it catches up, in order."""
        return sorted(self.replay_also) if self.replay_also else []

    @property
    def heard_at_ns(self):
        """When anything at all last came from the client: monotonic clock, ns."""
        return self.heard_ns

    cdef int64_t served_until(self) except? -2:
        """The number up to which everything of mode `all` was handed to the kernel."""
        cdef int64_t served = self.assigned_until()
        return min(served, self.refused_sequence - 1) if self.refused_sequence > 0 else served

    cdef int64_t assigned_until(self) except? -2:
        """The same if the socket has refused nothing."""
        cdef Flusher flusher = self.hub.flusher
        cdef Frame frame
        cdef Py_ssize_t i
        if self.replay_wanted is not None and not self.is_blocked:
            return self.replay_sequence
        if self.is_blocked or self.outbox is not None or self.cohort is None:
            return max(self.delivered_sequence, self.base_sequence)
        if flusher.job_cohort is self.cohort:
            i = flusher.job_frame
            if self.member_index < flusher.job_member:
                i += 1
            if i < len(flusher.job_frames):
                frame = <Frame>flusher.job_frames[i]
                return max(frame.first_sequence - 1, self.join_sequence)
        if self.cohort.lane is not None and self.cohort.lane.n_pending:
            return max((<Update>entry_update(self.cohort.lane.pending[0])).sequence - 1, self.join_sequence)
        return max(self.hub.sequence, self.join_sequence)

    cdef bint owes_snapshot(self):
        """Whether a snapshot has not arrived: without it the client has no base for what follows."""
        cdef Frame frame
        if self.refused_sequence < 0 or (self.cut is not None and not self.cut.n_entries):
            return True
        if self.outbox is not None:
            for frame in self.outbox:
                if not frame.n_entries:
                    return True
        return False

    cdef int note_settled(self) except -1:
        """Note that everything up to `join_sequence` was handed to the kernel, if it was."""
        if self.replay_wanted is None and not (self.is_blocked or self.outbox is not None or self.backlog):
            self.base_sequence = self.join_sequence
        return 0

    cdef int leave_for_good(self) except -1:
        """Leave the cohort because the connection ends, and note what a session needs to go on elsewhere."""
        if self.left_subscriptions is None:
            self.left_sequence = self.served_until()
            self.left_paused = self.is_paused
            self.left_whole = not self.owes_snapshot()
            self.left_subscriptions = self.subscriptions()
        self.replay_wanted = self.replay_starts = self.replay_channels = self.replay_also = None
        self.hub.leave(self)
        return 0

    cdef bint settle(self) except? 0:
        """Put everything published until now for this connection into its outbox.

        Returns whether the connection is still open: any send may end it and take its cohort.
        """
        cdef Frame frame
        if self.cohort is not None and not self.cohort.is_paused:
            self.hub.flusher.hand_over(self)
            if self.state != OPEN:
                return False
            for frame in self.cohort.frames_after(self.join_sequence):
                self.send_frame(frame)
        self.join_sequence = self.hub.sequence
        self.note_settled()
        return self.state == OPEN

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


_first = operator.itemgetter(0)


def _topic_number(pair):
    return (<Topic>pair[0]).number


cdef bytes close_frame_bytes(int code, str reason):
    """A close frame; the reason is cut to 123 bytes at a character."""
    cdef bytes text = reason.encode()[:123].decode(errors="ignore").encode()
    return bytes((0x88, len(text) + 2, code >> 8, code & 0xFF)) + text


cdef bytes overflow_text(dict lost):
    cdef Channel channel
    cdef char stamp[24]
    items = []
    for channel, ranges in lost.items():
        for n, first, last in ranges:
            items.append(
                '{"code":%s,"channel":"%s","dropped":%d,"from_seq":%d,"to_seq":%d}'
                % (json_text(channel.key), channel.name, n, first, last)
            )
    write_utc(stamp, fastws_wall_ms())
    return (
        '{"type":"overflow","items":[%s],"timestamp":"%s"}' % (",".join(items), stamp[:24].decode())
    ).encode()
