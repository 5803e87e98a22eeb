"""All that an instance does about sessions that go from one to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastws._core import Hub
from fastws.dialects.holdings import Holdings
from fastws.dialects.mail import Mail
from fastws.market.market import Market
from fastws.relay.awaiting import Awaiting
from fastws.relay.channels import Channels
from fastws.relay.control import SessionMessage
from fastws.relay.counts import RelayCounts
from fastws.relay.failures import log_failure
from fastws.relay.links import AnyLink
from fastws.relay.peer_sessions import PeerSessions
from fastws.relay.peers import Peers
from fastws.relay.receiving import Receiving
from fastws.relay.sending import Sending
from fastws.relay.session_claims import SessionClaims
from fastws.relay.session_giving import SessionGiving
from fastws.relay.session_keeping import SessionKeeping
from fastws.relay.session_leaving import SessionLeaving
from fastws.relay.session_messages import (
    SessionChanges,
    SessionClaim,
    SessionKept,
    SessionsLeft,
    SessionsPart,
    SessionsRequest,
)
from fastws.relay.session_news import SessionNews
from fastws.relay.session_states import SessionStates

_LEAVE_SECONDS: Final = 1.5


class SessionMoves:
    """Puts together what tells of sessions, asks for them, gives them away and leaves them.

    `known` are the sessions of others, of which `limit` bytes are kept. Belongs to the thread of the event loop.
    """

    def __init__(
        self,
        hub: Hub,
        market: Market,
        holdings: Holdings,
        mail: Mail,
        peers: Peers,
        link: AnyLink,
        channels: Channels,
        sending: Sending,
        receiving: Receiving,
        awaiting: Awaiting,
        counts: RelayCounts,
        *,
        origin: int,
        interval: float,
        limit: int,
        clock: Callable[[], float],
    ) -> None:
        self.known = PeerSessions(limit)
        self.news = SessionNews(
            hub,
            holdings,
            self.known,
            link,
            channels,
            counts,
            origin=origin,
            interval=interval,
            clock=clock,
        )
        states = SessionStates(hub, mail, peers, sending, receiving, origin=origin)
        self.giving = SessionGiving(
            holdings, mail, self.news, states, link, channels, counts, origin=origin, clock=clock
        )
        self.leaving = SessionLeaving(
            hub, holdings, self.news, states, link, channels, origin=origin, clock=clock
        )
        self.claims = SessionClaims(
            hub,
            market,
            holdings,
            mail,
            self.news,
            self.known,
            peers,
            link,
            channels,
            sending,
            receiving,
            awaiting,
            counts,
            origin=origin,
            clock=clock,
        )
        self.keeping = SessionKeeping(
            self.known, self.claims.is_settled, link, channels, origin=origin, clock=clock
        )

    def look(self, now: float) -> None:
        """Look after those who wait; to be called some times a second."""
        self.claims.look(now)
        self.giving.look(now)
        self.keeping.look(now)

    def hear(self, message: SessionMessage) -> None:
        """Take what an instance says that is there."""
        if isinstance(message, SessionChanges):
            self.claims.hear_news(self.news.hear(message))
        elif isinstance(message, SessionsPart):
            self.news.hear_part(message)
        elif isinstance(message, SessionsRequest):
            self.news.tell_all(message.origin)
        elif isinstance(message, SessionsLeft):
            self.news.hear_left(message)
        elif isinstance(message, SessionClaim):
            self.giving.hear_claim(message)
            self.keeping.hear_claim(message)
        elif isinstance(message, SessionKept):
            self.claims.hear_kept(message)
        else:
            self.claims.hear_answer(message)

    async def leave(self) -> None:
        """Leave all sessions to the other instances."""
        try:
            await self.leaving.leave(_LEAVE_SECONDS)
        except Exception:
            # A fault of ours, for which the rest of the stop does not stay undone.
            log_failure()
