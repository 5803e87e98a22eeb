# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The thresholds of waiting alert rules, and which of them a price crosses.

Every price of every instrument is held against it, and nearly none crosses anything. So per instrument and
alert type there is a heap with the nearest threshold on top, and a price is compared with that one only:
what it costs does not grow with the rules that it leaves alone.

In C because the values of a price are C decimals: the same five comparisons in Python, on the properties of
the price, take 700 ns; here it is 40 ns.
"""

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from fastws._market cimport MAX_SCALE, Decimal64, PriceUpdate, is_absent, parse_decimal

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    # A borrowed reference; NULL where there is none.
    PyObject* PyDict_GetItemWithError(object mapping, object key) except? NULL

cdef enum:
    # The positions in ALERT_TYPES.
    PRICE_ABOVE
    PRICE_BELOW
    CHANGE_PERCENT_ABOVE
    CHANGE_PERCENT_BELOW
    VOLUME_ABOVE
    N_KINDS

ALERT_TYPES = ("price_above", "price_below", "change_percent_above", "change_percent_below", "volume_above")

cdef dict KINDS = {name: kind for kind, name in enumerate(ALERT_TYPES)}

# A rule "below" is one "above" of the negative values, so that one order serves all.
cdef int[N_KINDS] SIGNS = [1, -1, 1, -1, 1]


cdef struct Entry:
    # The threshold times the sign of its kind. Both parts have the sign of the number.
    int64_t whole
    int64_t fraction            # in units of 10**-MAX_SCALE
    int64_t rule_id


cdef inline int64_t power_of_ten(int n) noexcept nogil:
    cdef int64_t power = 1
    while n > 0:
        power *= 10
        n -= 1
    return power


cdef inline bint is_over(Decimal64 value, int sign, const Entry* entry) noexcept nogil:
    """Whether `sign` times `value` is greater than the threshold, exactly."""
    cdef int64_t power = power_of_ten(value.scale)
    cdef int64_t whole = sign * (value.mantissa // power)
    if whole != entry.whole:
        return whole > entry.whole
    return sign * (value.mantissa % power) * power_of_ten(MAX_SCALE - value.scale) > entry.fraction


cdef inline bint is_nearer(const Entry* first, const Entry* second) noexcept nogil:
    if first.whole != second.whole:
        return first.whole < second.whole
    if first.fraction != second.fraction:
        return first.fraction < second.fraction
    return first.rule_id < second.rule_id


cdef struct Heap:
    Entry* entries              # owned by the _Thresholds that holds the heap; the nearest first
    Py_ssize_t size
    Py_ssize_t capacity


cdef inline void sift_up(Heap* heap, Py_ssize_t hole, Entry entry) noexcept nogil:
    """Put `entry` into the free place `hole` or, where it is nearer than what stands above, further up."""
    cdef Py_ssize_t parent
    while hole > 0:
        parent = (hole - 1) // 2
        if not is_nearer(&entry, &heap.entries[parent]):
            break
        heap.entries[hole] = heap.entries[parent]
        hole = parent
    heap.entries[hole] = entry


cdef inline void drop(Heap* heap, Py_ssize_t hole) noexcept nogil:
    """Take out the entry at `hole`."""
    cdef Py_ssize_t child
    cdef Entry last
    heap.size -= 1
    if hole == heap.size:
        return
    last = heap.entries[heap.size]
    child = 2 * hole + 1
    while child < heap.size:
        if child + 1 < heap.size and is_nearer(&heap.entries[child + 1], &heap.entries[child]):
            child += 1
        heap.entries[hole] = heap.entries[child]
        hole = child
        child = 2 * hole + 1
    sift_up(heap, hole, last)


cdef int push(Heap* heap, Entry entry) except -1:
    cdef Py_ssize_t capacity
    cdef Entry* entries
    if heap.size == heap.capacity:
        capacity = max(4, 2 * heap.capacity)
        entries = <Entry*>PyMem_Realloc(heap.entries, capacity * sizeof(Entry))
        if entries is NULL:
            raise MemoryError
        heap.entries = entries
        heap.capacity = capacity
    heap.size += 1
    sift_up(heap, heap.size - 1, entry)
    return 0


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class _Thresholds:
    """The thresholds of one instrument."""

    cdef Heap[N_KINDS] heaps            # zeroed by the allocator
    cdef Py_ssize_t size                # of all heaps together

    def __dealloc__(self):
        cdef int kind
        for kind in range(N_KINDS):
            PyMem_Free(self.heaps[kind].entries)


cdef inline Decimal64 value_of(PriceUpdate update, int kind) noexcept:
    if kind == PRICE_ABOVE or kind == PRICE_BELOW:
        return update.price_
    if kind == VOLUME_ABOVE:
        return update.volume_
    return update.change_percent_


cdef int kind_of(str alert_type) except -1:
    kind = KINDS.get(alert_type)
    if kind is None:
        raise ValueError(f"alert_type: expected one of {', '.join(ALERT_TYPES)}, got {alert_type!r:.60}")
    return kind


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class AlertIndex:
    cdef dict _by_code                  # str -> _Thresholds, none of them empty
    cdef Py_ssize_t _size

    def __cinit__(self):
        self._by_code = {}

    def __len__(self):
        return self._size

    def add(self, str code not None, str alert_type not None, str threshold not None, int64_t rule_id):
        cdef int kind = kind_of(alert_type)
        cdef Py_ssize_t n = 0
        cdef const char* text = PyUnicode_AsUTF8AndSize(threshold, &n)
        cdef Decimal64 value
        cdef int64_t power
        cdef Entry entry
        if parse_decimal(text, n, &value) != 0:
            raise ValueError(f"threshold: expected a plain decimal number, got {threshold!r:.60}")
        power = power_of_ten(value.scale)
        entry.whole = SIGNS[kind] * (value.mantissa // power)
        entry.fraction = SIGNS[kind] * (value.mantissa % power) * power_of_ten(MAX_SCALE - value.scale)
        entry.rule_id = rule_id
        cdef _Thresholds found = self._by_code.get(code)
        if found is None:
            found = _Thresholds.__new__(_Thresholds)
        push(&found.heaps[kind], entry)
        found.size += 1
        self._size += 1
        self._by_code[code] = found

    def remove(self, str code not None, str alert_type not None, int64_t rule_id):
        cdef int kind = kind_of(alert_type)
        cdef _Thresholds found = self._by_code.get(code)
        cdef Heap* heap
        cdef Py_ssize_t i
        if found is None:
            return False
        heap = &found.heaps[kind]
        for i in range(heap.size):
            if heap.entries[i].rule_id == rule_id:
                drop(heap, i)
                self._shrink(code, found, 1)
                return True
        return False

    def take(self, PriceUpdate update not None):
        cdef _Thresholds found
        cdef PyObject* borrowed
        cdef Heap* heap
        cdef Decimal64 value
        cdef int kind
        if update.instrument is None:
            raise ValueError("instrument: the PriceUpdate was never initialised")
        borrowed = PyDict_GetItemWithError(self._by_code, update.instrument.code)
        if borrowed is NULL:
            return None
        found = <_Thresholds>borrowed
        taken = None
        for kind in range(N_KINDS):
            heap = &found.heaps[kind]
            if heap.size == 0:
                continue
            value = value_of(update, kind)
            if is_absent(value):
                continue
            while heap.size > 0 and is_over(value, SIGNS[kind], heap.entries):
                if taken is None:
                    taken = []
                taken.append(heap.entries[0].rule_id)
                drop(heap, 0)
        if taken is not None:
            self._shrink(update.instrument.code, found, len(taken))
        return taken

    cdef int _shrink(self, str code, _Thresholds found, Py_ssize_t n) except -1:
        found.size -= n
        self._size -= n
        if found.size == 0:
            del self._by_code[code]
        return 0
