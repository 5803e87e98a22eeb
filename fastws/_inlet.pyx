# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Where threads of other extensions publish: the server's side of the C API, see include/fastws.h.

The functions behind the API are C and in `_inlet_impl/ring.h`; here are those that need Python, and the consumer: on
the thread of the event loop it makes values of what is in the ring and hands them to the market.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy
from posix.unistd cimport read

import os

from fastws cimport (
    FASTWS_COUNT_FULL,
    FASTWS_COUNT_INVALID,
    FASTWS_COUNT_PUBLISHED,
    FASTWS_COUNT_REJECTED,
    FASTWS_COUNT_TAKEN,
    FASTWS_COUNT_UNDELIVERED,
    FASTWS_NONE,
    fastws_book,
    fastws_decimal,
    fastws_hub,
    fastws_price,
)
from fastws._market cimport (
    BookUpdate,
    Decimal64,
    Instrument,
    absent,
    new_book,
    new_price,
    whole,
)

from fastws.market.instruments import MAX_INSTRUMENTS as _MAX_INSTRUMENTS

cdef extern from *:
    """
    #include "_inlet_impl/ring.h"

    /* The names of the members are those of the functions they point to. */
    static fastws_api fastws_the_api = {
        FASTWS_ABI, FASTWS_API_VERSION, sizeof(fastws_api), 0, NULL, hub_release, NULL, publish_price, publish_book,
        publish_json, publish_many, subscriber_count, hub_count,
    };

    /* The table as extensions get it, with the two functions that need Python; called once. NULL: no memory. */
    static inline void *the_api(void *from_object, void *intern) {
        if (pthread_atfork(NULL, NULL, ring_forked)) return NULL;
        fastws_the_api.hub_from_object = (fastws_hub *(*)(void *))from_object;
        fastws_the_api.intern = (int32_t (*)(fastws_hub *, const char *, size_t))intern;
        return &fastws_the_api;
    }

    static inline void *hub_owner(fastws_hub *hub) { return hub->owner; }

    static inline void hub_set_owner(fastws_hub *hub, void *owner) { hub->owner = owner; }

    static inline void hub_set_n_topics(fastws_hub *hub, int32_t n) {
        atomic_store_explicit(&hub->n_topics, n, memory_order_release);
    }

    static inline void hub_set_subscribers(fastws_hub *hub, int32_t topic, int32_t n) {
        atomic_store_explicit(&hub->subscribers[topic], n, memory_order_relaxed);
    }

    static inline int hub_wants_counts(fastws_hub *hub) {
        return atomic_load_explicit(&hub->wants_counts, memory_order_relaxed);
    }

    static inline void hub_add_done(fastws_hub *hub, uint64_t published, uint64_t rejected) {
        atomic_fetch_add_explicit(&hub->n_published, published, memory_order_relaxed);
        atomic_fetch_add_explicit(&hub->n_rejected, rejected, memory_order_relaxed);
    }
    """
    ctypedef struct ring_record:
        int kind
        uint32_t size
        const char* value
        uint64_t span
    cdef enum:
        RECORD_SKIP, RECORD_PRICE, RECORD_BOOK, RECORD_JSON
    void* the_api(void* from_object, void* intern) nogil
    fastws_hub* hub_new(uint64_t size, int32_t max_topics, int read_fd, int wake_fd) nogil
    void* hub_owner(fastws_hub* hub)
    void hub_set_owner(fastws_hub* hub, void* owner)
    void hub_hold(fastws_hub* hub) noexcept nogil
    void hub_release(fastws_hub* hub) noexcept nogil
    void hub_set_n_topics(fastws_hub* hub, int32_t n) noexcept nogil
    void hub_set_subscribers(fastws_hub* hub, int32_t topic, int32_t n) noexcept nogil
    bint hub_wants_counts(fastws_hub* hub) noexcept nogil
    void hub_add_done(fastws_hub* hub, uint64_t published, uint64_t rejected) noexcept nogil
    bint ring_peek(fastws_hub* hub, ring_record* record) noexcept nogil
    void ring_pop(fastws_hub* hub, const ring_record* record) noexcept nogil
    bint ring_sleep(fastws_hub* hub) noexcept nogil
    uint64_t ring_waiting(fastws_hub* hub) noexcept nogil
    void ring_close(fastws_hub* hub) noexcept nogil
    uint64_t ring_abandon(fastws_hub* hub) nogil
    uint64_t hub_count(fastws_hub* hub, int which) noexcept nogil

cdef enum:
    # Records taken in one turn of the loop, which is one or two milliseconds.
    TURN = 1024
    TEXTS_SIZE = 24             # of venue and quality, which lie side by side
    # Topics whose subscribers are counted in one turn.
    COUNTED = 1000

