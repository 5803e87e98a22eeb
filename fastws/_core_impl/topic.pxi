@cython.final
cdef class Dialect:
    """How one endpoint writes updates.

    ``encode(payload, published_ms) -> bytes`` returns the message without its closing brace and without
    ``sequence`` and ``seq``, which the hub splices in. It is called at most once per update and dialect.
    `index` is the place where an update keeps the text of this dialect: 0 or 1.

    Without `batches`, ``encode`` returns whole messages and nothing is spliced in: each goes in a frame of its own,
    several of them in one write, snapshots included, and what the core says by itself has its members in ``data``. No
    message carries a number then, so such a dialect is for subscriptions of mode `latest`.
    """

    def __init__(self, str name, object encode, int index=0, *, bint batches=True):
        if index not in (0, 1):
            raise ValueError(f"index: a hub has two dialects, 0 and 1, not {index}")
        self.name = name
        self.encode = encode
        self.index = index
        self.batches = batches


@cython.final
cdef class Options:
    """What a subscription asks for; interned by `Hub.options`, so equal options are one object."""

    def __init__(self, bint latest, int interval_ms, int channels, double max_rate):
        self.latest = latest
        self.interval_ms = interval_ms
        self.channels = channels
        self.max_rate = max_rate

    def __repr__(self):
        mode = "latest" if self.latest else "all"
        return f"Options({mode}, max_rate={self.max_rate}, channels={self.channels})"


@cython.final
cdef class Topic:
    """Something that clients subscribe to: a stock, a market, a sector.

    `channels` are the message streams of which a subscriber gets the last value as its snapshot.
    """

    def __cinit__(self, Hub hub, str kind, str name, uint32_t kind_index, uint32_t number):
        self.kind = kind
        self.name = name
        self.kind_index = kind_index
        self.number = number
        self.channels = []

    def __dealloc__(self):
        free(self.interests)

    def __repr__(self):
        return f"Topic({self.kind}:{self.name})"

    @property
    def n_subscribers(self):
        """Connections that hold this topic by a subscription of their own."""
        cdef uint32_t i
        cdef int64_t n = 0
        for i in range(self.n_interests):
            n += (<Lane>self.interests[i].lane).cohort.n_members
        return n

    cdef uint32_t add_interest(self, Lane lane, uint32_t sub_index, Options options) except? 0xffffffff:
        cdef uint32_t size
        cdef Interest* grown
        cdef Interest* interest
        if self.n_interests == self.interests_size:
            size = 4 if self.interests_size == 0 else self.interests_size + self.interests_size // 2
            grown = <Interest*>realloc(self.interests, size * sizeof(Interest))
            if grown is NULL:
                raise MemoryError
            self.interests = grown
            self.interests_size = size
        interest = &self.interests[self.n_interests]
        interest.lane = <PyObject*>lane
        interest.sub_index = sub_index
        interest.channels = options.channels | STATUS_BIT
        interest.latest = options.latest
        self.n_interests += 1
        return self.n_interests - 1

    cdef void remove_interest(self, uint32_t index) noexcept:
        cdef Interest* moved
        self.n_interests -= 1
        if index != self.n_interests:
            moved = &self.interests[index]
            moved[0] = self.interests[self.n_interests]
            (<Lane>moved.lane).cohort.subs[moved.sub_index].interest_index = index
        if self.n_interests == 0:
            free(self.interests)
            self.interests = NULL
            self.interests_size = 0


