"""The realtime dialect (`/ws/realtime/`): what each request does, and what it is answered. Sans-IO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import UNSET, UnsetType

from fastws._core import CHANNEL_PRICE, Connection, Dialect, Hub, Topic
from fastws._market import PriceUpdate, encode_realtime
from fastws._portfolios import PortfolioValue
from fastws._portfolios import encode_realtime as encode_portfolio
from fastws.auth import Identity
from fastws.dialects import answers
from fastws.dialects.admission import Admission
from fastws.dialects.clients import Client
from fastws.dialects.conversation import Conversation
from fastws.dialects.targets import Held, Targets
from fastws.errors import ErrorCode
from fastws.market.alert_messages import Alert, encode_alert
from fastws.market.freshness import SymbolStatus, encode_symbol_status
from fastws.market.market import Market, Stale
from fastws.messages import RequestId
from fastws.messages import realtime as messages
from fastws.sessions import Session

# What may stand in a field, where the decoder only says that something else does.
_EXPECTED: Final = {
    "type": "ping, subscribe_asset, unsubscribe_asset, subscribe_portfolio, unsubscribe_portfolio or auth",
    "data.symbol": "a text of 1 to 64 characters",
    "data.symbols": "a list of 1 or more texts of 1 to 64 characters",
    "data.portfolio_id": "an integer, or a text that is one",
    "data.token": "a text",
    "id": "a text or an integer",
}
_ALERT_HEAD: Final = b'{"type":"alert",'


def make_encode(market: Market) -> Callable[[object, int], bytes]:
    """What writes updates: whole messages in the envelope of this dialect."""

    def encode(payload: object, published_ms: int) -> bytes:
        kind = type(payload)
        if kind is PriceUpdate:
            day = market.day_range(payload.instrument.code)  # type: ignore[attr-defined]
            return encode_realtime(payload, published_ms, day)  # type: ignore[arg-type]
        if kind is PortfolioValue:
            return encode_portfolio(payload, published_ms) + b"}"  # type: ignore[arg-type]
        if kind is Stale:
            value: PriceUpdate = payload.value  # type: ignore[attr-defined]
            day = market.day_range(value.instrument.code)
            return encode_realtime(value, payload.published_ms, day, stale=True)  # type: ignore[attr-defined]
        if kind is SymbolStatus:
            return encode_symbol_status(payload, published_ms, is_enveloped=True) + b"}"  # type: ignore[arg-type]
        if kind is Alert:
            return _encode_alert(payload, published_ms)  # type: ignore[arg-type]
        return encode_realtime(payload, published_ms)  # type: ignore[arg-type]  # it refuses what it does not know

    return encode


def _encode_alert(alert: Alert, published_ms: int) -> bytes:
    members, comma, timestamp = encode_alert(alert, published_ms).rpartition(b',"timestamp":')
    return b'{"type":"alert","data":{%b}%b%b}' % (members.removeprefix(_ALERT_HEAD), comma, timestamp)


class RealtimeDialect(Conversation):
    """Handler of realtime connections; see `Conversation`.

    All subscriptions are of mode `latest`, so nothing is numbered, and a client that has lost its connection gets the
    last values by subscribing again: there are no sessions to restore.
    """

    keeps_sessions = False

    def __init__(self, hub: Hub, market: Market, *, admission: Admission, targets: Targets) -> None:
        dialect = Dialect("realtime", make_encode(market), 1, batches=False)
        super().__init__(hub, dialect, admission, targets)
        self._options = hub.options(latest=True, channels=CHANNEL_PRICE)

    # What the server says by itself.

    def refuse(
        self,
        connection: Connection,
        code: ErrorCode,
        message: str,
        details: dict[str, object],
        request_id: RequestId | UnsetType = UNSET,
    ) -> None:
        data = messages.ErrorData(code=code, error_code=code, message=message, details=details)
        _reply(connection, messages.RealtimeError(data=data, timestamp=answers.now(), id=request_id))

    def refuse_message(self, connection: Connection, reason: str, request_id: RequestId | UnsetType) -> None:
        text, details = answers.what_is_wrong(reason, _EXPECTED)
        self.refuse(connection, ErrorCode.INVALID_MESSAGE, text, details, request_id)

    def announce_shutdown(self, connection: Connection, reconnect_after_ms: int) -> None:
        data = messages.StopData(reconnect_after_ms)
        _reply(connection, messages.RealtimeServerShutdown(data=data, timestamp=answers.now()))

    def greet(self, client: Client, sequence: int, *, is_followed: bool) -> None:
        identity = client.identity
        data = messages.GreetingData(
            status="connected",
            connection_id=client.connection_id,
            authenticated=identity is not None,
            user_id=None if identity is None else identity.user_id,
        )
        greeting = messages.RealtimeGreeting(data=data, timestamp=answers.now())
        _reply(client.connection, greeting, is_followed=is_followed)

    def restored(self, client: Client, session: Session, cursor: int | None) -> None:
        raise AssertionError("a session was taken for a dialect that has none")

    # Requests.

    def decode(self, text: bytes) -> messages.ClientMessage:
        request: messages.ClientMessage = messages.decode(text)
        return request

    def named(self, request: messages.ClientMessage) -> Iterable[tuple[str, Sequence[str]]]:
        return [("stock", request.data.names)] if isinstance(request, messages.SubscribeAsset) else []

    def dispatch(self, client: Client, request: messages.ClientMessage) -> None:
        match request:
            case messages.RealtimePing():
                pong = messages.RealtimePong(data=messages.Nothing(), timestamp=answers.now(), id=request.id)
                _reply(client.connection, pong)
            case messages.SubscribeAsset():
                self._subscribe(client, "stock", request.data.names, request.id)
            case messages.UnsubscribeAsset():
                self._unsubscribe(client, "stock", request.data.names, request.id)
            case messages.SubscribePortfolio():
                self._subscribe(client, "portfolio", [str(request.data.portfolio_id)], request.id)
            case messages.UnsubscribePortfolio():
                self._unsubscribe(client, "portfolio", [str(request.data.portfolio_id)], request.id)
            case messages.RealtimeAuth():
                self._authenticate(client, request)

    def _subscribe(
        self, client: Client, kind: str, names: Sequence[str], request_id: RequestId | UnsetType
    ) -> None:
        connection = client.connection
        self.targets.charge(client, names)
        held = connection.subscriptions()
        accepted: Held = {}
        rejected = self.targets.accept(held, kind, names, self._options, accepted, client.identity)
        if accepted:
            self.targets.hold(client, held | accepted)
        has_values = any(_has_value(topic) for topic in accepted)
        is_followed = bool(rejected) or has_values
        accepted_names = [topic.name for topic in accepted]
        _acknowledge(
            connection, messages.RealtimeSubscribed, kind, accepted_names, request_id, is_followed=is_followed
        )
        if rejected:
            code, text, details = self.targets.refusal(
                kind, len(held) + len(accepted), rejected, client.identity
            )
            if code is ErrorCode.FORBIDDEN and kind == "portfolio":
                details = {"portfolio_id": int(names[0])}
            self.refuse(connection, code, text, details, request_id)
        if accepted:
            self.targets.send_snapshot(client, accepted.items())

    def _unsubscribe(
        self, client: Client, kind: str, names: Sequence[str], request_id: RequestId | UnsetType
    ) -> None:
        connection = client.connection
        self.targets.charge(client, names)
        held = connection.subscriptions()
        names = list(dict.fromkeys(names))
        for name in names:
            topic = self.hub.find_topic(kind, name)
            if topic is not None:
                held.pop(topic, None)
        self.targets.hold(client, held)
        _acknowledge(connection, messages.RealtimeUnsubscribed, kind, names, request_id)

    def _authenticate(self, client: Client, request: messages.RealtimeAuth) -> None:
        def accepted(identity: Identity) -> None:
            data = messages.AuthenticatedData(identity.user_id, answers.expiry(identity))
            _reply(
                client.connection,
                messages.RealtimeAuthenticated(data=data, timestamp=answers.now(), id=request.id),
            )

        self.replace_token(
            client, request.data.token, request.id, ErrorCode.INVALID_TOKEN, accepted, same_user=False
        )


def _reply(connection: Connection, message: messages.Message, *, is_followed: bool = False) -> None:
    """`is_followed`: see `Connection.send_control`."""
    connection.send_control(messages.encode(message), is_followed=is_followed)


def _acknowledge(
    connection: Connection,
    message: type[messages.RealtimeSubscribed | messages.RealtimeUnsubscribed],
    kind: str,
    names: Sequence[str],
    request_id: RequestId | UnsetType,
    *,
    is_followed: bool = False,
) -> None:
    """One message for each name, all of which may leave together; `is_followed`: something comes behind them."""
    n_left = len(names)
    for name in names:
        n_left -= 1
        target = (
            messages.Target(portfolio_id=int(name)) if kind == "portfolio" else messages.Target(symbol=name)
        )
        answer = message(data=target, timestamp=answers.now(), id=request_id)
        _reply(connection, answer, is_followed=is_followed or n_left > 0)


def _has_value(topic: Topic) -> bool:
    """Whether a snapshot of a topic has anything."""
    return any(
        channel.bit == CHANNEL_PRICE and channel.last_payload is not None for channel in topic.channels
    )
