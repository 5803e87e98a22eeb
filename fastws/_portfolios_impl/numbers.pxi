# Prices, closes and sums from one representation to another, none of which loses a digit but `rounded`.

# An object, so that its powers are integers of Python: those of a literal would be floats.
cdef object TEN = 10


cdef inline int64_t power(int n) noexcept nogil:
    cdef int64_t product = 1
    while n > 0:
        product *= 10
        n -= 1
    return product


cdef int lift(Decimal64 value, wide* out) noexcept nogil:
    """Bring `value` to PRICE_SCALE; -1 when it has more decimals."""
    cdef int64_t excess
    if value.scale <= PRICE_SCALE:
        out[0] = <wide>value.mantissa * power(PRICE_SCALE - value.scale)
        return 0
    excess = power(value.scale - PRICE_SCALE)
    if value.mantissa % excess != 0:
        return -1
    out[0] = value.mantissa // excess
    return 0


cdef object power_of_ten(int n):
    return TEN ** n


cdef object lifted(Decimal64 value):
    """`value` in units of 10**-18, as an integer of Python."""
    return value.mantissa * power_of_ten(18 - value.scale)


cdef Decimal64 number_of(object number) except *:
    """An int or Decimal as it is; absent for None and for what has too many digits for a price."""
    cdef Decimal64 out = absent()
    cdef Py_ssize_t n = 0
    cdef const char* start
    if number is not None:
        text = format(number, "f") if isinstance(number, Decimal) else str(number)
        start = PyUnicode_AsUTF8AndSize(text, &n)
        parse_decimal(start, n, &out)
    return out


cdef object rounded(object number, object divisor):
    """number / divisor to a whole number, half away from zero; `divisor` is positive."""
    magnitude = (2 * abs(number) + divisor) // (2 * divisor)
    return -magnitude if number < 0 else magnitude


cdef bytes shown(object mantissa, int decimals):
    """mantissa / 10**decimals as plain text."""
    digits = str(abs(mantissa)).rjust(decimals + 1, "0")
    if decimals:
        digits = f"{digits[:-decimals]}.{digits[-decimals:]}"
    return (f"-{digits}" if mantissa < 0 else digits).encode()
