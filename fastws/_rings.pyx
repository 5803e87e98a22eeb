# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The last order books of one symbol, kept as columns that numpy sees without copying.

A ring of `depth` books is stored twice, one copy behind the other ("mirrored"): book number i lies in the
rows i % depth and i % depth + depth. So the last n books, in order, are always n adjacent rows, wherever
the ring has wrapped, and every window is a contiguous view. The price is a second write of some 350 bytes
and twice the memory; the gain is that a window never has to be copied and that its rows stay untouched
until depth - n more books have come.

A ring begins with a few places and doubles them up to `depth` as books come, for most symbols are quiet. It
wraps only at `depth`. Growing moves the ring to new memory; what views were lent stays as it was with them.

The memory belongs to a `_RingMemory`, which lends it read-only: numpy arrays over it cannot be made writable
again, and they keep it alive when the ring is gone. The ring writes through its own pointers and calls
nothing of numpy.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int8_t, int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastws._market cimport (
    BOOK_LEVELS,
    LEVEL_SIZE,
    TIME_SIZE,
    BookUpdate,
    check_published,
    put,
    put_event_time,
    put_published,
    put_side,
)

from collections import namedtuple

import numpy as np

cdef enum:
    MAX_DEPTH = 1_000_000
    FIRST_PLACES = 4
    N_LEVEL_COLUMNS = 4         # prices and quantities of both sides
    N_TIME_COLUMNS = 2
    N_BYTE_COLUMNS = 3
    LEVELS_SIZE = BOOK_LEVELS * sizeof(int64_t)
    ROW_SIZE = N_LEVEL_COLUMNS * LEVELS_SIZE + N_TIME_COLUMNS * sizeof(int64_t) + N_BYTE_COLUMNS

_COLUMNS = (
    "bid_prices",
    "bid_quantities",
    "ask_prices",
    "ask_quantities",
    "times",
    "published_times",
    "price_scales",
    "bid_counts",
    "ask_counts",
)

BookWindow = namedtuple("BookWindow", _COLUMNS, module=__name__)
Book = namedtuple(
    "Book",
    (
        "bid_prices",
        "bid_quantities",
        "ask_prices",
        "ask_quantities",
        "time_ms",
        "published_ms",
        "price_scale",
        "n_bids",
        "n_asks",
    ),
    module=__name__,
)


@cython.final
@cython.auto_pickle(False)
cdef class _RingMemory:
    """Zeroed memory that others may read for as long as they hold it."""

    cdef char* start            # owned
    cdef Py_ssize_t size

    def __cinit__(self, Py_ssize_t size):
        self.start = <char*>calloc(size, 1)
        if self.start is NULL:
            raise MemoryError
        self.size = size

    def __dealloc__(self):
        free(self.start)

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.start, self.size, 1, flags)

    def __releasebuffer__(self, Py_buffer* buffer):
        pass


