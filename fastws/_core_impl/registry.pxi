cdef class Registry:
    """Every open connection: how it comes and goes, the look at each once a second, and figures of them all.

    1. A connection is borrowed; it leaves the array when it has ended, and the last one takes its place.
    2. Where very many end together, some wait for their turn, see `depart`.
    """

    def __dealloc__(self):
        free(self.connections)

    cdef int add_connection(self, Connection connection) except -1:
        cdef uint32_t size
        cdef PyObject** grown
        if self.n_connections == self.connections_size:
            size = 64 if self.connections_size == 0 else self.connections_size * 2
            grown = <PyObject**>realloc(self.connections, size * sizeof(PyObject*))
            if grown is NULL:
                raise MemoryError
            self.connections = grown
            self.connections_size = size
        connection.registry_index = self.n_connections
        self.connections[self.n_connections] = <PyObject*>connection
        self.n_connections += 1
        self.n_accepted += 1
        self.meters.opened[connection.dialect.name] = self.meters.opened.get(connection.dialect.name, 0) + 1
        return 0

    cdef int remove_connection(self, Connection connection) except -1:
        cdef PyObject* moved
        if self.connections[connection.registry_index] != <PyObject*>connection:
            raise AssertionError("a connection was finished twice")
        self.n_connections -= 1
        moved = self.connections[self.n_connections]
        self.connections[connection.registry_index] = moved
        (<Connection>moved).registry_index = connection.registry_index
        self.n_published += connection.n_published
        self.n_delivered += connection.n_delivered
        self.n_conflated += connection.n_conflated
        self.n_lost += connection.n_lost
        self.n_declared += connection.n_declared
        self.n_undelivered += (
            connection.n_published - connection.n_delivered - connection.n_conflated - connection.n_lost
        )
        return 0

    cdef int depart(self, Connection connection) except -1:
        """Have a connection take its leave: now, or when it is its turn where very many do.

        What a connection leaves behind takes 10 us and more to put in order, and a proxy that dies takes thousands
        along in one turn of the loop.
        """
        cdef int64_t now = monotonic_ns()
        if not self.is_parting:
            self.is_parting = True
            self.parting_until_ns = now + SLICE_NS
            self.loop.call_soon(self._part)
        if self.departing or now >= self.parting_until_ns:
            self.departing.append(connection)
            return 0
        return connection.part()

    cdef int part_until(self, int64_t until_ns) except -1:
        cdef Connection connection
        cdef Py_ssize_t i = 0
        while i < len(self.departing) and monotonic_ns() < until_ns:
            connection = <Connection>self.departing[i]
            i += 1
            try:
                connection.part()
            except Exception:
                self.logger.exception("ending a connection failed")
        del self.departing[:i]
        return 0

    def _part(self):
        self.is_parting = False
        self.part_until(monotonic_ns() + SLICE_NS)
        if self.departing:
            # What else ends in this turn waits behind them.
            self.is_parting = True
            self.loop.call_soon(self._part)

    cdef int count_close(self, int code) except -1:
        self.closes[code] = self.closes.get(code, 0) + 1
        return 0

    def connection_list(self):
        """Every live connection."""
        cdef uint32_t i
        return [<Connection>self.connections[i] for i in range(self.n_connections)]

    def _sweep(self):
        cdef int64_t now = monotonic_ns()
        cdef uint32_t i = self.sweep_slot
        cdef Connection connection
        observe(&self.meters.loop_lag, now - self.sweep_due_ns)
        self.loop_lag_ms += 0.1 * ((now - self.sweep_due_ns) / <double>MS - self.loop_lag_ms)
        if now - self.sweep_due_ns > 1000 * MS:
            # The whole process stood still, so nobody was heard: the time does not count against the clients.
            for i in range(self.n_connections):
                (<Connection>self.connections[i]).excuse(now - self.sweep_due_ns)
            i = self.sweep_slot
        self.sweep_slot = (self.sweep_slot + 1) % SWEEP_SLOTS
        self.sweep_due_ns += SWEEP_NS
        if self.sweep_due_ns < now:
            self.sweep_due_ns = now + SWEEP_NS
        # Before anything can fail: without it nobody would be pinged or timed out any more.
        self.sweep_timer = self.loop.call_later((self.sweep_due_ns - now) * 1e-9, self._sweep)
        if FASTWS_DEBUG:
            self.check_books()
        while i < self.n_connections:
            connection = <Connection>self.connections[i]
            try:
                connection.sweep(now)
            except Exception:
                self.logger.exception("looking after a connection failed")
                connection.abort(1011, "internal error")
            # One that ended has given its place to the last one, which is looked at next.
            if i < self.n_connections and self.connections[i] == <PyObject*>connection:
                i += SWEEP_SLOTS

    # Figures.

    def n_by_dialect(self):
        """Open connections by dialect: dict[str, int]."""
        cdef uint32_t i
        cdef dict counts = dict.fromkeys(self.meters.opened, 0)
        for i in range(self.n_connections):
            counts[(<Connection>self.connections[i]).dialect.name] += 1
        return counts

    def queued_messages(self):
        """Application messages in the outboxes of all connections now."""
        cdef uint32_t i
        cdef int64_t n = 0
        cdef Connection connection
        for i in range(self.n_connections):
            connection = <Connection>self.connections[i]
            if connection.is_blocked or connection.outbox is not None:
                n += connection.queued_messages
        return n

    def queued_bytes(self):
        """Bytes in the outboxes and transports of all connections now."""
        cdef uint32_t i
        cdef int64_t n = 0
        for i in range(self.n_connections):
            if (<Connection>self.connections[i]).is_blocked:
                n += (<Connection>self.connections[i]).queued_size()
        return n

    def outboxes(self):
        """What waits for slow clients now: sums and maxima over the connections.

        Returns dict: `blocked` connections, `bytes`, `messages`, `max_bytes`, `max_messages`.
        """
        cdef uint32_t i
        cdef Connection connection
        cdef int64_t n_blocked = 0, n_bytes = 0, n_messages = 0, max_bytes = 0, max_messages = 0, n
        for i in range(self.n_connections):
            connection = <Connection>self.connections[i]
            if not connection.is_blocked and connection.outbox is None:
                continue
            n_blocked += connection.is_blocked
            n = connection.queued_size()
            n_bytes += n
            max_bytes = max(max_bytes, n)
            n = connection.queued_messages
            n_messages += n
            max_messages = max(max_messages, n)
        return {
            "blocked": n_blocked,
            "bytes": n_bytes,
            "messages": n_messages,
            "max_bytes": max_bytes,
            "max_messages": max_messages,
        }

    cdef int check_books(self) except -1:
        """In a debug build, ten times a second: the laws of the ledger hold; see `Audit`."""
        faults = self.audit()["faults"]
        if faults:
            count_live("Fault", 1)
            self.logger.error("the ledger does not add up: %s", "; ".join(faults))
        return 0

    def ledger(self):
        """The conservation law over all connections that ever were:

        published = delivered + conflated + lost + undelivered + waiting.
        """
        cdef uint32_t i
        cdef Connection connection
        cdef int64_t published = self.n_published, delivered = self.n_delivered
        cdef int64_t conflated = self.n_conflated, lost = self.n_lost
        cdef int64_t waiting = 0
        for i in range(self.n_connections):
            connection = <Connection>self.connections[i]
            published += connection.n_published
            delivered += connection.n_delivered
            conflated += connection.n_conflated
            lost += connection.n_lost
            waiting += (
                connection.n_published - connection.n_delivered - connection.n_conflated - connection.n_lost
            )
        return {
            "published": published,
            "delivered": delivered,
            "conflated": conflated,
            "lost": lost,
            "undelivered": self.n_undelivered,
            "waiting": waiting,
        }
