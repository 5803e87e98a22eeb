"""How many connections there may be, in all and by address, and how fast they may come. Sans-IO.

What clients are told apart by, a key, is the caller's; here it is a text.
"""

from __future__ import annotations

import math
from typing import Final, Protocol

import msgspec

# Buckets in one generation. One process does not complete so many handshakes in a second.
MAX_KEYS: Final = 1 << 16

_SECOND_NS: Final = 1_000_000_000


class Excess(msgspec.Struct, frozen=True):
    """A limit that is reached: the setting that it is, its value, and how many there are."""

    setting: str
    limit: int
    current: int
    retry_after: int = 1

    @property
    def message(self) -> str:
        """A sentence for people."""
        return _MESSAGES[self.setting].format(self.limit)


class Elsewhere(Protocol):
    """Connections of other processes that have the same limits."""

    @property
    def n_connections(self) -> int: ...

    def of_key(self, key: str, /) -> int: ...

    def add(self, key: str, n: int, /) -> None:
        """Hear that there are `n` more here."""


class _Nowhere:
    n_connections = 0

    def of_key(self, key: str) -> int:
        return 0

    def add(self, key: str, n: int) -> None:
        pass


_MESSAGES: Final = {
    "connection_limit": "The server has the {} connections that it may have; try again later",
    "connections_per_ip": "An address may have {} connections; close one first",
    "handshake_rate": "An address may open {} connections a second; wait a moment",
}


class Buckets:
    """Token buckets by key: `rate` tokens a second, and bursts as large.

    1. A bucket is one number, the moment at which it will be full (GCRA, ITU-T I.371 annex A); one that is full
       need not be remembered.
    2. An empty bucket is full after a second. So there are two generations, and each second the older one, in which
       nothing was touched for a second, is forgotten as a whole.
    3. No generation has more than `max_keys`. With more keys in a second than that, buckets are forgotten early.

    Times are those of any one monotonic clock, in nanoseconds, passed in by the caller.
    """

    __slots__ = ("_current", "_previous", "_turned_ns", "max_keys", "rate")

    def __init__(self, rate: int, *, max_keys: int = MAX_KEYS) -> None:
        """`rate` 0 means no limit; it may be set anew at any time."""
        self.rate = rate
        self.max_keys = max_keys
        self._current: dict[str, int] = {}
        self._previous: dict[str, int] = {}
        self._turned_ns = 0

    def __len__(self) -> int:
        return len(self._current) + len(self._previous)

    def wait(self, key: str, now_ns: int) -> float:
        """Seconds until the bucket has a token, 0 when it has one; no token is taken."""
        if self.rate == 0:
            return 0.0
        return max(0, self._after_taking(key, now_ns) - now_ns - _SECOND_NS) / _SECOND_NS

    def take(self, key: str, now_ns: int) -> float:
        """Take a token and return 0, or return how many seconds it is until there is one."""
        seconds = self.wait(key, now_ns)
        if seconds == 0.0 and self.rate:
            self._turn(now_ns)
            self._current[key] = self._after_taking(key, now_ns)
        return seconds

    def _after_taking(self, key: str, now_ns: int) -> int:
        full_at_ns = self._current.get(key)
        if full_at_ns is None:
            full_at_ns = self._previous.get(key, 0)
        return max(full_at_ns, now_ns) + _SECOND_NS // self.rate

    def _turn(self, now_ns: int) -> None:
        age_ns = now_ns - self._turned_ns
        if age_ns < _SECOND_NS and len(self._current) < self.max_keys:
            return
        self._previous = {} if age_ns >= 2 * _SECOND_NS else self._current
        self._current = {}
        self._turned_ns = now_ns


