cdef enum:
    QUIET = 0       # nothing was sent within the interval: the next update leads
    READY = 1       # in the flusher's queue of lanes to flush now, for the first time after it was quiet
    ARMED = 2       # in the flusher's wheel until its interval is over, and then in its queue
    DEAD = 3        # its cohort is gone


cdef inline void prefetch_lane(PyObject* lane) noexcept:
    """Fetch what an append needs of a lane into the cache; an object may begin anywhere in a line of it."""
    fastws_prefetch(lane)
    fastws_prefetch(&(<Lane>lane).state)


cdef inline void prefetch_pending(PyObject* lane) noexcept:
    """And where the next entry goes."""
    fastws_prefetch((<Lane>lane).pending + (<Lane>lane).n_pending)


@cython.final
cdef class Lane:
    """What a cohort has to send at one pace: the flush interval, or a slower one asked for by `max_rate`.

    1. `pending` is in publish order. Each entry owns its update.
    2. Entries of mode `latest` are conflated when the array would grow and when it is flushed: only the newest of
       each channel stays, so `pending` never holds more than twice the channels plus what mode `all` must deliver.
       Whoever gets one update of a channel gets the next too, so the newest is the one that nothing has superseded;
       only after `Hub.move_channels` it has to be looked for.
    3. A lane with entries is READY or ARMED; a QUIET lane has none.
    4. What mode `all` must deliver is bounded as a connection's outbox is: at `outbox_soft_size` where the flusher is
       late, and at `outbox_hard_size` for what came in a burst. Beyond, the oldest go for all members, and `loss`
       leaves ahead of what is pending, one frame for everyone: it costs a look at an update and no send.
    """

    def __cinit__(self, Cohort cohort, int interval_ms):
        self.cohort = cohort
        self.flusher = cohort.hub.flusher
        self.interval_ms = interval_ms
        self.state = QUIET
        self.claim = &self.claimed_position if cohort.lane is None else &cohort.lane.claimed_position
        if FASTWS_DEBUG:
            count_live("Lane", 1)

    def __dealloc__(self):
        self.discard()
        if FASTWS_DEBUG:
            count_live("Lane", -1)

    cdef int append(self, Update update, bint latest) except -1:
        if self.n_pending == self.pending_size:
            self.make_room()
        Py_INCREF(update)
        self.pending[self.n_pending] = <uintptr_t><void*>update | latest
        self.n_pending += 1
        if latest:
            self.has_latest = True
        if self.state == QUIET:
            self.flusher.lead(self)
        return 0

    cdef int make_room(self) except -1:
        cdef uint32_t size
        cdef uintptr_t* grown
        if self.has_latest and self.pending_size >= 32:
            self.n_conflated += self.conflate()
            if self.n_pending <= self.pending_size // 2:
                return 0
        size = 4 if self.pending_size == 0 else self.pending_size * 2
        if self.pending_size >= LEAST_MEASURED:
            size = self.keep_to_limit()
            if size <= self.pending_size:
                return 0
        grown = <uintptr_t*>realloc(self.pending, size * sizeof(uintptr_t))
        if grown is NULL:
            raise MemoryError
        self.pending = grown
        self.pending_size = size
        return 0

    cdef uint32_t keep_to_limit(self) except 0:
        """Drop what is too much; returns how many places there may be until it has to be looked at again.

        Where anything is dropped, a quarter of the limit is, so that looking costs each update little. Texts are made
        here that the next flush would make.
        """
        cdef Hub hub = self.cohort.hub
        cdef Update update
        cdef Py_ssize_t size = 0, limit = hub.outbox_soft_size, room
        cdef uint32_t i, n = 0
        cdef int64_t begun_ns = (<Update>entry_update(self.pending[0])).published_ns
        for i in range(self.n_pending):
            if not entry_is_latest(self.pending[i]):
                update = <Update>entry_update(self.pending[i])
                size += PyBytes_GET_SIZE(text_or_failure(hub, self.cohort.dialect, update))
                n += 1
        if n == 0:
            return self.pending_size * 2
        if size >= limit and monotonic_ns() - begun_ns < LATE_NS + 2 * <int64_t>hub.interval_ms * MS:
            limit = hub.outbox_hard_size
        if size >= limit:
            self.drop_oldest(size - limit // 4 * 3)
            if self.n_pending <= self.pending_size // 8 * 7:
                return self.pending_size
            return self.pending_size + self.pending_size // 4
        room = max((limit - size) * n // size, self.n_pending // 8)
        return self.n_pending + <uint32_t>min(room, self.n_pending)

    cdef int drop_oldest(self, Py_ssize_t excess) except -1:
        """Drop entries of mode `all` for all members until `excess` bytes are gone, but not the newest entry."""
        cdef uint32_t read = 0, write = 0, n = self.n_pending
        cdef uintptr_t entry
        cdef Update update
        cdef bint has_begun = False
        try:
            while read < n - 1 and excess > 0:
                entry = self.pending[read]
                if entry_is_latest(entry):
                    self.pending[write] = entry
                    write += 1
                else:
                    update = <Update>entry_update(entry)
                    if not has_begun:
                        has_begun = True
                        self.begin_loss(update.position, number_from(update))
                    excess -= PyBytes_GET_SIZE(text_or_failure(self.cohort.hub, self.cohort.dialect, update))
                    self.loss.add(update)
                    update.channel.n_dropped += 1
                    Py_DECREF(update)
                read += 1
        finally:
            memmove(self.pending + write, self.pending + read, (n - read) * sizeof(uintptr_t))
            self.n_pending = write + n - read
        return 0

    cdef int begin_loss(self, int64_t first_position, int64_t first_sequence) except -1:
        """Note who among the members has joined when some of what is lost was published already."""
        cdef Cohort cohort = self.cohort
        cdef int64_t joined
        cdef uint32_t i
        if self.loss is None:
            self.loss = Loss.__new__(Loss)
            self.loss.first_position = first_position
            self.loss.first_sequence = first_sequence
        for i in range(cohort.n_members):
            joined = (<Connection>cohort.members[i]).join_position
            if joined >= self.loss.first_position:
                if self.loss.late is None:
                    self.loss.late = {}
                if joined not in self.loss.late:
                    self.loss.late[joined] = Loss.__new__(Loss)
        return 0

    cdef int miss(self, Channel channel, int64_t first, int64_t last) except -1:
        """Declare to all members updates of another instance that never came. Another one follows at once, so that
        there is something to flush."""
        cdef int64_t position = self.cohort.hub.position, sequence = self.cohort.hub.sequence + 1
        cdef Update update
        if self.n_pending:
            # It leaves ahead of what is pending.
            update = <Update>entry_update(self.pending[0])
            position = update.position - 1
            sequence = number_from(update)
        self.begin_loss(position, sequence)
        self.loss.add_missed(channel, first, last, position, sequence)
        return 0

    cdef uint32_t conflate(self) noexcept:
        """Keep the newest `latest` entry of each channel; returns how many went."""
        cdef uint32_t read, write = 0, n = self.n_pending
        cdef uintptr_t entry
        if n and (<Update>entry_update(self.pending[0])).position <= self.cohort.hub.moved_position:
            return self.conflate_by_channel()
        for read in range(n):
            entry = self.pending[read]
            if entry_is_latest(entry) and (<Update>entry_update(entry)).is_superseded:
                (<Update>entry_update(entry)).channel.n_conflated += not self.is_copy
                Py_DECREF(<object>entry_update(entry))
                continue
            self.pending[write] = entry
            write += 1
        self.n_pending = write
        return n - write

    cdef uint32_t conflate_by_channel(self) noexcept:
        cdef Hub hub = self.cohort.hub
        cdef uint32_t read = self.n_pending, write = self.n_pending
        cdef uintptr_t entry
        cdef PyObject* update
        hub.mark += 1
        while read > 0:
            read -= 1
            entry = self.pending[read]
            update = entry_update(entry)
            if entry_is_latest(entry):
                if (<Update>update).channel.mark == hub.mark:
                    (<Update>update).channel.n_conflated += not self.is_copy
                    Py_DECREF(<object>update)
                    continue
                (<Update>update).channel.mark = hub.mark
            write -= 1
            self.pending[write] = entry
        if write:
            self.n_pending -= write
            for read in range(self.n_pending):
                self.pending[read] = self.pending[write + read]
        return write

    cdef list frames(self, int64_t after_position, Lane giver=None):
        """What is pending and was published after `after_position`, as frames; it stays pending. `giver`: see
        `build_frames`."""
        if self.has_latest:
            self.n_conflated += self.conflate()
        return build_frames(
            self.cohort.hub, self.cohort.dialect, self.pending, self.n_pending,
            self.n_conflated if after_position < 0 else 0, after_position, self.cohort.hub.sequence,
            self.cohort.window_bits_now(), giver, self.loss,
        )

    cdef void give_pending(self, uintptr_t* entries) noexcept:
        """Move what is pending, and the references in it, to `entries`."""
        memcpy(entries, self.pending, self.n_pending * sizeof(uintptr_t))
        self.n_pending = 0

    cdef Lane copy(self):
        cdef Lane other = Lane.__new__(Lane, self.cohort, self.interval_ms)
        cdef uint32_t i
        other.is_copy = True
        if self.n_pending:
            other.pending = <uintptr_t*>malloc(self.n_pending * sizeof(uintptr_t))
            if other.pending is NULL:
                raise MemoryError
            memcpy(other.pending, self.pending, self.n_pending * sizeof(uintptr_t))
            for i in range(self.n_pending):
                Py_INCREF(<object>entry_update(self.pending[i]))
            other.n_pending = other.pending_size = self.n_pending
            other.has_latest = self.has_latest
            other.loss = self.loss
        return other

    cdef int merge(self, Lane other) except -1:
        """Take over what is pending in `other`, in publish order."""
        cdef uint32_t i = 0, j = 0, n = self.n_pending + other.n_pending
        cdef uintptr_t* merged
        if other.n_pending == 0:
            return 0
        merged = <uintptr_t*>malloc(n * sizeof(uintptr_t))
        if merged is NULL:
            raise MemoryError
        while i + j < n:
            if j == other.n_pending or (
                i < self.n_pending
                and (<Update>entry_update(self.pending[i])).position
                < (<Update>entry_update(other.pending[j])).position
            ):
                merged[i + j] = self.pending[i]
                i += 1
            else:
                merged[i + j] = other.pending[j]
                j += 1
        free(self.pending)
        self.pending = merged
        self.n_pending = self.pending_size = n
        self.n_conflated += other.n_conflated
        self.has_latest = self.has_latest or other.has_latest
        if other.loss is not None:
            # Mode `all` goes at the cohort's own pace, so only one of the two has any.
            self.loss = other.loss
            other.loss = None
        other.n_pending = other.n_conflated = 0
        other.has_latest = False
        return 0

    cdef void clear(self) noexcept:
        """Let go of what is pending after a flush; a large array is given back."""
        cdef uint32_t i
        for i in range(self.n_pending):
            Py_DECREF(<object>entry_update(self.pending[i]))
        self.n_pending = self.n_conflated = 0
        self.has_latest = False
        self.loss = None
        if self.pending_size > 64:
            free(self.pending)
            self.pending = NULL
            self.pending_size = 0

    cdef void discard(self) noexcept:
        cdef uint32_t i
        for i in range(self.n_pending):
            Py_DECREF(<object>entry_update(self.pending[i]))
        free(self.pending)
        self.pending = NULL
        self.n_pending = self.pending_size = self.n_conflated = 0
        self.loss = None


@cython.final
cdef class Cohort:
    """Connections with equal subscriptions, up to `limit`, which share every frame.

    1. Members are borrowed; each knows its index. Subscriptions never change: a connection that subscribes moves.
    2. A cohort with no member does not exist: the last one to leave retires it.
    3. While the flusher is sending to this cohort, members before `job_member` have the frame; joining and leaving
       keep that true.
    4. A paused cohort keeps its subscriptions for later and hears nothing.
    5. More connections than `limit` are a ring of cohorts. `Hub.cohorts` names its first; from there on those with
       room come before the full ones. A frame is made when its cohort's turn comes: what the last of 10,000 gets would
       otherwise be as old as 10,000 sends take, 60 ms and more. Another cohort costs an append for each update and a
       copy of the text for each frame, next to hundreds of sends.
    """

    def __cinit__(self, Hub hub, Dialect dialect, bint is_paused, int window_bits, object key):
        self.hub = hub
        self.dialect = dialect
        self.is_paused = is_paused
        self.window_bits = window_bits
        self.key = key
        # Compressing takes as long as dozens of sends.
        self.limit = hub.cohort_size * COMPRESSED_PARTS if window_bits else hub.cohort_size
        self.next_part = self.previous_part = <PyObject*>self
        if FASTWS_DEBUG:
            count_live("Cohort", 1)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.n_subs):
            Py_XDECREF(self.subs[i].topic)
        free(self.subs)
        if self.members_size > 1:
            free(self.members)
        if FASTWS_DEBUG:
            count_live("Cohort", -1)

    cdef int open(self, list subscriptions) except -1:
        """`subscriptions`: (Topic, Options) pairs, each topic once."""
        cdef Topic topic
        cdef Options options
        cdef uint32_t i = 0
        self.lane = Lane.__new__(Lane, self, 0)
        if not subscriptions:
            return 0
        self.subs = <Sub*>calloc(len(subscriptions), sizeof(Sub))
        if self.subs is NULL:
            raise MemoryError
        for topic, options in subscriptions:
            Py_INCREF(topic)
            self.subs[i].topic = <PyObject*>topic
            self.subs[i].options_index = self.place_of(options)
            self.n_subs = i + 1
            if not self.is_paused:
                self.subs[i].interest_index = topic.add_interest(self.lane_for(options), i, options)
            i += 1
        return 0

    cdef uint32_t place_of(self, Options options) except? 0xffffffff:
        cdef uint32_t i, n
        if self.options is None:
            self.options = []
        n = len(self.options)
        for i in range(n):
            if self.options[i] is options:
                return i
        self.options.append(options)
        return n

    cdef dict subscriptions(self, bytes order):
        """dict[Topic, Options], in `order` (`Subscriber.order`), which may be None."""
        cdef dict held = {}
        cdef uint32_t i, place
        for i in range(self.n_subs):
            place = i if order is None else (<const uint32_t*>PyBytes_AS_STRING(order))[i]
            held[<object>self.subs[place].topic] = self.options[self.subs[place].options_index]
        return held

    cdef int window_bits_now(self) noexcept:
        """What to compress with. Frames that hardly anyone shares are sent plain while the flusher has no time left."""
        if self.n_members < 4 and self.hub.flusher.credit_ns < 5.0 * MS:
            return 0
        return self.window_bits

    cdef Lane lane_for(self, Options options):
        cdef Lane lane
        if not options.latest or options.interval_ms <= self.hub.interval_ms:
            return self.lane
        if self.slow_lanes is None:
            self.slow_lanes = []
        for lane in self.slow_lanes:
            if lane.interval_ms == options.interval_ms:
                return lane
        lane = Lane.__new__(Lane, self, options.interval_ms)
        self.slow_lanes.append(lane)
        return lane

    cdef list frames_after(self, int64_t position):
        """What is pending in any lane and was published after `position`, for one member; it stays pending."""
        cdef Lane lane, all_lanes
        if self.slow_lanes is None:
            return self.lane.frames(position) if self.lane.n_pending else []
        all_lanes = self.lane.copy()
        for lane in self.slow_lanes:
            all_lanes.merge(lane.copy())
        return all_lanes.frames(position) if all_lanes.n_pending else []

    cdef int retire(self) except -1:
        cdef uint32_t i
        cdef Lane lane
        if not self.is_paused:
            for i in range(self.n_subs):
                (<Topic>self.subs[i].topic).remove_interest(self.subs[i].interest_index)
        for lane in [self.lane] + (self.slow_lanes or []):
            for i in range(lane.n_pending):
                (<Update>entry_update(lane.pending[i])).channel.n_unflushed += 1
            lane.discard()
            lane.state = DEAD
            lane.cohort = None
        self.lane = None
        self.slow_lanes = None
        self.leave_ring()
        return 0

    cdef int enter_ring(self, Cohort first) except -1:
        """Become the first of the ring of `first`, or of one of its own for None."""
        if first is not None:
            self.next_part = <PyObject*>first
            self.previous_part = first.previous_part
            (<Cohort>first.previous_part).next_part = <PyObject*>self
            first.previous_part = <PyObject*>self
        self.hub.cohorts[self.key] = self
        return 0

    cdef int leave_ring(self) except -1:
        if self.next_part is <PyObject*>self:
            del self.hub.cohorts[self.key]
            return 0
        (<Cohort>self.previous_part).next_part = self.next_part
        (<Cohort>self.next_part).previous_part = self.previous_part
        if self.hub.cohorts[self.key] is self:
            self.hub.cohorts[self.key] = <Cohort>self.next_part
        self.next_part = self.previous_part = <PyObject*>self
        return 0

    cdef int add_member(self, Subscriber connection) except -1:
        cdef uint32_t size, i
        cdef PyObject** grown
        if self.n_members == self.members_size:
            size = 1 if self.members_size == 0 else self.members_size * 2
            if size == 1:
                grown = &self.only_member
            else:
                grown = <PyObject**>realloc(NULL if size == 2 else self.members, size * sizeof(PyObject*))
                if grown is NULL:
                    raise MemoryError
                if size == 2:
                    grown[0] = self.only_member
            self.members = grown
            self.members_size = size
        connection.member_index = self.n_members
        connection.cohort = self
        self.members[self.n_members] = <PyObject*>connection
        self.n_members += 1
        if self.n_members == self.limit:
            # It was the first, and becomes the last.
            self.hub.cohorts[self.key] = <Cohort>self.next_part
        for i in range(self.n_subs):
            self.hub.subscriptions_by_kind[(<Topic>self.subs[i].topic).kind_index] += 1
        return 0

    cdef int remove_member(self, Subscriber connection) except -1:
        """The caller holds a reference to the cohort, which may retire."""
        cdef Flusher flusher = self.hub.flusher
        cdef uint32_t hole = connection.member_index, i
        for i in range(self.n_subs):
            self.hub.subscriptions_by_kind[(<Topic>self.subs[i].topic).kind_index] -= 1
        connection.cohort = None
        if flusher.job_cohort is self and hole < flusher.job_member:
            # Close the gap with one that has the frame, and that one's place with one that has not.
            flusher.job_member -= 1
            self.place(flusher.job_member, hole)
            hole = flusher.job_member
        self.n_members -= 1
        self.place(self.n_members, hole)
        if self.n_members == 0:
            self.retire()
        elif self.n_members == self.limit - 1 and self.next_part is not <PyObject*>self:
            self.leave_ring()
            self.enter_ring(self.hub.cohorts[self.key])
        return 0

    cdef inline void place(self, uint32_t source, uint32_t target) noexcept:
        if source != target:
            self.members[target] = self.members[source]
            (<Connection>self.members[target]).member_index = target
