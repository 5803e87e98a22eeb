"""Brings sessions here whose clients have come here, from the instances that hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from fastws._core import Hub
from fastws.dialects.clients import Arrival, Client
from fastws.dialects.holdings import Holdings
from fastws.dialects.mail import Mail
from fastws.dialects.takeover import PROBE_SECONDS, Then
from fastws.market.market import Market
from fastws.relay.asking_all import AskingAll
from fastws.relay.awaiting import Awaiting
from fastws.relay.channels import Channels
from fastws.relay.control import ControlError, encode
from fastws.relay.counts import RelayCounts
from fastws.relay.late_answers import LateAnswers
from fastws.relay.links import AnyLink
from fastws.relay.moved_sessions import MovedSessions, groups_in, read_left
from fastws.relay.peer_sessions import PeerSession, PeerSessions
from fastws.relay.peers import Peers
from fastws.relay.receiving import Receiving
from fastws.relay.sending import Sending
from fastws.relay.session_keeping import session_of
from fastws.relay.session_levels import SessionLevels
from fastws.relay.session_messages import (
    SessionAnswer,
    SessionClaim,
    SessionKept,
    SessionState,
    key_of,
)
from fastws.relay.session_news import SessionNews
from fastws.relay.waiting_claims import WaitingClaim
from fastws.sessions import HandedState, Session

SILENCE_SECONDS: Final = 1.5
"""After how long without a word, of whatever kind, a holder counts as gone: it announces itself every second."""

ANSWER_SECONDS: Final = 3.0
"""How long a client waits for a holder that is heard but does not answer."""

HEARING_SECONDS: Final = 1.5
"""How long a client waits until what it holds is heard here."""

ASKING_SECONDS: Final = 0.3
"""How long a client waits for somebody who has its session when nobody has told of it: a way there and back."""

LEVEL_SECONDS: Final = 1.5
"""How long a client waits until what the holder has is here: what is missing comes in a second, or not at all."""

# After how long a question is asked again: it, or the answer, may have been lost.
_ASK_AGAIN_SECONDS: Final = 1.0
# After how long it is looked again whether somebody is there to be asked.
_MEET_SECONDS: Final = 0.05


class SessionClaims:
    """Asks other instances for their sessions. Belongs to the thread of the event loop.

    1. A session that another instance holds is asked for there. The holder says by stamps how far the client is, and it
       goes on from there with what this instance has published itself, by its own numbers.
    2. A holder that lives is waited for, up to `ANSWER_SECONDS`. It is held to be gone when its end is known, or when
       nothing at all was heard of it for `SILENCE_SECONDS` in which this instance did not stand still itself; see
       `AwakeClock`.
    3. Where the holder is gone, or does not answer, the session is taken as it was announced, and nobody knows what was
       missed. If the holder is there after all, it hears that and ends what it has.
    4. One client at a time waits for a session; others want it from that one.
    5. Nobody goes on here before what the holder has is here, at most `LEVEL_SECONDS` later: then the client is told
       that it has missed something.
    6. What comes too late for a client that has gone on is its user's messages still. So who may be there is asked also
       when nobody waits for the answer.
    7. A session is its user's.
    8. All are asked for a session that nobody has told of: it may be younger than the last news of its holder, who
       tells of it then, or its holder was gone when this instance came, and others keep it. Of more than so many a
       second the others are unknown at once: ids are easily made up.
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
        self.holdings = holdings
        self.news = news
        self.sessions = sessions
        self.peers = peers
        self._moved = MovedSessions(hub, market)
        self._levels = SessionLevels(hub, self._moved, peers, link, receiving, awaiting)
        self._link = link
        self._channels = channels
        self._sending = sending
        self._awaiting = awaiting
        self._counts = counts
        self._origin = origin
        self._clock = clock
        self._n_claims = 0
        self._claims: dict[int, WaitingClaim] = {}
        self._by_key: dict[bytes, WaitingClaim] = {}
        self._late = LateAnswers(mail)
        self._asking_all = AskingAll()
        self._began_at = clock()

    def claim(self, client: Client, session_id: str, arrival: Arrival, then: Then) -> None:
        """Call `then` with a session of another instance, or with why it cannot be had; see `Takeover.find`."""
        key = key_of(session_id)
        if (before := self._by_key.get(key)) is not None:
            before.followers.append((client, arrival, then))
            return
        known = self.sessions.get(key, self._clock())
        if known is None and self._awaiting.is_meeting:
            again = partial(self.claim, client, session_id, arrival, then)
            self.hub.loop.call_later(_MEET_SECONDS, client.guarded, again)
            return
        if known is None and not self._may_ask_all():
            then("unknown")
            return
        if known is not None and known.user_key != client.user_key:
            then("forbidden")
            return
        self._n_claims += 1
        claim = WaitingClaim(self._n_claims, client, session_id, key, arrival, then)
        self._claims[claim.number] = self._by_key[key] = claim
        self._listen(claim, known)

    def _may_ask_all(self) -> bool:
        """Whether all are asked for a session of which nothing is known."""
        if not self._link.is_up or not len(self.peers):
            return False
        now = self._clock()
        # Others keep sessions of those that were gone when this one came.
        is_early = not self.news.is_complete or now - self._began_at < self.holdings.ttl
        return self._asking_all.may(now, is_early=is_early)

    def look(self, now: float) -> None:
        """Look after those who wait; to be called some times a second."""
        self._late.expire(now)
        for claim in list(self._claims.values()):
            claim.client.guarded(self._look, claim, now)

    def _look(self, claim: WaitingClaim, now: float) -> None:
        if claim.answer is not None:
            if now >= claim.deadline or not self._levels.is_behind(claim.answer):
                self._take(claim, claim.answer)
            return
        if not claim.is_asked:
            return
        known = self._known(claim, now)
        if known is None:
            if now >= claim.deadline:
                self._finish(claim, "unknown")
        elif claim.known is None:
            self._listen(claim, known)  # somebody has told of it
        elif not self._is_there(known, now) or now >= claim.deadline:
            self._take_over(claim)
        elif now >= claim.ask_again_at:
            self._send(claim, known)

    def _known(self, claim: WaitingClaim, now: float) -> PeerSession | None:
        """What is known of a session, also when its holder has said already that it is not there any more."""
        known = self.sessions.get(claim.key, now) or claim.known
        if known is not None and known.expires_at is not None and now >= known.expires_at:
            return None
        return known

    def _is_there(self, known: PeerSession, now: float) -> bool:
        """Whether the holder of a session can still answer."""
        holder = self.peers.get(known.origin)
        return (
            self._link.is_up
            and holder is not None
            and not known.is_orphan
            and now - holder.spoke_at < SILENCE_SECONDS
        )

    def _listen(self, claim: WaitingClaim, known: PeerSession | None) -> None:
        """Hear what the client holds, and then ask: a holder says how far it is among what is heard from then on.

        What is taken over as it was announced is to be heard as well, so that no snapshot is of long ago.
        """
        claim.is_asked = False
        claim.known = known
        if known is not None:
            claim.asked.discard(0)
        missing: frozenset[int] = frozenset()
        if known is not None:
            for group in groups_in(known.subscriptions):
                missing |= self._awaiting.missing(group.kind, group.names)
        if missing:
            claim.is_late = True
            ask = partial(claim.client.guarded, self._ask, claim, missing)
            self._awaiting.when_heard(missing, ask, HEARING_SECONDS)
        else:
            self._ask(claim, missing)

    def _ask(self, claim: WaitingClaim, missing: frozenset[int]) -> None:
        now = self._clock()
        known = claim.known = self._known(claim, now)
        claim.is_asked = True
        # From here on it is certain that the client misses what is published here.
        claim.since = self.hub.sequence
        claim.is_level = known is not None and not self._awaiting.is_missing(missing)
        if not self._link.is_up or (known is not None and not self._is_there(known, now)):
            self._take_over(claim)
            return
        # What is known here is to be known there, when it is asked.
        self._sending.flush()
        if known is not None:
            claim.deadline = now + ANSWER_SECONDS
            claim.n_asked += 1
        else:
            claim.deadline = now + (ASKING_SECONDS if self.news.is_complete else SILENCE_SECONDS)
        self._send(claim, known)

    def _send(self, claim: WaitingClaim, known: PeerSession | None) -> None:
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
        claim.asked.add(0 if known is None else known.origin)
        to = self._channels.sessions if known is None else self._channels.inbox(known.origin)
        self._link.send(to, encode(message))

    def _take_over(self, claim: WaitingClaim) -> None:
        """Take a session as it was announced."""
        now = self._clock()
        known = self._known(claim, now)
        if known is None or known.user_key != claim.client.user_key:
            self._finish(claim, "unknown" if known is None else "forbidden")
            return
        if known.left is not None and (answer := read_left(known.left, claim.arrival)) is not None:
            # It was left to whomever its client comes to.
            claim.since = known.heard
            self._await_level(claim, answer)
            return
        if not known.is_orphan and known.origin not in claim.asked:
            # It was silent before there was anything to ask; what it has for the user, if it is there after all, is to
            # be asked for before it hears that the session is here.
            self._send(claim, known)
        self.sessions.drop(claim.key)
        self._counts.sessions["taken_over"] += 1
        self._late.expect(claim.number, known.origin, claim.client, known.heard, now)
        since = claim.since if known.lost_at is None else known.lost_at
        self._finish(
            claim,
            self._moved.make(
                claim.session_id,
                claim.client,
                groups_in(known.subscriptions),
                is_paused=known.is_paused,
                moves=known.moves,
                heard=known.heard,
                handed=HandedState(None, since, 0, []),
                was_open=known.expires_at is None,
            ),
        )

    def hear_news(self, states: Iterable[SessionState]) -> None:
        """Ask who has told of a session that somebody waits for."""
        now = self._clock()
        for state in states:
            claim = self._by_key.get(state.key)
            if claim is not None and claim.known is None:
                claim.client.guarded(self._look, claim, now)

    def is_settled(self, known: PeerSession, now: float) -> bool:
        """Whether the holder of a session is gone, and no client waits for the session here."""
        return known.key not in self._by_key and not self._is_there(known, now)

    def hear_kept(self, kept: SessionKept) -> None:
        """Take what another one keeps of a session whose holder was gone before this instance knew of it.

        Raises:
            ControlError: this one was not asked, or not for that session.
        """
        claim = self._claims.get(kept.claim)
        now = self._clock()
        if claim is None or claim.answer is not None or self._known(claim, now) is not None:
            return  # somebody was quicker to tell
        if 0 not in claim.asked or kept.state.key != claim.key:
            raise ControlError("an instance tells of a session that was not asked for")
        if self.peers.get(kept.holder) is None:
            session = session_of(kept, now, self.holdings.ttl, self.hub.sequence)
            claim.client.guarded(self._listen, claim, session)

    def hear_answer(self, answer: SessionAnswer) -> None:
        """Take what a holder says, which may have been held to be gone, and not have said anything else since then.

        Raises:
            ControlError: this one was not asked.
        """
        claim = self._claims.get(answer.claim)
        if claim is not None:
            if claim.asked.isdisjoint((0, answer.origin)):
                if answer.what == "probing":
                    return  # somebody else was quicker to tell
                raise ControlError("an instance answers that was not asked for a session")
            claim.client.guarded(self._take_answer, claim, answer)
        else:
            self._late.hear(answer, self._clock())

    def _take_answer(self, claim: WaitingClaim, answer: SessionAnswer) -> None:
        if answer.what == "probing":
            patience = self._clock() + PROBE_SECONDS
            claim.deadline = max(claim.deadline, patience + SILENCE_SECONDS)
            claim.ask_again_at = patience + _ASK_AGAIN_SECONDS
        elif claim.answer is not None:
            pass  # it was said again
        elif answer.what == "unknown":
            known = self.sessions.get(claim.key, self._clock())
            if known is not None and known.origin != answer.origin and claim.n_asked < 2:
                self._listen(claim, known)  # it has gone on meanwhile
            else:
                self.sessions.remove(answer.origin, claim.key)
                self._finish(claim, "unknown")
        elif answer.what == "given":
            self._await_level(claim, answer)
        else:
            self._finish(claim, answer.what)

    def _await_level(self, claim: WaitingClaim, answer: SessionAnswer) -> None:
        claim.answer = answer
        claim.deadline = self._clock() + LEVEL_SECONDS
        if not self._levels.is_behind(answer):
            self._take(claim, answer)

    def _take(self, claim: WaitingClaim, answer: SessionAnswer) -> None:
        """Take a session as its holder gives it away."""
        self.sessions.drop(claim.key)
        self._counts.sessions["taken"] += 1
        self._finish(
            claim,
            self._moved.make(
                claim.session_id,
                claim.client,
                answer.subscriptions,
                is_paused=answer.is_paused,
                moves=answer.moves,
                heard=claim.since,
                handed=self._levels.state_of(claim, answer),
                was_open=answer.was_open,
            ),
        )

    def _finish(self, claim: WaitingClaim, found: Session | str) -> None:
        if self._claims.pop(claim.number, None) is None:
            return
        del self._by_key[claim.key]
        try:
            claim.then(found)
        finally:
            find = self.holdings.takeover.find
            for client, arrival, then in claim.followers:
                self.hub.loop.call_soon(client.guarded, find, client, claim.session_id, arrival, then)
