# The conservation law of updates, held against what is counted where they wait. Counters stand where something rare
# happens, or once for a publish and a flush; the rest is a sum or a difference that is made when somebody asks.

cdef enum:
    MAX_FAULTS = 20                 # told of one audit


@cython.final
cdef class Audit:
    """What became of all updates of a hub until now, in two laws of which no term is made from the others.

    1. Where cohorts wait for a flush, of each channel: *due = flushed + conflated + dropped + unflushed + pending*.
       An update is due once for each cohort that wants it. Dropped: for all members, who are told; unflushed: the last
       member had left before the flush, and has taken what was pending along if it is still there. `pending` is
       counted where it waits. How much was flushed is counted of all channels together; of one it is what the others
       leave, but for a debug build, which counts there too.
    2. At each connection: *published = delivered + conflated + lost + waiting*, and when it has ended, *undelivered*
       in place of waiting. What waits is counted in its outbox, and so is *lost = declared + undeclared*.
    """

    def __cinit__(self, Hub hub):
        self.hub = hub
        self.faults = []
        self.count_pending()

    cdef int fault(self, str text) except -1:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(text)
        return 0

    cdef int count_pending(self) except -1:
        cdef Cohort cohort
        cdef Lane lane
        cdef Channel channel
        cdef uint32_t i
        for channel in self.hub.channels:
            channel.n_pending = 0
        for cohort in self.hub.all_cohorts():
            if cohort.lane is None:
                continue
            for i in range(cohort.lane.n_pending):
                (<Update>entry_update(cohort.lane.pending[i])).channel.n_pending += 1
            for lane in cohort.slow_lanes or ():
                for i in range(lane.n_pending):
                    (<Update>entry_update(lane.pending[i])).channel.n_pending += 1
        return 0

    cdef dict cohorts(self):
        """The first law, of all channels."""
        cdef Channel channel
        cdef int64_t due = 0, conflated = 0, dropped = 0, unflushed = 0, pending = 0, flushed
        for channel in self.hub.channels:
            due += channel.n_due
            conflated += channel.n_conflated
            dropped += channel.n_dropped
            unflushed += channel.n_unflushed
            pending += channel.n_pending
            flushed = flushed_of(channel)
            if flushed < 0:
                self.fault(f"{channel!r}: {channel.n_due} due, and {channel.n_due - flushed} of them not flushed")
            elif FASTWS_DEBUG and flushed != channel.n_counted:
                self.fault(f"{channel!r}: {flushed} should be flushed, and {channel.n_counted} were")
        if due != self.hub.n_flushed + conflated + dropped + unflushed + pending:
            self.fault(
                f"cohorts: due {due} is not flushed {self.hub.n_flushed} + conflated {conflated} + dropped {dropped} "
                f"+ unflushed {unflushed} + pending {pending}"
            )
        return {
            "due": due,
            "flushed": self.hub.n_flushed,
            "conflated": conflated,
            "dropped": dropped,
            "unflushed": unflushed,
            "pending": pending,
        }

    cdef dict connections(self):
        """The second law, of all connections that ever were."""
        cdef dict sums = self.hub.ledger()
        cdef Connection connection
        cdef int64_t waiting, undeclared, declared = self.hub.n_declared
        cdef uint32_t i
        for i in range(self.hub.n_connections):
            connection = <Connection>self.hub.connections[i]
            declared += connection.n_declared
            waiting = connection.n_published - connection.n_delivered - connection.n_conflated - connection.n_lost
            if waiting != connection.n_held() + connection.n_refused:
                self.fault(
                    f"a connection: {waiting} of {connection.n_published} should wait, and {connection.n_held()} do, "
                    f"{connection.n_refused} were refused"
                )
            undeclared = connection.n_undeclared()
            if not connection.refused_sequence and connection.n_lost != connection.n_declared + undeclared:
                self.fault(
                    f"a connection: {connection.n_lost} were lost, and {connection.n_declared} declared with "
                    f"{undeclared} to come"
                )
        sums["declared"] = declared
        return sums

    cdef list channels(self):
        """The first law, of each channel that something was published on; private ones of a name are one line."""
        cdef Channel channel
        cdef dict line, private = {}
        cdef list lines = []
        for channel in self.hub.channels:
            if channel.seq == 0:
                continue
            line = {
                "key": None if channel.is_private else channel.key,
                "channel": channel.name,
                "published": channel.seq - channel.n_absent,
                "absent": channel.n_absent,
                "due": channel.n_due,
                "flushed": flushed_of(channel),
                "conflated": channel.n_conflated,
                "dropped": channel.n_dropped,
                "unflushed": channel.n_unflushed,
                "pending": channel.n_pending,
                "lost": channel.n_lost,
            }
            if not channel.is_private:
                lines.append(line)
            elif channel.name not in private:
                private[channel.name] = line
                lines.append(line)
            else:
                for name, n in line.items():
                    if isinstance(n, int):
                        private[channel.name][name] += n
        return lines


cdef inline int64_t flushed_of(Channel channel) noexcept:
    return channel.n_due - channel.n_conflated - channel.n_dropped - channel.n_unflushed - channel.n_pending


cdef int count_flushed(list frames) except -1:
    """In a debug build: by channel, what a flush has made into frames."""
    cdef Frame frame
    cdef uint32_t i
    for frame in frames:
        for i in range(frame.n_entries):
            (<Update>entry_update(frame.entries[i])).channel.n_counted += 1
    return 0


cdef int64_t n_lost_in(dict lost) except -1:
    """How many updates an overflow is about."""
    cdef int64_t n = 0
    for ranges in lost.values():
        for count, _, _ in ranges:
            n += <int64_t>count
    return n