@cython.final
cdef class Channel:
    """One stream of messages about one key, such as the prices of 005930.

    `topics` are those whose subscribers get it, the most specific first: where subscriptions overlap, the options of
    the first one hold. `seq` is the number of the last update. `is_private`: see `Hub.channel`.
    """

    def __cinit__(self, str key, str name, tuple topics, int bit, bint is_numbered, bint is_private):
        self.key = key
        self.name = name
        self.topics = topics
        self.bit = bit
        self.is_numbered = is_numbered
        self.is_private = is_private

    def __repr__(self):
        return f"Channel({self.key}/{self.name})"

    @property
    def last_payload(self):
        """Payload of the last update published, or None."""
        return None if self.last is None else self.last.payload

    @property
    def last_published_ms(self):
        """When the last update was published: Unix epoch, ms; 0 when there is none."""
        return 0 if self.last is None else self.last.published_ms

    @property
    def last_times_ns(self):
        """When the last update was received, published, flushed and sent, monotonic clock; None when there is none.

        Flushed and sent are the begin and the end of the last flush that had it, so of the slowest subscribers, and 0
        while none had. What was received at an unknown time counts as received when it was published.
        """
        if self.last is None:
            return None
        return self.last.origin_ns, self.last.published_ns, self.last.flushed_ns, self.last.sent_ns


@cython.final
@cython.no_gc
@cython.freelist(1024)
cdef class Update:
    """One published message. Its text is made when the first frame needs it, so a conflated one is never encoded.

    `position` is its place among all updates, which says what comes before what. `sequence` is the number that clients
    see and sessions go on from; private updates take none and show that of the last one before them, so that it says
    the same of either: everything up to it comes before what follows.

    Not tracked by the garbage collector: a payload must not lead back to its update.
    """

    def __cinit__(self):
        if FASTWS_DEBUG:
            count_live("Update", 1)

    def __dealloc__(self):
        if FASTWS_DEBUG:
            count_live("Update", -1)

    cdef bytes text(self, Dialect dialect):
        cdef bytes head, whole
        if dialect.index == 0:
            if self.text0 is not None:
                return self.text0
        elif self.text1 is not None:
            return self.text1
        head = dialect.encode(self.payload, self.published_ms)
        if not dialect.batches:
            self.keep_text(dialect, head)
            return head
        whole = self.whole_text(PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
        self.keep_text(dialect, whole)
        return whole

    cdef Py_ssize_t write_tail(self, char* out) noexcept:
        """Write what is spliced in behind an encoded message, at most 64 bytes; returns the number of them."""
        cdef Py_ssize_t n
        memcpy(out, <const char*>b',"sequence":', 12)
        n = 12 + write_integer(out + 12, self.sequence)
        if self.channel.is_numbered:
            memcpy(out + n, <const char*>b',"seq":', 7)
            n += 7
            n += write_integer(out + n, self.seq)
        out[n] = c"}"
        return n + 1

    cdef bytes whole_text(self, const char* head, Py_ssize_t head_size):
        """The message of which `head` is what a dialect has encoded."""
        cdef char tail[72]
        cdef Py_ssize_t n = self.write_tail(tail)
        cdef bytes whole = PyBytes_FromStringAndSize(NULL, head_size + n)
        cdef char* out = PyBytes_AS_STRING(whole)
        memcpy(out, head, head_size)
        memcpy(out + head_size, tail, n)
        return whole

    cdef Update again(self, Hub hub):
        """The same private value behind all that was published since, so that it shows no lower number than that."""
        cdef Update update = Update.__new__(Update)
        hub.position += 1
        update.channel = self.channel
        update.payload = self.payload
        update.position = hub.position
        update.sequence = hub.sequence
        update.seq = self.seq
        update.published_ms = self.published_ms
        update.published_ns = self.published_ns
        update.origin_ns = self.origin_ns
        return update

    cdef int keep_text(self, Dialect dialect, bytes text) except -1:
        if dialect.index == 0:
            self.text0 = text
        else:
            self.text1 = text
        return 0


cdef inline int64_t number_from(Update update) noexcept:
    """The first number that nothing before `update` has."""
    return update.sequence + update.channel.is_private


cdef class Tap:
    """Where a relay takes what is published here; see `Hub.attach`."""

    cdef int take(self, Update update) except -1:
        raise NotImplementedError
