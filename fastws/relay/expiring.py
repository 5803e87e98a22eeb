"""What is remembered for a while only. Sans-IO; times are given."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Expiring(Generic[Key, Value]):
    """Values by key, each for `seconds` from when it was put, as far as `limit` bytes hold them; beyond, the oldest go.

    Times are those of any one monotonic clock, in seconds.
    """

    def __init__(self, *, seconds: float, limit: int) -> None:
        self.seconds = seconds
        self.limit = limit
        self.size = 0
        # By when they are over: one that is put again goes to the end. A dictionary that loses its front would be
        # searched through for it, this one is not.
        self._entries: OrderedDict[Key, tuple[float, int, Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: Key, value: Value, size: int, now: float) -> list[Value]:
        """Remember `value`, which takes `size` bytes, from now on and in place of what was there.

        Returns what is forgotten for it; see :meth:`expire`.
        """
        self.pop(key, now)
        self._entries[key] = now + self.seconds, size, value
        self.size += size
        return self.expire(now)

    def get(self, key: Key, now: float) -> Value | None:
        """Return a value that is not over, None if there is none."""
        found = self._entries.get(key)
        return None if found is None or now >= found[0] else found[2]

    def pop(self, key: Key, now: float) -> Value | None:
        """The same, and remember it no more."""
        found = self._entries.pop(key, None)
        if found is None:
            return None
        self.size -= found[1]
        return None if now >= found[0] else found[2]

    def expire(self, now: float) -> list[Value]:
        """Forget what is over, and the oldest of what is too much; returns those."""
        gone = []
        while self._entries:
            key, (until, size, value) = next(iter(self._entries.items()))
            if now < until and self.size <= self.limit:
                break
            del self._entries[key]
            self.size -= size
            gone.append(value)
        return gone
