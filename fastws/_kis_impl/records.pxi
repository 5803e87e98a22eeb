# Whole records for numpy: one field per column, one row per record of a frame.

cdef enum ColumnKind:
    INTEGER = 0
    DECIMAL                     # a double
    DIGITS                      # a decimal kept as its text
    TEXT

cdef enum:
    MAX_WIDTH = 256             # the widest TR has 88 columns
    MAX_COUNT = 1000            # frames say three digits
    MAX_TEXT_SIZE = 256         # characters; every text of a layout takes the room of the longest one
    FIRST_TEXT_SIZE = 8
    CHARACTER_SIZE = 4
    NUMBER_SIZE = 8

cdef set INTEGER_TYPES = {
    "price_krw", "price_signed", "qty", "qty_signed", "amount_krw", "amount_signed", "count", "count_signed"
}
cdef set DECIMAL_TYPES = {"float", "pct_float", "index_float"}

# What stands for an integer that KIS left empty.
MISSING = INT64_MIN

# Up to here a power of ten is a double without rounding, and so is a mantissa below 2**53: their quotient is
# then the double nearest to the decimal.
cdef double[19] TENS = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
]
cdef int64_t EXACT_MANTISSA = 1 << 53


cdef bint read_double(const char* s, Py_ssize_t n, double* out) except -1:
    """Whether these are the digits of a number, and then the double nearest to it; NaN when empty."""
    cdef Decimal64 value
    cdef Py_ssize_t i
    if is_empty(s, n):
        out[0] = NAN
        return True
    if parse_decimal(s, n, &value) == 0 and value.scale <= 18 and (
        -EXACT_MANTISSA < value.mantissa < EXACT_MANTISSA
    ):
        out[0] = value.mantissa / TENS[value.scale]
        return True
    # More digits than that; float() takes words such as "nan" as well, so they are looked at first.
    for i in range(n):
        if not (c"0" <= s[i] <= c"9" or s[i] == c"." or (i == 0 and (s[i] == c"-" or s[i] == c"+"))):
            return False
    try:
        out[0] = float(PyBytes_FromStringAndSize(s, n))
    except ValueError:
        return False
    return True


cdef Py_ssize_t read_utf8(const char* s, Py_ssize_t n, uint32_t* out, Py_ssize_t room) noexcept nogil:
    """Write the characters of a text and return their number, also when there are more than `room`; -1 for
    what is no UTF-8 (RFC 3629 §4)."""
    cdef const unsigned char* p = <const unsigned char*>s
    cdef const unsigned char* end = p + n
    cdef Py_ssize_t n_characters = 0
    cdef uint32_t character, least
    cdef int n_more
    while p < end:
        character = p[0]
        p += 1
        if character >= 0x80:
            if 0xc2 <= character < 0xe0:
                n_more, least, character = 1, 0x80, character & 0x1f
            elif 0xe0 <= character < 0xf0:
                n_more, least, character = 2, 0x800, character & 0x0f
            elif 0xf0 <= character < 0xf5:
                n_more, least, character = 3, 0x10000, character & 0x07
            else:
                return -1
            if end - p < n_more:
                return -1
            while n_more:
                if p[0] & 0xc0 != 0x80:
                    return -1
                character = (character << 6) | (p[0] & 0x3f)
                p += 1
                n_more -= 1
            if character < least or character > 0x10ffff or 0xd800 <= character < 0xe000:
                return -1
        if n_characters < room:
            out[n_characters] = character
        n_characters += 1
    return n_characters


