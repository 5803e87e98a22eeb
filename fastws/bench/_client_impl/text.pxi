# The few pieces of JSON that the checks read. Keys of published messages stand in a fixed order (screener
# dialect), so the edges of a message are compared with literals; `scan_object` reads any JSON object.

cdef struct MessageEnd:
    int64_t seq                 # -1: has none
    int64_t sequence            # -1: has none
    int64_t time_ms             # -1: has none
    const char* start           # the comma before "timestamp"; what follows it was read

cdef struct Text:               # how far the bytes of a text have been checked; zeros before the first one
    uint8_t n_left              # bytes that its last character still needs; 0: it is whole
    uint8_t low, high           # what the next of them may be

cdef struct Message:            # members of a JSON object; spans without their quotes, NULL when absent
    const char* type
    const char* code
    const char* price
    const char* timestamp
    const char* sequence_key    # the quote that opens the key "sequence", or the end of the object
    Py_ssize_t type_size, code_size, price_size, timestamp_size
    int64_t seq, sequence       # -1 when absent
    bint is_stale


cdef inline bint starts_with(const char* p, const char* end, const char* text, Py_ssize_t n) noexcept nogil:
    return end - p >= n and memcmp(p, text, n) == 0


cdef inline bint ends_with(const char* low, const char* p, const char* text, Py_ssize_t n) noexcept nogil:
    """Whether `text` stands just before `p`, without reading below `low`."""
    return p - low >= n and memcmp(p - n, text, n) == 0


cdef inline const char* number_before(const char* low, const char* p, int64_t* value) noexcept nogil:
    """Read the digits that end at `p` backwards; returns the first one, or `p` when there is none."""
    cdef int64_t unit = 1, total = 0
    cdef int n = 0
    while p > low and n < 18 and c"0" <= (p - 1)[0] <= c"9":
        p -= 1
        n += 1
        total += unit * (p[0] - c"0")
        unit *= 10
    value[0] = total
    return p


cdef inline const char* number_at(const char* p, const char* end, int64_t* value) noexcept nogil:
    """Read digits forward; returns what follows the last one."""
    cdef int64_t total = 0
    cdef int n = 0
    while p < end and n < 18 and c"0" <= p[0] <= c"9":
        total = total * 10 + (p[0] - c"0")
        p += 1
        n += 1
    value[0] = total
    return p


cdef inline int two_digits(const char* p) noexcept nogil:
    return (p[0] - c"0") * 10 + (p[1] - c"0")


