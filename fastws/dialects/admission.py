"""Who a connection is: its token, its session, its place among its user's connections.

Sans-IO but for timers and tasks, which it asks the hub's loop for. The dialects say things in their own words through
`Speaker`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from fastws._core import Connection, Hub, Topic
from fastws.auth import Authenticator, AuthError, Identity
from fastws.dialects.mail import Mail
from fastws.errors import CloseCode, ErrorCode
from fastws.limits import Limits
from fastws.sessions import Session, Sessions

# How long the old connection of a session has to show that it lives, and how often that is looked at.
PROBE_SECONDS: Final = 1.0
_PROBE_STEPS: Final = 20
# Why a token may be good although its key is not known here yet.
_MAY_BE_NEW_KEY: Final = ("unknown_key", "unavailable")

SESSION_REFUSALS: Final = {
    "unknown": "The session has expired or never was",
    "forbidden": "The session is another user's",
    "in_use": "The session is in use by a connection that answers",
}
"""Why a session cannot be had, for people; the connection stays usable as a new one."""


class Arrival(msgspec.Struct, frozen=True):
    """What a client brings with the handshake. `address` is for people; limits count by `address_key`."""

    token: str | None = None
    session_id: str | None = None
    last_sequence: int | None = None
    epoch: str | None = None
    address: str = "unknown"
    address_key: str = "unknown"


class Client:
    """One connection and who it is. `waiting` holds its messages while that is still being found out.

    `is_counted` is whether it counts to the limits, which it may cease to do before it ends.
    """

    __slots__ = (
        "arrival",
        "connection",
        "connection_id",
        "entered_sequence",
        "expiry",
        "identity",
        "is_admitted",
        "is_counted",
        "owed",
        "waiting",
    )

    def __init__(self, connection: Connection, arrival: Arrival) -> None:
        self.connection = connection
        self.arrival = arrival
        self.connection_id = str(uuid.uuid4())
        self.identity: Identity | None = None
        self.expiry: Any = None
        self.is_admitted = False
        self.is_counted = False
        self.waiting: list[bytes] = []
        # Of what is addressed to the user: from where on it comes to this connection, and what is to come when the
        # connection is resumed; see `Mail`.
        self.entered_sequence = 0
        self.owed: list[int] = []

    @property
    def user_key(self) -> str | None:
        """What users are compared by; None for one without a token."""
        return None if self.identity is None else self.identity.user_key


class Speaker(Protocol):
    """How a dialect says what is decided here."""

    def greet(self, client: Client, sequence: int) -> None: ...

    def restored(self, client: Client, session: Session, cursor: int | None) -> None: ...

    def refuse(
        self, connection: Connection, code: ErrorCode, message: str, details: dict[str, object], /
    ) -> None: ...

    def obey(self, connection: Connection, text: bytes, /) -> None: ...

    def fail(self, client: Client, request: str, /) -> None:
        """End a connection over the exception that is being handled."""


class Admission:
    """Decides who comes in, and knows who is there.

    1. A client hears nothing before it is greeted, and what it says before is kept and obeyed after.
    2. A user has at most `connections_per_user` connections, and an address and the server what `limits` says. They
       are counted after a session has moved, so a client can take its own place over.
    3. A session goes to its own user only, and from a connection that lives it does not go at all.
    4. A connection ends within a second of its token, unless the token was replaced by one that allows what it holds.
    5. A fault of ours ends the connection that met it, also where the loop would swallow it.
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
    ) -> None:
        self.hub = hub
        self.authenticator = authenticator
        self.sessions = sessions
        self.limits = limits
        self.allow_anonymous = allow_anonymous
        self.auth_timeout = auth_timeout
        self.connections_per_user = connections_per_user
        self.evicts_oldest = evicts_oldest
        self.by_id: dict[str, Client] = {}
        self.by_user: dict[str, dict[Client, None]] = {}
        self.mail = Mail(hub, sessions, self.by_user, limit_per_user=kept_messages_per_user)
        self._tasks: set[Any] = set()

    # Coming and going.

    def arrive(self, client: Client, speaker: Speaker) -> None:
        """Find out who a new connection is, and greet or refuse it."""
        self.limits.arrive(client.arrival.address_key)
        token = client.arrival.token
        if token is None:
            self._enter(client, speaker)
            return
        self._verify(
            client,
            speaker,
            token,
            lambda identity: self._enter(client, speaker, identity),
            lambda error: self._turn_away(client, speaker, error),
        )

    def depart(self, client: Client) -> None:
        """Forget a connection that has ended; what it held becomes a session."""
        self.limits.depart(client.arrival.address_key, is_admitted=client.is_counted)
        if client.expiry is not None:
            client.expiry.cancel()
        if self.by_id.get(client.connection_id) is client:
            del self.by_id[client.connection_id]
        self._forget_user(client)
        connection = client.connection
        subscriptions = connection.left_subscriptions
        # A user who has subscribed to nothing is still to get what is addressed to the user.
        if (
            client.is_admitted
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
                    owed=tuple(client.owed),
                )
            )

    def _enter(self, client: Client, speaker: Speaker, identity: Identity | None = None) -> None:
        if not client.connection.is_open:
            return
        client.identity = identity
        arrival = client.arrival
        if arrival.session_id is None:
            self._greet(client, speaker, None)
        else:
            self.find_session(
                client, speaker, arrival.session_id, lambda found: self._greet(client, speaker, found)
            )

    def _greet(self, client: Client, speaker: Speaker, found: Session | str | None) -> None:
        connection = client.connection
        if not connection.is_open:
            if isinstance(found, Session):
                self.sessions.save(found)
            return
        if not self._take_place(client, speaker):
            if isinstance(found, Session):
                self.sessions.save(found)
            return
        if isinstance(found, Session):
            client.connection_id = found.session_id
        client.is_admitted = True
        self.by_id[client.connection_id] = client
        self._note_user(client)
        self._watch_expiry(client, speaker)
        cursor = self.cursor_of(found, client.arrival) if isinstance(found, Session) else None
        # A client keeps the highest number that it sees as its cursor: the greeting must not go beyond what follows.
        sequence = self.hub.sequence
        if cursor is not None and self.hub.history_start - 1 <= cursor <= sequence:
            sequence = cursor
        elif isinstance(found, Session) and (missed := self.mail.missed(client, found, cursor)):
            sequence = missed[0].sequence - 1
        speaker.greet(client, sequence)
        if isinstance(found, Session):
            speaker.restored(client, found, cursor)
        elif isinstance(found, str):
            speaker.refuse(
                connection, ErrorCode.SESSION_RESTORATION_FAILED, SESSION_REFUSALS[found], {"reason": found}
            )
        if client.identity is None and not self.allow_anonymous:
            client.expiry = self.hub.loop.call_later(
                self.auth_timeout, self._guarded, client, speaker, self._demand_token, client, speaker
            )
        self.mail.welcome(client)
        waiting, client.waiting = client.waiting, []
        for text in waiting:
            if connection.is_open:
                speaker.obey(connection, text)

    def _take_place(self, client: Client, speaker: Speaker) -> bool:
        """Count a connection from now on, for its user, its address and in all; False: it was refused."""
        if not self._has_room(client, speaker):
            return False
        key = client.arrival.address_key
        oldest = self._outnumbered(client)
        # Nobody is evicted before it is certain that this one gets in.
        is_freed = oldest is not None and oldest.is_counted
        is_of_key = oldest is not None and is_freed and oldest.arrival.address_key == key
        excess = self.limits.admit(key, n_leaving=is_freed, n_leaving_of_key=is_of_key)
        if excess is not None:
            self._refuse_place(client, speaker, excess.message, excess.limit, excess.current)
            return False
        client.is_counted = True
        if oldest is not None:
            self._evict(oldest)
        return True

    def _has_room(self, client: Client, speaker: Speaker) -> bool:
        """Whether a connection may be its user's, be it in the place of the oldest; False: it was refused."""
        n_others = self._n_others(client)
        if self.evicts_oldest or not self.connections_per_user or n_others < self.connections_per_user:
            return True
        text = f"A user may have {self.connections_per_user} connections; close one first"
        self._refuse_place(client, speaker, text, self.connections_per_user, n_others)
        return False

    def _outnumbered(self, client: Client) -> Client | None:
        """The user's oldest other connection, when it has to go for this one."""
        if not self.connections_per_user or self._n_others(client) < self.connections_per_user:
            return None
        return next(other for other in self.by_user[client.user_key or ""] if other is not client)

    def _n_others(self, client: Client) -> int:
        others = self.by_user.get(client.user_key or "", {})
        return len(others) - (client in others)

    def _evict(self, client: Client) -> None:
        if client.is_counted:
            client.is_counted = False
            self.limits.dismiss(client.arrival.address_key)
        self._forget_user(client)
        client.connection.close(CloseCode.RATE_ABUSE, "replaced by a newer connection of the user")

    def _refuse_place(self, client: Client, speaker: Speaker, text: str, limit: int, current: int) -> None:
        speaker.refuse(
            client.connection, ErrorCode.LIMIT_EXCEEDED, text, {"limit": limit, "current": current}
        )
        client.connection.close(CloseCode.RATE_ABUSE, "too many connections")

    def _turn_away(self, client: Client, speaker: Speaker, error: AuthError) -> None:
        connection = client.connection
        if connection.is_open:
            speaker.refuse(connection, ErrorCode.INVALID_TOKEN, str(error), {"reason": error.reason})
            connection.close(CloseCode.TOKEN_INVALID, f"token: {error.reason}")

    # Sessions.

    def find_session(
        self, client: Client, speaker: Speaker, session_id: str, then: Callable[[Session | str], None]
    ) -> None:
        """Call `then` with the session, or with why it cannot be had: unknown, forbidden or in_use.

        If its old connection is still open it is asked for a sign of life, which takes up to `PROBE_SECONDS`.
        """
        found = self.sessions.take(session_id, client.user_key, time.monotonic())
        if isinstance(found, Session):
            then(found)
            return
        old = self.by_id.get(session_id)
        if old is None or old is client or not old.connection.is_open:
            then("forbidden" if found == "not the user's" else "unknown")
        elif old.user_key != client.user_key:
            then("forbidden")
        else:
            asked_ns = time.monotonic_ns()
            old.connection.ping()
            self._look(client, speaker, old, asked_ns, 1, then)

    def _look(
        self,
        client: Client,
        speaker: Speaker,
        old: Client,
        asked_ns: int,
        step: int,
        then: Callable[[Session | str], None],
    ) -> None:
        if old.connection.is_open and old.connection.heard_at_ns > asked_ns:
            then("in_use")
            return
        if old.connection.is_open and step <= _PROBE_STEPS:
            arguments = (client, speaker, old, asked_ns, step + 1, then)
            self.hub.loop.call_later(
                PROBE_SECONDS / _PROBE_STEPS, self._guarded, client, speaker, self._look, *arguments
            )
            return
        session_id = old.connection_id
        if old.connection.is_open:
            old.connection.close(CloseCode.REPLACED, CloseCode.REPLACED.meaning)
        # It does not answer, so its part of a close handshake is not waited for.
        old.connection.abort(CloseCode.REPLACED, CloseCode.REPLACED.meaning)
        found = self.sessions.take(session_id, client.user_key, time.monotonic())
        then(found if isinstance(found, Session) else "unknown")

    def cursor_of(self, session: Session, arrival: Arrival) -> int | None:
        """The number after which a restored client is to go on; None when it counts in another epoch."""
        if arrival.last_sequence is not None:
            is_ours = arrival.epoch is None or arrival.epoch == self.hub.epoch
            return arrival.last_sequence if is_ours and session.epoch == self.hub.epoch else None
        return session.cursor if session.epoch == self.hub.epoch and session.cursor >= 0 else None

    def adopt(self, client: Client, session: Session) -> None:
        """Let an open connection go on under the id of a session that it has taken over."""
        if self.by_id.get(client.connection_id) is client:
            del self.by_id[client.connection_id]
        client.connection_id = session.session_id
        self.by_id[client.connection_id] = client

    # Tokens.

    def replace_token(
        self,
        client: Client,
        speaker: Speaker,
        token: str,
        *,
        same_user: bool,
        done: Callable[[Identity], None],
        failed: Callable[[str, str], None],
        denied: Callable[[list[Topic]], None],
    ) -> None:
        """Give an open connection a token; `failed` gets (text, reason) and the old token stays.

        A token that does not allow all that is held ends the connection, because subscriptions that fell silent
        would look like a quiet market; `denied` gets what it does not allow.
        """

        def accept(identity: Identity) -> None:
            if not client.connection.is_open:
                return
            if same_user and (client.identity is None or identity.user_key != client.user_key):
                failed("the token is for another user", "user")
                return
            held = client.connection.subscriptions()
            beyond = [topic for topic in held if not identity.allows(topic.kind, topic.name)]
            if beyond:
                denied(beyond)
                client.connection.close(CloseCode.FORBIDDEN, "the new token does not allow what is held")
                return
            if identity.user_key != client.user_key:
                self._forget_user(client)
                client.identity = identity
                if not self._has_room(client, speaker):
                    return
                if (oldest := self._outnumbered(client)) is not None:
                    self._evict(oldest)
            client.identity = identity
            self._note_user(client)
            self._watch_expiry(client, speaker)
            done(identity)
            self.mail.welcome(client)

        self._verify(client, speaker, token, accept, lambda error: failed(str(error), error.reason))

    def kick(
        self, *, user_id: str | None = None, jti: str | None = None, connection_id: str | None = None
    ) -> int:
        """Close a user's connections, those of one token, or one connection with 4401; returns how many."""
        if jti is not None:
            self.authenticator.revoke_jti(jti)
        chosen = [
            client
            for client in self.by_id.values()
            if (user_id is not None and client.user_key == user_id)
            or (connection_id is not None and client.connection_id == connection_id)
            or (jti is not None and client.identity is not None and client.identity.jti == jti)
        ]
        for client in chosen:
            client.connection.close(CloseCode.TOKEN_INVALID, "ended by an administrator")
        return len(chosen)

    def _verify(
        self,
        client: Client,
        speaker: Speaker,
        token: str,
        done: Callable[[Identity], None],
        failed: Callable[[AuthError], None],
    ) -> None:
        try:
            identity = self.authenticator.verify(token)
        except AuthError as error:
            if error.reason in _MAY_BE_NEW_KEY:
                task = self.hub.loop.create_task(self._verify_later(client, speaker, token, done, failed))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                failed(error)
        else:
            done(identity)

    async def _verify_later(
        self,
        client: Client,
        speaker: Speaker,
        token: str,
        done: Callable[[Identity], None],
        failed: Callable[[AuthError], None],
    ) -> None:
        try:
            try:
                identity = await self.authenticator.authenticate(token)
            except AuthError as error:
                failed(error)
            else:
                done(identity)
        except Exception:
            speaker.fail(client, "admission")

    def _guarded(
        self, client: Client, speaker: Speaker, function: Callable[..., None], *arguments: Any
    ) -> None:
        """Call what the loop calls on behalf of a client."""
        try:
            function(*arguments)
        except Exception:
            speaker.fail(client, "admission")

    def _watch_expiry(self, client: Client, speaker: Speaker) -> None:
        if client.expiry is not None:
            client.expiry.cancel()
            client.expiry = None
        if client.identity is not None and client.identity.ends_at is not None:
            left = max(0.0, client.identity.ends_at - time.time())
            # A timer far in the future is set anew when it fires; loops refuse the longest.
            client.expiry = self.hub.loop.call_later(
                min(left, 86_400.0), self._guarded, client, speaker, self._on_expiry, client, speaker
            )

    def _on_expiry(self, client: Client, speaker: Speaker) -> None:
        identity = client.identity
        if identity is None or identity.ends_at is None or not client.connection.is_open:
            return
        if identity.ends_at > time.time() + 0.001:
            self._watch_expiry(client, speaker)
            return
        speaker.refuse(
            client.connection, ErrorCode.INVALID_TOKEN, "The token has expired", {"reason": "expired"}
        )
        client.connection.close(CloseCode.TOKEN_INVALID, "token: expired")

    def _demand_token(self, client: Client, speaker: Speaker) -> None:
        if client.identity is None and client.connection.is_open:
            speaker.refuse(client.connection, ErrorCode.AUTH_REQUIRED, "A token is required", {})
            client.connection.close(CloseCode.TOKEN_INVALID, "no token")

    # Users.

    def _note_user(self, client: Client) -> None:
        if client.user_key is None:
            return
        clients = self.by_user.setdefault(client.user_key, {})
        if client not in clients:
            clients[client] = None
            self.mail.enter(client)

    def _forget_user(self, client: Client) -> None:
        key = client.user_key
        if key is not None and key in self.by_user:
            self.by_user[key].pop(client, None)
            if not self.by_user[key]:
                del self.by_user[key]
