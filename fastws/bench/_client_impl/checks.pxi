# What is checked and counted of the messages that arrive.
#
# `CHECK_EDGES` looks at the first and the last message of a frame only: exact for a connection that holds
# one symbol on one channel, as long as a frame does not lose and repeat equally many messages. `CHECK_FULL`
# reads every message.

cdef void keep_sample(char* out, int* size, const char* p, Py_ssize_t n) noexcept nogil:
    if size[0] == 0:
        size[0] = <int>(n if n < SAMPLE_SIZE else SAMPLE_SIZE)
        memcpy(out, p, size[0])


cdef void on_unparsed(Stats* stats, const char* p, Py_ssize_t n) noexcept nogil:
    stats.n_unparsed += 1
    keep_sample(stats.unparsed_text, &stats.unparsed_size, p, n)


cdef void open_hole(Stream* stream, int64_t first, int64_t last) noexcept nogil:
    """Remember what was skipped. The oldest hole is forgotten when there are too many: its numbers count as
    duplicates should they still come."""
    cdef Holes* holes = stream.holes
    if holes is NULL:
        holes = <Holes*>calloc(1, sizeof(Holes))
        if holes is NULL:
            return
        stream.holes = holes
    if holes.n == MAX_HOLES:
        memmove(&holes.items[0], &holes.items[1], (MAX_HOLES - 1) * sizeof(Hole))
        holes.n -= 1
    holes.items[holes.n].first = first
    holes.items[holes.n].last = last
    holes.n += 1


cdef int64_t fill_holes(Stream* stream, int64_t first, int64_t last) noexcept nogil:
    """Take a range out of the holes; returns how many numbers of it were missing until now."""
    cdef Holes* holes = stream.holes
    cdef Hole hole
    cdef int64_t filled = 0, low, high
    cdef int i = 0
    if holes is NULL:
        return 0
    while i < holes.n:
        hole = holes.items[i]
        low = first if first > hole.first else hole.first
        high = last if last < hole.last else hole.last
        if low > high:
            i += 1
            continue
        filled += high - low + 1
        holes.n -= 1
        memmove(&holes.items[i], &holes.items[i + 1], (holes.n - i) * sizeof(Hole))
        if hole.first < low:
            open_hole(stream, hole.first, low - 1)
        if hole.last > high:
            open_hole(stream, high + 1, hole.last)
    return filled


cdef void check_range(Client* c, Conn* conn, Stream* stream, int64_t first, int64_t last) noexcept nogil:
    """The numbers `first` to `last` have come. `lost` is what is missing so far: a late arrival takes it
    back."""
    cdef Stats* stats = &c.stats[conn.group]
    cdef int64_t n, late
    if first == stream.last_seq + 1 or stream.last_seq == NO_SEQ:
        stream.last_seq = last
        return
    if first > stream.last_seq:
        n = first - stream.last_seq - 1
        if c.is_conflated:
            stats.n_conflated += n
        else:
            stats.n_lost += n
            conn.n_lost += n
            open_hole(stream, stream.last_seq + 1, first - 1)
        stream.last_seq = last
        return
    n = (last if last < stream.last_seq else stream.last_seq) - first + 1
    if c.is_conflated:
        # Holes are not kept here: only the newest number is known to be a repetition.
        late = n - 1 if last >= stream.last_seq else n
    else:
        late = fill_holes(stream, first, last)
        stats.n_lost -= late
        conn.n_lost -= late
    stats.n_reordered += late
    stats.n_duplicates += n - late
    if last > stream.last_seq:
        stream.last_seq = last


cdef inline bint is_private(const char* kind, Py_ssize_t size) noexcept nogil:
    return size == 16 and memcmp(kind, b"portfolio_update", 16) == 0


cdef inline void check_sequence(Client* c, Conn* conn, int64_t sequence, bint may_repeat) noexcept nogil:
    """The server-wide number must not fall on a connection. That of a batch repeats its last message's, and a
    portfolio's value that of the message before it."""
    if sequence < 0:
        return
    if sequence < conn.last_sequence or (sequence == conn.last_sequence and not may_repeat):
        c.stats[conn.group].n_sequence_backwards += 1
    else:
        conn.last_sequence = sequence


