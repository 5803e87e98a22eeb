"""The screener dialect (`/v1/ws`): what each request does, and what it is answered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from fastws import messages
from fastws._core import Connection, Dialect, Hub, Topic
from fastws._market import encode_screener
from fastws.auth import Identity
from fastws.clock import wall_ms
from fastws.dialects import answers
from fastws.dialects.admission import KICKED, Admission
from fastws.dialects.clients import Arrival, Client
from fastws.dialects.restoration import restore
from fastws.dialects.subscriptions import Subscriptions
from fastws.dialects.takeover import REFUSALS
from fastws.errors import CloseCode, ErrorCode
from fastws.logs import log_limited
from fastws.market.alert_messages import Alert, encode_alert
from fastws.market.market import Market, Stale, encode_stale
from fastws.messages import Rejected, RequestId
from fastws.sessions import Session

# What a message with a token counts as: checking a signature takes as long as some twenty pings.
_TOKEN_MESSAGES: Final = 10
# Messages kept of a client while it is found out who it is, and bytes of them. A first one is kept whatever its size.
_MAX_WAITING: Final = 100
_MAX_WAITING_SIZE: Final = 64 << 10

# Characters of a user's id in a log line.
_SHOWN_USER_ID: Final = 64

Closer: TypeAlias = Literal["server", "client"]

_log = structlog.get_logger("fastws.screener")


def encode(payload: object, published_ms: int) -> bytes:
    """The message of a payload as JSON without ``sequence`` and the closing brace."""
    kind = type(payload)
    if kind is Alert:
        return encode_alert(payload, published_ms)  # type: ignore[arg-type]
    if kind is Stale:
        return encode_stale(payload)  # type: ignore[arg-type]
    return encode_screener(payload, published_ms)  # type: ignore[arg-type]  # it refuses what it does not know


class ScreenerDialect:
    """Handler of screener connections; one object serves all of them, on the thread of the loop."""

    def __init__(
        self,
        hub: Hub,
        market: Market,
        *,
        admission: Admission,
        subscription_limit: int,
        message_bytes: int,
        accept_unknown_symbols: bool = False,
    ) -> None:
        self.hub = hub
        self.market = market
        self.admission = admission
        self.subscriptions = Subscriptions(
            hub, market, limit=subscription_limit, accept_unknown_symbols=accept_unknown_symbols
        )
        self.dialect = Dialect("screener", encode, 0)
        # Ended connections by close code, or "kicked", and by who has ended them: clients may send any code.
        self.closes: dict[tuple[int | str, Closer], int] = {}
        self.configure(
            subscription_limit=subscription_limit,
            message_bytes=message_bytes,
            accept_unknown_symbols=accept_unknown_symbols,
        )

    def configure(self, *, subscription_limit: int, message_bytes: int, accept_unknown_symbols: bool) -> None:
        """Set what the constructor sets, also later; greetings show it from now on, and the hub's rate limit as it is.

        Subscriptions that are over a lowered limit stay.
        """
        self.subscriptions.limit = subscription_limit
        self.subscriptions.accept_unknown_symbols = accept_unknown_symbols
        self._limits = messages.Limits(subscription_limit, self.hub.rate_limit, message_bytes)

    # What the core calls.

    def on_open(self, connection: Connection) -> None:
        """`connection.context` holds the `Arrival`, and from here on the `Client`."""
        client = connection.context = Client(connection, connection.context, self)
        try:
            self.admission.arrive(client)
        except Exception:
            self.fail(client, "handshake")

    def on_message(self, connection: Connection, text: bytes, is_text: bool) -> None:
        client: Client = connection.context
        if client.is_admitted:
            self.obey(connection, text)
        elif not client.waiting or (
            len(client.waiting) < _MAX_WAITING
            and sum(map(len, client.waiting)) + len(text) <= _MAX_WAITING_SIZE
        ):
            client.waiting += (text,)
        else:
            self.on_rate_limited(connection)

    def obey(self, connection: Connection, text: bytes) -> None:
        """Do what a message asks for."""
        try:
            request = messages.decode(text)
        except msgspec.ValidationError as error:
            answers.invalid(connection, str(error), messages.request_id(text))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            if not text.strip():
                reason = "it is empty"
            answers.invalid(connection, f"The message is not JSON: {reason}", UNSET)
        else:
            client: Client = connection.context
            try:
                self._dispatch(client, request)
            except Exception:
                self.fail(client, str(request.__struct_config__.tag), request.id)

    def on_rate_limited(self, connection: Connection) -> None:
        limit = self.hub.rate_limit
        text = f"Rate limit exceeded ({limit} messages/second)"
        answers.error(connection, ErrorCode.RATE_LIMIT_EXCEEDED, text, {"rate_limit": limit})

    def on_close(self, connection: Connection, code: int) -> None:
        client, connection.context = connection.context, None
        if isinstance(client, Client):
            by = closed_by(connection)
            cause = "kicked" if connection.close_reason == KICKED else code
            self.closes[cause, by] = self.closes.get((cause, by), 0) + 1
            self.admission.depart(client)
            log_closed(client, code, by)

    def announce_shutdown(self, connection: Connection, reconnect_after_ms: int) -> None:
        """Tell a client that the server stops, and when to come back."""
        answers.reply(
            connection,
            messages.ServerShutdown(reconnect_after_ms=reconnect_after_ms, timestamp=answers.now()),
        )

    # What admission has the dialect say.

    def greet(self, client: Client, sequence: int, *, is_followed: bool) -> None:
        """`sequence`: everything up to it the client has, or will not get."""
        identity = client.identity
        client.connection.send_control(
            messages.encode(
                messages.Greeting(
                    status="connected",
                    connection_id=client.connection_id,
                    authenticated=identity is not None,
                    user_id=None if identity is None else identity.user_id,
                    epoch=self.hub.epoch,
                    sequence=sequence,
                    batch_interval_ms=self.hub.interval_ms,
                    limits=self._limits,
                    feeds=self.market.feeds,
                    timestamp=answers.now(),
                )
            ),
            is_followed=is_followed,
        )

    def restored(
        self,
        client: Client,
        session: Session,
        cursor: int | None,
        request_id: RequestId | UnsetType = UNSET,
    ) -> None:
        """Let a client go on where its session ended: with what it missed, or with a snapshot."""
        restore(self.hub, self.subscriptions, self.admission.mail, client, session, cursor, request_id)

    def refuse(
        self, connection: Connection, code: ErrorCode, message: str, details: dict[str, object]
    ) -> None:
        answers.error(connection, code, message, details)

    def fail(self, client: Client, request: str, request_id: RequestId | UnsetType = UNSET) -> None:
        """End a connection over the exception that is being handled: it is a fault of ours.

        `request` is what the client had asked for.
        """
        log_limited(
            _log,
            f"failed {request}",
            "a request failed",
            level="error",
            request=request,
            connection=client.connection_id[:8],
            peer=client.arrival.address,
            exc_info=True,
        )
        text = "The server failed to do this, by a fault of its own; connect again"
        answers.error(client.connection, ErrorCode.INTERNAL_ERROR, text, {}, request_id)
        client.connection.close(CloseCode.INTERNAL_ERROR, CloseCode.INTERNAL_ERROR.meaning)

    # Requests.

    def _dispatch(self, client: Client, request: messages.ClientMessage) -> None:
        connection = client.connection
        if (
            client.identity is None
            and not self.admission.allow_anonymous
            and not isinstance(request, (messages.Auth, messages.Ping))
        ):
            text = "A token is required: send auth first"
            answers.error(connection, ErrorCode.AUTH_REQUIRED, text, {}, request.id)
            return
        match request:
            case messages.Auth():
                self._authenticate(client, request)
            case messages.RefreshToken():
                self._refresh(client, request)
            case messages.Reconnect():
                self._reconnect(client, request)
            case messages.Ping():
                answers.reply(connection, messages.Pong(timestamp=answers.now(), id=request.id))
            case messages.Subscribe():
                self.subscriptions.subscribe(client, request)
            case messages.Unsubscribe():
                self.subscriptions.unsubscribe(connection, request)
            case messages.ListSubscriptions():
                self.subscriptions.show(connection, [], request.id)
            case messages.SetSubscriptions():
                self.subscriptions.replace(client, request)
            case messages.Pause():
                self.admission.mail.pause(client)
                connection.set_subscriptions(connection.subscriptions(), True)
                answers.reply(connection, messages.Paused(timestamp=answers.now(), id=request.id))
            case messages.Resume():
                self._resume(client, request)

    def _resume(self, client: Client, request: messages.Resume) -> None:
        connection = client.connection
        was_paused = connection.is_paused
        held = connection.subscriptions()
        if was_paused:
            connection.set_subscriptions(held, False)
        answers.reply(connection, messages.Resumed(timestamp=answers.now(), id=request.id))
        if was_paused:
            self.admission.mail.resume(client)
        self.subscriptions.send_snapshot(client, held.items())

    def _authenticate(self, client: Client, request: messages.Auth) -> None:
        self._replace_token(
            client,
            request,
            ErrorCode.INVALID_TOKEN,
            lambda identity: messages.Authenticated(
                user_id=identity.user_id,
                expires_at=answers.expiry(identity),
                timestamp=answers.now(),
                id=request.id,
            ),
            same_user=False,
        )

    def _refresh(self, client: Client, request: messages.RefreshToken) -> None:
        self._replace_token(
            client,
            request,
            ErrorCode.TOKEN_REFRESH_ERROR,
            lambda identity: messages.TokenRefreshed(
                expires_at=answers.expiry(identity), timestamp=answers.now(), id=request.id
            ),
            same_user=client.identity is not None,
        )

    def _replace_token(
        self,
        client: Client,
        request: messages.Auth | messages.RefreshToken,
        refusal: ErrorCode,
        accepted: Callable[[Identity], messages.Reply],
        *,
        same_user: bool,
    ) -> None:
        connection = client.connection
        # Never so much that what usually follows a token is over the limit.
        connection.charge(max(0, min(_TOKEN_MESSAGES, self.hub.rate_limit // 4) - 1))

        def done(identity: Identity) -> None:
            answers.reply(connection, accepted(identity))

        def failed(text: str, reason: str) -> None:
            answers.error(connection, refusal, text, {"reason": reason}, request.id)

        def denied(topics: list[Topic]) -> None:
            answers.error(
                connection,
                ErrorCode.FORBIDDEN,
                "The token does not allow what this connection holds; connect again with it",
                {"rejected": [Rejected(topic.name, "forbidden") for topic in topics]},
                request.id,
            )

        self.admission.credentials.replace(
            client, request.token, same_user=same_user, done=done, failed=failed, denied=denied
        )

    def _reconnect(self, client: Client, request: messages.Reconnect) -> None:
        connection = client.connection
        takeover = self.admission.takeover
        arrival = Arrival(
            last_sequence=None if request.last_sequence is UNSET else request.last_sequence,
            epoch=None if request.epoch is UNSET else request.epoch,
        )

        def then(found: Session | str) -> None:
            if not connection.is_open:
                if isinstance(found, Session):
                    self.admission.sessions.save(found)
            elif isinstance(found, Session):
                with self.admission.restoring(client, found):
                    self.admission.presence.rename(client, found.session_id)
                    self.restored(client, found, takeover.cursor_of(found, arrival), request.id)
            else:
                answers.error(
                    connection,
                    ErrorCode.SESSION_RESTORATION_FAILED,
                    REFUSALS[found],
                    {"reason": found},
                    request.id,
                )

        takeover.find(client, request.session_id, then)


def closed_by(connection: Connection) -> Closer:
    """Who has ended a connection: the core has a reason whenever it was the server."""
    return "client" if connection.close_reason is None else "server"


def log_closed(client: Client, code: int, by: Closer) -> None:
    """One line for a connection that ended: for operators when we ended it, else for debugging only."""
    if by == "client" and not _log.isEnabledFor(logging.DEBUG):
        return
    connection = client.connection
    ledger = connection.ledger()
    fields = {
        "code": code,
        "by": by,
        "user": None if client.identity is None else str(client.identity.user_id)[:_SHOWN_USER_ID],
        "reason": connection.close_reason,
        # Its beginning: whoever has the whole of it could take the session over.
        "connection": client.connection_id[:8],
        "peer": client.arrival.address,
        "seconds": round((wall_ms() - connection.opened_at_ms) / 1000, 1),
        "delivered": ledger["delivered"],
        "lost": ledger["lost"],
        "undelivered": ledger["waiting"],
    }
    if by == "server":
        log_limited(_log, f"closed {code}", "connection closed", level="info", **fields)
    else:
        _log.debug("connection ended", **fields)
