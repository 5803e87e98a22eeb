# From the text of one value to a number or a time, and from twenty pairs to an order book.

cdef int64_t HOUR_MS = 3_600_000
cdef int64_t DAY_MS = 86_400_000
cdef int64_t KST_MS = 9 * 3_600_000     # KST is UTC+9, without daylight saving since 1988

cdef inline bint is_empty(const char* s, Py_ssize_t n) noexcept nogil:
    return n == 0 or (n == 6 and memcmp(s, b"(null)", 6) == 0)


cdef inline int read_number(const char* s, Py_ssize_t n, Decimal64* out) noexcept nogil:
    """A signed number, or absent when empty. 0, or -1 for other text."""
    if is_empty(s, n):
        out[0] = absent()
        return 0
    return parse_decimal(s, n, out)


cdef inline int read_price(const char* s, Py_ssize_t n, Decimal64* out) noexcept nogil:
    """A number that is not negative, or absent when empty. 0, or -1 for other text."""
    if read_number(s, n, out) != 0 or (out.mantissa < 0 and not is_absent(out[0])):
        return -1
    return 0


cdef inline int read_quantity(const char* s, Py_ssize_t n, Decimal64* out) noexcept nogil:
    """A whole number that is not negative, or absent when empty. 0, or -1 for other text."""
    return -1 if read_price(s, n, out) != 0 or out.scale != 0 else 0


cdef inline int digits(const char* s, int n) noexcept nogil:
    """The number in `n` decimal digits (at most 9), or -1."""
    cdef int value = 0, i
    for i in range(n):
        if s[i] < c"0" or s[i] > c"9":
            return -1
        value = value * 10 + (s[i] - c"0")
    return value


cdef inline bint is_code(const char* s, Py_ssize_t n) noexcept nogil:
    """Whether this is a code of the Korean venues: six or seven of 0-9 and A-Z (005930, 0074K0, Q500001)."""
    cdef Py_ssize_t i
    if n != 6 and n != 7:
        return False
    for i in range(n):
        if not (c"0" <= s[i] <= c"9" or c"A" <= s[i] <= c"Z"):
            return False
    return True


cdef int64_t read_time(const char* s, Py_ssize_t n) noexcept nogil:
    """Milliseconds since midnight of HHMMSS; -1 for absent (empty or 000000), -2 for other text."""
    cdef int hour, minute, second
    if is_empty(s, n):
        return -1
    if n != 6:
        return -2
    hour = digits(s, 2)
    minute = digits(s + 2, 2)
    second = digits(s + 4, 2)
    if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
        return -2
    # KIS writes midnight where it has no time; no Korean venue trades then.
    return (hour * 3600 + minute * 60 + second) * 1000 or -1


cdef int64_t read_date(const char* s) noexcept nogil:
    """Unix time in ms at which the KST day YYYYMMDD begins, or 0 when that is no date."""
    cdef int year = digits(s, 4), month = digits(s + 4, 2), day = digits(s + 6, 2)
    cdef int length = 31
    if year < 1990 or month < 1 or month > 12 or day < 1:
        return 0
    if month == 2:
        length = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    elif month == 4 or month == 6 or month == 9 or month == 11:
        length = 30
    if day > length:
        return 0
    # Days since 1970-01-01 in the proleptic Gregorian calendar, the year taken from March to February.
    if month <= 2:
        year -= 1
        month += 12
    cdef int64_t days = 365 * year + year // 4 - year // 100 + year // 400 - 719469
    days += (153 * (month - 3) + 2) // 5 + day
    return days * DAY_MS - KST_MS


cdef struct Side:
    int n
    Decimal64 prices[BOOK_LEVELS]
    int64_t quantities[BOOK_LEVELS]


cdef inline Py_ssize_t size_of(const uint32_t* starts, Py_ssize_t i) noexcept nogil:
    return <Py_ssize_t>starts[i + 1] - <Py_ssize_t>starts[i] - 1


cdef int read_side(
    const char* p, const uint32_t* starts, int prices, int quantities, Side* side, int* scale
) noexcept nogil:
    """The levels that have a price, best first; lifts `scale` to the largest one met. -1 for a bad number."""
    cdef int i
    cdef Decimal64 price, quantity
    side.n = 0
    for i in range(BOOK_LEVELS):
        if (
            read_price(p + starts[prices + i], size_of(starts, prices + i), &price) != 0
            or read_quantity(p + starts[quantities + i], size_of(starts, quantities + i), &quantity) != 0
        ):
            return -1
        if price.mantissa <= 0:     # absent or 0: no level
            continue
        side.prices[side.n] = price
        side.quantities[side.n] = 0 if is_absent(quantity) else quantity.mantissa
        side.n += 1
        if price.scale > scale[0]:
            scale[0] = price.scale
    return 0


cdef int put_side(const Side* side, int scale, int64_t* prices, int64_t* quantities) noexcept nogil:
    cdef int i
    cdef Decimal64 price
    for i in range(side.n):
        if rescale(side.prices[i], scale, &price) != 0:
            return -1
        prices[i] = price.mantissa
        quantities[i] = side.quantities[i]
    return 0


cdef inline int find_layout(const char* tr_id, Py_ssize_t size) noexcept nogil:
    cdef uint64_t key
    cdef int i
    if size == TR_ID_SIZE:
        memcpy(&key, tr_id, TR_ID_SIZE)
        for i in range(N_LAYOUTS):
            if LAYOUTS[i].key == key:
                return i
    return -1


cdef bint is_several(tuple widths, Py_ssize_t width):
    """Whether a record of this width is really several of a known one, under a count that is too low.

    Columns are added one or two at a time, so a whole multiple of a known width is no new layout.
    """
    cdef Py_ssize_t known
    for known in widths:
        if width > known and width % known == 0:
            return True
    return False
