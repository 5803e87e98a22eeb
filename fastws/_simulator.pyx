# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""A made-up exchange: the next trade or order book, by the step and without a clock.

In C because the same walk written in Python reaches 326,000 updates/s for won, but 94,000/s for prices with
decimals, where every level of a book becomes a `decimal.Decimal` first, and 149,000/s for a table of both.
Here it is 3.5 million/s for any, so that in a load run the core is left to the server.

Prices are counted in *ticks*: index 0 is price 0, and the next index is the next price that the exchange
admits. So "one tick apart" is "index plus one", also where the tick size changes.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport floor
from libc.stdint cimport INT64_MIN, int8_t, int32_t, int64_t

from fastws._market cimport (
    BOOK_LEVELS,
    BookUpdate,
    Decimal64,
    Instrument,
    PriceUpdate,
    absent,
    is_absent,
    new_book,
    new_price,
    rescale,
    whole,
)

import numpy as np

cdef enum:
    BLOCK = 2048                # steps for which random numbers are drawn at once
    POOL = 8 * BLOCK            # quantity factors per block; used again from the start when they run out
    N_BANDS = 7

# KRX price limit and tick sizes for stocks (since 25 January 2023).
cdef int64_t LIMIT_TENTHS = 3
cdef int64_t[N_BANDS] BAND_PRICE = [0, 2_000, 5_000, 20_000, 50_000, 200_000, 500_000]
cdef int64_t[N_BANDS] BAND_TICK = [1, 5, 10, 50, 100, 500, 1_000]
cdef int64_t[N_BANDS] BAND_INDEX = [0, 2_000, 2_600, 4_100, 4_700, 6_200, 6_800]

# Behaviour of the made-up trades, per trade or per day and as a share of the price.
cdef double STEP = 1e-4             # standard deviation of the fair value's move
cdef double MIN_STEP_TICKS = 0.25   # so that a coarse tick does not freeze a price
cdef double DAY_RANGE = 0.015       # standard deviation around the previous close in the long run
cdef double KRW_TRADE = 1e6         # the median trade, in units of the currency
cdef double USD_TRADE = 1_500.0
cdef double TRADE_SPREAD = 1.3      # sigma of the lognormal trade size: the largest of 1,000 is 50 medians
cdef double LEVEL_SPREAD = 0.9      # sigma of the lognormal level quantity
cdef double LEVEL_TRADES = 12.0     # median trades that a book level holds
cdef double LEVEL_GROWTH = 0.25     # of that, more for each level away from the best
cdef int64_t MAX_TRADE = 10_000_000
cdef int64_t MAX_CLOSE = 10**14     # of a previous close in its smallest unit, far from overflow below
cdef int64_t MAX_TIME_MS = 253_402_300_799_999


cdef struct Symbol:
    bint is_krw
    bint has_traded
    int8_t scale                # of price, high, low and of the books
    int8_t change_scale         # at least `scale`; more when the previous close has more decimals
    int64_t price_factor        # from a price to change_scale
    int64_t previous_close      # at change_scale; INT64_MIN when the instrument has none
    int64_t low_limit           # index of the day's lowest admitted price
    int64_t high_limit
    int64_t min_bid             # where the best bid may move
    int64_t max_bid
    int64_t bid                 # index of the best bid; the best ask is one tick above
    double center               # what the fair value reverts to
    double fair                 # index units; its floor is `bid`
    double step
    double pull
    double trade_size
    int64_t high
    int64_t low
    int64_t volume
    int64_t[BOOK_LEVELS] bids   # quantities, best first
    int64_t[BOOK_LEVELS] asks


cdef int64_t price_at(const Symbol* symbol, int64_t index) noexcept nogil:
    """The price of an index, in the smallest unit of the symbol's scale."""
    cdef int band = N_BANDS - 1
    if not symbol.is_krw:
        return index
    while index < BAND_INDEX[band]:
        band -= 1
    return BAND_PRICE[band] + (index - BAND_INDEX[band]) * BAND_TICK[band]


cdef int64_t index_at(const Symbol* symbol, int64_t price) noexcept nogil:
    """The index of the highest admitted price that is not above `price`."""
    cdef int band = N_BANDS - 1
    if not symbol.is_krw:
        return price
    while price < BAND_PRICE[band]:
        band -= 1
    return BAND_INDEX[band] + (price - BAND_PRICE[band]) // BAND_TICK[band]


cdef inline int64_t clamp(int64_t value, int64_t low, int64_t high) noexcept nogil:
    return low if value < low else high if value > high else value