cdef double COUNT_SECONDS = 0.1
cdef int64_t MIN_SIZE = 1 << 18          # has room for a few of the longest records


@cython.final
@cython.auto_pickle(False)
cdef class Inlet:
    cdef fastws_hub* hub
    cdef readonly object loop
    cdef readonly object market
    cdef object publish_json
    cdef object on_rejected
    cdef object publish_price
    cdef object publish_book
    cdef dict topics            # code -> number
    cdef list instruments       # by number: an Instrument, or the code of one that nothing was published of yet
    cdef int fd
    cdef bint is_open
    cdef object counting        # the timer of the counts
    cdef int32_t n_counted
    cdef char[TEXTS_SIZE] texts
    cdef str venue
    cdef str quality

    def __cinit__(self, loop, market, *, publish_json, on_rejected, int64_t size):
        cdef int wake_fd
        cdef uint64_t power = 1
        if size < MIN_SIZE or size > (1 << 40):
            raise ValueError(f"size: expected {MIN_SIZE} bytes or more, got {size}")
        while power < <uint64_t>size:
            power *= 2
        if hasattr(os, "eventfd"):
            self.fd = wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self.fd, wake_fd = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(wake_fd, False)
        self.hub = hub_new(power, _MAX_INSTRUMENTS, self.fd, wake_fd)
        if self.hub is NULL:
            os.close(self.fd)
            if wake_fd != self.fd:
                os.close(wake_fd)
            raise MemoryError(f"a ring of {power} bytes")
        hub_set_owner(self.hub, <void*>self)
        self.loop = loop
        self.market = market
        self.publish_json = publish_json
        self.on_rejected = on_rejected
        self.publish_price = market.publish_price
        self.publish_book = market.publish_book
        self.topics = {}
        self.instruments = []
        self.is_open = True
        loop.add_reader(self.fd, self.drain)

    def __dealloc__(self):
        if self.hub is not NULL:
            hub_set_owner(self.hub, NULL)
            ring_close(self.hub)
            hub_release(self.hub)

    @property
    def __fastws_inlet__(self):
        return self

    def intern(self, str code not None):
        number = self.topics.get(code)
        if number is not None:
            return number
        if len(self.instruments) >= _MAX_INSTRUMENTS:
            raise ValueError(f"code: there may be {_MAX_INSTRUMENTS} instruments")
        Instrument(code)        # raises what is wrong with it
        number = len(self.instruments)
        self.instruments.append(code)
        self.topics[code] = number
        hub_set_n_topics(self.hub, number + 1)
        return number

    def counts(self):
        return {
            "taken": hub_count(self.hub, FASTWS_COUNT_TAKEN),
            "published": hub_count(self.hub, FASTWS_COUNT_PUBLISHED),
            "rejected": hub_count(self.hub, FASTWS_COUNT_REJECTED),
            "undelivered": hub_count(self.hub, FASTWS_COUNT_UNDELIVERED),
            "full": hub_count(self.hub, FASTWS_COUNT_FULL),
            "invalid": hub_count(self.hub, FASTWS_COUNT_INVALID),
        }

    @property
    def waiting_bytes(self):
        return ring_waiting(self.hub)

    def drain(self):
        """Take what is in the ring, a turn's worth of it; the reader of the wake-up calls it."""
        cdef ring_record record
        cdef uint64_t n_published = 0, n_rejected = 0
        cdef int n = 0
        cdef char[512] woken
        if not self.is_open:
            return
        if self.counting is None and hub_wants_counts(self.hub):
            self.count_subscribers()
        while read(self.fd, woken, sizeof(woken)) == sizeof(woken):
            pass
        while True:
            if not ring_peek(self.hub, &record):
                if ring_sleep(self.hub):
                    break
                continue
            if n == TURN:
                # It is not asleep, so nobody else calls this.
                self.loop.call_soon(self.drain)
                break
            n += record.kind != RECORD_SKIP
            try:
                if record.kind == RECORD_PRICE:
                    self.take_price(<const fastws_price*>record.value)
                elif record.kind == RECORD_BOOK:
                    self.take_book(<const fastws_book*>record.value)
                elif record.kind == RECORD_JSON:
                    self.publish_json(PyBytes_FromStringAndSize(record.value, record.size))
            except Exception as error:
                n_rejected += 1
                self.on_rejected(error)
            else:
                n_published += record.kind != RECORD_SKIP
            ring_pop(self.hub, &record)
        hub_add_done(self.hub, n_published, n_rejected)

    def close(self):
        """Take nothing any more; what waits is published, and what cannot be is counted. Returns how many of these."""
        cdef uint64_t n
        if not self.is_open:
            return 0
        ring_close(self.hub)
        # Bounded: by what the ring holds, since nothing comes in any more.
        while self.is_open and ring_waiting(self.hub):
            before = ring_waiting(self.hub)
            self.drain()
            if ring_waiting(self.hub) == before:
                break
        self.is_open = False
        hub_set_owner(self.hub, NULL)
        self.loop.remove_reader(self.fd)
        if self.counting is not None:
            self.counting.cancel()
        with nogil:
            n = ring_abandon(self.hub)
        return n

    cdef object instrument_of(self, int32_t topic):
        found = self.instruments[topic]
        if type(found) is Instrument:
            return found
        if self.market.instrument(found) is None and len(self.market.instruments) >= _MAX_INSTRUMENTS:
            raise ValueError(f"{found} is new, and there may be {_MAX_INSTRUMENTS} instruments")
        self.instruments[topic] = instrument = self.market.ensure_instrument(found)
        return instrument

    cdef int read_texts(self, const char* texts) except -1:
        """Venue and quality of a record, which are nearly always those of the one before."""
        if memcmp(texts, self.texts, TEXTS_SIZE) != 0:
            self.venue = texts[:8].partition(b"\0")[0].decode("ascii") or None
            self.quality = texts[8:TEXTS_SIZE].partition(b"\0")[0].decode("ascii") or None
            memcpy(self.texts, texts, TEXTS_SIZE)
        return 0

    cdef int take_price(self, const fastws_price* price) except -1:
        instrument = self.instrument_of(price.topic)
        self.read_texts(price.venue)
        self.publish_price(
            new_price(
                instrument,
                decimal(price.price),
                decimal(price.change),
                decimal(price.change_percent),
                whole(price.volume),
                whole(price.trade_volume),
                decimal(price.high),
                decimal(price.low),
                self.venue,
                self.quality,
                price.event_time_ms,
                None,
            )
        )
        return 0

    cdef int take_book(self, const fastws_book* book) except -1:
        cdef int i
        cdef BookUpdate update
        instrument = self.instrument_of(book.topic)
        self.read_texts(book.venue)
        update = new_book(
            instrument, <int8_t>book.price_scale, self.venue, self.quality, book.event_time_ms, None
        )
        update.n_bids = book.n_bids
        update.n_asks = book.n_asks
        for i in range(book.n_bids):
            update.bid_prices[i] = book.bids[i].price
            update.bid_quantities[i] = book.bids[i].quantity
        for i in range(book.n_asks):
            update.ask_prices[i] = book.asks[i].price
            update.ask_quantities[i] = book.asks[i].quantity
        self.publish_book(update)
        return 0

    def count_subscribers(self):
        cdef int32_t i, end
        if not self.is_open:
            return
        if self.n_counted >= len(self.instruments):
            self.n_counted = 0
        end = min(<int32_t>len(self.instruments), self.n_counted + COUNTED)
        for i in range(self.n_counted, end):
            hub_set_subscribers(self.hub, i, self.subscribers_of(self.instruments[i]))
        self.n_counted = end
        self.counting = self.loop.call_later(COUNT_SECONDS, self.count_subscribers)

    def subscribers_of(self, known):
        """Subscriptions to the stock, the sector and the market of an instrument, or of a code."""
        instrument = known if type(known) is Instrument else self.market.instrument(known)
        places = [("stock", known if instrument is None else instrument.code)]
        if instrument is not None:
            places += [("sector", instrument.sector), ("market", instrument.market)]
        n = 0
        for kind, name in places:
            topic = None if name is None else self.market.hub.find_topic(kind, name)
            if topic is not None:
                n += topic.n_subscribers
        return n


cdef inline Decimal64 decimal(fastws_decimal value) noexcept:
    cdef Decimal64 out
    if value.mantissa == FASTWS_NONE:
        return absent()
    out.mantissa = value.mantissa
    out.scale = <int8_t>value.scale
    return out


cdef fastws_hub* hub_from_object(object given) except NULL with gil:
    inlet = getattr(given, "__fastws_inlet__", None)
    if type(inlet) is not Inlet:
        raise TypeError(f"expected a fastws.Server or its hub, got {type(given).__name__}")
    hub_hold((<Inlet>inlet).hub)
    return (<Inlet>inlet).hub


cdef int32_t intern(fastws_hub* hub, const char* code, size_t size) except -1 with gil:
    if hub_owner(hub) is NULL:
        raise ValueError("the server has ended")
    return (<Inlet>hub_owner(hub)).intern(code[:size].decode())


# Without the table, which then is NULL, it raises.
_C_API = PyCapsule_New(the_api(<void*>hub_from_object, <void*>intern), "fastws._inlet._C_API", NULL)
