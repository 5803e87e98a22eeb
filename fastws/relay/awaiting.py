"""Which shards clients want, and who waits until they are heard."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final

from fastws._core import Hub
from fastws._relay import shard_of
from fastws.market.market import Market
from fastws.relay.channels import Channels
from fastws.relay.failures import guarded
from fastws.relay.interest import ShardInterest
from fastws.relay.links import AnyLink
from fastws.relay.peers import Peers
from fastws.relay.receiving import Receiving

WAIT_SECONDS: Final = 0.5
"""How long an answer to a client may wait for the relay."""

# After Redis is there, peers have so long to say that they are; see `Awaiting.missing`.
_MEETING_SECONDS: Final = 0.15


class Awaiting:
    """Listens to what clients want, and lets them wait for it. Belongs to the thread of the event loop.

    `wanted` says which codes are looked at here, for whatever reason. `up_since` is when Redis came to be there, None
    while it is away.
    """

    def __init__(
        self,
        hub: Hub,
        market: Market,
        link: AnyLink,
        channels: Channels,
        interest: ShardInterest,
        peers: Peers,
        receiving: Receiving,
        *,
        wanted: Callable[[], Iterable[str]],
        clock: Callable[[], float],
    ) -> None:
        self.hub = hub
        self.market = market
        self.n_shards = interest.n_shards
        self._link = link
        self._channels = channels
        self._interest = interest
        self._peers = peers
        self._receiving = receiving
        self._wanted = wanted
        self._clock = clock
        self._waiters: list[tuple[float, frozenset[int], Callable[[], None]]] = []
        self.up_since: float | None = None
        self._down_since: float | None = None

    @property
    def state_seconds(self) -> float:
        """For how long Redis is there by now, or away."""
        since = self._down_since if self.up_since is None else self.up_since
        return 0.0 if since is None else self._clock() - since

    def note_down(self) -> None:
        """Redis is away."""
        if self._down_since is None:
            self._down_since = self._clock()
            self.up_since = None

    def note_up(self) -> float:
        """Redis is there; returns for how many seconds it was not."""
        now = self._clock()
        away = 0.0 if self._down_since is None else now - self._down_since
        self._down_since, self.up_since = None, now
        return away

    def missing(self, kind: str, names: Iterable[str]) -> frozenset[int]:
        """Want topics from now on, and return what is still to be heard of them before their values are here.

        It is empty where there is nothing to wait for, also because Redis is away.
        """
        shards = self.shards_of(kind, names)
        self._listen(self._interest.want(shards))
        return self._missing_of(shards)

    def missing_of_peer(self, origin: int) -> frozenset[int]:
        """Want everything from now on, and return what one instance has not told yet, which may not even be there."""
        shards = range(self.n_shards)
        self._listen(self._interest.want(shards))
        if not self._link.is_up or self._peers.get(origin) is None:
            return frozenset(shards)
        return frozenset(
            shard
            for shard in shards
            if not self._link.is_listening(self._channels.shard(shard))
            or not self._receiving.has_values(origin, shard)
        )

    def when_heard(
        self, missing: frozenset[int], then: Callable[[], None], seconds: float = WAIT_SECONDS
    ) -> None:
        """Call `then` once nothing of `missing` is missing, at the latest after `seconds`."""
        self._waiters.append((self._clock() + seconds, missing, then))

    def is_missing(self, shards: frozenset[int]) -> bool:
        """Whether one of these is still not heard, also because Redis is away."""
        return not self._link.is_up or bool(self._missing_of(shards))

    def release(self) -> None:
        """Let go on who has waited long enough, or for what is here."""
        if not self._waiters:
            return
        now = self._clock()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            deadline, shards, then = waiter
            if now >= deadline or not self._missing_of(shards):
                guarded(then)
            else:
                self._waiters.append(waiter)

    def release_all(self) -> None:
        """Let everyone go on: there is nothing to wait for any more."""
        waiters, self._waiters = self._waiters, []
        for _, _, then in waiters:
            guarded(then)

    def refresh(self) -> None:
        """Listen to what is wanted now, and not any more to what was wanted long ago."""
        shards = {shard_of(code, self.n_shards) for code in self._wanted()}
        for (kind, name), topic in list(self.hub.topics.items()):
            if kind == "market" and topic.n_subscribers:
                shards.add(shard_of(name, self.n_shards))
        self._listen(self._interest.want(shards))
        if gone := self._interest.expired():
            self._link.ignore(self._channels.shard(shard) for shard in gone)
            self._receiving.leave_out(gone)

    @property
    def is_meeting(self) -> bool:
        """Whether it is not known yet who else is there: Redis is to be there soon, or is since a moment ago."""
        now = self._clock()
        if self.up_since is not None:
            return now - self.up_since < _MEETING_SECONDS
        return self._down_since is not None and now - self._down_since < WAIT_SECONDS

    def _missing_of(self, shards: Collection[int]) -> frozenset[int]:
        if self.is_meeting:
            return frozenset(shards)
        if not self._link.is_up:
            # Later than at the start its absence delays nobody.
            return frozenset()
        return frozenset(shard for shard in shards if not self._is_heard(shard))

    def _is_heard(self, shard: int) -> bool:
        return self._link.is_listening(self._channels.shard(shard)) and all(
            self._receiving.has_values(peer.origin, shard) for peer in self._peers
        )

    def shards_of(self, kind: str, names: Iterable[str]) -> set[int]:
        """The shards of what these topics are made of."""
        if kind == "stock":
            return {shard_of(name, self.n_shards) for name in names}
        shards: set[int] = set()
        instruments = self.market.instruments
        for name in names:
            if kind == "market":
                shards.add(shard_of(name, self.n_shards))
                members = instruments.members_of_market(name)
            elif kind == "sector":
                members = instruments.members_of_sector(name)
            else:
                continue  # portfolios are valued here; their codes are among those that `wanted` tells
            for instrument in members:
                shards.add(shard_of(instrument.code, self.n_shards))
                if len(shards) == self.n_shards:
                    return shards
        return shards

    def _listen(self, shards: Collection[int]) -> None:
        if shards:
            self._link.listen(self._channels.shard(shard) for shard in shards)