@cython.final
@cython.auto_pickle(False)
cdef class RecordLayout:
    """How the records of one TR and width lie in memory; see `_kis.pyi`."""

    cdef readonly str tr_id
    cdef readonly tuple names
    cdef readonly tuple decimals
    cdef readonly object dtype
    cdef readonly Py_ssize_t n_integers
    cdef readonly Py_ssize_t n_doubles
    cdef readonly Py_ssize_t n_texts
    cdef readonly Py_ssize_t text_size
    cdef public object plan
    cdef Py_ssize_t _row_size
    cdef int8_t _kinds[MAX_WIDTH]
    cdef int32_t _offsets[MAX_WIDTH]

    def __cinit__(self, str tr_id, tuple names, list kinds, Py_ssize_t text_size):
        cdef Py_ssize_t i, integers_at = 0, doubles_at, texts_at
        self.tr_id = tr_id
        self.names = names
        self.text_size = text_size
        self.n_integers = kinds.count(INTEGER)
        self.n_doubles = kinds.count(DECIMAL)
        self.n_texts = len(kinds) - self.n_integers - self.n_doubles
        self.decimals = tuple([name for name, kind in zip(names, kinds) if kind in (DECIMAL, DIGITS)])
        # Fields of a kind lie side by side, so that all of them are one array of two dimensions.
        doubles_at = integers_at + NUMBER_SIZE * self.n_integers
        texts_at = doubles_at + NUMBER_SIZE * self.n_doubles
        self._row_size = texts_at + CHARACTER_SIZE * text_size * self.n_texts
        formats = []
        for i, kind in enumerate(kinds):
            self._kinds[i] = kind
            if kind == INTEGER:
                self._offsets[i] = integers_at
                integers_at += NUMBER_SIZE
                formats.append("i8")
            elif kind == DECIMAL:
                self._offsets[i] = doubles_at
                doubles_at += NUMBER_SIZE
                formats.append("f8")
            else:
                self._offsets[i] = texts_at
                texts_at += CHARACTER_SIZE * text_size
                formats.append(f"U{text_size}")
        self.dtype = np.dtype({
            "names": list(names),
            "formats": formats,
            "offsets": [self._offsets[i] for i in range(len(kinds))],
            "itemsize": self._row_size,
        })

    def __repr__(self):
        return f"RecordLayout(tr_id={self.tr_id!r}, width={len(self.names)})"


