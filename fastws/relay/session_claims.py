"""Brings sessions from the instance that holds them to the one that their clients have come to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from fastws._core import CHANNEL_ORDERBOOK, CHANNEL_PRICE, CHANNEL_STATUS, Channel, Hub, Options, Topic
from fastws._relay import is_json_members
from fastws.dialects.clients import Arrival, Client
from fastws.dialects.holdings import Holdings
from fastws.dialects.mail import Mail
from fastws.dialects.takeover import PROBE_SECONDS, Then
from fastws.logs import log_limited
from fastws.market.alert_messages import Alert
from fastws.market.alert_store import number_text
from fastws.market.instruments import MAX_INSTRUMENTS
from fastws.market.market import Market
from fastws.relay.awaiting import Awaiting
from fastws.relay.channels import Channels
from fastws.relay.control import MAX_SIZE, encode
from fastws.relay.counts import RelayCounts
from fastws.relay.links import AnyLink
from fastws.relay.peer_sessions import PeerSessions
from fastws.relay.peers import Peers
from fastws.relay.receiving import Receiving
from fastws.relay.sending import Sending
from fastws.relay.session_messages import (
    Answer,
    Group,
    HandedAlert,
    Mark,
    SessionAnswer,
    SessionClaim,
    groups_of,
    key_of,
    read_groups,
)
from fastws.relay.session_news import SessionNews
from fastws.sessions import Handed, Session

HANDOVER_SECONDS: Final = 0.5
"""How long a client waits for the holder of its session; then it goes on without knowing what it has missed."""

# How long it is known that a session was given away: who asks again is too late.
_GIVEN_SECONDS: Final = 5.0
# Others may not have heard yet that a connection has ended.
_JUST_SECONDS: Final = 1.0

_MESSAGES: Final = {
    CHANNEL_PRICE: "price_update",
    CHANNEL_ORDERBOOK: "orderbook_update",
    CHANNEL_STATUS: "market_status",
}

_log = structlog.get_logger("fastws.relay")


class _Claim:
    """A client that waits for a session. `since` is the number of the hub when its holder was asked, `is_level` whether
    everything that others had published until then was here. `followers` want the same session.
    """

    __slots__ = (
        "arrival",
        "client",
        "followers",
        "is_level",
        "key",
        "n_asked",
        "number",
        "session_id",
        "since",
        "then",
        "timer",
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
        self.n_asked = 0
        self.timer: asyncio.Handle | None = None
        self.followers: list[tuple[Client, Arrival, Then]] = []


class SessionClaims:
    """Asks others for sessions, and gives them those of this instance. Belongs to the thread of the event loop.

    1. A session that another instance holds is asked for there. An old connection that lives keeps it; what is given
       is not there any more. The holder says by stamps how far the client is, and it goes on from there with what this
       instance has published itself, by its own numbers.
    2. Where the holder is gone, or says nothing for `HANDOVER_SECONDS`, the session is taken as it was announced, and
       nobody knows what was missed. If the holder is there after all, it hears that and ends what it has.
    3. One client at a time waits for a session; others want it from that one.
    4. A session is its user's, at the one who asks as at the one who is asked.
    """

    def __init__(
        self,
        hub: Hub,
        market: Market,
        holdings: Holdings,
        mail: Mail,
        news: SessionNews,
        sessions: PeerSessions,
        peers: Peers,
        link: AnyLink,
        channels: Channels,
        sending: Sending,
        receiving: Receiving,
        awaiting: Awaiting,
        counts: RelayCounts,
        *,
        origin: int,
        clock: Callable[[], float],
    ) -> None:
        self.hub = hub
        self.market = market
        self.holdings = holdings
        self.mail = mail
        self.news = news
        self.sessions = sessions
        self.peers = peers
        self._link = link
        self._channels = channels
        self._sending = sending
        self._receiving = receiving
        self._awaiting = awaiting
        self._counts = counts
        self._origin = origin
        self._clock = clock
        self._n_claims = 0
        self._claims: dict[int, _Claim] = {}
        self._by_key: dict[bytes, _Claim] = {}
        self._given: dict[bytes, float] = {}

    # Asking.

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
        missing: frozenset[int] = frozenset()
        if known is not None:
            # First: a holder says how far the client is among what is heard here from now on.
            for group in self._groups(known.subscriptions):
                missing |= self._awaiting.missing(group.kind, group.names)
        if missing:
            self._awaiting.when_heard(missing, partial(client.guarded, self._ask, claim, missing))
        else:
            self._ask(claim, missing)

    def _ask(self, claim: _Claim, missing: frozenset[int]) -> None:
        known = self.sessions.get(claim.key, self._clock())
        holder = None if known is None else self.peers.get(known.origin)
        if not self._link.is_up or (known is not None and (holder is None or known.is_orphan)):
            self._take_over(claim)
            return
        # What is known here is to be known there, when it is asked.
        self._sending.flush()
        claim.since = self.hub.sequence
        claim.is_level = known is not None and not self._awaiting.is_missing(missing)
        claim.n_asked += 1
        self._wait(claim, HANDOVER_SECONDS)
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

    def _wait(self, claim: _Claim, seconds: float) -> None:
        if claim.timer is not None:
            claim.timer.cancel()
        claim.timer = self.hub.loop.call_later(seconds, claim.client.guarded, self._take_over, claim)

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
            self._wait(claim, PROBE_SECONDS + HANDOVER_SECONDS)
        elif answer.what == "unknown":
            known = self.sessions.get(claim.key, self._clock())
            if known is not None and known.origin != answer.origin and claim.n_asked < 2:
                self._ask(claim, frozenset())  # it has gone on meanwhile
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
        if claim.timer is not None:
            claim.timer.cancel()
        for client, arrival, then in claim.followers:
            find = self.holdings.takeover.find
            self.hub.loop.call_soon(client.guarded, find, client, claim.session_id, arrival, then)
        claim.then(found)

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

    # Giving.

    def hear_claim(self, claim: SessionClaim) -> None:
        """Give a session away, or say why not."""
        session_id = self.news.id_of(claim.key)
        if session_id is None:
            if not claim.is_for_all:
                self._say(claim, "in_use" if self._was_given(claim.key) else "unknown")
            return
        is_answered = False

        def then(found: Session | str) -> None:
            nonlocal is_answered
            is_answered = True
            if isinstance(found, Session):
                self._give(claim, found)
            else:
                self._say(claim, found)  # type: ignore[arg-type]  # it is a key of REFUSALS

        self.holdings.give(session_id, claim.user_key, self._guarded, then)
        if not is_answered:
            self._say(claim, "probing")

    def _give(self, claim: SessionClaim, session: Session) -> None:
        # Those who are asked about an update that is on its way here know less than they will.
        self._sending.flush()
        subscriptions = session.subscriptions
        cursor = None
        if not session.is_moved:
            arrival = Arrival(last_sequence=claim.last_sequence, epoch=claim.epoch)
            cursor = self.holdings.takeover.cursor_of(session, arrival)
        marks = None
        if cursor is not None and not self._receiving.n_with_gaps:
            marks = self.hub.marks(subscriptions, cursor)
        kept = self.mail.missed_by(session, cursor)
        answer = SessionAnswer(
            self._origin,
            claim.claim,
            "given",
            session.moves,
            session.is_paused,
            time.monotonic() - session.saved_at < _JUST_SECONDS,
            groups_of(subscriptions),
            None if marks is None else [Mark(_bit_of(each[0]), each[0].key, *each[1:]) for each in marks],
            0 if cursor is None else self.hub.count_missed(subscriptions, cursor)[0],
            [_handed(one.payload) for one in kept],
        )
        message = encode(answer)
        if len(message) > MAX_SIZE:
            message = encode(msgspec.structs.replace(answer, marks=None))
        self._link.send(self._channels.inbox(claim.origin), message)
        self.mail.note_told(kept)
        self._counts.sessions["given"] += 1
        self._given[claim.key] = self._clock() + _GIVEN_SECONDS

    def _was_given(self, key: bytes) -> bool:
        now = self._clock()
        for known, until in list(self._given.items()):
            if until >= now:
                break
            del self._given[known]
        return key in self._given

    def _say(self, claim: SessionClaim, what: Answer) -> None:
        answer = SessionAnswer(self._origin, claim.claim, what)
        self._link.send(self._channels.inbox(claim.origin), encode(answer))

    def _guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:
            log_limited(_log, "relay-failed", "the relay failed", level="error", exc_info=True)


def _bit_of(channel: Channel) -> Any:
    return channel.bit


def _handed(alert: Alert) -> HandedAlert:
    return HandedAlert(
        alert.code,
        alert.alert_type,
        number_text(alert.threshold),
        number_text(alert.current_price),
        alert.message,
        alert.extra,
    )


def _alert_of(handed: HandedAlert) -> Alert:
    threshold, price = Decimal(handed.threshold), Decimal(handed.current_price)
    return Alert(handed.code, handed.alert_type, threshold, price, handed.message, handed.extra)
