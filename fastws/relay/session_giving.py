"""Gives sessions of this instance to those that their clients have gone to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from fastws._core import Channel, Hub
from fastws.dialects.clients import Arrival
from fastws.dialects.holdings import Holdings
from fastws.dialects.mail import Mail
from fastws.logs import log_limited
from fastws.mailboxes import Kept
from fastws.market.alert_messages import Alert
from fastws.market.alert_store import number_text
from fastws.relay.channels import Channels
from fastws.relay.control import MAX_SIZE, encode
from fastws.relay.counts import RelayCounts
from fastws.relay.expiring import Expiring
from fastws.relay.links import AnyLink
from fastws.relay.peers import Peers
from fastws.relay.receiving import Receiving
from fastws.relay.sending import Sending
from fastws.relay.session_messages import (
    Answer,
    HandedAlert,
    Mark,
    Reached,
    SessionAnswer,
    SessionClaim,
    SessionLeft,
    SessionsLeft,
    groups_of,
    key_of,
)
from fastws.relay.session_news import SessionNews
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
# Others may not have heard yet that a connection has ended.
_JUST_SECONDS: Final = 1.0

# Of what is left to others: bytes of a message, and how long the loop is held for one.
_PART_SIZE: Final = 48 << 10
_SLICE_SECONDS: Final = 0.002
_BUSY_SIZE: Final = 8 << 20
_LOOK_SECONDS: Final = 0.01

_log = structlog.get_logger("fastws.relay")


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
    6. When this instance goes, it says of all sessions at once what it would answer; see :meth:`leave`.
    """

    def __init__(
        self,
        hub: Hub,
        holdings: Holdings,
        mail: Mail,
        news: SessionNews,
        peers: Peers,
        link: AnyLink,
        channels: Channels,
        sending: Sending,
        receiving: Receiving,
        counts: RelayCounts,
        *,
        origin: int,
        clock: Callable[[], float],
    ) -> None:
        self.hub = hub
        self.holdings = holdings
        self.mail = mail
        self.news = news
        self._peers = peers
        self._link = link
        self._channels = channels
        self._sending = sending
        self._receiving = receiving
        self._counts = counts
        self._origin = origin
        self._clock = clock
        # By the keys of the sessions.
        self._given: Expiring[bytes, _Given] = Expiring(seconds=_GIVEN_SECONDS, limit=_GIVEN_BYTES)
        self._waiting: list[tuple[float, SessionClaim]] = []

    def hear_claim(self, claim: SessionClaim) -> None:
        """Give a session away, or say why not."""
        if self._receiving.n_with_gaps and len(self._waiting) < _MAX_WAITING and self._has(claim):
            self._waiting.append((self._clock() + GAP_SECONDS, claim))
            self._say(claim, "probing")
        else:
            self._answer(claim)

    def look(self, now: float) -> None:
        """Answer those that have waited long enough, or for what is here; to be called often."""
        self._take_back(self._given.expire(now))
        if not self._waiting:
            return
        has_gaps = self._receiving.n_with_gaps > 0
        waiting, self._waiting = self._waiting, []
        for until, claim in waiting:
            if has_gaps and now < until:
                self._waiting.append((until, claim))
            else:
                self._guarded(self._answer, claim)

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

        self.holdings.give(session_id, claim.user_key, self._guarded, then)
        if not is_answered:
            self._say(claim, "probing")

    def _give(self, claim: SessionClaim, session: Session) -> None:
        now = self._clock()
        arrival = Arrival(last_sequence=claim.last_sequence, epoch=claim.epoch)
        # Those who are asked about an update that is on its way here know less than they will.
        positions = self._positions()
        cursor = None if session.is_moved else self.holdings.takeover.cursor_of(session, arrival)
        state, kept = self._state_of(session, cursor, claim.claim)
        message = _fitting(msgspec.structs.replace(state, positions=positions))
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

    async def leave(self, seconds: float) -> None:
        """Tell others how far the clients of all sessions are: this instance goes, and they come to one of those.

        It takes `seconds` at most, holds the loop for some milliseconds at a time, and begins with the sessions that
        ended last.
        """
        deadline = self._clock() + seconds
        while self._receiving.n_with_gaps and self._link.is_up and self._clock() < deadline:
            await asyncio.sleep(_LOOK_SECONDS)
        sessions = self.holdings.sessions
        self.news.tell_now()
        ids = list(sessions.ids())
        n = 0
        while ids and self._link.is_up and self._clock() < deadline:
            if self._link.queue_size > _BUSY_SIZE:
                await asyncio.sleep(_LOOK_SECONDS)
                continue
            left = []
            size = 0
            slice_ends = time.monotonic() + _SLICE_SECONDS
            while ids and size < _PART_SIZE and time.monotonic() < slice_ends:
                session = sessions.look(ids.pop(), time.monotonic())
                if session is not None:
                    left.append(self._left(session))
                    size += len(bytes(left[-1].state))
            message = SessionsLeft(self._origin, self.hub.epoch, self._positions(), left)
            self._link.send(self._channels.sessions, encode(message))
            n += len(left)
            await asyncio.sleep(0)
        if n or ids:
            _log.info("sessions were left to the other instances", sessions=n, not_told=len(ids))

    def _left(self, session: Session) -> SessionLeft:
        is_known = not session.is_moved and session.epoch == self.hub.epoch and session.cursor >= 0
        cursor = session.cursor if is_known else 0
        state, _ = self._state_of(session, cursor if is_known else None, 0)
        if session.is_moved:
            # What its client has counted is of an instance before this one.
            state = msgspec.structs.replace(state, marks=None)
        least = cursor if state.marks is None else self._least(session, cursor)
        return SessionLeft(key_of(session.session_id), least, cursor, msgspec.Raw(_fitting(state)))

    def _least(self, session: Session, cursor: int) -> int:
        """A number up to `cursor` after which nothing was published until then of what is held in mode `all`.

        What a client has seen last may be before that of the kernel: others have got the numbers between.
        """
        held = {topic: options for topic, options in session.subscriptions.items() if not options.latest}
        n_after = self.hub.count_missed(held, cursor)[0]
        least, step = cursor, 1
        while step:
            before = max(least - step, self.hub.history_start - 1, 0)
            if before < least and self.hub.count_missed(held, before)[0] == n_after:
                least = before
                step *= 2
            else:
                step //= 2
        return least

    def _state_of(self, session: Session, cursor: int | None, claim: int) -> tuple[SessionAnswer, list[Kept]]:
        """What there is to say of a session whose client has seen everything up to `cursor`, but for positions; and
        what of that is kept here for its user."""
        subscriptions = session.subscriptions
        handed = session.handed
        if session.is_moved:
            # Nobody has used it here.
            marks = None if handed is None else handed.marks
        else:
            marks = None if cursor is None else self.hub.marks(subscriptions, cursor)
        if self._receiving.n_with_gaps:
            marks = None
        n_missed = 0 if cursor is None else self.hub.count_missed(subscriptions, cursor)[0]
        kept = self.mail.missed_by(session, cursor)
        alerts = [one.payload for one in kept]
        if handed is not None:
            n_missed = max(n_missed, handed.n_missed)
            ids = {alert.id for alert in alerts if alert.id}
            alerts = [alert for alert in handed.alerts if alert.id not in ids] + alerts
        state = SessionAnswer(
            self._origin,
            claim,
            "given",
            session.moves,
            session.is_paused,
            time.monotonic() - session.saved_at < _JUST_SECONDS,
            groups_of(subscriptions),
            None if marks is None else [_mark(*each) for each in marks],
            n_missed,
            [_handed(alert) for alert in alerts],
            session.is_moved,
        )
        return state, kept

    def _positions(self) -> list[Reached]:
        """How far this instance is; what it has published itself is on its way then."""
        own = self._sending.positions()
        reached = [(self._origin, shard, position) for shard, position in enumerate(own)]
        return reached + [each for each in self._receiving.positions() if self._peers.get(each[0])]

    def _refuse(self, claim: SessionClaim, reason: str) -> None:
        """Say why a session cannot be had, which is a key of `REFUSALS`."""
        given = None if reason != "unknown" else self._given.get(claim.key, self._clock())
        if given is None:
            if reason != "unknown" or not claim.is_for_all:
                self._say(claim, reason)  # type: ignore[arg-type]  # those are among the answers
        elif (given.origin, given.claim) == (claim.origin, claim.claim):
            self._link.send(self._channels.inbox(claim.origin), given.message)
        else:
            self._say(claim, "in_use")

    def _say(self, claim: SessionClaim, what: Answer) -> None:
        answer = SessionAnswer(self._origin, claim.claim, what)
        self._link.send(self._channels.inbox(claim.origin), encode(answer))

    def _guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:
            log_limited(_log, "relay-failed", "the relay failed", level="error", exc_info=True)


def _fitting(answer: SessionAnswer) -> bytes:
    """As much of it as others read, what is most needed first."""
    message = encode(answer)
    if len(message) > MAX_SIZE:
        message = encode(answer := msgspec.structs.replace(answer, marks=None))
    if len(message) > MAX_SIZE:
        message = encode(msgspec.structs.replace(answer, alerts=[]))
    return message


def _mark(channel: Channel, first: int, last: int) -> Mark:
    bit: Any = channel.bit  # it is one of those that a mark may have: only those have topics
    return Mark(bit, channel.key, first, last)


def _handed(alert: Alert) -> HandedAlert:
    return HandedAlert(
        alert.code,
        alert.alert_type,
        number_text(alert.threshold),
        number_text(alert.current_price),
        alert.message,
        alert.extra,
        alert.id,
    )