@cython.final
@cython.auto_pickle(False)
cdef class RecordReader:
    """Turns frames into structured arrays; see `_kis.pyi`."""

    cdef readonly str decimals
    cdef public object on_new_width
    cdef public object on_new_type
    cdef dict _layouts              # (TR id, width) -> RecordLayout
    cdef set _new_widths
    cdef set _wide                  # (TR id, name) of the integer columns that turned out to hold decimals

    def __init__(self, decimals="float", *, on_new_width=None, on_new_type=None):
        if decimals not in ("float", "exact"):
            raise ValueError(f"decimals must be 'float' or 'exact', not {decimals!r}")
        self.decimals = decimals
        self.on_new_width = on_new_width
        self.on_new_type = on_new_type
        self._layouts = {}
        self._new_widths = set()
        self._wide = set()

    def read(self, message):
        """Return the layout and the records of one message."""
        cdef bytes data = as_bytes(message)
        cdef Head head
        cdef Fault fault = read_head(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &head)
        cdef uint32_t* starts
        cdef Py_ssize_t n_values
        if fault == FINE and head.is_encrypted:
            fault = ENCRYPTED
        elif fault == FINE and head.count > MAX_COUNT:
            fault = BAD_COUNT
        if fault != FINE:
            raise KISFrameError(FAULTS[<int>fault])
        tr_id = TR_IDS.get(PyBytes_FromStringAndSize(head.tr_id, head.tr_id_size))
        if tr_id is None:
            raise KISFrameError("unknown TR")
        starts = <uint32_t*>PyMem_Malloc((head.payload_size + 2) * sizeof(uint32_t))
        if starts == NULL:
            raise MemoryError
        try:
            n_values = find_fields(head.payload, head.payload_size, starts)
            if n_values % head.count != 0 or n_values // head.count > MAX_WIDTH:
                raise KISFrameError("width")
            return self._read(tr_id, &head, starts, n_values // head.count)
        finally:
            PyMem_Free(starts)

    cdef tuple _read(self, str tr_id, const Head* head, const uint32_t* starts, Py_ssize_t width):
        cdef RecordLayout layout = self._layouts.get((tr_id, width))
        cdef bytearray rows
        cdef Py_ssize_t column, needed
        if layout is None:
            layout = self._admit(tr_id, width)
        while True:
            rows = PyByteArray_FromStringAndSize(NULL, layout._row_size * head.count)
            column = fill(layout, head, starts, width, PyByteArray_AS_STRING(rows), &needed)
            if column < 0:
                return layout, np.frombuffer(rows, dtype=layout.dtype)
            if needed == 0:
                self._wide.add((tr_id, layout.names[column]))
                layout = self._make(tr_id, width, layout.text_size)
                if self.on_new_type is not None:
                    self.on_new_type(tr_id, layout.names[column])
            else:
                layout = self._make(tr_id, width, needed + needed % 2)

    cdef RecordLayout _admit(self, str tr_id, Py_ssize_t width):
        cdef int which
        cdef bytes key = tr_id.encode("ascii")
        which = find_layout(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
        if which >= 0 and width < LAYOUTS[which].min_width:
            raise KISFrameError("width")
        is_known = width in KNOWN_WIDTHS[tr_id]
        if not is_known:
            if is_several(KNOWN_WIDTHS[tr_id], width):
                raise KISFrameError("count")
            if len(self._new_widths) >= MAX_NEW_WIDTHS:
                raise KISFrameError("width")
            self._new_widths.add((tr_id, width))
        layout = self._make(tr_id, width, FIRST_TEXT_SIZE)
        if not is_known and self.on_new_width is not None:
            self.on_new_width(tr_id, width)
        return layout

    cdef RecordLayout _make(self, str tr_id, Py_ssize_t width, Py_ssize_t text_size):
        names = columns_for(tr_id, width)
        decimal = DECIMAL if self.decimals == "float" else DIGITS
        kinds = []
        for name, kind in zip(names, types_for(tr_id, width)):
            if kind in DECIMAL_TYPES or (tr_id, name) in self._wide:
                kinds.append(decimal)
            else:
                kinds.append(INTEGER if kind in INTEGER_TYPES else TEXT)
        layout = RecordLayout(tr_id, names, kinds, text_size)
        self._layouts[tr_id, width] = layout
        return layout


cdef Py_ssize_t fill(
    RecordLayout layout, const Head* head, const uint32_t* starts, Py_ssize_t width, char* row, Py_ssize_t* needed
) except -2:
    """Write all records; -1 when that is done.

    Else the column whose values do not fit: `needed` is the number of characters that it takes, or 0 for an
    integer column that holds a decimal. Raises KISFrameError for a number that is none.
    """
    cdef Py_ssize_t i, column, size
    cdef const char* s
    cdef char* at
    cdef int kind
    cdef Decimal64 value
    cdef double number
    memset(row, 0, layout._row_size * head.count)
    for i in range(head.count):
        for column in range(width):
            s = head.payload + starts[column]
            size = size_of(starts, column)
            at = row + layout._offsets[column]
            kind = layout._kinds[column]
            if kind == INTEGER:
                if read_number(s, size, &value) == 0 and value.scale == 0:
                    (<int64_t*>at)[0] = value.mantissa
                    continue
                if not read_double(s, size, &number):
                    raise KISFrameError("number")
                needed[0] = 0
                return column
            if kind == DECIMAL:
                if not read_double(s, size, <double*>at):
                    raise KISFrameError("number")
                continue
            if kind == DIGITS and not read_double(s, size, &number):
                raise KISFrameError("number")
            size = read_utf8(s, size, <uint32_t*>at, layout.text_size)
            if size < 0:
                raise KISFrameError("not UTF-8")
            if size > layout.text_size:
                if size > MAX_TEXT_SIZE:
                    raise KISFrameError("too long")
                needed[0] = size
                return column
        starts += width
        row += layout._row_size
    return -1


def peek_frame(message):
    """Return what a frame is about; see `_kis.pyi`."""
    cdef bytes data = as_bytes(message)
    cdef Head head
    cdef Fault fault = read_head(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &head)
    cdef const char* end
    cdef uint32_t* starts
    cdef Py_ssize_t n_values, width, i
    if fault != FINE:
        raise KISFrameError(FAULTS[<int>fault])
    tr_id = PyBytes_FromStringAndSize(head.tr_id, head.tr_id_size)
    name = TR_IDS.get(tr_id)
    if name is None:
        name = tr_id.decode("utf-8", "replace")
    if head.is_encrypted:
        return name, True, ()
    if head.count == 1:
        end = <const char*>memchr(head.payload, c"^", head.payload_size)
        size = head.payload_size if end == NULL else end - head.payload
        return name, False, (PyBytes_FromStringAndSize(head.payload, size).decode("utf-8", "replace"),)
    starts = <uint32_t*>PyMem_Malloc((head.payload_size + 2) * sizeof(uint32_t))
    if starts == NULL:
        raise MemoryError
    try:
        n_values = find_fields(head.payload, head.payload_size, starts)
        if n_values % head.count != 0:
            raise KISFrameError("width")
        width = n_values // head.count
        keys = {}
        for i in range(0, n_values, width):
            keys[PyBytes_FromStringAndSize(head.payload + starts[i], size_of(starts, i))] = None
        return name, False, tuple([key.decode("utf-8", "replace") for key in keys])
    finally:
        PyMem_Free(starts)
