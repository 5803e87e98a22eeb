cdef struct Buffer:
    char* data
    Py_ssize_t size
    Py_ssize_t room
    uint32_t n


cdef int make_room(Buffer* buffer, Py_ssize_t more) except -1:
    cdef Py_ssize_t room = max(buffer.room, 1024)
    cdef char* grown
    while room < buffer.size + more:
        room *= 2
    if room != buffer.room:
        grown = <char*>realloc(buffer.data, room)
        if grown is NULL:
            raise MemoryError
        buffer.data = grown
        buffer.room = room
    return 0


cdef inline char* put_number(char* p, const void* number, Py_ssize_t size) noexcept nogil:
    memcpy(p, number, size)
    return p + size


cdef char* put_decimal64(char* p, Decimal64 value) noexcept nogil:
    p = put_number(p, &value.mantissa, 8)
    return put_number(p, &value.scale, 1)


cdef Py_ssize_t text_size(str text) except -1:
    cdef Py_ssize_t size
    if text is None:
        return 0
    PyUnicode_AsUTF8AndSize(text, &size)
    if size > 0xffff:
        raise ValueError(f"a text of {size} bytes is too long to be relayed")
    return size


cdef char* put_text(char* p, str text) except NULL:
    cdef Py_ssize_t size
    cdef const char* start = PyUnicode_AsUTF8AndSize(text, &size)
    cdef uint16_t short_size = <uint16_t>size
    p = put_number(p, &short_size, 2)
    memcpy(p, start, size)
    return p + size


cdef char* put_bytes(char* p, bytes data) noexcept:
    cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(data)
    p = put_number(p, &size, 4)
    memcpy(p, PyBytes_AS_STRING(data), size)
    return p + size


cdef int kind_of(object payload) noexcept:
    """The kind of what can be relayed, 0 of what cannot."""
    if type(payload) is PriceUpdate:
        return C_PRICE
    if type(payload) is BookUpdate:
        return C_BOOK
    if type(payload) is MarketStatus:
        return C_STATUS
    return 0


cdef Py_ssize_t members_size(str venue, str quality, bytes extra) except -1:
    """Room for what prices and books have in common, the time included."""
    return 8 + 2 + text_size(venue) + 2 + text_size(quality) + 4 + (0 if extra is None else PyBytes_GET_SIZE(extra))


cdef uint16_t common_members(str venue, str quality, int64_t event_time_ms, bytes extra) noexcept:
    return (
        (HAS_EVENT_TIME if event_time_ms else 0)
        | (HAS_VENUE if venue is not None else 0)
        | (HAS_QUALITY if quality is not None else 0)
        | (HAS_EXTRA if extra is not None else 0)
    )


cdef char* put_common(char* p, str venue, str quality, int64_t event_time_ms, bytes extra) except NULL:
    if event_time_ms:
        p = put_number(p, &event_time_ms, 8)
    if venue is not None:
        p = put_text(p, venue)
    if quality is not None:
        p = put_text(p, quality)
    if extra is not None:
        p = put_bytes(p, extra)
    return p


