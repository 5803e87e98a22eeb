"""The sessions of this instance as other instances see them: open or ended, given away, or given up. Sans-IO."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from fastws._core import Options, Topic
from fastws.dialects.clients import Client
from fastws.dialects.presence import Presence
from fastws.dialects.takeover import Takeover, Then
from fastws.errors import CloseCode
from fastws.sessions import Sessions


class Holding(NamedTuple):
    """What a session holds. `seconds_left` can it still be restored, None while its connection is open. `moves`: see
    `Session`."""

    user_key: str | None
    subscriptions: Mapping[Topic, Options]
    is_paused: bool
    moves: int
    seconds_left: float | None


class Claimant:
    """A client of another instance that wants a session of this one."""

    def __init__(self, user_key: str | None, guarded: Callable[..., None]) -> None:
        self.user_key = user_key
        self.guarded = guarded


class Holdings:
    """What can be restored of what this instance has, by session id.

    `on_change` is called with the id of a session that has come, changed or gone, and whether its connection has ended
    or it was taken or forgotten; more often than that, and before :meth:`find` is asked.
    """

    def __init__(self, sessions: Sessions, presence: Presence, takeover: Takeover) -> None:
        self.sessions = sessions
        self.presence = presence
        self.takeover = takeover
        self.on_change: Callable[[str, bool], object] = lambda session_id, is_over: None
        presence.on_changed = self._note
        sessions.on_change = self._note_over

    @property
    def ttl(self) -> float:
        return self.sessions.ttl

    def _note(self, session_id: str) -> None:
        self.on_change(session_id, False)

    def _note_over(self, session_id: str) -> None:
        self.on_change(session_id, True)

    def ids(self) -> Iterator[str]:
        """Of all sessions; some may turn out to be none."""
        yield from list(self.presence.by_id)
        yield from self.sessions.ids()

    def find(self, session_id: str) -> Holding | None:
        """How a session is now; None: it is not here."""
        client = self.presence.by_id.get(session_id)
        if client is not None and client.is_kept and client.speaker.keeps_sessions:
            connection = client.connection
            if connection.is_open:
                held, is_paused = connection.subscriptions(), connection.is_paused
            else:
                held, is_paused = connection.left_subscriptions or {}, connection.left_paused
            if held or client.user_key is not None:
                return Holding(client.user_key, held, is_paused, client.moves, None)
        now = time.monotonic()
        session = self.sessions.look(session_id, now)
        if session is None:
            return None
        return Holding(
            session.user_key,
            session.subscriptions,
            session.is_paused,
            session.moves,
            session.saved_at + self.sessions.ttl - now,
        )

    def expire(self) -> None:
        """Forget the sessions whose time is over."""
        self.sessions.expire(time.monotonic())

    def give(self, session_id: str, user_key: str | None, guarded: Callable[..., Any], then: Then) -> None:
        """Give a session away; see `Takeover.find_here`. `guarded` calls what is to be called later."""
        self.takeover.find_here(Claimant(user_key, guarded), session_id, then)

    def give_up(self, session_id: str) -> None:
        """Another instance has the session: end it here, and its connection with 4410."""
        client = self.presence.by_id.get(session_id)
        if client is not None:
            self._replace(client)
        self.sessions.discard(session_id)

    def _replace(self, client: Client) -> None:
        client.is_kept = False
        client.connection.close(CloseCode.REPLACED, CloseCode.REPLACED.meaning)
