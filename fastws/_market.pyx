# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Prices, order books and statuses as values, and their JSON text in both dialects.

Numbers are exact: a `Decimal64` keeps the digits of its source, so what a feed calls 1.90 leaves as 1.90,
and a number never passes through binary floating point. The text of a message is written by C code into one
buffer; the parts that never change for an instrument stand ready in the `Instrument`.

All of it runs with the GIL held; the leaf helpers that touch no object are `nogil`.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, INT64_MIN, int8_t, int64_t, uint64_t
from libc.string cimport memcpy, strlen

from decimal import Decimal
from operator import index

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow) except? -1

include "_market_impl/decimals.pxi"
include "_market_impl/text.pxi"


# Untracked by the garbage collector (no_gc): their members are str, bytes and Instrument, which lead nowhere.

@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class Instrument:
    def __init__(self, code, name=None, market=None, sector=None, previous_close=None, currency=None):
        if self.code is not None:
            raise TypeError("an Instrument is immutable")
        checked = required_text(code, "code")
        if len(checked) > MAX_CODE_SIZE or not checked.isprintable() or " " in checked:
            raise ValueError(
                f"code: expected up to {MAX_CODE_SIZE} printable characters without blanks, got {code!a:.80}"
            )
        self.name = checked if name is None else required_text(name, "name")
        self.market = None if market is None else required_text(market, "market")
        self.sector = None if sector is None else required_text(sector, "sector")
        self.currency = None if currency is None else required_text(currency, "currency")
        self.previous_close_ = optional_from_python(previous_close, "previous_close")
        code_text = escaped_bytes(checked)
        self.price_head = b'{"type":"price_update","code":"%b","name":"%b","price":' % (
            code_text,
            escaped_bytes(self.name),
        )
        self.book_head = b'{"type":"orderbook_update","code":"%b","bids":[' % code_text
        self.code = checked

    def become(self, Instrument other not None):
        if other.code != self.code:
            raise ValueError(f"code: {self.code} cannot become {other.code}")
        self.name = other.name
        self.market = other.market
        self.sector = other.sector
        self.currency = other.currency
        self.previous_close_ = other.previous_close_
        self.price_head = other.price_head

    @property
    def previous_close(self):
        return to_python(self.previous_close_)

    def __repr__(self):
        return f"Instrument({self.code!r}, {self.name!r}, market={self.market!r}, sector={self.sector!r})"


@cython.final
@cython.no_gc
@cython.freelist(1024)
@cython.auto_pickle(False)
cdef class PriceUpdate:
    def __init__(
        self,
        Instrument instrument not None,
        price,
        *,
        change=None,
        change_percent=None,
        volume=None,
        trade_volume=None,
        high=None,
        low=None,
        venue=None,
        quality=None,
        event_time_ms=0,
        extra=None,
    ):
        if self.instrument is not None:
            raise TypeError("a PriceUpdate is immutable")
        self.price_ = from_python(price, "price")
        self.change_ = optional_from_python(change, "change")
        self.change_percent_ = optional_from_python(change_percent, "change_percent")
        self.volume_ = optional_whole_from_python(volume, "volume")
        self.trade_volume_ = optional_whole_from_python(trade_volume, "trade_volume")
        self.high_ = optional_from_python(high, "high")
        self.low_ = optional_from_python(low, "low")
        self.venue = text_from_python(venue, "venue")
        self.quality = text_from_python(quality, "quality")
        self.event_time_ms = time_from_python(event_time_ms, "event_time_ms")
        self.extra = extra_from_python(extra)
        self.instrument = instrument

    @property
    def price(self):
        return to_python(self.price_)

    @property
    def change(self):
        return to_python(self.change_)

    @property
    def change_percent(self):
        return to_python(self.change_percent_)

    @property
    def volume(self):
        return to_python(self.volume_)

    @property
    def trade_volume(self):
        return to_python(self.trade_volume_)

    @property
    def high(self):
        return to_python(self.high_)

    @property
    def low(self):
        return to_python(self.low_)

    def __repr__(self):
        code = None if self.instrument is None else self.instrument.code
        return f"PriceUpdate({code!r}, {decimal_text(self.price_)})"