cdef bint has_key(const Keys* keys, uint64_t key) noexcept nogil:
    cdef Py_ssize_t low = 0, high = keys.n, middle
    while low < high:
        middle = (low + high) // 2
        if keys.items[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low < keys.n and keys.items[low] == key


cdef inline bint is_wanted(const Client* c, const Conn* conn, uint64_t key) noexcept nogil:
    """Whether a stream was subscribed to; true where that is not known."""
    return conn.wanted.items is NULL or has_key(&conn.wanted, key) or has_key(&c.wanted, key)


cdef inline Py_ssize_t stream_key(char* key, const Message* message) noexcept nogil:
    """Write the type, a NUL and the code of a message into `key`, of 256; returns the size."""
    cdef Py_ssize_t type_size = message.type_size, code_size = message.code_size
    if type_size > 127:
        type_size = 127
    if code_size > 127:
        code_size = 127
    memcpy(key, message.type, type_size)
    key[type_size] = 0
    memcpy(key + type_size + 1, message.code, code_size)
    return type_size + 1 + code_size


cdef void check_wanted(Client* c, Conn* conn, const char* p, const char* end, int64_t n) noexcept nogil:
    """Count `n` numbered messages, the first of which begins at `p`, when nobody subscribed to it. Only what begins
    with its type and code can be told."""
    cdef Message message
    cdef char key[256]
    cdef const char* quote
    if conn.wanted.items is NULL or not starts_with(p, end, b'{"type":"', 9):
        return
    message.type = p + 9
    quote = <const char*>memchr(message.type, c'"', end - message.type)
    if quote is NULL or not starts_with(quote, end, b'","code":"', 10):
        return
    message.type_size = quote - message.type
    message.code = quote + 10
    quote = <const char*>memchr(message.code, c'"', end - message.code)
    if quote is NULL:
        return
    message.code_size = quote - message.code
    if not is_wanted(c, conn, digest_of(key, stream_key(key, &message))):
        c.stats[conn.group].n_unwanted += n


cdef inline bint needs_number(const char* kind, Py_ssize_t n) noexcept nogil:
    """Whether messages of this type are numbered, so that without `seq` their loss could not be seen."""
    return (n == 12 and memcmp(kind, b"price_update", 12) == 0) or (
        n == 16 and memcmp(kind, b"orderbook_update", 16) == 0
    )


cdef Entry* find_stream(Client* c, Conn* conn, const Message* message) noexcept nogil:
    """The stream of a message's type and code, made when new; NULL only without memory."""
    cdef char key[256]
    cdef Py_ssize_t size = stream_key(key, message)
    cdef uint64_t h = digest_of(key, size)
    cdef uint32_t slot, mask
    cdef int32_t symbol
    cdef Symbol* symbols
    cdef Entry* entries
    # The process-wide number of this (type, code).
    if 2 * (<uint32_t>c.n_symbols + 1) > c.symbol_slots and grow_symbols(c) < 0:
        return NULL
    mask = c.symbol_slots - 1
    slot = <uint32_t>h & mask
    while True:
        symbol = c.symbol_index[slot]
        if symbol < 0:
            break
        symbols = &c.symbols[symbol]
        if symbols.hash == h and symbols.key_size == size and memcmp(symbols.key, key, size) == 0:
            break
        slot = (slot + 1) & mask
    if symbol < 0:
        symbol = c.n_symbols
        symbols = &c.symbols[symbol]
        symbols.key = <char*>malloc(size)
        if symbols.key is NULL:
            return NULL
        memcpy(symbols.key, key, size)
        symbols.key_size = <uint32_t>size
        symbols.type_size = <uint32_t>(message.type_size if message.type_size < 127 else 127)
        symbols.hash = h
        c.symbol_index[slot] = symbol
        c.n_symbols += 1
    # The connection's stream of that number.
    if 4 * (conn.n_streams + 1) > 3 * conn.stream_slots and grow_streams(conn) < 0:
        return NULL
    entries = conn.streams
    mask = conn.stream_slots - 1
    slot = (<uint32_t>symbol * 0x9E3779B1u) & mask
    while entries[slot].symbol >= 0 and entries[slot].symbol != symbol:
        slot = (slot + 1) & mask
    if entries[slot].symbol < 0:
        entries[slot].symbol = symbol
        entries[slot].is_unwanted = not is_wanted(c, conn, h)
        # What a snapshot did not show has not been published yet and starts with 1.
        entries[slot].stream.last_seq = 0 if conn.has_snapshot and not c.is_conflated else NO_SEQ
        conn.n_streams += 1
    return &entries[slot]


cdef int grow_symbols(Client* c) noexcept nogil:
    cdef uint32_t slots = 2 * c.symbol_slots if c.symbol_slots else 256, slot
    cdef int32_t i
    cdef Symbol* symbols = <Symbol*>realloc(c.symbols, slots * sizeof(Symbol))
    cdef int32_t* index = <int32_t*>malloc(slots * sizeof(int32_t))
    if symbols is not NULL:
        c.symbols = symbols
    if symbols is NULL or index is NULL:
        free(index)
        return -1
    memset(index, 0xFF, slots * sizeof(int32_t))
    for i in range(c.n_symbols):
        slot = <uint32_t>symbols[i].hash & (slots - 1)
        while index[slot] >= 0:
            slot = (slot + 1) & (slots - 1)
        index[slot] = i
    free(c.symbol_index)
    c.symbol_index = index
    c.symbol_slots = slots
    return 0


cdef int grow_streams(Conn* conn) noexcept nogil:
    cdef uint32_t slots = 2 * conn.stream_slots if conn.stream_slots else 4, slot, i
    cdef Entry* entries = <Entry*>calloc(slots, sizeof(Entry))
    if entries is NULL:
        return -1
    for i in range(slots):
        entries[i].symbol = -1
    for i in range(conn.stream_slots):
        if conn.streams[i].symbol < 0:
            continue
        slot = (<uint32_t>conn.streams[i].symbol * 0x9E3779B1u) & (slots - 1)
        while entries[slot].symbol >= 0:
            slot = (slot + 1) & (slots - 1)
        entries[slot] = conn.streams[i]
    free(conn.streams)
    conn.streams = entries
    conn.stream_slots = slots
    return 0


cdef inline void count_out_of_range(Stats* stats, int64_t high, int64_t low, int64_t n) noexcept nogil:
    """Count what of `n` latencies, spread between two, the histogram cannot tell from its first or last value."""
    cdef double span
    if low > high:
        high, low = low, high
    if low >= 0 and high <= 100 * <int64_t>MAX_TICKS:
        return
    span = <double>(high - low)
    if low < 0:
        stats.n_early += <double>n if high < 0 or n == 1 else <double>n * <double>(-low) / span
        if -low > stats.earliest_us:
            stats.earliest_us = -low
    low -= 100 * <int64_t>MAX_TICKS
    high -= 100 * <int64_t>MAX_TICKS
    if high > 0:
        stats.n_overlong += <double>n if low > 0 or n == 1 else <double>n * <double>high / span


cdef void on_latency(Client* c, Stats* stats, int64_t first_ms, int64_t last_ms, int64_t n) noexcept nogil:
    if first_ms < 0 or last_ms < 0:
        stats.n_untimed += n
    else:
        if c.wall_us - 1000 * first_ms > stats.slowest_us:
            stats.slowest_us = c.wall_us - 1000 * first_ms
            stats.slowest_at_us = fastws_clock_us(CLOCK_MONOTONIC)
        count_out_of_range(stats, c.wall_us - 1000 * first_ms, c.wall_us - 1000 * last_ms, n)
        histogram_spread(&stats.latency, c.wall_us - 1000 * first_ms, c.wall_us - 1000 * last_ms, n)


cdef void check_message(
    Client* c, Conn* conn, const Message* message, const char* start, bint is_snapshot
) noexcept nogil:
    """The full check of one published message that was read whole."""
    cdef Stats* stats = &c.stats[conn.group]
    cdef Entry* entry
    cdef int64_t time_ms
    if not is_snapshot:
        stats.n_messages += 1
        conn.n_messages += 1
        time_ms = parse_utc(message.timestamp, message.timestamp_size)
        on_latency(c, stats, time_ms, time_ms, 1)
        check_sequence(c, conn, message.sequence, is_private(message.type, message.type_size))
    else:
        stats.n_snapshot_messages += 1
    if message.seq < 0 or message.code is NULL:
        if not is_snapshot and needs_number(message.type, message.type_size):
            stats.n_unnumbered += 1
        return
    entry = find_stream(c, conn, message)
    if entry is NULL:
        on_unparsed(stats, b"out of memory", 13)
        return
    if is_snapshot:
        if entry.stream.last_seq > message.seq:
            stats.n_sequence_backwards += 1
        entry.stream.last_seq = NO_SEQ if message.is_stale else message.seq
    else:
        stats.n_numbered += 1
        stats.n_unwanted += entry.is_unwanted
        check_range(c, conn, &entry.stream, message.seq, message.seq)
    if message.seq < entry.stream.last_seq:
        return
    entry.n_messages += 1
    entry.digest = digest_of(start, message.sequence_key - start)
    if message.price_size <= <Py_ssize_t>sizeof(entry.price):
        entry.price_size = <uint8_t>message.price_size
    else:
        entry.price_size = 0
    if entry.price_size:        # of a message without one there is no text either
        memcpy(entry.price, message.price, entry.price_size)


cdef bint scan_batch(
    Client* c, Conn* conn, const char* p, const char* end, int64_t n_expected, bint is_snapshot, bint is_full
) noexcept nogil:
    """Read every message from `p`, which is behind the array's bracket. Without `is_full` only the numbers
    of the one stream are checked. Returns whether the array is well-formed and as long as announced."""
    cdef Message message
    cdef MessageEnd tail
    cdef const char* start
    cdef int64_t n = 0
    if p < end and p[0] == c"]":
        p += 1
    else:
        while True:
            start = p
            p = scan_object(p, end, &message)
            if p is NULL or p >= end:
                return False
            n += 1
            if is_full:
                check_message(c, conn, &message, start, is_snapshot)
            elif message.seq >= 0:
                c.stats[conn.group].n_numbered += 1
                check_wanted(c, conn, start, p, 1)
                check_range(c, conn, &conn.stream, message.seq, message.seq)
            elif needs_number(message.type, message.type_size):
                c.stats[conn.group].n_unnumbered += 1
            p += 1
            if (p - 1)[0] == c"]":
                break
            if (p - 1)[0] != c",":
                return False
    if n != n_expected or not parse_message_end(p, end, &tail) or tail.start != p:
        return False
    check_sequence(c, conn, tail.sequence, True)
    return True


cdef bint on_batch(
    Client* c, Conn* conn, const char* head, Py_ssize_t head_size, const char* tail, const char* tail_end,
    bint is_whole,
) noexcept nogil:
    """A `batch` whose first `head_size` bytes and last bytes are at hand, all of it if `is_whole`. Returns
    whether it could be read."""
    cdef Stats* stats = &c.stats[conn.group]
    cdef const char* p = head + 29
    cdef const char* head_end = head + head_size
    cdef const char* digits
    cdef MessageEnd first, last, outer
    cdef int64_t n, span
    cdef bint is_snapshot = False
    digits = p
    p = number_at(p, head_end, &n)
    if p == digits:
        return False
    if starts_with(p, head_end, b',"snapshot":true', 16):
        is_snapshot = True
        p += 16
    if not starts_with(p, head_end, b',"messages":[', 13):
        return False
    p += 13
    if is_snapshot:
        stats.n_snapshots += 1
    if c.check == CHECK_FULL:
        if not scan_batch(c, conn, p, head_end, n, is_snapshot, True):
            return False
        conn.has_snapshot = conn.has_snapshot or is_snapshot
        return True
    if not parse_message_end(tail, tail_end, &outer) or not ends_with(tail, outer.start, b"]", 1):
        return False
    check_sequence(c, conn, outer.sequence, True)
    if is_snapshot:
        stats.n_snapshot_messages += n
        if n == 0:
            if not c.is_conflated:
                conn.stream.last_seq = 0
            return True
        if not parse_message_end(tail, outer.start - 1, &last):
            return False
        if conn.stream.last_seq > last.seq:
            stats.n_sequence_backwards += 1
        conn.stream.last_seq = last.seq
        if memmem(head, head_size, <const char*>b'"stale":true', 12) is not NULL:
            conn.stream.last_seq = NO_SEQ
        return True
    if n == 0 or not parse_message_end(tail, outer.start - 1, &last):
        return False
    stats.n_messages += n
    conn.n_messages += n
    if n == 1:
        first = last
    else:
        digits = <const char*>memmem(p, head_end - p, <const char*>b',"sequence":', 12)
        if digits is NULL:
            return False
        digits = number_at(digits + 12, head_end, &span)
        if starts_with(digits, head_end, b',"seq":', 7):
            digits = number_at(digits + 7, head_end, &span)
        if digits >= head_end or not parse_message_end(p, digits + 1, &first):
            return False
    on_latency(c, stats, first.time_ms, last.time_ms, n)
    if c.check == CHECK_NONE:
        return True
    span = last.seq - first.seq + 1
    if first.seq >= 0 and last.seq >= 0 and (span == n or (c.is_conflated and span >= n)):
        stats.n_numbered += n
        check_wanted(c, conn, p, head_end, n)
        check_range(c, conn, &conn.stream, first.seq, last.seq)
        if c.is_conflated:
            stats.n_conflated += span - n
        return True
    if is_whole:
        return scan_batch(c, conn, p, head_end, n, False, False)
    if first.seq < 0 or last.seq < 0 or span <= 0:
        return False
    stats.n_numbered += n
    check_wanted(c, conn, p, head_end, n)
    # The middle is gone: what is known is how many numbers the frame spans and how many messages it holds.
    check_range(c, conn, &conn.stream, first.seq, last.seq)
    if span > n:
        stats.n_lost += span - n
        conn.n_lost += span - n
    else:
        stats.n_duplicates += n - span
    return True


cdef bint on_bare(
    Client* c, Conn* conn, const char* head, Py_ssize_t head_size, const char* tail, const char* tail_end
) noexcept nogil:
    cdef Stats* stats = &c.stats[conn.group]
    cdef Message message
    cdef MessageEnd end
    cdef bint is_repeated
    if c.check == CHECK_FULL:
        if scan_object(head, head + head_size, &message) != head + head_size or message.type is NULL:
            return False
        check_message(c, conn, &message, head, False)
        return True
    stats.n_messages += 1
    conn.n_messages += 1
    if not parse_message_end(tail, tail_end, &end):
        # Messages of other servers may carry no time; they are counted.
        stats.n_untimed += 1
        return c.check == CHECK_NONE
    on_latency(c, stats, end.time_ms, end.time_ms, 1)
    if c.check == CHECK_EDGES:
        is_repeated = starts_with(head, head + head_size, b'{"type":"portfolio_update"', 26)
        check_sequence(c, conn, end.sequence, is_repeated)
        if end.seq >= 0:
            stats.n_numbered += 1
            check_wanted(c, conn, head, head + head_size, 1)
            check_range(c, conn, &conn.stream, end.seq, end.seq)
        else:
            stats.n_unnumbered += (
                starts_with(head, head + head_size, b'{"type":"price_update"', 22)
                or starts_with(head, head + head_size, b'{"type":"orderbook_update"', 26)
            )
    return True


cdef void on_overflow(Client* c, Conn* conn, const char* head, Py_ssize_t size) noexcept nogil:
    cdef int64_t n = sum_of_members(head, head + size, b'"dropped":', 10)
    c.stats[conn.group].n_overflows += 1
    c.stats[conn.group].n_declared += n
    conn.n_declared += n


cdef void on_shutdown(Client* c, Conn* conn, const char* head, Py_ssize_t size) noexcept nogil:
    c.stats[conn.group].n_shutdowns += 1
    histogram_add(&c.return_delay, 1000 * sum_of_members(head, head + size, b'"reconnect_after_ms":', 21))


cdef void keep_member(
    char* out, const char* head, Py_ssize_t size, const char* key, Py_ssize_t key_size
) noexcept nogil:
    """Copy the text of the member `key` (up to its value's opening quote) into `out`, of SESSION_SIZE; leave it
    alone when there is none that fits."""
    cdef const char* p = <const char*>memmem(head, size, key, key_size)
    cdef const char* quote
    if p is NULL:
        return
    p += key_size
    quote = <const char*>memchr(p, c'"', head + size - p)
    if quote is not NULL and quote - p < SESSION_SIZE:
        memcpy(out, p, quote - p)
        out[quote - p] = 0


cdef void on_greeting(Client* c, Conn* conn, const char* head, Py_ssize_t size) noexcept nogil:
    keep_member(conn.session, head, size, b'"connection_id":"', 17)
    keep_member(c.epoch, head, size, b'"epoch":"', 9)


cdef void on_restored(Client* c, const char* head, Py_ssize_t size) noexcept nogil:
    c.n_restored += 1
    c.n_recovered += memmem(head, size, <const char*>b'"recovered":true', 16) is not NULL
    c.n_missed += sum_of_members(head, head + size, b'"missed_messages_count":', 24)


cdef void on_pong(Client* c, Conn* conn) noexcept nogil:
    """Waits run from when a ping was due. Those that fell due while this one was open and were not sent would have
    waited until now as well: leaving them out would count a pause of the server as one long wait among many short."""
    cdef int64_t waited_us = monotonic_us() - conn.ping_us
    c.n_pings_answered += 1
    while True:
        histogram_add(&c.ping_time, waited_us)
        waited_us -= c.ping_interval_us
        if conn.n_pings_due == 0 or waited_us < 0:
            break
        conn.n_pings_due -= 1
    conn.ping_us = 0
    conn.n_pings_due = 0


cdef bint is_control(const char* name, Py_ssize_t n) noexcept nogil:
    """Whether a message type is the server's own talk and no published market message."""
    if n == 4:
        return memcmp(name, b"pong", 4) == 0
    if n == 6:
        return memcmp(name, b"paused", 6) == 0
    if n == 7:
        return memcmp(name, b"resumed", 7) == 0
    if n == 10:
        return memcmp(name, b"connection", 10) == 0 or memcmp(name, b"subscribed", 10) == 0
    if n == 11:
        return memcmp(name, b"feed_status", 11) == 0 or memcmp(name, b"reconnected", 11) == 0
    if n == 12:
        return memcmp(name, b"unsubscribed", 12) == 0
    if n == 13:
        return (
            memcmp(name, b"subscriptions", 13) == 0
            or memcmp(name, b"authenticated", 13) == 0
            or memcmp(name, b"symbol_status", 13) == 0
        )
    if n == 15:
        return memcmp(name, b"server_shutdown", 15) == 0 or memcmp(name, b"token_refreshed", 15) == 0
    return False


cdef inline bint is_awaited(Client* c, const char* name, Py_ssize_t n) noexcept nogil:
    if c.is_restoring:
        return n == 11 and memcmp(name, b"reconnected", 11) == 0
    return n == c.wait_size and memcmp(name, c.wait_type, n) == 0


cdef void on_message(
    Client* c, Conn* conn, const char* head, Py_ssize_t head_size, const char* tail, const char* tail_end,
    bint is_whole,
) noexcept nogil:
    """A text message has come: its first `head_size` bytes, its last ones before `tail_end` (down to
    `tail`), and whether the head is all of it."""
    cdef Stats* stats = &c.stats[conn.group]
    cdef const char* name = head + 9
    cdef const char* quote
    cdef Py_ssize_t n
    cdef bint was_read = True
    if starts_with(head, head + head_size, b'{"type":"batch","batch_size":', 29):
        was_read = on_batch(c, conn, head, head_size, tail, tail_end, is_whole)
    elif not starts_with(head, head + head_size, b'{"type":"', 9):
        stats.n_messages += c.check == CHECK_NONE
        conn.n_messages += c.check == CHECK_NONE
        was_read = c.check == CHECK_NONE
    else:
        quote = <const char*>memchr(name, c'"', head_size - 9)
        n = quote - name if quote is not NULL else 0
        if n == 5 and memcmp(name, b"error", 5) == 0:
            stats.n_errors += 1
            keep_sample(stats.error_text, &stats.error_size, head, head_size)
            if conn.state == SUBSCRIBING:
                fail(c, conn, FAILED_REPLY, 0, head, head_size)
        elif n == 8 and memcmp(name, b"overflow", 8) == 0:
            on_overflow(c, conn, head, head_size)
        elif is_control(name, n):
            stats.n_control += 1
            if n == 15 and name[0] == c"s":
                on_shutdown(c, conn, head, head_size)
            elif n == 10 and name[0] == c"c" and c.keeps_sessions:
                on_greeting(c, conn, head, head_size)
            elif n == 11 and name[0] == c"r":
                # Its middle may be missing; both ends, where the figures stand, are at hand.
                on_restored(c, head if is_whole else tail, head_size if is_whole else tail_end - tail)
            elif n == 10 and name[0] == c"s" and conn.state == SUBSCRIBING:
                quote = <const char*>memmem(head, head_size, <const char*>b'"rejected":[{', 13)
                if quote is not NULL:
                    fail(c, conn, FAILED_REJECTED, 0, quote + 11, head + head_size - quote - 11)
            elif name[0] == c"p" and n == 4 and conn.ping_us:
                on_pong(c, conn)
        else:
            was_read = on_bare(c, conn, head, head_size, tail, tail_end)
        if conn.state == SUBSCRIBING and is_awaited(c, name, n):
            conn.n_awaited -= 1
            if conn.n_awaited == 0:
                set_open(c, conn)
    if not was_read:
        on_unparsed(stats, head, head_size)
