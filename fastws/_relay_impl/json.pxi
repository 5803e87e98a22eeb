# Whether text that others have written may be put between our own. It is copied and not read, so one that is no JSON
# would make a whole batch unreadable, and one that is no UTF-8 would end connections.

cdef enum:
    # Containers within each other; what msgspec reads has fewer.
    MAX_DEPTH = 2048


# What stands in a string for itself.
cdef uint8_t[256] IS_PLAIN


cdef void fill_plain() noexcept:
    cdef int byte
    for byte in range(256):
        IS_PLAIN[byte] = byte >= 0x20 and byte != c'"' and byte != c"\\"


fill_plain()


cdef inline const uint8_t* skip_space(const uint8_t* p, const uint8_t* end) noexcept nogil:
    while p < end and (p[0] == c" " or p[0] == c"\n" or p[0] == c"\r" or p[0] == c"\t"):
        p += 1
    return p


cdef inline bint is_digit(const uint8_t* p, const uint8_t* end) noexcept nogil:
    return p < end and c"0" <= p[0] <= c"9"


cdef inline const uint8_t* skip_digits(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Behind the digits that begin at `p`; NULL where there is none."""
    if not is_digit(p, end):
        return NULL
    while is_digit(p, end):
        p += 1
    return p


cdef inline const uint8_t* skip_string(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Behind the string that begins at `p`; NULL where there is none."""
    cdef int i
    if p >= end or p[0] != c'"':
        return NULL
    p += 1
    while True:
        while p < end and IS_PLAIN[p[0]]:
            p += 1
        if p >= end:
            return NULL
        if p[0] == c'"':
            return p + 1
        if p[0] != c"\\" or end - p < 2:
            return NULL
        p += 1
        if p[0] == c"u":
            if end - p < 5:
                return NULL
            for i in range(4):
                p += 1
                if not (c"0" <= p[0] <= c"9" or c"a" <= p[0] <= c"f" or c"A" <= p[0] <= c"F"):
                    return NULL
        elif memchr(b'"\\/bfnrt', p[0], 8) is NULL:
            return NULL
        p += 1


cdef inline const uint8_t* skip_number(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Behind the number that begins at `p`; NULL where there is none."""
    if p < end and p[0] == c"-":
        p += 1
    if p < end and p[0] == c"0":
        p += 1
    else:
        p = skip_digits(p, end)
    if p is not NULL and p < end and p[0] == c".":
        p = skip_digits(p + 1, end)
    if p is not NULL and p < end and (p[0] == c"e" or p[0] == c"E"):
        p += 1
        if p < end and (p[0] == c"+" or p[0] == c"-"):
            p += 1
        p = skip_digits(p, end)
    return p


cdef inline const uint8_t* skip_scalar(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Behind the text, number, true, false or null that begins at `p`; NULL where there is none."""
    if p < end and p[0] == c'"':
        return skip_string(p, end)
    if end - p >= 4 and (memcmp(p, b"true", 4) == 0 or memcmp(p, b"null", 4) == 0):
        return p + 4
    if end - p >= 5 and memcmp(p, b"false", 5) == 0:
        return p + 5
    return skip_number(p, end)


cdef bint are_members(const uint8_t* p, const uint8_t* end) noexcept nogil:
    """Whether this is one or more members of an object, without its braces."""
    cdef uint8_t[MAX_DEPTH] kinds
    cdef int depth = 0                      # of what is open within the object
    cdef bint is_object = True              # what is innermost
    cdef bint wants_key = True
    while True:
        p = skip_space(p, end)
        if wants_key:
            p = skip_string(p, end)
            if p is NULL:
                return False
            p = skip_space(p, end)
            if p >= end or p[0] != c":":
                return False
            p = skip_space(p + 1, end)
        if p >= end:
            return False
        if p[0] == c"{" or p[0] == c"[":
            if depth == MAX_DEPTH:
                return False
            kinds[depth] = is_object
            depth += 1
            is_object = p[0] == c"{"
            p = skip_space(p + 1, end)
            if p >= end or p[0] != (c"}" if is_object else c"]"):
                wants_key = is_object
                continue
        else:
            p = skip_scalar(p, end)
            if p is NULL:
                return False
        # Behind a value, or before the end of what is empty.
        while True:
            p = skip_space(p, end)
            if p >= end:
                return depth == 0
            if p[0] == c",":
                p += 1
                wants_key = is_object
                break
            if depth == 0 or p[0] != (c"}" if is_object else c"]"):
                return False
            depth -= 1
            is_object = kinds[depth]
            p += 1


cdef bint is_sound(bytes members, Py_ssize_t begin):
    """Whether these bytes, from `begin` on, are members of a JSON object in UTF-8."""
    cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(members)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(members)
    return is_valid_utf8(p, size) and are_members(p + begin, p + size)


def is_json_members(bytes data not None):
    """Whether this is one or more members of a JSON object in UTF-8, without its braces."""
    return is_sound(data, 0)
