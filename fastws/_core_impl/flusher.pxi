cdef extern from *:
    """
    #if defined(__linux__) && !defined(FASTWS_PORTABLE)
    #include <signal.h>
    #include <sys/mman.h>
    #include <sys/sendfile.h>
    #include <unistd.h>

    /* A file in memory, -1 where there can be none. sendfile() has no MSG_NOSIGNAL: a program that lets SIGPIPE end it
     * (Python ignores it) gets none. */
    static int fastws_open_file(void) {
        struct sigaction action;
        if (sigaction(SIGPIPE, NULL, &action) != 0 || action.sa_handler == SIG_DFL) return -1;
        return memfd_create("fastws frames", MFD_CLOEXEC);
    }
    static int fastws_write_file(int file, const char* data, ssize_t size, int64_t offset) {
        return pwrite(file, data, size, offset) == size;
    }
    static int fastws_empty_file(int file) { return ftruncate(file, 0) == 0; }
    static void fastws_close_file(int file) { if (file >= 0) close(file); }
    static ssize_t fastws_send_file(int fd, int file, int64_t offset, size_t size) {
        off_t at = offset;
        return sendfile(fd, file, &at, size);
    }
    #else
    static int fastws_open_file(void) { return -1; }
    static int fastws_write_file(int file, const char* data, ssize_t size, int64_t offset) { return 0; }
    static int fastws_empty_file(int file) { return 1; }
    static void fastws_close_file(int file) {}
    static ssize_t fastws_send_file(int fd, int file, int64_t offset, size_t size) { return -1; }
    #endif
    """
    int fastws_open_file() noexcept nogil
    bint fastws_write_file(int file, const char* data, Py_ssize_t size, int64_t offset) noexcept nogil
    bint fastws_empty_file(int file) noexcept nogil
    void fastws_close_file(int file) noexcept nogil
    Py_ssize_t fastws_send_file(int fd, int file, int64_t offset, Py_ssize_t size) noexcept nogil


cdef inline Py_ssize_t send_item(SendItem* item, int file) noexcept nogil:
    if item.offset >= 0:
        return fastws_send_file(item.fd, file, item.offset, item.size)
    return c_send(item.fd, item.data, item.size, MSG_NOSIGNAL | MSG_DONTWAIT)


cdef inline PyObject* first_member(PyObject* lane) noexcept:
    cdef PyObject* cohort = NULL if lane is NULL else <PyObject*>(<Lane>lane).cohort
    if cohort is NULL or cohort is <PyObject*>None or not (<Cohort>cohort).n_members:
        return NULL
    return (<Cohort>cohort).members[0]


cdef inline void prefetch_following(PyObject* lane) noexcept:
    """Fetch what the next four jobs need into the cache, one pointer further for each.

    Thousands of cohorts of one connection each are not there, and waiting for each pointer in turn takes as long as
    building the frame. `lane` is the first of the queue. Pointers are borrowed, and a lane that is dead has no cohort.
    """
    cdef PyObject* connection = first_member(lane)
    if connection is not NULL:
        fastws_prefetch(<void*>(<Connection>connection).transport)
    if lane is not NULL:
        lane = (<Lane>lane).next_lane
    connection = first_member(lane)
    if connection is not NULL:
        fastws_prefetch(&(<Connection>connection).fd)
        fastws_prefetch(&(<Connection>connection).n_published)
        fastws_prefetch(&(<Connection>connection).join_position)
    if lane is not NULL:
        lane = (<Lane>lane).next_lane
    if lane is not NULL:
        fastws_prefetch((<Lane>lane).pending)
        fastws_prefetch(<void*>(<Lane>lane).cohort)
        if (<Lane>lane).cohort is not None:
            fastws_prefetch(&(<Lane>lane).cohort.members)
        lane = (<Lane>lane).next_lane
    if lane is not NULL:
        prefetch_lane(lane)


