# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: autotestdict=False
"""Records of the KIS real-time feed: bytes of a WebSocket message in, market values out; no socket here.

A data frame is ``flag|TR|count|payload``. Three layers stand here:

- the splitter, for every TR: `read_head` and `find_fields` give the frame's parts and where each value
  begins; `split_frame` and `columns_for` are their face to Python;
- the fast path of `KISParser`, from those offsets to a PriceUpdate or BookUpdate, for the trade and order
  book TRs of KRX, NXT and the unified market. It makes no Python object per value.
- `RecordReader`, from those offsets to numpy structured arrays with every column, for every TR.

Which value stands where comes from ``data/kis_columns.json`` alone.
"""

import json
import time
from importlib.resources import files

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from libc.math cimport NAN
from libc.stdint cimport INT64_MIN, int8_t, int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from fastws._market cimport (
    BOOK_LEVELS,
    BookUpdate,
    Decimal64,
    Instrument,
    absent,
    is_absent,
    new_book,
    new_price,
    parse_decimal,
    rescale,
)

import numpy as np

from fastws.errors import FastwsError

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* Writes where every value of the payload begins, plus one entry for where the next would, and returns
       the number of values. `starts` has room for n + 2 entries. Eight bytes at a time: a record of 280 bytes
       takes 37 ns, byte by byte 113 ns. The zero-byte test is the exact one: no borrow runs between bytes. */
    static inline Py_ssize_t fastws_kis_find_fields(const char *p, Py_ssize_t n, uint32_t *starts)
    {
        Py_ssize_t k = 1, i = 0;
        starts[0] = 0;
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ && defined(__GNUC__)
        const uint64_t low7 = 0x7f7f7f7f7f7f7f7fULL;
        for (; i + 8 <= n; i += 8) {
            uint64_t word, hits;
            memcpy(&word, p + i, 8);
            word ^= 0x5e5e5e5e5e5e5e5eULL;
            hits = ~((((word & low7) + low7) | word) | low7);
            while (hits) {
                starts[k++] = (uint32_t)(i + (__builtin_ctzll(hits) >> 3) + 1);
                hits &= hits - 1;
            }
        }
    #endif
        for (; i < n; i++)
            if (p[i] == '^')
                starts[k++] = (uint32_t)(i + 1);
        starts[k] = (uint32_t)(n + 1);
        return k;
    }
    """
    Py_ssize_t find_fields "fastws_kis_find_fields"(
        const char* p, Py_ssize_t n, uint32_t* starts
    ) noexcept nogil


cdef enum Fault:
    FINE = 0
    NOT_A_FRAME
    TOO_LONG
    TRUNCATED
    UNKNOWN_TR
    ENCRYPTED
    BAD_COUNT
    BAD_WIDTH
    BAD_CODE
    BAD_NUMBER
    BAD_TIME

cdef tuple FAULTS = (
    "",
    "not a frame",
    "too long",
    "truncated",
    "unknown TR",
    "encrypted",
    "count",
    "width",
    "code",
    "number",
    "time",
)

# Bounds the table of offsets (four bytes per byte of payload). Frames are a few kilobytes at most.
cdef Py_ssize_t MAX_MESSAGE_SIZE = 4 << 20


class KISFrameError(FastwsError):
    """A message is not a frame that can be split.

    `kind` is one of the short words under which :class:`KISParser` counts faults.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(f"KIS frame refused: {kind}")
        self.kind = kind


include "_kis_impl/columns.pxi"


cdef struct Head:
    bint is_encrypted
    const char* tr_id           # this and `payload` point into the message and live as long as it does
    Py_ssize_t tr_id_size
    Py_ssize_t count            # records
    const char* payload
    Py_ssize_t payload_size


cdef Fault read_head(const char* p, Py_ssize_t n, Head* head) noexcept nogil:
    """Take a message apart at its first three bars; what follows the third is the payload, bars and all."""
    cdef const char* end = p + n
    cdef const char* bar
    if n == 0 or (p[0] != c"0" and p[0] != c"1") or (n > 1 and p[1] != c"|"):
        return NOT_A_FRAME
    if n > MAX_MESSAGE_SIZE:
        return TOO_LONG
    if n == 1:
        return TRUNCATED
    head.is_encrypted = p[0] == c"1"
    p += 2
    bar = <const char*>memchr(p, c"|", end - p)
    if bar == NULL:
        return TRUNCATED
    head.tr_id = p
    head.tr_id_size = bar - p
    p = bar + 1
    bar = <const char*>memchr(p, c"|", end - p)
    if bar == NULL:
        return TRUNCATED
    head.count = 0
    if bar == p or bar - p > 9:
        return BAD_COUNT
    while p < bar:
        if p[0] < c"0" or p[0] > c"9":
            return BAD_COUNT
        head.count = head.count * 10 + (p[0] - c"0")
        p += 1
    if head.count == 0:
        return BAD_COUNT
    head.payload = bar + 1
    head.payload_size = end - head.payload
    return FINE


