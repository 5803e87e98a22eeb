# An entry is a pointer to an Update, owned, whose lowest bit tells that the subscription is of mode `latest`.

cdef inline PyObject* entry_update(uintptr_t entry) noexcept:
    return <PyObject*>(entry & ~<uintptr_t>1)


cdef inline bint entry_is_latest(uintptr_t entry) noexcept:
    return entry & 1


@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Frame:
    """Bytes ready for the socket, shared by reference by every connection they go to.

    1. `data` is one or more whole WebSocket frames and never changes.
    2. `entries` lists the updates inside, so that a drop can be declared and a blocked connection can take the
       updates instead of the frame. Frames made of none (snapshots, echoes) are never dropped, and neither are
       those that are addressed to one user.
    3. `n_conflated` updates were replaced by those inside; they count as published to whom the frame goes.
    4. One with a `loss` declares updates, and they count as published and lost to whom it goes.
    """

    def __cinit__(self):
        if FASTWS_DEBUG:
            count_live("Frame", 1)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.n_entries):
            Py_DECREF(<object>entry_update(self.entries[i]))
        free(self.entries)
        if FASTWS_DEBUG:
            count_live("Frame", -1)

    cdef inline Py_ssize_t size(self):
        return PyBytes_GET_SIZE(self.data)


cdef Frame plain_frame(bytes data, uint32_t n_messages):
    """A frame that stands for no updates: a snapshot, an echo."""
    cdef Frame frame = Frame.__new__(Frame)
    frame.data = data
    frame.n_messages = n_messages
    return frame


@cython.final
cdef class Loss:
    """Updates that a lane has dropped since its last flush, for all of its members at once.

    `late` has what those lost who joined when the first of it was published already: each what came after it had
    joined.
    """

    cdef int add(self, Update update) except -1:
        cdef Loss loss
        if self.n == 0:
            self.ranges = {}
            self.first_position = update.position
            self.first_sequence = number_from(update)
        add_lost(self.ranges, update.channel, 1, update.seq, update.seq)
        self.position = update.position
        self.n += 1
        if self.late is not None:
            for joined, loss in self.late.items():
                if update.position > <int64_t>joined:
                    loss.add(update)
        return 0

    cdef int add_missed(
        self, Channel channel, int64_t first, int64_t last, int64_t position, int64_t sequence
    ) except -1:
        """Add what was never here, for all who are members now: `seq` from `first` to `last`."""
        cdef Loss loss
        if self.n == 0:
            self.ranges = {}
            self.first_position = position
            self.first_sequence = sequence
        add_lost(self.ranges, channel, last - first + 1, first, last)
        self.position = max(self.position, position)
        self.n += last - first + 1
        if self.late is not None:
            for loss in self.late.values():
                loss.add_missed(channel, first, last, position, sequence)
        return 0

    cdef Loss since(self, int64_t after_position):
        """What one has lost who joined at that position; None: nothing."""
        cdef Loss loss
        if after_position < self.first_position:
            return self
        loss = None if self.late is None else self.late.get(after_position)
        return loss if loss is not None and loss.n else None


cdef int add_lost(dict lost, Channel channel, int64_t n, int64_t first, int64_t last) except -1:
    """Add updates of one channel, the oldest first, to what was lost before them."""
    cdef list ranges = lost.get(channel), newest
    if ranges is None:
        lost[channel] = [[n, first, last]]
        return 0
    newest = <list>ranges[len(ranges) - 1]
    if <int64_t>newest[2] + 1 == first:
        newest[0] += n
        newest[2] = last
    else:
        ranges.append([n, first, last])
    return 0


cdef Frame declaration(Hub hub, Dialect dialect, Loss loss, int window_bits):
    """The frame that declares a loss; it stands for no updates, and waits its turn like one that does."""
    cdef Frame frame = plain_frame(pack(hub, 1, overflow_text(dialect, loss.ranges), window_bits), 1)
    frame.loss = loss
    frame.n_declared = loss.n
    frame.first_position = loss.first_position
    frame.position = loss.position
    frame.first_sequence = loss.first_sequence
    return frame


cdef bytes make_frame(int first_byte, const char* text, Py_ssize_t size):
    """One unmasked WebSocket frame; `first_byte` is FIN, RSV and opcode."""
    cdef uint8_t header[10]
    cdef Py_ssize_t header_size = write_header(header, first_byte, size)
    cdef bytes data = PyBytes_FromStringAndSize(NULL, header_size + size)
    cdef char* out = PyBytes_AS_STRING(data)
    memcpy(out, header, header_size)
    memcpy(out + header_size, text, size)
    return data


cdef bytes frame_text(const char* text, Py_ssize_t size):
    return make_frame(0x81, text, size)