@cython.final
cdef class Flusher:
    """Decides when each lane is flushed, and sends.

    1. Leading edge: an update for a QUIET lane makes it READY, and it leaves at the end of this turn of the loop.
       After a flush the lane is ARMED for its interval; what comes meanwhile is batched.
    2. One job at a time: the frames of one lane to all members of its cohort, frame by frame, first come first
       served by due time. So nothing overtakes within a cohort, and overload delays everyone alike.
    3. Work is done in slices of about 2 ms with a turn of the loop between them.
    4. Governor: flushing earns processor time at `share` of the wall clock, with a small reserve. When it is used up
       the flusher rests; intervals stretch instead of the loop, its neighbours and its clients starving. What others
       take from the processor in the midst of a flush is not charged to it.
    5. A large frame for many is written to a file in memory once and sent from there: the kernel then hands its pages
       to every socket instead of copying them for each. Pages never change while a socket may hold them: the file is
       emptied after each slice, which lets go of them, and never written over.
    6. A file descriptor is used only after `transport.is_closing()` was false in the same uninterrupted run of the
       loop thread: uvloop may close it before `connection_lost` arrives, and its number may be someone else's by then.
    """

    def __cinit__(self, Hub hub, double share):
        self.hub = hub
        self.loop = hub.loop
        self.share = share
        self.step_callback = self._step
        self.heads = <PyObject**>calloc(WHEEL_SIZE, sizeof(PyObject*))
        self.tails = <PyObject**>calloc(WHEEL_SIZE, sizeof(PyObject*))
        self.counts = <uint32_t*>calloc(WHEEL_SIZE, sizeof(uint32_t))
        self.items = <SendItem*>calloc(CHUNK, sizeof(SendItem))
        self.ended = <EndedJob*>calloc(CHUNK, sizeof(EndedJob))
        if (
            self.heads is NULL or self.tails is NULL or self.counts is NULL or self.items is NULL
            or self.ended is NULL
        ):
            raise MemoryError
        self.file = fastws_open_file()
        self.cursor_ms = monotonic_ns() // MS
        self.credited_at_ns = monotonic_ns()
        self.credit_ns = 20.0 * MS
        self.effective_interval_ms = hub.interval_ms

    def __dealloc__(self):
        free(self.heads)
        free(self.tails)
        free(self.counts)
        free(self.items)
        free(self.ended)
        fastws_close_file(self.file)

    def stop(self):
        """End the timers and let go of everything queued. Nothing is flushed any more."""
        cdef int slot
        cdef PyObject* lane
        cdef PyObject* following
        self.is_stopped = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.end_job()
        for slot in range(WHEEL_SIZE + 1):
            lane = self.ready_head if slot == WHEEL_SIZE else self.heads[slot]
            while lane is not NULL:
                following = (<Lane>lane).next_lane
                (<Lane>lane).next_lane = NULL
                (<Lane>lane).state = DEAD
                Py_DECREF(<object>lane)
                lane = following
        memset(self.heads, 0, WHEEL_SIZE * sizeof(PyObject*))
        memset(self.tails, 0, WHEEL_SIZE * sizeof(PyObject*))
        memset(self.counts, 0, WHEEL_SIZE * sizeof(uint32_t))
        self.ready_head = self.ready_tail = NULL
        self.n_armed = 0
        self.step_callback = None

    @property
    def is_idle(self):
        """True when no lane has anything that waits to be flushed."""
        cdef Cohort cohort
        cdef Lane lane
        if self.job_cohort is not None or self.ready_head is not NULL:
            return False
        for cohort in self.hub.all_cohorts():
            for lane in [cohort.lane] + (cohort.slow_lanes or []):
                if lane.n_pending:
                    return False
        return True

    def flush_all(self):
        """Make every lane with something pending due now, whatever its interval: before a planned stop."""
        cdef int slot
        cdef PyObject* pointer
        for slot in range(WHEEL_SIZE):
            pointer = self.heads[slot]
            while pointer is not NULL:
                (<Lane>pointer).due_ms = 0
                pointer = (<Lane>pointer).next_lane
        for slot in range(WHEEL_SIZE):
            if self.heads[slot] is not NULL:
                self.make_due(slot)
        self.schedule()

    # Queues of lanes. Each list owns one reference to each lane in it.

    cdef int lead(self, Lane lane) except -1:
        self.push_ready(lane)
        self.schedule()
        return 0

    cdef int push_ready(self, Lane lane) except -1:
        Py_INCREF(lane)
        lane.state = READY
        lane.next_lane = NULL
        if self.ready_tail is NULL:
            self.ready_head = <PyObject*>lane
        else:
            (<Lane>self.ready_tail).next_lane = <PyObject*>lane
        self.ready_tail = <PyObject*>lane
        return 0

    cdef Lane pop_ready(self):
        cdef PyObject* pointer = self.ready_head
        cdef Lane lane
        if pointer is NULL:
            return None
        lane = <Lane>pointer
        self.ready_head = lane.next_lane
        if self.ready_head is NULL:
            self.ready_tail = NULL
        lane.next_lane = NULL
        Py_DECREF(lane)
        return lane

    cdef int arm(self, Lane lane, int64_t due_ms) except -1:
        cdef int64_t slot_ms = due_ms
        cdef int slot
        if slot_ms <= self.cursor_ms:
            slot_ms = self.cursor_ms + 1
        elif slot_ms > self.cursor_ms + WHEEL_SIZE - 1:
            slot_ms = self.cursor_ms + WHEEL_SIZE - 1
        slot = slot_ms & (WHEEL_SIZE - 1)
        Py_INCREF(lane)
        lane.state = ARMED
        lane.due_ms = due_ms
        lane.next_lane = NULL
        if self.tails[slot] is NULL:
            self.heads[slot] = <PyObject*>lane
        else:
            (<Lane>self.tails[slot]).next_lane = <PyObject*>lane
        self.tails[slot] = <PyObject*>lane
        self.counts[slot] += 1
        self.n_armed += 1
        return 0

    cdef int collect_due(self, int64_t now_ms) except -1:
        cdef int64_t slot_ms = max(self.cursor_ms, now_ms - WHEEL_SIZE)
        if now_ms <= self.cursor_ms:
            return 0
        # First, so that what is armed again on the way lands in a slot that is still to come.
        self.cursor_ms = now_ms
        while self.n_armed and slot_ms < now_ms:
            slot_ms += 1
            if self.heads[slot_ms & (WHEEL_SIZE - 1)] is not NULL:
                self.make_due(slot_ms & (WHEEL_SIZE - 1))
        return 0

    cdef void make_due(self, int slot) noexcept:
        """Put the lanes of a slot behind those that are ready. Whether they have anything is seen when it is their
        turn: to look at thousands of lanes twice is to wait for memory twice."""
        if self.ready_tail is NULL:
            self.ready_head = self.heads[slot]
        else:
            (<Lane>self.ready_tail).next_lane = self.heads[slot]
        self.ready_tail = self.tails[slot]
        self.heads[slot] = self.tails[slot] = NULL
        self.n_armed -= self.counts[slot]
        self.counts[slot] = 0

    # Timing.

    cdef int schedule(self) except -1:
        if not (self.is_scheduled or self.resting_until_ns or self.is_stopped):
            self.is_scheduled = True
            self.loop.call_soon(self.step_callback)
        return 0

    cdef int schedule_timer(self, int64_t now_ns) except -1:
        cdef int64_t due_ms
        if self.resting_until_ns:
            due_ms = self.resting_until_ns // MS + 1
        elif self.n_armed:
            due_ms = self.cursor_ms + 1
            while self.heads[due_ms & (WHEEL_SIZE - 1)] is NULL:
                due_ms += 1
        else:
            return 0
        if self.timer is not None:
            if self.timer_ms <= due_ms:
                return 0
            self.timer.cancel()
        self.timer_ms = due_ms
        # Rounded up to whole milliseconds: uvloop would round a shorter wait down to none, again and again.
        self.timer = self.loop.call_later(max(1, (due_ms * MS - now_ns + MS - 1) // MS) * 1e-3, self._on_timer)
        return 0

    def _on_timer(self):
        self.timer = None
        observe(&self.hub.meters.loop_lag, monotonic_ns() - self.timer_ms * MS)
        if not self.is_scheduled:
            self._step()

    def _step(self):
        cdef int64_t start = monotonic_ns(), now = start, used = fastws_thread_ns()
        cdef double earned
        self.is_scheduled = False
        if self.is_stopped:
            return
        if self.resting_until_ns:
            if now < self.resting_until_ns:
                self.schedule_timer(now)
                return
            self.resting_until_ns = 0
        try:
            self.collect_due(now // MS)
            while self.gather():
                self.send_gathered()
                now = monotonic_ns()
                if self.n_ended:
                    self.count_ended(now)
                if now - start >= SLICE_NS:
                    break
        except Exception:
            self.hub.logger.exception("a flush failed; the connections it was for are closed")
            self.drop_gathered()
        self.empty_file()
        now = monotonic_ns()
        used = fastws_thread_ns() - used
        self.busy_ns += now - start
        # At most 20 ms of flushing are saved up for a burst.
        earned = self.credit_ns + (now - self.credited_at_ns) * self.share
        # A halt of the whole machine within a flush may look like work; it is not paid back with rest.
        self.credit_ns = (earned if earned < 20.0 * MS else 20.0 * MS) - min(used, 10 * <int64_t>SLICE_NS)
        self.credited_at_ns = now
        if self.job_cohort is None and self.ready_head is NULL:
            self.schedule_timer(now)
        elif self.credit_ns > 0:
            self.schedule()
        else:
            self.resting_until_ns = now + <int64_t>((2.0 * MS - self.credit_ns) / self.share)
            self.schedule_timer(now)

    # Sending.

    cdef int start_job(self, Lane lane, int64_t now_ns) except -1:
        cdef Cohort cohort = lane.cohort
        cdef int interval_ms
        cdef double late_ms
        cdef int64_t n_due
        if lane.state == DEAD or cohort is None:
            return 0
        if lane.state == ARMED:
            if lane.due_ms > now_ns // MS:
                return self.arm(lane, lane.due_ms)
            if not lane.n_pending:
                lane.state = QUIET
                lane.due_ms = 0
                return 0
        if lane.due_ms:
            late_ms = now_ns // MS - lane.due_ms
            if late_ms < 0:
                late_ms = 0
            self.effective_interval_ms += 0.05 * (self.hub.interval_ms + late_ms - self.effective_interval_ms)
            observe(&self.hub.meters.flush_delay, now_ns - lane.due_ms * MS)
        elif lane.n_pending:
            # One that leads is due at once.
            observe(
                &self.hub.meters.flush_delay, now_ns - (<Update>entry_update(lane.pending[0])).published_ns
            )
        lane.due_ms = 0
        # Before anything can fail: the lane is in no queue now, so its members would wait forever.
        self.job_cohort = cohort
        try:
            if lane is not cohort.lane:
                # The number on a batch says that everything of mode `all` up to it was sent: take that along.
                lane.merge(cohort.lane)
            n_due = lane.n_pending + lane.n_conflated
            self.job_frames = lane.frames(-1, lane)
        except BaseException:
            if lane is not cohort.lane:
                # Where it is looked for when the members' sessions are saved.
                cohort.lane.merge(lane)
            raise
        self.hub.n_flushed += n_due - lane.n_conflated
        if FASTWS_DEBUG:
            count_flushed(self.job_frames)
        lane.clear()
        interval_ms = self.hub.interval_ms
        if lane.interval_ms > interval_ms:
            interval_ms = lane.interval_ms
        if interval_ms:
            self.arm(lane, now_ns // MS + interval_ms)
        else:
            lane.state = QUIET
        self.n_flushes += 1
        self.last_flush_ns = now_ns
        self.job_begun_ns = now_ns
        self.job_is_paced = interval_ms > self.hub.interval_ms
        self.job_frame = 0
        self.job_member = 0
        self.job_variants = None
        return 0

    cdef int end_job(self) except -1:
        cdef EndedJob* ended
        # Of what goes to nobody nothing is known, and after a failure neither.
        if self.job_frames and self.job_frame == len(self.job_frames) and self.n_ended < CHUNK:
            ended = &self.ended[self.n_ended]
            self.n_ended += 1
            Py_INCREF(self.job_frames)
            ended.frames = <PyObject*>self.job_frames
            ended.begun_ns = self.job_begun_ns
            ended.is_paced = self.job_is_paced
        self.job_cohort = None
        self.job_frames = None
        self.job_variants = None
        self.job_frame = 0
        self.job_member = 0
        return 0

    cdef int count_ended(self, int64_t now_ns) except -1:
        cdef int i
        for i in range(self.n_ended):
            self.hub.meters.end_flush(
                <list>self.ended[i].frames, self.ended[i].begun_ns, now_ns, self.ended[i].is_paced
            )
        self.forget_ended()
        return 0

    cdef void forget_ended(self) noexcept:
        while self.n_ended:
            self.n_ended -= 1
            Py_DECREF(<object>self.ended[self.n_ended].frames)

    cdef int64_t share_frame(self, Frame frame) except -2:
        """Write a frame to the file, unless it is there; returns its offset, -1 when it cannot be.

        Measured over loopback: 10 % less time for a send of 10 KB, 35 % for one of 40 KB, and a third less for its
        receiver, because all read the same pages. Below 8 KB a plain send is as fast.
        """
        cdef int64_t offset
        if frame is self.shared_frame:
            return self.shared_offset
        offset = self.file_size
        if not fastws_write_file(self.file, PyBytes_AS_STRING(frame.data), frame.size(), offset):
            return -1
        self.file_size = offset + (frame.size() + PAGE_SIZE - 1) // PAGE_SIZE * PAGE_SIZE
        self.shared_frame = frame
        self.shared_offset = offset
        return offset

    cdef int empty_file(self) except -1:
        if self.file_size == 0:
            return 0
        self.shared_frame = None
        self.file_size = 0
        if not fastws_empty_file(self.file):
            # Nothing may be written over.
            fastws_close_file(self.file)
            self.file = -1
        return 0

    cdef int gather(self) except -1:
        """Collect the next sends; returns how many connections were looked at, 0 when no work is left."""
        cdef Lane lane
        cdef Cohort cohort
        cdef Connection connection
        cdef Frame frame, out
        cdef SendItem* item
        cdef int n_seen = 0
        cdef int64_t now = monotonic_ns(), offset
        self.n_items = 0
        while n_seen < CHUNK:
            if self.job_cohort is None:
                lane = self.pop_ready()
                if lane is None:
                    break
                n_seen += 1
                prefetch_following(self.ready_head)
                self.start_job(lane, now)
                if self.job_cohort is None:
                    continue
            cohort = self.job_cohort
            if self.job_frame == len(self.job_frames) or cohort.n_members == 0:
                self.end_job()
                continue
            frame = <Frame>self.job_frames[self.job_frame]
            offset = -1
            if self.file >= 0 and cohort.n_members >= SHARED_MEMBERS and frame.size() >= SHARED_SIZE:
                offset = self.share_frame(frame)
            while n_seen < CHUNK and self.job_member < cohort.n_members:
                connection = <Connection>cohort.members[self.job_member]
                self.job_member += 1
                n_seen += 1
                out = frame
                if connection.join_position >= frame.first_position:
                    out = self.variant(frame, connection.join_position)
                    if out is None:
                        continue
                if connection.fd < 0 or connection.is_blocked or not connection.is_usable():
                    connection.send_frame(out)
                    continue
                item = &self.items[self.n_items]
                self.n_items += 1
                item.fd = connection.fd
                item.data = PyBytes_AS_STRING(out.data)
                item.size = PyBytes_GET_SIZE(out.data)
                item.offset = offset if out is frame else -1
                item.is_blocked = &connection.is_blocked
                Py_INCREF(connection)
                Py_INCREF(out)
                item.connection = <PyObject*>connection
                item.frame = <PyObject*>out
            if self.job_member >= cohort.n_members:
                self.job_frame += 1
                self.job_member = 0
                self.job_variants = None
                if self.job_frame == len(self.job_frames):
                    self.end_job()
        return n_seen

    cdef int send_gathered(self) except -1:
        cdef int i, n = self.n_items, file = self.file
        cdef SendItem* items = self.items
        cdef SendItem* item
        cdef Connection connection
        cdef Frame frame
        if n == 0:
            return 0
        with nogil:
            for i in range(n):
                item = &items[i]
                if item.is_blocked[0]:
                    # An earlier frame of this chunk was cut.
                    item.n_sent = -1
                    continue
                item.n_sent = send_item(item, file)
                while item.n_sent < 0 and errno == EINTR:
                    item.n_sent = send_item(item, file)
                if item.n_sent < 0:
                    item.n_sent = 0 if errno == EAGAIN else -2
                if item.n_sent < item.size:
                    item.is_blocked[0] = 1
        self.n_sends += n
        for i in range(n):
            connection = <Connection>items[i].connection
            frame = <Frame>items[i].frame
            Py_DECREF(connection)
            Py_DECREF(frame)
            items[i].connection = NULL
            if items[i].n_sent == items[i].size:
                if frame.loss is not None:
                    connection.assign(frame)
                    connection.on_sent(frame, items[i].n_sent)
                    continue
                self.hub.meters.n_bytes_sent += items[i].size
                connection.n_published += frame.n_entries + frame.n_conflated
                connection.n_conflated += frame.n_conflated
                connection.n_delivered += frame.n_entries
                connection.assigned_sequence = connection.delivered_sequence = frame.sequence
                self.hub.n_messages_sent += frame.n_messages
            elif items[i].n_sent == -1:
                connection.send_frame(frame)
            else:
                connection.assign(frame)
                connection.on_sent(frame, items[i].n_sent)
        self.n_items = 0
        return 0

    cdef int drop_gathered(self) except -1:
        """After a failure: what was to be sent to some may be missing or cut there, so they are closed."""
        cdef int i
        cdef uint32_t member
        cdef Connection connection
        cdef Cohort cohort = self.job_cohort
        cdef list affected = []
        for i in range(self.n_items):
            if self.items[i].connection is not NULL:
                affected.append(<Connection>self.items[i].connection)
                Py_DECREF(<object>self.items[i].connection)
                Py_DECREF(<object>self.items[i].frame)
                self.items[i].connection = NULL
        self.n_items = 0
        self.forget_ended()
        if cohort is not None:
            for member in range(cohort.n_members):
                affected.append(<Connection>cohort.members[member])
        self.end_job()
        for connection in affected:
            connection.abort(1011, "internal error")
        return 0

    cdef int hand_over(self, Subscriber connection) except -1:
        """Give a connection that is about to leave its cohort what the job under way still has for it."""
        cdef Py_ssize_t i
        cdef Frame frame
        if self.job_cohort is None or self.job_cohort is not connection.cohort:
            return 0
        i = self.job_frame
        if connection.member_index < self.job_member:
            i += 1
        while i < len(self.job_frames):
            frame = <Frame>self.job_frames[i]
            if connection.join_position >= frame.first_position:
                frame = self.variant(frame, connection.join_position)
            if frame is not None:
                connection.send_frame(frame)
            i += 1
        return 0

    cdef Frame variant(self, Frame frame, int64_t after_position):
        """`frame` without what was published up to `after_position`, for members that joined then; None if empty."""
        cdef list frames
        cdef Loss loss
        if after_position >= frame.position and frame.loss is None:
            return None
        key = (<uintptr_t><void*>frame, after_position)
        if self.job_variants is None:
            self.job_variants = {}
        elif key in self.job_variants:
            return self.job_variants[key]
        if frame.loss is not None:
            loss = frame.loss.since(after_position)
            if loss is frame.loss:
                return frame
            found = None
            if loss is not None:
                found = declaration(self.hub, self.job_cohort.dialect, loss, self.job_cohort.window_bits)
            self.job_variants[key] = found
            return found
        frames = build_frames(
            self.hub, self.job_cohort.dialect, frame.entries, frame.n_entries, 0, after_position, frame.sequence,
            self.job_cohort.window_bits,
        )
        found = <Frame>frames[0] if frames else None
        self.job_variants[key] = found
        return found