cdef int64_t days_from_civil(int year, int month, int day) noexcept nogil:
    """Days since 1970-01-01 of a date of the Gregorian calendar (H. Hinnant, chrono-compatible date
    algorithms)."""
    cdef int era, year_of_era, day_of_year, day_of_era, shifted
    if month <= 2:
        year -= 1
    era = year // 400
    year_of_era = year - era * 400
    shifted = month - 3 if month > 2 else month + 9
    day_of_year = (153 * shifted + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return <int64_t>era * 146097 + day_of_era - 719468


cdef int64_t parse_utc(const char* p, Py_ssize_t n) noexcept nogil:
    """Epoch milliseconds of ``2025-11-11T09:30:00[.mmm]Z``, or -1."""
    cdef int i
    cdef int64_t ms
    if n != 24 and n != 20:
        return -1
    for i in range(19):
        if i == 4 or i == 7:
            if p[i] != c"-":
                return -1
        elif i == 10:
            if p[i] != c"T":
                return -1
        elif i == 13 or i == 16:
            if p[i] != c":":
                return -1
        elif not c"0" <= p[i] <= c"9":
            return -1
    ms = days_from_civil(two_digits(p) * 100 + two_digits(p + 2), two_digits(p + 5), two_digits(p + 8))
    ms = ((ms * 24 + two_digits(p + 11)) * 60 + two_digits(p + 14)) * 60 + two_digits(p + 17)
    ms *= 1000
    if n == 24:
        if p[19] != c".":
            return -1
        for i in range(20, 23):
            if not c"0" <= p[i] <= c"9":
                return -1
        ms += (p[20] - c"0") * 100 + two_digits(p + 21)
    return ms if p[n - 1] == c"Z" else -1


cdef bint parse_message_end(const char* low, const char* p, MessageEnd* out) noexcept nogil:
    """Read ``,"timestamp":"…Z"[,"sequence":S][,"seq":M]}`` backwards from `p`, which is one past the brace.
    """
    cdef const char* digits
    cdef int64_t value
    cdef Py_ssize_t n
    out.seq = out.sequence = out.time_ms = -1
    if not ends_with(low, p, b"}", 1):
        return False
    p -= 1
    digits = number_before(low, p, &value)
    if digits != p and ends_with(low, digits, b',"seq":', 7):
        out.seq = value
        p = digits - 7
        digits = number_before(low, p, &value)
    if digits != p and ends_with(low, digits, b',"sequence":', 12):
        out.sequence = value
        p = digits - 12
    if not ends_with(low, p, b'Z"', 2):
        return False
    p -= 1
    # With milliseconds or without.
    n = 24 if p - low >= 24 + 14 and memcmp(p - 24 - 14, b',"timestamp":"', 14) == 0 else 20
    if p - low < n + 14 or memcmp(p - n - 14, b',"timestamp":"', 14) != 0:
        return False
    out.time_ms = parse_utc(p - n, n)
    out.start = p - n - 14
    return out.time_ms >= 0


cdef const char* skip_string(const char* p, const char* end) noexcept nogil:
    """`p` is behind the opening quote; returns the closing quote, or NULL."""
    cdef const char* quote
    cdef const char* back
    while p < end:
        quote = <const char*>memchr(p, c'"', end - p)
        if quote is NULL:
            return NULL
        back = quote
        while back > p and (back - 1)[0] == c"\\":
            back -= 1
        if ((quote - back) & 1) == 0:
            return quote
        p = quote + 1
    return NULL


cdef const char* skip_value(const char* p, const char* end) noexcept nogil:
    """Returns what follows the JSON value at `p`, or NULL when it does not end before `end`."""
    cdef int depth = 0
    while p < end:
        if p[0] == c'"':
            p = skip_string(p + 1, end)
            if p is NULL:
                return NULL
            p += 1
            if depth == 0:
                return p
        elif p[0] == c"{" or p[0] == c"[":
            depth += 1
            p += 1
        elif p[0] == c"}" or p[0] == c"]":
            if depth == 0:
                return p
            depth -= 1
            p += 1
            if depth == 0:
                return p
        elif p[0] == c"," and depth == 0:
            return p
        else:
            p += 1
    return NULL


cdef const char* scan_object(const char* p, const char* end, Message* out) noexcept nogil:
    """Read the compact JSON object at `p`; returns what follows it, or NULL when it is none."""
    cdef const char* key
    cdef const char* value
    cdef Py_ssize_t key_size, n
    memset(out, 0, sizeof(Message))
    out.seq = out.sequence = -1
    if p >= end or p[0] != c"{":
        return NULL
    p += 1
    while True:
        if p >= end or p[0] != c'"':
            return NULL
        key = p + 1
        p = skip_string(key, end)
        if p is NULL or end - p < 3 or p[1] != c":":
            return NULL
        key_size = p - key
        value = p + 2
        p = skip_value(value, end)
        if p is NULL or p >= end or p == value:
            return NULL
        n = p - value
        if key_size == 3 and memcmp(key, b"seq", 3) == 0:
            number_at(value, p, &out.seq)
        elif key_size == 4 and value[0] == c'"' and memcmp(key, b"type", 4) == 0:
            out.type = value + 1
            out.type_size = n - 2
        elif key_size == 4 and value[0] == c'"' and memcmp(key, b"code", 4) == 0:
            out.code = value + 1
            out.code_size = n - 2
        elif key_size == 5 and memcmp(key, b"price", 5) == 0:
            out.price = value
            out.price_size = n
        elif key_size == 5 and memcmp(key, b"stale", 5) == 0:
            out.is_stale = value[0] == c"t"
        elif key_size == 8 and memcmp(key, b"sequence", 8) == 0:
            number_at(value, p, &out.sequence)
            out.sequence_key = key - 1
        elif key_size == 9 and value[0] == c'"' and memcmp(key, b"timestamp", 9) == 0:
            out.timestamp = value + 1
            out.timestamp_size = n - 2
        if p[0] == c"}":
            if out.sequence_key is NULL:
                out.sequence_key = p
            return p + 1
        if p[0] != c",":
            return NULL
        p += 1


cdef inline int64_t sum_of_members(
    const char* p, const char* end, const char* key, Py_ssize_t n
) noexcept nogil:
    """Sum of all integer members named `key` (with its quotes and colon), wherever they stand."""
    cdef int64_t total = 0, value
    while True:
        p = <const char*>memmem(p, end - p, key, n)
        if p is NULL:
            return total
        p = number_at(p + n, end, &value)
        total += value


cdef inline uint64_t digest_of(const char* p, Py_ssize_t n) noexcept nogil:
    """A 64-bit hash (multiply and rotate over words) that tells two values apart; not for hostile input."""
    cdef uint64_t h = 0x9E3779B97F4A7C15ULL ^ <uint64_t>n, word
    while n > 0:
        word = 0
        memcpy(&word, p, n if n < 8 else 8)
        h = (h ^ word) * 0xFF51AFD7ED558CCDULL
        h = (h << 29) | (h >> 35)
        p += 8
        n -= 8
    return h ^ (h >> 32)


cdef inline uint64_t beyond_ascii(uint64_t bytes_of_text) noexcept nogil:
    """The highest bit of each of eight bytes that is not ASCII."""
    return bytes_of_text & 0x8080808080808080ULL


cdef inline bint is_asian(const uint8_t* p) noexcept nogil:
    """Whether a character of three bytes is at `p`, such as those of Korean; not where the second byte is special."""
    return (
        p[0] & 0xF0 == 0xE0 and p[1] & 0xC0 == 0x80 and p[2] & 0xC0 == 0x80
        and p[0] != 0xE0 and (p[0] != 0xED or p[1] < 0xA0)
    )


cdef inline const char* skip_plain(const char* p, const char* end) noexcept nogil:
    """Pass over ASCII, and over what else is common; returns the first byte that is neither, or the end."""
    cdef uint64_t[4] words
    while True:
        while end - p >= 32:
            memcpy(words, p, 32)
            if beyond_ascii(words[0] | words[1] | words[2] | words[3]):
                break
            p += 32
        while end - p >= 8:
            memcpy(words, p, 8)
            if beyond_ascii(words[0]):
                p += fastws_first_byte(beyond_ascii(words[0]))
                break
            p += 8
        else:
            while p < end and <uint8_t>p[0] < 0x80:
                p += 1
        if end - p < 3 or not is_asian(<const uint8_t*>p):
            return p
        p += 3
        while end - p >= 3 and is_asian(<const uint8_t*>p):
            p += 3


cdef bint scan_text(Text* text, const char* p, const char* end) noexcept nogil:
    """Whether these bytes go on with well-formed UTF-8: no overlong forms, no surrogates, nothing over U+10FFFF
    (RFC 3629)."""
    cdef uint8_t byte
    # Not in memory: there, a store per byte keeps the next byte waiting.
    cdef uint8_t n_left = text.n_left, low = text.low, high = text.high
    while True:
        if n_left == 0:
            p = skip_plain(p, end)
        if p == end:
            break
        byte = <uint8_t>p[0]
        p += 1
        if n_left:
            if not low <= byte <= high:
                return False
            n_left -= 1
            low = 0x80
            high = 0xBF
            continue
        low = 0xA0 if byte == 0xE0 else 0x90 if byte == 0xF0 else 0x80
        high = 0x9F if byte == 0xED else 0x8F if byte == 0xF4 else 0xBF
        if 0xE0 <= byte <= 0xEF:
            n_left = 2
        elif 0xC2 <= byte <= 0xDF:
            n_left = 1
        elif 0xF0 <= byte <= 0xF4:
            n_left = 3
        else:
            return False
    text.n_left = n_left
    text.low = low
    text.high = high
    return True