cdef int read_side(object levels, str side, Decimal64* prices, int64_t* quantities) except -1:
    """Read an iterable of (price, quantity) pairs into the two arrays; the number of levels."""
    cdef int n = 0
    for level in levels:
        if n == BOOK_LEVELS:
            raise ValueError(f"{side}: a book has at most {BOOK_LEVELS} levels a side")
        try:
            price, quantity = level
        except (TypeError, ValueError):
            raise ValueError(f"{side}[{n}]: expected a pair of price and quantity, got {level!r}") from None
        try:
            prices[n] = from_python(price, "price")
            quantities[n] = whole_from_python(quantity, "quantity").mantissa
        except ValueError as error:
            raise ValueError(f"{side}[{n}].{error}") from None
        n += 1
    return n


cdef int rescale_side(str side, const Decimal64* prices, int n, int scale, int64_t* mantissas) except -1:
    cdef Decimal64 price
    cdef int i
    for i in range(n):
        if rescale(prices[i], scale, &price) != 0:
            raise ValueError(
                f"{side}[{i}].price: {decimal_text(prices[i])} is too large for a book with {scale} decimals"
            )
        mantissas[i] = price.mantissa
    return 0


cdef object side_to_python(const int64_t* prices, const int64_t* quantities, int n, int8_t scale):
    cdef Decimal64 price
    cdef int i
    price.scale = scale
    levels = []
    for i in range(n):
        price.mantissa = prices[i]
        levels.append((to_python(price), quantities[i]))
    return levels


@cython.final
@cython.no_gc
@cython.freelist(256)
@cython.auto_pickle(False)
cdef class BookUpdate:
    def __init__(
        self,
        Instrument instrument not None,
        bids,
        asks,
        *,
        venue=None,
        quality=None,
        event_time_ms=0,
        extra=None,
    ):
        cdef Decimal64[BOOK_LEVELS] bid_prices
        cdef Decimal64[BOOK_LEVELS] ask_prices
        cdef int n_bids, n_asks, i
        cdef int scale = 0
        if self.instrument is not None:
            raise TypeError("a BookUpdate is immutable")
        n_bids = read_side(bids, "bids", bid_prices, self.bid_quantities)
        n_asks = read_side(asks, "asks", ask_prices, self.ask_quantities)
        for i in range(n_bids):
            scale = max(scale, bid_prices[i].scale)
        for i in range(n_asks):
            scale = max(scale, ask_prices[i].scale)
        rescale_side("bids", bid_prices, n_bids, scale, self.bid_prices)
        rescale_side("asks", ask_prices, n_asks, scale, self.ask_prices)
        self.n_bids = n_bids
        self.n_asks = n_asks
        self.price_scale = <int8_t>scale
        self.venue = text_from_python(venue, "venue")
        self.quality = text_from_python(quality, "quality")
        self.event_time_ms = time_from_python(event_time_ms, "event_time_ms")
        self.extra = extra_from_python(extra)
        self.instrument = instrument

    @property
    def bids(self):
        return side_to_python(self.bid_prices, self.bid_quantities, self.n_bids, self.price_scale)

    @property
    def asks(self):
        return side_to_python(self.ask_prices, self.ask_quantities, self.n_asks, self.price_scale)

    def __repr__(self):
        code = None if self.instrument is None else self.instrument.code
        return f"BookUpdate({code!r}, bids={self.bids!r}, asks={self.asks!r})"


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class MarketStatus:
    def __init__(self, market, status, *, extra=None):
        if self.market is not None:
            raise TypeError("a MarketStatus is immutable")
        self.status = required_text(status, "status")
        self.extra = extra_from_python(extra)
        self.market = required_text(market, "market")

    def __repr__(self):
        return f"MarketStatus({self.market!r}, {self.status!r})"


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class FeedStatus:
    def __init__(self, feed, status):
        if self.feed is not None:
            raise TypeError("a FeedStatus is immutable")
        self.status = required_text(status, "status")
        self.feed = required_text(feed, "feed")

    def __repr__(self):
        return f"FeedStatus({self.feed!r}, {self.status!r})"


