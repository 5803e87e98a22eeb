"""The tokens of connections: verified, replaced, and gone by.

Sans-IO but for timers and tasks, which it asks the hub's loop for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from fastws._core import Hub, Topic
from fastws.auth import Authenticator, AuthError, Identity
from fastws.dialects.clients import Client
from fastws.dialects.mail import Mail
from fastws.dialects.presence import Presence
from fastws.errors import CloseCode, ErrorCode

# Why a token may be good although its key is not known here yet.
_MAY_BE_NEW_KEY: Final = ("unknown_key", "unavailable")
# The loop's clock stands still while the machine sleeps, and does not follow when the wall clock is set.
_LONGEST_TIMER: Final = 30.0

Done = Callable[[Identity], None]


class Credentials:
    """Who a connection is by its token.

    1. A connection ends within a second of its token, unless the token was replaced by one that allows what it holds.
    2. A token that is not accepted changes nothing: the one before it stays.
    3. Of several tokens the one that was given last counts, also where an earlier one had to wait for its key.
    4. `client.expiry` is the one timer of a connection: of its token, or of the time to bring one.
    """

    def __init__(self, hub: Hub, authenticator: Authenticator, presence: Presence, mail: Mail) -> None:
        self.hub = hub
        self.authenticator = authenticator
        self.presence = presence
        self.mail = mail
        self._tasks: set[Any] = set()

    def verify(self, client: Client, token: str, done: Done, failed: Callable[[AuthError], None]) -> None:
        """Call `done` with whose token it is, or `failed`; later, where the issuer has to be asked for its keys."""
        try:
            identity = self.authenticator.verify(token)
        except AuthError as error:
            if error.reason in _MAY_BE_NEW_KEY:
                task = self.hub.loop.create_task(self._verify_later(client, token, done, failed))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                failed(error)
        else:
            done(identity)

    async def _verify_later(
        self, client: Client, token: str, done: Done, failed: Callable[[AuthError], None]
    ) -> None:
        try:
            try:
                identity = await self.authenticator.authenticate(token)
            except AuthError as error:
                failed(error)
            else:
                done(identity)
        except Exception:
            client.speaker.fail(client, "admission")

    def replace(
        self,
        client: Client,
        token: str,
        *,
        same_user: bool,
        done: Done,
        failed: Callable[[str, str], None],
        denied: Callable[[list[Topic]], None],
    ) -> None:
        """Give an open connection a token; `failed` gets (text, reason) and the old token stays.

        The reason is that of an `AuthError`, or "user", or "superseded": a token that came later is in force already.

        A token that does not allow all that is held ends the connection, because subscriptions that fell silent
        would look like a quiet market; `denied` gets what it does not allow.
        """
        client.n_tokens += 1
        number = client.n_tokens

        def accept(identity: Identity) -> None:
            if not client.connection.is_open:
                return
            if number < client.token_number:
                failed("a token that came later was accepted already", "superseded")
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
            if self.presence.identify(client, identity):
                client.token_number = number
                self.watch(client)
                done(identity)
                self.mail.welcome(client)

        self.verify(client, token, accept, lambda error: failed(str(error), error.reason))

    def watch(self, client: Client) -> None:
        """End a connection when its token does."""
        self.forget(client)
        if client.identity is not None and client.identity.ends_at is not None:
            left = max(0.0, client.identity.ends_at - time.time())
            client.expiry = self.hub.loop.call_later(
                min(left, _LONGEST_TIMER), client.guarded, self._on_expiry, client
            )

    def demand(self, client: Client, timeout: float) -> None:
        """End a connection that has brought no token within `timeout` seconds."""
        client.expiry = self.hub.loop.call_later(timeout, client.guarded, self._on_no_token, client)

    def forget(self, client: Client) -> None:
        """Cease to watch a connection."""
        if client.expiry is not None:
            client.expiry.cancel()
            client.expiry = None

    def _on_expiry(self, client: Client) -> None:
        identity = client.identity
        if identity is None or identity.ends_at is None or not client.connection.is_open:
            return
        if identity.ends_at > time.time() + 0.001:
            self.watch(client)
            return
        client.refuse(ErrorCode.INVALID_TOKEN, "The token has expired", {"reason": "expired"})
        client.connection.close(CloseCode.TOKEN_INVALID, "token: expired")

    def _on_no_token(self, client: Client) -> None:
        if client.identity is None and client.connection.is_open:
            client.refuse(ErrorCode.AUTH_REQUIRED, "A token is required", {})
            client.connection.close(CloseCode.TOKEN_INVALID, "no token")
