# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""A WebSocket load client in one epoll loop: thousands of connections, every message accounted for.

It measures a server on the same machine, so that what it spends is missing there: the loop runs in C without
the GIL, with one receive per readable connection, and reads of a frame only its edges unless asked for more.
Linux only (epoll).

    LoadClient.connect ─> connect_until ─> open_socket, on_connected, on_response
    LoadClient.run ─> run_until ─> poll_once ─> on_readable ─> on_bytes ─> on_message ─> check_range
"""

include "_client_impl/system.pxi"
include "_client_impl/histogram.pxi"
include "_client_impl/text.pxi"
include "_client_impl/state.pxi"
include "_client_impl/checks.pxi"
include "_client_impl/loop.pxi"

_CHECKS = {"none": CHECK_NONE, "edges": CHECK_EDGES, "full": CHECK_FULL}


class LoadError(FastwsError):
    """The load could not be set up; the text says what failed and what to do."""


cdef class LoadClient:
    """`connections` WebSocket connections to `url`, driven by one thread at a time (`stop` may come from any).

    url                  ws://HOST[:PORT]/PATH; TLS is not spoken. A name that is both is taken as IPv4.
    connections          1 or more; the process needs as many file descriptors and some 30.
    subscribe            text frames that each connection sends once: bytes or str for all, a sequence with
                         one item for each, or a callable of the connection's index that returns one. An item
                         is one frame, or a tuple of several. None sends nothing.
    wait_for             `type` of the messages that answer them and make the connection open. None waits for
                         none. A `subscribed` that names rejected targets makes `connect` fail.
    n_answers            how many of these; 0: one for each frame.
    check                "none" counts messages. "edges" also checks that `seq` runs on from frame to frame
                         and that the numbers of a frame's first and last message fit their count: for
                         subscriptions to one symbol on one channel. "full" reads every message and keeps
                         the last `seq` and value per connection, message type and code.
    conflated            the subscription is of mode `latest`: holes in `seq` are conflation and no loss.
    n_slow               so many connections, the first ones, never read again once they are open.
    slow_receive_buffer  their SO_RCVBUF in bytes; 0 leaves the system's default.
    n_ping               so many connections, the last ones, send `ping_message` every `ping_interval_ms`
                         while the load runs and time the `pong`. Slow connections cannot be among them.
    headers              further lines of the upgrade request, by name.
    deflate              ask for permessage-deflate, and insist on it. Messages that come compressed are counted
                         and not read: nothing of them is in the checks and the latencies.
    keep_sessions        note session ids from the greetings, for `cut` and `restore`; not with `deflate`, as they
                         may come compressed.
    nap_us               after a wake-up, let events gather for so long; saves processor time on both sides
                         at high connection counts and is added to latencies. 0: none.
    wanted               what a connection subscribes to, by its index: pairs of message type and code. Numbered
                         messages of anything else are counted as `unwanted`; in the edge check a batch is
                         judged by its first one. None, for all or for one: not known.
    wanted_by_all        what every connection subscribes to, beside its own `wanted`.

    Figures are of what came since `connect` or the last `reset`, those of slow connections apart.
    """

    cdef Client c
    cdef bytes _request, _accept, _wait_type, _ping
    cdef list _payloads
    cdef dict _wanted
    cdef readonly str url
    cdef bint _is_connected
    cdef volatile_int _is_stopped
    cdef int64_t _started_us, _ended_us, _cpu_us, _delay_ns

    def __cinit__(
        self, str url not None, int connections, *, subscribe=None, str wait_for="subscribed", int n_answers=0,
        str check not None="edges", bint conflated=False, int n_slow=0, int slow_receive_buffer=0,
        int n_ping=0, double ping_interval_ms=100.0, bytes ping_message not None=b'{"type":"ping"}',
        headers=None, bint deflate=False, bint keep_sessions=False, int nap_us=0, wanted=None,
        wanted_by_all=(),
    ):
        cdef Client* c = &self.c
        cdef int i
        cdef Py_ssize_t largest = MAX_CONTROL
        cdef bytes payload
        cdef int n_requests
        c.epoll_fd = -1
        if connections < 1:
            raise ValueError(f"connections must be 1 or more, not {connections}")
        if check not in _CHECKS:
            raise ValueError(f"check must be one of {', '.join(_CHECKS)}, not {check!r}")
        if n_slow < 0 or n_ping < 0 or n_slow + n_ping > connections:
            raise ValueError(f"n_slow {n_slow} and n_ping {n_ping} do not fit into {connections} connections")
        if not 0 <= nap_us < 1_000_000:
            raise ValueError(f"nap_us must be 0 to 999999, not {nap_us}")
        if n_answers < 0:
            raise ValueError(f"n_answers must be 0 or more, not {n_answers}")
        if keep_sessions and (deflate or n_slow):
            raise ValueError("keep_sessions needs greetings that come plain and connections that all read")
        if ping_interval_ms <= 0:
            raise ValueError(f"ping_interval_ms must be positive, not {ping_interval_ms}")
        self.url = url
        # Before there is memory for all of them.
        _need_descriptors(<int64_t>connections + 30)
        self._payloads = _payloads_for(subscribe, connections)
        self._wanted = {}
        key = base64.b64encode(os.urandom(16))
        self._accept = base64.b64encode(hashlib.sha1(key + _WEBSOCKET_GUID).digest())
        headers = dict(headers or {})
        if deflate:
            headers["Sec-WebSocket-Extensions"] = "permessage-deflate"
        self._request = self._resolve(url, key, headers)
        self._wait_type = wait_for.encode() if wait_for is not None else None
        self._ping = ping_message
        c.n_conns = connections
        c.n_slow = n_slow
        c.n_ping = n_ping
        c.slow_receive_buffer = slow_receive_buffer
        c.check = _CHECKS[check]
        c.is_conflated = conflated
        c.wants_deflate = deflate
        c.keeps_sessions = keep_sessions
        c.nap_us = nap_us
        c.ping_interval_us = max(1, <int64_t>(1000 * ping_interval_ms))
        c.request = PyBytes_AS_STRING(self._request)
        c.request_size = len(self._request)
        c.accept = PyBytes_AS_STRING(self._accept)
        c.accept_size = len(self._accept)
        if self._wait_type is not None:
            c.wait_type = PyBytes_AS_STRING(self._wait_type)
            c.wait_size = len(self._wait_type)
        c.ping = PyBytes_AS_STRING(ping_message)
        c.ping_size = len(ping_message)
        c.wanted = self._keys_of(frozenset(wanted_by_all))
        c.mask_state = int.from_bytes(os.urandom(4), "little") | 1
        largest = max(largest, len(ping_message), len(self._request) + QUERY_SIZE) + MAX_HEADER
        c.receive_buffer = <char*>malloc(RECEIVE_SIZE)
        c.frame_buffer = <char*>malloc(largest)
        c.events = <epoll_event*>malloc(MAX_EVENTS * sizeof(epoll_event))
        if c.receive_buffer is NULL or c.frame_buffer is NULL or c.events is NULL:
            raise MemoryError
        c.conns = <Conn*>calloc(connections, sizeof(Conn))
        if c.conns is NULL:
            raise MemoryError
        for i in range(connections):
            c.conns[i].fd = -1
            c.conns[i].group = 1 if i < n_slow else 0
            c.conns[i].stream.last_seq = NO_SEQ
            c.conns[i].last_sequence = -1
            if self._payloads:
                payload, n_requests = self._payloads[i if len(self._payloads) > 1 else 0]
                c.conns[i].subscribe = PyBytes_AS_STRING(payload)
                c.conns[i].subscribe_size = <uint32_t>len(payload)
                c.conns[i].n_answers = n_answers if n_answers else n_requests
            pairs = wanted(i) if wanted is not None else None
            if pairs is not None:
                c.conns[i].wanted = self._keys_of(frozenset(pairs))
        histogram_clear(&c.stats[0].latency, 100)
        histogram_clear(&c.stats[1].latency, 100)
        histogram_clear(&c.ping_time, 10)
        histogram_clear(&c.return_delay, 1000)

    def __dealloc__(self):
        cdef Client* c = &self.c
        cdef Hold* hold
        cdef int i
        cdef uint32_t k
        # Without connections the constructor has failed, perhaps before any number here was set.
        if c.conns is not NULL:
            for i in range(c.n_conns):
                drop(c, &c.conns[i], 1000)
                free(c.conns[i].stream.holes)
                for k in range(c.conns[i].stream_slots):
                    free(c.conns[i].streams[k].stream.holes)
                free(c.conns[i].streams)
            if c.epoll_fd >= 0:
                close(c.epoll_fd)
        while c.spare_holds is not NULL:
            hold = c.spare_holds
            c.spare_holds = hold.next
            free(hold.whole)
            free(hold)
        for i in range(c.n_symbols):
            free(c.symbols[i].key)
        free(c.symbols)
        free(c.symbol_index)
        free(c.conns)
        free(c.receive_buffer)
        free(c.frame_buffer)
        free(c.events)

    cdef Keys _keys_of(self, pairs) except *:
        """The keys of streams as `find_stream` makes them, kept for as long as this client."""
        cdef Keys keys
        cdef bytes key, joined = self._wanted.get(pairs)
        if joined is None:
            made = []
            for kind, code in pairs:
                key = kind.encode()[:127] + b"\0" + code.encode()[:127]
                made.append(int(digest_of(PyBytes_AS_STRING(key), len(key))))
            joined = b"".join([digest.to_bytes(8, sys.byteorder) for digest in sorted(made)])
            self._wanted[pairs] = joined
        keys.items = <const uint64_t*>PyBytes_AS_STRING(joined)
        keys.n = len(joined) // 8
        return keys

    cdef bytes _resolve(self, str url, bytes key, headers):
        """Fill in the address; returns the upgrade request."""
        try:
            parts = urllib.parse.urlsplit(url)
            port = parts.port or 80
        except ValueError:
            raise LoadError(f"{url!r} has no valid host and port") from None
        if parts.scheme != "ws" or not parts.hostname:
            raise LoadError(f"{url!r} is no ws:// URL; the load client speaks no TLS")
        try:
            found = socket_module.getaddrinfo(parts.hostname, port, type=socket_module.SOCK_STREAM)
        except socket_module.gaierror as error:
            raise LoadError(f"the host of {url!r} cannot be resolved: {error.strerror}") from None
        # `localhost` is often both, and servers under test listen on 127.0.0.1.
        family, _, _, _, address = min(found, key=lambda item: item[0] != socket_module.AF_INET)
        packed = socket_module.inet_pton(family, address[0])
        _fill_address(&self.c, family == socket_module.AF_INET6, packed, port)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.c.target_size = len(f"GET {target}".encode())
        self.c.has_query = bool(parts.query)
        lines = [
            f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key.decode()}", "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in headers.items()), "", "",
        ]
        return "\r\n".join(lines).encode()

    def connect(
        self, *, double timeout=30.0, int max_in_flight=100, double ramp_up=0.0, int step=1, on_progress=None
    ):
        """Open every connection: TCP, upgrade, subscription, its answer.

        At most `max_in_flight` are under way at a time; with `ramp_up` they start in steps of `step`, evenly
        over so many seconds. Data that comes meanwhile is read and counted. `on_progress` is called five times
        a second with the number of those that are open. Raises LoadError when one fails, or not all are open
        after `timeout` seconds; all are closed then.
        """
        cdef Client* c = &self.c
        if self._is_connected:
            raise LoadError("this client was connected before; make a new one")
        if max_in_flight < 1 or step < 1:
            raise ValueError(f"max_in_flight and step must be 1 or more, not {max_in_flight} and {step}")
        c.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if c.epoll_fd < 0:
            raise LoadError(f"epoll cannot be used: {os.strerror(errno)}")
        self._is_connected = True
        self._open_all(timeout, max_in_flight, ramp_up, step, on_progress)

    def cut(self):
        """Reset every connection at once. The server is told nothing, and figures stay. All must be open, and
        `keep_sessions` set."""
        cdef Client* c = &self.c
        cdef int i
        if c.n_ready < c.n_conns or c.n_live < c.n_conns:
            raise LoadError(f"only {c.n_live} of {c.n_conns} connections are open")
        for i in range(c.n_conns):
            if c.conns[i].session[0] == 0:
                raise LoadError(f"{self.url} sends no session ids in its greetings: nothing can be restored")
        with nogil:
            cut_all(c)

    def restore(self, *, double timeout=30.0, int max_in_flight=100, on_progress=None):
        """After `cut`, connect every connection again, each with its session and the last `sequence` that it has
        seen, until all are answered `reconnected`. What comes is counted and checked as going on from before.
        Raises LoadError like `connect`."""
        # Connections that have only ended are not opened again.
        if not self._is_connected or self.c.n_opened:
            raise LoadError("cut() comes before restore()")
        self.c.is_restoring = True
        self._open_all(timeout, max_in_flight, 0.0, 1, on_progress)

    cdef int _open_all(self, double timeout, int max_in_flight, double ramp_up, int step, on_progress) except -1:
        cdef Client* c = &self.c
        cdef int64_t start_us, until_us, slice_us, ramp_us = <int64_t>(ramp_up * 1e6)
        cdef int status = 0
        start_us = monotonic_us()
        until_us = start_us + <int64_t>(timeout * 1e6)
        while status == 0 and c.failure == 0 and c.n_ready < c.n_conns and monotonic_us() < until_us:
            slice_us = min(until_us, monotonic_us() + SIGNAL_CHECK_US)
            with nogil:
                status = connect_until(c, slice_us, max_in_flight, start_us, ramp_us, step)
            PyErr_CheckSignals()
            if on_progress is not None:
                on_progress(c.n_ready)
        if status == 0 and c.failure == 0 and c.n_ready == c.n_conns:
            return 0
        text = self._failure(status, timeout)
        self.close(timeout=0)
        raise LoadError(text)

    cdef str _failure(self, int status, double timeout):
        cdef Client* c = &self.c
        cdef int saved = errno
        done = f"{c.n_ready} of {c.n_conns} connections were open"
        sample = c.failure_text[:c.failure_size].decode("utf-8", "replace")
        if status < 0:
            return f"epoll failed: {os.strerror(saved)}; {done}"
        if c.failure == FAILED_CONNECT:
            hint = _CONNECT_HINTS.get(c.failure_detail, "")
            return f"cannot connect to {self.url}: {os.strerror(c.failure_detail)}{hint}; {done}"
        if c.failure == FAILED_STATUS:
            line = sample.partition("\r\n")[0]
            words = line.split()
            hint = _STATUS_HINTS.get(words[1], "") if len(words) > 1 else ""
            return f"{self.url} answered {line!r} instead of an upgrade to WebSocket{hint}; {done}"
        if c.failure == FAILED_ACCEPT:
            return f"{self.url} answered without the right Sec-WebSocket-Accept: no WebSocket server; {done}"
        if c.failure == FAILED_CLOSED:
            hint = _CLOSE_HINTS.get(c.failure_detail, "")
            return f"{self.url} closed a connection with code {c.failure_detail} before it was open{hint}; {done}"
        if c.failure == FAILED_REPLY:
            asked = "restoration of a session" if c.is_restoring else "subscription"
            hint = _ERROR_HINTS.get(_error_code(sample), "")
            return f"the {asked} was answered with {sample}{hint}; {done}"
        if c.failure == FAILED_REJECTED:
            return f"a part of the subscription was rejected: {sample}; {done}"
        if c.failure == FAILED_DEFLATE:
            return f"{self.url} did not agree to permessage-deflate; {done}"
        if c.failure == FAILED_BROKEN:
            return f"{self.url} broke the WebSocket protocol before a connection was open ({c.failure_detail}); {done}"
        if c.failure == FAILED_SYSTEM:
            return f"a system call failed: {os.strerror(c.failure_detail)}; {done}"
        return f"{done} after {timeout:g} s: the server is too slow to accept or does not answer"

    def run(self, double seconds):
        """Read for so many seconds, less when no connection is left or `stop` is called; 0 handles what has
        come. Releases the GIL."""
        cdef Client* c = &self.c
        cdef int64_t until_us, slice_us, cpu_us, delay_ns
        cdef int status = 0
        if not self._is_connected:
            raise LoadError("connect() comes before run()")
        cpu_us = fastws_clock_us(CLOCK_THREAD_CPUTIME_ID)
        delay_ns = _run_delay_ns()
        until_us = monotonic_us()
        if self._started_us == 0:
            self._started_us = until_us
        if c.next_ping_us == 0:
            c.next_ping_us = until_us
        if c.last_message_us == 0:
            c.last_message_us = until_us
        until_us += <int64_t>(seconds * 1e6)
        while True:
            slice_us = min(until_us, monotonic_us() + SIGNAL_CHECK_US)
            with nogil:
                status = run_until(c, slice_us)
            PyErr_CheckSignals()
            if status < 0 or c.n_live == 0 or self._is_stopped or monotonic_us() >= until_us:
                break
        self._is_stopped = False
        self._ended_us = monotonic_us()
        self._cpu_us += fastws_clock_us(CLOCK_THREAD_CPUTIME_ID) - cpu_us
        self._delay_ns += _run_delay_ns() - delay_ns
        if status < 0:
            raise LoadError(f"epoll failed: {os.strerror(errno)}")

    def stop(self):
        """Make this or the next `run` return within 0.2 s; may be called from any thread."""
        self._is_stopped = True

    def reset(self):
        """Forget what was counted, as at the end of a warm-up. Numbering goes on: what is missing by now is
        not counted again."""
        cdef Client* c = &self.c
        cdef Conn* conn
        cdef int i
        cdef uint32_t k
        for i in range(2):
            memset(&c.stats[i], 0, sizeof(Stats))
            histogram_clear(&c.stats[i].latency, 100)
        histogram_clear(&c.ping_time, 10)
        histogram_clear(&c.return_delay, 1000)
        c.n_pings = c.n_pings_skipped = c.n_pings_answered = c.n_pings_lost = c.n_wakeups = c.blocked_us = 0
        c.next_ping_us = c.last_wake_us = c.stall_max_us = c.stalled_us = 0
        c.last_message_us = c.stalled_then_us = c.silence_max_us = 0
        c.n_restored = c.n_recovered = c.n_missed = 0
        for i in range(c.n_conns):
            conn = &c.conns[i]
            conn.n_messages = conn.n_lost = conn.n_declared = 0
            if conn.stream.holes is not NULL:
                conn.stream.holes.n = 0
            for k in range(conn.stream_slots):
                if conn.streams[k].stream.holes is not NULL:
                    conn.streams[k].stream.holes.n = 0
                conn.streams[k].n_messages = 0
        self._started_us = self._ended_us = self._cpu_us = self._delay_ns = 0

    def close(self, *, double timeout=2.0):
        """Close every connection with code 1000 (the slow ones without a word); what the server has not
        ended after `timeout` seconds is cut. Figures stay."""
        cdef Client* c = &self.c
        cdef int64_t until_us = monotonic_us() + <int64_t>(timeout * 1e6)
        with nogil:
            close_until(c, until_us)
        if c.epoll_fd >= 0:
            close(c.epoll_fd)
            c.epoll_fd = -1

    @property
    def n_open(self):
        """Connections whose socket is open now."""
        return self.c.n_live

    def result(self):
        """The figures as a dictionary; see `fastws.bench.LoadResult`."""
        cdef Client* c = &self.c
        cdef int64_t wall_us = self._ended_us - self._started_us
        cdef double seconds = wall_us / 1e6
        cdef dict out = self._group(0, seconds)
        out["url"] = self.url
        out["seconds"] = seconds
        out["slow"] = self._group(1, seconds) if c.n_slow else None
        out["silence_max_ms"] = self._silence_us() / 1000.0
        out["ping"] = self._pings() if c.n_ping else None
        out["return_delay"] = histogram_summary(&c.return_delay) if c.return_delay.total else None
        out["restored"] = {
            "sessions": c.n_restored, "recovered": c.n_recovered, "missed": c.n_missed,
        } if c.is_restoring else None
        out["client"] = {
            "cpu_seconds": self._cpu_us / 1e6,
            "cpu_share": self._cpu_us / 1e6 / seconds if wall_us else 0.0,
            "busy_share": max(0.0, 1.0 - c.blocked_us / 1e6 / seconds) if wall_us else 0.0,
            "run_delay_seconds": self._delay_ns / 1e9,
            "wakeups": c.n_wakeups,
            "stall_max_ms": c.stall_max_us / 1000.0,
        }
        return out

    cdef int64_t _silence_us(self):
        """The longest time without a message, that at the end included."""
        cdef Client* c = &self.c
        cdef int64_t last = 0
        if c.last_message_us:
            last = self._ended_us - c.last_message_us - (c.stalled_us - c.stalled_then_us)
        return max(last, c.silence_max_us)

    cdef dict _pings(self):
        cdef Client* c = &self.c
        cdef int i
        cdef int64_t n_open = 0, oldest_us = self._ended_us
        cdef dict out = histogram_summary(&c.ping_time)
        for i in range(c.n_conns - c.n_ping, c.n_conns):
            if c.conns[i].ping_us:
                n_open += 1
                oldest_us = min(oldest_us, c.conns[i].ping_us)
        out["sent"] = c.n_pings
        out["answered"] = c.n_pings_answered
        out["skipped"] = c.n_pings_skipped
        out["open"] = n_open
        out["longest_open_ms"] = (self._ended_us - oldest_us) / 1000.0
        out["ended"] = c.n_pings_lost
        return out

    cdef dict _group(self, int group, double seconds):
        cdef Client* c = &self.c
        cdef Stats* stats = &c.stats[group]
        cdef Conn* conn
        cdef int i
        cdef int64_t undeclared = 0, fewest = -1, most = 0, n = 0, n_open = 0, n_begun = 0
        cdef dict closes = {}
        for i in range(c.n_conns):
            conn = &c.conns[i]
            if conn.group != group:
                continue
            n += 1
            n_open += conn.fd >= 0 and not conn.is_gone
            n_begun += conn.state == OPEN and is_in_message(conn)
            if conn.n_lost > conn.n_declared:
                undeclared += conn.n_lost - conn.n_declared
            if fewest < 0 or conn.n_messages < fewest:
                fewest = conn.n_messages
            if conn.n_messages > most:
                most = conn.n_messages
            if conn.close_code:
                closes[conn.close_code] = closes.get(conn.close_code, 0) + 1
        return {
            "connections": n,
            "open": n_open,
            "closes": closes,
            "messages": stats.n_messages,
            "messages_per_second": stats.n_messages / seconds if seconds else 0.0,
            "messages_per_connection": (max(fewest, 0), most),
            "snapshots": stats.n_snapshots,
            "snapshot_messages": stats.n_snapshot_messages,
            "control_messages": stats.n_control,
            "binary_messages": stats.n_binary,
            "compressed_messages": stats.n_compressed,
            "shutdowns": stats.n_shutdowns,
            "frames": stats.n_frames,
            "bytes": stats.n_bytes,
            "bytes_per_second": stats.n_bytes / seconds if seconds else 0.0,
            "receives": stats.n_receives,
            "lost": stats.n_lost,
            "declared_lost": stats.n_declared,
            "undeclared_lost": undeclared,
            "overflows": stats.n_overflows,
            "duplicates": stats.n_duplicates,
            "reordered": stats.n_reordered,
            "conflated": stats.n_conflated,
            "sequence_backwards": stats.n_sequence_backwards,
            "errors": stats.n_errors,
            "first_error": _sample(stats.error_text, stats.error_size),
            "unparsed": stats.n_unparsed,
            "first_unparsed": _sample(stats.unparsed_text, stats.unparsed_size),
            "untimed": stats.n_untimed,
            "protocol_violations": stats.n_violations,
            "bad_texts": stats.n_bad_text,
            "numbered": stats.n_numbered,
            "unnumbered": stats.n_unnumbered,
            "unwanted": stats.n_unwanted,
            "unfinished": stats.n_unfinished,
            "begun": n_begun,
            "early": round(stats.n_early),
            "earliest_ms": stats.earliest_us / 1000.0,
            "overlong": round(stats.n_overlong),
            "latency": histogram_summary(&stats.latency),
            "slowest_at": stats.slowest_at_us / 1e6 if stats.slowest_at_us else None,
        }

    def latencies(self, *, bint slow=False):
        """The latency histogram: (upper edge in ms, number of messages) per bucket that is not empty,
        rising."""
        return [(us / 1000.0, n) for us, n in histogram_buckets(&self.c.stats[1 if slow else 0].latency)]

    def streams(self, int index):
        """What the full check knows of connection `index`, by (message type, code): `seq` of the newest
        message, how many came since the last reset (`messages`), its `price` as text or None, and a
        `digest` of the message without its numbers."""
        cdef Conn* conn
        cdef Entry* entry
        cdef Symbol* symbol
        cdef uint32_t k
        cdef dict out = {}
        if not 0 <= index < self.c.n_conns:
            raise IndexError(f"there is no connection {index}")
        conn = &self.c.conns[index]
        for k in range(conn.stream_slots):
            entry = &conn.streams[k]
            if entry.symbol < 0:
                continue
            symbol = &self.c.symbols[entry.symbol]
            key = symbol.key[:symbol.key_size].decode("utf-8", "replace")
            out[tuple(key.split("\0", 1))] = {
                "seq": entry.stream.last_seq,
                "messages": entry.n_messages,
                "price": entry.price[:entry.price_size].decode() if entry.price_size else None,
                "digest": entry.digest,
            }
        return out


_PORTS_HINT = " (no local port is left for so many connections: net.ipv4.ip_local_port_range)"
_LIMIT_HINT = " (a limit of connections on the server: per user, per address or in all)"
_TOKEN_HINT = " (the token is missing, wrong or has expired)"
_CONNECT_HINTS = {
    ECONNREFUSED: " (is the server running there?)", EADDRNOTAVAIL: _PORTS_HINT,
}
_STATUS_HINTS = {
    "400": " (does it speak TLS? the load client does not)",
    "401": _TOKEN_HINT,
    "403": " (not allowed: the Origin, or the address)",
    "404": " (no WebSocket at this path)",
    "426": " (no WebSocket at this path)",
    "429": " (too many handshakes or connections from this address: handshake_rate, connections_per_ip)",
    "503": " (the server is stopping, or full)",
}
_CLOSE_HINTS = {1006: " (without a word)", 4401: _TOKEN_HINT, 4429: _LIMIT_HINT}
_ERROR_HINTS = {
    "INVALID_TOKEN": _TOKEN_HINT,
    "AUTH_REQUIRED": " (the server wants a token)",
    "SESSION_RESTORATION_FAILED": " (was it kept for too short a time?)",
}


def _error_code(sample):
    """The code of an `error`, of which the beginning is at hand; empty when it has none."""
    return sample.partition('"code":"')[2].partition('"')[0]


cdef list _payloads_for(subscribe, int n):
    """One payload for all, one for each, or none: the frames as they are sent, and how many they are."""
    cdef dict made = {}
    if subscribe is None:
        return []
    if isinstance(subscribe, (bytes, str)):
        items = [subscribe]
    elif callable(subscribe):
        items = [subscribe(i) for i in range(n)]
    else:
        items = list(subscribe)
        if len(items) != n:
            raise ValueError(f"subscribe has {len(items)} payloads for {n} connections")
    rows = []
    for item in items:
        key = item if isinstance(item, tuple) else (item,)
        if key not in made:
            texts = [text.encode() if isinstance(text, str) else bytes(text) for text in key]
            made[key] = b"".join([_frame(text) for text in texts]), len(texts)
        rows.append(made[key])
    return rows


def _frame(bytes text):
    """A final text frame, masked as those of clients must be (RFC 6455 section 5.3)."""
    n = len(text)
    mask = os.urandom(4)
    whole = int.from_bytes((mask * (n // 4 + 1))[:n], "little") ^ int.from_bytes(text, "little")
    if n < 126:
        size = bytes([0x80 | n])
    elif n < 65536:
        size = b"\xfe" + n.to_bytes(2, "big")
    else:
        size = b"\xff" + n.to_bytes(8, "big")
    return b"\x81" + size + mask + whole.to_bytes(n, "little")


cdef void _fill_address(Client* c, bint is_v6, bytes packed, int port):
    cdef sockaddr_in* v4 = <sockaddr_in*>&c.address
    cdef sockaddr_in6* v6 = <sockaddr_in6*>&c.address
    if is_v6:
        v6.sin6_family = AF_INET6
        v6.sin6_port = htons(<uint16_t>port)
        memcpy(&v6.sin6_addr, PyBytes_AS_STRING(packed), 16)
        c.address_size = sizeof(sockaddr_in6)
    else:
        v4.sin_family = AF_INET
        v4.sin_port = htons(<uint16_t>port)
        memcpy(&v4.sin_addr, PyBytes_AS_STRING(packed), 4)
        c.address_size = sizeof(sockaddr_in)


cdef object _sample(const char* text, int size):
    return text[:size].decode("utf-8", "replace") if size else None


def _need_descriptors(n):
    """Raise the soft limit of open files as far as needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= n:
        return
    if hard != resource.RLIM_INFINITY and hard < n:
        raise LoadError(
            f"{n} open files are needed and {hard} allowed: raise the limit (ulimit -Hn {n})"
            " or use fewer connections"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))


cdef int64_t _run_delay_ns() except -1:
    """How long this thread has waited for a processor while it could run; 0 where the kernel does not tell.
    """
    try:
        with open("/proc/thread-self/schedstat") as file:
            return int(file.read().split()[1])
    except OSError:
        return 0
