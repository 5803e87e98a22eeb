"""A session that goes from a connection that has ended, or does not answer any more, to a new one.

Sans-IO but for timers, which it asks the hub's loop for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from fastws._core import Channel, Hub, Topic
from fastws.dialects.clients import Arrival, Client
from fastws.dialects.presence import Presence
from fastws.errors import CloseCode
from fastws.sessions import Session, Sessions

# How long the old connection of a session has to show that it lives, and how often that is looked at.
PROBE_SECONDS: Final = 1.0
_PROBE_STEPS: Final = 20

REFUSALS: Final = {
    "unknown": "The session has expired or never was",
    "forbidden": "The session is another user's",
    "in_use": "The session is in use by a connection that answers",
}
"""Why a session cannot be had, for people; the connection stays usable as a new one."""

Then = Callable[[Session | str], None]
"""What takes a session that was found, or a key of `REFUSALS`. Who does not use the session saves it again."""


class Claimant(Protocol):
    """Who wants a session: a client of this instance, or of another one."""

    @property
    def user_key(self) -> str | None: ...

    @property
    def guarded(self) -> Callable[..., None]:
        """Calls what the loop is to call on its behalf."""


class Elsewhere(Protocol):
    """Other instances, which may hold the session that a client of this one wants."""

    def claim(self, client: Client, session_id: str, arrival: Arrival, then: Then, /) -> None:
        """Call `then` as :meth:`Takeover.find` does, at once or soon."""


class Takeover:
    """Finds the sessions that clients want to go on with.

    1. A session goes to its own user only, and from a connection that lives it does not go at all.
    2. What a connection held is a session as soon as it has ended, so that ending it is taking it over.
    3. What is not here is asked for elsewhere, where there are other instances.
    """

    def __init__(self, hub: Hub, sessions: Sessions, presence: Presence) -> None:
        self.hub = hub
        self.sessions = sessions
        self.presence = presence
        # None where this instance is alone.
        self.elsewhere: Elsewhere | None = None

    def find(self, client: Client, session_id: str, arrival: Arrival, then: Then) -> None:
        """Call `then` with the session, or with why it cannot be had: unknown, forbidden or in_use.

        If its old connection is still open it is asked for a sign of life, which takes up to `PROBE_SECONDS`.
        `arrival` is what the client says of itself.
        """

        def found_here(found: Session | str) -> None:
            if found == "unknown" and self.elsewhere is not None:
                self.elsewhere.claim(client, session_id, arrival, then)
            else:
                then(found)

        self.find_here(client, session_id, found_here)

    def find_here(self, client: Claimant, session_id: str, then: Then) -> None:
        """The same for sessions of this instance only."""
        found = self.sessions.take(session_id, client.user_key, time.monotonic())
        if isinstance(found, Session):
            then(found)
            return
        old = self.presence.by_id.get(session_id)
        if old is None or old is client or not old.speaker.keeps_sessions:
            then("forbidden" if found == "not the user's" else "unknown")
        elif old.user_key != client.user_key:
            then("forbidden")
        elif not old.connection.is_open:
            # The client has heard that it is closed, and is back before its own farewell is.
            self._take_from(client, old, then)
        else:
            asked_ns = time.monotonic_ns()
            old.connection.ping()
            self._look(client, old, asked_ns, 1, then)

    def _look(self, client: Claimant, old: Client, asked_ns: int, step: int, then: Then) -> None:
        if old.connection.is_open and old.connection.heard_at_ns > asked_ns:
            then("in_use")
            return
        if old.connection.is_open and step <= _PROBE_STEPS:
            arguments = (client, old, asked_ns, step + 1, then)
            self.hub.loop.call_later(PROBE_SECONDS / _PROBE_STEPS, client.guarded, self._look, *arguments)
            return
        self._take_from(client, old, then)

    def _take_from(self, client: Claimant, old: Client, then: Then) -> None:
        """End a connection that does not answer, and take its session."""
        session_id = old.connection_id
        if old.connection.is_open:
            old.connection.close(CloseCode.REPLACED, CloseCode.REPLACED.meaning)
        # It does not answer, so its part of a close handshake is not waited for.
        old.connection.abort(CloseCode.REPLACED, CloseCode.REPLACED.meaning)
        found = self.sessions.take(session_id, client.user_key, time.monotonic())
        holder = self.presence.by_id.get(session_id)
        if isinstance(found, Session):
            then(found)
        elif holder is None or holder is client or holder is old:
            then("unknown")
        else:
            # Another connection of the client was quicker, and may be as dead as this one.
            self.find_here(client, session_id, then)

    def cursor_of(self, session: Session, arrival: Arrival) -> int | None:
        """The number after which a restored client is to go on; None when it counts in another epoch.

        Of a session that has moved it is a number from which on only a part is missing; see `Hub.starts`.
        """
        if session.is_moved:
            found = self.starts_of(session)
            return None if found is None else found[0]
        if arrival.last_sequence is not None:
            is_ours = arrival.epoch is None or arrival.epoch == self.hub.epoch
            return arrival.last_sequence if is_ours and session.epoch == self.hub.epoch else None
        return session.cursor if session.epoch == self.hub.epoch and session.cursor >= 0 else None

    def starts_of(self, session: Session) -> tuple[int, dict[Topic | Channel, int]] | None:
        """Where the client of a session that has moved goes on here; None: some of what it has missed is not here."""
        handed = session.handed
        if handed is None or handed.marks is None:
            return None
        return self.hub.starts(session.subscriptions, handed.marks, handed.since)
