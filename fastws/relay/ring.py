"""The envelopes that were sent last, for those who have missed some. Sans-IO."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Sent(NamedTuple):
    """An envelope with the positions `first` to `last`."""

    first: int
    last: int
    envelope: bytes


class SentRing:
    """Keeps envelopes of all shards up to `limit` bytes in all; the oldest go first."""

    def __init__(self, n_shards: int, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._shards: list[deque[Sent]] = [deque() for _ in range(n_shards)]
        # The shards of all that is kept, in the order in which it was sent.
        self._order: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def add(self, shard: int, first: int, n: int, envelope: bytes) -> None:
        self._shards[shard].append(Sent(first, first + n - 1, envelope))
        self._order.append(shard)
        self.size += len(envelope)
        while self.size > self.limit and self._order:
            oldest = self._shards[self._order.popleft()].popleft()
            self.size -= len(oldest.envelope)

    def find(self, shard: int, first: int, last: int) -> list[bytes]:
        """Return the envelopes that hold the positions `first` to `last`; empty where not all of them are kept."""
        kept = self._shards[shard]
        if not kept or first < kept[0].first or last > kept[-1].last or first > last:
            return []
        return [sent.envelope for sent in kept if sent.last >= first and sent.first <= last]
