"""Gives sessions of this instance to those that their clients have gone to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from fastws.dialects.clients import Arrival
from fastws.dialects.holdings import Holdings
from fastws.dialects.mail import Mail
from fastws.mailboxes import Kept
from fastws.relay.channels import Channels
from fastws.relay.control import encode
from fastws.relay.counts import RelayCounts
from fastws.relay.expiring import Expiring
from fastws.relay.failures import guarded
from fastws.relay.links import AnyLink
from fastws.relay.session_messages import Answer, SessionAnswer, SessionClaim
from fastws.relay.session_news import SessionNews
from fastws.relay.session_states import SessionStates, encode_state
from fastws.relay.streams import GRACE_SECONDS, HOLD_SECONDS
from fastws.sessions import Session

GAP_SECONDS: Final = HOLD_SECONDS + 2 * GRACE_SECONDS
"""How long an answer waits for what is missing here: by then it has come, or was given up."""

# How long it is known what was given away: the same answer for who asks again, and for others that it is too late.
_GIVEN_SECONDS: Final = 5.0
_GIVEN_BYTES: Final = 16 << 20
# What an entry takes beside its answer.
_ENTRY_SIZE: Final = 400
# Claims that wait for a gap to be closed; others are answered at once.
_MAX_WAITING: Final = 10_000


class _Given(NamedTuple):
    """The answer to a claim of `origin`, and what of it is still kept here for the user of the session."""

    origin: int
    claim: int
    message: bytes
    kept: list[Kept]


class SessionGiving:
    """Answers the claims of other instances. Belongs to the thread of the event loop.

    1. An old connection that lives keeps its session; what is given is not there any more.
    2. The answer says by stamps how far the client is, which takes that nothing is missing here. So it waits for gaps
       to be closed, for `GAP_SECONDS` at most.
    3. Who asks again gets the same answer again.
    4. What is addressed to the user of a session is kept here, too. Who takes the session tells it; when nobody has
       said so while the answer is remembered, it waits here again.
    5. A session is its user's.
    6. Who asks everyone is told of the session, and then asks for it here: it says first from where on it has heard
       what the client holds.
    """

    def __init__(
        self,
        holdings: Holdings,
        mail: Mail,
        news: SessionNews,
        states: SessionStates,
        link: AnyLink,
        channels: Channels,
        counts: RelayCounts,
        *,
        origin: int,
        clock: Callable[[], float],
    ) -> None:
        self.holdings = holdings
        self.mail = mail
        self.news = news
        self._states = states
        self._link = link
        self._channels = channels
        self._counts = counts
        self._origin = origin
        self._clock = clock
        # By the keys of the sessions.
        self._given: Expiring[bytes, _Given] = Expiring(seconds=_GIVEN_SECONDS, limit=_GIVEN_BYTES)
        self._waiting: list[tuple[float, SessionClaim]] = []

    def hear_claim(self, claim: SessionClaim) -> None:
        """Give a session away, or say why not."""
        if claim.is_for_all and self.news.tell_one(claim.key):
            return
        if self._states.has_gaps and len(self._waiting) < _MAX_WAITING and self._has(claim):
            self._waiting.append((self._clock() + GAP_SECONDS, claim))
            self._say(claim, "probing")
        else:
            self._answer(claim)

    def look(self, now: float) -> None:
        """Answer those that have waited long enough, or for what is here; to be called often."""
        self._take_back(self._given.expire(now))
        if not self._waiting:
            return
        has_gaps = self._states.has_gaps
        waiting, self._waiting = self._waiting, []
        for until, claim in waiting:
            if has_gaps and now < until:
                self._waiting.append((until, claim))
            else:
                guarded(self._answer, claim)

    def _has(self, claim: SessionClaim) -> bool:
        return self.news.id_of(claim.key) is not None

    def _answer(self, claim: SessionClaim) -> None:
        session_id = self.news.id_of(claim.key)
        if session_id is None:
            self._refuse(claim, "unknown")
            return
        is_answered = False

        def then(found: Session | str) -> None:
            nonlocal is_answered
            is_answered = True
            if isinstance(found, Session):
                self._give(claim, found)
            else:
                self._refuse(claim, found)

        self.holdings.give(session_id, claim.user_key, guarded, then)
        if not is_answered:
            self._say(claim, "probing")

    def _give(self, claim: SessionClaim, session: Session) -> None:
        now = self._clock()
        arrival = Arrival(last_sequence=claim.last_sequence, epoch=claim.epoch)
        # Those who are asked about an update that is on its way here know less than they will.
        positions = self._states.positions()
        cursor = None if session.is_moved else self.holdings.takeover.cursor_of(session, arrival)
        state, kept = self._states.of(session, cursor, claim.claim)
        message = encode_state(msgspec.structs.replace(state, positions=positions))
        self._link.send(self._channels.inbox(claim.origin), message)
        self.mail.entrust(kept)
        size = _ENTRY_SIZE + len(message)
        self._take_back(
            self._given.put(claim.key, _Given(claim.origin, claim.claim, message, kept), size, now)
        )
        self._counts.sessions["given"] += 1

    def _take_back(self, given: list[_Given]) -> None:
        for one in given:
            self.mail.take_back(one.kept)

    def _refuse(self, claim: SessionClaim, reason: str) -> None:
        """Say why a session cannot be had, which is a key of `REFUSALS`."""
        given = None if reason != "unknown" else self._given.get(claim.key, self._clock())
        if given is not None and (given.origin, given.claim) == (claim.origin, claim.claim):
            self._link.send(self._channels.inbox(claim.origin), given.message)
        elif reason == "unknown" and claim.is_for_all:
            pass  # who has it says so
        elif given is None:
            self._say(claim, reason)  # type: ignore[arg-type]  # those are among the answers
        else:
            self._say(claim, "in_use")

    def _say(self, claim: SessionClaim, what: Answer) -> None:
        answer = SessionAnswer(self._origin, claim.claim, what)
        self._link.send(self._channels.inbox(claim.origin), encode(answer))
