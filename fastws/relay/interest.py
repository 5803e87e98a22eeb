"""Which shards an instance listens to. Sans-IO; the clock is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

LINGER_SECONDS: Final = 60.0
"""For how long a shard is listened to at least that nobody wants any more: people come back to what they looked at."""


class ShardInterest:
    """The shards that are wanted, each until `linger` seconds after it was wanted last.

    That is at least for as long as sessions are kept: what their clients have missed is to be here.
    """

    def __init__(self, n_shards: int, clock: Callable[[], float], linger: float = LINGER_SECONDS) -> None:
        self.n_shards = n_shards
        self.linger = linger
        self._clock = clock
        self._until: dict[int, float] = {}

    @property
    def shards(self) -> frozenset[int]:
        return frozenset(self._until)

    def want(self, shards: Iterable[int]) -> list[int]:
        """Want `shards` now; returns those that were not wanted before."""
        until = self._clock() + self.linger
        added = []
        for shard in shards:
            if shard not in self._until:
                added.append(shard)
            self._until[shard] = until
        return added

    def expired(self) -> list[int]:
        """Forget the shards that nobody has wanted for long, and return them."""
        now = self._clock()
        gone = [shard for shard, until in self._until.items() if until < now]
        for shard in gone:
            del self._until[shard]
        return gone
