"""What a client held when its connection ended, kept so that it can go on with another one. Sans-IO."""

from __future__ import annotations

from typing import Final

import msgspec

from fastws._core import Options, Topic

# A session is about as large as its subscriptions: some 100 bytes each.
DEFAULT_LIMIT: Final = 100_000


class Session(msgspec.Struct, frozen=True, gc=False):
    """A connection that ended.

    `cursor` is the number up to which everything was handed to the kernel, -1 when that is not known; it counts in
    `epoch`. `heard` is that number for what is addressed to the user, but for the numbers in `owed`, which came while
    it was paused. `user_key` is None for a client without a token.
    """

    session_id: str
    user_key: str | None
    subscriptions: dict[Topic, Options]
    is_paused: bool
    cursor: int
    epoch: str
    saved_at: float
    heard: int = 0
    owed: tuple[int, ...] = ()


class Sessions:
    """Ended sessions by id, the oldest first.

    1. A session is kept for `ttl` seconds from its end, and at most `limit` of them; beyond, the oldest go.
    2. It is given back once, and only to its own user.

    Times are those of any one monotonic clock, in seconds, passed in by the caller.
    """

    def __init__(self, *, ttl: float = 300.0, limit: int = DEFAULT_LIMIT) -> None:
        self.ttl = ttl
        self.limit = limit
        self._sessions: dict[str, Session] = {}
        self._n_by_user: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def save(self, session: Session) -> None:
        """Keep a session; one of the same id that was kept before is replaced."""
        self.expire(session.saved_at)
        if session.session_id in self._sessions:
            self._drop(session.session_id)
        self._sessions[session.session_id] = session
        if session.user_key is not None:
            self._n_by_user[session.user_key] = self._n_by_user.get(session.user_key, 0) + 1
        while len(self._sessions) > self.limit:
            self._drop(next(iter(self._sessions)))

    def has_user(self, user_key: str) -> bool:
        """Whether a session of this user is kept; also one whose time is over and which is not forgotten yet."""
        return user_key in self._n_by_user

    def take(self, session_id: str, user_key: str | None, now: float) -> Session | str:
        """Return the session and forget it, or say why not: "expired or unknown" or "not the user's"."""
        self.expire(now)
        session = self._sessions.get(session_id)
        # One that was given back in vain stands behind younger ones.
        if session is None or now - session.saved_at >= self.ttl:
            return "expired or unknown"
        if session.user_key != user_key:
            return "not the user's"
        self._drop(session_id)
        return session

    def expire(self, now: float) -> None:
        """Forget the sessions whose time is over."""
        while self._sessions:
            session = next(iter(self._sessions.values()))
            if now - session.saved_at < self.ttl:
                return
            self._drop(session.session_id)

    def _drop(self, session_id: str) -> None:
        key = self._sessions.pop(session_id).user_key
        if key is not None:
            self._n_by_user[key] -= 1
            if not self._n_by_user[key]:
                del self._n_by_user[key]
