# A value as both dialects write it.

@cython.final
@cython.no_gc
@cython.freelist(1024)
@cython.auto_pickle(False)
cdef class PortfolioValue:
    cdef readonly int64_t portfolio_id
    cdef bytes head             # members up to the total, with its name; None: never initialised
    cdef bytes numbers          # the other members where numbers do not fit into the following ones, else None
    cdef int64_t total          # as `change`, in units of 10**-decimals
    cdef int64_t change
    cdef int64_t percent        # in hundredths
    cdef int8_t decimals
    cdef bytes tail             # the member that names what has no price, or None

    @property
    def members(self):
        return wrap(b"", self, b"", 0)

    def __repr__(self):
        return f"PortfolioValue({b'' if self.head is None else self.members!r})"


cdef bint reads_like(PortfolioValue value, PortfolioValue other) except -1:
    """Whether both have the same members."""
    if value.numbers is not None or other.numbers is not None:
        # The same number may fit one time and not the other, see `PortfolioTable.value_of`.
        return value.members == other.members
    return (
        value.total == other.total
        and value.change == other.change
        and value.percent == other.percent
        and value.decimals == other.decimals
        and (value.head is other.head or value.head == other.head)
        and (value.tail is other.tail or value.tail == other.tail)
    )


cdef char* put_numbers(char* p, PortfolioValue value) noexcept:
    """Write what follows `head`, and return the end. Room: NUMBERS_SIZE bytes."""
    cdef Decimal64 number
    number.scale = value.decimals
    number.mantissa = value.total
    p = put(put_decimal(p, number), b',"daily_change":')
    number.mantissa = value.change
    p = put(put_decimal(p, number), b',"daily_change_percent":')
    number.scale = 2
    number.mantissa = value.percent
    return put_decimal(p, number)


cdef inline char* put_bytes(char* p, bytes text) noexcept:
    memcpy(p, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return p + PyBytes_GET_SIZE(text)


cdef bytes wrap(bytes before, PortfolioValue value, bytes after, Py_ssize_t room):
    """The members between two texts, with `room` for what is written behind them by the caller."""
    cdef char[NUMBERS_SIZE] buffer
    cdef const char* numbers = buffer
    cdef Py_ssize_t numbers_size, tail_size
    cdef bytes out
    cdef char* p
    if value.head is None:
        raise ValueError("value: the PortfolioValue was never initialised")
    if value.numbers is None:
        numbers_size = put_numbers(buffer, value) - buffer
    else:
        numbers = PyBytes_AS_STRING(value.numbers)
        numbers_size = PyBytes_GET_SIZE(value.numbers)
    tail_size = 0 if value.tail is None else PyBytes_GET_SIZE(value.tail)
    out = PyBytes_FromStringAndSize(
        NULL,
        PyBytes_GET_SIZE(before) + PyBytes_GET_SIZE(value.head) + numbers_size + tail_size
        + PyBytes_GET_SIZE(after) + room,
    )
    p = put_bytes(put_bytes(PyBytes_AS_STRING(out), before), value.head)
    memcpy(p, numbers, numbers_size)
    p += numbers_size
    if tail_size:
        p = put_bytes(p, value.tail)
    put_bytes(p, after)
    return out


cdef bytes message(bytes before, PortfolioValue value, bytes after, int64_t published_ms):
    cdef bytes out
    cdef char* p
    check_published(published_ms)
    out = wrap(before, value, after, TIME_SIZE + 1)
    p = PyBytes_AS_STRING(out) + PyBytes_GET_SIZE(out) - TIME_SIZE - 1
    put_published(p, published_ms)[0] = c'"'
    return out


def encode_screener(PortfolioValue value not None, int64_t published_ms):
    return message(b'{"type":"portfolio_update",', value, b',"timestamp":"', published_ms)


def encode_realtime(PortfolioValue value not None, int64_t published_ms):
    return message(b'{"type":"portfolio_update","data":{', value, b'},"timestamp":"', published_ms)
