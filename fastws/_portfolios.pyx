# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The positions of all portfolios, and what those are worth that somebody watches.

A server knows a hundred thousand portfolios, of which a few thousand are watched. The positions of all lie in
columns, those of a portfolio side by side. A portfolio that is watched enters its positions at their symbols: each
symbol has the quantities of its watched holders in one array, and a price walks along that and adds the difference
that it makes to their totals. Nobody else is touched, so a price costs by its watched holders, also where half of
all portfolios hold it.

Everything is exact. A quantity is a whole number of 10**-8 and a price one of 10**-12, so that sums are whole
numbers of 10**-20 in 128 bits, which end at 1.7e18 units of a currency. Every step says when it does not fit. What
does not, or has more decimals, is valued in the integers of Python, which have no end: slower, and as exact.

What is due leaves in one call for all: tens of thousands of values a second, of which Python sees none.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM
from cpython.long cimport PyLong_AsSsize_t
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from fastws._core cimport Channel, Hub, Lane, Topic
from fastws._market cimport (
    DECIMAL_TEXT_SIZE,
    TIME_SIZE,
    Decimal64,
    PriceUpdate,
    absent,
    check_published,
    is_absent,
    parse_decimal,
    put,
    put_decimal,
    put_published,
)

from decimal import Decimal

import msgspec

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    # A borrowed reference; NULL where there is none.
    PyObject* PyDict_GetItemWithError(object mapping, object key) except? NULL

cdef enum:
    QUANTITY_SCALE = 8
    PRICE_SCALE = 12
    SCALE = QUANTITY_SCALE + PRICE_SCALE
    LONGEST_SCALE = QUANTITY_SCALE + 18     # of what Python's integers sum up
    N_DAYS = 2                              # daily closes of a symbol that are looked at
    FREE = -1                               # a Live that is nobody's; a portfolio that has none
    EPOCH_DAY = 719_163                     # date(1970, 1, 1).toordinal()
    NUMBERS_SIZE = 3 * DECIMAL_TEXT_SIZE + 64
    CHUNK = 16                              # values that leave between two looks at the clock

cdef uint32_t NOT_COUNTED = 0xffffffff

# What a currency is counted in has two decimals, unless it stands here (ISO 4217).
cdef dict DECIMALS = dict.fromkeys(
    ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF",
     "XPF"),
    0,
) | dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3)

# Hours from UTC to a time whose days hold whole trading days of the markets with this currency.
cdef dict ZONES = {"KRW": 9, "JPY": 9, "CNY": 8, "HKD": 8, "TWD": 8, "SGD": 8, "USD": -5, "CAD": -5}

cdef object json_of = msgspec.json.Encoder().encode


cdef inline int64_t monotonic_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec


include "_portfolios_impl/wide.pxi"
include "_portfolios_impl/numbers.pxi"
include "_portfolios_impl/values.pxi"


cdef struct Holding:            # a position of a watched portfolio
    int64_t quantity            # at QUANTITY_SCALE
    int32_t live
    uint32_t place              # lives[live].places[place] says where this stands


cdef struct Symbol:             # what is in it but the holdings holds only while there are some
    wide price                  # at PRICE_SCALE; 0 where there is neither a price nor a close
    wide base                   # its previous close
    Decimal64 price_            # as they came, never absent
    Decimal64 base_
    Decimal64 change_           # that of the feed, which says more than `base_`; may be absent
    Decimal64[N_DAYS] closes    # the newest first
    int32_t[N_DAYS] days        # since the epoch
    int n_days
    Decimal64 close             # of the instrument table, whatever its day; may be absent
    int zone
    bint is_priced
    bint is_wide                # does not fit PRICE_SCALE
    Holding* holdings           # owned by the table
    uint32_t n
    uint32_t size


cdef struct Live:               # a watched portfolio
    wide total                  # at SCALE; as `base`, means nothing while `is_wide`
    wide base                   # the same at the previous closes
    uint32_t* places            # owned by the table. Where each position stands among the holdings of its symbol
    int32_t portfolio
    int32_t next_free
    uint32_t n_unpriced         # positions
    uint32_t n_named            # of those, when they were named last
    int8_t decimals
    uint8_t is_dirty            # stands in `dirty` or `due`
    uint8_t is_wide


include "_portfolios_impl/ahead.pxi"


