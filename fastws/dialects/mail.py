"""What is addressed to a user: told to the open connections, and kept for those that are away. Sans-IO."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from fastws._core import CHANNEL_STATUS, Hub
from fastws.clock import wall_ms
from fastws.dialects.clients import Client
from fastws.mailboxes import Kept, Mailboxes
from fastws.sessions import Session, Sessions

MAX_UNCLAIMED: Final = 100_000
"""Messages from before the last start that may wait for the first connection of their users."""


class Mail:
    """Brings every user-addressed message to every connection of its user once.

    1. A message goes to the connections that are open, at once and in its place among the updates.
    2. It is kept for connections that have ended and may be restored, for as long as they may. A restored one gets
       what was published after its cursor: with the updates that it missed, in order, or before its snapshot. One
       that was open under another session meanwhile gets only what it has not heard there.
    3. A paused connection gets it when it is resumed.
    4. A new connection hears nothing of before, but for what nobody has heard yet: that goes to the first connection
       of its user that can hear it, under a new number, for as long as sessions are kept. So does what an earlier
       process told nobody (`claim_later`).
    5. `on_told` is called with each payload once somebody was told, or it is known that nobody will be; again for each
       further connection.
    """

    def __init__(
        self,
        hub: Hub,
        sessions: Sessions,
        by_user: Mapping[str, Iterable[Client]],
        *,
        limit_per_user: int,
    ) -> None:
        self.hub = hub
        self.sessions = sessions
        self.mailboxes = Mailboxes(ttl=sessions.ttl, limit_per_user=limit_per_user)
        # For users of whom nothing is here; apart, so that many messages to such users push out no other's.
        self._of_absent = Mailboxes(ttl=sessions.ttl, limit_per_user=limit_per_user)
        self.on_told: Callable[[Any], object] = lambda payload: None
        self._by_user = by_user
        # Nobody can subscribe to this topic: what is told to one user must not be replayed to others.
        topic = hub.topic("user", "")
        self._channel = hub.channel("", "alert", (topic,), bit=CHANNEL_STATUS, numbered=False)
        self._unclaimed: dict[str, list[Any]] = {}
        self._n_unclaimed = 0
        self._unclaimed_until = 0.0

    def tell(self, user_key: str, payload: Any, *, is_heard: bool = False) -> int:
        """Publish `payload` to a user; return its sequence.

        `is_heard`: the user has heard it at another instance, so that it waits for no first connection here.
        """
        clients = [client for client in self._by_user.get(user_key, ()) if client.connection.is_open]
        hearing = [client for client in clients if not client.connection.is_paused]
        sequence = self.hub.tell(self._channel, payload, [client.connection for client in hearing])
        for client in clients:
            if client not in hearing:
                limit = self.mailboxes.limit_per_user
                client.owed = (*client.owed, sequence)[-limit:] if limit > 0 else ()
        now = time.monotonic()
        self.sessions.expire(now)
        is_awaited = user_key in self._by_user or self.sessions.has_user(user_key)
        is_told = is_heard or any(client.connection.is_open for client in hearing)
        # An open connection may turn out to have been dead all along, so what it was told is kept too.
        boxes = self.mailboxes if is_awaited else self._of_absent
        boxes.keep(user_key, Kept(sequence, wall_ms(), payload), now, is_told=is_told)
        if is_told or boxes.limit_per_user <= 0:
            self.on_told(payload)
        return sequence

    def note_heard(self, sequence: int) -> None:
        """The user has heard a message at another instance."""
        for boxes in (self.mailboxes, self._of_absent):
            boxes.note_told(sequence)

    def entrust(self, messages: Iterable[Kept]) -> None:
        """Another instance is to tell messages; until it has, they are kept and nobody here tells them."""
        for kept in messages:
            self.mailboxes.entrust(kept.sequence)

    def take_back(self, messages: Iterable[Kept]) -> None:
        """Nothing was heard of messages that were entrusted, as far as that is so."""
        for kept in messages:
            self.mailboxes.take_back(kept.sequence)

    def configure(self, *, ttl: float, limit_per_user: int) -> None:
        """Set how long, and how many messages of a user are kept; it holds from the next one on."""
        for boxes in (self.mailboxes, self._of_absent):
            boxes.ttl = ttl
            boxes.limit_per_user = limit_per_user

    def claim_later(self, messages: Iterable[tuple[str, Any]]) -> None:
        """Keep messages of an earlier process (user and payload) until their users come, within the sessions' time."""
        self._unclaimed_until = time.monotonic() + self.sessions.ttl
        for user_key, payload in messages:
            waiting = self._unclaimed.setdefault(user_key, [])
            if len(waiting) < self.mailboxes.limit_per_user and self._n_unclaimed < MAX_UNCLAIMED:
                waiting.append(payload)
                self._n_unclaimed += 1

    # Of one connection.

    def enter(self, client: Client) -> None:
        """A connection is its user's from now on."""
        client.entered_sequence = self.hub.sequence
        client.owed = ()

    def welcome(self, client: Client) -> None:
        """Tell what has waited for the first connection of a user."""
        key = client.user_key
        if key is None or not client.connection.is_open or client.connection.is_paused:
            return
        for payload in self.take_untold(key):
            self.tell(key, payload)

    def take_untold(self, user_key: str) -> list[Any]:
        """Return what nobody has heard yet of what was told to a user, in order, and keep it no longer."""
        now = time.monotonic()
        if self._unclaimed and now > self._unclaimed_until:
            self._unclaimed.clear()
        waiting = self._unclaimed.pop(user_key, [])
        kept = self._of_absent.take_untold(user_key, now) + self.mailboxes.take_untold(user_key, now)
        kept.sort(key=lambda one: one.sequence)
        return [*waiting, *(one.payload for one in kept)]

    def pause(self, client: Client) -> None:
        """A connection that is about to be paused gets what it was still to catch up with when it is resumed."""
        client.owed = (*client.owed, *client.connection.addressed_ahead)[-self.mailboxes.limit_per_user :]

    def resume(self, client: Client) -> None:
        """Send what came while a connection was paused."""
        owed, client.owed = set(client.owed), ()
        self.send(client, [kept for kept in self._of(client.user_key) if kept.sequence in owed])

    def missed(self, client: Client, session: Session, cursor: int | None) -> list[Kept]:
        """Return what a client that takes over a session is to get, in order. `cursor`: see `Takeover.cursor_of`."""
        if session.is_moved:
            cursor = None
        return self._missed(client.user_key, session, cursor, client.owed, client.entered_sequence)

    def missed_by(self, session: Session, cursor: int | None) -> list[Kept]:
        """Return what has come for a session, in order."""
        return self._missed(session.user_key, session, cursor, (), self.hub.sequence)

    def _missed(
        self, user_key: str | None, session: Session, cursor: int | None, also: tuple[int, ...], until: int
    ) -> list[Kept]:
        if cursor is None or cursor > self.hub.sequence:
            cursor = session.heard if session.epoch == self.hub.epoch else 0
        owed = {*also, *session.owed}
        return [
            kept for kept in self._of(user_key) if kept.sequence in owed or cursor < kept.sequence <= until
        ]

    def since(self, client: Client, number: int) -> list[Kept]:
        """Return what has come here for the user of a connection since `number`, or since it is the user's."""
        number = min(number, client.entered_sequence)
        return [kept for kept in self._of(client.user_key) if kept.sequence > number]

    def hand(self, client: Client, payloads: Iterable[Any]) -> None:
        """Tell one connection what another instance has kept for it, under new numbers."""
        for payload in payloads:
            if client.user_key is None or not client.connection.is_open:
                return
            is_told = not client.connection.is_paused
            sequence = self.hub.tell(self._channel, payload, [client.connection] if is_told else [])
            if not is_told:
                client.owed = (*client.owed, sequence)
            # The connection may turn out to be as dead as the one before it.
            kept = Kept(sequence, wall_ms(), payload)
            self.mailboxes.keep(client.user_key, kept, time.monotonic(), is_told=True)
            if is_told and client.connection.is_open:
                self.on_told(payload)

    def send(self, client: Client, messages: list[Kept]) -> None:
        """Send messages out of their places, with their numbers."""
        connection = client.connection
        for kept in messages:
            text = connection.dialect.encode(kept.payload, kept.published_ms)
            connection.send(text + b',"sequence":%d}' % kept.sequence)
        if connection.is_open:
            self.note_told(messages)

    def note_told(self, messages: Iterable[Kept]) -> None:
        """Messages were given to a connection that had missed them."""
        for kept in messages:
            self.mailboxes.note_told(kept.sequence)
            self.on_told(kept.payload)

    def _of(self, user_key: str | None) -> list[Kept]:
        return [] if user_key is None else self.mailboxes.of(user_key, time.monotonic())
