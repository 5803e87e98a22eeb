# A value as both dialects write it.

@cython.final
@cython.no_gc
@cython.freelist(1024)
@cython.auto_pickle(False)
cdef class PortfolioValue:
    cdef readonly int64_t portfolio_id
    cdef readonly bytes members

    def __repr__(self):
        return f"PortfolioValue({b'' if self.members is None else self.members!r})"


cdef bytes wrap(bytes head, PortfolioValue value, const char* end, int64_t published_ms):
    cdef Py_ssize_t size
    cdef bytes out
    cdef char* p
    if value.members is None:
        raise ValueError("value: the PortfolioValue was never initialised")
    check_published(published_ms)
    size = PyBytes_GET_SIZE(head) + PyBytes_GET_SIZE(value.members)
    out = PyBytes_FromStringAndSize(NULL, size + len(end) + 14 + TIME_SIZE + 1)
    p = PyBytes_AS_STRING(out)
    memcpy(p, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
    memcpy(p + PyBytes_GET_SIZE(head), PyBytes_AS_STRING(value.members), PyBytes_GET_SIZE(value.members))
    p = put(put(p + size, end), b',"timestamp":"')
    put_published(p, published_ms)[0] = c'"'
    return out


def encode_screener(PortfolioValue value not None, int64_t published_ms):
    return wrap(b'{"type":"portfolio_update",', value, b"", published_ms)


def encode_realtime(PortfolioValue value not None, int64_t published_ms):
    return wrap(b'{"type":"portfolio_update","data":{', value, b"}", published_ms)
