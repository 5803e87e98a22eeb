"""Tells of sessions whose holders are gone, to those that have joined since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from fastws.relay.channels import Channels
from fastws.relay.control import MAX_SIZE, encode
from fastws.relay.links import AnyLink
from fastws.relay.peer_sessions import Left, PeerSession, PeerSessions
from fastws.relay.session_messages import SessionAnswer, SessionClaim, SessionKept, SessionState

SETTLING_SECONDS: Final = 2.0
"""How long it takes until it is known whether a holder of which nothing is heard is gone: longer than its silence."""

# Claims that wait for that.
_MAX_WAITING: Final = 10_000


class SessionKeeping:
    """Answers claims of sessions that others have had, as far as they are kept in `sessions`. Belongs to the thread of
    the event loop.

    1. Who joins does not know the sessions of those that have gone before, and asks all. Everybody that keeps such a
       session tells of it; the first one that is heard is enough.
    2. As long as the holder of a session may be there, it answers itself. `is_settled` says whether it is not, and
       whether no client waits here for the session; until then, who asks is told to wait.
    3. It is kept on until somebody says that the session is there. Of two that have taken it, see `PeerSessions`.
    4. A session is its user's.
    """

    def __init__(
        self,
        sessions: PeerSessions,
        is_settled: Callable[[PeerSession, float], bool],
        link: AnyLink,
        channels: Channels,
        *,
        origin: int,
        clock: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._is_settled = is_settled
        self._link = link
        self._channels = channels
        self._origin = origin
        self._clock = clock
        # By who claims, and the number of the claim: until when it waits.
        self._waiting: dict[tuple[int, int], tuple[float, SessionClaim]] = {}

    def hear_claim(self, claim: SessionClaim) -> None:
        """Tell who asks all of what is kept here."""
        now = self._clock()
        if not claim.is_for_all or (known := self._sessions.get(claim.key, now)) is None:
            return
        if self._is_settled(known, now):
            self._tell(claim, known, now)
        elif len(self._waiting) < _MAX_WAITING:
            self._waiting.setdefault((claim.origin, claim.claim), (now + SETTLING_SECONDS, claim))
            self._send(claim, SessionAnswer(self._origin, claim.claim, "probing"))

    def look(self, now: float) -> None:
        """Tell those who wait; to be called some times a second."""
        for key, (until, claim) in list(self._waiting.items()):
            known = self._sessions.get(claim.key, now)
            is_settled = known is not None and self._is_settled(known, now)
            if known is None or is_settled or now >= until:
                del self._waiting[key]
            if known is not None and is_settled:
                self._tell(claim, known, now)

    def _tell(self, claim: SessionClaim, known: PeerSession, now: float) -> None:
        if known.user_key != claim.user_key:
            self._send(claim, SessionAnswer(self._origin, claim.claim, "forbidden"))
            return
        state = SessionState(
            known.key,
            known.moves,
            known.user_key,
            known.is_paused,
            -1 if known.expires_at is None else max(0, round((known.expires_at - now) * 1000)),
            msgspec.Raw(known.subscriptions),
        )
        kept = SessionKept(self._origin, claim.claim, known.origin, state)
        if (left := known.left) is not None:
            kept = msgspec.structs.replace(
                kept, epoch=left.epoch, positions=left.positions, left=left.session
            )
        self._send(claim, kept)

    def _send(self, claim: SessionClaim, message: SessionAnswer | SessionKept) -> None:
        data = encode(message)
        if len(data) > MAX_SIZE and isinstance(message, SessionKept):
            data = encode(msgspec.structs.replace(message, epoch="", positions=[], left=None))
        self._link.send(self._channels.inbox(claim.origin), data)


def session_of(message: SessionKept, now: float, ttl: float, number: int) -> PeerSession:
    """What another instance keeps of a session, as it would be kept here: for `ttl` seconds if it was open.

    `number` is that of the hub.
    """
    state = message.state
    session = PeerSession(
        state.key,
        message.holder,
        state.moves,
        state.user_key,
        state.is_paused,
        now + (ttl if state.lasts_ms < 0 else state.lasts_ms / 1000),
        bytes(state.subscriptions),
        number,
    )
    session.lost_at = number
    if message.left is not None:
        session.left = Left(message.epoch, message.positions, message.left)
    return session
