"""What a client held when its connection ended, kept so that it can go on with another one. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from fastws._core import Channel, Options, Topic

# A session is about as large as its subscriptions: some 100 bytes each.
DEFAULT_LIMIT: Final = 100_000
# Of the limit, what one owner may have: many clients may share an address, and none may push out everybody's.
_OWNER_SHARE: Final = 10
_MIN_PER_OWNER: Final = 100
# Sessions forgotten in one call, which is about a millisecond.
_MAX_FORGOTTEN: Final = 1000


class HandedState(msgspec.Struct, frozen=True):
    """What another instance that held a session has said of what its client has missed.

    `marks` tell how far the client is (see `Hub.marks`), None: nobody knows. `since` is the number of the hub when the
    other one was asked. `n_missed` updates were published for the client, as far as the other one knows; `alerts` were
    addressed to its user.
    """

    marks: list[tuple[Channel, int, int]] | None
    since: int
    n_missed: int
    alerts: list[Any]


class Session(msgspec.Struct, frozen=True, gc=False):
    """A connection that ended.

    `cursor` is the number up to which everything was handed to the kernel, -1 when that is not known; it counts in
    `epoch`. `heard` is that number for what is addressed to the user, but for the numbers in `owed`, which came while
    it was paused. `user_key` is None for a client without a token, which is known by `address_key` then.

    `moves` counts how often it has gone from one instance to another. `is_moved`: it has come from another one and was
    not used here yet, so what its client has counted is of another epoch; `handed` is what that instance has said, None
    if it could not be asked. `was_open`: its connection there may still be counted as one of the user's.
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
    address_key: str = ""
    moves: int = 0
    is_moved: bool = False
    handed: HandedState | None = None
    was_open: bool = False

    @property
    def owner(self) -> tuple[str | None, str]:
        """Whose share of the sessions it counts to: its user's, or its address's where there is none."""
        return self.user_key, "" if self.user_key is not None else self.address_key


class Sessions:
    """Ended sessions by id, the oldest first.

    1. A session is kept for `ttl` seconds from its end, and at most `limit` of them; beyond, the oldest go.
    2. Of one user, or of one address without a token, at most a tenth of `limit` are kept (at least 100); beyond, its
       own oldest go.
    3. It is given back once, and only to its own user.
    4. A call forgets a thousand at most, so where very many end at once, or a limit is lowered, the rest go with the
       next calls. None is given back after its time.
    5. `on_change` is called with the id of each session that comes or goes.

    Times are those of any one monotonic clock, in seconds, passed in by the caller.
    """

    def __init__(self, *, ttl: float = 300.0, limit: int = DEFAULT_LIMIT) -> None:
        self.ttl = ttl
        self.limit = limit
        # Dictionaries that lose their front would be searched through for it, these are not.
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._by_owner: dict[tuple[str | None, str], OrderedDict[str, None]] = {}
        self.on_change: Callable[[str], object] = lambda session_id: None

    def __len__(self) -> int:
        return len(self._sessions)

    def save(self, session: Session) -> None:
        """Keep a session; one of the same id that was kept before is replaced."""
        self.expire(session.saved_at)
        if session.session_id in self._sessions:
            self._drop(session.session_id)
        self._sessions[session.session_id] = session
        mine = self._by_owner.setdefault(session.owner, OrderedDict())
        mine[session.session_id] = None
        self.on_change(session.session_id)
        for _ in range(min(_MAX_FORGOTTEN, len(mine) - max(_MIN_PER_OWNER, self.limit // _OWNER_SHARE))):
            self._drop(next(iter(mine)))
        for _ in range(min(_MAX_FORGOTTEN, len(self._sessions) - self.limit)):
            self._drop(next(iter(self._sessions)))

    def has_user(self, user_key: str) -> bool:
        """Whether a session of this user is kept; also one whose time is over and which is not forgotten yet."""
        return (user_key, "") in self._by_owner

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

    def ids(self) -> Iterator[str]:
        """Of all that are kept, also of those whose time is over and which are not forgotten yet."""
        yield from list(self._sessions)

    def look(self, session_id: str, now: float) -> Session | None:
        """Return a session that stays where it is."""
        session = self._sessions.get(session_id)
        return None if session is None or now - session.saved_at >= self.ttl else session

    def discard(self, session_id: str) -> None:
        """Forget a session, if it is kept."""
        if session_id in self._sessions:
            self._drop(session_id)

    def expire(self, now: float) -> None:
        """Forget the sessions whose time is over."""
        for _ in range(min(_MAX_FORGOTTEN, len(self._sessions))):
            session = next(iter(self._sessions.values()))
            if now - session.saved_at < self.ttl:
                return
            self._drop(session.session_id)

    def _drop(self, session_id: str) -> None:
        owner = self._sessions.pop(session_id).owner
        mine = self._by_owner[owner]
        del mine[session_id]
        if not mine:
            del self._by_owner[owner]
        self.on_change(session_id)
