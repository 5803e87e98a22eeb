"""Brings sessions here whose clients have come here, from the instances that hold them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Final

import msgspec
import structlog

from fastws._core import CHANNEL_ORDERBOOK, CHANNEL_PRICE, CHANNEL_STATUS, Channel, Hub, Options, Topic
from fastws._relay import is_json_members
from fastws.dialects.clients import Arrival, Client
from fastws.dialects.holdings import Holdings
from fastws.dialects.takeover import PROBE_SECONDS, Then
from fastws.logs import log_limited
from fastws.market.alert_messages import Alert
from fastws.market.instruments import MAX_INSTRUMENTS
from fastws.market.market import Market
from fastws.relay.awaiting import Awaiting
from fastws.relay.channels import Channels
from fastws.relay.control import encode
from fastws.relay.counts import RelayCounts
from fastws.relay.links import AnyLink
from fastws.relay.peer_sessions import PeerSession, PeerSessions
from fastws.relay.peers import Peers
from fastws.relay.sending import Sending
from fastws.relay.session_messages import (
    Group,
    HandedAlert,
    Mark,
    SessionAnswer,
    SessionClaim,
    key_of,
    read_groups,
)
from fastws.relay.session_news import SessionNews
from fastws.sessions import Handed, Session

SILENCE_SECONDS: Final = 1.5
"""After how long without a word, of whatever kind, a holder counts as gone: it announces itself every second."""

ANSWER_SECONDS: Final = 3.0
"""How long a client waits for a holder that is heard but does not answer."""

HEARING_SECONDS: Final = 1.5
"""How long a client waits until what it holds is heard here."""

# After how long a question is asked again: it, or the answer, may have been lost.
_ASK_AGAIN_SECONDS: Final = 1.0
# Who does not look for so long has stood still itself, and may have heard nobody.
_STALL_SECONDS: Final = 0.4

_MESSAGES: Final = {
    CHANNEL_PRICE: "price_update",
    CHANNEL_ORDERBOOK: "orderbook_update",
    CHANNEL_STATUS: "market_status",
}

_log = structlog.get_logger("fastws.relay")


class _Claim:
    """A client that waits for a session. `since` is the number of the hub when its holder was asked, `is_level` whether
    everything that others had published until then was here. `followers` want the same session.

    Nobody was asked yet while `n_asked` is 0; then `deadline` is by when an answer has to come.
    """

    __slots__ = (
        "arrival",
        "ask_again_at",
        "client",
        "deadline",
        "followers",
        "is_level",
        "key",
        "missing",
        "n_asked",
        "number",
        "session_id",
        "since",
        "then",
    )

    def __init__(
        self, number: int, client: Client, session_id: str, key: bytes, arrival: Arrival, then: Then
    ) -> None:
        self.number = number
        self.client = client
        self.session_id = session_id
        self.key = key
        self.arrival = arrival
        self.then = then
        self.since = 0
        self.is_level = False
        self.missing: frozenset[int] = frozenset()
        self.n_asked = 0
        self.deadline = self.ask_again_at = 0.0
        self.followers: list[tuple[Client, Arrival, Then]] = []


class SessionClaims:
    """Asks other instances for their sessions. Belongs to the thread of the event loop.

    1. A session that another instance holds is asked for there. The holder says by stamps how far the client is, and it
       goes on from there with what this instance has published itself, by its own numbers.
    2. A holder that lives is waited for, up to `ANSWER_SECONDS`. It is held to be gone when its end is known, or when
       nothing at all was heard of it for `SILENCE_SECONDS` in which this instance did not stand still itself.
    3. Where the holder is gone, or does not answer, the session is taken as it was announced, and nobody knows what was
       missed. If the holder is there after all, it hears that and ends what it has.
    4. One client at a time waits for a session; others want it from that one.
    5. A session is its user's.
    """

    def __init__(
        self,
        hub: Hub,
        market: Market,
        holdings: Holdings,
        news: SessionNews,
        sessions: PeerSessions,
        peers: Peers,
        link: AnyLink,
        channels: Channels,
        sending: Sending,
        awaiting: Awaiting,
        counts: RelayCounts,
        *,
        origin: int,
        clock: Callable[[], float],
    ) -> None:
        self.hub = hub
        self.market = market
        self.holdings = holdings
        self.news = news
        self.sessions = sessions
        self.peers = peers
        self._link = link
        self._channels = channels
        self._sending = sending
        self._awaiting = awaiting
        self._counts = counts
        self._origin = origin
        self._clock = clock
        self._n_claims = 0
        self._claims: dict[int, _Claim] = {}
        self._by_key: dict[bytes, _Claim] = {}
        self._looked_at = clock()
        self._excused_at = -math.inf

    def claim(self, client: Client, session_id: str, arrival: Arrival, then: Then) -> None:
        """Call `then` with a session of another instance, or with why it cannot be had; see `Takeover.find`."""
        key = key_of(session_id)
        if (before := self._by_key.get(key)) is not None:
            before.followers.append((client, arrival, then))
            return
        known = self.sessions.get(key, self._clock())
        if known is None and (self.news.is_complete or not self._link.is_up):
            then("unknown")
            return
        if known is not None and known.user_key != client.user_key:
            then("forbidden")
            return
        self._n_claims += 1
        claim = _Claim(self._n_claims, client, session_id, key, arrival, then)
        self._claims[claim.number] = self._by_key[key] = claim
        self._listen(claim, known)

    def look(self, now: float) -> None:
        """Look after those who wait; to be called some times a second."""
        stood_still, self._looked_at = now - self._looked_at, now
        if stood_still > _STALL_SECONDS:
            # What was said meanwhile may still be unread.
            self._excused_at = now
        for claim in list(self._claims.values()):
            if stood_still > _STALL_SECONDS:
                claim.deadline += stood_still
            claim.client.guarded(self._look, claim, now)

    def _look(self, claim: _Claim, now: float) -> None:
        known = self.sessions.get(claim.key, now)
        if known is None:
            if claim.n_asked and (self.news.is_complete or now >= claim.deadline):
                self._finish(claim, "unknown")
        elif not self._is_there(known, now) or (claim.n_asked and now >= claim.deadline):
            self._take_over(claim)
        elif claim.n_asked and now >= claim.ask_again_at:
            self._send(claim, known)

    def _is_there(self, known: PeerSession, now: float) -> bool:
        """Whether the holder of a session can still answer."""
        holder = self.peers.get(known.origin)
        return (
            self._link.is_up
            and holder is not None
            and not known.is_orphan
            and now - max(holder.spoke_at, self._excused_at) < SILENCE_SECONDS
        )

    def _listen(self, claim: _Claim, known: PeerSession | None) -> None:
        """Hear what the client holds, and then ask: a holder says how far it is among what is heard from then on."""
        missing: frozenset[int] = frozenset()
        if known is not None:
            for group in self._groups(known.subscriptions):
                missing |= self._awaiting.missing(group.kind, group.names)
        if missing:
            ask = partial(claim.client.guarded, self._ask, claim, missing)
            self._awaiting.when_heard(missing, ask, HEARING_SECONDS)
        else:
            self._ask(claim, missing)

    def _ask(self, claim: _Claim, missing: frozenset[int]) -> None:
        if claim.number not in self._claims:
            return  # its holder has gone meanwhile
        now = self._clock()
        known = self.sessions.get(claim.key, now)
        if not self._link.is_up or (known is not None and not self._is_there(known, now)):
            self._take_over(claim)
            return
        # What is known here is to be known there, when it is asked.
        self._sending.flush()
        claim.since = self.hub.sequence
        claim.is_level = known is not None and not self._awaiting.is_missing(missing)
        claim.deadline = now + ANSWER_SECONDS
        claim.n_asked += 1
        self._send(claim, known)

    def _send(self, claim: _Claim, known: PeerSession | None) -> None:
        claim.ask_again_at = self._clock() + _ASK_AGAIN_SECONDS
        message = SessionClaim(
            self._origin,
            claim.number,
            claim.key,
            claim.client.user_key,
            claim.arrival.last_sequence,
            None if claim.arrival.epoch is None else claim.arrival.epoch[:64],
            known is None,
        )
        to = self._channels.sessions if known is None else self._channels.inbox(known.origin)
        self._link.send(to, encode(message))

    def _take_over(self, claim: _Claim) -> None:
        """Take a session as it was announced."""
        now = self._clock()
        known = self.sessions.get(claim.key, now)
        if known is None or known.user_key != claim.client.user_key:
            self._finish(claim, "unknown" if known is None else "forbidden")
            return
        self.sessions.drop(claim.key)
        self._counts.sessions["taken_over"] += 1
        self._finish(
            claim,
            self._session(
                claim,
                self._groups(known.subscriptions),
                is_paused=known.is_paused,
                moves=known.moves + 1,
                heard=known.heard,
                handed=None,
                was_open=known.expires_at is None,
            ),
        )

    def hear_answer(self, answer: SessionAnswer) -> None:
        """Take what a holder says."""
        claim = self._claims.get(answer.claim)
        if claim is not None:
            claim.client.guarded(self._take_answer, claim, answer)

    def _take_answer(self, claim: _Claim, answer: SessionAnswer) -> None:
        if answer.what == "probing":
            patience = self._clock() + PROBE_SECONDS
            claim.deadline = max(claim.deadline, patience + SILENCE_SECONDS)
            claim.ask_again_at = patience + _ASK_AGAIN_SECONDS
        elif answer.what == "unknown":
            known = self.sessions.get(claim.key, self._clock())
            if known is not None and known.origin != answer.origin and claim.n_asked < 2:
                self._listen(claim, known)  # it has gone on meanwhile
            else:
                self.sessions.remove(answer.origin, claim.key)
                self._finish(claim, "unknown")
        elif answer.what == "given":
            self.sessions.drop(claim.key)
            self._counts.sessions["taken"] += 1
            marks = self._marks(answer.marks) if claim.is_level and answer.marks is not None else None
            alerts = [
                _alert_of(alert)
                for alert in answer.alerts
                if alert.extra is None or is_json_members(alert.extra)
            ]
            self._finish(
                claim,
                self._session(
                    claim,
                    answer.subscriptions,
                    is_paused=answer.is_paused,
                    moves=answer.moves + 1,
                    heard=claim.since,
                    handed=Handed(marks, claim.since, answer.n_missed, alerts),
                    was_open=answer.was_open,
                ),
            )
        else:
            self._finish(claim, answer.what)

    def _finish(self, claim: _Claim, found: Session | str) -> None:
        if self._claims.pop(claim.number, None) is None:
            return
        del self._by_key[claim.key]
        try:
            claim.then(found)
        finally:
            find = self.holdings.takeover.find
            for client, arrival, then in claim.followers:
                self.hub.loop.call_soon(client.guarded, find, client, claim.session_id, arrival, then)

    def _session(
        self,
        claim: _Claim,
        groups: list[Group],
        *,
        is_paused: bool,
        moves: int,
        heard: int,
        handed: Handed | None,
        was_open: bool,
    ) -> Session:
        subscriptions: dict[Topic, Options] = {}
        for group in groups:
            options = self.hub.options(latest=group.latest, max_rate=group.max_rate, channels=group.channels)
            for name in group.names:
                if (topic := self._topic(group.kind, name)) is not None:
                    subscriptions[topic] = options
        return Session(
            session_id=claim.session_id,
            user_key=claim.client.user_key,
            subscriptions=subscriptions,
            is_paused=is_paused,
            cursor=-1,
            epoch=self.hub.epoch,
            saved_at=time.monotonic(),
            heard=heard,
            address_key=claim.client.arrival.address_key,
            moves=moves,
            is_moved=True,
            handed=handed,
            was_open=was_open,
        )

    def _topic(self, kind: str, name: str) -> Topic | None:
        """A topic that somebody holds elsewhere; what the client may hold here is looked at when it is restored."""
        instruments = self.market.instruments
        if kind == "stock" and self.market.instrument(name) is None:
            if len(instruments) >= MAX_INSTRUMENTS:
                return None
            try:
                self.market.ensure_instrument(name)
            except ValueError:
                return None
        elif (kind == "market" and name not in instruments.markets) or (
            kind == "sector" and name not in instruments.sectors
        ):
            return None
        return self.hub.topic(kind, name)

    def _marks(self, marks: list[Mark]) -> list[tuple[Channel, int, int]] | None:
        try:
            return [
                (self.market.channel_of(_MESSAGES[mark.bit], mark.code), mark.first, mark.last)
                for mark in marks
            ]
        except ValueError:
            return None  # there is no such symbol here

    def _groups(self, subscriptions: bytes) -> list[Group]:
        try:
            return read_groups(subscriptions)
        except msgspec.DecodeError as error:
            log_limited(_log, "relay-refused", "what came over the relay was left out", error=str(error))
            return []


def _alert_of(handed: HandedAlert) -> Alert:
    threshold, price = Decimal(handed.threshold), Decimal(handed.current_price)
    return Alert(handed.code, handed.alert_type, threshold, price, handed.message, handed.extra)
