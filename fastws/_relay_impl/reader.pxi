cdef struct Place:
    const char* p
    const char* end


cdef int need(Place* place, Py_ssize_t size, str what) except -1:
    if place.end - place.p < size:
        raise EnvelopeError(f"it ends within {what}")
    return 0


cdef uint8_t read_u8(Place* place, str what) except? 0xff:
    cdef uint8_t value
    need(place, 1, what)
    value = <uint8_t>place.p[0]
    place.p += 1
    return value


cdef uint16_t read_u16(Place* place, str what) except? 0xffff:
    cdef uint16_t value
    need(place, 2, what)
    memcpy(&value, place.p, 2)
    place.p += 2
    return value


cdef uint32_t read_u32(Place* place, str what) except? 0xffffffff:
    cdef uint32_t value
    need(place, 4, what)
    memcpy(&value, place.p, 4)
    place.p += 4
    return value


cdef int64_t read_i64(Place* place, str what) except? -1:
    cdef int64_t value
    need(place, 8, what)
    memcpy(&value, place.p, 8)
    place.p += 8
    return value


cdef int read_decimal(Place* place, str what, Decimal64* out) except -1:
    out.mantissa = read_i64(place, what)
    out.scale = <int8_t>read_u8(place, what)
    if out.mantissa == INT64_MIN or not 0 <= out.scale <= MAX_SCALE:
        raise EnvelopeError(f"{what} is no number")
    return 0


cdef str read_text(Place* place, Py_ssize_t size, str what):
    need(place, size, what)
    place.p += size
    try:
        return PyUnicode_DecodeUTF8(place.p - size, size, NULL)
    except UnicodeDecodeError:
        raise EnvelopeError(f"{what} is no UTF-8") from None


cdef bytes read_bytes(Place* place, Py_ssize_t size, str what):
    need(place, size, what)
    place.p += size
    return PyBytes_FromStringAndSize(place.p - size, size)


@cython.final
@cython.auto_pickle(False)
cdef class Carried:
    """One update out of an envelope.

    `kind` is one of the KIND constants, `code` the instrument's or the name of the market; `stamp`, `published_ms`,
    `number` and `body` are those of the envelope. The value is made by `price`, `book` or `status`, for which the
    receiver has to know the instrument. `is_sound` is false where the body, or further members, could not stand in a
    message to clients: they are no JSON.
    """

    cdef readonly int kind
    cdef readonly str code
    cdef readonly int64_t stamp
    cdef readonly int64_t published_ms
    cdef readonly int64_t number
    cdef readonly bytes body
    cdef readonly bint is_sound
    cdef Decimal64 decimals[N_DECIMALS]
    cdef str venue
    cdef str quality
    cdef int64_t event_time_ms
    cdef bytes extra
    cdef str status_text
    cdef bytes levels
    cdef int n_bids
    cdef int n_asks
    cdef int8_t price_scale

    def price(self, Instrument instrument not None):
        """The price, of `instrument`, whose code is the same."""
        if self.kind != C_PRICE:
            raise TypeError("it is no price")
        return new_price(
            instrument, self.decimals[0], self.decimals[1], self.decimals[2], self.decimals[3], self.decimals[4],
            self.decimals[5], self.decimals[6], self.venue, self.quality, self.event_time_ms, self.extra,
        )

    def book(self, Instrument instrument not None):
        """The order book, of `instrument`, whose code is the same."""
        cdef BookUpdate book
        cdef const char* p
        cdef int i
        if self.kind != C_BOOK:
            raise TypeError("it is no order book")
        book = new_book(instrument, self.price_scale, self.venue, self.quality, self.event_time_ms, self.extra)
        p = PyBytes_AS_STRING(self.levels)
        book.n_bids = self.n_bids
        book.n_asks = self.n_asks
        for i in range(self.n_bids):
            memcpy(&book.bid_prices[i], p, 8)
            memcpy(&book.bid_quantities[i], p + 8, 8)
            p += LEVEL_SIZE
        for i in range(self.n_asks):
            memcpy(&book.ask_prices[i], p, 8)
            memcpy(&book.ask_quantities[i], p + 8, 8)
            p += LEVEL_SIZE
        return book

    def status(self):
        """The trading status of the market."""
        if self.kind != C_STATUS:
            raise TypeError("it is no market status")
        return MarketStatus(self.code, self.status_text, extra=self.extra)


@cython.final
@cython.auto_pickle(False)
cdef class Envelope:
    """What `read_envelope` has found: the header, and the updates in their order."""

    cdef readonly int kind
    cdef readonly bint is_last
    cdef readonly int n_shards
    cdef readonly int shard
    cdef readonly uint64_t origin
    cdef readonly int64_t first
    cdef readonly list updates