cdef int put_update(
    Buffer* buffer, str key, object payload, int64_t stamp, int64_t published_ms, int64_t number,
    const char* body, Py_ssize_t body_size,
) except -1:
    """Add an update. When it fails, the buffer is as it was."""
    cdef PriceUpdate price
    cdef BookUpdate book
    cdef MarketStatus status
    cdef Decimal64[N_DECIMALS] decimals
    cdef int kind = kind_of(payload), i
    cdef Py_ssize_t code_size, size
    cdef const char* code = PyUnicode_AsUTF8AndSize(key, &code_size)
    cdef uint8_t small
    cdef uint16_t members = 0
    cdef uint32_t size32 = <uint32_t>body_size
    cdef char* p
    cdef char* end
    if code_size > MAX_CODE_SIZE:
        raise ValueError(f"a code of {code_size} bytes is too long to be relayed")
    size = ENTRY_SIZE + code_size + body_size
    if kind == C_PRICE:
        price = <PriceUpdate>payload
        size += N_DECIMALS * DECIMAL_SIZE + members_size(price.venue, price.quality, price.extra)
    elif kind == C_BOOK:
        book = <BookUpdate>payload
        size += 3 + (book.n_bids + book.n_asks) * LEVEL_SIZE + members_size(book.venue, book.quality, book.extra)
    else:
        status = <MarketStatus>payload
        size += 2 + text_size(status.status) + members_size(None, None, status.extra)
    if size > C_MAX_ENVELOPE_SIZE - HEADER_SIZE:
        raise ValueError(f"an update of {size} bytes is too large to be relayed")
    if buffer.size == 0:
        # Filled in when the envelope is complete.
        make_room(buffer, HEADER_SIZE)
        buffer.size = HEADER_SIZE
    make_room(buffer, size)
    p = buffer.data + buffer.size
    end = p + ENTRY_SIZE
    memcpy(end, code, code_size)
    end += code_size
    if kind == C_PRICE:
        decimals[0] = price.price_
        decimals[1] = price.change_
        decimals[2] = price.change_percent_
        decimals[3] = price.volume_
        decimals[4] = price.trade_volume_
        decimals[5] = price.high_
        decimals[6] = price.low_
        for i in range(N_DECIMALS):
            if not is_absent(decimals[i]):
                members |= 1 << i
                end = put_decimal64(end, decimals[i])
        members |= common_members(price.venue, price.quality, price.event_time_ms, price.extra)
        end = put_common(end, price.venue, price.quality, price.event_time_ms, price.extra)
    elif kind == C_BOOK:
        members = common_members(book.venue, book.quality, book.event_time_ms, book.extra)
        end = put_common(end, book.venue, book.quality, book.event_time_ms, book.extra)
        end = put_number(end, &book.price_scale, 1)
        small = <uint8_t>book.n_bids
        end = put_number(end, &small, 1)
        small = <uint8_t>book.n_asks
        end = put_number(end, &small, 1)
        for i in range(book.n_bids):
            end = put_number(end, &book.bid_prices[i], 8)
            end = put_number(end, &book.bid_quantities[i], 8)
        for i in range(book.n_asks):
            end = put_number(end, &book.ask_prices[i], 8)
            end = put_number(end, &book.ask_quantities[i], 8)
    else:
        if status.extra is not None:
            members = HAS_EXTRA
            end = put_bytes(end, status.extra)
        end = put_text(end, status.status)
    memcpy(end, body, body_size)
    end += body_size
    small = <uint8_t>kind
    p = put_number(p, &small, 1)
    small = <uint8_t>code_size
    p = put_number(p, &small, 1)
    p = put_number(p, &members, 2)
    p = put_number(p, &size32, 4)
    p = put_number(p, &stamp, 8)
    p = put_number(p, &published_ms, 8)
    put_number(p, &number, 8)
    buffer.size = end - buffer.data
    buffer.n += 1
    return 0


cdef bytes seal(
    char* data, Py_ssize_t size, int kind, bint is_last, uint16_t n_shards, uint16_t shard, uint64_t origin,
    int64_t first, uint32_t n,
):
    """Write the header of an envelope that begins at `data` and return its bytes."""
    cdef uint8_t what = kind, last = is_last
    cdef uint16_t zero = 0
    cdef char* p = put_number(data + CHECKED_FROM, &what, 1)
    p = put_number(p, &last, 1)
    p = put_number(p, &n_shards, 2)
    p = put_number(p, &shard, 2)
    p = put_number(p, &zero, 2)
    p = put_number(p, &origin, 8)
    p = put_number(p, &first, 8)
    put_number(p, &n, 4)
    return signed(PyBytes_FromStringAndSize(data, size))