class Frame:
    """A frame taken apart; see `_kis.pyi`."""

    __slots__ = ("count", "encrypted", "payload", "records", "tr_id")

    def __init__(self, tr_id, encrypted, count, records, payload):
        self.tr_id = tr_id
        self.encrypted = encrypted
        self.count = count
        self.records = records
        self.payload = payload

    def __repr__(self):
        return f"Frame(tr_id={self.tr_id!r}, encrypted={self.encrypted!r}, count={self.count!r})"


def split_records(bytes payload not None, Py_ssize_t count):
    """Split a payload in clear; see `_kis.pyi`."""
    if count < 1:
        raise KISFrameError("count")
    try:
        values = payload.decode("utf-8").split("^")
    except UnicodeDecodeError:
        raise KISFrameError("not UTF-8") from None
    width, rest = divmod(len(values), count)
    if rest:
        raise KISFrameError("width")
    return [values[i:i + width] for i in range(0, len(values), width)]


def split_frame(message):
    """Split one message; see `_kis.pyi`."""
    cdef bytes data = as_bytes(message)
    cdef Head head
    cdef Fault fault = read_head(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &head)
    if fault != FINE:
        raise KISFrameError(FAULTS[<int>fault])
    try:
        tr_id = (<bytes>head.tr_id[:head.tr_id_size]).decode("utf-8")
    except UnicodeDecodeError:
        raise KISFrameError("not UTF-8") from None
    payload = <bytes>head.payload[:head.payload_size]
    records = [] if head.is_encrypted else split_records(payload, head.count)
    return Frame(tr_id, bool(head.is_encrypted), head.count, records, payload)


cdef inline bytes as_bytes(object message):
    # memoryview refuses what is no buffer; bytes() alone would turn the number 5 into five zero bytes.
    return <bytes>message if type(message) is bytes else bytes(memoryview(message))


include "_kis_impl/values.pxi"


cdef enum:
    MAX_CACHED_CODES = 65536    # forty times what the Korean markets list; beyond it the cache starts over
    MAX_NEW_WIDTHS = 256