class Limits:
    """Counts connections by address and in all.

    1. A WebSocket connection is there from :meth:`arrive` to :meth:`depart`. As long as it is being found out who it
       is, and while it is told that there is no room, it is a guest; :meth:`admit` makes it one that counts.
    2. At most `connection_limit` count, and at most `connections_per_ip` of one key; a limit of 0 is none. Limits
       that are lowered end no connection, they let none come.
    3. Guests do not count, so that a client can take its session over from a connection that only looks alive, and
       so that whoever is refused is told why. But no handshake is granted once all together are over a limit by a
       tenth of it (at least 8): a flood of refusals then costs lines of HTTP, and no connections.
    4. :meth:`handshake` charges every handshake to its key, `handshake_rate` in a second.
    5. Connections that wait for a request are counted elsewhere: `half_open_per_ip` of a key are spared, and those
       that are not are noted here.
    6. Tokens that are not accepted over HTTP, where every request may bring one, are charged in the same manner, but
       to buckets of their own: see :meth:`token_wait`.
    7. Where several processes serve one port, connections are counted together with those `elsewhere`, and rates by
       each of them.
    """

    def __init__(
        self,
        *,
        connection_limit: int = 0,
        connections_per_ip: int = 0,
        handshake_rate: int = 0,
        half_open_per_ip: int = 0,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.connection_limit = connection_limit
        self.connections_per_ip = connections_per_ip
        self.half_open_per_ip = half_open_per_ip
        self._elsewhere = elsewhere or _Nowhere()
        self._handshakes = Buckets(handshake_rate)
        self._bad_tokens = Buckets(handshake_rate)
        # Also kept where there is no limit, so that one can be set while the server runs.
        self._by_key: dict[str, int] = {}
        self._guests_by_key: dict[str, int] = {}
        self.n_admitted = 0
        self.n_guests = 0
        self.refusals = {
            "connection_limit": 0,
            "connections_per_ip": 0,
            "handshake_rate": 0,
            "half_open_per_ip": 0,
            "connections_per_user": 0,
        }

    @property
    def n_addresses(self) -> int:
        """Different keys among those that count."""
        return len(self._by_key)

    def update(
        self,
        *,
        connection_limit: int,
        connections_per_ip: int,
        handshake_rate: int,
        half_open_per_ip: int = 0,
    ) -> None:
        """Go on with other limits."""
        self.connection_limit = connection_limit
        self.connections_per_ip = connections_per_ip
        self.half_open_per_ip = half_open_per_ip
        self._handshakes.rate = self._bad_tokens.rate = handshake_rate

    def handshake(self, key: str, now_ns: int) -> Excess | None:
        """Charge a handshake; returns why it is not granted."""
        rate = self._handshakes.rate
        if seconds := self._handshakes.take(key, now_ns):
            return self._refused(Excess("handshake_rate", rate, rate, math.ceil(seconds)))
        if self.connection_limit:
            n_admitted = self.n_admitted + self._elsewhere.n_connections
            if n_admitted + self.n_guests >= _ceiling(self.connection_limit):
                return self._refused(Excess("connection_limit", self.connection_limit, n_admitted, 5))
        if self.connections_per_ip:
            n_admitted = self._by_key.get(key, 0) + self._elsewhere.of_key(key)
            if n_admitted + self._guests_by_key.get(key, 0) >= _ceiling(self.connections_per_ip):
                return self._refused(Excess("connections_per_ip", self.connections_per_ip, n_admitted, 5))
        return None

    def arrive(self, key: str) -> None:
        """Note a new guest."""
        self.n_guests += 1
        self._guests_by_key[key] = self._guests_by_key.get(key, 0) + 1

    def admit(self, key: str, *, n_leaving: int = 0, n_leaving_of_key: int = 0) -> Excess | None:
        """Count a guest from now on, or return why there is no room for it.

        `n_leaving` connections, of which `n_leaving_of_key` have this key, will make room as soon as it is admitted.
        """
        if self.connection_limit:
            n = self.n_admitted - n_leaving + self._elsewhere.n_connections
            if n >= self.connection_limit:
                return self._refused(Excess("connection_limit", self.connection_limit, n))
        if self.connections_per_ip:
            n = self._by_key.get(key, 0) - n_leaving_of_key + self._elsewhere.of_key(key)
            if n >= self.connections_per_ip:
                return self._refused(Excess("connections_per_ip", self.connections_per_ip, n))
        _subtract(self._guests_by_key, key)
        self._by_key[key] = self._by_key.get(key, 0) + 1
        self.n_guests -= 1
        self.n_admitted += 1
        self._elsewhere.add(key, 1)
        return None

    def dismiss(self, key: str) -> None:
        """Count an admitted connection no more; it is on its way out."""
        self.n_admitted -= 1
        self._elsewhere.add(key, -1)
        _subtract(self._by_key, key)
        self.arrive(key)

    def depart(self, key: str, *, is_admitted: bool) -> None:
        """Note the end of a connection, which is admitted or a guest."""
        if is_admitted:
            self.dismiss(key)
        self.n_guests -= 1
        _subtract(self._guests_by_key, key)

    def note_half_open(self) -> None:
        """Note a connection that was closed because too many of its key wait for a request."""
        self.refusals["half_open_per_ip"] += 1

    def token_wait(self, key: str, now_ns: int) -> int:
        """Seconds for which no token of this key's is looked at, because too many were bad; 0: look at it."""
        return math.ceil(self._bad_tokens.wait(key, now_ns))

    def note_bad_token(self, key: str, now_ns: int) -> None:
        """Charge a token that was not accepted."""
        self._bad_tokens.take(key, now_ns)

    def note_refused_user(self) -> None:
        """Count a connection that its user may not have on top; users are counted elsewhere."""
        self.refusals["connections_per_user"] += 1

    def _refused(self, excess: Excess) -> Excess:
        self.refusals[excess.setting] += 1
        return excess


def _ceiling(limit: int) -> int:
    return limit + max(8, limit // 10)


def _subtract(counts: dict[str, int], key: str) -> None:
    n = counts[key] - 1
    if n:
        counts[key] = n
    else:
        del counts[key]
