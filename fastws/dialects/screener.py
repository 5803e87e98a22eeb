"""The screener dialect (`/v1/ws`): what each request does, and what it is answered."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from fastws import messages
from fastws._core import CHANNEL_ORDERBOOK, CHANNEL_PRICE, Connection, Dialect, Hub, Options, Topic
from fastws._market import encode_screener, utc_text
from fastws.auth import Identity
from fastws.clock import wall_ms
from fastws.dialects.admission import SESSION_REFUSALS, Admission, Arrival, Client
from fastws.errors import CloseCode, ErrorCode
from fastws.logs import log_limited
from fastws.market.alert_messages import Alert, encode_alert
from fastws.market.market import Market, Stale, encode_stale
from fastws.messages import Rejected, RequestId
from fastws.sessions import Session

# For overview pages: newest values only, five times a second.
GROUP_MAX_RATE: Final = 5.0
# Symbols made by subscriptions when unknown ones are accepted; a bound on what strangers can make us remember.
MAX_ACCEPTED_SYMBOLS: Final = 100_000

_CHANNEL_BITS: Final = {"price": CHANNEL_PRICE, "orderbook": CHANNEL_ORDERBOOK}
_FIELD: Final = re.compile(r"(.*?)(?: - at (`key` in )?`\$\.?([^`]*)`)?", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `([^`]*)`")
# What may stand in a field, where the decoder only says that something else does.
_EXPECTED: Final = {
    "type": "subscribe, unsubscribe, set_subscriptions, list_subscriptions, pause, resume, ping, auth, "
    "refresh_token or reconnect",
    "subscription_type": "stock, market or sector",
    "subscriptions": "stock, market or sector, each with a list of targets",
    "mode": "all or latest",
    "channels": "a list of price and orderbook",
    "targets": "a list of 1 or more texts of 1 to 64 characters",
    "max_rate": "a number from 0.001 to 1000",
    "snapshot": "true or false",
    "id": "a text or an integer",
}
_SYMBOL: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:/-]{0,31}")

# What a client sent comes back in a text at this length at most.
_MAX_REASON: Final = 200
# A request that names more targets counts as several against the rate limit: it is the work that is limited.
_TARGETS_PER_MESSAGE: Final = 100
# What a message with a token counts as: checking a signature takes as long as some twenty pings.
_TOKEN_MESSAGES: Final = 10
# Messages kept of a client while it is found out who it is.
_MAX_WAITING: Final = 100

Held = dict[Topic, Options]

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
        self.dialect = Dialect("screener", encode, 0)
        self.configure(
            subscription_limit=subscription_limit,
            message_bytes=message_bytes,
            accept_unknown_symbols=accept_unknown_symbols,
        )
        self._options = {
            "stock": hub.options(),
            "market": hub.options(max_rate=GROUP_MAX_RATE),
            "sector": hub.options(max_rate=GROUP_MAX_RATE),
        }

    def configure(self, *, subscription_limit: int, message_bytes: int, accept_unknown_symbols: bool) -> None:
        """Set what the constructor sets, also later; greetings show it from now on, and the hub's rate limit as it is.

        Subscriptions that are over a lowered limit stay.
        """
        self.subscription_limit = subscription_limit
        self.accept_unknown_symbols = accept_unknown_symbols
        self._limits = messages.Limits(subscription_limit, self.hub.rate_limit, message_bytes)

    # What the core calls.

    def on_open(self, connection: Connection) -> None:
        """`connection.context` holds the `Arrival`, and from here on the `Client`."""
        client = connection.context = Client(connection, connection.context)
        try:
            self.admission.arrive(client, self)
        except Exception:
            self.fail(client, "handshake")

    def on_message(self, connection: Connection, text: bytes, is_text: bool) -> None:
        client: Client = connection.context
        if client.is_admitted:
            self.obey(connection, text)
        elif len(client.waiting) < _MAX_WAITING:
            client.waiting.append(text)
        else:
            self.on_rate_limited(connection)

    def obey(self, connection: Connection, text: bytes) -> None:
        """Do what a message asks for."""
        try:
            request = messages.decode(text)
        except msgspec.ValidationError as error:
            self._invalid(connection, str(error), messages.request_id(text))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            if not text.strip():
                reason = "it is empty"
            self._invalid(connection, f"The message is not JSON: {reason}", UNSET)
        else:
            client: Client = connection.context
            try:
                self._dispatch(client, request)
            except Exception:
                self.fail(client, str(request.__struct_config__.tag), request.id)

    def on_rate_limited(self, connection: Connection) -> None:
        limit = self.hub.rate_limit
        self._error(
            connection,
            ErrorCode.RATE_LIMIT_EXCEEDED,
            f"Rate limit exceeded ({limit} messages/second)",
            {"rate_limit": limit},
            UNSET,
        )

    def on_close(self, connection: Connection, code: int) -> None:
        client, connection.context = connection.context, None
        if isinstance(client, Client):
            self.admission.depart(client)
            log_closed(client, code)

    def announce_shutdown(self, connection: Connection, reconnect_after_ms: int) -> None:
        """Tell a client that the server stops, and when to come back."""
        self._reply(
            connection, messages.ServerShutdown(reconnect_after_ms=reconnect_after_ms, timestamp=_now())
        )

    # What admission has the dialect say.

    def greet(self, client: Client, sequence: int) -> None:
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
                    timestamp=_now(),
                )
            )
        )

    def restored(
        self,
        client: Client,
        session: Session,
        cursor: int | None,
        request_id: RequestId | UnsetType = UNSET,
    ) -> None:
        """Let a client go on where its session ended: with what it missed, or with a snapshot."""
        connection = client.connection
        held = connection.subscriptions()
        room = self.subscription_limit - len(held)
        identity = client.identity
        # The token may be another one than that of the session, and allow less.
        wanted = {
            topic: options
            for topic, options in session.subscriptions.items()
            if topic not in held and (identity is None or identity.allows(topic.kind, topic.name))
        }
        wanted = dict(list(wanted.items())[: max(0, room)])
        mail = self.admission.mail
        addressed = mail.missed(client, session, cursor)
        n_missed, is_complete = self.hub.count_missed(wanted, 0 if cursor is None else cursor)
        recovered = cursor is not None and is_complete
        self._reply(
            connection,
            messages.Reconnected(
                session_id=session.session_id,
                restored_subscriptions=self._by_kind(
                    {
                        topic: options
                        for topic, options in session.subscriptions.items()
                        if topic in wanted or topic in held
                    }
                ),
                missed_messages_count=n_missed + len(addressed),
                recovered=recovered,
                timestamp=_now(),
                id=request_id,
            ),
        )
        if session.is_paused:
            client.owed = [kept.sequence for kept in addressed]
            addressed = []
        else:
            client.owed = []
        if cursor is not None and recovered:
            # What a pause held back may be older than the cursor.
            mail.send(client, [kept for kept in addressed if kept.sequence <= cursor])
            addressed = [kept for kept in addressed if kept.sequence > cursor]
            also = [kept.sequence for kept in addressed]
            if connection.restore(wanted, cursor, session.is_paused, also):
                mail.note_told(addressed)
        else:
            connection.set_subscriptions(held | wanted, session.is_paused)
            # Before the snapshot, which has the highest number.
            mail.send(client, addressed)
            if not session.is_paused:
                connection.send_snapshot(wanted.items())

    def refuse(
        self, connection: Connection, code: ErrorCode, message: str, details: dict[str, object]
    ) -> None:
        self._error(connection, code, message, details, UNSET)

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
        self._error(client.connection, ErrorCode.INTERNAL_ERROR, text, {}, request_id)
        client.connection.close(CloseCode.INTERNAL_ERROR, CloseCode.INTERNAL_ERROR.meaning)

    # Requests.

    def _dispatch(self, client: Client, request: messages.ClientMessage) -> None:
        connection = client.connection
        if (
            client.identity is None
            and not self.admission.allow_anonymous
            and not isinstance(request, (messages.Auth, messages.Ping))
        ):
            self._error(
                connection, ErrorCode.AUTH_REQUIRED, "A token is required: send auth first", {}, request.id
            )
            return
        match request:
            case messages.Auth():
                self._authenticate(client, request)
            case messages.RefreshToken():
                self._refresh(client, request)
            case messages.Reconnect():
                self._reconnect(client, request)
            case messages.Ping():
                self._reply(connection, messages.Pong(timestamp=_now(), id=request.id))
            case messages.Subscribe():
                self._subscribe(connection, request)
            case messages.Unsubscribe():
                self._unsubscribe(connection, request)
            case messages.ListSubscriptions():
                self._list(connection, [], request.id)
            case messages.SetSubscriptions():
                self._set(connection, request)
            case messages.Pause():
                self.admission.mail.pause(client)
                connection.set_subscriptions(connection.subscriptions(), True)
                self._reply(connection, messages.Paused(timestamp=_now(), id=request.id))
            case messages.Resume():
                held = connection.subscriptions()
                connection.set_subscriptions(held, False)
                self._reply(connection, messages.Resumed(timestamp=_now(), id=request.id))
                self.admission.mail.resume(client)
                connection.send_snapshot(held.items())

    def _charge_token(self, connection: Connection) -> None:
        """Charge a token to the rate limit, but never so much that what usually follows it is over the limit."""
        connection.charge(max(0, min(_TOKEN_MESSAGES, self.hub.rate_limit // 4) - 1))

    def _authenticate(self, client: Client, request: messages.Auth) -> None:
        connection = client.connection
        self._charge_token(connection)

        def done(identity: Identity) -> None:
            self._reply(
                connection,
                messages.Authenticated(
                    user_id=identity.user_id,
                    expires_at=_expiry(identity),
                    timestamp=_now(),
                    id=request.id,
                ),
            )

        def failed(text: str, reason: str) -> None:
            self._error(connection, ErrorCode.INVALID_TOKEN, text, {"reason": reason}, request.id)

        self.admission.replace_token(
            client,
            self,
            request.token,
            same_user=False,
            done=done,
            failed=failed,
            denied=self._denying(connection, request.id),
        )

    def _refresh(self, client: Client, request: messages.RefreshToken) -> None:
        connection = client.connection
        self._charge_token(connection)

        def done(identity: Identity) -> None:
            self._reply(
                connection,
                messages.TokenRefreshed(expires_at=_expiry(identity), timestamp=_now(), id=request.id),
            )

        def failed(text: str, reason: str) -> None:
            self._error(connection, ErrorCode.TOKEN_REFRESH_ERROR, text, {"reason": reason}, request.id)

        self.admission.replace_token(
            client,
            self,
            request.token,
            same_user=client.identity is not None,
            done=done,
            failed=failed,
            denied=self._denying(connection, request.id),
        )

    def _denying(
        self, connection: Connection, request_id: RequestId | UnsetType
    ) -> Callable[[list[Topic]], None]:
        """What says that a new token does not allow topics that are held."""

        def denied(topics: list[Topic]) -> None:
            self._error(
                connection,
                ErrorCode.FORBIDDEN,
                "The token does not allow what this connection holds; connect again with it",
                {"rejected": [Rejected(topic.name, "forbidden") for topic in topics]},
                request_id,
            )

        return denied

    def _reconnect(self, client: Client, request: messages.Reconnect) -> None:
        connection = client.connection
        arrival = Arrival(
            last_sequence=None if request.last_sequence is UNSET else request.last_sequence,
            epoch=None if request.epoch is UNSET else request.epoch,
        )

        def then(found: Session | str) -> None:
            if not connection.is_open:
                if isinstance(found, Session):
                    self.admission.sessions.save(found)
            elif isinstance(found, Session):
                self.admission.adopt(client, found)
                self.restored(client, found, self.admission.cursor_of(found, arrival), request.id)
            else:
                self._error(
                    connection,
                    ErrorCode.SESSION_RESTORATION_FAILED,
                    SESSION_REFUSALS[found],
                    {"reason": found},
                    request.id,
                )

        self.admission.find_session(client, self, request.session_id, then)

    def _subscribe(self, connection: Connection, request: messages.Subscribe) -> None:
        if request.mode == "all" and request.max_rate is not UNSET:
            self._invalid(
                connection,
                'implies mode "latest", and mode is "all": leave out one - at `$.max_rate`',
                request.id,
            )
            return
        connection.charge(len(request.targets) // _TARGETS_PER_MESSAGE)
        held = connection.subscriptions()
        options = self._options_of(request)
        accepted: Held = {}
        rejected = self._accept(
            held, request.subscription_type, request.targets, options, accepted, connection.context.identity
        )
        if not accepted:
            self._refuse(connection, len(held), rejected, request.id)
            return
        if not request.has_options:
            # Said again without options, a subscription stays as it is.
            accepted = {topic: held.get(topic, options) for topic in accepted}
        connection.set_subscriptions(held | accepted)
        self._reply(
            connection,
            messages.Subscribed(
                subscription_type=request.subscription_type,
                targets=[topic.name for topic in accepted],
                rejected=rejected or UNSET,
                timestamp=_now(),
                id=request.id,
            ),
        )
        if request.snapshot and not connection.is_paused:
            connection.send_snapshot(accepted.items())

    def _unsubscribe(self, connection: Connection, request: messages.Unsubscribe) -> None:
        connection.charge(len(request.targets) // _TARGETS_PER_MESSAGE)
        held = connection.subscriptions()
        for target in request.targets:
            topic = self.hub.find_topic(request.subscription_type, target)
            if topic is not None:
                held.pop(topic, None)
        connection.set_subscriptions(held)
        self._reply(
            connection,
            messages.Unsubscribed(
                subscription_type=request.subscription_type,
                targets=request.targets,
                timestamp=_now(),
                id=request.id,
            ),
        )

    def _set(self, connection: Connection, request: messages.SetSubscriptions) -> None:
        held = connection.subscriptions()
        wanted: Held = {}
        rejected: list[Rejected] = []
        for kind, targets in request.subscriptions.items():
            connection.charge(len(targets) // _TARGETS_PER_MESSAGE)
            rejected += self._accept(
                wanted, kind, targets, self._options[kind], wanted, connection.context.identity
            )
        wanted = {topic: held.get(topic, options) for topic, options in wanted.items()}
        connection.set_subscriptions(wanted)
        self._list(connection, rejected, request.id)
        added = [(topic, options) for topic, options in wanted.items() if topic not in held]
        if added and not connection.is_paused:
            connection.send_snapshot(added)

    def _list(
        self, connection: Connection, rejected: list[Rejected], request_id: RequestId | UnsetType
    ) -> None:
        by_kind = self._by_kind(connection.subscriptions())
        self._reply(
            connection,
            messages.Subscriptions(subscriptions=by_kind, rejected=rejected, timestamp=_now(), id=request_id),
        )

    def _by_kind(self, held: Held) -> dict[str, list[str]]:
        by_kind = {kind: [topic.name for topic in held if topic.kind == kind] for kind in self._options}
        return {kind: names for kind, names in by_kind.items() if names}

    # Targets.

    def _options_of(self, request: messages.Subscribe) -> Options:
        default = self._options[request.subscription_type]
        channels = default.channels
        if request.channels is not UNSET:
            channels = 0
            for name in request.channels:
                channels |= _CHANNEL_BITS[name]
        if request.mode == "all":
            return self.hub.options(channels=channels)
        if request.max_rate is not UNSET:
            return self.hub.options(max_rate=request.max_rate, channels=channels)
        return self.hub.options(
            latest=request.mode == "latest" or default.latest, max_rate=default.max_rate, channels=channels
        )

    def _accept(
        self,
        held: Held,
        kind: str,
        targets: Iterable[str],
        options: Options,
        accepted: Held,
        identity: Identity | None,
    ) -> list[Rejected]:
        """Add the topics of `targets` to `accepted`, in order; returns those refused. `held` counts to the limit."""
        rejected = []
        n_held = len(held)
        for target in dict.fromkeys(targets):
            topic = self._topic(kind, target, identity)
            if isinstance(topic, str):
                rejected.append(Rejected(target, topic))
            elif topic in held or topic in accepted:
                accepted[topic] = options
            elif n_held >= self.subscription_limit:
                rejected.append(Rejected(target, "limit"))
            else:
                accepted[topic] = options
                n_held += 1
        return rejected

    def _topic(self, kind: str, target: str, identity: Identity | None) -> Topic | str:
        """The topic of a target, or why there is none."""
        if identity is not None and not identity.allows(kind, target):
            return "forbidden"
        if kind == "stock":
            if self.market.instrument(target) is None:
                if not self.accept_unknown_symbols or _SYMBOL.fullmatch(target) is None:
                    return "unknown symbol"
                if len(self.market.instruments) >= MAX_ACCEPTED_SYMBOLS:
                    return "too many symbols"
                self.market.ensure_instrument(target)
        elif kind == "market":
            if target not in self.market.instruments.markets:
                return "unknown market"
        elif target not in self.market.instruments.sectors:
            return "unknown sector"
        return self.hub.topic(kind, target)

    # Answers.

    def _reply(self, connection: Connection, reply: messages.Reply) -> None:
        connection.send_control(messages.encode(reply))

    def _refuse(
        self, connection: Connection, n_held: int, rejected: list[Rejected], request_id: RequestId | UnsetType
    ) -> None:
        if any(item.reason == "limit" for item in rejected):
            self._error(
                connection,
                ErrorCode.LIMIT_EXCEEDED,
                f"A connection may hold {self.subscription_limit} subscriptions; unsubscribe from some first",
                {"limit": self.subscription_limit, "current": n_held, "rejected": rejected},
                request_id,
            )
        elif all(item.reason == "forbidden" for item in rejected):
            self._error(
                connection,
                ErrorCode.FORBIDDEN,
                "The token does not allow any of the targets",
                {"rejected": rejected},
                request_id,
            )
        else:
            names = ", ".join(item.target for item in rejected[:5]) + (", …" if len(rejected) > 5 else "")
            self._error(
                connection,
                ErrorCode.SUBSCRIPTION_FAILED,
                f"None of the targets could be subscribed to: {names}",
                {"rejected": rejected},
                request_id,
            )

    def _invalid(self, connection: Connection, reason: str, request_id: RequestId | UnsetType) -> None:
        field = ""
        if (missing := _MISSING.match(reason)) is not None:
            field, reason = missing.group(1), "is missing"
        elif (found := _FIELD.fullmatch(reason)) is not None and (found.group(2) or found.group(3)):
            field = found.group(3) or "message"
            reason = found.group(1)
        details: dict[str, object] = {}
        if len(reason) > _MAX_REASON:
            reason = reason[:_MAX_REASON] + "…"
        if field:
            details["field"] = field
            expected = _EXPECTED.get(field.partition("[")[0].partition(".")[0])
            reason = f"{field}: {reason[:1].lower()}{reason[1:]}" + (
                f"; expected {expected}" if expected else ""
            )
        self._error(connection, ErrorCode.INVALID_MESSAGE, reason, details, request_id)

    def _error(
        self,
        connection: Connection,
        code: ErrorCode,
        message: str,
        details: dict[str, object],
        request_id: RequestId | UnsetType,
    ) -> None:
        self._reply(
            connection,
            messages.Error(
                code=code, error_code=code, message=message, details=details, timestamp=_now(), id=request_id
            ),
        )


def log_closed(client: Client, code: int) -> None:
    """One line for a connection that ended: for operators when we ended it, else for debugging only."""
    connection = client.connection
    ledger = connection.ledger()
    fields = {
        "code": code,
        "reason": connection.close_reason,
        # Its beginning: whoever has the whole of it could take the session over.
        "connection": client.connection_id[:8],
        "peer": client.arrival.address,
        "seconds": round((wall_ms() - connection.opened_at_ms) / 1000, 1),
        "delivered": ledger["delivered"],
        "lost": ledger["lost"],
        "undelivered": ledger["waiting"],
    }
    if connection.close_reason is not None or code in (CloseCode.SLOW_CONSUMER, CloseCode.INTERNAL_ERROR):
        log_limited(_log, f"closed {code}", "connection closed", level="info", **fields)
    else:
        _log.debug("connection ended", **fields)


def _expiry(identity: Identity) -> str | None:
    return None if identity.expires_at is None else utc_text(int(identity.expires_at * 1000))


def _now() -> str:
    return utc_text(wall_ms())
