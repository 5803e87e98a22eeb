# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The envelopes in which instances hand each other what they publish: written while publishing, read with suspicion.

An envelope is of one origin and one shard. All numbers are little-endian::

    0   4   "FWR" and the version, 1
    4   4   CRC-32 of everything behind it
    8   1   kind: 1 live, 2 repeated on request, 3 last values, 4 these for what was requested
    9   1   1: the last part of what was asked for, else 0
    10  2   number of shards, a power of two
    12  2   shard
    14  2   0
    16  8   origin: one run of one instance
    24  8   position of the first update; with last values, the position that is next
    32  4   number of updates
    36      the updates

    0   1   kind: 1 price, 2 order book, 3 market status
    1   1   size of the code (the market's name)
    2   2   which members there are, see below
    4   4   size of the body
    8   8   stamp: see `Outgoing`
    16  8   when it was published, ms since the Unix epoch
    24  8   how many updates of this code and kind the origin has published, this one included
    32      the code, the members, the body

The body is the message of the screener dialect without ``sequence``, ``seq`` and the closing brace. The members are
what the body was written from, because alerts, portfolios and the other dialect need the value and not its text;
reading them is cheaper than reading JSON, and exact. Envelopes of a version or kind that is not known are refused: all
instances of a cluster run versions that agree on it.

Sans-IO. Everything belongs to the thread of the event loop and holds the GIL.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MIN, int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy

from fastws._core cimport Channel, Dialect, Hub, Tap, Update
from fastws._frames cimport is_valid_utf8
from fastws._market cimport (
    BOOK_LEVELS,
    MAX_SCALE,
    BookUpdate,
    Decimal64,
    Instrument,
    MarketStatus,
    PriceUpdate,
    absent,
    is_absent,
    new_book,
    new_price,
)

import time
from zlib import crc32

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    str PyUnicode_DecodeUTF8(const char* text, Py_ssize_t size, const char* errors)

cdef enum:
    VERSION = 1
    HEADER_SIZE = 36
    CHECKED_FROM = 8
    ENTRY_SIZE = 32
    DECIMAL_SIZE = 9
    LEVEL_SIZE = 16
    MAX_CODE_SIZE = 255
    MAX_TIME_MS = 253402300799999       # the end of the year 9999
    N_DECIMALS = 7
    HAS_EVENT_TIME = 1 << 7
    HAS_VENUE = 1 << 8
    HAS_QUALITY = 1 << 9
    HAS_EXTRA = 1 << 10
    PRICE_MEMBERS = (1 << 11) - 1
    BOOK_MEMBERS = HAS_EVENT_TIME | HAS_VENUE | HAS_QUALITY | HAS_EXTRA
    STATUS_MEMBERS = HAS_EXTRA

LIVE = 1
REPEATED = 2
LAST_VALUES = 3
INSTEAD = 4

KIND_PRICE = 1
KIND_BOOK = 2
KIND_STATUS = 3

MAX_SHARDS = 1024
MAX_ENVELOPE_SIZE = 8 << 20
FULL_SIZE = 256 << 10

# The year 2020: so that stamps have room until 2090.
cdef int64_t STAMPS_BEGIN_US = 1577836800 * 1000000
# One more can be given after it.
cdef int64_t LAST_STAMP = 0x7fffffffffffe000
# Nobody publishes so many of one code: a number has room in every client, also as the end of what is missing.
cdef int64_t MAX_NUMBER = <int64_t>1 << 48
cdef int C_PRICE = 1, C_BOOK = 2, C_STATUS = 3
cdef Py_ssize_t C_MAX_ENVELOPE_SIZE = 8 << 20, C_FULL_SIZE = 256 << 10


class EnvelopeError(ValueError):
    """An envelope that is none, or none of this version; the text says what is wrong with it."""


def check_shards(n):
    """Return `n`, a number of shards.

    Raises:
        ValueError: it is not a power of two from 1 to `MAX_SHARDS`.
    """
    if not 1 <= n <= MAX_SHARDS or n & (n - 1):
        raise ValueError(f"shards: expected a power of two from 1 to {MAX_SHARDS}, got {n}")
    return n


cdef uint32_t shard_of_text(const char* text, Py_ssize_t size, uint32_t n_shards) noexcept nogil:
    """FNV-1a, whose lower bits are mixed with the upper ones: codes differ in their last digits."""
    cdef uint32_t hashed = 2166136261
    cdef Py_ssize_t i
    for i in range(size):
        hashed = (hashed ^ <uint8_t>text[i]) * 16777619
    return (hashed ^ (hashed >> 16)) & (n_shards - 1)


def stamp_at(double seconds):
    """The first stamp of a moment, as seconds since the Unix epoch."""
    return (<int64_t>(seconds * 1e6) - STAMPS_BEGIN_US) << 12


def shard_of(str key not None, uint32_t n_shards):
    """The shard of a code or a market's name; the same on every instance."""
    cdef Py_ssize_t size
    cdef const char* text = PyUnicode_AsUTF8AndSize(key, &size)
    return shard_of_text(text, size, n_shards)


include "_relay_impl/writer.pxi"
include "_relay_impl/json.pxi"
include "_relay_impl/reader.pxi"
