"""Messages addressed to users, kept for those of their connections that are away. Sans-IO."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple

DEFAULT_LIMIT: Final = 100_000


class Kept(NamedTuple):
    """A message that was published under `sequence`, at `published_ms` (Unix epoch), and its payload."""

    sequence: int
    published_ms: int
    payload: Any


class _Letter(NamedTuple):
    user_key: str
    kept: Kept
    kept_at: float


class Mailboxes:
    """What was addressed to users lately, the oldest first.

    1. A message is kept for `ttl` seconds; at most `limit_per_user` of a user are kept, and `limit` in all. Beyond,
       the oldest go.
    2. It may be looked at as often as there are sessions that have missed it.

    Times are those of any one monotonic clock, in seconds, passed in by the caller; sequences rise.
    """

    def __init__(self, *, ttl: float, limit_per_user: int, limit: int = DEFAULT_LIMIT) -> None:
        self.ttl = ttl
        self.limit_per_user = limit_per_user
        self.limit = limit
        self._letters: dict[int, _Letter] = {}
        self._by_user: dict[str, deque[int]] = {}

    def __len__(self) -> int:
        return len(self._letters)

    def keep(self, user_key: str, kept: Kept, now: float) -> None:
        """Keep a message for a user; its sequence is higher than that of any before."""
        self.expire(now)
        if self.limit_per_user <= 0:
            return
        self._letters[kept.sequence] = _Letter(user_key, kept, now)
        sequences = self._by_user.setdefault(user_key, deque())
        sequences.append(kept.sequence)
        while len(sequences) > self.limit_per_user:
            del self._letters[sequences.popleft()]
        while len(self._letters) > self.limit:
            self._drop_oldest()

    def of(self, user_key: str, now: float) -> list[Kept]:
        """Return what is kept for a user, in order."""
        self.expire(now)
        return [self._letters[sequence].kept for sequence in self._by_user.get(user_key, ())]

    def expire(self, now: float) -> None:
        """Forget the messages whose time is over."""
        while self._letters:
            letter = next(iter(self._letters.values()))
            if now - letter.kept_at < self.ttl:
                return
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        # The oldest of all is the oldest of its user.
        letter = self._letters.pop(next(iter(self._letters)))
        sequences = self._by_user[letter.user_key]
        sequences.popleft()
        if not sequences:
            del self._by_user[letter.user_key]
