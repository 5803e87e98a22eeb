# What the realtime dialect adds: the day's highest and lowest price, and messages in its envelope.

cdef extern from "<time.h>":
    ctypedef long time_t
    time_t c_time "time"(time_t* out) noexcept nogil

cdef enum:
    DAY_MS = 86_400_000

# Hours ahead of UTC by the currency that an instrument is traded in. Nowhere is midnight within a session, extended
# hours included, so summer time makes no difference.
cdef dict HOURS_AHEAD = {
    "KRW": 9, "JPY": 9, "CNY": 8, "HKD": 8, "TWD": 8, "SGD": 8, "AUD": 10, "NZD": 12, "INR": 5,
    "USD": -5, "CAD": -5, "BRL": -3,
}


cdef bint is_less(Decimal64 a, Decimal64 b) noexcept nogil:
    cdef Decimal64 finer_a = a, finer_b = b
    cdef int scale = max(a.scale, b.scale)
    if a.scale != b.scale and (rescale(a, scale, &finer_a) != 0 or rescale(b, scale, &finer_b) != 0):
        # The one that does not fit is so large that rounding the other makes no difference.
        return <double>a.mantissa / <double>POWERS[a.scale] < <double>b.mantissa / <double>POWERS[b.scale]
    return finer_a.mantissa < finer_b.mantissa


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class DayRange:
    def __cinit__(self):
        self.high_ = self.low_ = absent()

    def take(self, PriceUpdate update not None, int64_t published_ms=0):
        cdef int64_t ms = update.event_time_ms or published_ms or <int64_t>c_time(NULL) * 1000
        cdef int64_t day
        if update.instrument is None:
            raise ValueError("instrument: the PriceUpdate was never initialised")
        if update.instrument.currency is not None:
            ms += <int64_t>HOURS_AHEAD.get(update.instrument.currency, 0) * 3_600_000
        day = ms // DAY_MS
        if day < self.day:
            return
        if day > self.day:
            self.day = day
            self.high_ = self.low_ = update.price_
        elif is_less(self.high_, update.price_):
            self.high_ = update.price_
        elif is_less(update.price_, self.low_):
            self.low_ = update.price_
        # The feed knows what was before its first message.
        if not is_absent(update.high_):
            self.high_ = update.high_
        if not is_absent(update.low_):
            self.low_ = update.low_

    @property
    def high(self):
        return to_python(self.high_)

    @property
    def low(self):
        return to_python(self.low_)

    def __repr__(self):
        return f"DayRange(high={self.high}, low={self.low})"


cdef bytes encode_asset(PriceUpdate update, int64_t published_ms, DayRange day, bint is_stale):
    if update.instrument is None:
        raise ValueError("instrument: the PriceUpdate was never initialised")
    cdef Text code = utf8(update.instrument.code)
    cdef Text quality = utf8(update.quality)
    cdef Decimal64 high = update.high_, low = update.low_
    # Codes are short; qualities come from feeds.
    cdef Py_ssize_t size = LABELS_SIZE + MAX_ESCAPE * (code.size + quality.size) + 6 * DECIMAL_TEXT_SIZE + TIME_SIZE
    cdef char[STACK_SIZE] stack
    cdef bytes heap
    cdef char* start = stack
    if size > STACK_SIZE:
        heap = PyBytes_FromStringAndSize(NULL, size)
        start = PyBytes_AS_STRING(heap)
    if day is not None:
        if is_absent(high):
            high = day.high_
        if is_absent(low):
            low = day.low_
    cdef char* p = put(start, b'{"type":"asset_update","data":{"symbol":"')
    p = put_escaped(p, code.start, code.size)
    p = put_decimal(put(p, b'","price":'), update.price_)
    p = put_number(p, b',"change":', update.change_)
    p = put_number(p, b',"change_percent":', update.change_percent_)
    p = put_number(p, b',"volume":', update.volume_)
    p = put_number(p, b',"high":', high)
    p = put_number(p, b',"low":', low)
    p = put_member(p, b',"quality":"', quality)
    if is_stale:
        p = put(p, b',"stale":true')
    p[0] = c"}"
    p = put_timestamp(p + 1, published_ms)
    p[0] = c"}"
    return PyBytes_FromStringAndSize(start, p + 1 - start)


cdef bytes enveloped(const char* head, str subject, str status, int64_t published_ms):
    """A status in the envelope of the realtime dialect; `head` is its beginning up to the subject."""
    cdef bytes flat = encode_status(head, subject, status, None, published_ms)
    # The timestamp is what encode_status ends with.
    cdef Py_ssize_t end = PyBytes_GET_SIZE(flat) - (TIME_SIZE + 15)
    return flat[:end] + b"}" + flat[end:] + b"}"


def encode_realtime(payload, int64_t published_ms, DayRange day=None, *, bint stale=False):
    check_published(published_ms)
    if type(payload) is PriceUpdate:
        return encode_asset(<PriceUpdate>payload, published_ms, day, stale)
    if type(payload) is FeedStatus:
        feed = <FeedStatus>payload
        return enveloped(b'{"type":"feed_status","data":{"feed":"', feed.feed, feed.status, published_ms)
    raise TypeError(f"no realtime message is written from a {type(payload).__name__}")
