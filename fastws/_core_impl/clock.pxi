# Shared by all files of the unit: imports, constants, clocks, debug counters.
import json
import logging
import operator
import weakref
from hashlib import blake2b as _blake2b

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcpy, memmove, memset
from libc.time cimport time_t

from fastws._frames cimport FrameParser, is_valid_utf8, write_header


cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <sys/socket.h>
    #include <time.h>
    #ifdef FASTWS_PORTABLE  /* What Linux has and others may not is done without; see setup.py. */
    #undef MSG_NOSIGNAL
    #undef MSG_MORE
    #endif
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    #ifndef MSG_MORE
    #define MSG_MORE 0
    #endif
    #ifndef FASTWS_DEBUG
    #define FASTWS_DEBUG 0
    #endif
    static inline int64_t fastws_clock_ns(clockid_t id) {
        struct timespec ts;
        clock_gettime(id, &ts);
        return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
    }
    /* Let what was sent with MSG_MORE go now (tcp(7), TCP_NODELAY); does nothing on sockets that are not TCP. */
    static inline void fastws_push(int fd) {
        int on = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    #define fastws_monotonic_ns() fastws_clock_ns(CLOCK_MONOTONIC)
    #define fastws_thread_ns() fastws_clock_ns(CLOCK_THREAD_CPUTIME_ID)
    #if defined(__GNUC__)
    #define fastws_prefetch(address) __builtin_prefetch(address)
    #else
    #define fastws_prefetch(address) ((void)0)
    #endif
    #define fastws_wall_ms() (fastws_clock_ns(CLOCK_REALTIME) / 1000000)
    """
    bint FASTWS_DEBUG
    int MSG_NOSIGNAL
    int MSG_DONTWAIT
    int MSG_MORE
    void fastws_push(int fd) noexcept nogil
    void fastws_prefetch(const void* address) noexcept nogil
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags) nogil
    int CLOCK_REALTIME
    int64_t fastws_clock_ns(int clock) noexcept nogil
    int64_t fastws_monotonic_ns() noexcept nogil
    int64_t fastws_thread_ns() noexcept nogil
    int64_t fastws_wall_ms() noexcept nogil
    struct tm:
        int tm_year
        int tm_mon
        int tm_mday
        int tm_hour
        int tm_min
        int tm_sec
    tm* gmtime_r(const time_t* when, tm* out) nogil

CHANNEL_PRICE = 1
CHANNEL_ORDERBOOK = 2
CHANNEL_STATUS = 4

cdef enum:
    STATUS_BIT = 4
    MS = 1000000                    # nanoseconds
    SLICE_NS = 2 * MS               # work of the flusher between two turns of the loop
    CHUNK = 64                      # sends between two looks at the clock
    # From this size on, and for so many members, a frame is sent from a file; see `Flusher.share_frame`.
    SHARED_SIZE = 10 * 1024
    SHARED_MEMBERS = 16
    PAGE_SIZE = 4096
    COMPRESSED_PARTS = 4
    FEW_MOVES = 16                  # channels that leave a topic one by one; more are left out of a new list
    LEAST_MEASURED = 64             # updates that may wait in a lane before anyone looks how large they are
    LATE_NS = 200 * MS              # what has waited for so long, and two intervals, did not come in one burst
    LOOK_AHEAD = 24                 # lanes that publishing fetches into the cache ahead of their turn
    # A batch message is cut at this size: many clients refuse messages over 1 MiB, and what is dropped for a slow
    # client is dropped by the frame.
    MAX_BATCH_SIZE = 64 * 1024
    CATCH_UP = 1024                 # updates of history sent between two turns of the loop
    MAX_MISSED = 16384              # numbers noted of what one connection missed: half of what an outbox may hold
    MAX_MARKS = 20000               # channels that one session is told apart by for another instance
    WHEEL_SIZE = 4096               # slots of one millisecond
    SWEEP_SLOTS = 10                # each connection is looked at once a second
    SWEEP_NS = 100 * MS
    READ_BUFFER_SIZE = 256 * 1024
    CLOSE_GRACE_NS = 2000 * MS      # for the peer's part of a close handshake

cdef Py_ssize_t MAX_SIZE = <Py_ssize_t>1 << 40
cdef int64_t MAX_NUMBER = <int64_t>1 << 62     # comes after every number and every position
cdef Py_ssize_t MAX_RATE = 1000000

cdef dict _n_live = {"Connection": 0, "Cohort": 0, "Lane": 0, "Frame": 0, "Update": 0, "Fault": 0}


def debug_counters():
    """Live objects of the core by class, counted in a debug build (`make debug`) only; else all zero.

    Fault: times that the ledger did not add up, which such a build looks at ten times a second.
    """
    return dict(_n_live)


cdef void count_live(str name, int step) noexcept:
    _n_live[name] = <int>_n_live[name] + step


cdef inline int64_t monotonic_ns() noexcept nogil:
    return fastws_monotonic_ns()


cdef int64_t _wall_offset_ns = 0
cdef int64_t _wall_due_ns = 0


cdef inline int64_t wall_ms_at(int64_t now_ns) noexcept:
    """The wall clock in ms at `now_ns`, the monotonic time now.

    Publishing wants both clocks, and reading one costs a tenth of it; so the distance between them is kept for 10 ms.
    """
    if now_ns >= _wall_due_ns:
        compare_clocks()
    return (now_ns + _wall_offset_ns) // MS


cdef void compare_clocks() noexcept:
    global _wall_offset_ns, _wall_due_ns
    cdef int64_t before, wall, after, best = 1 << 62
    cdef int i
    for i in range(3):
        before = fastws_monotonic_ns()
        wall = fastws_clock_ns(CLOCK_REALTIME)
        after = fastws_monotonic_ns()
        if after - before < best:
            best = after - before
            _wall_offset_ns = wall - before - best // 2
        if best < 10000:
            # The process was not interrupted in between.
            break
    _wall_due_ns = after + 10 * MS


cdef char _second_text[24]
cdef int64_t _second_of_text = -1


cdef Py_ssize_t write_utc(char* out, int64_t ms) noexcept:
    """Write ``2025-11-11T09:30:00.030Z`` (24 bytes). The part down to the second is kept from call to call."""
    global _second_of_text
    cdef int64_t second = ms // 1000
    cdef int rest = <int>(ms - second * 1000)
    cdef tm parts
    cdef time_t when
    if second != _second_of_text:
        when = <time_t>second
        gmtime_r(&when, &parts)
        write_digits(_second_text, parts.tm_year + 1900, 4)
        _second_text[4] = c"-"
        write_digits(_second_text + 5, parts.tm_mon + 1, 2)
        _second_text[7] = c"-"
        write_digits(_second_text + 8, parts.tm_mday, 2)
        _second_text[10] = c"T"
        write_digits(_second_text + 11, parts.tm_hour, 2)
        _second_text[13] = c":"
        write_digits(_second_text + 14, parts.tm_min, 2)
        _second_text[16] = c":"
        write_digits(_second_text + 17, parts.tm_sec, 2)
        _second_text[19] = c"."
        _second_of_text = second
    memcpy(out, _second_text, 20)
    write_digits(out + 20, rest, 3)
    out[23] = c"Z"
    return 24


cdef inline void write_digits(char* out, int value, int width) noexcept:
    cdef int i
    for i in range(width - 1, -1, -1):
        out[i] = c"0" + value % 10
        value //= 10


cdef inline Py_ssize_t write_integer(char* out, int64_t value) noexcept:
    """Write a non-negative integer in decimal; returns the number of bytes, at most 19."""
    cdef char reversed_digits[20]
    cdef Py_ssize_t n = 0, i
    while True:
        reversed_digits[n] = c"0" + <char>(value % 10)
        n += 1
        value //= 10
        if value == 0:
            break
    for i in range(n):
        out[i] = reversed_digits[n - 1 - i]
    return n
