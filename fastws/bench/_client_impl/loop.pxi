# Sockets, frames and the epoll loop.
#
# One epoll instance, edge-triggered: level-triggered, the kernel asks every socket twice, which was a tenth
# of all the time spent at 5,000 connections. A receive that does not fill the buffer has drained the
# socket, so the usual wake-up costs one recv per readable connection. (Discarding the middle of large
# frames with MSG_TRUNC was tried: it saves 0.7 of 2.7 us at 31 KB and loses below 16 KB.)
#
# The receive buffer is one for all connections. Whole messages are looked at where they lie in it. Of one
# that does not end there, a Hold keeps the head and the tail, so a connection that is between messages owns
# no memory but its Conn.


cdef inline int64_t monotonic_us() noexcept nogil:
    return fastws_clock_us(CLOCK_MONOTONIC)


cdef inline uint32_t next_mask(Client* c) noexcept nogil:
    # xorshift32: the mask protects proxies from scripts (RFC 6455 section 10.3), which a load client is not.
    cdef uint32_t x = c.mask_state
    x ^= x << 13
    x ^= x >> 17
    x ^= x << 5
    c.mask_state = x
    return x


cdef void fail(
    Client* c, Conn* conn, int failure, int detail, const char* text, Py_ssize_t size
) noexcept nogil:
    """Keep the first reason that makes connect() fail, and close the connection."""
    if c.failure == 0:
        c.failure = failure
        c.failure_detail = detail
        if text is not NULL:
            keep_sample(c.failure_text, &c.failure_size, text, size)
    drop(c, conn, 1006)


cdef inline bint is_in_message(Conn* conn) noexcept nogil:
    """Whether a message or a frame has begun and not ended."""
    return conn.message_opcode != 0 or conn.frame_left > 0 or conn.header_size > 0


cdef void drop(Client* c, Conn* conn, uint16_t code) noexcept nogil:
    """Close the socket and free what the connection owns, but keep its counts. `code` tells why, unless the
    peer said so or the end was ours (CLOSING)."""
    if conn.state == CLOSED:
        return
    if UNOPENED < conn.state < OPEN:
        c.n_in_flight -= 1
        if c.failure == 0:
            c.failure = FAILED_CLOSED
            c.failure_detail = conn.close_code if conn.close_code else code
    if conn.fd >= 0:
        close(conn.fd)
        conn.fd = -1
        c.n_live -= not conn.is_gone
    if conn.state == OPEN and is_in_message(conn):
        c.stats[conn.group].n_unfinished += 1
    if conn.close_code == 0 and conn.state != CLOSING:
        conn.close_code = code
    conn.state = CLOSED
    c.n_pings_lost += conn.ping_us != 0
    conn.ping_us = 0
    conn.n_pings_due = 0
    release_hold(c, conn)
    free(conn.control)
    conn.control = NULL
    free(conn.outgoing)
    conn.outgoing = NULL


cdef void watch(Client* c, Conn* conn, int operation) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLET | EPOLLRDHUP
    if not conn.is_resting:
        event.events |= EPOLLIN
    if conn.is_writing:
        event.events |= EPOLLOUT
    event.data.u32 = <uint32_t>(conn - c.conns)
    if epoll_ctl(c.epoll_fd, operation, conn.fd, &event) < 0:
        fail(c, conn, FAILED_SYSTEM, errno, NULL, 0)


