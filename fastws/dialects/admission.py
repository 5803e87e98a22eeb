"""How a connection comes in and goes: it is found out who it is, it is greeted, and it leaves a session behind.

Sans-IO but for timers and tasks, which it asks the hub's loop for.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from fastws._core import Hub
from fastws.auth import Authenticator, AuthError, Identity
from fastws.dialects.clients import Arrival, Client
from fastws.dialects.credentials import Credentials
from fastws.dialects.mail import Mail
from fastws.dialects.permits import Permits
from fastws.dialects.presence import COUNTED_SECONDS, Presence
from fastws.dialects.takeover import REFUSALS, Takeover
from fastws.errors import CloseCode, ErrorCode
from fastws.limits import Limits
from fastws.messages import Rejected
from fastws.sessions import Session, Sessions

# What no other token would help against.
_REFUSALS: Final[dict[str, tuple[ErrorCode, CloseCode]]] = {
    "forbidden": (ErrorCode.FORBIDDEN, CloseCode.FORBIDDEN),
    "application": (ErrorCode.INTERNAL_ERROR, CloseCode.INTERNAL_ERROR),
}

KICKED: Final = "ended by an administrator"
"""The reason of a connection that was kicked, which has the close code of a bad token."""


class Admission:
    """Decides who comes in: by its token (`Credentials`), its session (`Takeover`) and the room (`Presence`).

    1. A client hears nothing before it is greeted, and what it says before is kept and obeyed after.
    2. Connections are counted after a session has moved, so a client can take its own place over.
    3. A session that was found and is not used after all is kept again, also when restoring it fails.
    4. A fault of ours ends the connection that met it, also where the loop would swallow it.
    """

    def __init__(
        self,
        hub: Hub,
        authenticator: Authenticator,
        sessions: Sessions,
        limits: Limits,
        *,
        allow_anonymous: bool = True,
        auth_timeout: float = 10.0,
        connections_per_user: int = 5,
        evicts_oldest: bool = False,
        kept_messages_per_user: int = 100,
        permits: Permits,
    ) -> None:
        self.hub = hub
        self.permits = permits
        self.sessions = sessions
        self.allow_anonymous = allow_anonymous
        self.auth_timeout = auth_timeout
        self.presence = Presence(
            limits, connections_per_user=connections_per_user, evicts_oldest=evicts_oldest
        )
        self.mail = Mail(hub, sessions, self.presence.by_user, limit_per_user=kept_messages_per_user)
        self.presence.on_entered = self.mail.enter
        self.credentials = Credentials(hub, authenticator, self.presence, self.mail, permits)
        self.takeover = Takeover(hub, sessions, self.presence)

    def configure(
        self, *, allow_anonymous: bool, auth_timeout: float, connections_per_user: int, evicts_oldest: bool
    ) -> None:
        """Set what the constructor sets, also later; it holds for those who come from then on."""
        self.allow_anonymous = allow_anonymous
        self.auth_timeout = auth_timeout
        self.presence.connections_per_user = connections_per_user
        self.presence.evicts_oldest = evicts_oldest

    def arrive(self, client: Client) -> None:
        """Find out who a new connection is, and greet or refuse it."""
        self.presence.arrive(client)
        self.credentials.identify(
            client,
            lambda identity: self._enter(client, identity),
            lambda error: self._turn_away(client, error),
        )

    def depart(self, client: Client) -> None:
        """Forget a connection that has ended; what it held becomes a session where its dialect has them."""
        self.credentials.forget(client)
        self.presence.depart(client)
        if client.unrestored is not None:
            if client.is_kept:
                self.sessions.save(client.unrestored)
            return
        connection = client.connection
        subscriptions = connection.left_subscriptions
        # A user who has subscribed to nothing is still to get what is addressed to the user.
        if (
            client.is_kept
            and client.is_admitted
            and client.speaker.keeps_sessions
            and subscriptions is not None
            and (subscriptions or client.user_key is not None)
        ):
            self.sessions.save(
                Session(
                    session_id=client.connection_id,
                    user_key=client.user_key,
                    subscriptions=subscriptions,
                    is_paused=connection.left_paused,
                    cursor=connection.left_sequence if connection.left_whole else -1,
                    epoch=self.hub.epoch,
                    saved_at=time.monotonic(),
                    heard=connection.left_sequence,
                    owed=client.owed,
                    address_key=client.arrival.address_key,
                    moves=client.moves,
                )
            )

    @contextlib.contextmanager
    def restoring(self, client: Client, session: Session) -> Iterator[None]:
        """Keep a session again when what is done in this context fails, which ends the connection."""
        try:
            yield
        except Exception:
            client.unrestored = session
            if not client.connection.is_open:
                self.sessions.save(session)
            raise

    def kick(
        self, *, user_id: str | None = None, jti: str | None = None, connection_id: str | None = None
    ) -> int:
        """Close a user's connections, those of one token, or one connection with 4401; returns how many.

        One that is on its way in counts too, and has the id of the session that it is taking over. A token whose id
        is given is revoked until it ends, for as long as this process runs: revocations are not stored.
        """
        chosen = [
            client
            for client in chain(self.presence.by_id.values(), self.presence.arriving)
            if (user_id is not None and client.user_key == user_id)
            or (connection_id is not None and connection_id == client.connection_id)
            or (
                connection_id is not None
                and not client.is_admitted
                and connection_id == client.arrival.session_id
            )
            or (jti is not None and client.identity is not None and client.identity.jti == jti)
        ]
        if jti is not None:
            ends = [client.identity.ends_at for client in chosen if client.identity is not None]
            known = [end for end in ends if end is not None]
            until = max(known) if known and len(known) == len(ends) else None
            self.credentials.authenticator.revoke_jti(jti, until)
        # One that was closed is there until its client has said farewell, and was counted.
        n_open = sum(client.connection.is_open for client in chosen)
        for client in chosen:
            client.connection.close(CloseCode.TOKEN_INVALID, KICKED)
        return n_open

    def revoke(self, portfolio_ids: Iterable[int]) -> None:
        """Take portfolios from those who hold them and may not any more; their owners are others now."""
        for user_key in self.permits.forget(portfolio_ids):
            for client in list(self.presence.by_user.get(user_key, ())):
                client.guarded(self._look_over, client)

    def _look_over(self, client: Client) -> None:
        """Take from a connection what it may not hold any more, and tell it."""
        permits, connection = self.permits, client.connection
        held = connection.subscriptions()
        kept = {
            topic: options
            for topic, options in held.items()
            if permits.allows(client.identity, topic.kind, topic.name)
        }
        if len(kept) == len(held):
            return
        connection.set_subscriptions(kept)
        client.speaker.note_held(client)
        gone = [Rejected(topic.name, "forbidden") for topic in held if topic not in kept]
        client.refuse(
            ErrorCode.FORBIDDEN, "What was subscribed to is not there for you any more", {"rejected": gone}
        )

    def _enter(self, client: Client, identity: Identity | None) -> None:
        if not client.connection.is_open:
            return
        client.identity = identity
        session_id = client.arrival.session_id
        if session_id is None:
            self._greet(client, None)
        elif identity is None and not self.allow_anonymous:
            # Also one from before tokens were required: it would bring its subscriptions with it.
            self._greet(client, "forbidden")
        else:
            self.takeover.find(client, session_id, client.arrival, lambda found: self._greet(client, found))

    def _greet(self, client: Client, found: Session | str | None) -> None:
        connection = client.connection
        if isinstance(found, Session) and found.was_open:
            client.moved_until = time.monotonic() + COUNTED_SECONDS
        if not (connection.is_open and self._is_current(client) and self.presence.take_place(client)):
            if isinstance(found, Session):
                self.sessions.save(found)
            return
        if isinstance(found, Session):
            client.connection_id = found.session_id
            client.moves = found.moves
        client.is_admitted = True
        self.presence.enter(client)
        self.credentials.watch(client)
        if isinstance(found, Session):
            with self.restoring(client, found):
                self._restore(client, found)
        else:
            client.speaker.greet(client, self.hub.sequence, is_followed=found is not None)
            if found is not None:
                client.refuse(ErrorCode.SESSION_RESTORATION_FAILED, REFUSALS[found], {"reason": found})
        if client.identity is None and not self.allow_anonymous:
            self.credentials.demand(client, self.auth_timeout)
        self.mail.welcome(client)
        # The rest has done its work; a token takes as much memory as all else that is known of a client.
        client.arrival = Arrival(address=client.arrival.address, address_key=client.arrival.address_key)
        client.speaker.obey_waiting(client)

    def _restore(self, client: Client, session: Session) -> None:
        cursor = self.takeover.cursor_of(session, client.arrival)
        # A client keeps the highest number that it sees as its cursor: the greeting must not go beyond what follows.
        sequence = self.hub.sequence
        if cursor is not None and self.hub.history_start - 1 <= cursor <= sequence:
            sequence = cursor
        elif missed := self.mail.missed(client, session, cursor):
            sequence = missed[0].sequence - 1
        client.speaker.greet(client, sequence, is_followed=True)
        client.speaker.restored(client, session, cursor)

    def _is_current(self, client: Client) -> bool:
        """Whether the token of a client that may have waited for its session still holds; False: it was refused."""
        if client.identity is None:
            return True
        try:
            self.credentials.authenticator.check(client.identity)
        except AuthError as error:
            self._turn_away(client, error)
            return False
        return True

    def _turn_away(self, client: Client, error: AuthError) -> None:
        if client.connection.is_open:
            code, close_code = _REFUSALS.get(error.reason, (ErrorCode.INVALID_TOKEN, CloseCode.TOKEN_INVALID))
            client.refuse(code, str(error), {"reason": error.reason})
            client.connection.close(close_code, f"token: {error.reason}")
