"""Messages addressed to users, kept for those of their connections that are away. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any, Final, NamedTuple

DEFAULT_LIMIT: Final = 100_000
# Messages forgotten in one call, which is about a millisecond.
_MAX_FORGOTTEN: Final = 1000


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
    3. One that nobody has heard yet may be taken out instead, to be told anew. It may also be entrusted to somebody who
       is to tell it: until that has happened, or it is taken back, nobody else tells it.
    4. A call forgets a thousand at most for their age; the rest go with the next calls, and are not to be had.

    Times are those of any one monotonic clock, in seconds, passed in by the caller; sequences rise.
    """

    def __init__(self, *, ttl: float, limit_per_user: int, limit: int = DEFAULT_LIMIT) -> None:
        self.ttl = ttl
        self.limit_per_user = limit_per_user
        self.limit = limit
        # A dictionary that loses its front would be searched through for it, this one is not.
        self._letters: OrderedDict[int, _Letter] = OrderedDict()
        self._by_user: dict[str, deque[int]] = {}
        self._untold: set[int] = set()
        self._entrusted: set[int] = set()

    def __len__(self) -> int:
        return len(self._letters)

    def keep(self, user_key: str, kept: Kept, now: float, *, is_told: bool = True) -> None:
        """Keep a message for a user; its sequence is higher than that of any before."""
        self.expire(now)
        if self.limit_per_user <= 0:
            return
        self._letters[kept.sequence] = _Letter(user_key, kept, now)
        if not is_told:
            self._untold.add(kept.sequence)
        sequences = self._by_user.setdefault(user_key, deque())
        sequences.append(kept.sequence)
        while len(sequences) > self.limit_per_user:
            oldest = sequences.popleft()
            del self._letters[oldest]
            self.note_told(oldest)
        while len(self._letters) > self.limit:
            self._drop_oldest()

    def of(self, user_key: str, now: float) -> list[Kept]:
        """Return what is kept for a user, in order."""
        self.expire(now)
        letters = [self._letters[sequence] for sequence in self._by_user.get(user_key, ())]
        return [letter.kept for letter in letters if now - letter.kept_at < self.ttl]

    def note_told(self, sequence: int) -> None:
        """Somebody has heard a message, which need not be kept any more."""
        self._untold.discard(sequence)
        self._entrusted.discard(sequence)

    def entrust(self, sequence: int) -> None:
        """Somebody else is to tell a message, if nobody has heard it yet."""
        if sequence in self._untold:
            self._untold.remove(sequence)
            self._entrusted.add(sequence)

    def take_back(self, sequence: int) -> None:
        """Nobody has said that a message was told that was entrusted to somebody."""
        if sequence in self._entrusted:
            self._entrusted.remove(sequence)
            self._untold.add(sequence)

    def take_untold(self, user_key: str, now: float) -> list[Kept]:
        """Return what nobody has heard of what is kept for a user, in order, and keep it no longer."""
        if not self._untold:
            return []
        taken = [kept for kept in self.of(user_key, now) if kept.sequence in self._untold]
        for kept in taken:
            self._untold.remove(kept.sequence)
            del self._letters[kept.sequence]
            self._by_user[user_key].remove(kept.sequence)
        if taken and not self._by_user[user_key]:
            del self._by_user[user_key]
        return taken

    def expire(self, now: float) -> None:
        """Forget the messages whose time is over."""
        for _ in range(min(_MAX_FORGOTTEN, len(self._letters))):
            letter = next(iter(self._letters.values()))
            if now - letter.kept_at < self.ttl:
                return
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        # The oldest of all is the oldest of its user.
        sequence, letter = self._letters.popitem(last=False)
        self.note_told(sequence)
        sequences = self._by_user[letter.user_key]
        sequences.popleft()
        if not sequences:
            del self._by_user[letter.user_key]