cdef bytes signed(bytes envelope):
    """Write the first line of a new envelope, which nobody else has seen, and its checksum."""
    cdef uint8_t version = VERSION
    cdef uint32_t crc = crc32(memoryview(envelope)[CHECKED_FROM:])
    cdef char* p = PyBytes_AS_STRING(envelope)
    memcpy(p, <const char*>b"FWR", 3)
    p = put_number(p + 3, &version, 1)
    put_number(p, &crc, 4)
    return envelope


def empty_envelope(int kind, *, int n_shards, int shard, uint64_t origin, int64_t first, bint is_last=True):
    """An envelope of no updates; see `Outgoing.last_values`, whose only part it is where there are none."""
    cdef char[HEADER_SIZE] data
    check_shards(n_shards)
    return seal(data, HEADER_SIZE, kind, is_last, n_shards, shard, origin, first, 0)


def relabel(bytes envelope not None, int kind, bint is_last):
    """A copy of an envelope of this instance as one of another kind: what was sent live is repeated."""
    cdef bytes data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(envelope), PyBytes_GET_SIZE(envelope))
    cdef uint8_t what = kind, last = is_last
    put_number(put_number(PyBytes_AS_STRING(data) + CHECKED_FROM, &what, 1), &last, 1)
    return signed(data)