cdef void send_bytes(Client* c, Conn* conn, const char* data, Py_ssize_t size) noexcept nogil:
    """Send, or keep what the socket does not take until it is writable. May drop the connection."""
    cdef ssize_t sent
    cdef Py_ssize_t kept
    cdef Outgoing* grown
    if conn.outgoing is NULL:
        sent = send(conn.fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent == size:
            return
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                drop(c, conn, 1006)
                return
            sent = 0
        data += sent
        size -= sent
        kept = 0
    else:
        kept = conn.outgoing.size
    grown = <Outgoing*>realloc(conn.outgoing, sizeof(Outgoing) + kept + size)
    if grown is NULL:
        fail(c, conn, FAILED_SYSTEM, ENOMEM, NULL, 0)
        return
    memcpy(grown.data + kept, data, size)
    grown.size = kept + size
    conn.outgoing = grown
    if not conn.is_writing:
        conn.is_writing = True
        watch(c, conn, EPOLL_CTL_MOD)


cdef void send_kept(Client* c, Conn* conn) noexcept nogil:
    cdef ssize_t sent
    cdef Outgoing* kept = conn.outgoing
    while kept is not NULL:
        sent = send(conn.fd, kept.data, kept.size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            if errno != EAGAIN and errno != EINTR:
                drop(c, conn, 1006)
            return
        kept.size -= sent
        memmove(kept.data, kept.data + sent, kept.size)
        if kept.size == 0:
            free(kept)
            conn.outgoing = kept = NULL
    conn.is_writing = False
    watch(c, conn, EPOLL_CTL_MOD)


cdef void send_frame(
    Client* c, Conn* conn, uint8_t opcode, const char* payload, Py_ssize_t size
) noexcept nogil:
    """Send one final, masked frame; `frame_buffer` has room for every payload that is ever sent."""
    cdef char* out = c.frame_buffer
    cdef uint32_t mask = next_mask(c)
    cdef const char* key = <const char*>&mask
    cdef Py_ssize_t n = 2, i
    out[0] = <char>(0x80 | opcode)
    if size < 126:
        out[1] = <char>(0x80 | size)
    elif size < 65536:
        out[1] = <char>(0x80 | 126)
        out[2] = <char>(size >> 8)
        out[3] = <char>(size & 255)
        n = 4
    else:
        out[1] = <char>(0x80 | 127)
        for i in range(8):
            out[2 + i] = <char>((size >> (56 - 8 * i)) & 255)
        n = 10
    memcpy(out + n, key, 4)
    n += 4
    for i in range(size):
        out[n + i] = payload[i] ^ key[i & 3]
    send_bytes(c, conn, out, n + size)


cdef void open_socket(Client* c, Conn* conn) noexcept nogil:
    cdef int one = 1
    conn.state = CONNECTING
    conn.frame_left = -1
    c.n_in_flight += 1
    conn.fd = socket(c.address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if conn.fd < 0:
        fail(c, conn, FAILED_SYSTEM, errno, NULL, 0)
        return
    c.n_live += 1
    setsockopt(conn.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    if conn.group == 1 and c.slow_receive_buffer:
        # Before connect(): the window scale is agreed on with the SYN.
        setsockopt(conn.fd, SOL_SOCKET, SO_RCVBUF, &c.slow_receive_buffer, sizeof(int))
    if connect(conn.fd, <sockaddr*>&c.address, c.address_size) < 0 and errno != EINPROGRESS:
        fail(c, conn, FAILED_CONNECT, errno, NULL, 0)
        return
    conn.is_writing = True
    watch(c, conn, EPOLL_CTL_ADD)


cdef void on_connected(Client* c, Conn* conn) noexcept nogil:
    cdef int error = 0
    cdef socklen_t size = sizeof(int)
    getsockopt(conn.fd, SOL_SOCKET, SO_ERROR, &error, &size)
    if error:
        fail(c, conn, FAILED_CONNECT, error, NULL, 0)
        return
    conn.state = UPGRADING
    if c.is_restoring:
        send_restoration(c, conn)
    else:
        send_bytes(c, conn, c.request, c.request_size)
    if conn.state != CLOSED and conn.outgoing is NULL:
        conn.is_writing = False
        watch(c, conn, EPOLL_CTL_MOD)


cdef void send_restoration(Client* c, Conn* conn) noexcept nogil:
    """The upgrade request with the connection's session and cursor added to its target."""
    cdef char* out = c.frame_buffer
    cdef const char* sign = b"&" if c.has_query else b"?"
    cdef Py_ssize_t n = c.target_size
    memcpy(out, c.request, n)
    n += snprintf(out + n, QUERY_SIZE, b"%ssession_id=%s", sign, conn.session)
    if conn.last_sequence >= 0:
        n += snprintf(
            out + n, QUERY_SIZE - SESSION_SIZE - 16, b"&last_sequence=%lld&epoch=%s",
            <long long>conn.last_sequence, c.epoch,
        )
    memcpy(out + n, c.request + c.target_size, c.request_size - c.target_size)
    send_bytes(c, conn, out, n + c.request_size - c.target_size)


cdef const char* on_response(Client* c, Conn* conn, const char* p, const char* end) noexcept nogil:
    """The response to the upgrade; returns what follows its head, NULL when that has not come or is
    refused."""
    cdef Hold* hold
    cdef const char* head = p
    cdef const char* stop
    cdef Py_ssize_t n = end - p, kept = 0
    if conn.hold is not NULL:
        hold = conn.hold
        kept = hold.size
        if n > HEAD_SIZE - kept:
            n = HEAD_SIZE - kept
        memcpy(hold.head + kept, p, n)
        hold.size += n
        head = hold.head
        n = hold.size
    stop = <const char*>memmem(head, n, <const char*>b"\r\n\r\n", 4)
    if stop is NULL and conn.hold is NULL and n < HEAD_SIZE:
        hold = acquire_hold(c, conn)
        if hold is not NULL:
            memcpy(hold.head, p, n)
            hold.size = n
            return NULL
    elif stop is NULL and n < HEAD_SIZE:
        return NULL
    if stop is NULL or not starts_with(head, head + n, b"HTTP/1.1 101", 12):
        fail(c, conn, FAILED_STATUS, 0, head, n)
        return NULL
    if memmem(head, stop - head, c.accept, c.accept_size) is NULL:
        fail(c, conn, FAILED_ACCEPT, 0, NULL, 0)
        return NULL
    if c.wants_deflate and memmem(head, stop - head, <const char*>b"permessage-deflate", 18) is NULL:
        fail(c, conn, FAILED_DEFLATE, 0, NULL, 0)
        return NULL
    p += stop + 4 - head - kept
    release_hold(c, conn)
    conn.state = SUBSCRIBING
    if c.is_restoring:
        conn.n_awaited = 1
    elif conn.subscribe_size:
        conn.n_awaited = conn.n_answers if c.wait_type is not NULL else 0
        send_bytes(c, conn, conn.subscribe, conn.subscribe_size)
    if conn.state == SUBSCRIBING and conn.n_awaited == 0:
        set_open(c, conn)
    return p if conn.state != CLOSED else NULL


cdef void set_open(Client* c, Conn* conn) noexcept nogil:
    conn.state = OPEN
    c.n_in_flight -= 1
    c.n_ready += 1
    if conn.group == 1:
        # Its end is still noticed (EPOLLRDHUP, EPOLLHUP); what came until then is read for the close code.
        conn.is_resting = True
        watch(c, conn, EPOLL_CTL_MOD)


cdef Hold* acquire_hold(Client* c, Conn* conn) noexcept nogil:
    cdef Hold* hold = c.spare_holds
    if hold is not NULL:
        c.spare_holds = hold.next
    else:
        hold = <Hold*>malloc(sizeof(Hold))
        if hold is NULL:
            return NULL
        hold.whole = NULL
        hold.capacity = 0
    hold.next = NULL
    memset(&hold.text, 0, sizeof(Text))
    hold.size = 0
    hold.tail_size = 0
    conn.hold = hold
    return hold


cdef void release_hold(Client* c, Conn* conn) noexcept nogil:
    if conn.hold is not NULL:
        conn.hold.next = c.spare_holds
        c.spare_holds = conn.hold
        conn.hold = NULL


cdef bint hold_more(Client* c, Hold* hold, const char* p, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t kept
    cdef char* grown
    if c.check == CHECK_FULL:
        if hold.size + n > hold.capacity:
            kept = 2 * (hold.size + n)
            grown = <char*>realloc(hold.whole, kept)
            if grown is NULL:
                return False
            hold.whole = grown
            hold.capacity = kept
        if n:           # an empty payload has no place
            memcpy(hold.whole + hold.size, p, n)
            hold.size += n
        return True
    if hold.size < HEAD_SIZE:
        memcpy(hold.head + hold.size, p, n if n < HEAD_SIZE - hold.size else HEAD_SIZE - hold.size)
    hold.size += n
    if n >= TAIL_SIZE:
        memcpy(hold.tail, p + n - TAIL_SIZE, TAIL_SIZE)
        hold.tail_size = TAIL_SIZE
    else:
        kept = TAIL_SIZE - n
        if kept > hold.tail_size:
            kept = hold.tail_size
        memmove(hold.tail, hold.tail + hold.tail_size - kept, kept)
        memcpy(hold.tail + kept, p, n)
        hold.tail_size = kept + n
    return True


cdef void end_for_fault(Client* c, Conn* conn, uint16_t code) noexcept nogil:
    """Close a connection on which the peer broke the protocol. The code is ours and not counted among the peer's."""
    cdef char payload[2]
    payload[0] = <char>(code >> 8)
    payload[1] = <char>(code & 255)
    send_frame(c, conn, 8, payload, 2)
    if conn.state < OPEN:
        fail(c, conn, FAILED_BROKEN, code, NULL, 0)
    elif conn.state == OPEN:
        conn.state = CLOSING
        conn.close_code = 0
    drop(c, conn, code)


cdef void violate(Client* c, Conn* conn) noexcept nogil:
    c.stats[conn.group].n_violations += 1
    end_for_fault(c, conn, 1002)


cdef void on_payload(Client* c, Conn* conn, const char* p, Py_ssize_t n, bint is_end) noexcept nogil:
    """A part of a data message."""
    cdef Hold* hold = conn.hold
    cdef Text text
    if conn.is_compressed:
        # Only counted: expanding it thousands of times would measure zlib.
        if is_end:
            c.stats[conn.group].n_compressed += 1
            conn.message_opcode = 0
        return
    memset(&text, 0, sizeof(Text))
    if conn.message_opcode == 1 and c.check != CHECK_NONE:
        if hold is not NULL:
            text = hold.text
        if not scan_text(&text, p, p + n) or (is_end and text.n_left):
            c.stats[conn.group].n_bad_text += 1
            end_for_fault(c, conn, 1007)
            return
    if hold is NULL:
        if is_end:
            if conn.message_opcode == 1:
                on_message(c, conn, p, n, p, p + n, True)
            else:
                c.stats[conn.group].n_binary += 1
            conn.message_opcode = 0
            return
        hold = acquire_hold(c, conn)
    if hold is not NULL:
        hold.text = text
    if hold is NULL or not hold_more(c, hold, p, n):
        fail(c, conn, FAILED_SYSTEM, ENOMEM, NULL, 0)
        return
    if not is_end:
        return
    if conn.message_opcode != 1:
        c.stats[conn.group].n_binary += 1
    elif c.check == CHECK_FULL:
        on_message(c, conn, hold.whole, hold.size, hold.whole, hold.whole + hold.size, True)
    elif hold.size <= HEAD_SIZE:
        on_message(c, conn, hold.head, hold.size, hold.head, hold.head + hold.size, True)
    else:
        on_message(c, conn, hold.head, HEAD_SIZE, hold.tail, hold.tail + hold.tail_size, False)
    conn.message_opcode = 0
    release_hold(c, conn)


cdef void on_control(Client* c, Conn* conn, const char* p, Py_ssize_t n) noexcept nogil:
    if conn.opcode == 9:
        if conn.state < CLOSING:
            send_frame(c, conn, 10, p, n)
    elif conn.opcode == 8:
        if conn.state == CLOSING:
            return
        conn.close_code = 1005 if n < 2 else (<uint16_t><uint8_t>p[0] << 8 | <uint8_t>p[1])
        if conn.state < OPEN:
            fail(c, conn, FAILED_CLOSED, conn.close_code, NULL, 0)
        else:
            # The server closes the connection (RFC 6455 section 7.1.1); that ends it in `on_readable`.
            conn.state = CLOSING
            # Nothing more will come: it is closed, even if the peer never ends its side.
            conn.is_gone = True
            c.n_live -= 1
            c.n_pings_lost += conn.ping_us != 0
            conn.ping_us = 0
            send_frame(c, conn, 8, p, 2 if n >= 2 else 0)


cdef const char* on_header(Client* c, Conn* conn, const char* p, const char* end) noexcept nogil:
    """Read a frame header, which may come in parts; returns what follows. `frame_left` is -1 while it is
    not complete."""
    cdef const char* h
    cdef Py_ssize_t need, n
    cdef uint8_t opcode, length, reserved
    cdef uint64_t size
    cdef int i
    if conn.header_size == 0 and end - p >= 10:
        h = p
        length = <uint8_t>p[1] & 0x7F
        p += 2 if length < 126 else 4 if length == 126 else 10
    else:
        need = 2
        while True:
            n = need - conn.header_size if need > conn.header_size else 0
            if n > end - p:
                n = end - p
            memcpy(conn.header + conn.header_size, p, n)
            conn.header_size += <uint8_t>n
            p += n
            if conn.header_size < need:
                return p
            length = <uint8_t>conn.header[1] & 0x7F
            if need > 2 or length < 126:
                break
            need = 4 if length == 126 else 10
        h = conn.header
        conn.header_size = 0
    opcode = <uint8_t>h[0] & 0x0F
    size = length
    if length == 126:
        size = <uint64_t><uint8_t>h[2] << 8 | <uint8_t>h[3]
    elif length == 127:
        size = 0
        for i in range(2, 10):
            size = size << 8 | <uint8_t>h[i]
    # Not from a server: a mask, and reserved bits but for the one that marks the first frame of a compressed message
    # where that was agreed (RFC 6455 sections 5.1, 5.2, RFC 7692 section 6).
    reserved = <uint8_t>h[0] & 0x70
    if reserved == 0x40 and c.wants_deflate and 0 < opcode < 8:
        reserved = 0
    if reserved or <uint8_t>h[1] & 0x80 or size >> 48:
        violate(c, conn)
        return NULL
    if opcode >= 8:
        if opcode > 10 or size > MAX_CONTROL or not <uint8_t>h[0] & 0x80:
            violate(c, conn)
            return NULL
    elif opcode > 2 or (opcode == 0) == (conn.message_opcode == 0):
        violate(c, conn)
        return NULL
    elif opcode:
        conn.message_opcode = opcode
        conn.is_compressed = <uint8_t>h[0] & 0x40
    conn.opcode = opcode
    conn.is_final = <uint8_t>h[0] >> 7
    conn.frame_left = <int64_t>size
    c.stats[conn.group].n_frames += 1
    return p


cdef void on_bytes(Client* c, Conn* conn, const char* p, const char* end) noexcept nogil:
    cdef Py_ssize_t n, size
    if conn.state == UPGRADING:
        p = on_response(c, conn, p, end)
        if p is NULL:
            return
    while p < end:
        if conn.frame_left < 0:
            p = on_header(c, conn, p, end)
            if p is NULL or conn.frame_left < 0:
                return
        n = end - p
        if n > conn.frame_left:
            n = conn.frame_left
        conn.frame_left -= n
        if conn.opcode < 8:
            on_payload(c, conn, p, n, conn.is_final and conn.frame_left == 0)
        elif conn.control_size == 0 and conn.frame_left == 0:
            on_control(c, conn, p, n)
        else:
            if conn.control is NULL:
                conn.control = <char*>malloc(MAX_CONTROL)
            if conn.control is NULL:
                fail(c, conn, FAILED_SYSTEM, ENOMEM, NULL, 0)
                return
            memcpy(conn.control + conn.control_size, p, n)
            conn.control_size += <uint8_t>n
            if conn.frame_left == 0:
                size = conn.control_size
                conn.control_size = 0
                on_control(c, conn, conn.control, size)
        if conn.state == CLOSED:
            return
        p += n
        if conn.frame_left == 0:
            conn.frame_left = -1


cdef void on_readable(Client* c, Conn* conn, bint has_ended) noexcept nogil:
    """Read once. A full buffer, or the end of the stream in sight, may leave data of which no edge tells: then the
    socket is armed again, which reports it in its turn and starves no other connection."""
    cdef Stats* stats = &c.stats[conn.group]
    cdef ssize_t n = recv(conn.fd, c.receive_buffer, RECEIVE_SIZE, MSG_DONTWAIT)
    if n > 0:
        stats.n_receives += 1
        stats.n_bytes += n
        c.wall_us = fastws_clock_us(CLOCK_REALTIME)
        on_bytes(c, conn, c.receive_buffer, c.receive_buffer + n)
        if conn.state != CLOSED and (n == RECEIVE_SIZE or has_ended):
            watch(c, conn, EPOLL_CTL_MOD)
    elif n == 0 or errno != EAGAIN:
        drop(c, conn, 1006)


cdef void send_pings(Client* c, int64_t now_us) noexcept nogil:
    """One ping on each of the last `n_ping` connections, timed from when it was due and not from when this loop came
    to it. One that still waits for its pong sends none; `on_pong` counts it."""
    cdef Conn* conn
    cdef int i
    # Those that we have slept through.
    cdef int64_t n_late = (now_us - c.next_ping_us) // c.ping_interval_us
    for i in range(c.n_conns - c.n_ping, c.n_conns):
        conn = &c.conns[i]
        if conn.state != OPEN:
            continue
        if conn.ping_us:
            c.n_pings_skipped += 1 + n_late
            conn.n_pings_due += 1 + n_late
            continue
        conn.ping_us = c.next_ping_us
        conn.n_pings_due = n_late
        c.n_pings_skipped += n_late
        c.n_pings += 1
        send_frame(c, conn, 1, c.ping, c.ping_size)
    c.next_ping_us += (1 + n_late) * c.ping_interval_us


cdef inline void note_stall(Client* c, int64_t us) noexcept nogil:
    if us > c.stall_max_us:
        c.stall_max_us = us
    if us > STALL_US:
        c.stalled_us += us


cdef inline void note_silence(Client* c, int64_t now_us) noexcept nogil:
    """What has passed since the newest message, without the pauses of our own."""
    cdef int64_t us = now_us - c.last_message_us - (c.stalled_us - c.stalled_then_us)
    if us > c.silence_max_us:
        c.silence_max_us = us
    c.last_message_us = now_us
    c.stalled_then_us = c.stalled_us


cdef inline int64_t n_published(Client* c) noexcept nogil:
    return c.stats[0].n_messages + c.stats[0].n_compressed


cdef int poll_once(Client* c, int64_t now_us, int64_t until_us, bint is_running) noexcept nogil:
    """Wait for events until `until_us` at most and handle them. Returns -1 when epoll fails (errno)."""
    cdef int n, i, timeout_ms
    cdef uint32_t flags
    cdef Conn* conn
    cdef timespec nap
    cdef int64_t after_us, n_before = n_published(c)
    if is_running and until_us > now_us + WAKE_US:
        until_us = now_us + WAKE_US
    if is_running and c.n_ping and c.next_ping_us < until_us:
        until_us = c.next_ping_us
    timeout_ms = <int>((until_us - now_us + 999) // 1000) if until_us > now_us else 0
    n = epoll_wait(c.epoll_fd, c.events, MAX_EVENTS, timeout_ms)
    after_us = monotonic_us()
    c.blocked_us += after_us - now_us
    if is_running:
        # Two ways of being late: the time spent outside of epoll, and waking after the time that was set.
        if c.last_wake_us:
            note_stall(c, now_us - c.last_wake_us)
        note_stall(c, after_us - now_us - 1000 * timeout_ms)
        c.last_wake_us = after_us
    if n < 0:
        return 0 if errno == EINTR else -1
    c.n_wakeups += 1
    for i in range(n):
        conn = &c.conns[c.events[i].data.u32]
        flags = c.events[i].events
        if conn.state == CONNECTING:
            if flags & (EPOLLOUT | EPOLLERR | EPOLLHUP):
                on_connected(c, conn)
            continue
        if flags & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR) and conn.fd >= 0:
            on_readable(c, conn, flags & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) != 0)
        if flags & EPOLLOUT and conn.fd >= 0 and conn.is_writing:
            send_kept(c, conn)
    if is_running:
        if n_published(c) > n_before:
            note_silence(c, after_us)
        if c.n_ping and after_us >= c.next_ping_us:
            send_pings(c, after_us)
        if c.nap_us and 0 < n < MAX_EVENTS:
            nap.tv_sec = 0
            nap.tv_nsec = c.nap_us * 1000
            now_us = monotonic_us()
            nanosleep(&nap, NULL)
            c.last_wake_us = monotonic_us()
            c.blocked_us += c.last_wake_us - now_us
            note_stall(c, c.last_wake_us - now_us - c.nap_us)
    return 0


cdef int run_until(Client* c, int64_t until_us) noexcept nogil:
    cdef int64_t now_us = monotonic_us()
    while c.n_live:
        if poll_once(c, now_us, until_us, True) < 0:
            return -1
        now_us = monotonic_us()
        if now_us >= until_us:
            break
    return 0


cdef int connect_until(
    Client* c, int64_t until_us, int max_in_flight, int64_t start_us, int64_t ramp_us, int step
) noexcept nogil:
    """Open connections, at most `max_in_flight` at a time and in steps evenly over `ramp_us`, until all are
    open or one failed."""
    cdef int64_t now_us = monotonic_us(), wait_us
    cdef int allowed, n_steps = (c.n_conns - 1) // step + 1, n_due
    while now_us < until_us and c.n_ready < c.n_conns and c.failure == 0:
        allowed = c.n_conns
        wait_us = until_us
        if now_us - start_us < ramp_us:
            n_due = <int>(1 + <double>n_steps * <double>(now_us - start_us) / <double>ramp_us)
            allowed = n_due * step if n_due < n_steps else c.n_conns
            wait_us = start_us + <int64_t>(<double>ramp_us * <double>n_due / <double>n_steps) + 1
        if allowed > c.n_conns:
            allowed = c.n_conns
        while c.n_opened < allowed and c.n_in_flight < max_in_flight and c.failure == 0:
            open_socket(c, &c.conns[c.n_opened])
            c.n_opened += 1
        if poll_once(c, now_us, wait_us if wait_us < until_us else until_us, False) < 0:
            return -1
        now_us = monotonic_us()
    return 0


cdef void cut_all(Client* c) noexcept nogil:
    """Reset every connection without a word, as when the network goes, and make it as new but for what it has
    seen."""
    cdef Conn* conn
    cdef linger reset
    cdef int i
    reset.l_onoff = 1
    reset.l_linger = 0
    for i in range(c.n_conns):
        conn = &c.conns[i]
        setsockopt(conn.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(linger))
        # Ours: what is cut off with it is not the peer's fault.
        conn.state = CLOSING
        drop(c, conn, 1006)
        conn.state = UNOPENED
        conn.close_code = 0
        conn.is_writing = conn.is_resting = conn.is_gone = False
        conn.header_size = conn.control_size = conn.message_opcode = 0
    c.n_opened = c.n_ready = c.n_in_flight = 0


cdef int close_until(Client* c, int64_t until_us) noexcept nogil:
    """Close every connection with code 1000 and wait for the peers' ends; what is left then is cut."""
    cdef int64_t now_us = monotonic_us()
    cdef Conn* conn
    cdef int i
    for i in range(c.n_conns):
        conn = &c.conns[i]
        if conn.state == OPEN and not conn.is_resting:
            conn.state = CLOSING
            send_frame(c, conn, 8, <const char*>b"\x03\xe8", 2)
        elif conn.state != CLOSED and conn.state != CLOSING:
            conn.state = CLOSING
            drop(c, conn, 1000)
    while now_us < until_us and c.n_live:
        if poll_once(c, now_us, until_us, False) < 0:
            return -1
        now_us = monotonic_us()
    for i in range(c.n_conns):
        drop(c, &c.conns[i], 1006)
    return 0
