"""How far this instance is with what the client of a session has seen at another one."""

from __future__ import annotations

from fastws._core import Hub
from fastws.relay.awaiting import Awaiting
from fastws.relay.links import AnyLink
from fastws.relay.moved_sessions import MovedSessions, alerts_of
from fastws.relay.peers import Peers
from fastws.relay.receiving import Receiving
from fastws.relay.session_messages import SessionAnswer
from fastws.relay.waiting_claims import WaitingClaim
from fastws.sessions import HandedState


class SessionLevels:
    """Compares what holders say with what is here. Belongs to the thread of the event loop."""

    def __init__(
        self,
        hub: Hub,
        moved: MovedSessions,
        peers: Peers,
        link: AnyLink,
        receiving: Receiving,
        awaiting: Awaiting,
    ) -> None:
        self.hub = hub
        self._moved = moved
        self._peers = peers
        self._link = link
        self._receiving = receiving
        self._awaiting = awaiting

    def is_behind(self, answer: SessionAnswer) -> bool:
        """Whether something is not here yet that the client may have seen at the one that gives its session away."""
        if not self._link.is_up:
            return False  # it will not come
        shards: set[int] = set()
        for group in answer.subscriptions:
            shards |= self._awaiting.shards_of(group.kind, group.names)
        if any(
            shard in shards
            and self._peers.get(origin) is not None
            and not self._receiving.has_reached(origin, shard, position)
            for origin, shard, position in answer.positions
        ):
            return True
        marks = None if answer.marks is None else self._moved.marks(answer.marks)
        return marks is not None and any(channel.stamp < last for channel, _, last in marks)

    def state_of(self, claim: WaitingClaim, answer: SessionAnswer) -> HandedState:
        """What is known here of a session as its holder gives it away; without marks, nobody knows what was missed."""
        since = claim.since
        marks = None
        # What was not heard in time is older here than what the client has seen, which is to be said.
        if claim.is_level and answer.marks is not None and not self.is_behind(answer):
            marks = self._moved.marks(answer.marks)
        if marks is not None and answer.is_early:
            # What the marks leave out has to be what nobody has published yet.
            since = self.hub.sequence
            if self._moved.has_others(self._moved.subscriptions(answer.subscriptions), marks):
                marks = None
            elif claim.is_late and any(channel.stamp > last for channel, _, last in marks):
                # Of what was published since it was left only the last values are here.
                marks = None
        return HandedState(marks, since, answer.n_missed, alerts_of(answer.alerts))