@cython.final
@cython.auto_pickle(False)
cdef class PortfolioTable:
    cdef readonly Py_ssize_t n_portfolios
    cdef readonly Py_ssize_t n_positions
    cdef readonly Py_ssize_t n_watched
    cdef readonly int64_t n_wide        # values that did not fit and were made in Python's integers
    cdef readonly uint32_t n_dirty
    cdef readonly uint32_t n_due
    cdef const int64_t[::1] ids
    cdef const int32_t[::1] position_symbols
    cdef const int64_t[::1] quantities
    cdef list owners
    cdef list names
    cdef list currencies
    cdef list symbols
    cdef dict places                    # index by symbol
    cdef dict known                     # what is known of closes, by symbol
    cdef list symbol_currencies         # None where unknown, or nobody watches; by symbol
    cdef object last_price
    cdef object find_instrument
    cdef object clock
    # Owned.
    cdef int64_t* starts                # the positions of portfolio i: starts[i] to starts[i + 1]
    cdef int32_t* live_of               # by portfolio; FREE where it is not watched
    cdef Symbol* symbol_array
    cdef Py_ssize_t n_symbols           # not of `symbols`, which the collector may have taken before the end
    cdef Live* lives
    cdef uint32_t lives_size
    cdef int32_t first_free
    cdef list channels                  # by live, as the following ones
    cdef list heads                     # see `PortfolioValue`
    cdef list tails
    # Lives with something new: `n_dirty` since the others were taken, and those, of which the last `n_due` before
    # `due_end` are still to leave. Each is in one of both, once; both have as many places as there are lives. FREE is
    # where one that was due is watched no more.
    cdef uint32_t* dirty
    cdef uint32_t* due
    cdef uint32_t due_end

    def __cinit__(self, loaded not None, last_price, find_instrument, clock):
        cdef Py_ssize_t i
        self.first_free = FREE
        self.channels = []
        self.heads = []
        self.tails = []
        self.ids = loaded.ids
        self.position_symbols = loaded.position_symbols
        self.quantities = loaded.quantities
        self.owners = loaded.owners
        self.names = loaded.names
        self.currencies = loaded.currencies
        self.symbols = loaded.symbols
        self.known = loaded.closes
        self.last_price = last_price
        self.find_instrument = find_instrument
        self.clock = clock
        self.n_portfolios = self.ids.shape[0]
        self.n_positions = self.quantities.shape[0]
        self.n_symbols = len(self.symbols)
        self.symbol_currencies = [None] * self.n_symbols
        self.places = {symbol: i for i, symbol in enumerate(self.symbols)}
        if not (
            len(self.owners) == len(self.names) == len(self.currencies) == self.n_portfolios
            and self.position_symbols.shape[0] == self.n_positions
        ):
            raise ValueError("loaded: its columns differ in length")
        self.starts = <int64_t*>calloc(self.n_portfolios + 1, sizeof(int64_t))
        self.live_of = <int32_t*>malloc(max(1, self.n_portfolios) * sizeof(int32_t))
        self.symbol_array = <Symbol*>calloc(max(1, self.n_symbols), sizeof(Symbol))
        if self.starts is NULL or self.live_of is NULL or self.symbol_array is NULL:
            raise MemoryError
        for i in range(self.n_portfolios):
            self.live_of[i] = FREE
        self.divide(loaded.position_portfolios)

    cdef int divide(self, const int32_t[::1] position_portfolios) except -1:
        """Find the positions of each portfolio. Nothing is read by an index that was not looked at here."""
        cdef Py_ssize_t i, n_symbols = self.n_symbols, n_portfolios = self.n_portfolios
        cdef int32_t portfolio, last = 0
        cdef bint is_wrong = position_portfolios.shape[0] != self.n_positions
        if not is_wrong:
            with nogil:
                for i in range(self.n_positions):
                    portfolio = position_portfolios[i]
                    if (
                        portfolio < last or portfolio >= n_portfolios
                        or self.position_symbols[i] < 0 or self.position_symbols[i] >= n_symbols
                    ):
                        is_wrong = True
                        break
                    last = portfolio
                    self.starts[portfolio + 1] = self.starts[portfolio + 1] + 1
                for i in range(n_portfolios):
                    self.starts[i + 1] = self.starts[i + 1] + self.starts[i]
                for i in range(1, n_portfolios):
                    if self.ids[i - 1] >= self.ids[i]:
                        is_wrong = True
        if is_wrong:
            raise ValueError("loaded: positions that are out of order, or name no portfolio or symbol")
        return 0

    def __dealloc__(self):
        cdef uint32_t i
        cdef Py_ssize_t j
        for i in range(self.lives_size):
            if self.lives[i].portfolio != FREE:
                free(self.lives[i].places)
        if self.symbol_array is not NULL:
            for j in range(self.n_symbols):
                free(self.symbol_array[j].holdings)
        free(self.starts)
        free(self.live_of)
        free(self.symbol_array)
        free(self.lives)
        free(self.dirty)
        free(self.due)

    # What is in the table.

    def find(self, int64_t portfolio_id):
        cdef Py_ssize_t low = 0, high = self.n_portfolios, middle
        while low < high:
            middle = (low + high) // 2
            if self.ids[middle] < portfolio_id:
                low = middle + 1
            else:
                high = middle
        return low if low < self.n_portfolios and self.ids[low] == portfolio_id else -1

    def describe(self, Py_ssize_t index):
        self.check_index(index)
        return self.ids[index], self.owners[index], self.names[index], self.currencies[index]

    cdef int check_index(self, Py_ssize_t index) except -1:
        if not 0 <= index < self.n_portfolios:
            raise IndexError(f"portfolio {index} of {self.n_portfolios}")
        return 0

    def codes(self):
        cdef Py_ssize_t i
        return {self.symbols[i] for i in range(self.n_symbols) if self.symbol_array[i].n}

    # Who is watched.

    def watch(self, Py_ssize_t index, Channel channel not None):
        cdef int32_t number
        self.check_index(index)
        if self.live_of[index] != FREE:
            raise ValueError(f"portfolio {self.ids[index]} is watched already")
        number = self.new_live(index)
        self.live_of[index] = number
        self.n_watched += 1
        try:
            self.channels[number] = channel
            self.heads[number] = b'"portfolio_id":%d,"name":%b,"total_value":' % (
                self.ids[index], json_of(self.names[index])
            )
            self.enter(index, number)
            self.mark(number)
        except BaseException:
            self.unwatch(index)
            raise

    cdef int32_t new_live(self, Py_ssize_t index) except -1:
        cdef uint32_t i, size
        cdef Live* grown
        cdef uint32_t* numbers
        cdef int32_t number
        cdef Py_ssize_t n = self.starts[index + 1] - self.starts[index]
        cdef uint32_t* places
        if self.first_free == FREE:
            size = 64 if self.lives_size == 0 else 2 * self.lives_size
            numbers = <uint32_t*>realloc(self.dirty, size * sizeof(uint32_t))
            if numbers is NULL:
                raise MemoryError
            self.dirty = numbers
            numbers = <uint32_t*>realloc(self.due, size * sizeof(uint32_t))
            if numbers is NULL:
                raise MemoryError
            self.due = numbers
            grown = <Live*>realloc(self.lives, size * sizeof(Live))
            if grown is NULL:
                raise MemoryError
            self.lives = grown
            for column in (self.channels, self.heads, self.tails):
                column += [None] * <Py_ssize_t>(size - self.lives_size)
            for i in range(self.lives_size, size):
                grown[i].portfolio = FREE
                grown[i].next_free = <int32_t>i + 1 if i + 1 < size else FREE
            self.first_free = <int32_t>self.lives_size
            self.lives_size = size
        places = <uint32_t*>malloc(max(1, n) * sizeof(uint32_t))
        if places is NULL:
            raise MemoryError
        memset(places, 0xff, n * sizeof(uint32_t))      # NOT_COUNTED
        number = self.first_free
        self.first_free = self.lives[number].next_free
        memset(&self.lives[number], 0, sizeof(Live))
        self.lives[number].portfolio = <int32_t>index
        self.lives[number].places = places
        return number

    cdef int enter(self, Py_ssize_t index, int32_t number) except -1:
        """Enter the positions of a portfolio at their symbols, and sum them up."""
        cdef Live* live = &self.lives[number]
        cdef int64_t start = self.starts[index], i
        cdef int32_t place
        cdef Symbol* symbol
        currency = self.currencies[index]
        live.decimals = DECIMALS.get(currency.upper(), 2) if currency else 2
        for i in range(start, self.starts[index + 1]):
            place = self.position_symbols[i]
            symbol = &self.symbol_array[place]
            if symbol.n == 0:
                self.open_symbol(place)
            other = self.symbol_currencies[place]
            # As they are written: GBp, ZAc and ILA are the hundredths of GBP, ZAR and ILS.
            if currency and other is not None and other != currency:
                live.n_unpriced += 1
                continue
            self.add_holding(symbol, number, <uint32_t>(i - start), self.quantities[i])
            if not symbol.is_priced:
                live.n_unpriced += 1
        self.sum_up(live)
        return 0

    cdef int add_holding(self, Symbol* symbol, int32_t number, uint32_t place, int64_t quantity) except -1:
        cdef uint32_t size
        cdef Holding* grown
        if symbol.n == symbol.size:
            size = 4 if symbol.size == 0 else symbol.size + symbol.size // 2
            grown = <Holding*>realloc(symbol.holdings, size * sizeof(Holding))
            if grown is NULL:
                raise MemoryError
            symbol.holdings = grown
            symbol.size = size
        symbol.holdings[symbol.n].quantity = quantity
        symbol.holdings[symbol.n].live = number
        symbol.holdings[symbol.n].place = place
        self.lives[number].places[place] = symbol.n
        symbol.n += 1
        return 0

    def unwatch(self, Py_ssize_t index):
        cdef Live* live
        cdef Symbol* symbol
        cdef Holding* moved
        cdef int64_t start, i
        cdef uint32_t hole
        cdef int32_t number
        self.check_index(index)
        number = self.live_of[index]
        if number == FREE:
            return
        live = &self.lives[number]
        start = self.starts[index]
        for i in range(start, self.starts[index + 1]):
            hole = live.places[i - start]
            if hole == NOT_COUNTED:
                continue
            symbol = &self.symbol_array[self.position_symbols[i]]
            symbol.n -= 1
            if hole != symbol.n:
                moved = &symbol.holdings[hole]
                moved[0] = symbol.holdings[symbol.n]
                self.lives[moved.live].places[moved.place] = hole
            if symbol.n == 0:
                free(symbol.holdings)
                symbol.holdings = NULL
                symbol.size = 0
        if live.is_dirty:
            self.clean(number)
        free(live.places)
        live.places = NULL
        live.portfolio = FREE
        live.next_free = self.first_free
        self.first_free = number
        self.channels[number] = self.heads[number] = self.tails[number] = None
        self.live_of[index] = FREE
        self.n_watched -= 1

    cdef void clean(self, int32_t number) noexcept:
        """Take one out of what is dirty or due."""
        cdef uint32_t i
        for i in range(self.n_dirty):
            if self.dirty[i] == <uint32_t>number:
                self.n_dirty -= 1
                self.dirty[i] = self.dirty[self.n_dirty]
                return
        for i in range(self.due_end - self.n_due, self.due_end):
            if self.due[i] == <uint32_t>number:
                self.due[i] = <uint32_t>FREE
                return

    # Prices.

    cdef int open_symbol(self, int32_t place) except -1:
        """Find out what is known of a symbol that nobody watched until now."""
        cdef Symbol* symbol = &self.symbol_array[place]
        cdef Decimal64 close
        cdef str code = self.symbols[place]
        instrument = self.find_instrument(code)
        known = self.known.get(code)
        currency = None if instrument is None else instrument.currency
        if not currency and known is not None:
            currency = known.currency
        self.symbol_currencies[place] = currency or None
        symbol.zone = ZONES.get(self.symbol_currencies[place], 0)
        symbol.close = number_of(None if instrument is None else instrument.previous_close)
        symbol.n_days = 0
        if known is not None:
            if is_absent(symbol.close):
                symbol.close = number_of(known.previous)
            for day, number in known.days:
                close = number_of(number)
                if symbol.n_days < N_DAYS and not is_absent(close):
                    symbol.days[symbol.n_days] = <int32_t>(<int64_t>day.toordinal() - EPOCH_DAY)
                    symbol.closes[symbol.n_days] = close
                    symbol.n_days += 1
        update = self.last_price(code)
        if update is not None:
            self.read_price(symbol, update)
            return 0
        symbol.is_priced = False
        # The newest one there is, and against that nothing has changed.
        close = symbol.closes[0] if symbol.n_days else symbol.close
        if is_absent(close):
            close.mantissa = 0
            close.scale = 0
        symbol.price_ = symbol.base_ = close
        symbol.change_ = absent()
        return self.place_price(symbol)

    cdef int read_price(self, Symbol* symbol, PriceUpdate update) except -1:
        symbol.price_ = update.price_
        symbol.change_ = update.change_
        symbol.base_ = update.price_
        symbol.is_priced = True
        if is_absent(update.change_):
            self.find_base(symbol, update)
        return self.place_price(symbol)

    cdef int find_base(self, Symbol* symbol, PriceUpdate update) except -1:
        """The previous close of a price that comes without its change; the price itself where none is known."""
        cdef int64_t day
        cdef int i
        if symbol.n_days:
            day = update.event_time_ms or self.clock()
            day = (day + symbol.zone * <int64_t>3_600_000) // 86_400_000
            for i in range(symbol.n_days):
                # That of the same day may be there already, of a session that is over or goes on.
                if symbol.days[i] < day:
                    symbol.base_ = symbol.closes[i]
                    return 0
        if not is_absent(symbol.close):
            symbol.base_ = symbol.close
        return 0

    cdef int place_price(self, Symbol* symbol) except -1:
        """Bring the price and the previous close to the scale of sums."""
        cdef wide change = 0
        symbol.is_wide = lift(symbol.price_, &symbol.price) != 0
        if is_absent(symbol.change_):
            symbol.is_wide |= lift(symbol.base_, &symbol.base) != 0
        else:
            symbol.is_wide |= lift(symbol.change_, &change) != 0
            symbol.base = symbol.price - change
        return 0

    def set_price(self, PriceUpdate update not None):
        cdef PyObject* borrowed
        cdef Symbol* symbol
        cdef wide price, base
        cdef bint was_priced, was_wide
        if update.instrument is None:
            raise ValueError("instrument: the PriceUpdate was never initialised")
        borrowed = PyDict_GetItemWithError(self.places, update.instrument.code)
        if borrowed is NULL:
            return self.n_dirty > 0
        symbol = &self.symbol_array[PyLong_AsSsize_t(<object>borrowed)]
        if symbol.n == 0:
            return self.n_dirty > 0
        price = symbol.price
        base = symbol.base
        was_priced = symbol.is_priced
        was_wide = symbol.is_wide
        self.read_price(symbol, update)
        if was_wide or symbol.is_wide or not was_priced or symbol.price != price or symbol.base != base:
            self.spread(symbol, symbol.price - price, symbol.base - base, not was_priced)
        return self.n_dirty > 0

    cdef void spread(self, Symbol* symbol, wide price, wide base, bint is_first) noexcept:
        """Add what a price and a previous close have changed by to everybody who holds the symbol."""
        cdef uint32_t i
        cdef Holding* holding
        cdef Live* live
        for i in range(symbol.n):
            holding = &symbol.holdings[i]
            live = &self.lives[holding.live]
            # What was wide before stays so until it is summed up again.
            if not live.is_wide and (
                symbol.is_wide
                or add_product(&live.total, holding.quantity, price) != 0
                or (base != 0 and add_product(&live.base, holding.quantity, base) != 0)
            ):
                live.is_wide = True
            if is_first:
                live.n_unpriced -= 1
            self.mark(holding.live)

    cdef inline void mark(self, int32_t number) noexcept:
        if not self.lives[number].is_dirty:
            self.lives[number].is_dirty = True
            self.dirty[self.n_dirty] = <uint32_t>number
            self.n_dirty += 1

    # What leaves.

    def take_due(self):
        if self.n_due == 0:
            self.dirty, self.due = self.due, self.dirty
            self.due_end = self.n_due = self.n_dirty
            self.n_dirty = 0
        return self.n_due

    def publish_due(self, Hub hub not None, double seconds):
        cdef int64_t until_ns = monotonic_ns() + <int64_t>(seconds * 1e9)
        cdef uint32_t number
        while self.n_due:
            number = self.due[self.due_end - self.n_due]
            self.n_due -= 1
            look_ahead(&self.due[self.due_end - self.n_due], self.n_due, self.lives, self.channels, self.heads)
            if number != <uint32_t>FREE:
                # First: what cannot be valued now is dirty again with its next price.
                self.lives[number].is_dirty = False
                self.publish_live(hub, <int32_t>number)
            if self.n_due % CHUNK == 0 and monotonic_ns() >= until_ns:
                break

    def publish(self, Hub hub not None, Py_ssize_t index):
        self.watched(index)
        self.publish_live(hub, self.live_of[index])

    cdef int publish_live(self, Hub hub, int32_t number) except -1:
        cdef Channel channel = <Channel>self.channels[number]
        cdef PortfolioValue value = self.value_of(number)
        if channel.last is not None and type(channel.last.payload) is PortfolioValue:
            if reads_like(value, <PortfolioValue>channel.last.payload):
                return 0
        return hub.publish_update(channel, value)

    # Values.

    cdef int sum_up(self, Live* live) except -1:
        """Sum up all of a portfolio anew; where that does not fit it is wide."""
        cdef int64_t start = self.starts[live.portfolio], i
        cdef Symbol* symbol
        cdef wide total = 0, base = 0
        live.is_wide = False
        for i in range(start, self.starts[live.portfolio + 1]):
            if live.places[i - start] == NOT_COUNTED:
                continue
            symbol = &self.symbol_array[self.position_symbols[i]]
            if (
                symbol.is_wide
                or add_product(&total, self.quantities[i], symbol.price) != 0
                or add_product(&base, self.quantities[i], symbol.base) != 0
            ):
                live.is_wide = True
                return 0
        live.total = total
        live.base = base
        return 0

    cdef tuple sum_in_python(self, Live* live):
        """The total and the same at the previous closes in units of 10**-26, from the numbers as they came."""
        cdef int64_t start = self.starts[live.portfolio], i
        cdef Symbol* symbol
        total = base = 0
        for i in range(start, self.starts[live.portfolio + 1]):
            if live.places[i - start] == NOT_COUNTED:
                continue
            symbol = &self.symbol_array[self.position_symbols[i]]
            price = lifted(symbol.price_)
            total += self.quantities[i] * price
            base += self.quantities[i] * (
                lifted(symbol.base_) if is_absent(symbol.change_) else price - lifted(symbol.change_)
            )
        return total, base

    cdef Live* watched(self, Py_ssize_t index) except NULL:
        self.check_index(index)
        if self.live_of[index] == FREE:
            raise KeyError(f"portfolio {self.ids[index]} is not watched")
        return &self.lives[self.live_of[index]]

    def amounts(self, Py_ssize_t index):
        cdef Live* live = self.watched(index)
        if live.is_wide:
            self.sum_up(live)
        if live.is_wide:
            return self.sum_in_python(live)
        factor = power_of_ten(LONGEST_SCALE - SCALE)
        return wide_to_python(live.total) * factor, wide_to_python(live.base) * factor

    def check(self, Py_ssize_t index):
        cdef Live* live = self.watched(index)
        if self.amounts(index) == self.sum_in_python(live):
            return True
        self.sum_up(live)
        self.mark(self.live_of[index])
        return False

    def value(self, Py_ssize_t index):
        self.watched(index)
        return self.value_of(self.live_of[index])

    cdef PortfolioValue value_of(self, int32_t number):
        cdef Live* live = &self.lives[number]
        cdef PortfolioValue value = PortfolioValue.__new__(PortfolioValue)
        cdef wide difference = 0
        if live.is_wide:
            self.sum_up(live)
        value.portfolio_id = self.ids[live.portfolio]
        value.head = <bytes>self.heads[number]
        value.decimals = live.decimals
        if (
            live.is_wide
            or subtract(live.total, live.base, &difference) != 0
            or round_wide(live.total, SCALE - live.decimals, &value.total) != 0
            or round_wide(difference, SCALE - live.decimals, &value.change) != 0
            or hundredths(difference, live.base, &value.percent) != 0
        ):
            self.n_wide += 1
            value.numbers = self.numbers_in_python(live)
        if live.n_unpriced:
            # What had no price has got one, and not the other way round: as many are the same ones.
            if live.n_named != live.n_unpriced:
                self.tails[number] = b',"unpriced":' + <bytes>json_of(self.unpriced(live))
                live.n_named = live.n_unpriced
            value.tail = <bytes>self.tails[number]
        return value

    cdef bytes numbers_in_python(self, Live* live):
        cdef int decimals = live.decimals
        total, base = self.sum_in_python(live)
        unit = power_of_ten(LONGEST_SCALE - decimals)
        percent = rounded(10_000 * (total - base), abs(base)) if base else 0
        return b'%b,"daily_change":%b,"daily_change_percent":%b' % (
            shown(rounded(total, unit), decimals),
            shown(rounded(total - base, unit), decimals),
            shown(percent, 2),
        )

    cdef list unpriced(self, Live* live):
        """The symbols that count at their last close or not at all, each once."""
        cdef int64_t start = self.starts[live.portfolio], i
        cdef int32_t place
        named = {}
        for i in range(start, self.starts[live.portfolio + 1]):
            place = self.position_symbols[i]
            if live.places[i - start] == NOT_COUNTED or not self.symbol_array[place].is_priced:
                named[self.symbols[place]] = None
        return list(named)
