@cython.final
cdef class Hub(Registry):
    """Topics, what was published last, who wants it, and every connection.

    All methods belong to the loop's thread. Sizes are in bytes, times in seconds unless named otherwise.

    :param interval_ms: flush interval; 0 sends each update by itself at the end of the turn of the loop.
    :param cohort_size: connections that share a frame, at most; four times as many of those that compress.
    :param outbox_soft_size: per connection, where mode `all` begins to drop its oldest and declares it; the same holds
        per cohort of what waits for a flush that is late.
    :param outbox_hard_size: per connection, where it is closed with 4408; per cohort, where a burst begins to drop.
    :param stall_timeout: closed with 4408 when it takes nothing for so long; 0 is off, here and below.
    :param rate_limit: messages per second and connection, and the burst.
    :param control_rate_limit: control frames and fragments per second and connection, beyond: 4429.
    :param flush_share: the share of time that flushing may take.
    :param history_size: what is kept of the past for restored sessions; an update counts as 700 bytes, as 2,000
        when it is an order book.
    :param compress: ``compress(payload, window_bits) -> bytes`` for connections that agreed to permessage-deflate,
        called for payloads from `deflate_threshold` bytes on.
    :param inflate: ``inflate(payload, max_size) -> bytes``; raises ValueError(close code, reason).
    """

    def __init__(
        self,
        loop,
        *,
        str epoch,
        int interval_ms=30,
        uint32_t cohort_size=256,
        Py_ssize_t outbox_soft_size=256 * 1024,
        Py_ssize_t outbox_hard_size=1024 * 1024,
        double stall_timeout=30.0,
        int rate_limit=100,
        int control_rate_limit=200,
        double ping_interval=25.0,
        double pong_timeout=60.0,
        double idle_timeout=300.0,
        double flush_share=0.75,
        compress=None,
        inflate=None,
        Py_ssize_t deflate_threshold=256,
        Py_ssize_t history_size=64 * 1024 * 1024,
        logger=None,
    ):
        self.loop = loop
        self.epoch = epoch
        self.interval_ms = interval_ms
        if cohort_size == 0:
            raise ValueError("cohort_size: expected 1 or more, got 0")
        self.cohort_size = cohort_size
        self.inflate = inflate
        self.history = History.__new__(History)
        self.logger = logger if logger is not None else logging.getLogger("fastws")
        self.topics = {}
        self.cohorts = {}
        self.kinds = []
        self.channels = []
        self.common_channels = []
        self.closes = {}
        self.departing = []
        self.options_table = weakref.WeakValueDictionary()
        self.meters = Meters.__new__(Meters)
        self.flusher = Flusher.__new__(Flusher, self, flush_share)
        self.configure(
            outbox_soft_size=outbox_soft_size,
            outbox_hard_size=outbox_hard_size,
            stall_timeout=stall_timeout,
            rate_limit=rate_limit,
            control_rate_limit=control_rate_limit,
            ping_interval=ping_interval,
            pong_timeout=pong_timeout,
            idle_timeout=idle_timeout,
            flush_share=flush_share,
            deflate_threshold=deflate_threshold,
            history_size=history_size,
            compress=compress,
        )
        self.sweep_due_ns = monotonic_ns() + SWEEP_NS
        self.sweep_timer = loop.call_later(SWEEP_NS * 1e-9, self._sweep)

    def configure(
        self,
        *,
        outbox_soft_size=None,
        outbox_hard_size=None,
        stall_timeout=None,
        rate_limit=None,
        control_rate_limit=None,
        ping_interval=None,
        pong_timeout=None,
        idle_timeout=None,
        flush_share=None,
        deflate_threshold=None,
        history_size=None,
        compress=None,
    ):
        """Change parameters of the constructor while the hub runs; what is None stays as it is.

        All of it holds at once, also for connections that are open: limits from the next message or frame on, times
        from the next look at the connection, within a second. History that has no room any more is let go of;
        history that was off begins with the next update.

        :raises ValueError: naming the parameter that cannot be; nothing has changed then.
        """
        cdef Py_ssize_t soft = checked("outbox_soft_size", outbox_soft_size, MAX_SIZE, self.outbox_soft_size)
        cdef Py_ssize_t hard = checked("outbox_hard_size", outbox_hard_size, MAX_SIZE, self.outbox_hard_size)
        cdef Py_ssize_t threshold = checked("deflate_threshold", deflate_threshold, MAX_SIZE, self.deflate_threshold)
        cdef Py_ssize_t history = checked("history_size", history_size, MAX_SIZE, self.history.limit)
        cdef int rate = checked("rate_limit", rate_limit, MAX_RATE, self.rate_limit)
        cdef int control_rate = checked("control_rate_limit", control_rate_limit, MAX_RATE, self.control_rate_limit)
        cdef int64_t stall_ns = checked_ns("stall_timeout", stall_timeout, self.stall_ns)
        cdef int64_t ping_ns = checked_ns("ping_interval", ping_interval, self.ping_interval_ns)
        cdef int64_t pong_ns = checked_ns("pong_timeout", pong_timeout, self.pong_timeout_ns)
        cdef int64_t idle_ns = checked_ns("idle_timeout", idle_timeout, self.idle_timeout_ns)
        cdef double share = self.flusher.share if flush_share is None else flush_share
        if soft > hard:
            raise ValueError(f"outbox_soft_size: {soft} is over outbox_hard_size, {hard}")
        if not 0.0 < share <= 1.0:
            raise ValueError(f"flush_share: expected above 0 and up to 1, got {share}")
        if compress is not None and not callable(compress):
            raise ValueError(f"compress: expected something to call, got {compress!r}")
        self.outbox_soft_size = soft
        self.outbox_hard_size = hard
        self.deflate_threshold = threshold
        self.rate_limit = rate
        self.control_rate_limit = control_rate
        self.stall_ns = stall_ns
        self.ping_interval_ns = ping_ns
        self.pong_timeout_ns = pong_ns
        self.idle_timeout_ns = idle_ns
        self.flusher.share = share
        if compress is not None:
            self.compress = compress
        self.history.set_limit(history, self.sequence)

    def stop(self):
        """End all timers and forget what was published last. Connections stay as they are and get nothing more."""
        cdef Channel channel
        self.part_until(1 << 62)
        self.flusher.stop()
        # An update and its channel refer to each other, and the collector does not see updates.
        for channel in self.channels:
            channel.last = None
        self.history.forget(self.sequence)
        self.snapshot_frame = None
        if self.sweep_timer is not None:
            self.sweep_timer.cancel()
            self.sweep_timer = None

    # Topics and channels.

    def topic(self, str kind, str name):
        """The topic of that name, made if need be."""
        topic = self.topics.get((kind, name))
        if topic is None:
            if kind not in self.kinds:
                if len(self.kinds) == 8:
                    raise ValueError(f"kind: {kind!r} would be the ninth, eight are possible")
                self.kinds.append(kind)
            self.n_topics += 1
            topic = Topic.__new__(Topic, self, kind, name, self.kinds.index(kind), self.n_topics)
            self.topics[(kind, name)] = topic
        return topic

    def find_topic(self, str kind, str name):
        """The topic of that name, or None."""
        return self.topics.get((kind, name))

    def channel(self, str key, str name, tuple topics, *, int bit, bint numbered, bint private=False):
        """A new stream of messages. `topics`: the most specific first. `numbered`: its messages carry `seq`.

        A `private` one is for values that are the business of a few, of mode `latest`. Nobody else can tell that
        anything was published: it takes no number of the hub, and shows the last one that was taken. History holds
        nothing of it either, however many there are: a restored session gets the last value.

        :raises ValueError: a private channel of no topic, which everyone would get.
        """
        cdef Channel channel
        cdef Topic topic
        if private and not topics:
            raise ValueError("private: a channel of no topic is everyone's")
        channel = Channel.__new__(Channel, key, name, topics, bit, numbered, private)
        for topic in topics:
            topic.channels.append(channel)
            topic.has_private = topic.has_private or private
        if not topics:
            self.common_channels.append(channel)
        self.channels.append(channel)
        return channel

    cdef list channels_of(self, dict wanted, int64_t limit):
        """Channels of which a holder of `wanted` may be due something of history, each once; None: there are more than
        `limit`."""
        cdef list found = []
        cdef Topic topic
        cdef Channel channel
        if len(self.common_channels) > limit:
            return None
        self.mark += 1
        for topic in wanted:
            if len(topic.channels) > limit:
                return None
            for channel in topic.channels:
                if channel.mark != self.mark and not channel.is_private:
                    channel.mark = self.mark
                    found.append(channel)
            if len(found) > limit:
                return None
        return found + self.common_channels

    def move_channels(self, dict moves not None):
        """Let channels belong to other topics: dict[Channel, tuple[Topic, ...]], the most specific first.

        It holds from the next update on. Subscriptions, numbers and what was published last stay as they are.
        """
        cdef Channel channel
        cdef Topic topic
        cdef Connection connection
        cdef uint32_t i
        cdef dict leaving = {}
        for channel in moves:
            for topic in channel.topics:
                leaving.setdefault(topic, set()).add(channel)
        for topic, gone in leaving.items():
            if len(gone) < FEW_MOVES:
                for channel in gone:
                    topic.channels.remove(channel)
            else:
                topic.channels[:] = [channel for channel in topic.channels if channel not in gone]
        for channel, topics in moves.items():
            if not channel.topics:
                self.common_channels.remove(channel)
            if not topics:
                self.common_channels.append(channel)
            channel.topics = topics
            for topic in topics:
                topic.channels.append(channel)
                topic.has_private = topic.has_private or channel.is_private
        self.moved_position = self.position
        # What is remembered of the old places.
        self.snapshot_key = None
        for i in range(self.n_connections):
            connection = <Connection>self.connections[i]
            if connection.replay_wanted is not None:
                connection.look_again()

    def options(self, *, bint latest=False, double max_rate=0.0, int channels=CHANNEL_PRICE | CHANNEL_ORDERBOOK):
        """What a subscription asks for. `max_rate`: values per second and channel, implies `latest`; 0 is no limit."""
        cdef int interval_ms = 0
        if max_rate > 0:
            latest = True
            interval_ms = <int>min(max(1000.0 / max_rate + 0.999, 1.0), 3600000.0)
        key = (latest, interval_ms, channels)
        options = self.options_table.get(key)
        if options is None:
            options = Options(latest, interval_ms, channels, max_rate)
            self.options_table[key] = options
        return options

    # Publishing.

    def set_received(self, int64_t at_ns):
        """Say when what is published from now on was received (monotonic clock, ns); 0: not known, or not from a feed.

        To be set back to 0 before anything else can publish, that is before the loop runs on.
        """
        self.received_ns = at_ns

    def publish(self, Channel channel not None, payload):
        """Hand one message to everyone who wants it; returns its sequence. The text is made when it is needed."""
        self.publish_update(channel, payload)
        return self.sequence

    cdef int publish_update(self, Channel channel, object payload) except -1:
        cdef Update update = Update.__new__(Update)
        cdef Topic topic
        cdef Interest* interest
        cdef Lane lane
        cdef uint32_t i, n
        cdef int64_t now = monotonic_ns(), position = self.position + 1, n_due = 0
        cdef bint is_private = channel.is_private
        if channel.n_missed:
            self.declare_missed(channel)
        self.position = position
        if not is_private:
            self.sequence += 1
        channel.seq += 1
        update.channel = channel
        update.payload = payload
        update.position = position
        update.sequence = self.sequence
        update.seq = channel.seq
        update.published_ms = wall_ms_at(now)
        update.published_ns = update.origin_ns = now
        if self.received_ns:
            update.origin_ns = self.received_ns
            observe(&self.meters.feed, now - self.received_ns)
        if channel.last is not None:
            channel.last.is_superseded = True
            update.previous = channel.last.sequence
        channel.last = update
        if self.history.limit and not is_private:
            self.history.remember(update)
        if self.tap is not None:
            self.tap.take(update)
        for topic in channel.topics:
            n = topic.n_interests
            for i in range(n):
                interest = &topic.interests[i]
                # Lanes of thousands of cohorts are not in the cache, and waiting for each would be half of the time.
                if i + LOOK_AHEAD < n:
                    prefetch_lane(interest[LOOK_AHEAD].lane)
                    prefetch_pending(interest[LOOK_AHEAD // 2].lane)
                lane = <Lane>interest.lane
                # The most specific subscription of a cohort speaks for it, also when it does not want this channel.
                if lane.claim[0] == position:
                    continue
                lane.claim[0] = position
                if channel.bit == STATUS_BIT:
                    lane.cohort.lane.append(update, False)
                    n_due += 1
                elif interest.channels & channel.bit:
                    lane.append(update, interest.latest)
                    n_due += 1
        channel.n_due += n_due
        return 0

    def attach(self, Tap tap):
        """Have a relay take everything that is published from now on; None: nobody."""
        self.tap = tap

    def publish_carried(
        self, Channel channel not None, payload, *, int64_t stamp, int64_t published_ms, bytes head not None,
    ):
        """Publish what was published by another instance at `published_ms`; returns its sequence here.

        `head` is its message in the dialect of index 0, without `sequence`, `seq` and the closing brace. It is not
        relayed again. The caller has seen that `stamp` is over `Channel.stamp`, so that no older value comes after a
        newer one.
        """
        cdef Tap tap = self.tap
        cdef Update update
        self.tap = None
        try:
            self.publish_update(channel, payload)
        finally:
            self.tap = tap
        channel.stamp = stamp
        update = channel.last
        update.stamp = stamp
        update.published_ms = published_ms
        update.text0 = update.whole_text(PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
        return update.sequence

    def note_missed(self, Channel channel not None, int64_t n):
        """Say that `n` updates of a channel were published elsewhere and will never come.

        Whoever holds it in mode `all` is told ahead of its next update, and `seq` goes on by as many.
        """
        if n < 0:
            raise ValueError(f"n: expected 0 or more, got {n}")
        channel.n_missed += n

    cdef int declare_missed(self, Channel channel) except -1:
        cdef Topic topic
        cdef Interest* interest
        cdef Lane lane
        cdef uint32_t i
        cdef int64_t first = channel.seq + 1, last = channel.seq + channel.n_missed
        channel.n_missed = 0
        if not channel.is_numbered:
            return 0
        channel.n_absent += last - first + 1
        channel.seq = last
        for topic in channel.topics:
            for i in range(topic.n_interests):
                interest = &topic.interests[i]
                lane = <Lane>interest.lane
                # No position of an update is negative, so this claims nothing of the one that follows.
                if lane.claim[0] == -self.position - 1:
                    continue
                lane.claim[0] = -self.position - 1
                if interest.channels & channel.bit and not interest.latest:
                    lane.miss(channel, first, last)
        return 0

    def broadcast(self, Channel channel not None, payload):
        """Hand one message to every connection that is not paused; returns its sequence."""
        cdef Cohort cohort
        cdef Update update
        cdef int64_t received_ns = self.received_ns
        if channel.is_private:
            raise ValueError(f"{channel!r} is private")
        # The server's own word, also when it is said because a feed has delivered something.
        self.received_ns = 0
        self.publish_update(channel, payload)
        update = channel.last
        self.received_ns = received_ns
        for cohort in self.all_cohorts():
            if not cohort.is_paused and cohort.lane.claimed_position != update.position:
                cohort.lane.claimed_position = update.position
                cohort.lane.append(update, False)
                channel.n_due += 1
        return update.sequence

    def tell(self, Channel channel not None, payload, connections):
        """Hand one message to `connections` only, behind what came before it; returns its sequence.

        It is never dropped for a slow client. A connection that catches up with history gets it in its place, which
        takes a number: not for private channels.
        """
        cdef Connection connection
        cdef Update update
        cdef Frame frame
        cdef uintptr_t entry
        cdef int64_t sequence
        cdef list settled = []
        if channel.is_private:
            raise ValueError(f"{channel!r} is private")
        # Before it has its number: no batch may claim what has not gone out yet.
        for connection in connections:
            if connection.replay_wanted is not None or connection.settle():
                settled.append(connection)
        self.publish_update(channel, payload)
        update = channel.last
        sequence = update.sequence
        entry = <uintptr_t><void*>update
        for connection in settled:
            if connection.replay_wanted is not None:
                connection.replay_also.add(sequence)
                continue
            if connection.state != OPEN:
                continue
            for frame in build_frames(
                self, connection.dialect, &entry, 1, 0, -1, sequence, connection.window_bits
            ):
                frame.is_addressed = True
                connection.send_frame(frame)
            connection.note_settled(update.position, sequence)
        return sequence

    def count_missed(self, dict wanted, int64_t cursor, dict starts=None):
        """How many updates since number `cursor` a holder of `wanted` (dict[Topic, Options]) was to get.

        Returns (count, is_complete): is_complete is False when history does not reach back that far, and the count
        is of what it holds. `starts`: see `Connection.restore`.
        """
        return self.history.count(self, wanted, cursor, starts or {}), self.history.reaches(cursor)

    def marks(self, dict wanted, int64_t cursor):
        """Say by stamps how far a holder of `wanted` (dict[Topic, Options]) is that has everything up to `cursor`.

        Other instances know this one's updates by their stamps. Returns a list of (channel, first, last) of the
        channels of which it gets every update: `first` is the stamp of the first one after `cursor`, 0 where there is
        none, and `last` that of the last one known. None: it cannot be said, because history does not reach back that
        far, an update has no stamp, or there are too many channels.
        """
        return self.history.marks(self, wanted, cursor)

    def starts(self, dict wanted, list marks not None, int64_t since):
        """Find where a holder of `wanted` goes on here that is as far at another instance as `marks` say.

        What was published here after number `since` the other one may not have known yet. Returns (cursor, starts) for
        :meth:`Connection.restore`. None: some of it is not here, or was never.
        """
        return self.history.starts_of(self, wanted, marks, since)

    cdef Frame snapshot(self, Dialect dialect, list topics, int window_bits, int64_t at):
        """The last updates of `topics`, one batch of them where the dialect has batches.

        It is kept for those that ask the same before anything is published.
        """
        cdef Topic topic
        cdef Options options
        cdef Channel channel
        cdef Update update
        cdef uintptr_t* entries
        cdef Py_ssize_t n = 0
        cdef list updates
        key = (dialect, self.position, at, window_bits, tuple(topics))
        if key == self.snapshot_key:
            return self.snapshot_frame
        self.mark += 1
        updates = []
        for topic, options in topics:
            for channel in topic.channels:
                update = channel.last
                if update is None or channel.mark == self.mark:
                    continue
                if channel.bit & (options.channels | STATUS_BIT):
                    channel.mark = self.mark
                    updates.append((update.position, update))
        updates.sort(key=_first)
        entries = <uintptr_t*>malloc(max(1, len(updates)) * sizeof(uintptr_t))
        if entries is NULL:
            raise MemoryError
        try:
            for _, update in updates:
                try:
                    update.text(dialect)
                except Exception:
                    self.logger.exception("the last update of %r could not be encoded for a snapshot", update.channel)
                else:
                    entries[n] = <uintptr_t><void*>update
                    n += 1
            self.snapshot_frame = plain_frame(
                join_messages(self, dialect, entries, n, at, True, window_bits), n
            )
        finally:
            free(entries)
        self.snapshot_key = key
        return self.snapshot_frame

    # Connections.

    cdef int join(self, Subscriber connection, Dialect dialect, bint is_paused, dict wanted) except -1:
        cdef Cohort cohort
        cdef list given = list(wanted.items())
        cdef list subscriptions = sorted(given, key=_topic_number)
        key = cohort_key(dialect, is_paused, connection.window_bits, subscriptions)
        first = self.cohorts.get(key)
        if first is None or (<Cohort>first).n_members == (<Cohort>first).limit:
            cohort = Cohort.__new__(
                Cohort, self, dialect, is_paused, connection.window_bits, key if first is None else (<Cohort>first).key
            )
            cohort.open(subscriptions)
            cohort.enter_ring(first)
        else:
            cohort = first
        connection.note_settled(self.position, self.sequence)
        # Members share everything but the order in which they asked.
        connection.order = None if given == subscriptions else order_of(given, subscriptions)
        cohort.add_member(connection)
        return 0

    cdef int leave(self, Subscriber connection) except -1:
        cdef Cohort cohort = connection.cohort
        if cohort is not None:
            cohort.remove_member(connection)
        return 0

    cdef list all_cohorts(self):
        cdef Cohort first, cohort
        cdef list found = []
        for first in self.cohorts.values():
            found.append(first)
            cohort = <Cohort>first.next_part
            while cohort is not first:
                found.append(cohort)
                cohort = <Cohort>cohort.next_part
        return found

    # Figures.

    def subscription_counts(self):
        """Number of subscriptions of all connections by kind of topic."""
        return {kind: self.subscriptions_by_kind[i] for i, kind in enumerate(self.kinds)}

    @property
    def n_history(self):
        """Updates kept for restored sessions."""
        return self.history.n_kept

    @property
    def history_start(self):
        """Number of the oldest update kept, or the next number when none is."""
        return self.history.start

    @property
    def history_size(self):
        """Size of the updates kept, as `History` counts it."""
        return self.history.size

    def audit(self, *, bint channels=False):
        """What became of all updates, held against what is counted where they wait now; see `Audit`.

        It looks at every pending update and every connection: milliseconds where there are tens of thousands.

        :return: dict: `cohorts` and `connections` (sums), `faults` (what does not add up, empty at any time), and with
            `channels` those, each with its `key`, None for all private ones of a name.
        """
        cdef Audit audit = Audit.__new__(Audit, self)
        cdef dict found = {"cohorts": audit.cohorts(), "connections": audit.connections(), "faults": audit.faults}
        if channels:
            found["channels"] = audit.channels()
        return found

    def update_counts(self, *, bint private=True):
        """Number of updates published by name of channel: dict[str, int]; `private`: those of private ones too."""
        cdef Channel channel
        cdef dict counts = {}
        for channel in self.channels:
            if channel.is_private and not private:
                continue
            counts[channel.name] = counts.get(channel.name, 0) + channel.seq
        return counts


cdef Py_ssize_t checked(str name, value, Py_ssize_t limit, Py_ssize_t current) except -1:
    """A count or a size that was given, or `current` for None."""
    if value is None:
        return current
    if not 0 <= value <= limit:
        raise ValueError(f"{name}: expected a whole number from 0 to {limit}, got {value}")
    return value


cdef int64_t checked_ns(str name, value, int64_t current) except -1:
    """A time that was given in seconds, or `current` for None."""
    if value is None:
        return current
    if not 0.0 <= value <= 1e8:
        raise ValueError(f"{name}: expected seconds from 0 (off) to 1e8, got {value}")
    return <int64_t>(<double>value * 1e9)


cdef bytes order_of(list given, list subscriptions):
    """`Subscriber.order` of one that has asked for `given`, which `subscriptions` has in the order of its cohort."""
    cdef dict places = {}
    cdef Py_ssize_t i, n = len(given)
    cdef bytes order = PyBytes_FromStringAndSize(NULL, n * sizeof(uint32_t))
    cdef uint32_t* out = <uint32_t*>PyBytes_AS_STRING(order)
    for i in range(n):
        places[(<tuple>subscriptions[i])[0]] = i
    for i in range(n):
        out[i] = places[(<tuple>given[i])[0]]
    return order


cdef bytes cohort_key(Dialect dialect, bint is_paused, int window_bits, list subscriptions):
    """Addresses of what makes a cohort; the cohort keeps all of it alive. 16 bytes a subscription, or a digest of them.

    Those who hold the same are few where many things are held, and the key would be half of what a connection costs.
    No two of 128 bits of BLAKE2b are equal by chance, and what is digested is not for clients to choose.
    """
    cdef Py_ssize_t i = 2
    cdef bytes key = PyBytes_FromStringAndSize(NULL, (2 + 2 * len(subscriptions)) * sizeof(uintptr_t))
    cdef uintptr_t* out = <uintptr_t*>PyBytes_AS_STRING(key)
    out[0] = <uintptr_t><void*>dialect
    out[1] = <uintptr_t>(window_bits << 1) | is_paused
    for topic, options in subscriptions:
        out[i] = <uintptr_t><void*>topic
        out[i + 1] = <uintptr_t><void*>options
        i += 2
    return key if i <= 8 else _blake2b(key, digest_size=16).digest()


cdef str json_text(str text):
    """A JSON string literal."""
    return json.dumps(text)