cdef PriceUpdate new_price(
    Instrument instrument,
    Decimal64 price,
    Decimal64 change,
    Decimal64 change_percent,
    Decimal64 volume,
    Decimal64 trade_volume,
    Decimal64 high,
    Decimal64 low,
    str venue,
    str quality,
    int64_t event_time_ms,
    bytes extra,
):
    cdef PriceUpdate update = PriceUpdate.__new__(PriceUpdate)
    update.instrument = instrument
    update.price_ = price
    update.change_ = change
    update.change_percent_ = change_percent
    update.volume_ = volume
    update.trade_volume_ = trade_volume
    update.high_ = high
    update.low_ = low
    update.venue = venue
    update.quality = quality
    update.event_time_ms = event_time_ms
    update.extra = extra
    return update


cdef BookUpdate new_book(
    Instrument instrument,
    int8_t price_scale,
    str venue,
    str quality,
    int64_t event_time_ms,
    bytes extra,
):
    # The allocator zeroes the object, so the levels are empty.
    cdef BookUpdate update = BookUpdate.__new__(BookUpdate)
    update.instrument = instrument
    update.price_scale = price_scale
    update.venue = venue
    update.quality = quality
    update.event_time_ms = event_time_ms
    update.extra = extra
    return update


cdef enum:
    # Labels, quotes and separators of everything that may stand beside the numbers, texts and times; see
    # the writers.
    LABELS_SIZE = 192


cdef inline Py_ssize_t common_size(Text venue, Text quality, bytes extra) noexcept:
    return LABELS_SIZE + MAX_ESCAPE * (venue.size + quality.size) + extra_size(extra) + 2 * TIME_SIZE


cdef inline char* put_common(
    char* p, Text venue, Text quality, int64_t event_time_ms, bytes extra, int64_t published_ms
) noexcept:
    p = put_member(p, b',"venue":"', venue)
    p = put_member(p, b',"quality":"', quality)
    if event_time_ms != 0:
        p = put_event_time(put(p, b',"event_time":"'), event_time_ms)
        p[0] = c'"'
        p += 1
    p = put_extra(p, extra)
    return put_timestamp(p, published_ms)


cdef inline char* put_timestamp(char* p, int64_t published_ms) noexcept:
    p = put_published(put(p, b',"timestamp":"'), published_ms)
    p[0] = c'"'
    return p + 1


cdef bytes encode_price(PriceUpdate update, int64_t published_ms):
    if update.instrument is None:
        raise ValueError("instrument: the PriceUpdate was never initialised")
    cdef bytes head = update.instrument.price_head
    cdef Text venue = utf8(update.venue)
    cdef Text quality = utf8(update.quality)
    cdef Py_ssize_t size = (
        PyBytes_GET_SIZE(head) + 7 * DECIMAL_TEXT_SIZE + common_size(venue, quality, update.extra)
    )
    cdef char[STACK_SIZE] stack
    cdef bytes heap
    cdef char* start = stack
    if size > STACK_SIZE:
        heap = PyBytes_FromStringAndSize(NULL, size)
        start = PyBytes_AS_STRING(heap)
    cdef char* p = put_decimal(put_bytes(start, head), update.price_)
    p = put_number(p, b',"change":', update.change_)
    p = put_number(p, b',"change_percent":', update.change_percent_)
    p = put_number(p, b',"volume":', update.volume_)
    p = put_number(p, b',"trade_volume":', update.trade_volume_)
    p = put_number(p, b',"high":', update.high_)
    p = put_number(p, b',"low":', update.low_)
    p = put_common(p, venue, quality, update.event_time_ms, update.extra, published_ms)
    return PyBytes_FromStringAndSize(start, p - start)


