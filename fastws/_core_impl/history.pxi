@cython.final
cdef class History:
    """The updates of the latest past, for sessions that go on where they ended.

    1. While `limit` is not 0, every update that has a number from `start` to `end` is here, and `end` is the hub's
       number. Private ones have none: of those nobody catches up with more than the last, see `private_updates`.
    2. Each is owned and has its place in a ring, sequence & (n_places - 1), which doubles until `limit` is reached.
    3. The updates of a channel are a chain, from `Channel.last` back by `Update.previous`. What of it comes after a
       number that is not before `start` - 1 is here.
    4. `size` counts an update as 700 bytes, as 2,000 when it is an order book.
    """

    def __cinit__(self):
        self.start = 1

    def __dealloc__(self):
        self.forget(self.end)
        free(self.places)

    cdef int set_limit(self, Py_ssize_t limit, int64_t sequence) except -1:
        """Keep `limit` bytes from now on, when the hub is at number `sequence`; 0: nothing."""
        if limit and not self.limit:
            # Nothing was remembered meanwhile.
            self.start = sequence + 1
            self.end = sequence
        self.limit = limit
        if limit == 0:
            self.forget(self.end)
            free(self.places)
            self.places = NULL
            self.n_places = 0
        self.keep_to_limit()
        return 0

    cdef int remember(self, Update update) except -1:
        cdef uint32_t size
        cdef int64_t sequence
        cdef PyObject** grown
        if update.sequence - self.start >= self.n_places:
            size = 1024 if self.n_places == 0 else self.n_places * 2
            grown = <PyObject**>malloc(size * sizeof(PyObject*))
            if grown is NULL:
                raise MemoryError
            for sequence in range(self.start, update.sequence):
                grown[sequence & (size - 1)] = self.places[sequence & (self.n_places - 1)]
            free(self.places)
            self.places = grown
            self.n_places = size
        Py_INCREF(update)
        self.places[update.sequence & (self.n_places - 1)] = <PyObject*>update
        self.end = update.sequence
        self.n_kept += 1
        self.size += history_cost(update)
        self.keep_to_limit()
        return 0

    cdef inline void keep_to_limit(self) noexcept:
        while self.size > self.limit and self.start < self.end:
            self.forget(self.start)

    cdef void forget(self, int64_t last) noexcept:
        """Let go of the updates up to number `last`."""
        cdef PyObject* update
        while self.start <= last and self.n_places:
            update = self.places[self.start & (self.n_places - 1)]
            self.start += 1
            self.n_kept -= 1
            self.size -= history_cost(<Update>update)
            Py_DECREF(<object>update)

    cdef inline Update past(self, int64_t sequence):
        """The update of that number, which is here."""
        return <Update>self.places[sequence & (self.n_places - 1)]

    cdef int64_t time_of(self, int64_t sequence):
        """When the update of that number was published, or the first one here after it; now, where there is none."""
        sequence = max(sequence, self.start)
        if self.limit and sequence <= self.end:
            return self.past(sequence).published_ns
        return monotonic_ns()

    cdef inline int64_t before(self, int64_t sequence) noexcept:
        """The number of the update before number `sequence`, which is here, in its channel; 0 for the first."""
        return (<Update>self.places[sequence & (self.n_places - 1)]).previous

    cdef bint reaches(self, int64_t cursor) noexcept:
        """Whether everything since number `cursor` is here, and that number has been."""
        return self.limit > 0 and self.start - 1 <= cursor <= self.end

    cdef int64_t count(self, Hub hub, dict wanted, int64_t cursor, dict starts) except -1:
        """How many of the updates since number `cursor` that are here a holder of `wanted` was to get.

        A private one counts where more has been published since its number: else it may have come before `cursor`.
        """
        cdef dict known = {}
        cdef list channels
        cdef Channel channel
        cdef Update update
        cdef int64_t sequence, start, n = 0
        if not self.limit or cursor >= self.end:
            return 0
        for update in private_updates(wanted, {}):
            n += update.sequence > cursor
        cursor = max(cursor, self.start - 1)
        channels = hub.channels_of(wanted, self.end - cursor)
        if channels is None:
            for sequence in range(cursor + 1, self.end + 1):
                if wish_for(self.past(sequence), wanted, starts, known):
                    n += 1
            return n
        for channel in channels:
            if channel.last is not None:
                wish, start = wish_of(channel, wanted, starts, known)
                start = max(start, cursor)
                sequence = channel.last.sequence
                while wish and sequence > start:
                    n += 1
                    sequence = self.before(sequence)
        return n

    cdef list marks(self, Hub hub, dict wanted, int64_t cursor):
        """See `Hub.marks`."""
        cdef dict known = {}
        cdef list channels, found = []
        cdef Channel channel
        cdef Update update
        cdef int64_t sequence, first
        channels = hub.channels_of(wanted, MAX_MARKS) if self.reaches(cursor) else None
        if channels is None:
            return None
        for channel in channels:
            if channel.last is None or not channel.topics or wish_of(channel, wanted, {}, known)[0] != 1:
                continue
            first = 0
            sequence = channel.last.sequence
            while sequence > cursor:
                update = self.past(sequence)
                if update.stamp == 0:
                    return None
                first = update.stamp
                sequence = update.previous
            found.append((channel, first, channel.stamp))
        return found

    cdef tuple starts_of(self, Hub hub, dict wanted, list marks, int64_t since):
        """See `Hub.starts`."""
        cdef dict known = {}, starts = {}
        cdef list channels = hub.channels_of(wanted, MAX_MARKS)
        cdef Channel channel
        cdef int64_t first, last, start, cursor = self.end
        if channels is None or not self.limit or since < self.start - 1:
            return None
        for topic, options in wanted.items():
            if options.latest:
                starts[topic] = self.end
        for channel, first, last in marks:
            start = self.start_of(channel, first, last)
            if start < 0:
                return None
            starts[channel] = start
            if channel.last is not None and channel.last.sequence > start:
                cursor = min(cursor, start)
        for channel in channels:
            if not channel.topics:
                # The states of feeds, which every greeting shows.
                starts[channel] = self.end
            elif channel not in starts and wish_of(channel, wanted, {}, known)[0] == 1:
                starts[channel] = since
                cursor = min(cursor, since)
        return max(cursor, self.start - 1), starts

    cdef int64_t start_of(self, Channel channel, int64_t first, int64_t last) except -2:
        """The number after which the updates of a channel from stamp `first` on are here, or after `last` if `first` is
        0; -1: some of them are not, or it is not known whether there were more: a channel that was not listened to
        begins here with its last value."""
        cdef Update update
        cdef int64_t sequence, seq = 0, after = first if first else last + 1
        cdef bint is_found = first == 0
        if channel.stamp < last:
            return -1
        if channel.last is None:
            return 0 if is_found else -1
        sequence = channel.last.sequence
        while sequence >= self.start:
            update = self.past(sequence)
            if update.stamp < after:
                return sequence if is_found and (first or not seq or update.seq + 1 == seq) else -1
            if seq and update.seq + 1 != seq:
                return -1
            is_found = is_found or update.stamp == first
            seq = update.seq
            sequence = update.previous
        # Past the beginning of history or of the channel.
        return sequence if is_found and (first or channel.stamp <= last) else -1

    cdef Missed missed(self, Hub hub, dict wanted, dict starts, dict known, set also, int64_t cursor):
        """The numbers since `cursor` at which a holder of `wanted` and of the numbers in `also` has to look.

        They are found channel by channel, so this costs by what was missed and not by what was published. Where that
        is more than a quarter of all, or too much to note, every number is to be looked at instead.
        """
        cdef Missed missed = Missed.__new__(Missed, self.end)
        cdef int64_t sequence, start, n_left = min((self.end - cursor) // 4, MAX_MISSED)
        cdef list channels = hub.channels_of(wanted, n_left - len(also))
        cdef Channel channel
        if channels is None:
            return missed
        missed.is_sparse = True
        for sequence in also:
            if cursor < sequence < self.end:
                missed.note(sequence)
        for channel in channels:
            if channel.last is None:
                continue
            wish, start = wish_of(channel, wanted, starts, known)
            sequence = channel.last.sequence
            start = max(start, cursor)
            while wish and sequence > start:
                if missed.n >= n_left:
                    missed.clear()
                    return missed
                missed.note(sequence)
                # Of mode `latest` only the last one can be due.
                sequence = self.before(sequence) if wish == 1 else 0
        missed.note(self.end)
        qsort(missed.sequences, missed.n, sizeof(int64_t), compare_numbers)
        return missed


@cython.final
@cython.no_gc
cdef class Missed:
    """Where one connection has to look on its way through history up to number `until`.

    Only a selection: whether an update at one of these numbers is wanted is decided when it is its turn. Numbers may
    come twice. Not sparse: every number.
    """

    def __cinit__(self, int64_t until):
        self.until = until

    def __dealloc__(self):
        free(self.sequences)

    cdef int note(self, int64_t sequence) except -1:
        cdef uint32_t size
        cdef int64_t* grown
        if self.n == self.size:
            size = 64 if self.size == 0 else self.size * 2
            grown = <int64_t*>realloc(self.sequences, size * sizeof(int64_t))
            if grown is NULL:
                raise MemoryError
            self.sequences = grown
            self.size = size
        self.sequences[self.n] = sequence
        self.n += 1
        return 0

    cdef void clear(self) noexcept:
        free(self.sequences)
        self.sequences = NULL
        self.n = self.size = 0
        self.is_sparse = False

    cdef inline int64_t after(self, int64_t sequence) noexcept:
        """The next number to look at after `sequence`, which is before `until`."""
        if not self.is_sparse:
            return sequence + 1
        # Back where a step failed; and the last one noted is `until`.
        while self.next and self.sequences[self.next - 1] > sequence:
            self.next -= 1
        while self.sequences[self.next] <= sequence:
            self.next += 1
        return self.sequences[self.next]


cdef int compare_numbers(const void* first, const void* second) noexcept nogil:
    cdef int64_t a = (<const int64_t*>first)[0], b = (<const int64_t*>second)[0]
    return (a > b) - (a < b)


cdef inline Py_ssize_t history_cost(Update update) noexcept:
    return 2000 if update.channel.bit == 2 else 700


cdef int wish_for(Update update, dict wanted, dict starts, dict known) except -1:
    """What a holder of `wanted` is to get of an update: 0 nothing, 1 itself, 2 only if it is the latest.

    Of the topics and channels in `starts` only what was published after the number there counts. `known` keeps what was
    found out about a channel: (wish, start).
    """
    wish, start = wish_of(update.channel, wanted, starts, known)
    return wish if update.sequence > <int64_t>start else 0


cdef tuple wish_of(Channel channel, dict wanted, dict starts, dict known):
    """The same for a channel: (wish, start), where the wish is for what was published after number `start`."""
    cdef Options options
    found = known.get(channel)
    if found is None:
        found = (0, 0) if channel.topics else (1, starts.get(channel, 0))
        for topic in channel.topics:
            options = wanted.get(topic)
            if options is not None:
                start = max(<int64_t>starts.get(topic, 0), <int64_t>starts.get(channel, 0))
                if channel.bit == STATUS_BIT:
                    found = (1, start)
                elif options.channels & channel.bit:
                    found = (2 if options.latest else 1, start)
                break
        known[channel] = found
    return found


cdef list private_updates(dict wanted, dict given):
    """The last update of each private channel that a holder of `wanted` listens to, once.

    Of the topics in `given` only what was published after the position there.
    """
    cdef Topic topic
    cdef Channel channel
    cdef dict known = {}, found = {}
    for topic in wanted:
        if topic.has_private:
            for channel in topic.channels:
                if channel.is_private and channel.last is not None:
                    wish, after_position = wish_of(channel, wanted, given, known)
                    if wish and channel.last.position > <int64_t>after_position:
                        found[channel] = channel.last
    return list(found.values())
