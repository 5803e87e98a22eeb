"""The tokens of connections: verified, replaced, and gone by.

Sans-IO but for timers and tasks, which it asks the hub's loop for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from fastws._core import Hub, Topic
from fastws.auth import Authenticator, AuthError, AuthRequest, Identity, headers_for
from fastws.dialects.clients import Client
from fastws.dialects.mail import Mail
from fastws.dialects.permits import Permits
from fastws.dialects.presence import Presence
from fastws.errors import CloseCode, ErrorCode

# Why a token may be good although its key is not known here yet.
_MAY_BE_NEW_KEY: Final = ("unknown_key", "unavailable")
# How often it is looked which tokens have ended. By the wall clock: the loop's stands still while the machine sleeps.
_LOOK_SECONDS: Final = 0.5

Done = Callable[[Identity], None]
_Found = TypeVar("_Found")


class Credentials:
    """Who a connection is by its token.

    1. A connection ends within a second of its token, unless the token was replaced by one that allows what it holds.
       Where it was the application's word whose time is over, its client is sent away to come back, and learns by the
       handshake who it is now: there is nothing that it had to bring instead.
    2. A token that is not accepted changes nothing: the one before it stays.
    3. Of several tokens the one that was given last counts, also where an earlier one had to wait for its key.
    4. `client.expiry` says by when a connection has to bring a token, or another one: it is the timer of who has none
       yet, and the look at which the token is found to have ended. A timer for each token would take a tenth of all
       that is kept of an idle connection.
    """

    def __init__(
        self, hub: Hub, authenticator: Authenticator, presence: Presence, mail: Mail, permits: Permits
    ) -> None:
        self.hub = hub
        self.permits = permits
        self.authenticator = authenticator
        self.presence = presence
        self.mail = mail
        self._tasks: set[Any] = set()
        self._by_end: dict[int, set[Client]] = {}  # who holds a token, by the look at which it has ended
        self._looking: Any = None

    def identify(
        self, client: Client, done: Callable[[Identity | None], None], failed: Callable[[AuthError], None]
    ) -> None:
        """Call `done` with who a client is by what it has arrived with, None: who says nothing; or `failed`.

        Later, where the issuer has to be asked for its keys, or the application.
        """
        arrival = client.arrival
        if self.authenticator.asks(arrival.token):
            if arrival.asked_with is not None:
                token, request = arrival.token, arrival.asked_with
                self._begin(client, lambda: self.authenticator.identify(token, request), done, failed)
            else:
                done(None)
        elif arrival.token is None:
            done(None)
        else:
            self.verify(client, arrival.token, done, failed)

    def verify(self, client: Client, token: str, done: Done, failed: Callable[[AuthError], None]) -> None:
        """Call `done` with whose token it is, or `failed`; later, where somebody has to be asked."""
        if self.authenticator.asks(token):
            self._begin(client, lambda: self._of_application(token), done, failed)
            return
        try:
            identity = self.authenticator.verify(token)
        except AuthError as error:
            if error.reason in _MAY_BE_NEW_KEY:
                self._begin(client, lambda: self.authenticator.authenticate(token), done, failed)
            else:
                failed(error)
        else:
            done(identity)

    async def _of_application(self, token: str) -> Identity:
        request = AuthRequest(token, headers_for({}, token))
        identity = await self.authenticator.identify(token, request)
        if identity is None:
            raise AuthError("refused")
        return identity

    def _begin(
        self,
        client: Client,
        ask: Callable[[], Awaitable[_Found]],
        done: Callable[[_Found], None],
        failed: Callable[[AuthError], None],
    ) -> None:
        async def finish() -> None:
            try:
                try:
                    found = await ask()
                except AuthError as error:
                    failed(error)
                else:
                    done(found)
            except Exception:
                client.speaker.fail(client, "admission")

        task = self.hub.loop.create_task(finish())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
            beyond = [topic for topic in held if not self.permits.allows(identity, topic.kind, topic.name)]
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
            client.expiry = math.ceil(client.identity.ends_at / _LOOK_SECONDS)
            self._by_end.setdefault(client.expiry, set()).add(client)
            if self._looking is None:
                self._look_again()

    def demand(self, client: Client, timeout: float) -> None:
        """End a connection that has brought no token within `timeout` seconds."""
        self.forget(client)
        client.expiry = self.hub.loop.call_later(timeout, client.guarded, self._on_no_token, client)

    def forget(self, client: Client) -> None:
        """Cease to watch a connection."""
        expiry, client.expiry = client.expiry, None
        if isinstance(expiry, int):
            clients = self._by_end[expiry]
            clients.discard(client)
            if not clients:
                del self._by_end[expiry]
        elif expiry is not None:
            expiry.cancel()

    def close(self) -> None:
        """Look no more: the server has ended."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _look_again(self) -> None:
        # A little late rather than a little early, which would be a whole interval late.
        left = _LOOK_SECONDS - time.time() % _LOOK_SECONDS
        self._looking = self.hub.loop.call_later(left + 0.002, self._look)

    def _look(self) -> None:
        """End the connections whose tokens have ended."""
        self._looking = None
        now = time.time() / _LOOK_SECONDS
        for end in [end for end in self._by_end if end <= now]:
            for client in list(self._by_end.get(end, ())):
                client.guarded(self._on_expiry, client)
        if self._by_end:
            self._look_again()

    def _on_expiry(self, client: Client) -> None:
        self.forget(client)
        if not client.connection.is_open:
            return
        if client.identity is not None and client.identity.is_to_be_confirmed:
            client.connection.close(CloseCode.GOING_AWAY, "the session is to be confirmed: connect again")
        else:
            client.refuse(ErrorCode.INVALID_TOKEN, "The token has expired", {"reason": "expired"})
            client.connection.close(CloseCode.TOKEN_INVALID, "token: expired")

    def _on_no_token(self, client: Client) -> None:
        if client.identity is None and client.connection.is_open:
            client.refuse(ErrorCode.AUTH_REQUIRED, "A token is required", {})
            client.connection.close(CloseCode.TOKEN_INVALID, "no token")
