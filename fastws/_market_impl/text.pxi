# The C writers of JSON text and UTC times, and the checks of what Python hands in to be written.

# Messages up to this size are written on the stack and copied once, which is cheaper than to shrink a bytes
# object.
cdef enum:
    STACK_SIZE = 4096
    MAX_ESCAPE = 6                      # \u001f
    MAX_CODE_SIZE = 64

cdef int64_t MAX_TIME_MS = 253_402_300_799_999      # 9999-12-31T23:59:59.999Z


cdef inline char* put_bytes(char* p, bytes text) noexcept:
    memcpy(p, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return p + PyBytes_GET_SIZE(text)


cdef char* put_escaped(char* p, const char* text, Py_ssize_t n) noexcept nogil:
    """Write the inside of a JSON string. UTF-8 passes through; room: MAX_ESCAPE * n."""
    cdef Py_ssize_t i
    cdef unsigned char byte
    for i in range(n):
        byte = <unsigned char>text[i]
        if byte >= 0x20 and byte != c'"' and byte != c"\\":
            p[0] = <char>byte
            p += 1
            continue
        p[0] = c"\\"
        if byte == c'"' or byte == c"\\":
            p[1] = <char>byte
            p += 2
        elif byte == c"\n":
            p[1] = c"n"
            p += 2
        elif byte == c"\r":
            p[1] = c"r"
            p += 2
        elif byte == c"\t":
            p[1] = c"t"
            p += 2
        else:
            memcpy(p + 1, b"u00", 3)
            p[4] = <char>(48 + (byte >> 4))
            p[5] = <char>((48 if (byte & 15) < 10 else 87) + (byte & 15))
            p += 6
    return p


cdef struct Text:                       # UTF-8 of a str, borrowed from it; NULL for None
    const char* start
    Py_ssize_t size


cdef inline Text utf8(str value) except *:
    cdef Text out
    out.start = NULL
    out.size = 0
    if value is not None:
        out.start = PyUnicode_AsUTF8AndSize(value, &out.size)
    return out


cdef inline char* put_member(char* p, const char* label, Text value) noexcept nogil:
    if value.start is NULL:
        return p
    p = put(p, label)
    p = put_escaped(p, value.start, value.size)
    p[0] = c'"'
    return p + 1


cdef inline char* put_number(char* p, const char* label, Decimal64 value) noexcept nogil:
    if value.mantissa == INT64_MIN:
        return p
    return put_decimal(put(p, label), value)


cdef inline char* put_extra(char* p, bytes extra) noexcept:
    if extra is None:
        return p
    p[0] = c","
    return put_bytes(p + 1, extra)


cdef inline Py_ssize_t extra_size(bytes extra) noexcept:
    return 0 if extra is None else PyBytes_GET_SIZE(extra) + 1


cdef struct Stamp:                      # the text of one second; the next message mostly falls into it
    int64_t second
    char[19] text

cdef Stamp published_stamp
cdef Stamp event_stamp
published_stamp.second = -1
event_stamp.second = -1


cdef void fill_stamp(Stamp* stamp, int64_t second) noexcept nogil:
    # Days to a civil date as in H. Hinnant, "chrono-Compatible Low-Level Date Algorithms": years that begin
    # in March.
    cdef int64_t days = second // 86_400 + 719_468
    cdef int64_t clock = second % 86_400
    cdef int64_t era = days // 146_097
    cdef int64_t day_of_era = days - era * 146_097
    cdef int64_t leaps = day_of_era // 1_460 - day_of_era // 36_524 + day_of_era // 146_096
    cdef int64_t year = (day_of_era - leaps) // 365
    cdef int64_t day_of_year = day_of_era - (365 * year + year // 4 - year // 100)
    cdef int64_t shifted = (5 * day_of_year + 2) // 153
    cdef int64_t month = shifted + 3 if shifted < 10 else shifted - 9
    cdef char* p = stamp.text
    p = put_digits(p, <uint64_t>(year + era * 400 + (month <= 2)), 4)
    p[0] = c"-"
    p = put_digits(p + 1, <uint64_t>month, 2)
    p[0] = c"-"
    p = put_digits(p + 1, <uint64_t>(day_of_year - (153 * shifted + 2) // 5 + 1), 2)
    p[0] = c"T"
    p = put_digits(p + 1, <uint64_t>(clock // 3_600), 2)
    p[0] = c":"
    p = put_digits(p + 1, <uint64_t>(clock // 60 % 60), 2)
    p[0] = c":"
    put_digits(p + 1, <uint64_t>(clock % 60), 2)
    stamp.second = second


cdef char* put_time(char* p, int64_t ms, Stamp* stamp) noexcept:
    """`ms` must be in 0..MAX_TIME_MS."""
    if ms // 1_000 != stamp.second:
        fill_stamp(stamp, ms // 1_000)
    memcpy(p, stamp.text, 19)
    p[19] = c"."
    put_digits(p + 20, <uint64_t>(ms % 1_000), 3)
    p[23] = c"Z"
    return p + TIME_SIZE


cdef int64_t time_from_python(object value, str field) except -1:
    cdef Decimal64 ms = absent()
    if not isinstance(value, (bool, float, str)):
        ms = from_python(value, field)
    if ms.scale != 0 or not 0 <= ms.mantissa <= MAX_TIME_MS:
        raise ValueError(
            f"{field}: expected whole milliseconds from 1970-01-01 UTC to the year 9999, got {shown(value)}"
        )
    return ms.mantissa


cdef char* put_published(char* p, int64_t ms) noexcept:
    return put_time(p, ms, &published_stamp)


cdef char* put_event_time(char* p, int64_t ms) noexcept:
    return put_time(p, ms, &event_stamp)


def utc_text(ms):
    cdef char[TIME_SIZE] text
    put_published(text, time_from_python(ms, "ms"))
    return text[:TIME_SIZE].decode("ascii")


cdef str text_from_python(object value, str field):
    """`value` itself, checked: what is stored can be written as JSON without an error."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{field}: expected text, got {type(value).__name__}")
    plain = str(value) if type(value) is not str else value
    try:
        utf8(plain)
    except UnicodeEncodeError:
        raise ValueError(f"{field}: holds a lone surrogate, which UTF-8 cannot carry: {value!a}") from None
    return plain


cdef str required_text(object value, str field):
    text = text_from_python(value, field)
    if not text:
        raise ValueError(f"{field}: must not be empty")
    return text


cdef bytes extra_from_python(object value):
    """Only the rim is checked: whoever passes members through has parsed them already."""
    if value is None or value == b"":
        return None
    if type(value) is not bytes or not value.startswith(b'"') or value.endswith(b","):
        raise ValueError("extra: expected bytes of JSON members without braces, such as b'\"k\":1,\"m\":2'")
    return value


cdef bytes escaped_bytes(str value):
    cdef Text text = utf8(value)
    cdef bytes room = PyBytes_FromStringAndSize(NULL, MAX_ESCAPE * text.size + 1)
    cdef char* start = PyBytes_AS_STRING(room)
    return PyBytes_FromStringAndSize(start, put_escaped(start, text.start, text.size) - start)
