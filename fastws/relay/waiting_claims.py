"""A client that waits for a session of another instance. Sans-IO."""

from __future__ import annotations

from fastws.dialects.clients import Arrival, Client
from fastws.dialects.takeover import Then
from fastws.relay.peer_sessions import PeerSession
from fastws.relay.session_messages import SessionAnswer


class WaitingClaim:
    """A client that waits for a session. `since` is the number of the hub when its holder was asked, `is_level` whether
    everything that others had published until then was here. `is_late`: some of what the client holds was not listened
    to before it came. `followers` want the same session.

    `known` is what was announced of the session when its holder was asked; None: all were asked. Until it `is_asked`,
    what the client holds is still to be heard; then `deadline` is by when an answer has to come. Once there is one, as
    `answer`, it is by when this instance has to be as far as the holder.
    """

    __slots__ = (
        "answer",
        "arrival",
        "ask_again_at",
        "asked",
        "client",
        "deadline",
        "followers",
        "is_asked",
        "is_late",
        "is_level",
        "key",
        "known",
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
        self.known: PeerSession | None = None
        self.is_asked = False
        self.is_level = self.is_late = False
        self.answer: SessionAnswer | None = None
        self.n_asked = 0
        # Origins; 0: all.
        self.asked: set[int] = set()
        self.deadline = self.ask_again_at = 0.0
        self.followers: list[tuple[Client, Arrival, Then]] = []
