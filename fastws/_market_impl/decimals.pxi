# Exact decimals: text of a source to Decimal64 and back, digits for digits.

cdef uint64_t[19] POWERS = [
    1,
    10,
    100,
    1_000,
    10_000,
    100_000,
    1_000_000,
    10_000_000,
    100_000_000,
    1_000_000_000,
    10_000_000_000,
    100_000_000_000,
    1_000_000_000_000,
    10_000_000_000_000,
    100_000_000_000_000,
    1_000_000_000_000_000,
    10_000_000_000_000_000,
    100_000_000_000_000_000,
    1_000_000_000_000_000_000,
]

cdef const char* PAIRS = (
    b"00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748"
    b"49505152535455565758596061626364656667686970717273747576777879808182838485868788899091929394959697"
    b"9899"
)


cdef int parse_decimal(const char* s, Py_ssize_t n, Decimal64* out) noexcept nogil:
    cdef const char* end = s + n
    cdef uint64_t value = 0
    cdef unsigned int digit
    cdef int scale = 0
    cdef bint is_negative = False
    cdef bint has_point = False
    cdef bint has_digits = False
    if n > 0 and (s[0] == c"-" or s[0] == c"+"):
        is_negative = s[0] == c"-"
        s += 1
    while s < end:
        digit = <unsigned int>(<unsigned char>s[0]) - 48
        if digit <= 9:
            # Checked before the product: 9223372036854775807 is the last magnitude that fits.
            if value > <uint64_t>922337203685477580 or (value == <uint64_t>922337203685477580 and digit > 7):
                return -1
            value = value * 10 + digit
            has_digits = True
            scale += has_point
        elif s[0] == c"." and not has_point:
            has_point = True
            has_digits = False      # a point must be followed by a digit
        else:
            return -1
        s += 1
    if not has_digits or scale > MAX_SCALE:
        return -1
    out.mantissa = -<int64_t>value if is_negative else <int64_t>value
    out.scale = <int8_t>scale
    return 0


cdef int rescale(Decimal64 value, int scale, Decimal64* out) noexcept nogil:
    cdef int64_t factor
    if value.mantissa == INT64_MIN or scale < 0 or scale > MAX_SCALE:
        return -1
    if scale >= value.scale:
        factor = <int64_t>POWERS[scale - value.scale]
        if value.mantissa > INT64_MAX // factor or value.mantissa < -(INT64_MAX // factor):
            return -1
        out.mantissa = value.mantissa * factor
    else:
        factor = <int64_t>POWERS[value.scale - scale]
        if value.mantissa % factor != 0:
            return -1
        out.mantissa = value.mantissa // factor
    out.scale = <int8_t>scale
    return 0


cdef inline int count_digits(uint64_t value) noexcept nogil:
    cdef int n = 1
    while value >= 10_000:
        value //= 10_000
        n += 4
    if value >= 1_000:
        return n + 3
    if value >= 100:
        return n + 2
    return n + 1 if value >= 10 else n


cdef inline char* put_digits(char* p, uint64_t value, int width) noexcept nogil:
    """Write exactly `width` digits, with leading zeros."""
    cdef int i = width
    while i >= 2:
        i -= 2
        memcpy(p + i, PAIRS + 2 * (value % 100), 2)
        value //= 100
    if i:
        p[0] = <char>(48 + value % 10)
    return p + width


cdef inline char* put_integer(char* p, int64_t value) noexcept nogil:
    cdef uint64_t magnitude = <uint64_t>value
    if value < 0:
        p[0] = c"-"
        p += 1
        magnitude = 0 - magnitude
    return put_digits(p, magnitude, count_digits(magnitude))


cdef char* put_decimal(char* p, Decimal64 value) noexcept nogil:
    cdef uint64_t magnitude = <uint64_t>value.mantissa
    cdef uint64_t power
    if value.scale == 0:
        return put_integer(p, value.mantissa)
    if value.mantissa < 0:
        p[0] = c"-"
        p += 1
        magnitude = 0 - magnitude
    power = POWERS[value.scale]
    p = put_digits(p, magnitude // power, count_digits(magnitude // power))
    p[0] = c"."
    return put_digits(p + 1, magnitude % power, value.scale)


cdef str decimal_text(Decimal64 value):
    cdef char[DECIMAL_TEXT_SIZE] text
    return text[:put_decimal(text, value) - text].decode("ascii")


cdef object to_python(Decimal64 value):
    """None, an int where the source had no point, else a `decimal.Decimal` with the digits of the source."""
    if value.mantissa == INT64_MIN:
        return None
    if value.scale == 0:
        return value.mantissa
    # From text, because arithmetic on Decimal would round to the caller's context.
    return Decimal(decimal_text(value))


cdef int integer_from_python(object value, Decimal64* out) except -1:
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow == 0 and number != INT64_MIN:
        out[0] = whole(number)
    return 0


cdef int text_from_number(str text, Decimal64* out) except -1:
    cdef Py_ssize_t n = 0
    cdef const char* start
    if text.isascii():          # so that only clean text needs UTF-8
        start = PyUnicode_AsUTF8AndSize(text, &n)
        parse_decimal(start, n, out)
    return 0


cdef str shown(object value):
    """`value` for an error message. Only what is sure to be short: the text of an int may even be refused."""
    if isinstance(value, (str, float)):
        return f"{value!r:.60}"
    return f"a {type(value).__name__} out of these bounds"


cdef Decimal64 from_python(object value, str field) except *:
    """Exact value of an int, Decimal, float or text; ValueError naming `field` where there is none."""
    cdef Decimal64 out = absent()
    if type(value) is int:
        integer_from_python(value, &out)
    elif isinstance(value, str):
        text_from_number(str(value), &out)
    elif isinstance(value, bool):
        raise ValueError(f"{field}: expected a number, got {value!r}")
    elif isinstance(value, float):
        # Its own text, the shortest that reads back as the same float: subclasses such as numpy.float64
        # have another.
        text = float.__repr__(value)
        text_from_number(format(Decimal(text), "f") if "e" in text else text, &out)
    elif isinstance(value, Decimal):
        # Bounded first: 1E+999999999 would be written out with all its zeros.
        if value.is_finite() and value.adjusted() <= MAX_SCALE and value.as_tuple().exponent >= -MAX_SCALE:
            text_from_number(format(value, "f"), &out)
    else:
        try:
            integer_from_python(index(value), &out)
        except TypeError:
            name = type(value).__name__
            raise ValueError(f"{field}: expected an int, Decimal, float or text, got {name}") from None
    if out.mantissa == INT64_MIN:
        raise ValueError(
            f"{field}: expected a plain decimal number under 2**63 with at most {MAX_SCALE} decimals, "
            f"got {shown(value)}"
        )
    return out


cdef Decimal64 optional_from_python(object value, str field) except *:
    return absent() if value is None else from_python(value, field)


cdef Decimal64 optional_whole_from_python(object value, str field) except *:
    return absent() if value is None else whole_from_python(value, field)


cdef Decimal64 whole_from_python(object value, str field) except *:
    """Like `from_python` for what is counted: 1000.0 becomes 1000, and 0.5 is refused."""
    cdef Decimal64 number = from_python(value, field)
    cdef Decimal64 out = absent()
    if rescale(number, 0, &out) != 0:
        raise ValueError(f"{field}: expected a whole number, got {value!r}")
    return out
