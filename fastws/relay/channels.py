"""How the channels of a cluster are called. Sans-IO."""

from __future__ import annotations


class Channels:
    """Names: one channel that all instances listen to, one that those do which have sessions, one for each shard, and
    an inbox for each origin.

    `prefix` and `database` keep clusters apart that share a Redis. Their common hash tag puts all of them on one node
    of a Redis cluster.
    """

    def __init__(self, prefix: str, database: int, n_shards: int) -> None:
        self._space = f"{{{prefix}:{database}}}"
        self.control = f"{self._space}:control"
        self.sessions = f"{self._space}:sessions"
        self._shards = tuple(f"{self._space}:shard:{shard}/{n_shards}" for shard in range(n_shards))
        self._known_shards = frozenset(self._shards)

    def shard(self, shard: int) -> str:
        return self._shards[shard]

    def inbox(self, origin: int) -> str:
        return f"{self._space}:to:{origin:016x}"

    def is_of_shard(self, channel: str) -> bool:
        return channel in self._known_shards
