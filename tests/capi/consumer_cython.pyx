# cython: language_level=3
"""The same in Cython: a thread without the GIL publishes through the declarations that fastws has."""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from fastws cimport (
    FASTWS_FULL,
    fastws_hub,
    fastws_hub_from_object,
    fastws_hub_release,
    fastws_import,
    fastws_intern,
    fastws_price,
    fastws_price_of,
    fastws_publish_many,
    fastws_publish_price,
    fastws_whole,
)
from libc.stdint cimport int32_t

fastws_import()


def publish(server, str code, int n):
    """Publish 1 to n as prices of `code`, without the GIL; return how many times the ring was full."""
    cdef Py_ssize_t size
    cdef const char* text = PyUnicode_AsUTF8AndSize(code, &size)
    cdef fastws_hub* hub = fastws_hub_from_object(server)
    cdef int32_t topic
    cdef fastws_price price
    cdef int i
    cdef int n_full = 0
    try:
        topic = fastws_intern(hub, text, size)
        with nogil:
            for i in range(1, n + 1):
                price = fastws_price_of(topic, fastws_whole(i))
                while fastws_publish_price(hub, &price) == FASTWS_FULL:
                    n_full += 1
            price = fastws_price_of(topic, fastws_whole(n + 1))
            while fastws_publish_many(hub, &price, 1) == FASTWS_FULL:
                n_full += 1
    finally:
        fastws_hub_release(hub)
    return n_full