def read_envelope(bytes data not None):
    """Read an envelope, all of it.

    Raises:
        EnvelopeError: it is none, is damaged, or is of another version.
    """
    cdef Envelope envelope = Envelope.__new__(Envelope)
    cdef Place place
    cdef uint32_t n, i, crc
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef const char* start = PyBytes_AS_STRING(data)
    if size > C_MAX_ENVELOPE_SIZE:
        raise EnvelopeError(f"it has {size} bytes, and {C_MAX_ENVELOPE_SIZE} are the most")
    if size < HEADER_SIZE or data[:3] != b"FWR":
        raise EnvelopeError("it is no envelope of fastws")
    if <uint8_t>start[3] != VERSION:
        raise EnvelopeError(
            f"it is of version {<uint8_t>start[3]}, and this is {VERSION}: run the same release on all instances"
        )
    place.p = start + 4
    place.end = start + size
    crc = read_u32(&place, "the header")
    if crc != <uint32_t>crc32(memoryview(data)[CHECKED_FROM:]):
        raise EnvelopeError("it is damaged: its checksum is another one")
    envelope.kind = read_u8(&place, "the header")
    envelope.is_last = read_u8(&place, "the header")
    envelope.n_shards = read_u16(&place, "the header")
    envelope.shard = read_u16(&place, "the header")
    if not 1 <= envelope.kind <= 4 or <uint8_t>start[9] > 1 or read_u16(&place, "the header") != 0:
        raise EnvelopeError("its kind is not known")
    if not 1 <= envelope.n_shards <= MAX_SHARDS or envelope.n_shards & (envelope.n_shards - 1):
        raise EnvelopeError(f"{envelope.n_shards} is no number of shards")
    if envelope.shard >= envelope.n_shards:
        raise EnvelopeError(f"there is no shard {envelope.shard} of {envelope.n_shards}")
    envelope.origin = <uint64_t>read_i64(&place, "the header")
    envelope.first = read_i64(&place, "the header")
    n = read_u32(&place, "the header")
    if envelope.first < 1 or envelope.first > (<int64_t>1 << 62):
        raise EnvelopeError(f"{envelope.first} is no position")
    if n > size // ENTRY_SIZE:
        raise EnvelopeError(f"it is too short for {n} updates")
    if n > C_FULL_SIZE // ENTRY_SIZE + 1:
        raise EnvelopeError(f"{n} updates are more than one can have")
    envelope.updates = []
    for i in range(n):
        envelope.updates.append(read_update(&place))
    if place.p != place.end:
        raise EnvelopeError("there is something behind its last update")
    return envelope


cdef tuple BEGINNINGS = (b'{"type":"price_update"', b'{"type":"orderbook_update"', b'{"type":"market_status"')


cdef Carried read_update(Place* place):
    cdef Carried update = Carried.__new__(Carried)
    cdef uint16_t members, allowed
    cdef uint32_t body_size
    cdef Py_ssize_t code_size
    cdef int i
    update.kind = read_u8(place, "an update")
    code_size = read_u8(place, "an update")
    members = read_u16(place, "an update")
    body_size = read_u32(place, "an update")
    update.stamp = read_i64(place, "an update")
    update.published_ms = read_i64(place, "an update")
    update.number = read_i64(place, "an update")
    if not C_PRICE <= update.kind <= C_STATUS:
        raise EnvelopeError(f"it has an update of kind {update.kind}, which is not known")
    allowed = PRICE_MEMBERS if update.kind == C_PRICE else BOOK_MEMBERS if update.kind == C_BOOK else STATUS_MEMBERS
    if members & ~allowed or (update.kind == C_PRICE and not members & 1):
        raise EnvelopeError(f"an update cannot have the members {members:#x}")
    if (
        not 1 <= update.stamp <= LAST_STAMP
        or not 0 <= update.number <= MAX_NUMBER
        or not 0 <= update.published_ms <= MAX_TIME_MS
    ):
        raise EnvelopeError("the numbers of an update are out of range")
    if code_size == 0:
        raise EnvelopeError("an update has no code")
    update.code = read_text(place, code_size, "a code")
    if update.kind == C_PRICE:
        for i in range(N_DECIMALS):
            if members & (1 << i):
                read_decimal(place, "a price", &update.decimals[i])
            else:
                update.decimals[i] = absent()
        if update.decimals[3].scale or update.decimals[4].scale:
            raise EnvelopeError("a volume is no whole number")
    if members & HAS_EVENT_TIME:
        update.event_time_ms = read_i64(place, "a time")
        if not 1 <= update.event_time_ms <= MAX_TIME_MS:
            raise EnvelopeError("a time is out of the years 1970 to 9999")
    if members & HAS_VENUE:
        update.venue = read_text(place, read_u16(place, "a venue"), "a venue")
    if members & HAS_QUALITY:
        update.quality = read_text(place, read_u16(place, "a quality"), "a quality")
    if members & HAS_EXTRA:
        update.extra = read_bytes(place, read_u32(place, "further members"), "further members")
    if update.kind == C_BOOK:
        update.price_scale = <int8_t>read_u8(place, "a book")
        update.n_bids = read_u8(place, "a book")
        update.n_asks = read_u8(place, "a book")
        if not 0 <= update.price_scale <= MAX_SCALE or update.n_bids > BOOK_LEVELS or update.n_asks > BOOK_LEVELS:
            raise EnvelopeError("an order book cannot have so many levels or decimals")
        update.levels = read_bytes(place, (update.n_bids + update.n_asks) * LEVEL_SIZE, "a book")
        check_levels(update.levels)
    elif update.kind == C_STATUS:
        update.status_text = read_text(place, read_u16(place, "a status"), "a status")
        if not update.status_text:
            raise EnvelopeError("a market has no status")
    update.body = read_bytes(place, body_size, "a body")
    update.is_sound = (
        update.body.startswith(BEGINNINGS[update.kind - 1])
        and is_sound(update.body, 1)
        and (update.extra is None or is_sound(update.extra, 0))
    )
    return update


cdef int check_levels(bytes levels) except -1:
    cdef const char* p = PyBytes_AS_STRING(levels)
    cdef const char* end = p + PyBytes_GET_SIZE(levels)
    cdef int64_t number
    while p < end:
        memcpy(&number, p, 8)
        if number == INT64_MIN:
            raise EnvelopeError("a level is no number")
        p += 8
    return 0
