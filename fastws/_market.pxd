"""C declarations of the market values, for whatever works on them without Python objects.

The values are immutable to Python. C producers create one with `new_price` or `new_book`, fill what the
factory does not take, and hand it on; from then on nobody writes to it.
"""

cimport cython
from libc.stdint cimport INT64_MIN, int8_t, int64_t
from libc.string cimport memcpy, strlen

cdef enum:
    BOOK_LEVELS = 10
    MAX_SCALE = 18
    DECIMAL_TEXT_SIZE = 24      # longest text of a Decimal64: sign, 19 digits, point, leading zero
    TIME_SIZE = 24              # 2025-11-11T09:30:00.000Z
    LEVEL_SIZE = 24 + 2 * DECIMAL_TEXT_SIZE     # {"price":,"quantity":},

cdef struct Decimal64:          # value = mantissa / 10**scale
    int64_t mantissa            # INT64_MIN means absent
    int8_t scale                # 0..MAX_SCALE


cdef inline Decimal64 absent() noexcept nogil:
    cdef Decimal64 out
    out.mantissa = INT64_MIN
    out.scale = 0
    return out


cdef inline Decimal64 whole(int64_t value) noexcept nogil:
    cdef Decimal64 out
    out.mantissa = value
    out.scale = 0
    return out


cdef inline bint is_absent(Decimal64 value) noexcept nogil:
    return value.mantissa == INT64_MIN


@cython.final
cdef class Instrument:          # one object per code, shared; changes only by `become`
    cdef readonly str code
    cdef readonly str name
    cdef readonly str market            # None = unknown
    cdef readonly str sector            # None = unknown
    cdef readonly str currency          # None = unknown
    cdef Decimal64 previous_close_      # property `previous_close`
    cdef readonly bytes price_head      # {"type":"price_update","code":"005930","name":"Samsung …","price":
    cdef readonly bytes book_head       # {"type":"orderbook_update","code":"005930","bids":[


@cython.final
cdef class PriceUpdate:
    cdef readonly Instrument instrument
    # Read from Python through the properties of the same names without the underscore.
    cdef Decimal64 price_               # never absent
    cdef Decimal64 change_
    cdef Decimal64 change_percent_
    cdef Decimal64 volume_              # the day's total; scale 0
    cdef Decimal64 trade_volume_        # of this trade; scale 0
    cdef Decimal64 high_
    cdef Decimal64 low_
    cdef readonly str venue             # None = absent
    cdef readonly str quality           # None = absent
    cdef readonly int64_t event_time_ms     # exchange time, Unix epoch; 0 = absent
    cdef readonly bytes extra           # encoded JSON members without braces, b'"k":v,"k2":v2'; None = absent


@cython.final
cdef class BookUpdate:
    cdef readonly Instrument instrument
    cdef readonly int n_bids            # 0..BOOK_LEVELS
    cdef readonly int n_asks
    # Best first. Entries from n_bids (n_asks) on are 0.
    cdef int64_t bid_prices[BOOK_LEVELS]
    cdef int64_t bid_quantities[BOOK_LEVELS]
    cdef int64_t ask_prices[BOOK_LEVELS]
    cdef int64_t ask_quantities[BOOK_LEVELS]
    cdef readonly int8_t price_scale    # of every price of this book; quantities are whole numbers
    cdef readonly str venue
    cdef readonly str quality
    cdef readonly int64_t event_time_ms
    cdef readonly bytes extra


@cython.final
cdef class MarketStatus:
    cdef readonly str market
    cdef readonly str status
    cdef readonly bytes extra


@cython.final
cdef class FeedStatus:
    cdef readonly str feed
    cdef readonly str status


@cython.final
cdef class DayRange:            # of one instrument; see _market.pyi
    cdef Decimal64 high_
    cdef Decimal64 low_
    cdef int64_t day            # since the Unix epoch, where the instrument is traded; 0 = none yet


# Reads plain decimal text: an optional sign, digits, optionally a point and digits ("73000", "+1.39",
# "-0.50", ".5", "007"). Leading zeros are not counted; the digits after the point are kept, so "1.90" has
# scale 2. Returns 0 and fills `out`, or -1 and leaves `out` alone for anything else (empty text, blanks, an
# exponent, nan, more than MAX_SCALE digits after the point, a magnitude over 2**63 - 1). Sets no exception.
# `s` needs no terminator.
cdef int parse_decimal(const char* s, Py_ssize_t n, Decimal64* out) noexcept nogil

# Brings `value` to `scale` without rounding. 0, or -1 when digits would be lost or the result does not fit.
cdef int rescale(Decimal64 value, int scale, Decimal64* out) noexcept nogil

# Writes the digits of `value` (never absent) and returns the end. Room: DECIMAL_TEXT_SIZE bytes. No
# terminator.
cdef char* put_decimal(char* p, Decimal64 value) noexcept nogil

# Copies a literal and returns the end. Inlined, so that the compiler knows the length.
cdef inline char* put(char* p, const char* literal) noexcept nogil:
    cdef size_t n = strlen(literal)
    memcpy(p, literal, n)
    return p + n


# Writes levels as in `bids`: {"price":72900,"quantity":1000},{…} and returns the end. Room: n * LEVEL_SIZE.
cdef char* put_side(
    char* p, const int64_t* prices, const int64_t* quantities, int n, int8_t scale
) noexcept nogil

# Write a UTC time without quotes (TIME_SIZE bytes) and return the end; `ms` is in the years 1970 to 9999.
# Both keep the text of the last second they saw, so the two clocks of a message do not push each other out.
# With the GIL only: that text is shared.
cdef char* put_published(char* p, int64_t ms) noexcept
cdef char* put_event_time(char* p, int64_t ms) noexcept

# ValueError for a time outside the years 1970 to 9999.
cdef int check_published(int64_t published_ms) except -1

# A price from C values. `instrument` must not be None and `price` not absent; volumes have scale 0; scales
# are in 0..MAX_SCALE; `venue` and `quality` are encodable as UTF-8. Nothing of that is checked: the C
# caller answers for it.
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
)

# An empty book (no levels, all arrays 0). The caller fills n_bids, n_asks and the four arrays before it
# hands it on.
cdef BookUpdate new_book(
    Instrument instrument,
    int8_t price_scale,
    str venue,
    str quality,
    int64_t event_time_ms,
    bytes extra,
)

# See encode_screener in _market.pyi.
cdef bytes encode_screener_c(object payload, int64_t published_ms)
