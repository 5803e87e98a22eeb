"""What is published here, on its way to the others; and what of it they ask for again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from fastws._core import Dialect, Hub
from fastws._relay import INSTEAD, REPEATED, Outgoing, relabel
from fastws.relay.channels import Channels
from fastws.relay.control import ControlError, GapRequest, ValuesRequest
from fastws.relay.counts import RelayCounts
from fastws.relay.links import AnyLink
from fastws.relay.ring import SentRing

# While Redis is away nothing is in a hurry, and what has waited is over sooner as few and full envelopes. When it is
# there, an announcement brings along what is left.
_AWAY_SECONDS: Final = 0.2
_BUSY_SIZE: Final = 8 << 20
# Nobody needs the same last values twice within this.
_ANSWER_AGAIN_SECONDS: Final = 0.2


class Sending:
    """Sends what the hub publishes: the first after a quiet moment at the end of that turn of the loop, and then one
    envelope every `interval` seconds and shard, fewer while Redis is away. Belongs to the thread of the event loop.
    """

    def __init__(
        self,
        hub: Hub,
        dialect: Dialect,
        link: AnyLink,
        channels: Channels,
        counts: RelayCounts,
        *,
        origin: int,
        n_shards: int,
        interval: float,
        history_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self.hub = hub
        self.n_shards = n_shards
        self._link = link
        self._channels = channels
        self._counts = counts
        self._clock = clock
        self._interval = interval
        self._outgoing = Outgoing(
            hub,
            dialect,
            origin=origin,
            n_shards=n_shards,
            on_filled=self._on_filled,
            logger=logging.getLogger("fastws.relay"),
        )
        self._ring = SentRing(n_shards, history_bytes)
        self._answered: dict[tuple[int, int], float] = {}
        self._timer: asyncio.Handle | None = None
        self._flushed_at = 0.0

    @property
    def ring_size(self) -> int:
        return self._ring.size

    def start(self) -> None:
        self.hub.attach(self._outgoing)

    def stop(self) -> None:
        """Send what is left, and take no more."""
        self.flush()
        self.hub.attach(None)

    def positions(self) -> list[int]:
        """Those of the last updates that were sent, per shard."""
        self.flush()
        return self._outgoing.positions()

    def flush(self) -> None:
        if self._timer is not None:
            # What it was for leaves now; what comes next is waited for anew.
            self._timer.cancel()
            self._timer = None
        self._flushed_at = self.hub.loop.time()
        for shard, first, n, envelope in self._outgoing.envelopes():
            self._ring.add(shard, first, n, envelope)
            self._link.send(self._channels.shard(shard), envelope)
            self._counts.envelopes["sent"] += 1
            self._counts.updates["sent"] += n
            self._counts.bytes["sent"] += len(envelope)

    def repeat(self, request: GapRequest) -> None:
        """Send what somebody has missed, or else the last values.

        Raises:
            ControlError: there is no such shard.
        """
        if request.shard >= self.n_shards:
            raise ControlError(f"there is no shard {request.shard}")
        if self._link.queue_size > _BUSY_SIZE:
            # What is repeated would drive out what is new. It is asked for again, or given up.
            return
        self.flush()
        found = self._ring.find(request.shard, request.first, request.last)
        inbox = self._channels.inbox(request.origin)
        for envelope in found:
            self._link.send(inbox, relabel(envelope, REPEATED, envelope is found[-1]))
        if not found:
            for envelope in self._outgoing.last_values(request.shard, INSTEAD):
                self._link.send(inbox, envelope)

    def hand_out(self, request: ValuesRequest) -> None:
        """Send somebody the last values of shards, one shard per turn of the loop."""
        self.flush()
        for shard in request.shards:
            if shard < self.n_shards:
                self.hub.loop.call_soon(self._hand_out_shard, request.origin, shard)

    def forget_answers(self, now: float) -> None:
        """Forget what was handed out too long ago to matter."""
        self._answered = {key: at for key, at in self._answered.items() if now - at < _ANSWER_AGAIN_SECONDS}

    def _on_filled(self) -> None:
        loop = self.hub.loop
        interval = self._interval if self._link.is_up else max(self._interval, _AWAY_SECONDS)
        wait = self._flushed_at + interval - loop.time()
        if wait <= 0:
            # The first after a quiet moment: with all else that this turn of the loop publishes.
            self._timer = loop.call_soon(self.flush)
        else:
            self._timer = loop.call_later(wait, self.flush)

    def _hand_out_shard(self, origin: int, shard: int) -> None:
        now = self._clock()
        if now - self._answered.get((origin, shard), -1.0) < _ANSWER_AGAIN_SECONDS:
            return
        self._answered[origin, shard] = now
        self.flush()
        self._counts.values["handed_out"] += 1
        for envelope in self._outgoing.last_values(shard):
            self._link.send(self._channels.inbox(origin), envelope)