cdef int open_day(Symbol* symbol, Instrument instrument, double volatility) except -1:
    """Set the limits and the start of the walk; quantities are not set yet."""
    cdef Decimal64 close = instrument.previous_close_
    cdef Decimal64 exact
    cdef int64_t reference, low_price, high_price
    symbol.is_krw = is_traded_in_won(instrument)
    symbol.scale = 0 if symbol.is_krw else 2
    symbol.change_scale = symbol.scale
    symbol.price_factor = 1
    symbol.previous_close = INT64_MIN
    if is_absent(close) or close.mantissa <= 0:
        reference = 50_000 if symbol.is_krw else 100_00
    else:
        if rescale(close, symbol.scale, &exact) != 0:
            exact = close       # more decimals than its price; or too large, which the next lines refuse
        if exact.scale < symbol.scale or exact.scale > symbol.scale + 6 or exact.mantissa > MAX_CLOSE:
            raise ValueError(
                f"previous_close of {instrument.code}: cannot simulate {instrument.previous_close}"
            )
        symbol.change_scale = exact.scale
        for _ in range(exact.scale - symbol.scale):
            symbol.price_factor *= 10
        symbol.previous_close = reference = exact.mantissa
    low_price = (reference * (10 - LIMIT_TENTHS) + 10 * symbol.price_factor - 1) // (10 * symbol.price_factor)
    high_price = reference * (10 + LIMIT_TENTHS) // (10 * symbol.price_factor)
    symbol.low_limit = index_at(symbol, low_price)
    if price_at(symbol, symbol.low_limit) < low_price:
        symbol.low_limit += 1
    if symbol.low_limit < 1:
        symbol.low_limit = 1
    symbol.high_limit = index_at(symbol, high_price)
    if symbol.high_limit <= symbol.low_limit:
        # The limits of such a price admit less than two prices, and a book needs two.
        symbol.high_limit = symbol.low_limit + 1
    symbol.min_bid = symbol.low_limit + BOOK_LEVELS - 1
    symbol.max_bid = symbol.high_limit - BOOK_LEVELS
    if symbol.max_bid <= symbol.min_bid:
        # Too narrow for ten levels on both sides wherever the price goes: books get shorter near the limits.
        symbol.min_bid = symbol.low_limit
        symbol.max_bid = symbol.high_limit - 1
    symbol.bid = clamp(index_at(symbol, reference // symbol.price_factor), symbol.min_bid, symbol.max_bid)
    symbol.center = symbol.fair = symbol.bid + 0.5
    cdef double price = <double>price_at(symbol, symbol.bid)
    cdef double n_ticks = price / <double>(price_at(symbol, symbol.bid + 1) - price_at(symbol, symbol.bid))
    cdef double day_range = max(1.0, DAY_RANGE * n_ticks) * volatility
    symbol.step = max(MIN_STEP_TICKS, STEP * n_ticks) * volatility
    # The pull under which a walk of such steps has that standard deviation in the long run.
    symbol.pull = min(0.5, symbol.step**2 / (2.0 * day_range**2))
    symbol.trade_size = max(1.0, KRW_TRADE / price if symbol.is_krw else 100.0 * USD_TRADE / price)
    return 0


def is_traded_in_won(Instrument instrument not None):
    if instrument.currency is None:
        return instrument.market not in ("NASDAQ", "NYSE")
    return instrument.currency == "KRW"


@cython.final
@cython.auto_pickle(False)
cdef class SimulatedExchange:
    cdef Symbol* symbols                # owned; as many as `instruments`
    cdef list instruments
    cdef object rng
    cdef object cumulative              # cumulated trading shares of the symbols, the last one 1.0
    cdef readonly double book_share
    cdef readonly int64_t n_steps
    cdef int cursor                     # next step of the block
    cdef int pool_cursor
    cdef int32_t last_symbol            # of the step before the block
    cdef bint last_was_trade
    cdef const int32_t[::1] symbol_of
    cdef const unsigned char[::1] is_book
    cdef const double[::1] moves        # standard normal
    cdef const double[::1] sides        # uniform
    cdef const double[::1] sizes        # lognormal, median 1
    cdef const double[::1] pool         # lognormal, median 1

    # All of it in __cinit__, so that there is no exchange that has not opened.
    def __cinit__(self, instruments, *, seed, book_share=0.5, double volatility=1.0):
        cdef Py_ssize_t i, n
        cdef int level
        cdef Symbol* symbol
        if not 0.0 <= book_share <= 1.0:
            raise ValueError(f"book_share: expected 0 to 1, got {book_share!r}")
        if not 0.0 < volatility <= 1_000.0:
            raise ValueError(f"volatility: expected more than 0 and up to 1000, got {volatility!r}")
        self.instruments = list(instruments)
        n = len(self.instruments)
        if n == 0:
            raise ValueError("instruments: nothing to simulate")
        self.symbols = <Symbol*>PyMem_Calloc(n, sizeof(Symbol))
        if self.symbols is NULL:
            raise MemoryError
        self.book_share = book_share
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.cumulative = trading_shares(self.instruments)
        self.draw()
        for i in range(n):
            symbol = &self.symbols[i]
            open_day(symbol, self.instruments[i], volatility)
            for level in range(BOOK_LEVELS):
                symbol.bids[level] = self.new_quantity(symbol, level)
                symbol.asks[level] = self.new_quantity(symbol, level)

    def __dealloc__(self):
        PyMem_Free(self.symbols)

    def advance(self, publish_price, publish_book, int n, int64_t event_time_ms):
        cdef int i, _k
        cdef Py_ssize_t j
        if not 0 <= event_time_ms <= MAX_TIME_MS:
            raise ValueError(f"event_time_ms: out of the years 1970 to 9999: {event_time_ms}")
        for _k in range(n):
            if self.cursor == BLOCK:
                self.draw()
            i = self.cursor
            # Counted before it is published: what a sink refuses is not offered again.
            self.cursor += 1
            self.n_steps += 1
            j = self.symbol_of[i]
            if self.is_book[i]:
                publish_book(self.next_book(j, i, event_time_ms))
            else:
                publish_price(self.next_trade(j, i, event_time_ms))

    cdef int draw(self) except -1:
        """Draw the random numbers of the next block; its size is fixed, so no caller's rhythm matters."""
        rng = self.rng
        if self.n_steps > 0:
            self.last_symbol = self.symbol_of[BLOCK - 1]
            self.last_was_trade = not self.is_book[BLOCK - 1]
        # The n-th step is a book when n * book_share passes a whole number: as even as can be, a trade first.
        steps = np.arange(self.n_steps, self.n_steps + BLOCK + 1, dtype=np.float64)
        is_book = np.diff(np.floor(steps * self.book_share)) > 0.5
        symbol_of = np.searchsorted(self.cumulative, rng.random(BLOCK), side="right").astype(np.int32)
        np.minimum(symbol_of, len(self.instruments) - 1, out=symbol_of)
        # A book after a trade is that symbol's: its book follows its trade.
        follows = is_book[1:] & ~is_book[:BLOCK - 1]
        symbol_of[1:][follows] = symbol_of[:BLOCK - 1][follows]
        if is_book[0] and self.last_was_trade:
            symbol_of[0] = self.last_symbol
        self.symbol_of = symbol_of
        self.is_book = is_book.view(np.uint8)
        self.moves = rng.standard_normal(BLOCK)
        self.sides = rng.random(BLOCK)
        self.sizes = rng.lognormal(0.0, TRADE_SPREAD, BLOCK)
        self.pool = rng.lognormal(0.0, LEVEL_SPREAD, POOL)
        self.cursor = 0
        self.pool_cursor = 0
        return 0

    cdef inline int64_t new_quantity(self, const Symbol* symbol, int level) noexcept:
        cdef double factor = self.pool[self.pool_cursor]
        self.pool_cursor = self.pool_cursor + 1 if self.pool_cursor + 1 < POOL else 0
        return 1 + <int64_t>(symbol.trade_size * LEVEL_TRADES * (1.0 + LEVEL_GROWTH * level) * factor)

    cdef void move_bid(self, Symbol* symbol, int64_t bid) noexcept:
        """Move the best bid; levels that stay in the book keep their quantities."""
        cdef int64_t moved = bid - symbol.bid
        cdef int64_t source
        cdef int level
        if moved > 0:
            for level in range(BOOK_LEVELS - 1, -1, -1):
                source = level - moved
                symbol.bids[level] = symbol.bids[source] if source >= 0 else self.new_quantity(symbol, level)
            for level in range(BOOK_LEVELS):
                source = level + moved
                symbol.asks[level] = (
                    symbol.asks[source] if source < BOOK_LEVELS else self.new_quantity(symbol, level)
                )
        elif moved < 0:
            for level in range(BOOK_LEVELS - 1, -1, -1):
                source = level + moved
                symbol.asks[level] = symbol.asks[source] if source >= 0 else self.new_quantity(symbol, level)
            for level in range(BOOK_LEVELS):
                source = level - moved
                symbol.bids[level] = (
                    symbol.bids[source] if source < BOOK_LEVELS else self.new_quantity(symbol, level)
                )
        symbol.bid = bid

    cdef PriceUpdate next_trade(self, Py_ssize_t j, int i, int64_t event_time_ms):
        cdef Symbol* symbol = &self.symbols[j]
        cdef Instrument instrument = <Instrument>self.instruments[j]
        cdef double move = self.moves[i]
        cdef int64_t price, change, quantity
        cdef Decimal64 price_value, high_value, low_value, change_value, percent_value
        symbol.fair += symbol.step * move - symbol.pull * (symbol.fair - symbol.center)
        if symbol.fair < symbol.min_bid:
            symbol.fair = symbol.min_bid
        elif symbol.fair >= symbol.max_bid + 1:
            symbol.fair = symbol.max_bid + 0.5
        self.move_bid(symbol, <int64_t>floor(symbol.fair))
        quantity = 1 + <int64_t>(symbol.trade_size * self.sizes[i])
        if quantity > MAX_TRADE:
            quantity = MAX_TRADE
        # Buyers are in the majority while the price rises.
        if self.sides[i] < (0.65 if move > 0.0 else 0.35):
            price = price_at(symbol, symbol.bid + 1)
            symbol.asks[0] = max(1, symbol.asks[0] - quantity)
        else:
            price = price_at(symbol, symbol.bid)
            symbol.bids[0] = max(1, symbol.bids[0] - quantity)
        symbol.volume += quantity
        if not symbol.has_traded:
            symbol.has_traded = True
            symbol.high = symbol.low = price
        elif price > symbol.high:
            symbol.high = price
        elif price < symbol.low:
            symbol.low = price
        price_value.scale = high_value.scale = low_value.scale = symbol.scale
        price_value.mantissa = price
        high_value.mantissa = symbol.high
        low_value.mantissa = symbol.low
        if symbol.previous_close == INT64_MIN:
            change_value = percent_value = absent()
        else:
            change = price * symbol.price_factor - symbol.previous_close
            change_value.mantissa = change
            change_value.scale = symbol.change_scale
            percent_value.mantissa = hundredths_of_percent(change, symbol.previous_close)
            percent_value.scale = 2
        return new_price(
            instrument,
            price_value,
            change_value,
            percent_value,
            whole(symbol.volume),
            whole(quantity),
            high_value,
            low_value,
            "KRX" if symbol.is_krw else None,
            "simulated",
            event_time_ms,
            None,
        )

    cdef BookUpdate next_book(self, Py_ssize_t j, int i, int64_t event_time_ms):
        cdef Symbol* symbol = &self.symbols[j]
        cdef BookUpdate book
        cdef int first = <int>(self.sides[i] * 2 * BOOK_LEVELS)
        cdef int k, level
        # Between two books of a symbol three levels change, as when single orders come and go.
        for k in range(3):
            level = (first + 7 * k) % (2 * BOOK_LEVELS)
            if level < BOOK_LEVELS:
                symbol.bids[level] = self.new_quantity(symbol, level)
            else:
                symbol.asks[level - BOOK_LEVELS] = self.new_quantity(symbol, level - BOOK_LEVELS)
        book = new_book(
            <Instrument>self.instruments[j],
            symbol.scale,
            "KRX" if symbol.is_krw else None,
            "simulated",
            event_time_ms,
            None,
        )
        # No order rests beyond the day's limits.
        book.n_bids = <int>min(BOOK_LEVELS, symbol.bid - symbol.low_limit + 1)
        book.n_asks = <int>min(BOOK_LEVELS, symbol.high_limit - symbol.bid)
        for level in range(book.n_bids):
            book.bid_prices[level] = price_at(symbol, symbol.bid - level)
            book.bid_quantities[level] = symbol.bids[level]
        for level in range(book.n_asks):
            book.ask_prices[level] = price_at(symbol, symbol.bid + 1 + level)
            book.ask_quantities[level] = symbol.asks[level]
        return book


cdef int64_t hundredths_of_percent(int64_t change, int64_t close) noexcept nogil:
    """10,000 * change / close, rounded half away from zero."""
    cdef int64_t doubled = 2 * 10_000 * change
    return (doubled + close) // (2 * close) if change >= 0 else -((close - doubled) // (2 * close))


cdef object trading_shares(list instruments):
    """Cumulated shares by Zipf's law on the place in the table, which lists large names first, per market."""
    places = {}
    weights = []
    for instrument in instruments:
        if type(instrument) is not Instrument:
            raise TypeError(f"instruments: expected Instrument, got {type(instrument).__name__}")
        place = places[instrument.market] = places.get(instrument.market, 0) + 1
        weights.append(1.0 / place)
    return np.cumsum(weights) / np.sum(weights)
