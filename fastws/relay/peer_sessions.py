"""What is known of the sessions of other instances. Sans-IO; times are given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fastws.relay.session_messages import Reached, SessionLeft

# What an entry takes beside its subscriptions and its user: measured with tracemalloc.
_ENTRY_SIZE = 330
_LEFT_SIZE = 300


class Left(NamedTuple):
    """What an instance that has gone has left of a session; see `SessionsLeft`."""

    epoch: str
    positions: list[Reached]
    session: SessionLeft


class PeerSession:
    """A session of `origin`. `expires_at`: None while its connection is open there. `subscriptions` is a list of
    `fastws.relay.session_messages.Group` as it came.

    `heard` is the number of the hub when it was heard of last, `lost_at` when its holder was not there any more, None
    as long as it is. `left` is what that has left of it, if it could.
    """

    __slots__ = (
        "expires_at",
        "generation",
        "heard",
        "is_paused",
        "key",
        "left",
        "lost_at",
        "moves",
        "origin",
        "subscriptions",
        "user_key",
    )

    def __init__(
        self,
        key: bytes,
        origin: int,
        moves: int,
        user_key: str | None,
        is_paused: bool,
        expires_at: float | None,
        subscriptions: bytes,
        heard: int,
    ) -> None:
        self.key = key
        self.origin = origin
        self.moves = moves
        self.user_key = user_key
        self.is_paused = is_paused
        self.expires_at = expires_at
        self.subscriptions = subscriptions
        self.heard = heard
        self.generation = 0
        self.lost_at: int | None = None
        self.left: Left | None = None

    @property
    def is_orphan(self) -> bool:
        """Whether its holder is not there any more."""
        return self.lost_at is not None

    @property
    def size(self) -> int:
        left = 0 if self.left is None else _LEFT_SIZE + len(bytes(self.left.session.state))
        return _ENTRY_SIZE + len(self.subscriptions) + len(self.user_key or "") + left


class PeerSessions:
    """The sessions of other instances by key, as far as `limit` bytes hold them; beyond, the oldest are forgotten.

    1. Of two that say they hold a session, it is with the one to which it has moved more often, and else with the
       higher origin. The other one hears that, and gives it up.
    2. A session whose holder is gone stays for as long as it could have been restored there, from then on if its
       connection was open.
    3. What a holder does not name when it names all its sessions is not there any more.
    4. What a holder that goes has left of a session is the last that it says of it, unless it moved once more.

    Times are those of any one monotonic clock, in seconds.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.n_dropped = 0
        self._sessions: dict[bytes, PeerSession] = {}
        # When an instance has begun to name all its sessions, counted over all of them.
        self._generation = 0
        self._generations: dict[int, int] = {}
        self._orphans: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[PeerSession]:
        return iter(list(self._sessions.values()))

    def get(self, key: bytes, now: float) -> PeerSession | None:
        found = self._sessions.get(key)
        if found is not None and found.expires_at is not None and now >= found.expires_at:
            self.drop(key)
            return None
        return found

    def has_orphan_of(self, user_key: str) -> bool:
        """Whether a session of this user waits whose holder is gone."""
        return user_key in self._orphans

    def put(self, session: PeerSession) -> bool:
        """Note how a session is; False: another instance has it."""
        known = self._sessions.get(session.key)
        if known is not None:
            if known.origin != session.origin and (known.moves, known.origin) > (
                session.moves,
                session.origin,
            ):
                return False
            if known.origin == session.origin and known.left is not None and session.moves <= known.moves:
                known.generation = self._generations.get(known.origin, 0)
                return True
            # It stands behind those that were heard of before.
            self.drop(session.key)
        session.generation = self._generations.get(session.origin, 0)
        self._sessions[session.key] = session
        self.size += session.size
        self._keep_to_limit()
        return True

    def remove(self, origin: int, key: bytes) -> None:
        """`origin` has a session no longer."""
        known = self._sessions.get(key)
        if known is not None and known.origin == origin:
            self.drop(key)

    def drop(self, key: bytes) -> None:
        if (known := self._sessions.pop(key, None)) is not None:
            self._note_gone(known)

    def begin_all(self, origin: int) -> None:
        """An instance begins to name all its sessions."""
        self._generation += 1
        self._generations[origin] = self._generation

    def end_all(self, origin: int) -> None:
        """It has named them."""
        generation = self._generations.get(origin, 0)
        for session in self:
            if session.origin == origin and session.generation != generation:
                self.drop(session.key)

    def lose(self, origin: int, now: float, ttl: float, number: int) -> None:
        """An instance is gone: its sessions wait for their clients for `ttl` seconds, those that ended before less.

        `number` is that of the hub.
        """
        self._generations.pop(origin, None)
        for session in self._sessions.values():
            if session.origin == origin and not session.is_orphan:
                self._orphan(session, now, ttl, number)

    def leave(self, key: bytes, origin: int, left: Left, now: float, ttl: float, number: int) -> None:
        """The same for one session of an instance that goes, with what that says of it."""
        session = self._sessions.get(key)
        if session is not None and session.origin == origin and not session.is_orphan:
            self.size -= session.size
            session.left = left
            self.size += session.size
            self._orphan(session, now, ttl, number)
            self._keep_to_limit()

    def _orphan(self, session: PeerSession, now: float, ttl: float, number: int) -> None:
        session.lost_at = number
        if session.expires_at is None:
            session.expires_at = now + ttl
        if session.user_key is not None:
            self._orphans[session.user_key] = self._orphans.get(session.user_key, 0) + 1

    def _keep_to_limit(self) -> None:
        while self.size > self.limit and self._sessions:
            self.drop(next(iter(self._sessions)))
            self.n_dropped += 1

    def expire(self, now: float) -> None:
        """Forget the sessions whose time is over."""
        for session in self:
            if session.expires_at is not None and now >= session.expires_at:
                self.drop(session.key)

    def _note_gone(self, session: PeerSession) -> None:
        self.size -= session.size
        if session.is_orphan and session.user_key is not None:
            self._orphans[session.user_key] -= 1
            if not self._orphans[session.user_key]:
                del self._orphans[session.user_key]