cdef bytes pack(Hub hub, int opcode, bytes payload, int window_bits):
    """One frame, compressed when that was agreed (`window_bits` is not 0) and the payload is large enough."""
    if window_bits and PyBytes_GET_SIZE(payload) >= hub.deflate_threshold:
        hub.meters.n_compressed += 1
        hub.meters.n_bytes_to_compress += PyBytes_GET_SIZE(payload)
        payload = hub.compress(payload, window_bits)
        hub.meters.n_bytes_compressed += PyBytes_GET_SIZE(payload)
        return make_frame(0xC0 | opcode, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
    return make_frame(0x80 | opcode, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))


cdef inline PyObject* text_of(uintptr_t entry, int index) noexcept:
    """The text that an update has already, in the dialect of that index; borrowed."""
    cdef PyObject* update = entry_update(entry)
    return <PyObject*>(<Update>update).text0 if index == 0 else <PyObject*>(<Update>update).text1


cdef bytes join_frames(Hub hub, int index, const uintptr_t* entries, Py_ssize_t n, int window_bits):
    """One write: each message in a frame of its own."""
    cdef Py_ssize_t size = 0, text_size, i
    cdef bytes data
    cdef PyObject* text
    cdef char* out
    cdef bint is_plain = True
    for i in range(n):
        text_size = PyBytes_GET_SIZE(<object>text_of(entries[i], index))
        if window_bits and text_size >= hub.deflate_threshold:
            is_plain = False
            break
        # RFC 6455 §5.2, unmasked.
        size += text_size + (2 if text_size < 126 else 4 if text_size < 65536 else 10)
    if not is_plain:
        return b"".join([pack(hub, 1, <bytes>text_of(entries[i], index), window_bits) for i in range(n)])
    data = PyBytes_FromStringAndSize(NULL, size)
    out = PyBytes_AS_STRING(data)
    for i in range(n):
        text = text_of(entries[i], index)
        text_size = PyBytes_GET_SIZE(<object>text)
        out += write_header(<uint8_t*>out, 0x81, text_size)
        memcpy(out, PyBytes_AS_STRING(<object>text), text_size)
        out += text_size
    return data


cdef bytes join_messages(
    Hub hub, Dialect dialect, const uintptr_t* entries, Py_ssize_t n, int64_t sequence, bint is_snapshot,
    int window_bits,
):
    """Frames of one write: the bare message, or a `batch`, or (not batched) each message in a frame of its own.

    The updates have their texts in `dialect`.
    """
    cdef int index = dialect.index
    cdef Py_ssize_t size = 0, head_size, tail_size, header_size, text_size, i
    cdef bint is_deflated
    cdef bytes data
    cdef PyObject* text
    cdef char head[80]
    cdef char tail[96]
    cdef char* out
    cdef uint8_t header[10]
    if n == 1 and not (is_snapshot and dialect.batches):
        return pack(hub, 1, <bytes>text_of(entries[0], index), window_bits)
    if not dialect.batches or not (is_snapshot or hub.interval_ms):
        return join_frames(hub, index, entries, n, window_bits)
    for i in range(n):
        size += PyBytes_GET_SIZE(<object>text_of(entries[i], index))
    memcpy(head, <const char*>b'{"type":"batch","batch_size":', 29)
    head_size = 29 + write_integer(head + 29, n)
    if is_snapshot:
        memcpy(head + head_size, <const char*>b',"snapshot":true', 16)
        head_size += 16
    memcpy(head + head_size, <const char*>b',"messages":[', 13)
    head_size += 13
    memcpy(tail, <const char*>b'],"timestamp":"', 15)
    tail_size = 15 + write_utc(tail + 15, fastws_wall_ms())
    memcpy(tail + tail_size, <const char*>b'","sequence":', 13)
    tail_size += 13
    tail_size += write_integer(tail + tail_size, sequence)
    tail[tail_size] = c"}"
    tail_size += 1
    size += head_size + tail_size + (n - 1 if n > 1 else 0)
    is_deflated = window_bits and size >= hub.deflate_threshold
    header_size = 0 if is_deflated else write_header(header, 0x81, size)
    data = PyBytes_FromStringAndSize(NULL, header_size + size)
    out = PyBytes_AS_STRING(data)
    memcpy(out, header, header_size)
    out += header_size
    memcpy(out, head, head_size)
    out += head_size
    for i in range(n):
        if i:
            out[0] = c","
            out += 1
        text = text_of(entries[i], index)
        text_size = PyBytes_GET_SIZE(<object>text)
        memcpy(out, PyBytes_AS_STRING(<object>text), text_size)
        out += text_size
    memcpy(out, tail, tail_size)
    return pack(hub, 1, data, window_bits) if is_deflated else data


