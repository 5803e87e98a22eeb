cdef enum:
    OPEN = 0
    CLOSING = 1     # our close frame is sent; the peer's is awaited until `deadline_ns`
    CLOSED = 2


cdef class Outbox(FrameParser):
    """What one client is still owed, and how it leaves.

    1. Output has one order: the cut frame (in the transport), `outbox` (shared frames), `backlog` (updates). Data
       goes past a non-empty one of these never; pongs, acknowledgements, errors and close frames go past the last two.
    2. `is_blocked` is true from a short write until the transport has written what it was given.
    3. A blocked connection takes frames of mode `all` into the outbox, up to `outbox_soft_size`: beyond, the oldest
       go and are declared. Of a frame with entries of mode `latest` it takes the updates into the backlog, where the
       newest of each channel stays, and gets them in a frame of its own when it is writable again.
    4. More than `outbox_hard_size` waiting: closed with 4408.
    5. Any send may end the connection and take its cohort from it: who has sent looks at `state` before going on.
    6. What its lane has dropped is declared by a frame in its place among them, and in what this connection declares
       itself when all of mode `all` before it is dropped too.
    7. n_published = n_delivered + n_conflated + n_lost + what waits; at the end what waits is undelivered.
    """

    # What the loop and figures ask for.

    def pause_writing(self):
        self.taken_ns = monotonic_ns()
        self.waiting_size = 0
        self.is_blocked = 1
        self.hub.meters.n_blocks += 1

    def resume_writing(self):
        self.taken_ns = monotonic_ns()
        self.is_blocked = 0
        self.drain()

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
        """The conservation law in numbers: published = delivered + conflated + lost + waiting.

        Of what is lost, the client was told of what is declared.
        """
        return {
            "published": self.n_published,
            "delivered": self.n_delivered,
            "conflated": self.n_conflated,
            "lost": self.n_lost,
            "waiting": self.n_published - self.n_delivered - self.n_conflated - self.n_lost,
            "declared": self.n_declared,
        }

    cdef int64_t n_held(self) except -1:
        """Updates that wait, counted one by one."""
        cdef Frame frame
        cdef int64_t n = 0 if self.cut is None else self.cut.n_entries
        for frame in self.outbox or ():
            n += frame.n_entries
        return n + len(self.backlog or ()) + len(self.backlog_all or ())

    cdef int64_t n_undeclared(self) except -1:
        """Updates that are lost and of which the client is still to be told, counted."""
        cdef Frame frame
        cdef int64_t n = 0 if self.cut is None else self.cut.n_declared
        for frame in self.outbox or ():
            n += frame.n_declared
        return n if self.overflow is None else n + n_lost_in(self.overflow)

    # What the classes on top of this one do.

    cpdef abort(self, int code, str reason=None):
        raise NotImplementedError

    cdef int on_drained(self) except -1:
        """Nothing waits any more."""
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

    cdef int send_ahead(self, bytes data, bint is_followed=False) except -1:
        """Bytes of whole frames that go past queued data, behind the frame that was cut.

        `is_followed`: the kernel may keep them for what is sent next, or for `push`, so that both leave in one segment.
        """
        cdef Py_ssize_t n_sent = 0
        cdef int flags = MSG_NOSIGNAL | MSG_DONTWAIT | (MSG_MORE if is_followed else 0)
        if self.state == CLOSED or self.transport.is_closing():
            return 0
        self.hub.meters.n_bytes_sent += PyBytes_GET_SIZE(data)
        if self.fd >= 0 and not self.is_blocked:
            n_sent = c_send(self.fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), flags)
            if n_sent == PyBytes_GET_SIZE(data):
                self.is_held = is_followed
                return 0
            if n_sent < 0:
                n_sent = 0
        self.transport.write(data[n_sent:] if n_sent else data)
        if self.is_blocked and self.state != CLOSED:
            self.check_cap()
        return 0

    cdef int push(self) except -1:
        """Let the kernel send what it keeps for something to follow."""
        if self.is_held:
            self.is_held = 0
            if self.fd >= 0 and self.state != CLOSED and not self.transport.is_closing():
                fastws_push(self.fd)
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
            self.n_refused += frame.n_entries
            return 0
        if self.is_blocked or self.outbox is not None or self.backlog_size or self.backlog:
            return self.enqueue(frame)
        return self.write_frame(frame)

    cdef int assign(self, Frame frame) except -1:
        if frame.loss is not None:
            # Its number is no claim: of mode `latest`, what came before may be still to come.
            self.n_published += frame.loss.n
            self.n_lost += frame.loss.n
            return 0
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
            self.is_held = 0
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
            elif frame.n_declared:
                self.hub.meters.n_overflows += 1
                self.n_declared += frame.n_declared
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
        if self.transport.is_closing() and not self.is_blocked:
            # It found the socket broken, which it tells in a later turn.
            self.cut = None
            self.refuse(frame)
        elif not self.is_blocked:
            self.on_cut_written()
        return 0

    cdef void refuse(self, Frame frame) noexcept:
        """The socket is broken: what it did not take must come again in a restored session."""
        self.n_refused += frame.n_entries
        if self.refused_sequence == 0:
            self.refused_sequence = frame.first_sequence if frame.n_entries or frame.loss is not None else -1

    cdef int on_cut_written(self) except -1:
        cdef Frame frame = self.cut
        if frame is not None:
            self.cut = None
            if frame.n_entries:
                self.delivered_sequence = frame.sequence
            elif frame.n_declared:
                self.hub.meters.n_overflows += 1
                self.n_declared += frame.n_declared
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
            if frame.loss is not None:
                # Nothing of mode `all` is left before it, so it can be told with what is dropped next.
                self.outbox_size -= frame.size()
                del self.outbox[index]
                if self.overflow is None:
                    self.overflow = {}
                for channel, ranges in frame.loss.ranges.items():
                    for n, first, last in ranges:
                        add_lost(self.overflow, channel, n, first, last)
                return 1
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
        self.n_lost += 1
        update.channel.n_lost += 1
        if self.overflow is None:
            self.overflow = {}
        return add_lost(self.overflow, update.channel, 1, update.seq, update.seq)

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
        updates = [((<Update>item).position, 1, item) for item in self.backlog.values()]
        updates += [((<Update>item).position, 0, item) for item in self.backlog_all]
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
                text = overflow_text(self.dialect, lost)
                frame = plain_frame(frame_text(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)), 1)
                frame.n_declared = n_lost_in(lost)
                self.write_frame(frame)
            elif self.outbox:
                frame = <Frame>self.outbox.pop(0)
                self.outbox_size -= frame.size()
                self.write_frame(frame)
            elif self.backlog or self.backlog_all:
                self.move_backlog(self.assigned_sequence)
            else:
                self.outbox = None
                self.allowance = 0
                self.on_drained()
                break
        return 0


_first = operator.itemgetter(0)


cdef bytes overflow_text(Dialect dialect, dict lost):
    cdef Channel channel
    items = []
    for channel, ranges in lost.items():
        for n, first, last in ranges:
            items.append(
                '{"code":%s,"channel":"%s","dropped":%d,"from_seq":%d,"to_seq":%d}'
                % (json_text(channel.key), channel.name, n, first, last)
            )
    return spoken(dialect, b"overflow", b'"items":[%b]' % ",".join(items).encode())
