# Log-linear histogram of durations, and the parsing of the times that go into it.
#
# A frame brings N messages whose latencies lie evenly between the first one's and the last one's. They are
# added in constant time: the counts of the first and the last bucket directly, and those between as a
# density that starts at one bucket and stops at another, summed up only when the figures are read.

cdef enum:
    SUB_BITS = 8
    SUB_BUCKETS = 256                       # per power of two: under 0.4 % of relative error
    MAX_TICKS = 600000                      # 60 s of 0.1 ms
    N_BUCKETS = 12 * SUB_BUCKETS + 2 * SUB_BUCKETS

cdef struct Histogram:
    int64_t tick_us                         # width of the finest bucket
    double total
    double sum_us
    int64_t max_us
    double counts[N_BUCKETS]
    double density[N_BUCKETS]               # change of the values per tick that starts at this bucket


cdef void histogram_clear(Histogram* h, int64_t tick_us) noexcept nogil:
    memset(h, 0, sizeof(Histogram))
    h.tick_us = tick_us


cdef inline int bucket_of(int64_t tick) noexcept nogil:
    # Up to 2 * SUB_BUCKETS ticks a bucket is one tick wide, then twice as wide with every power of two.
    cdef int shift
    if tick < 2 * SUB_BUCKETS:
        return <int>tick
    shift = 63 - __builtin_clzll(<unsigned long long>tick) - SUB_BITS
    return shift * SUB_BUCKETS + <int>(tick >> shift)


cdef inline int64_t bucket_start(int bucket) noexcept nogil:
    cdef int shift
    if bucket < 2 * SUB_BUCKETS:
        return bucket
    shift = (bucket >> SUB_BITS) - 1
    return <int64_t>(bucket - shift * SUB_BUCKETS) << shift


cdef void histogram_add(Histogram* h, int64_t us) noexcept nogil:
    cdef int64_t tick
    if us < 0:
        us = 0
    tick = us // h.tick_us
    if tick >= MAX_TICKS:
        tick = MAX_TICKS - 1
    h.counts[bucket_of(tick)] += 1.0
    h.total += 1.0
    h.sum_us += <double>us
    if us > h.max_us:
        h.max_us = us


cdef void histogram_spread(Histogram* h, int64_t first_us, int64_t last_us, int64_t n) noexcept nogil:
    """Add `n` values spread evenly over the ticks from one latency to the other, in whichever order they
    come."""
    cdef int64_t low, high
    cdef int low_bucket, high_bucket
    cdef double per_tick
    if first_us < 0:
        first_us = 0
    if last_us < 0:
        last_us = 0
    if last_us > first_us:
        first_us, last_us = last_us, first_us
    if n == 1:
        histogram_add(h, first_us)
        return
    if first_us > h.max_us:
        h.max_us = first_us
    h.total += <double>n
    h.sum_us += 0.5 * <double>n * <double>(first_us + last_us)
    low = last_us // h.tick_us
    high = first_us // h.tick_us
    if high >= MAX_TICKS:
        high = MAX_TICKS - 1
    if low > high:
        low = high
    low_bucket = bucket_of(low)
    high_bucket = bucket_of(high)
    if low_bucket == high_bucket:
        h.counts[low_bucket] += <double>n
        return
    per_tick = <double>n / <double>(high - low + 1)
    h.counts[low_bucket] += per_tick * <double>(bucket_start(low_bucket + 1) - low)
    h.counts[high_bucket] += per_tick * <double>(high - bucket_start(high_bucket) + 1)
    h.density[low_bucket + 1] += per_tick
    h.density[high_bucket] -= per_tick


cdef list histogram_buckets(Histogram* h):
    """(upper edge in microseconds, number of values) of every bucket that is not empty, in rising order."""
    cdef list rows = []
    cdef double per_tick = 0.0, n
    cdef int i
    cdef int64_t start, end
    for i in range(N_BUCKETS - 1):
        start = bucket_start(i)
        end = bucket_start(i + 1)
        per_tick += h.density[i]
        n = h.counts[i] + per_tick * <double>(end - start)
        # What is left of differences that cancel out is some 1e-9 of a value.
        if n > 1e-4:
            rows.append((end * h.tick_us, n))
    return rows


cdef dict histogram_summary(Histogram* h):
    """`count` and percentiles in milliseconds; all but `count` are None when nothing was added."""
    cdef list rows = histogram_buckets(h)
    cdef dict out = {"count": round(h.total)}
    cdef double total = 0.0, seen, rank, share
    cdef str name
    for _, n in rows:
        total += n
    for name, share in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99), ("p999_ms", 0.999)):
        out[name] = None
        rank = total * share
        seen = 0.0
        for upper, n in rows:
            seen += n
            if seen >= rank:
                out[name] = min(upper, h.max_us) / 1000.0
                break
    out["max_ms"] = h.max_us / 1000.0 if rows else None
    out["mean_ms"] = h.sum_us / h.total / 1000.0 if rows else None
    return out
