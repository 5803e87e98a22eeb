"""The relay of one instance: hands on what is published here, and publishes here what others hand on."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

import structlog

from fastws._core import Dialect, Hub
from fastws._market import BookUpdate, MarketStatus, PriceUpdate
from fastws._relay import (
    INSTEAD,
    KIND_BOOK,
    KIND_PRICE,
    KIND_STATUS,
    REPEATED,
    EnvelopeError,
    Outgoing,
    read_envelope,
    relabel,
    shard_of,
)
from fastws.logs import log_limited
from fastws.market.instruments import MAX_INSTRUMENTS
from fastws.market.market import Market
from fastws.relay.address import RedisAddress
from fastws.relay.control import (
    Announcement,
    ControlError,
    FeedState,
    GapRequest,
    Kick,
    UserAlert,
    ValuesRequest,
    decode,
    encode,
)
from fastws.relay.delays import Delays
from fastws.relay.interest import ShardInterest
from fastws.relay.links import Link
from fastws.relay.peers import Peer, Peers
from fastws.relay.ring import SentRing
from fastws.relay.streams import Arrived, Stream

WAIT_SECONDS: Final = 0.5
"""How long an answer to a client may wait for the relay."""

_TICK_SECONDS: Final = 0.05
_ANNOUNCE_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 1.0
_QUEUE_SIZE: Final = 16 << 20
# After Redis is there, peers have so long to say that they are; see `Relay.missing`.
_MEETING_SECONDS: Final = 0.15
# For how long it is remembered what was heard of an origin that is not heard any more: it may be cut off.
_GONE_SECONDS: Final = 900.0
# Nobody needs the same last values twice within this.
_ANSWER_AGAIN_SECONDS: Final = 0.2

_MESSAGES: Final = {KIND_PRICE: "price_update", KIND_BOOK: "orderbook_update", KIND_STATUS: "market_status"}

_log = structlog.get_logger("fastws.relay")


class RelayCounts:
    """What has passed, for metrics; all but the gauges only grow."""

    def __init__(self) -> None:
        self.envelopes = {"sent": 0, "received": 0, "repeated": 0}
        self.updates = {"sent": 0, "received": 0, "outdated": 0, "missed": 0, "refused": 0}
        self.bytes = {"sent": 0, "received": 0}
        self.refused = 0
        self.gaps = {"seen": 0, "given_up": 0}
        self.values = {"asked_for": 0, "handed_out": 0}


class Relay:
    """Joins this instance to the others. Belongs to the thread of the event loop.

    `wanted` says which codes are looked at here, for whatever reason, and is asked every second. `name` is for people.

    1. Local publishing and local clients wait for nothing that happens here.
    2. What comes from other instances is input: what cannot be read is counted and left out.
    3. An update of another instance is published here once, and never over a newer value; see the package.
    """

    def __init__(
        self,
        hub: Hub,
        market: Market,
        dialect: Dialect,
        address: RedisAddress,
        *,
        name: str,
        prefix: str,
        n_shards: int,
        interval_ms: int,
        history_bytes: int,
        wanted: Callable[[], Iterable[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hub = hub
        self.market = market
        self.name = name
        self.address = address
        self.n_shards = n_shards
        self.counts = RelayCounts()
        self.origin = secrets.randbits(62) + 1
        self.peers = Peers(clock)
        # What others say that is no market's matter; and what this one says of itself every second.
        self.on_kick: Callable[[Kick], object] = lambda kick: None
        self.on_alert: Callable[[UserAlert], object] = lambda alert: None
        self.on_feed: Callable[[str, str], object] = lambda feed, status: None
        self.figures: Callable[[], dict[str, int]] = dict
        self.feeds: Callable[[], dict[str, FeedState]] = dict
        self._origin_bytes = self.origin.to_bytes(8, "little")
        self._clock = clock
        self._wanted = wanted
        self._interval = interval_ms / 1000
        self._space = f"{{{prefix}:{address.database}}}"
        self._shard_of_channel = {self._shard_channel(shard): shard for shard in range(n_shards)}
        self._outgoing = Outgoing(
            hub,
            dialect,
            origin=self.origin,
            n_shards=n_shards,
            on_filled=self._on_filled,
            logger=logging.getLogger("fastws.relay"),
        )
        self._ring = SentRing(n_shards, history_bytes)
        self._interest = ShardInterest(n_shards, clock)
        self._streams: dict[tuple[int, int], Stream] = {}
        self._asked: dict[tuple[int, int], float] = {}
        # Origins that were not heard any more, and since when.
        self._gone: dict[int, float] = {}
        self._answered: dict[tuple[int, int], float] = {}
        self._waiters: list[tuple[float, frozenset[int], Callable[[], None]]] = []
        self._flush_timer: asyncio.Handle | None = None
        self._flushed_at = 0.0
        self._up_since: float | None = None
        self._down_since: float | None = None
        self._asking: asyncio.Handle | None = None
        self._task: asyncio.Task[None] | None = None
        self.link = Link(
            address,
            on_message=self._on_message,
            on_change=self._on_change,
            on_listening=self._on_listening,
            delays=Delays,
            queue_limit=_QUEUE_SIZE,
        )

    # Life.

    def start(self) -> None:
        self.hub.attach(self._outgoing)
        self._down_since = self._clock()
        self.link.listen([self._control_channel, self._inbox(self.origin)])
        self._refresh_interest()
        self.link.start()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Hand on what is left, say good-bye, and disconnect."""
        self._flush()
        self.hub.attach(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for timer in (self._flush_timer, self._asking):
            if timer is not None:
                timer.cancel()
        self._flush_timer = self._asking = None
        self._announce(leaving=True)
        await self.link.stop(_STOP_SECONDS)
        waiters, self._waiters = self._waiters, []
        for _, _, then in waiters:
            then()

    @property
    def is_up(self) -> bool:
        """Whether Redis is there."""
        return self.link.is_up

    @property
    def n_streams_with_gaps(self) -> int:
        return sum(stream.has_gap for stream in self._streams.values())

    @property
    def shards(self) -> frozenset[int]:
        """What is listened to."""
        return self._interest.shards

    @property
    def ring_size(self) -> int:
        return self._ring.size

    async def _run(self) -> None:
        announce_at = 0.0
        while True:
            try:
                now = self._clock()
                if now >= announce_at:
                    announce_at = now + _ANNOUNCE_SECONDS
                    self._every_second(now)
                self._look_after_gaps(now)
                self._release()
            except Exception:
                # A fault of ours, which must not be the end of the relay.
                log_limited(_log, "relay-failed", "the relay failed", level="error", exc_info=True)
            await asyncio.sleep(_TICK_SECONDS)

    def _every_second(self, now: float) -> None:
        self._refresh_interest()
        if self.link.is_up:
            self._announce()
            for peer in self.peers.lost():
                self._forget(peer, "it is not heard any more", is_over=False)
            for origin in [each for each, at in self._gone.items() if now - at > _GONE_SECONDS]:
                self._end(origin)
        self._answered = {key: at for key, at in self._answered.items() if now - at < _ANSWER_AGAIN_SECONDS}

    # What clients want.

    def missing(self, kind: str, names: Iterable[str]) -> frozenset[int]:
        """Want topics from now on, and return what is still to be heard of them before their values are here.

        It is empty where there is nothing to wait for, also because Redis is away.
        """
        shards = self._shards_of(kind, names)
        self._listen(self._interest.want(shards))
        return self._missing_of(shards)

    def when_heard(self, missing: frozenset[int], then: Callable[[], None]) -> None:
        """Call `then` once nothing of `missing` is missing, at the latest after `WAIT_SECONDS`."""
        self._waiters.append((self._clock() + WAIT_SECONDS, missing, then))

    def _missing_of(self, shards: Collection[int]) -> frozenset[int]:
        now = self._clock()
        if not self.link.is_up:
            # At the start it is to be there soon; later, its absence delays nobody.
            is_starting = self._down_since is not None and now - self._down_since < WAIT_SECONDS
            return frozenset(shards) if is_starting else frozenset()
        if self._up_since is not None and now - self._up_since < _MEETING_SECONDS:
            return frozenset(shards)
        return frozenset(shard for shard in shards if not self._is_heard(shard))

    def _is_heard(self, shard: int) -> bool:
        if not self.link.is_listening(self._shard_channel(shard)):
            return False
        for peer in self.peers:
            stream = self._streams.get((peer.origin, shard))
            if stream is None or stream.wants_values:
                return False
        return True

    def _release(self) -> None:
        """Let go on who has waited long enough, or for what is here."""
        if not self._waiters:
            return
        now = self._clock()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            deadline, shards, then = waiter
            if now >= deadline or not self._missing_of(shards):
                then()
            else:
                self._waiters.append(waiter)

    def _shards_of(self, kind: str, names: Iterable[str]) -> set[int]:
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

    def _refresh_interest(self) -> None:
        shards = {shard_of(code, self.n_shards) for code in self._wanted()}
        for (kind, name), topic in list(self.hub.topics.items()):
            if kind == "market" and topic.n_subscribers:
                shards.add(shard_of(name, self.n_shards))
        self._listen(self._interest.want(shards))
        if gone := self._interest.expired():
            self.link.ignore(self._shard_channel(shard) for shard in gone)
            for key in [key for key in self._streams if key[1] in gone]:
                self._count(self._streams.pop(key))

    def _listen(self, shards: Collection[int]) -> None:
        if shards:
            self.link.listen(self._shard_channel(shard) for shard in shards)

    # What is published here.

    def _on_filled(self) -> None:
        loop = self.hub.loop
        wait = self._flushed_at + self._interval - loop.time()
        if wait <= 0:
            # The first after a quiet moment: with all else that this turn of the loop publishes.
            self._flush_timer = loop.call_soon(self._flush)
        else:
            self._flush_timer = loop.call_later(wait, self._flush)

    def _flush(self) -> None:
        self._flushed_at = self.hub.loop.time()
        for shard, first, n, envelope in self._outgoing.envelopes():
            self._ring.add(shard, first, n, envelope)
            self.link.send(self._shard_channel(shard), envelope)
            self.counts.envelopes["sent"] += 1
            self.counts.updates["sent"] += n
            self.counts.bytes["sent"] += len(envelope)

    # What comes.

    def _on_message(self, data: bytes) -> None:
        try:
            if data[:3] == b"FWR":
                if data[16:24] != self._origin_bytes:
                    self._take_envelope(data)
            else:
                self._take_control(data)
        except (EnvelopeError, ControlError) as error:
            self.counts.refused += 1
            log_limited(_log, "relay-refused", "what came over the relay was left out", error=str(error))
        except Exception:
            self.counts.refused += 1
            log_limited(_log, "relay-failed", "the relay failed", level="error", exc_info=True)

    def _take_envelope(self, data: bytes) -> None:
        envelope = read_envelope(data)
        self.counts.envelopes["received"] += 1
        self.counts.bytes["received"] += len(data)
        if envelope.n_shards != self.n_shards:
            raise EnvelopeError(
                f"it is of {envelope.n_shards} shards, and there are {self.n_shards} here: "
                "set relay_shards to the same on all instances"
            )
        if envelope.shard not in self._interest.shards:
            return
        if envelope.kind == REPEATED:
            self.counts.envelopes["repeated"] += 1
        now = self._clock()
        stream = self._stream(envelope.origin, envelope.shard)
        wanted_values = stream.wants_values
        for arrived in stream.receive(envelope, len(data), now):
            self._publish(arrived)
        self._count(stream)
        if stream.has_gap:
            self._close_gap(stream, envelope.origin, envelope.shard, now)
        if wanted_values and not stream.wants_values:
            self._release()

    def _publish(self, arrived: Arrived) -> None:
        update = arrived.update
        self.counts.updates["received"] += 1
        try:
            if (
                update.kind != KIND_STATUS
                and self.market.instrument(update.code) is None
                and len(self.market.instruments) >= MAX_INSTRUMENTS
            ):
                raise ValueError("there are too many symbols")
            channel = self.market.channel_of(_MESSAGES[update.kind], update.code)
            is_late = update.stamp < channel.stamp
            if n_missed := arrived.n_missed + (is_late and arrived.is_counted):
                self.counts.updates["missed"] += n_missed
                self.hub.note_missed(channel, n_missed)
            if update.stamp <= channel.stamp:
                self.counts.updates["outdated"] += is_late
                return
            value: PriceUpdate | BookUpdate | MarketStatus
            if update.kind == KIND_STATUS:
                value = update.status()
            else:
                instrument = self.market.ensure_instrument(update.code)
                value = update.price(instrument) if update.kind == KIND_PRICE else update.book(instrument)
            self.market.carry(value, stamp=update.stamp, published_ms=update.published_ms, head=update.body)
        except ValueError as error:
            self.counts.updates["refused"] += 1
            log_limited(
                _log,
                "relay-update-refused",
                "an update of another instance was left out",
                code=update.code[:64],
                error=str(error),
            )

    def _take_control(self, data: bytes) -> None:
        message = decode(data)
        if message.origin == self.origin:
            return
        if isinstance(message, Announcement):
            self._meet(message)
        elif isinstance(message, ValuesRequest):
            self._hand_out(message)
        elif isinstance(message, GapRequest):
            self._repeat(message)
        elif isinstance(message, Kick):
            self.on_kick(message)
        else:
            self.on_alert(message)

    def say(self, message: Kick | UserAlert) -> None:
        """Tell all instances that are there; one that is away does not hear of it later."""
        self.link.send(self._control_channel, encode(message))

    # Gaps.

    def _look_after_gaps(self, now: float) -> None:
        if not self.link.is_up:
            return
        for (origin, shard), stream in list(self._streams.items()):
            if stream.wants_values and now >= self._asked.get((origin, shard), 0.0):
                self._ask_soon()
            self._close_gap(stream, origin, shard, now)

    def _close_gap(self, stream: Stream, origin: int, shard: int, now: float) -> None:
        gap = stream.due(now)
        if gap is None:
            return
        if gap.is_given_up:
            for arrived in stream.give_up(now):
                self._publish(arrived)
            self._count(stream)
            self._ask_soon()
        else:
            request = GapRequest(self.origin, shard, gap.first, gap.last)
            self.link.send(self._inbox(origin), encode(request))

    def _repeat(self, request: GapRequest) -> None:
        if request.shard >= self.n_shards:
            raise ControlError(f"there is no shard {request.shard}")
        self._flush()
        found = self._ring.find(request.shard, request.first, request.last)
        inbox = self._inbox(request.origin)
        for envelope in found:
            self.link.send(inbox, relabel(envelope, REPEATED, envelope is found[-1]))
        if not found:
            for envelope in self._outgoing.last_values(request.shard, INSTEAD):
                self.link.send(inbox, envelope)

    # Last values.

    def _ask_soon(self) -> None:
        """Ask for what is wanted, at the end of this turn of the loop: more may come to be wanted in it."""
        if self._asking is None:
            self._asking = self.hub.loop.call_soon(self._ask_for_values)

    def _ask_for_values(self) -> None:
        self._asking = None
        now = self._clock()
        for peer in self.peers:
            shards = []
            for shard in self._interest.shards:
                key = peer.origin, shard
                if not self.link.is_listening(self._shard_channel(shard)):
                    continue
                if self._stream(*key).wants_values and now >= self._asked.get(key, 0.0):
                    self._asked[key] = now + _ANNOUNCE_SECONDS
                    shards.append(shard)
            if shards:
                self.counts.values["asked_for"] += len(shards)
                self.link.send(self._inbox(peer.origin), encode(ValuesRequest(self.origin, shards)))

    def _hand_out(self, request: ValuesRequest) -> None:
        self._flush()
        for shard in request.shards:
            if shard < self.n_shards:
                self.hub.loop.call_soon(self._hand_out_shard, request.origin, shard)

    def _hand_out_shard(self, origin: int, shard: int) -> None:
        now = self._clock()
        if now - self._answered.get((origin, shard), -1.0) < _ANSWER_AGAIN_SECONDS:
            return
        self._answered[origin, shard] = now
        self._flush()
        self.counts.values["handed_out"] += 1
        for envelope in self._outgoing.last_values(shard):
            self.link.send(self._inbox(origin), envelope)

    # Peers.

    def _announce(self, *, leaving: bool = False) -> None:
        self._flush()
        positions = [] if leaving else self._outgoing.positions()
        announcement = Announcement(self.origin, self.name[:300], positions, self.feeds(), self.figures())
        self.link.send(self._control_channel, encode(announcement))

    def _meet(self, announcement: Announcement) -> None:
        peer = self.peers.get(announcement.origin)
        if not announcement.positions:
            if peer is not None:
                self._forget(peer, "it has stopped", is_over=True)
            else:
                self._end(announcement.origin)
            return
        if len(announcement.positions) != self.n_shards:
            log_limited(
                _log,
                f"relay-shards {announcement.name}",
                "an instance has another number of shards and is ignored; set relay_shards to the same on all",
                level="error",
                instance=announcement.name,
                shards=len(announcement.positions),
                here=self.n_shards,
            )
            return
        if peer is None:
            peer = self.peers.add(announcement.origin, announcement.name)
            self._gone.pop(peer.origin, None)
            _log.info("an instance has joined", instance=peer.name, instances=len(self.peers) + 1)
            # So that it knows of this one before it answers its first client.
            self._announce()
            self._ask_soon()
        self.peers.hear(peer)
        peer.figures = announcement.figures
        before, peer.feeds = peer.feeds, announcement.feeds
        for feed, status in announcement.feeds.items():
            if before.get(feed) != status:
                self.on_feed(feed, status)
        now = self._clock()
        for shard in self._interest.shards:
            stream = self._streams.get((peer.origin, shard))
            if stream is not None:
                stream.announced(announcement.positions[shard], now)
                self._count(stream)

    def _forget(self, peer: Peer, reason: str, *, is_over: bool) -> None:
        """Count a peer as gone. If it comes back and its run is not over, what was missed of it is still known."""
        self.peers.remove(peer)
        for feed in peer.feeds:
            # Unless another one has it, too.
            states = [other.feeds[feed] for other in self.peers if feed in other.feeds]
            self.on_feed(feed, states[0] if states else "stopped")
        _log.info("an instance has left", instance=peer.name, reason=reason, instances=len(self.peers) + 1)
        for (origin, _), stream in list(self._streams.items()):
            if origin == peer.origin:
                for arrived in stream.give_up(self._clock()):
                    self._publish(arrived)
                self._count(stream)
        if is_over:
            self._end(peer.origin)
        else:
            self._gone[peer.origin] = self._clock()
        # Others may have heard more of it before it went.
        if self._interest.shards and len(self.peers):
            request = ValuesRequest(self.origin, sorted(self._interest.shards))
            self.link.send(self._control_channel, encode(request))

    def _end(self, origin: int) -> None:
        """Nothing comes of this origin any more."""
        self._gone.pop(origin, None)
        for key in [key for key in self._streams if key[0] == origin]:
            del self._streams[key]
            self._asked.pop(key, None)

    def _stream(self, origin: int, shard: int) -> Stream:
        try:
            return self._streams[origin, shard]
        except KeyError:
            stream = self._streams[origin, shard] = Stream()
            return stream

    def _count(self, stream: Stream) -> None:
        seen, given_up = stream.take_counts()
        self.counts.gaps["seen"] += seen
        self.counts.gaps["given_up"] += given_up

    # Redis.

    def _on_change(self, reason: str | None) -> None:
        now = self._clock()
        if reason is not None:
            if self._down_since is None:
                self._down_since = now
                self._up_since = None
            _log.warning("the relay is away; local clients go on", redis=self.address.shown, error=reason)
            return
        away = 0.0 if self._down_since is None else now - self._down_since
        self._down_since, self._up_since = None, now
        _log.info("the relay is there", redis=self.address.shown, after_s=round(away, 3))
        # Nobody could be heard meanwhile.
        self.peers.excuse()
        self._announce()
        self._ask_soon()

    def _on_listening(self, channel: str) -> None:
        if channel in self._shard_of_channel:
            self._ask_soon()
            self.hub.loop.call_soon(self._release)

    # Names.

    @property
    def _control_channel(self) -> str:
        return f"{self._space}:control"

    def _shard_channel(self, shard: int) -> str:
        return f"{self._space}:shard:{shard}/{self.n_shards}"

    def _inbox(self, origin: int) -> str:
        return f"{self._space}:to:{origin:016x}"