@cython.final
@cython.auto_pickle(False)
cdef class KISParser:
    """Turns messages of the KIS feed into price and book updates; the contract stands in `_kis.pyi`.

    1. A message either yields all its updates or none: one bad record drops its frame.
    2. Whatever a peer sends, `parse` raises nothing of its own; `resolve`, `clock` and the callbacks may.
    3. `_starts` belongs to this object and holds the offsets of the frame at hand, so one call of `parse` is
       under way at a time; a second one, from a callback or another thread, is refused.
    """

    cdef readonly int64_t n_frames
    cdef readonly int64_t n_records
    cdef readonly int64_t n_skipped
    cdef readonly int64_t n_bad
    cdef readonly dict bad_kinds
    cdef public object on_bad
    cdef public object on_new_width
    cdef object _resolve
    cdef object _clock
    cdef dict _instruments              # code as bytes -> Instrument
    cdef set _new_widths                # (TR id, width) that were reported
    cdef Py_ssize_t _known_width[MAX_LAYOUTS]   # the last width of each TR that needed no report
    cdef uint32_t* _starts
    cdef Py_ssize_t _n_starts
    cdef char _date[8]                  # of the last trade that had one
    cdef int64_t _day_ms                # Unix time at which that day begins in KST; 0 = no trade yet
    cdef bint _is_live                  # that trade was young by the clock
    cdef bint _is_parsing

    def __cinit__(self):
        self._starts = NULL
        self._n_starts = 0
        self._day_ms = 0
        self._is_parsing = False

    def __init__(self, resolve, *, clock=time.time, on_bad=None, on_new_width=None):
        cdef int i
        self._resolve = resolve
        self._clock = clock
        self.on_bad = on_bad
        self.on_new_width = on_new_width
        self.n_frames = self.n_records = self.n_skipped = self.n_bad = 0
        self.bad_kinds = {}
        self._instruments = {}
        self._new_widths = set()
        for i in range(MAX_LAYOUTS):
            self._known_width[i] = 0

    def __dealloc__(self):
        PyMem_Free(self._starts)

    def parse(self, message):
        """Return the updates of one message."""
        if self._is_parsing:
            raise RuntimeError("KISParser.parse was called while it was at work")
        self._is_parsing = True
        try:
            return self._parse(as_bytes(message))
        finally:
            self._is_parsing = False

    cdef list _parse(self, bytes data):
        cdef const char* p = PyBytes_AS_STRING(data)
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data)
        cdef Head head
        cdef Fault fault
        cdef list updates
        cdef int which
        cdef Py_ssize_t n_values, width
        if n > 0 and p[0] == c"{":
            return []
        fault = read_head(p, n, &head)
        if fault != FINE:
            return self._drop(fault, data)
        which = find_layout(head.tr_id, head.tr_id_size)
        if which < 0 and PyBytes_FromStringAndSize(head.tr_id, head.tr_id_size) not in TR_IDS:
            return self._drop(UNKNOWN_TR, data)
        if head.is_encrypted:
            return self._drop(ENCRYPTED, data)
        self._reserve(head.payload_size + 2)
        n_values = find_fields(head.payload, head.payload_size, self._starts)
        if n_values % head.count != 0:
            return self._drop(BAD_WIDTH, data)
        width = n_values // head.count
        if which < 0:
            self._check_width(TR_IDS[PyBytes_FromStringAndSize(head.tr_id, head.tr_id_size)], width)
            self.n_frames += 1
            return []
        if width < LAYOUTS[which].min_width:
            return self._drop(BAD_WIDTH, data)
        if width != self._known_width[which]:
            if is_several(KNOWN_WIDTHS[LAYOUT_TR_IDS[which]], width):
                return self._drop(BAD_COUNT, data)
            self._check_width(LAYOUT_TR_IDS[which], width)
            self._known_width[which] = width
        updates = []
        if LAYOUTS[which].kind == TRADE:
            fault = self._read_trades(&LAYOUTS[which], LAYOUT_VENUES[which], &head, width, updates)
        else:
            fault = self._read_books(&LAYOUTS[which], LAYOUT_VENUES[which], &head, width, updates)
        if fault != FINE:
            return self._drop(fault, data)
        self.n_frames += 1
        self.n_records += head.count
        self.n_skipped += head.count - len(updates)
        return updates

    cdef Fault _read_trades(
        self, const Layout* at, str venue, const Head* head, Py_ssize_t width, list updates
    ) except *:
        cdef const char* p = head.payload
        cdef const uint32_t* starts = self._starts
        cdef Py_ssize_t _i
        cdef Decimal64 price, change, change_percent, volume, trade_volume, high, low
        cdef int64_t event_time_ms
        cdef char sign
        cdef Instrument instrument
        for _i in range(head.count):
            if (
                read_price(p + starts[at.price], size_of(starts, at.price), &price) != 0
                or is_absent(price)
                or read_number(p + starts[at.change], size_of(starts, at.change), &change) != 0
                or read_number(
                    p + starts[at.change_percent], size_of(starts, at.change_percent), &change_percent
                ) != 0
                or read_quantity(p + starts[at.volume], size_of(starts, at.volume), &volume) != 0
                or read_quantity(
                    p + starts[at.trade_volume], size_of(starts, at.trade_volume), &trade_volume
                ) != 0
                or read_price(p + starts[at.high], size_of(starts, at.high), &high) != 0
                or read_price(p + starts[at.low], size_of(starts, at.low), &low) != 0
            ):
                return BAD_NUMBER
            # Changes come with their own minus; old documents show none, and then the sign code tells.
            sign = p[starts[at.sign]] if size_of(starts, at.sign) == 1 else 0
            if sign == c"4" or sign == c"5":
                if change.mantissa > 0:
                    change.mantissa = -change.mantissa
                if change_percent.mantissa > 0:
                    change_percent.mantissa = -change_percent.mantissa
            event_time_ms = self._trade_time(
                p + starts[at.date], size_of(starts, at.date), p + starts[at.clock], size_of(starts, at.clock)
            )
            if event_time_ms < 0:
                return BAD_TIME
            if not is_code(p + starts[at.code], size_of(starts, at.code)):
                return BAD_CODE
            instrument = self._instrument(p + starts[at.code], size_of(starts, at.code))
            if instrument is None:
                starts += width
                continue
            updates.append(new_price(
                instrument, price, change, change_percent, volume, trade_volume, high, low, venue, REALTIME,
                event_time_ms, None,
            ))
            starts += width
        return FINE

    cdef Fault _read_books(
        self, const Layout* at, str venue, const Head* head, Py_ssize_t width, list updates
    ) except *:
        cdef const char* p = head.payload
        cdef const uint32_t* starts = self._starts
        cdef Py_ssize_t _i
        cdef int64_t event_time_ms
        cdef Side asks, bids
        cdef int scale
        cdef Instrument instrument
        cdef BookUpdate book
        for _i in range(head.count):
            scale = 0
            if (
                read_side(p, starts, at.asks, at.ask_quantities, &asks, &scale) != 0
                or read_side(p, starts, at.bids, at.bid_quantities, &bids, &scale) != 0
            ):
                return BAD_NUMBER
            event_time_ms = self._book_time(p + starts[at.clock], size_of(starts, at.clock))
            if event_time_ms < 0:
                return BAD_TIME
            if not is_code(p + starts[at.code], size_of(starts, at.code)):
                return BAD_CODE
            instrument = self._instrument(p + starts[at.code], size_of(starts, at.code))
            if instrument is None:
                starts += width
                continue
            book = new_book(instrument, <int8_t>scale, venue, REALTIME, event_time_ms, None)
            if (
                put_side(&asks, scale, book.ask_prices, book.ask_quantities) != 0
                or put_side(&bids, scale, book.bid_prices, book.bid_quantities) != 0
            ):
                return BAD_NUMBER
            book.n_asks = asks.n
            book.n_bids = bids.n
            updates.append(book)
            starts += width
        return FINE

    cdef Instrument _instrument(self, const char* s, Py_ssize_t n):
        """The instrument of a code, or None when `resolve` wants nothing of it."""
        cdef bytes code = PyBytes_FromStringAndSize(s, n)
        cdef Instrument instrument
        found = self._instruments.get(code)
        if found is not None:
            return <Instrument>found
        instrument = self._resolve(code.decode("ascii"))
        if instrument is not None:
            if len(self._instruments) >= MAX_CACHED_CODES:
                self._instruments.clear()
            self._instruments[code] = instrument
        return instrument

    cdef int64_t _trade_time(
        self, const char* date, Py_ssize_t date_size, const char* clock, Py_ssize_t clock_size
    ) except? -1:
        """Unix time in ms, 0 when absent, -2 when it is no time."""
        cdef int64_t time_ms = read_time(clock, clock_size)
        cdef int64_t day_ms, age_ms
        if time_ms < -1:
            return -2
        if date_size == 8:
            if self._day_ms != 0 and memcmp(date, self._date, 8) == 0:
                return 0 if time_ms < 0 else self._day_ms + time_ms
            day_ms = read_date(date)
            if day_ms == 0:
                return -2
            memcpy(self._date, date, 8)
            self._day_ms = day_ms
            age_ms = self._now_ms() - day_ms - max(time_ms, 0)
            self._is_live = -DAY_MS // 2 < age_ms < DAY_MS // 2
            return 0 if time_ms < 0 else day_ms + time_ms
        if not is_empty(date, date_size):
            return -2
        return 0 if time_ms < 0 else self._dated(time_ms)

    cdef int64_t _book_time(self, const char* clock, Py_ssize_t clock_size) except? -1:
        """Unix time in ms, 0 when absent, -2 when it is no time."""
        cdef int64_t time_ms = read_time(clock, clock_size)
        return time_ms if time_ms < -1 else 0 if time_ms < 0 else self._dated(time_ms)

    @cython.cdivision(False)
    cdef int64_t _dated(self, int64_t time_ms) except? -1:
        """Unix time in ms of a time of day that came without its date.

        A stream of the past (a replay) takes the date of its last trade. In a live one yesterday's last trade
        says nothing about this morning's first book, so the clock decides: the latest such time not more than
        an hour ahead of it. That holds over midnight, and for what a server still sends of the day before.
        """
        cdef int64_t limit_ms
        if self._day_ms != 0 and not self._is_live:
            return self._day_ms + time_ms
        limit_ms = self._now_ms() + KST_MS + HOUR_MS
        return limit_ms - (limit_ms - time_ms) % DAY_MS - KST_MS

    cdef int64_t _now_ms(self) except? -1:
        return <int64_t>(<double>self._clock() * 1000.0)

    cdef int _reserve(self, Py_ssize_t n) except -1:
        cdef uint32_t* grown
        if n > self._n_starts:
            n = max(n, 2 * self._n_starts)
            grown = <uint32_t*>PyMem_Realloc(self._starts, n * sizeof(uint32_t))
            if grown == NULL:
                raise MemoryError
            self._starts = grown
            self._n_starts = n
        return 0

    cdef list _drop(self, Fault fault, bytes message):
        cdef str kind = FAULTS[<int>fault]
        cdef bint is_first = kind not in self.bad_kinds
        self.n_bad += 1
        self.bad_kinds[kind] = self.bad_kinds.get(kind, 0) + 1
        if is_first and self.on_bad is not None:
            self.on_bad(kind, message)
        return []

    cdef int _check_width(self, str tr_id, Py_ssize_t width) except -1:
        """Report a width that is new, once."""
        if width in KNOWN_WIDTHS[tr_id] or len(self._new_widths) >= MAX_NEW_WIDTHS:
            return 0
        found = (tr_id, width)
        if found not in self._new_widths:
            self._new_widths.add(found)
            if self.on_new_width is not None:
                self.on_new_width(tr_id, width)
        return 0


include "_kis_impl/records.pxi"