cdef char* put_side(
    char* p, const int64_t* prices, const int64_t* quantities, int n, int8_t scale
) noexcept nogil:
    cdef Decimal64 price
    cdef int i
    price.scale = scale
    for i in range(n):
        price.mantissa = prices[i]
        p = put_decimal(put(p, b'{"price":'), price)
        p = put_integer(put(p, b',"quantity":'), quantities[i])
        p = put(p, b"},")
    return p - 1 if n else p            # over the last comma


cdef bytes encode_book_c(BookUpdate update, int64_t published_ms, int depth):
    cdef int n_bids = min(update.n_bids, depth)
    cdef int n_asks = min(update.n_asks, depth)
    if update.instrument is None:
        raise ValueError("instrument: the BookUpdate was never initialised")
    cdef bytes head = update.instrument.book_head
    cdef Text venue = utf8(update.venue)
    cdef Text quality = utf8(update.quality)
    cdef Py_ssize_t size = (
        PyBytes_GET_SIZE(head)
        + (n_bids + n_asks) * LEVEL_SIZE
        + common_size(venue, quality, update.extra)
    )
    cdef char[STACK_SIZE] stack
    cdef bytes heap
    cdef char* start = stack
    if size > STACK_SIZE:
        heap = PyBytes_FromStringAndSize(NULL, size)
        start = PyBytes_AS_STRING(heap)
    cdef char* p = put_bytes(start, head)
    p = put_side(p, update.bid_prices, update.bid_quantities, n_bids, update.price_scale)
    p = put(p, b'],"asks":[')
    p = put_side(p, update.ask_prices, update.ask_quantities, n_asks, update.price_scale)
    p[0] = c"]"
    p = put_common(p + 1, venue, quality, update.event_time_ms, update.extra, published_ms)
    return PyBytes_FromStringAndSize(start, p - start)


cdef bytes encode_status(const char* head, str subject, str status, bytes extra, int64_t published_ms):
    cdef Text subject_text = utf8(subject)
    cdef Text status_text = utf8(status)
    # Statuses are rare, so this one always takes its room from the heap.
    cdef Py_ssize_t size = strlen(head) + common_size(subject_text, status_text, extra)
    cdef bytes heap = PyBytes_FromStringAndSize(NULL, size)
    cdef char* start = PyBytes_AS_STRING(heap)
    cdef char* p = put_escaped(put(start, head), subject_text.start, subject_text.size)
    p[0] = c'"'
    p = put_member(p + 1, b',"status":"', status_text)
    p = put_timestamp(put_extra(p, extra), published_ms)
    return PyBytes_FromStringAndSize(start, p - start)


cdef int check_published(int64_t published_ms) except -1:
    if published_ms < 0 or published_ms > MAX_TIME_MS:
        raise ValueError(f"published_ms: out of the years 1970 to 9999: {published_ms}")
    return 0


cdef bytes encode_screener_c(object payload, int64_t published_ms):
    check_published(published_ms)
    if type(payload) is PriceUpdate:
        return encode_price(<PriceUpdate>payload, published_ms)
    if type(payload) is BookUpdate:
        return encode_book_c(<BookUpdate>payload, published_ms, BOOK_LEVELS)
    if type(payload) is MarketStatus:
        status = <MarketStatus>payload
        return encode_status(
            b'{"type":"market_status","market":"', status.market, status.status, status.extra, published_ms
        )
    if type(payload) is FeedStatus:
        feed = <FeedStatus>payload
        return encode_status(b'{"type":"feed_status","feed":"', feed.feed, feed.status, None, published_ms)
    raise TypeError(f"no screener message is written from a {type(payload).__name__}")


def encode_screener(payload, int64_t published_ms):
    return encode_screener_c(payload, published_ms)


def encode_book(BookUpdate update not None, int64_t published_ms, int depth=BOOK_LEVELS):
    check_published(published_ms)
    if depth < 1:
        raise ValueError(f"depth: expected at least 1 level, got {depth}")
    return encode_book_c(update, published_ms, depth)


include "_market_impl/realtime.pxi"
