# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""How often each symbol is usually updated, and which have been silent for longer than that can be.

Publishing knows nothing of it: about once a second somebody looks at the numbers that channels have anyway, which takes
a look at two places in memory a symbol. Sans-IO; everything belongs to the thread of the event loop and holds the GIL.
"""

cimport cython
from libc.math cimport INFINITY, exp2f, fmax, fmaxf, fminf, isfinite, sqrtf
from libc.stdint cimport int8_t, int64_t, uint16_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset

from fastws._core cimport Channel, Update
from fastws._market cimport PriceUpdate

N_KINDS = 2

cdef extern from *:
    """
    #ifdef __GNUC__
    #define fastws_prefetch(p) __builtin_prefetch(p)
    #else
    #define fastws_prefetch(p) ((void)0)
    #endif
    """
    void fastws_prefetch(const void* p) noexcept nogil

cdef enum:
    KINDS = 2
    AHEAD = 8

# A silence of so many typical ones: of independent arrivals one in 10**8 is as long.
cdef float TYPICAL = 10.0
# What is added to it while few have been seen, by the root of their number: the typical one may have been underrated.
cdef float MARGIN = 5.0
# So many of any length have to be seen before a symbol is judged.
cdef float N_LEAST = 20.0
# And of so many longest ones, for arrivals that come in bursts.
cdef float PEAKS = 2.0
# A silence is an outage that is longer than so many limits,
cdef float OUTAGE = 2.0
# and so many of them away from the outage before: what comes more often is how the symbol is.
cdef float APART = 10.0
# Of fewer intervals it is not known what an outage would be.
cdef float N_KNOWN = 5.0
# In these units it is noted when an outage was over, in 16 bits: after 6 days it looks as if it were so again.
cdef double OUTAGE_UNIT = 8.0
# What was learned counts for half after so many seconds of sessions.
cdef float HALF_LIFE = 3600.0


# One cache line.
cdef struct Symbol:
    int64_t seq                     # -1 before the first look
    double last                     # when it was updated last
    double since                    # when the silence began to count
    float limit                     # of the session that there is; infinite where there is none
    float[KINDS] n                  # intervals
    float[KINDS] sum                # of them, seconds
    float[KINDS] squares            # the sum of their squares
    float[KINDS] peak               # the longest
    int8_t kind
    int8_t is_stale
    uint16_t outage                 # when the last one was over


@cython.final
@cython.auto_pickle(False)
cdef class Cadences:
    cdef Symbol* symbols            # owned
    cdef Py_ssize_t size
    cdef readonly Py_ssize_t n
    cdef readonly Py_ssize_t n_stale
    cdef readonly Py_ssize_t n_judged
    cdef readonly double least
    cdef readonly double most
    cdef readonly double learning
    cdef double looked_at

    def __cinit__(self):
        self.symbols = NULL

    def __init__(self, *, double least, double most, double learning):
        self.configure(least=least, most=most, learning=learning)

    def __dealloc__(self):
        free(self.symbols)

    def configure(self, *, double least, double most, double learning):
        if not 0.0 < least <= most:
            raise ValueError(f"least: expected above 0 and up to most, got {least} and {most}")
        if not 0.0 <= learning <= HALF_LIFE:
            raise ValueError(f"learning: expected 0 to {HALF_LIFE:g}, got {learning}")
        self.least = least
        self.most = most
        self.learning = learning
        cdef Py_ssize_t i
        for i in range(self.n):
            self.set_limit(&self.symbols[i])

    def add(self, Py_ssize_t n, double now):
        cdef Py_ssize_t i, size
        cdef Symbol* grown
        if n < 0:
            raise ValueError(f"n: expected 0 or more, got {n}")
        if self.n + n > self.size:
            size = max(self.n + n, self.size + self.size // 2)
            grown = <Symbol*>realloc(self.symbols, size * sizeof(Symbol))
            if grown is NULL:
                raise MemoryError
            self.symbols = grown
            self.size = size
        memset(&self.symbols[self.n], 0, n * sizeof(Symbol))
        for i in range(self.n, self.n + n):
            self.symbols[i].seq = -1
            self.symbols[i].last = self.symbols[i].since = now
            self.symbols[i].limit = INFINITY
            self.symbols[i].kind = -1
            self.symbols[i].outage = in_units(now) - 0x8000
        self.n += n

    def enter(self, symbols, int kind, double now):
        if not -1 <= kind < KINDS:
            raise ValueError(f"kind: expected -1, 0 or 1, got {kind}")
        cdef Symbol* symbol
        cdef Py_ssize_t i
        for i in symbols:
            symbol = self.at(i)
            symbol.kind = <int8_t>kind
            symbol.since = now
            self.mark(symbol, False)
            self.set_limit(symbol)

    def excuse(self, Py_ssize_t symbol, double now):
        cdef Symbol* excused = self.at(symbol)
        excused.since = now
        self.mark(excused, False)

    def stand_still(self, double seconds):
        if not seconds >= 0.0:
            raise ValueError(f"seconds: expected 0 or more, got {seconds}")
        cdef Py_ssize_t i
        for i in range(self.n):
            self.symbols[i].last += seconds
            self.symbols[i].since += seconds
        self.looked_at += seconds

    def look(self, int64_t[::1] seq not None, double[::1] at not None, double now):
        cdef Py_ssize_t i, n = self.n
        cdef Symbol* symbol
        cdef list stale = [], live = []
        cdef bint is_late
        if seq.shape[0] < n or at.shape[0] < n:
            raise ValueError(f"seq, at: expected {n} numbers, got {seq.shape[0]} and {at.shape[0]}")
        for i in range(n):
            symbol = &self.symbols[i]
            if seq[i] != symbol.seq:
                self.learn(symbol, seq[i], at[i])
            is_late = now - fmax(symbol.last, symbol.since) > symbol.limit
            if is_late != symbol.is_stale:
                self.mark(symbol, is_late)
                (stale if is_late else live).append(i)
        self.looked_at = now
        return stale, live

    def silence(self, Py_ssize_t symbol, double now):
        cdef Symbol* found = self.at(symbol)
        return fmax(0.0, now - fmax(found.last, found.since))

    def interval(self, Py_ssize_t symbol):
        cdef Symbol* found = self.at(symbol)
        return None if found.kind < 0 or found.n[found.kind] == 0.0 else found.sum[found.kind] / found.n[found.kind]

    def limit(self, Py_ssize_t symbol):
        cdef Symbol* found = self.at(symbol)
        return found.limit if isfinite(found.limit) else None

    def is_stale(self, Py_ssize_t symbol):
        return self.at(symbol).is_stale != 0

    cdef Symbol* at(self, Py_ssize_t i) except NULL:
        if not 0 <= i < self.n:
            raise IndexError(f"symbol {i} of {self.n}")
        return &self.symbols[i]

    cdef void mark(self, Symbol* symbol, bint is_stale) noexcept:
        self.n_stale += is_stale - symbol.is_stale
        symbol.is_stale = is_stale

    cdef void learn(self, Symbol* symbol, int64_t seq, double at) noexcept:
        """Count the intervals up to an update at `at`, where they lie within a session."""
        cdef int kind = symbol.kind
        cdef int64_t n = max(seq - symbol.seq, 1)
        cdef float time, first, rest, kept, bound
        if symbol.seq >= 0 and kind >= 0 and symbol.last > symbol.since:
            time = <float>fmax(at - symbol.last, 0.0)
            first = time
            if n > 1:
                # Of the first of several it is known how long it was at the last look; the others share what is left.
                first = fminf(time, fmaxf(time / n, <float>(self.looked_at - symbol.last)))
            bound = self.bound(symbol)
            if first > bound and self.is_outage(symbol, time, bound, at):
                symbol.seq = seq
                symbol.last = fmax(symbol.last, at)
                return
            time = fminf(time, bound)
            first = fminf(first, time)
            rest = (time - first) * (time - first) / (n - 1) if n > 1 else 0.0
            kept = exp2f(-time / HALF_LIFE)
            symbol.n[kind] = symbol.n[kind] * kept + n
            symbol.sum[kind] = symbol.sum[kind] * kept + time
            symbol.squares[kind] = symbol.squares[kind] * kept + first * first + rest
            symbol.peak[kind] = fmaxf(symbol.peak[kind] * kept, first)
            self.set_limit(symbol)
        symbol.seq = seq
        symbol.last = fmax(symbol.last, at)

    cdef void set_limit(self, Symbol* symbol) noexcept:
        """The typical interval is that which a random moment lies in: bursts of short ones do not hide the pauses
        between them, nor does the rush of an opening what comes after it."""
        cdef int kind = symbol.kind
        cdef float limit = INFINITY
        self.n_judged -= isfinite(symbol.limit) != 0
        if kind >= 0 and symbol.n[kind] >= N_LEAST and symbol.sum[kind] >= self.learning:
            limit = self.longest(symbol)
            if limit > self.most:
                limit = INFINITY
        symbol.limit = limit
        self.n_judged += isfinite(limit) != 0

    cdef float longest(self, Symbol* symbol) noexcept:
        """The longest silence that is usual, by what was seen in sessions such as there is."""
        cdef int kind = symbol.kind
        cdef float limit = <float>self.least, typical
        if symbol.sum[kind] > 0.0:
            typical = symbol.squares[kind] / symbol.sum[kind]
            limit = fmaxf(limit, TYPICAL * typical * (1.0 + MARGIN * sqrtf(typical / symbol.sum[kind])))
            limit = fmaxf(limit, PEAKS * symbol.peak[kind])
        return limit

    cdef float bound(self, Symbol* symbol) noexcept:
        """As how long an interval is learned at most; also of a symbol that is not judged, so that an outage before it
        is does not put that off for hours."""
        if isfinite(symbol.limit):
            return symbol.limit
        return fminf(<float>self.most, self.longest(symbol) if symbol.n[symbol.kind] >= N_KNOWN else INFINITY)

    cdef bint is_outage(self, Symbol* symbol, float silence, float bound, double at) noexcept:
        """Whether a silence longer than `bound`, until `at`, was an outage, which teaches nothing."""
        cdef uint16_t now = in_units(at), apart = now - symbol.outage
        if silence <= OUTAGE * bound:
            return False
        symbol.outage = now
        # Its own length is no time in which the symbol was as usual.
        return apart * OUTAGE_UNIT - silence > APART * bound


@cython.final
@cython.auto_pickle(False)
cdef class Sampler:
    cdef list channels              # two a symbol

    def __cinit__(self):
        self.channels = []

    def __len__(self):
        return len(self.channels) // 2

    def add(self, Channel prices not None, Channel books not None):
        self.channels.append(prices)
        self.channels.append(books)

    def read(self, int64_t[::1] seq not None, double[::1] at not None, float[::1] lags not None):
        cdef Py_ssize_t i, n = len(self.channels) // 2, n_lags = 0
        cdef list channels = self.channels
        cdef Channel prices, books
        cdef int64_t number
        if seq.shape[0] < n or at.shape[0] < n or lags.shape[0] < n:
            raise ValueError(f"seq, at, lags: expected room for {n} symbols")
        for i in range(n):
            if i + AHEAD < n:
                fastws_prefetch(&(<Channel>channels[2 * (i + AHEAD)]).seq)
                fastws_prefetch(&(<Channel>channels[2 * (i + AHEAD) + 1]).seq)
            prices = <Channel>channels[2 * i]
            books = <Channel>channels[2 * i + 1]
            number = prices.seq + books.seq
            if number == seq[i]:
                continue
            seq[i] = number
            at[i] = fmax(published(prices.last), published(books.last))
            if prices.last is not None:
                n_lags += put_lag(&lags[n_lags], prices.last)
        return n_lags


cdef inline uint16_t in_units(double at) noexcept:
    return <uint16_t>(<int64_t>(at / OUTAGE_UNIT) & 0xFFFF)


cdef inline double published(Update update) noexcept:
    return 0.0 if update is None else update.published_ns * 1e-9


cdef inline bint put_lag(float* out, Update update) noexcept:
    """Write how long after the exchange's time a pushed price was received, in seconds; whether that is known."""
    cdef PriceUpdate price
    if type(update.payload) is not PriceUpdate:
        return False
    price = <PriceUpdate>update.payload
    if price.event_time_ms == 0 or price.quality == "polled":
        return False
    out[0] = <float>(
        (update.published_ms - price.event_time_ms) * 1e-3
        - (update.published_ns - update.origin_ns) * 1e-9
    )
    return True