@cython.final
@cython.auto_pickle(False)
cdef class BookRing:
    cdef readonly Py_ssize_t depth
    cdef readonly int64_t n_written
    cdef Py_ssize_t places      # books that there is room for; `n_written` is not over it before it is `depth`
    cdef _RingMemory memory      # None until the first book
    cdef list columns           # numpy arrays over `memory`, 2 * places rows each; None until somebody looks
    # Columns of 2 * places rows inside `memory`, borrowed from it.
    cdef int64_t* bid_prices
    cdef int64_t* bid_quantities
    cdef int64_t* ask_prices
    cdef int64_t* ask_quantities
    cdef int64_t* times
    cdef int64_t* published_times
    cdef int8_t* price_scales
    cdef int8_t* bid_counts
    cdef int8_t* ask_counts

    def __cinit__(self, Py_ssize_t depth):
        if depth < 1 or depth > MAX_DEPTH:
            raise ValueError(f"depth: expected 1 to {MAX_DEPTH} books, got {depth}")
        self.depth = depth

    def __len__(self):
        return min(self.n_written, self.depth)

    def __repr__(self):
        return f"BookRing(depth={self.depth}, n_written={self.n_written})"

    @property
    def memory_size(self):
        return 0 if self.memory is None else self.memory.size

    def push(self, BookUpdate update not None, int64_t published_ms=0):
        check_published(published_ms)
        self.push_c(update, published_ms)

    cdef int push_c(self, BookUpdate update, int64_t published_ms) except -1:
        cdef Py_ssize_t row
        if self.n_written == self.places and self.places < self.depth:
            self.grow()
        row = self.n_written % self.places
        self.write_row(row, update, published_ms)
        self.write_row(row + self.places, update, published_ms)
        self.n_written += 1
        return 0

    cdef int grow(self) except -1:
        """Move to new memory with twice the places, `depth` at most. The ring is full, and has not wrapped."""
        cdef Py_ssize_t places = min(max(2 * self.places, FIRST_PLACES), self.depth)
        # The wide columns come first, so all of them are aligned.
        cdef Py_ssize_t n = 2 * places
        cdef _RingMemory memory = _RingMemory(n * ROW_SIZE)
        if self.memory is not None:
            self.copy_rows(memory.start, places)
        self.memory = memory
        self.columns = None
        self.places = places
        self.bid_prices = <int64_t*>self.memory.start
        self.bid_quantities = self.bid_prices + n * BOOK_LEVELS
        self.ask_prices = self.bid_quantities + n * BOOK_LEVELS
        self.ask_quantities = self.ask_prices + n * BOOK_LEVELS
        self.times = self.ask_quantities + n * BOOK_LEVELS
        self.published_times = self.times + n
        self.price_scales = <int8_t*>(self.published_times + n)
        self.bid_counts = self.price_scales + n
        self.ask_counts = self.bid_counts + n
        return 0

    cdef void copy_rows(self, char* target, Py_ssize_t places) noexcept:
        """Copy all books to memory of `places` places."""
        cdef Py_ssize_t width, size
        cdef const char* source = self.memory.start
        cdef int i
        for i in range(N_LEVEL_COLUMNS + N_TIME_COLUMNS + N_BYTE_COLUMNS):
            width = LEVELS_SIZE if i < N_LEVEL_COLUMNS else 1
            if N_LEVEL_COLUMNS <= i < N_LEVEL_COLUMNS + N_TIME_COLUMNS:
                width = sizeof(int64_t)
            size = self.places * width
            memcpy(target, source, size)
            memcpy(target + places * width, source, size)
            source += 2 * size
            target += 2 * places * width

    cdef void write_row(self, Py_ssize_t row, BookUpdate update, int64_t published_ms) noexcept:
        # Whole sides: an update has zeros behind its last level.
        memcpy(self.bid_prices + row * BOOK_LEVELS, update.bid_prices, LEVELS_SIZE)
        memcpy(self.bid_quantities + row * BOOK_LEVELS, update.bid_quantities, LEVELS_SIZE)
        memcpy(self.ask_prices + row * BOOK_LEVELS, update.ask_prices, LEVELS_SIZE)
        memcpy(self.ask_quantities + row * BOOK_LEVELS, update.ask_quantities, LEVELS_SIZE)
        self.times[row] = update.event_time_ms
        self.published_times[row] = published_ms
        self.price_scales[row] = update.price_scale
        self.bid_counts[row] = <int8_t>update.n_bids
        self.ask_counts[row] = <int8_t>update.n_asks

    def last(self, Py_ssize_t n):
        cdef Py_ssize_t stop = self.end()
        cdef Py_ssize_t start = stop - self.clamp(n)
        window = slice(start, stop)
        return BookWindow._make([column[window] for column in self.arrays()])

    def latest(self):
        cdef Py_ssize_t row = self.end() - 1
        if self.n_written == 0:
            return None
        columns = self.arrays()
        return Book(
            columns[0][row],
            columns[1][row],
            columns[2][row],
            columns[3][row],
            self.times[row],
            self.published_times[row],
            self.price_scales[row],
            self.bid_counts[row],
            self.ask_counts[row],
        )

    def encode(self, Py_ssize_t n, int depth=BOOK_LEVELS):
        cdef Py_ssize_t row, book_size, stop = self.end()
        cdef Py_ssize_t start = stop - self.clamp(n)
        cdef int levels, n_bids, n_asks
        cdef bytes room
        cdef char* head
        cdef char* p
        if depth < 1:
            raise ValueError(f"depth: expected at least 1 level, got {depth}")
        levels = min(depth, BOOK_LEVELS)
        # 96: the labels, quotes and separators of one book.
        book_size = 2 * levels * LEVEL_SIZE + 2 * TIME_SIZE + 96
        room = PyBytes_FromStringAndSize(NULL, 2 + (stop - start) * book_size)
        head = PyBytes_AS_STRING(room)
        p = put(head, b"[")
        for row in range(start, stop):
            n_bids = min(self.bid_counts[row], levels)
            n_asks = min(self.ask_counts[row], levels)
            p = put(p, b'{"bids":[')
            p = put_side(
                p,
                self.bid_prices + row * BOOK_LEVELS,
                self.bid_quantities + row * BOOK_LEVELS,
                n_bids,
                self.price_scales[row],
            )
            p = put(p, b'],"asks":[')
            p = put_side(
                p,
                self.ask_prices + row * BOOK_LEVELS,
                self.ask_quantities + row * BOOK_LEVELS,
                n_asks,
                self.price_scales[row],
            )
            p = put(p, b"]")
            if self.times[row] != 0:
                p = put(put_event_time(put(p, b',"event_time":"'), self.times[row]), b'"')
            if self.published_times[row] != 0:
                p = put(put_published(put(p, b',"timestamp":"'), self.published_times[row]), b'"')
            p = put(p, b"},")
        if stop > start:
            p -= 1              # over the last comma
        p = put(p, b"]")
        return PyBytes_FromStringAndSize(head, p - head)

    cdef inline Py_ssize_t end(self) noexcept:
        """One past the newest row, in the second copy."""
        return (self.n_written - 1) % self.places + 1 + self.places if self.n_written else 0

    cdef inline Py_ssize_t clamp(self, Py_ssize_t n) except -1:
        if n < 0:
            raise ValueError(f"n: expected 0 or more books, got {n}")
        return min(n, self.n_written, self.depth)

    cdef list arrays(self):
        """The columns as numpy arrays of 2 * places rows."""
        cdef Py_ssize_t n = 2 * max(self.places, 1)
        if self.columns is None:
            # A ring without books shows empty windows over memory that nobody writes.
            memory = _RingMemory(n * ROW_SIZE) if self.memory is None else self.memory
            columns = []
            offset = 0
            for _ in range(N_LEVEL_COLUMNS):
                flat = np.frombuffer(memory, np.int64, n * BOOK_LEVELS, offset)
                columns.append(flat.reshape(n, BOOK_LEVELS))
                offset += n * LEVELS_SIZE
            for _ in range(N_TIME_COLUMNS):
                columns.append(np.frombuffer(memory, np.int64, n, offset))
                offset += n * sizeof(int64_t)
            for _ in range(N_BYTE_COLUMNS):
                columns.append(np.frombuffer(memory, np.int8, n, offset))
                offset += n
            if self.memory is None:
                return columns
            self.columns = columns
        return self.columns
