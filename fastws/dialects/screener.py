"""The screener dialect (`/v1/ws`): what each request does, and what it is answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import UNSET, UnsetType

from fastws import messages
from fastws._core import Connection, Dialect, Hub
from fastws._market import encode_screener
from fastws._portfolios import PortfolioValue
from fastws._portfolios import encode_screener as encode_portfolio
from fastws.auth import Identity
from fastws.dialects import answers
from fastws.dialects.admission import Admission
from fastws.dialects.clients import Arrival, Client
from fastws.dialects.conversation import Conversation
from fastws.dialects.restoration import restore
from fastws.dialects.subscriptions import Subscriptions
from fastws.dialects.takeover import REFUSALS
from fastws.dialects.targets import Targets
from fastws.errors import ErrorCode
from fastws.market.alert_messages import Alert, encode_alert
from fastws.market.freshness import SymbolStatus, encode_symbol_status
from fastws.market.market import Market, Stale, encode_stale
from fastws.messages import RequestId
from fastws.sessions import Session


def encode(payload: object, published_ms: int) -> bytes:
    """The message of a payload as JSON without ``sequence`` and the closing brace."""
    kind = type(payload)
    if kind is PortfolioValue:
        return encode_portfolio(payload, published_ms)  # type: ignore[arg-type]
    if kind is Alert:
        return encode_alert(payload, published_ms)  # type: ignore[arg-type]
    if kind is SymbolStatus:
        return encode_symbol_status(payload, published_ms)  # type: ignore[arg-type]
    if kind is Stale:
        return encode_stale(payload)  # type: ignore[arg-type]
    return encode_screener(payload, published_ms)  # type: ignore[arg-type]  # it refuses what it does not know


class ScreenerDialect(Conversation):
    """Handler of screener connections; see `Conversation`."""

    keeps_sessions = True

    def __init__(
        self, hub: Hub, market: Market, *, admission: Admission, targets: Targets, message_bytes: int
    ) -> None:
        super().__init__(hub, Dialect("screener", encode, 0), admission, targets)
        self.market = market
        self.subscriptions = Subscriptions(hub, targets)
        self.configure(message_bytes=message_bytes)

    def configure(self, *, message_bytes: int) -> None:
        """Set what the constructor sets, also later; greetings show it from now on, and other limits as they are."""
        self._limits = messages.Limits(self.targets.limit, self.hub.rate_limit, message_bytes)

    # What the server says by itself.

    def refuse(
        self,
        connection: Connection,
        code: ErrorCode,
        message: str,
        details: dict[str, object],
        request_id: RequestId | UnsetType = UNSET,
    ) -> None:
        answers.error(connection, code, message, details, request_id)

    def refuse_message(self, connection: Connection, reason: str, request_id: RequestId | UnsetType) -> None:
        answers.invalid(connection, reason, request_id)

    def announce_shutdown(self, connection: Connection, reconnect_after_ms: int) -> None:
        answers.reply(
            connection,
            messages.ServerShutdown(reconnect_after_ms=reconnect_after_ms, timestamp=answers.now()),
        )

    def greet(self, client: Client, sequence: int, *, is_followed: bool) -> None:
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
        arrival: Arrival | None = None,
    ) -> None:
        """Let a client go on where its session ended: with what it missed, or with a snapshot. `arrival` is what it
        has said of itself, if not with the handshake."""
        has_counted = (client.arrival if arrival is None else arrival).last_sequence is not None
        admission = self.admission
        restore(
            self.hub,
            self.subscriptions,
            admission.mail,
            admission.takeover,
            client,
            session,
            cursor,
            has_counted,
            request_id,
        )

    # Requests.

    def decode(self, text: bytes) -> messages.ClientMessage:
        request: messages.ClientMessage = messages.decode(text)
        return request

    def named(self, request: messages.ClientMessage) -> Iterable[tuple[str, Sequence[str]]]:
        if isinstance(request, messages.Subscribe):
            return [(request.subscription_type, request.targets)]
        if isinstance(request, messages.SetSubscriptions):
            return request.subscriptions.items()
        return []

    def dispatch(self, client: Client, request: messages.ClientMessage) -> None:
        connection = client.connection
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
                self.subscriptions.unsubscribe(client, request)
            case messages.ListSubscriptions():
                self.subscriptions.show(connection, [], request.id)
            case messages.SetSubscriptions():
                self.subscriptions.replace(client, request)
            case messages.Pause():
                self.admission.mail.pause(client)
                connection.set_subscriptions(connection.subscriptions(), True)
                self.note_held(client)
                answers.reply(connection, messages.Paused(timestamp=answers.now(), id=request.id))
            case messages.Resume():
                self._resume(client, request)

    def _resume(self, client: Client, request: messages.Resume) -> None:
        connection = client.connection
        was_paused = connection.is_paused
        held = connection.subscriptions()
        if was_paused:
            self.targets.hold(client, held, is_paused=False)
        answers.reply(connection, messages.Resumed(timestamp=answers.now(), id=request.id))
        if was_paused:
            self.admission.mail.resume(client)
        self.targets.send_snapshot(client, held.items())

    def _authenticate(self, client: Client, request: messages.Auth) -> None:
        def accepted(identity: Identity) -> None:
            answers.reply(
                client.connection,
                messages.Authenticated(
                    user_id=identity.user_id,
                    expires_at=answers.expiry(identity),
                    timestamp=answers.now(),
                    id=request.id,
                ),
            )

        self.replace_token(
            client, request.token, request.id, ErrorCode.INVALID_TOKEN, accepted, same_user=False
        )

    def _refresh(self, client: Client, request: messages.RefreshToken) -> None:
        def accepted(identity: Identity) -> None:
            answers.reply(
                client.connection,
                messages.TokenRefreshed(
                    expires_at=answers.expiry(identity), timestamp=answers.now(), id=request.id
                ),
            )

        is_known = client.identity is not None
        self.replace_token(
            client, request.token, request.id, ErrorCode.TOKEN_REFRESH_ERROR, accepted, same_user=is_known
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
                    client.moves = found.moves
                    self.admission.presence.rename(client, found.session_id)
                    cursor = takeover.cursor_of(found, arrival)
                    self.restored(client, found, cursor, request.id, arrival)
            else:
                answers.error(
                    connection,
                    ErrorCode.SESSION_RESTORATION_FAILED,
                    REFUSALS[found],
                    {"reason": found},
                    request.id,
                )

        takeover.find(client, request.session_id, arrival, then)
