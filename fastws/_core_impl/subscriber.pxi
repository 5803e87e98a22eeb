cdef class Subscriber(Outbox):
    """What one client has asked for: its place in a cohort, or, while it catches up with history, its way there.

    1. An open connection is in one cohort, also when it has subscribed to nothing, or it catches up.
    2. Whoever moves to another cohort has got everything that was published until then: see `settle`.
    3. What is caught up comes in order and before anything live: no cohort before it is done.
    4. What it held and up to where it was served is noted once, when it leaves for good, for a session to go on from.
       A frame that was cut then, and that the transport still gets rid of, counts when it is written.
    """

    @property
    def is_paused(self):
        if self.replay_wanted is not None:
            return self.replay_paused
        return self.cohort is not None and self.cohort.is_paused

    def subscriptions(self):
        """dict[Topic, Options] of what this connection holds, in the order in which it was asked for."""
        if self.replay_wanted is not None:
            return dict(self.replay_wanted)
        return {} if self.cohort is None else self.cohort.subscriptions(self.order)

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
            self.replay_fresh = set()
            for topic in wanted:
                if topic not in self.replay_wanted:
                    self.replay_fresh.add(topic)
                    self.replay_starts[topic] = self.hub.sequence
                    self.replay_given[topic] = self.hub.position
            self.replay_wanted = wanted
            self.look_again()
            self.replay_paused = paused
            return
        if self.settle():
            self.hub.leave(self)
            self.hub.join(self, self.dialect, paused, wanted)

    def send_snapshot(self, topics):
        """The last update of every channel of `topics` ((Topic, Options) pairs).

        It is one batch marked `snapshot`, also of none; where the dialect has no batches, frames in one write. While
        the connection catches up, it comes behind all that was missed, since it has the newest numbers; what was
        subscribed to just now begins with it.
        """
        if self.state != OPEN or not self.settle():
            return
        if self.replay_wanted is None:
            self.give_snapshot(list(topics))
            return
        wanted = dict(topics)
        for topic in wanted:
            if self.replay_fresh is not None and topic in self.replay_fresh:
                self.replay_starts[topic] = self.replay_given[topic] = MAX_NUMBER
                self.replay_lacks_base = True
        self.replay_fresh = None
        self.look_again()
        if self.replay_snapshots is None:
            self.replay_snapshots = []
        self.replay_snapshots.append(list(wanted))

    cdef int give_snapshot(self, list topics) except -1:
        cdef Frame frame = self.hub.snapshot(self.dialect, topics, self.window_bits, self.hub.sequence)
        if frame.size():
            self.allowance = max(self.allowance, frame.size())
            self.send_frame(frame)
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
            for frame in self.cohort.frames_after(self.join_position):
                self.send_frame(frame)
        self.note_settled(self.hub.position, self.hub.sequence)
        return self.state == OPEN

    cdef int note_settled(self, int64_t position, int64_t sequence) except -1:
        """Note that everything published until then was given: to the kernel, where nothing waits."""
        self.join_position = position
        self.join_sequence = sequence
        if self.replay_wanted is None and not (self.is_blocked or self.outbox is not None or self.backlog):
            self.base_sequence = sequence
        return 0

    # Restoration.

    def restore(self, dict wanted, int64_t cursor, bint is_paused=False, also=(), dict starts=None):
        """Hold `wanted` (dict[Topic, Options]) too, and first get what was published for it since number `cursor`.

        Targets of mode `all` get every update in order, those of `latest` their current value, also where `max_rate`
        held it back while later numbers of others went out, as fast as the client takes them. The last private values
        of `wanted` follow, whether they are new or not; then the connection joins its cohort. Nothing live comes in
        between, and nothing else twice. A client so slow that history ends before it has caught up is closed with
        4408. What the connection held before goes on from now; its options hold. `also` are numbers of updates that
        come in their places though no topic asks for them: what `Hub.tell` has told others. Of topics and channels in
        `starts`, only what came after the number there is sent.

        :return: False, and nothing was done, when history does not reach back to `cursor`.
        """
        if self.state != OPEN:
            return True
        if not self.hub.history.reaches(cursor):
            return False
        held = self.subscriptions()
        if not self.settle():
            return True
        self.hub.leave(self)
        if wanted:
            self.has_subscribed = 1
        if self.replay_wanted is None:
            self.replay_starts = {} if starts is None else dict(starts)
            for topic in held:
                self.replay_starts[topic] = self.hub.sequence
            self.replay_given = dict.fromkeys(held, self.hub.position)
            self.replay_also = set(also)
            self.replay_sequence = cursor
        else:
            # It catches up with another session already; that goes on from where it is.
            channel_starts = {} if starts is None else {
                key: start for key, start in starts.items() if key not in held
            }
            for key, start in self.replay_starts.items():
                if isinstance(key, Channel):
                    channel_starts[key] = start
            self.replay_starts = channel_starts | {
                topic: max(self.replay_starts.get(topic, 0), self.replay_sequence) if topic in held else cursor
                for topic in wanted | held
            }
            self.replay_also |= set(also)
            self.replay_sequence = min(cursor, self.replay_sequence)
        self.replay_wanted = wanted | held
        self.look_again()
        self.replay_paused = is_paused
        # What follows has not been handed over, whatever was before.
        self.base_sequence = self.delivered_sequence = self.replay_sequence
        self.hub.meters.n_restores += 1
        if not is_paused:
            self.send_held(wanted, cursor)
        self.catch_up()
        return True

    cdef int send_held(self, dict wanted, int64_t cursor) except -1:
        """Send the newest values that `max_rate` may have held back when the client was lost.

        Later updates have overtaken them, so they are not after `cursor`. Some of them the client has already.
        """
        cdef Hub hub = self.hub
        cdef Topic topic
        cdef Options options
        cdef Channel channel
        cdef Update update
        cdef int64_t until_ns = hub.history.time_of(cursor), since_ns
        cdef dict known = {}
        cdef list held = []
        hub.mark += 1
        for topic, options in wanted.items():
            if not options.latest or options.interval_ms <= hub.interval_ms:
                continue
            # A flush may be late.
            since_ns = until_ns - 2 * <int64_t>options.interval_ms * MS - LATE_NS
            for channel in topic.channels:
                update = channel.last
                if update is None or update.sequence > cursor or update.published_ns < since_ns or channel.is_private:
                    continue
                if channel.mark != hub.mark and wish_for(update, wanted, {}, known) == 2:
                    channel.mark = hub.mark
                    held.append(update)
        return self.send_latest(held, cursor)

    cdef int send_private(self) except -1:
        """Send the last private values. They have no numbers, so nobody knows which the client has seen."""
        cdef Update update
        cdef list updates = []
        for update in sorted(private_updates(self.replay_wanted, self.replay_given), key=_position_of):
            updates.append(update.again(self.hub))
        return self.send_latest(updates, self.hub.sequence)

    cdef int send_latest(self, list updates, int64_t sequence) except -1:
        """Send updates as values of mode `latest`, in the order in which they were published, under a number."""
        cdef Update update
        cdef uintptr_t* entries
        cdef uint32_t n = 0
        if not updates:
            return 0
        entries = <uintptr_t*>malloc(len(updates) * sizeof(uintptr_t))
        if entries is NULL:
            raise MemoryError
        try:
            for update in sorted(updates, key=_position_of):
                entries[n] = <uintptr_t><void*>update | 1
                n += 1
            for frame in build_frames(self.hub, self.dialect, entries, n, 0, -1, sequence, self.window_bits):
                self.send_frame(frame)
        finally:
            free(entries)
        return 0

    @property
    def is_restoring(self):
        """True while the connection catches up with history."""
        return self.replay_wanted is not None

    @property
    def addressed_ahead(self):
        """Numbers of what is addressed to this connection and still to come while it catches up, in order."""
        return sorted(self.replay_also) if self.replay_also else []

    def _catch_up(self):
        """Go on with what was missed, when the loop or the transport calls, to whom an exception means nothing."""
        try:
            self.catch_up()
        except Exception:
            self.hub.logger.exception("a connection could not catch up and was closed")
            self.abort(1011, "internal error")

    cdef int catch_up(self) except -1:
        """Send the next of what was missed; called again when the client has taken it."""
        cdef Hub hub = self.hub
        cdef uintptr_t* entries
        cdef Update update
        cdef Frame frame
        cdef uint32_t n = 0
        cdef Py_ssize_t size = 0
        cdef int64_t sequence
        cdef int wish
        cdef list frames
        if self.replay_wanted is None or self.state != OPEN or self.is_blocked:
            return 0
        if self.replay_sequence < hub.sequence and (
            not hub.history.limit or self.replay_sequence < hub.history.start - 1
        ):
            self.fail(4408, "fell behind the history while catching up")
            return 0
        entries = <uintptr_t*>malloc(CATCH_UP * sizeof(uintptr_t))
        if entries is NULL:
            raise MemoryError
        try:
            sequence = self.replay_sequence
            # No more at a time than a batch holds: the outbox must never have to drop what is being caught up.
            while n < CATCH_UP and size < MAX_BATCH_SIZE and sequence < hub.sequence and not self.replay_paused:
                if self.replay_missed is None or sequence >= self.replay_missed.until:
                    self.replay_missed = hub.history.missed(
                        hub, self.replay_wanted, self.replay_starts, self.replay_channels, self.replay_also, sequence
                    )
                sequence = self.replay_missed.after(sequence)
                update = hub.history.past(sequence)
                if sequence in self.replay_also:
                    self.replay_also.discard(sequence)
                    wish = 1
                else:
                    wish = wish_for(update, self.replay_wanted, self.replay_starts, self.replay_channels)
                if wish == 1 or (wish == 2 and update.channel.last is update):
                    entries[n] = <uintptr_t><void*>update | <uintptr_t>(wish == 2)
                    n += 1
                    size += PyBytes_GET_SIZE(text_or_failure(hub, self.dialect, update))
            if self.replay_paused:
                sequence = hub.sequence
            frames = build_frames(hub, self.dialect, entries, n, 0, -1, sequence, self.window_bits)
            # Not before: a session goes on from here when the connection ends.
            self.replay_sequence = sequence
            for frame in frames:
                self.send_frame(frame)
        finally:
            free(entries)
        if self.state != OPEN:
            return 0
        if self.replay_sequence == hub.sequence:
            self.end_replay()
        elif not self.is_blocked:
            hub.loop.call_soon(self._catch_up)
        return 0

    cdef int look_again(self) except -1:
        """Note that what was found out about history holds no longer."""
        self.replay_channels = {}
        self.replay_missed = None
        return 0

    cdef int end_catching_up(self) except -1:
        self.replay_wanted = self.replay_starts = self.replay_given = self.replay_channels = self.replay_also = None
        self.replay_missed = None
        self.replay_fresh = self.replay_snapshots = None
        self.replay_lacks_base = False
        return 0

    cdef int end_replay(self) except -1:
        cdef dict wanted = self.replay_wanted
        cdef list topics
        if not self.replay_paused:
            self.send_private()
            for topics in self.replay_snapshots or ():
                if self.state != OPEN:
                    return 0
                self.give_snapshot([(topic, wanted[topic]) for topic in topics if topic in wanted])
            if self.state != OPEN:
                return 0
        self.end_catching_up()
        self.hub.join(self, self.dialect, self.replay_paused, wanted)
        return 0

    # What a session needs.

    cdef int64_t served_until(self) except? -2:
        """The number up to which everything of mode `all` was handed to the kernel."""
        cdef int64_t served = self.assigned_until()
        return min(served, self.refused_sequence - 1) if self.refused_sequence > 0 else served

    cdef int64_t assigned_until(self) except? -2:
        """The same if the socket has refused nothing."""
        cdef Flusher flusher = self.hub.flusher
        cdef Frame frame
        cdef Py_ssize_t i
        cdef int64_t first
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
            first = number_from(<Update>entry_update(self.cohort.lane.pending[0]))
            if self.cohort.lane.loss is not None:
                # Not declared yet, so history may still have it come.
                first = min(first, self.cohort.lane.loss.first_sequence)
            return max(first - 1, self.join_sequence)
        return max(self.hub.sequence, self.join_sequence)

    cdef bint owes_snapshot(self):
        """Whether a snapshot has not arrived: without it the client has no base for what follows."""
        cdef Frame frame
        if self.replay_lacks_base or self.refused_sequence < 0:
            return True
        if self.cut is not None and not self.cut.n_entries and self.cut.loss is None:
            return True
        if self.outbox is not None:
            for frame in self.outbox:
                if not frame.n_entries and frame.loss is None:
                    return True
        return False

    cdef int leave_for_good(self) except -1:
        """Leave the cohort because the connection ends, and note what a session needs to go on elsewhere."""
        if self.left_subscriptions is None:
            self.left_sequence = self.served_until()
            self.left_paused = self.is_paused
            self.left_whole = not self.owes_snapshot()
            self.left_subscriptions = self.subscriptions()
        self.end_catching_up()
        self.hub.leave(self)
        return 0

    cdef int on_cut_written(self) except -1:
        cdef Frame frame = self.cut
        Outbox.on_cut_written(self)
        if frame is not None and self.left_subscriptions is not None:
            # It was on its way when the close handshake began, and has arrived before the close frame.
            if frame.n_entries and self.refused_sequence == 0:
                self.left_sequence = max(self.left_sequence, frame.sequence)
            self.left_whole = not self.owes_snapshot()
        return 0

    cdef int on_drained(self) except -1:
        if self.replay_wanted is not None:
            self._catch_up()
        return 0

    cdef int fail(self, int code, str reason) except -1:
        raise NotImplementedError


def _topic_number(pair):
    return (<Topic>pair[0]).number


def _position_of(Update update):
    return update.position
