# What is counted and timed for those who run a server: plain C numbers, read when somebody asks.

cdef extern from *:
    """
    /* Upper bounds in nanoseconds, six a decade from 10 us to 10 s; what is longer counts at the last place. */
    #define FASTWS_DECADE(ns) (ns), 3 * (ns) / 2, 2 * (ns), 3 * (ns), 5 * (ns), 7 * (ns)
    static const int64_t fastws_bounds[] = {
        FASTWS_DECADE(10000LL), FASTWS_DECADE(100000LL), FASTWS_DECADE(1000000LL), FASTWS_DECADE(10000000LL),
        FASTWS_DECADE(100000000LL), FASTWS_DECADE(1000000000LL), 10000000000LL, INT64_MAX
    };
    /* By the highest bit of a duration: the first bound that it may be under. Filled when the module is loaded. */
    static uint8_t fastws_first_bound[64];

    static void fastws_fill_first_bounds(void) {
        for (int bit = 0, i = 0; bit < 64; bit++) {
            while (fastws_bounds[i] < (int64_t)1 << (bit < 62 ? bit : 62)) i++;
            fastws_first_bound[bit] = (uint8_t)i;
        }
    }
    static inline int fastws_bucket(int64_t ns) {
        int i = fastws_first_bound[63 - __builtin_clzll((uint64_t)ns | 1)];
        while (ns > fastws_bounds[i]) i++;
        return i;
    }
    """
    const int64_t* fastws_bounds
    void fastws_fill_first_bounds() noexcept nogil
    int fastws_bucket(int64_t ns) noexcept nogil

fastws_fill_first_bounds()

HISTOGRAM_BOUNDS = tuple([fastws_bounds[i] / 1e9 for i in range(N_BUCKETS - 1)])


cdef inline void observe(Histogram* histogram, int64_t ns) noexcept nogil:
    """Count a duration. One under 0 is a clock's rounding."""
    if ns < 0:
        ns = 0
    histogram.counts[fastws_bucket(ns)] += 1
    histogram.sum_ns += ns


# Durations that come in order: most of them count at the same place as the one before.
cdef struct Run:
    Histogram* histogram
    int64_t low
    int64_t high
    int64_t n
    int64_t sum_ns
    int bucket


cdef inline void begin_run(Run* run, Histogram* histogram) noexcept nogil:
    run.histogram = histogram
    run.low = run.high = run.n = run.sum_ns = 0
    run.bucket = 0


cdef inline void observe_next(Run* run, int64_t ns) noexcept nogil:
    if ns <= run.low or ns > run.high:
        run.histogram.counts[run.bucket] += run.n
        run.n = 0
        if ns < 0:
            ns = 0
        run.bucket = fastws_bucket(ns)
        run.high = fastws_bounds[run.bucket]
        run.low = fastws_bounds[run.bucket - 1] if run.bucket else -1
    run.n += 1
    run.sum_ns += ns


cdef inline void end_run(Run* run) noexcept nogil:
    run.histogram.counts[run.bucket] += run.n
    run.histogram.sum_ns += run.sum_ns


cdef inline void note_flush(PyObject* update, int64_t begun_ns, int64_t ended_ns) noexcept:
    (<Update>update).flushed_ns = begun_ns
    (<Update>update).sent_ns = ended_ns


@cython.final
cdef class Meters:
    """Counters and durations of a hub, all since its start.

    Durations are counted in buckets; their upper bounds are `HISTOGRAM_BOUNDS` in seconds, inclusive.

    - ``feed``: from the receipt of what an update came in to its publication; see `Hub.set_received`.
    - ``wait``: from publication to the begin of the flush, once for every update and cohort.
    - ``send``: from the begin of a flush until the last member of its cohort has it: in the kernel, or where the
      client is slow in its outbox.
    - ``total``: from receipt (publication, where that is not known) to the end of the flush, once for every update
      and cohort.
    - ``flush_delay``: from when a flush was due to its begin. Overload shows here.
    - ``loop_lag``: how late the loop calls the hub's timers. One or two milliseconds are the timers' resolution.

    Flushes at a pace that clients asked for with `max_rate` are left out of ``wait`` and ``total``.
    """

    def __cinit__(self):
        self.opened = {}

    def histograms(self):
        """dict[str, (list of counts by bucket, sum in seconds)]; the last count is of what is over every bound."""
        return {
            "feed": histogram_figures(&self.feed),
            "wait": histogram_figures(&self.wait),
            "send": histogram_figures(&self.send),
            "total": histogram_figures(&self.total),
            "flush_delay": histogram_figures(&self.flush_delay),
            "loop_lag": histogram_figures(&self.loop_lag),
        }

    cdef int end_flush(self, list frames, int64_t begun_ns, int64_t ended_ns, bint is_paced) except -1:
        """Count a flush of `frames` that has ended."""
        cdef Frame frame
        cdef PyObject* update
        cdef Run waits, totals
        cdef uint32_t i
        observe(&self.send, ended_ns - begun_ns)
        if is_paced:
            for frame in frames:
                for i in range(frame.n_entries):
                    note_flush(entry_update(frame.entries[i]), begun_ns, ended_ns)
            return 0
        begin_run(&waits, &self.wait)
        begin_run(&totals, &self.total)
        for frame in frames:
            for i in range(frame.n_entries):
                update = entry_update(frame.entries[i])
                observe_next(&waits, begun_ns - (<Update>update).published_ns)
                observe_next(&totals, ended_ns - (<Update>update).origin_ns)
                note_flush(update, begun_ns, ended_ns)
        end_run(&waits)
        end_run(&totals)
        return 0


cdef tuple histogram_figures(Histogram* histogram):
    return [histogram.counts[i] for i in range(N_BUCKETS)], histogram.sum_ns / 1e9