cdef bytes failure_text(Dialect dialect):
    """What stands in the place of an update that could not be encoded."""
    return spoken(
        dialect,
        b"error",
        b'"code":"INTERNAL_ERROR","error_code":"INTERNAL_ERROR",'
        b'"message":"The server failed to write this update","details":{}',
    )


cdef bytes spoken(Dialect dialect, bytes kind, bytes members):
    """A message of the core's own, whose members stand in ``data`` where a dialect does not batch."""
    cdef char stamp[24]
    write_utc(stamp, fastws_wall_ms())
    if dialect.batches:
        return b'{"type":"%b",%b,"timestamp":"%b"}' % (kind, members, stamp[:24])
    return b'{"type":"%b","data":{%b},"timestamp":"%b"}' % (kind, members, stamp[:24])


cdef bytes text_or_failure(Hub hub, Dialect dialect, Update update):
    """What is sent for an update, also when it cannot be encoded."""
    cdef bytes text
    try:
        text = update.text(dialect)
    except Exception:
        hub.logger.exception("an update of %r could not be encoded, an error stands in its place", update.channel)
        update.payload = None
        text = failure_text(dialect)
        update.keep_text(dialect, text)
    return text


cdef list build_frames(
    Hub hub, Dialect dialect, const uintptr_t* entries, uint32_t n, uint32_t n_conflated,
    int64_t after_position, int64_t sequence, int window_bits, Lane giver=None, Loss loss=None,
):
    """Frames that hold the entries published after `after_position`, in the order given.

    `entries` stay the caller's and the frames take references of their own, but for a `giver`, whose pending entries
    they are: when one frame holds them all, it gets them and the lane has none. A frame is cut at `MAX_BATCH_SIZE` (a
    single larger message stands alone). The last one carries `sequence`, those before it the number of their last
    update, so that no batch claims what is still to come. `n_conflated` is counted on the first frame. What was lost
    of a `loss` after `after_position` is declared ahead of them.
    """
    cdef list frames = []
    cdef Frame frame
    cdef Update update
    cdef Py_ssize_t size = 0, text_size
    cdef uint32_t i, first = 0
    for i in range(n):
        update = <Update>entry_update(entries[i])
        if update.position <= after_position:
            # Only a prefix can be too old: entries are in publish order.
            first = i + 1
            continue
        if text_of(entries[i], dialect.index) is <PyObject*>None:
            text_or_failure(hub, dialect, update)
        text_size = PyBytes_GET_SIZE(<object>text_of(entries[i], dialect.index))
        if i > first and size + text_size > MAX_BATCH_SIZE:
            frames.append(
                close_frame(
                    hub, dialect, entries, first, i, (<Update>entry_update(entries[i - 1])).sequence,
                    window_bits, None,
                )
            )
            first = i
            size = 0
        size += text_size + 1
    if first < n:
        frames.append(
            close_frame(hub, dialect, entries, first, n, sequence, window_bits, None if first else giver)
        )
    if frames:
        frame = frames[0]
        frame.n_conflated = n_conflated
        loss = None if loss is None else loss.since(after_position)
        if loss is not None:
            frames.insert(0, declaration(hub, dialect, loss, window_bits))
            # A session that did not get it begins before both.
            (<Frame>frames[0]).first_position = min(loss.first_position, frame.first_position)
            (<Frame>frames[0]).first_sequence = min(loss.first_sequence, frame.first_sequence)
    return frames


cdef Frame close_frame(
    Hub hub, Dialect dialect, const uintptr_t* entries, uint32_t first, uint32_t end, int64_t sequence,
    int window_bits, Lane giver,
):
    cdef Frame frame = Frame.__new__(Frame)
    cdef uint32_t i, n = end - first
    entries += first
    frame.data = join_messages(hub, dialect, entries, n, sequence, False, window_bits)
    frame.n_messages = n
    frame.sequence = sequence
    frame.first_position = (<Update>entry_update(entries[0])).position
    frame.position = (<Update>entry_update(entries[n - 1])).position
    frame.first_sequence = number_from(<Update>entry_update(entries[0]))
    for i in range(n):
        if entry_is_latest(entries[i]):
            frame.has_latest = True
            break
    frame.entries = <uintptr_t*>malloc(n * sizeof(uintptr_t))
    if frame.entries is NULL:
        raise MemoryError
    if giver is not None:
        giver.give_pending(frame.entries)
    else:
        for i in range(n):
            frame.entries[i] = entries[i]
            Py_INCREF(<object>entry_update(entries[i]))
    frame.n_entries = n
    return frame
