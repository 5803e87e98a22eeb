"""The relay of one instance: hands on what is published here, and publishes here what others hand on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import structlog

from fastws._core import Dialect, Hub
from fastws._relay import EnvelopeError, is_json_members
from fastws.dialects.holdings import Holdings
from fastws.dialects.mail import Mail
from fastws.logs import log_limited
from fastws.market.market import Market
from fastws.relay.address import RedisAddress
from fastws.relay.awaiting import Awaiting
from fastws.relay.awake_clock import AwakeClock
from fastws.relay.carrier import Carrier
from fastws.relay.channels import Channels
from fastws.relay.control import (
    AlertHeard,
    Announcement,
    ControlError,
    Eviction,
    ForceAnswer,
    ForceRequest,
    GapRequest,
    Kick,
    KickAnswer,
    RulesChanged,
    SessionMessage,
    TablePart,
    TablesRequest,
    UserAlert,
    ValuesRequest,
    decode,
    encode,
)
from fastws.relay.counts import RelayCounts
from fastws.relay.failures import log_failure
from fastws.relay.forcing import Forcing
from fastws.relay.interest import LINGER_SECONDS, ShardInterest
from fastws.relay.kicking import Kicking
from fastws.relay.lasting import Lasting
from fastws.relay.links import AnyLink
from fastws.relay.meetings import Meetings
from fastws.relay.outages import OutageLog
from fastws.relay.peers import Peers
from fastws.relay.receiving import Receiving
from fastws.relay.redis_links import RedisLink
from fastws.relay.sending import Sending
from fastws.relay.session_claims import SessionClaims
from fastws.relay.session_messages import SessionAnswer
from fastws.relay.session_moves import SessionMoves
from fastws.relay.sharing import Sharing

_TICK_SECONDS: Final = 0.05
_ANNOUNCE_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 1.0

_log = structlog.get_logger("fastws.relay")


class Relay:
    """Joins this instance to the others. Belongs to the thread of the event loop.

    `wanted` says which codes are looked at here, for whatever reason, and is asked every second; what was looked at is
    listened to for `linger` seconds more. `name` is for people. `link` makes what messages go over; without it, that is
    the Redis at `address`. `clock` is an `AwakeClock`, if none is given.

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
        linger: float = LINGER_SECONDS,
        clock: Callable[[], float] | None = None,
        link: Callable[..., AnyLink] | None = None,
    ) -> None:
        self.hub = hub
        self.market = market
        self.name = name
        self.address = address
        self.counts = RelayCounts()
        self.origin = secrets.randbits(62) + 1
        # Of all times here.
        self.clock = clock = clock or AwakeClock()
        self.peers = Peers(clock)
        # What others say that is no market's matter; of rules also None, when something may not have been heard.
        self.on_alert: Callable[[UserAlert], object] = lambda alert: None
        self.on_heard: Callable[[AlertHeard], object] = lambda heard: None
        self.on_rules: Callable[[RulesChanged | None], object] = lambda changed: None
        self._origin_bytes = self.origin.to_bytes(8, "little")
        self._outages = OutageLog(address.shown, name)
        self._task = Lasting("the looks at what is due", self._run)
        self._channels = Channels(prefix, address.database, n_shards)
        self._interest = ShardInterest(n_shards, clock)
        self.listen_on(linger)
        self._interval = interval_ms / 1000
        self.sessions: SessionMoves | None = None
        make_link = partial(RedisLink, address) if link is None else link
        self.link: AnyLink = make_link(
            on_message=self._on_message, on_change=self._on_change, on_listening=self._on_listening
        )
        self.sending = Sending(
            hub,
            dialect,
            self.link,
            self._channels,
            self.counts,
            origin=self.origin,
            n_shards=n_shards,
            interval=self._interval,
            history_bytes=history_bytes,
            clock=clock,
        )
        self.receiving = Receiving(
            hub,
            Carrier(hub, market, self.counts),
            self.link,
            self._channels,
            self._interest,
            self.peers,
            self.counts,
            origin=self.origin,
            n_shards=n_shards,
            clock=clock,
        )
        self.sharing = Sharing(hub, self.link, self._channels, self.peers, origin=self.origin, clock=clock)
        self.forcing = Forcing(self.link, self._channels, self.peers, origin=self.origin)
        self.kicking = Kicking(self.link, self._channels, self.peers, origin=self.origin)
        self.meetings = Meetings(
            self.link,
            self._channels,
            self._interest,
            self.peers,
            self.sending,
            self.receiving,
            self.sharing,
            origin=self.origin,
            name=name,
            n_shards=n_shards,
            clock=clock,
        )
        self._awaiting = Awaiting(
            hub,
            market,
            self.link,
            self._channels,
            self._interest,
            self.peers,
            self.receiving,
            wanted=wanted,
            clock=clock,
        )
        self.receiving.on_values = self._awaiting.release

    def join_sessions(self, holdings: Holdings, mail: Mail, *, limit: int) -> SessionClaims:
        """Let sessions go from one instance to another. `limit`: bytes for what is known of those of others.

        To be called before :meth:`start`. Returns what asks others for sessions.
        """
        moves = self.sessions = SessionMoves(
            self.hub,
            self.market,
            holdings,
            mail,
            self.peers,
            self.link,
            self._channels,
            self.sending,
            self.receiving,
            self._awaiting,
            self.counts,
            origin=self.origin,
            interval=self._interval,
            limit=limit,
            clock=self.clock,
        )
        self.meetings.sessions = moves.news
        return moves.claims

    # Life.

    def start(self) -> None:
        self.sending.start()
        self._awaiting.note_down()
        self.link.listen([self._channels.control, self._channels.inbox(self.origin)])
        if self.sessions is not None:
            self.link.listen([self._channels.sessions])
        self._awaiting.refresh()
        self.link.start()
        self._task.start()

    async def stop(self) -> None:
        """Hand on what is left, leave the sessions to the others, say good-bye, and disconnect."""
        if self.sessions is not None:
            await self.sessions.leave()
        self.sending.stop()
        await self._task.stop()
        self.receiving.stop()
        await self.forcing.stop()
        if self.sessions is not None:
            self.sessions.news.stop()
        self.meetings.announce(leaving=True)
        await self.link.stop(_STOP_SECONDS)
        self._awaiting.release_all()

    async def _run(self) -> None:
        announce_at = 0.0
        while True:
            try:
                now = self.clock()
                if now >= announce_at:
                    announce_at = now + _ANNOUNCE_SECONDS
                    self._every_second(now)
                if self.link.is_up:
                    self.receiving.look_after_gaps(now)
                self._awaiting.release()
                self.sharing.tell()
                if self.sessions is not None:
                    self.sessions.look(now)
            except Exception:
                # A fault of ours, which must not be the end of the relay.
                log_failure()
            await asyncio.sleep(_TICK_SECONDS)

    def _every_second(self, now: float) -> None:
        self._outages.tell(now)
        self._awaiting.refresh()
        if self.link.is_up:
            self.sharing.look(is_anyone_feeding=self.meetings.is_anyone_feeding())
            # Before the numbers of what was told are announced.
            self.sharing.tell()
            self.meetings.announce()
            if not self.link.is_detoured:
                self.meetings.look_after(now)
        self.meetings.look_at_feeds()
        if self.sessions is not None:
            self.sessions.news.look_after(now)
        self.sending.forget_answers(now)

    # What others ask it.

    @property
    def is_up(self) -> bool:
        """Whether Redis is there."""
        return self.link.is_up and not self.link.is_detoured

    @property
    def up_since(self) -> float | None:
        """When Redis came to be there, by the clock; None while it is away."""
        return None if self.link.is_detoured else self._awaiting.up_since

    @property
    def state_seconds(self) -> float:
        """For how long Redis is there by now, or away."""
        return self._awaiting.state_seconds

    @property
    def n_streams_with_gaps(self) -> int:
        return self.receiving.n_with_gaps

    @property
    def shards(self) -> frozenset[int]:
        """What is listened to."""
        return self._interest.shards

    @property
    def ring_size(self) -> int:
        return self.sending.ring_size

    def listen_on(self, seconds: float) -> None:
        """Listen for that long, and at least for `LINGER_SECONDS`, to what nobody looks at any more."""
        self._interest.linger = max(seconds, LINGER_SECONDS)

    def missing(self, kind: str, names: Iterable[str]) -> frozenset[int]:
        """See `Awaiting.missing`."""
        return self._awaiting.missing(kind, names)

    def missing_of_peer(self, origin: int) -> frozenset[int]:
        """See `Awaiting.missing_of_peer`."""
        return self._awaiting.missing_of_peer(origin)

    def when_heard(self, missing: frozenset[int], then: Callable[[], None]) -> None:
        """See `Awaiting.when_heard`."""
        self._awaiting.when_heard(missing, then)

    def say(self, message: UserAlert | AlertHeard | RulesChanged) -> None:
        """Tell all instances that are there; one that is away does not hear of it later."""
        self.link.send(self._channels.control, encode(message))

    def say_to(self, origin: int, message: UserAlert) -> None:
        """Tell one instance."""
        self.link.send(self._channels.inbox(origin), encode(message))

    # What comes.

    def _on_message(self, data: bytes) -> None:
        try:
            if data[:3] == b"FWR":
                if data[16:24] != self._origin_bytes:
                    self.peers.note_word(int.from_bytes(data[16:24], "little"))
                    self.receiving.take(data)
            else:
                self._take_control(data)
        except (EnvelopeError, ControlError) as error:
            self.counts.refused += 1
            log_limited(_log, "relay-refused", "what came over the relay was left out", error=str(error))
        except Exception:
            self.counts.refused += 1
            log_failure()

    def _take_control(self, data: bytes) -> None:
        message = decode(data)
        if message.origin == self.origin:
            return
        self.peers.note_word(message.origin)
        if isinstance(message, Announcement):
            self.meetings.hear(message)
        elif isinstance(message, (ValuesRequest, GapRequest, TablesRequest, ForceRequest)):
            if self.peers.get(message.origin) is None:
                raise ControlError("something is asked for by an instance that has not said that it is there")
            if isinstance(message, ValuesRequest):
                self.sending.hand_out(message)
            elif isinstance(message, GapRequest):
                self.sending.repeat(message)
            elif isinstance(message, ForceRequest):
                self.forcing.hear_request(message)
            else:
                self.sharing.hand_out(message)
        elif isinstance(message, Kick):
            self.kicking.hear(message)
        elif isinstance(message, KickAnswer):
            self.kicking.hear_answer(message)
        elif isinstance(message, UserAlert):
            if message.extra is not None and not is_json_members(message.extra):
                raise ControlError("what was added to an alert is no JSON")
            self.on_alert(message)
        elif isinstance(message, AlertHeard):
            self.on_heard(message)
        elif isinstance(message, TablePart):
            self.sharing.receive(message)
        elif isinstance(message, Eviction):
            self.sharing.on_eviction(message)
        elif isinstance(message, RulesChanged):
            self.on_rules(message)
        elif isinstance(message, ForceAnswer):
            self.forcing.hear_answer(message)
        else:
            self._take_session_message(message)

    def _take_session_message(self, message: SessionMessage) -> None:
        if self.sessions is None:
            return
        # One that stood still for long answers what it was asked before it says that it is there again.
        if self.peers.get(message.origin) is None and not isinstance(message, SessionAnswer):
            raise ControlError("an instance that has not said that it is there tells of sessions")
        self.sessions.hear(message)

    # Redis.

    def _on_change(self, reason: str | None) -> None:
        if reason is not None:
            self._awaiting.note_down()
            self._outages.note_away(self.clock(), reason)
            return
        away = self._awaiting.note_up()
        if not self.link.is_detoured:
            self._outages.note_there(self.clock(), away)
        # Nobody could be heard meanwhile.
        self.peers.excuse()
        self.meetings.announce()
        self.receiving.ask_soon()
        self.on_rules(None)
        if self.sessions is not None:
            self.sessions.news.note_up()

    def _on_listening(self, channel: str) -> None:
        if self._channels.is_of_shard(channel):
            self.receiving.ask_soon()
            self.hub.loop.call_soon(self._awaiting.release)
