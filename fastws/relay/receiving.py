"""What other instances have published, put in order; and what of it is asked for again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from fastws._core import Hub
from fastws._relay import REPEATED, EnvelopeError, read_envelope
from fastws.relay.carrier import Carrier
from fastws.relay.channels import Channels
from fastws.relay.control import GapRequest, ValuesRequest, encode
from fastws.relay.counts import RelayCounts
from fastws.relay.interest import ShardInterest
from fastws.relay.links import AnyLink
from fastws.relay.peers import Peers
from fastws.relay.streams import Arrived, Stream

# Of origins, each as many times as there are shards: of those that are there, and of strangers.
_MAX_ORIGINS: Final = 1024
# What is known of updates by their numbers, of all origins together.
_MAX_NUMBERS: Final = 2_000_000

MAX_HELD_SIZE: Final = 32 << 20
"""Bytes of memory for what is held back behind gaps, of all origins together; of more, gaps are given up early: those
of the stream that holds back most."""

# After how long last values are asked for again that have not come.
_ASK_AGAIN_SECONDS: Final = 1.0


class Receiving:
    """The streams of all origins in the shards that are listened to. Belongs to the thread of the event loop.

    `on_values` is called whenever an origin's last values of a shard have come that were wanted.
    """

    def __init__(
        self,
        hub: Hub,
        carrier: Carrier,
        link: AnyLink,
        channels: Channels,
        interest: ShardInterest,
        peers: Peers,
        counts: RelayCounts,
        *,
        origin: int,
        n_shards: int,
        clock: Callable[[], float],
    ) -> None:
        self.hub = hub
        self.n_shards = n_shards
        self.on_values: Callable[[], object] = lambda: None
        self._origin = origin
        self._carrier = carrier
        self._link = link
        self._channels = channels
        self._interest = interest
        self._peers = peers
        self._counts = counts
        self._clock = clock
        self._streams: dict[tuple[int, int], Stream] = {}
        self._asked: dict[tuple[int, int], float] = {}
        self._asking: asyncio.Handle | None = None
        self._n_numbers = 0
        self._held_size = 0

    @property
    def held_size(self) -> int:
        """Bytes of memory for what is held back behind gaps."""
        return self._held_size

    @property
    def n_with_gaps(self) -> int:
        return sum(stream.has_gap for stream in self._streams.values())

    def stop(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    def origins(self) -> set[int]:
        """Those of which something has come."""
        return {origin for origin, _ in self._streams}

    def has_values(self, origin: int, shard: int) -> bool:
        """Whether nothing of what the origin has published last in the shard is missing here."""
        stream = self._streams.get((origin, shard))
        return stream is not None and not stream.wants_values

    def positions(self) -> list[tuple[int, int, int]]:
        """How far it is: (origin, shard, position of the last update whose turn it was)."""
        return [
            (origin, shard, stream.next - 1)
            for (origin, shard), stream in self._streams.items()
            if stream.next  # something was heard of it
        ]

    def has_reached(self, origin: int, shard: int, position: int) -> bool:
        """Whether nothing up to this position is missing here."""
        stream = self._streams.get((origin, shard))
        return stream is not None and stream.next > position

    def take(self, data: bytes) -> None:
        """Take an envelope of another origin.

        Raises:
            EnvelopeError: it is none, or none of this cluster.
        """
        envelope = read_envelope(data)
        self._counts.envelopes["received"] += 1
        self._counts.bytes["received"] += len(data)
        if envelope.n_shards != self.n_shards:
            raise EnvelopeError(
                f"it is of {envelope.n_shards} shards, and there are {self.n_shards} here: "
                "set relay_shards to the same on all instances"
            )
        if envelope.shard not in self._interest.shards:
            return
        if envelope.kind == REPEATED:
            self._counts.envelopes["repeated"] += 1
        now = self._clock()
        if (envelope.origin, envelope.shard) not in self._streams and len(
            self._streams
        ) >= _MAX_ORIGINS * self.n_shards:
            raise EnvelopeError("it is of one instance too many")
        stream = self._stream(envelope.origin, envelope.shard)
        wanted_values = stream.wants_values
        self._publish(stream, stream.receive(envelope, len(data), now))
        if self._n_numbers > _MAX_NUMBERS:
            # Nobody has so many; what is published goes by its stamps all the same.
            self._n_numbers -= stream.n_numbers
            stream.forget_numbers()
        if stream.has_gap:
            self._close_gap(stream, envelope.origin, envelope.shard, now)
            self._make_room(now)
        if wanted_values and not stream.wants_values:
            self.on_values()

    def announced(self, origin: int, positions: list[int]) -> None:
        """Hear from an origin which updates it has sent last, per shard."""
        now = self._clock()
        for shard in self._interest.shards:
            stream = self._streams.get((origin, shard))
            if stream is not None:
                before = stream.n_numbers, stream.held_size
                stream.announced(positions[shard], now)
                self._count(stream, before)

    def look_after_gaps(self, now: float) -> None:
        """Ask for what is missing, or give it up, where it is time for that."""
        for (origin, shard), stream in list(self._streams.items()):
            if stream.wants_values and now >= self._asked.get((origin, shard), 0.0):
                self.ask_soon()
            self._close_gap(stream, origin, shard, now)

    def ask_soon(self) -> None:
        """Ask for what is wanted, at the end of this turn of the loop: more may come to be wanted in it."""
        if self._asking is None:
            self._asking = self.hub.loop.call_soon(self._ask_for_values)

    def give_up(self, origin: int) -> None:
        """Wait no longer for what is missing of an origin."""
        for (one, _), stream in list(self._streams.items()):
            if one == origin:
                self._publish(stream, stream.give_up(self._clock()))

    def end(self, origin: int) -> None:
        """Nothing comes of this origin any more."""
        self._carrier.forget(origin)
        self._drop([key for key in self._streams if key[0] == origin])

    def leave_out(self, shards: list[int]) -> None:
        """Nothing comes of these shards any more."""
        self._drop([key for key in self._streams if key[1] in shards])

    def _drop(self, keys: list[tuple[int, int]]) -> None:
        for key in keys:
            stream = self._streams.pop(key)
            self._n_numbers -= stream.n_numbers
            self._held_size -= stream.held_size
            self._asked.pop(key, None)

    def _make_room(self, now: float) -> None:
        """Give up gaps early, where too much is held back behind them."""
        while self._held_size > MAX_HELD_SIZE:
            stream = max(self._streams.values(), key=lambda stream: stream.held_size)
            if not stream.has_gap:
                raise AssertionError("something is held back, and not behind a gap")
            self._publish(stream, stream.give_up(now))
            self.ask_soon()

    def _close_gap(self, stream: Stream, origin: int, shard: int, now: float) -> None:
        gap = stream.due(now)
        if gap is None:
            return
        if gap.is_given_up:
            self._publish(stream, stream.give_up(now))
            self.ask_soon()
        else:
            request = GapRequest(self._origin, shard, gap.first, gap.last)
            self._link.send(self._channels.inbox(origin), encode(request))

    def _ask_for_values(self) -> None:
        self._asking = None
        now = self._clock()
        for peer in self._peers:
            shards = []
            for shard in self._interest.shards:
                key = peer.origin, shard
                if not self._link.is_listening(self._channels.shard(shard)):
                    continue
                if self._stream(*key).wants_values and now >= self._asked.get(key, 0.0):
                    self._asked[key] = now + _ASK_AGAIN_SECONDS
                    shards.append(shard)
            if shards:
                self._counts.values["asked_for"] += len(shards)
                self._link.send(
                    self._channels.inbox(peer.origin), encode(ValuesRequest(self._origin, shards))
                )

    def _stream(self, origin: int, shard: int) -> Stream:
        try:
            return self._streams[origin, shard]
        except KeyError:
            stream = self._streams[origin, shard] = Stream()
            return stream

    def _publish(self, stream: Stream, arrived: Iterator[Arrived]) -> None:
        before = stream.n_numbers, stream.held_size
        try:
            for one in arrived:
                self._carrier.publish(one)
        finally:
            self._count(stream, before)

    def _count(self, stream: Stream, before: tuple[int, int]) -> None:
        """Reckon with what a stream has become, of which `before` were the numbers and what it had held back."""
        self._n_numbers += stream.n_numbers - before[0]
        self._held_size += stream.held_size - before[1]
        seen, given_up = stream.take_counts()
        self._counts.gaps["seen"] += seen
        self._counts.gaps["given_up"] += given_up
