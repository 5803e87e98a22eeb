"""Tells other instances of the sessions here, and hears of theirs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import msgspec
import structlog

from fastws._core import Hub
from fastws.dialects.holdings import Holdings
from fastws.logs import log_limited
from fastws.relay.channels import Channels
from fastws.relay.control import SessionMessage, encode
from fastws.relay.counts import RelayCounts
from fastws.relay.links import AnyLink
from fastws.relay.numbering import Numbering
from fastws.relay.peer_sessions import Left, PeerSession, PeerSessions
from fastws.relay.session_messages import (
    MAX_SUBSCRIPTIONS_SIZE,
    NO_SUBSCRIPTIONS,
    SessionChanges,
    SessionsLeft,
    SessionsPart,
    SessionsRequest,
    SessionState,
    groups_of,
    key_of,
    packed,
    read_left,
    read_states,
)

# A message ends with the session that brings it over this.
_PART_SIZE: Final = 48 << 10
# Sessions looked at between two turns of the loop, which is some milliseconds.
_PART_COUNT: Final = 200
# Sessions that are noted while Redis is away; where more change, all of them are told anew.
_MAX_CHANGED: Final = 50_000
_LEAST_INTERVAL: Final = 0.01
# Who is asked for all its sessions is not asked again before.
_ASK_AGAIN_SECONDS: Final = 2.0
_EXPIRE_SECONDS: Final = 10.0
# With more than so much to be sent, nobody is named all sessions: envelopes are not to be dropped for that.
_BUSY_SIZE: Final = 4 << 20
_LOOK_SECONDS: Final = 0.05

_Read = TypeVar("_Read")

_log = structlog.get_logger("fastws.relay")


class SessionNews:
    """Keeps `peers` as the other instances say, and tells them what changes here. Belongs to the thread of the loop.

    1. What changes is told within an interval of the relay: each session once, however often it has changed, and at
       most 48 KiB and 200 sessions per interval; the rest follows. Nothing is told while Redis is away, only noted.
       The end of a connection is told at once, if nothing was told within the interval: its client is on its way.
    2. Messages are numbered. Who has missed one asks for all sessions, and so does who joins.
    3. Who asks for a session is answered also when others have not been told of it yet.
    4. Where two hold a session, the one that `PeerSessions` says gives it up here; see `Holdings.give_up`.
    """

    def __init__(
        self,
        hub: Hub,
        holdings: Holdings,
        peers: PeerSessions,
        link: AnyLink,
        channels: Channels,
        counts: RelayCounts,
        *,
        origin: int,
        interval: float,
        clock: Callable[[], float],
    ) -> None:
        self.hub = hub
        self.holdings = holdings
        self.peers = peers
        # Of the last message that was sent.
        self.number = 0
        self._link = link
        self._channels = channels
        self._counts = counts
        self._origin = origin
        self._interval = max(interval, _LEAST_INTERVAL)
        self._clock = clock
        self._changed: dict[str, None] = {}
        self._ids: dict[bytes, str] = {}
        self._timer: asyncio.Handle | None = None
        self._is_soon = False
        self._told_at = -math.inf
        self._is_leaving = False
        self._heard: dict[int, Numbering] = {}
        self._telling: dict[int, asyncio.Handle] = {}
        self._expire_at = 0.0
        holdings.on_change = self.note

    @property
    def is_complete(self) -> bool:
        """Whether all sessions of all instances are known, as far as there is room."""
        return all(heard.is_whole for heard in self._heard.values())

    @property
    def n_waiting(self) -> int:
        """Sessions that have changed and are still to be told of."""
        return len(self._changed)

    def id_of(self, key: bytes) -> str | None:
        """The id of a session of this instance that others have been told of, or are about to be."""
        return self._ids.get(key)

    # Telling.

    def note(self, session_id: str, is_over: bool = False) -> None:
        """A session has come, changed or gone; `is_over`: its connection has ended, or nobody can have it any more."""
        if session_id not in self._changed:
            self._changed[session_id] = None
            self._ids[key_of(session_id)] = session_id
        if len(self._changed) > _MAX_CHANGED:
            # A message that nobody gets: whoever hears of its number asks for all sessions.
            self.number += 1
            self._changed.clear()
            self._ids = {key_of(each): each for each in self.holdings.ids()}
        if not self._link.is_up:
            return
        if is_over and not self._is_soon and self._clock() >= self._told_at + self._interval:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.hub.loop.call_soon(self._tell_changes)
            self._is_soon = True
        elif self._timer is None:
            self._timer = self.hub.loop.call_later(self._interval, self._tell_changes)

    def note_up(self) -> None:
        """Redis is there."""
        if self._changed and self._timer is None:
            self._timer = self.hub.loop.call_soon(self._tell_changes)

    def stop(self) -> None:
        """Tell what is left, and no more."""
        self.holdings.on_change = lambda session_id, is_over: None
        self.stop_naming()
        if self._timer is not None:
            self._timer.cancel()
        self.tell_now()

    def stop_naming(self) -> None:
        """Name all sessions to nobody any more: what is left of them is to be the last that is said."""
        self._is_leaving = True
        for timer in self._telling.values():
            timer.cancel()
        self._telling.clear()

    def tell_now(self) -> None:
        """Tell all that has changed."""
        while self._changed and self._link.is_up:
            self._send_changes()

    def _tell_changes(self) -> None:
        self._timer = None
        self._is_soon = False
        if not self._link.is_up:
            return
        self._told_at = self._clock()
        self._send_changes()
        if self._changed:
            self._timer = self.hub.loop.call_later(self._interval, self._tell_changes)

    def _send_changes(self) -> None:
        self._send_states(*self._tell_of(self._changed))

    def _send_states(self, states: list[SessionState], ids: list[str]) -> None:
        for session_id in ids:
            self._changed.pop(session_id, None)
        self.number += 1
        self._counts.sessions["announced"] += len(ids)
        self._send(self._channels.sessions, SessionChanges(self._origin, self.number, packed(states)))

    def tell_one(self, key: bytes) -> bool:
        """Tell of one session at once, because somebody looks for it; False: it is not here."""
        session_id = self._ids.get(key)
        if session_id is None or not self._link.is_up:
            return False
        if bytes(self._state_of(session_id).subscriptions) == NO_SUBSCRIPTIONS:
            return False
        self._send_states(*self._tell_of([session_id]))
        return True

    def tell_all(self, origin: int) -> None:
        """Name all sessions to an instance, part by part."""
        if origin not in self._telling and not self._is_leaving:
            ids = list(self.holdings.ids())
            self._telling[origin] = self.hub.loop.call_soon(self._tell_part, origin, ids, 0, 0)

    def _tell_part(self, origin: int, ids: list[str], begin: int, number: int) -> None:
        # Whatever becomes of this part, the one who has asked may ask again.
        del self._telling[origin]
        if not self._link.is_up or self._link.queue_size > _BUSY_SIZE:
            self._telling[origin] = self.hub.loop.call_later(
                max(self._interval, _LOOK_SECONDS), self._tell_part, origin, ids, begin, number
            )
            return
        states, told = self._tell_of(ids[begin : begin + _PART_COUNT])
        end = begin + len(told)
        is_last = end >= len(ids)
        part = SessionsPart(self._origin, self.number, number, is_last, packed(states))
        self._send(self._channels.inbox(origin), part)
        if not is_last:
            self._telling[origin] = self.hub.loop.call_later(
                self._interval, self._tell_part, origin, ids, end, number + 1
            )

    def _tell_of(self, ids: Iterable[str]) -> tuple[list[SessionState], list[str]]:
        """What is told of the first of these sessions, and which ones these are."""
        states: list[SessionState] = []
        told: list[str] = []
        size = 0
        for session_id in ids:
            if size >= _PART_SIZE or len(told) == _PART_COUNT:
                break
            told.append(session_id)
            state = self._state_of(session_id)
            states.append(state)
            size += len(bytes(state.subscriptions)) + len(state.user_key or "") + 40
            if bytes(state.subscriptions) == NO_SUBSCRIPTIONS:
                self._ids.pop(state.key, None)
            else:
                self._ids[state.key] = session_id
                # It is here, whoever had it before.
                self.peers.drop(state.key)
        return states, told

    def _state_of(self, session_id: str) -> SessionState:
        key = key_of(session_id)
        holding = self.holdings.find(session_id)
        if holding is not None:
            subscriptions = msgspec.msgpack.encode(groups_of(holding.subscriptions))
            if len(subscriptions) <= MAX_SUBSCRIPTIONS_SIZE:
                left = holding.seconds_left
                return SessionState(
                    key,
                    holding.moves,
                    holding.user_key,
                    holding.is_paused,
                    -1 if left is None else max(0, round(left * 1000)),
                    msgspec.Raw(subscriptions),
                )
        return SessionState(key, 0, None, False, 0, msgspec.Raw(NO_SUBSCRIPTIONS))

    def _send(self, channel: str, message: SessionMessage) -> None:
        self._link.send(channel, encode(message))

    # Hearing.

    def meet(self, origin: int, number: int) -> None:
        """An instance is there, and has sent `number` messages, -1: it has no sessions."""
        if number >= 0:
            self._heard.setdefault(origin, Numbering()).announced(number)
            self._ask_if_missing(origin)

    def lose(self, origin: int) -> None:
        """An instance is gone."""
        self._heard.pop(origin, None)
        if (telling := self._telling.pop(origin, None)) is not None:
            telling.cancel()
        self.peers.lose(origin, self._clock(), self.holdings.ttl, self.hub.sequence)

    def hear(self, message: SessionChanges) -> list[SessionState]:
        """Take what has changed elsewhere; returns what was told."""
        states = self._readable(*read_states(message.states))
        heard = self._heard.get(message.origin)
        if heard is None or heard.take_change(message.number):
            self._take(message.origin, states)
            self._ask_if_missing(message.origin)
        return states

    def hear_part(self, part: SessionsPart) -> None:
        """Take a part of all sessions of an instance."""
        heard = self._heard.get(part.origin)
        if heard is None or not heard.take_part(part.part, part.number, is_last=part.is_last):
            return
        if part.part == 0:
            self.peers.begin_all(part.origin)
        self._take(part.origin, self._readable(*read_states(part.states)))
        if part.is_last:
            self.peers.end_all(part.origin)

    def hear_left(self, message: SessionsLeft) -> None:
        """Take what an instance that goes leaves to the others."""
        now = self._clock()
        for session in self._readable(*read_left(message.sessions)):
            left = Left(message.epoch, message.positions, session)
            self.peers.leave(session.key, message.origin, left, now, self.holdings.ttl, self.hub.sequence)

    def look_after(self, now: float) -> None:
        """Forget what is over; to be called every second."""
        self.holdings.expire()
        if now >= self._expire_at:
            self._expire_at = now + _EXPIRE_SECONDS
            self.peers.expire(now)

    def _ask_if_missing(self, origin: int) -> None:
        heard = self._heard.get(origin)
        if heard is not None and heard.is_to_be_asked(self._clock(), _ASK_AGAIN_SECONDS):
            self._send(self._channels.inbox(origin), SessionsRequest(self._origin))

    def _readable(self, found: list[_Read], errors: list[str]) -> list[_Read]:
        for error in errors:
            self._counts.refused += 1
            log_limited(
                _log, "relay-refused", "what came over the relay was left out", error=f"a session: {error}"
            )
        return found

    def _take(self, origin: int, states: list[SessionState]) -> None:
        now = self._clock()
        self._counts.sessions["heard"] += len(states)
        for state in states:
            subscriptions = bytes(state.subscriptions)
            if subscriptions == NO_SUBSCRIPTIONS:
                self.peers.remove(origin, state.key)
                continue
            mine = self._ids.get(state.key)
            holding = None if mine is None else self.holdings.find(mine)
            if mine is not None and holding is not None:
                if (holding.moves, self._origin) > (state.moves, origin):
                    # So that the other one hears of it.
                    self.note(mine)
                    continue
                self._counts.sessions["replaced"] += 1
                self.holdings.give_up(mine)
                self._ids.pop(state.key, None)
            self.peers.put(
                PeerSession(
                    state.key,
                    origin,
                    state.moves,
                    state.user_key,
                    state.is_paused,
                    None if state.lasts_ms < 0 else now + state.lasts_ms / 1000,
                    subscriptions,
                    self.hub.sequence,
                )
            )
