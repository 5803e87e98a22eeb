"""The C API of fastws for Cython; include/fastws.h says what each of these does and from which threads.

    from fastws cimport fastws_hub, fastws_hub_from_object, fastws_import
    fastws_import()

Compile with ``include_dirs=[fastws.get_include()]``.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef extern from "fastws.h" nogil:
    const int64_t FASTWS_NONE
    enum:
        FASTWS_OK
        FASTWS_FULL
        FASTWS_CLOSED
        FASTWS_INVALID
        FASTWS_BOOK_LEVELS
        FASTWS_MAX_SCALE
        FASTWS_MAX_JSON
        FASTWS_COUNT_TAKEN
        FASTWS_COUNT_PUBLISHED
        FASTWS_COUNT_REJECTED
        FASTWS_COUNT_UNDELIVERED
        FASTWS_COUNT_FULL
        FASTWS_COUNT_INVALID
    ctypedef struct fastws_hub:
        pass
    ctypedef struct fastws_decimal:
        int64_t mantissa
        int32_t scale
    ctypedef struct fastws_price:
        uint32_t struct_size
        int32_t topic
        fastws_decimal price
        fastws_decimal change
        fastws_decimal change_percent
        fastws_decimal high
        fastws_decimal low
        int64_t volume
        int64_t trade_volume
        int64_t event_time_ms
        char[8] venue
        char[16] quality
    ctypedef struct fastws_level:
        int64_t price
        int64_t quantity
    ctypedef struct fastws_book:
        uint32_t struct_size
        int32_t topic
        int32_t n_bids
        int32_t n_asks
        int32_t price_scale
        int64_t event_time_ms
        char[8] venue
        char[16] quality
        fastws_level[10] bids
        fastws_level[10] asks
    fastws_decimal fastws_decimal_of(int64_t mantissa, int32_t scale) noexcept
    fastws_decimal fastws_whole(int64_t value) noexcept
    fastws_decimal fastws_absent() noexcept
    fastws_price fastws_price_of(int32_t topic, fastws_decimal price) noexcept
    fastws_book fastws_book_of(int32_t topic, int32_t price_scale) noexcept
    void fastws_hub_release(fastws_hub* hub) noexcept
    int fastws_publish_price(fastws_hub* hub, const fastws_price* price) noexcept
    int fastws_publish_book(fastws_hub* hub, const fastws_book* book) noexcept
    int fastws_publish_json(fastws_hub* hub, const char* json, size_t size) noexcept
    Py_ssize_t fastws_publish_many(fastws_hub* hub, const fastws_price* prices, size_t n) noexcept
    int32_t fastws_subscriber_count(fastws_hub* hub, int32_t topic) noexcept
    uint64_t fastws_count(fastws_hub* hub, int which) noexcept

cdef extern from "fastws.h":
    int fastws_import() except -1
    fastws_hub* fastws_hub_from_object(object server) except NULL
    int32_t fastws_intern(fastws_hub* hub, const char* code, size_t size) except -1