@cython.final
cdef class Outgoing(Tap):
    """What this instance publishes, on its way to the others.

    1. An update is written to the envelope of its shard right when it is published. Its text is the one that local
       clients get, made a little earlier.
    2. Positions count the updates of a shard from 1. An envelope has the position of its first one.
    3. Every update is stamped: microseconds since 2020, and in the lowest 12 bits a number of the instance.
       A stamp is over the one of what was known last of the same channel, whoever published that. So of two values of a
       channel all instances agree which one is newer, also when their clocks do not.
    4. An update that cannot be written is counted, and the first in a row is logged; publishing goes on.

    `on_filled` is called when there is something to take, once until it is taken.
    """

    cdef Hub hub
    cdef Dialect dialect
    cdef readonly uint64_t origin
    cdef readonly uint32_t n_shards
    cdef readonly int64_t n_updates         # written
    cdef readonly int64_t n_failed          # not written
    cdef object on_filled
    cdef object logger
    cdef Buffer* buffers
    cdef int64_t* positions_                # of the last update written
    cdef list sealed
    cdef bint is_filled
    cdef bint has_failed

    def __init__(self, Hub hub not None, Dialect dialect not None, *, uint64_t origin, int n_shards, on_filled, logger):
        cdef int i
        check_shards(n_shards)
        if self.buffers is not NULL:
            raise TypeError("an Outgoing is made once")
        self.hub = hub
        self.dialect = dialect
        self.origin = origin
        self.n_shards = n_shards
        self.on_filled = on_filled
        self.logger = logger
        self.sealed = []
        self.buffers = <Buffer*>malloc(n_shards * sizeof(Buffer))
        self.positions_ = <int64_t*>malloc(n_shards * sizeof(int64_t))
        if self.buffers is NULL or self.positions_ is NULL:
            raise MemoryError
        for i in range(n_shards):
            self.buffers[i] = Buffer(NULL, 0, 0, 0)
            self.positions_[i] = 0

    def __dealloc__(self):
        cdef uint32_t i
        if self.buffers is not NULL:
            for i in range(self.n_shards):
                free(self.buffers[i].data)
        free(self.buffers)
        free(self.positions_)

    cdef uint32_t shard(self, Channel channel) except? 0xffffffff:
        cdef Py_ssize_t size
        cdef const char* text
        if channel.shard == 0:
            text = PyUnicode_AsUTF8AndSize(channel.key, &size)
            channel.shard = <int32_t>shard_of_text(text, size, self.n_shards) + 1
        return channel.shard - 1

    cdef int64_t next_stamp(self, int64_t last):
        cdef int64_t now = <int64_t>(time.time_ns() // 1000 - STAMPS_BEGIN_US) << 12
        return (max(now, ((last >> 12) + 1) << 12)) | <int64_t>(self.origin & 0xfff)

    cdef int take(self, Update update) except -1:
        cdef Channel channel = update.channel
        cdef Buffer* buffer
        cdef bytes text
        cdef char tail[72]
        cdef uint32_t shard
        if kind_of(update.payload) == 0:
            return 0
        channel.stamp = update.stamp = self.next_stamp(channel.stamp)
        channel.n_relayed += 1
        try:
            shard = self.shard(channel)
            buffer = &self.buffers[shard]
            text = update.text(self.dialect)
            put_update(
                buffer, channel.key, update.payload, channel.stamp, update.published_ms, channel.n_relayed,
                PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text) - update.write_tail(tail),
            )
            self.has_failed = False
        except Exception:
            self.n_failed += 1
            if not self.has_failed:
                self.has_failed = True
                self.logger.exception("an update of %r could not be relayed to other instances", channel)
            return 0
        self.positions_[shard] += 1
        self.n_updates += 1
        if buffer.size >= C_FULL_SIZE:
            self.seal_shard(shard)
        if not self.is_filled:
            self.is_filled = True
            self.on_filled()
        return 0

    cdef int seal_shard(self, uint32_t shard) except -1:
        cdef Buffer* buffer = &self.buffers[shard]
        cdef int64_t first = self.positions_[shard] - buffer.n + 1
        self.sealed.append(
            (
                shard, first, buffer.n,
                seal(buffer.data, buffer.size, LIVE, False, self.n_shards, shard, self.origin, first, buffer.n),
            )
        )
        buffer.size = 0
        buffer.n = 0
        if buffer.room > 2 * C_FULL_SIZE:
            # A burst or a single large update is no measure.
            free(buffer.data)
            buffer.data = NULL
            buffer.room = 0
        return 0

    def envelopes(self):
        """Take what was published since the last call: list of (shard, first position, number of updates, envelope)."""
        cdef uint32_t shard
        cdef list taken
        for shard in range(self.n_shards):
            if self.buffers[shard].n:
                self.seal_shard(shard)
        taken, self.sealed = self.sealed, []
        self.is_filled = False
        return taken

    def positions(self):
        """The position of the last update of each shard, those included that were not taken yet: list[int]."""
        cdef uint32_t i
        return [self.positions_[i] for i in range(self.n_shards)]

    def last_values(self, int shard, int kind=3):
        """What is known last of every channel of a shard, whoever published it, as a list of envelopes of `kind`.

        There is at least one; the last one is marked as such. A value from before the last start of the server is left
        out: another instance may have a newer one, and if not it has none to mark.
        """
        cdef Channel channel
        cdef Update update
        cdef Buffer buffer = Buffer(NULL, 0, 0, 0)
        cdef bytes text
        cdef char tail[72]
        cdef int64_t following = self.positions_[shard] + 1
        cdef list parts = []
        try:
            for channel in self.hub.channels:
                update = channel.last
                if update is None or channel.stamp == 0 or kind_of(update.payload) == 0 or self.shard(channel) != shard:
                    continue
                try:
                    text = update.text(self.dialect)
                except Exception:
                    # Whoever was to get it live was told so.
                    continue
                put_update(
                    &buffer, channel.key, update.payload, channel.stamp, update.published_ms, channel.n_relayed,
                    PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text) - update.write_tail(tail),
                )
                if buffer.size >= C_FULL_SIZE:
                    parts.append(
                        seal(
                            buffer.data, buffer.size, kind, False, self.n_shards, shard, self.origin,
                            following, buffer.n,
                        )
                    )
                    buffer.size = 0
                    buffer.n = 0
            if buffer.n:
                parts.append(
                    seal(
                        buffer.data, buffer.size, kind, True, self.n_shards, shard, self.origin, following,
                        buffer.n,
                    )
                )
            else:
                parts.append(
                    empty_envelope(
                        kind, n_shards=self.n_shards, shard=shard, origin=self.origin, first=following
                    )
                )
        finally:
            free(buffer.data)
        return parts

    def shard_of_channel(self, Channel channel not None):
        """The shard of a channel."""
        return self.shard(channel)
