"""What the dialects have in common: how a connection is listened to and what becomes of it. Sans-IO."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec
import structlog
from msgspec import UNSET, UnsetType

from fastws import messages
from fastws._core import Connection, Dialect, Hub, Topic
from fastws.auth import Identity
from fastws.clock import wall_ms
from fastws.dialects.admission import KICKED, Admission
from fastws.dialects.clients import Client
from fastws.dialects.own_requests import OwnRequests
from fastws.dialects.targets import Targets
from fastws.errors import CloseCode, ErrorCode
from fastws.logs import log_limited
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


class Conversation(ABC):
    """Handler of the connections of one dialect; one object serves all of them, on the thread of the loop.

    It is the `Handler` of the core and the `Speaker` of admission. What is said, and in which words, is the dialect's.
    """

    keeps_sessions: bool
    """Whether what a connection held can be restored after its end; see `Admission.depart`."""

    def __init__(self, hub: Hub, dialect: Dialect, admission: Admission, targets: Targets) -> None:
        self.hub = hub
        self.dialect = dialect
        self.admission = admission
        self.targets = targets
        # What the program adds that this runs in, if it does.
        self.own_requests: OwnRequests | None = None
        # Ended connections by close code, or "kicked", and by who has ended them: clients may send any code.
        self.closes: dict[tuple[int | str, Closer], int] = {}
        self._log = structlog.get_logger(f"fastws.{dialect.name}")
        # That of the standard library tells the level also in an application that has set structlog up otherwise.
        self._levels = logging.getLogger(f"fastws.{dialect.name}")

    # What a dialect says.

    @abstractmethod
    def decode(self, text: bytes) -> Any:
        """The request in a message; raises as `msgspec.json.decode`."""

    @abstractmethod
    def dispatch(self, client: Client, request: Any) -> None:
        """Do what a request asks for."""

    @abstractmethod
    def named(self, request: Any) -> Iterable[tuple[str, Sequence[str]]]:
        """The kinds of topics, and their names, that a request subscribes to."""

    @abstractmethod
    def refuse(
        self,
        connection: Connection,
        code: ErrorCode,
        message: str,
        details: dict[str, object],
        request_id: RequestId | UnsetType = UNSET,
    ) -> None:
        """Say why something cannot be had."""

    @abstractmethod
    def refuse_message(self, connection: Connection, reason: str, request_id: RequestId | UnsetType) -> None:
        """Answer a message that cannot be read: `reason` is what its decoder says of it."""

    @abstractmethod
    def greet(self, client: Client, sequence: int, *, is_followed: bool) -> None:
        """Say the first word. `sequence`: everything up to it the client has, or will not get."""

    @abstractmethod
    def restored(self, client: Client, session: Session, cursor: int | None) -> None:
        """Let a client go on where its session ended."""

    @abstractmethod
    def announce_shutdown(self, connection: Connection, reconnect_after_ms: int) -> None:
        """Tell a client that the server stops, and when to come back."""

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
        if client.is_admitted and not client.is_delayed:
            self.obey(connection, text)
        elif not client.waiting or (
            len(client.waiting) < _MAX_WAITING
            and sum(map(len, client.waiting)) + len(text) <= _MAX_WAITING_SIZE
        ):
            client.waiting += (text,)
        else:
            self.on_rate_limited(connection)

    def on_rate_limited(self, connection: Connection) -> None:
        limit = self.hub.rate_limit
        text = f"Rate limit exceeded ({limit} messages/second)"
        self.refuse(connection, ErrorCode.RATE_LIMIT_EXCEEDED, text, {"rate_limit": limit})

    def on_close(self, connection: Connection, code: int) -> None:
        client, connection.context = connection.context, None
        if isinstance(client, Client):
            by = _closed_by(connection)
            cause = "kicked" if connection.close_reason == KICKED else code
            self.closes[cause, by] = self.closes.get((cause, by), 0) + 1
            self.admission.depart(client)
            self._log_closed(client, code, by)

    # What admission has the dialect do.

    def obey(self, connection: Connection, text: bytes) -> None:
        """Do what a message asks for."""
        try:
            request = self.decode(text)
        except msgspec.ValidationError as error:
            if self.own_requests is not None and (own := self.own_requests.find(text)) is not None:
                if self._may_ask(connection.context, own[2], is_for_all=False):
                    self.own_requests.run(self, connection.context, *own)
                return
            self.refuse_message(connection, str(error), messages.request_id(text))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            if not text.strip():
                reason = "it is empty"
            self.refuse_message(connection, f"The message is not JSON: {reason}", UNSET)
        else:
            client: Client = connection.context
            try:
                if self._may_ask(client, request.id, is_for_all=request.is_for_all) and not self._has_to_wait(
                    client, request
                ):
                    self.dispatch(client, request)
            except Exception:
                self.fail(client, str(request.__struct_config__.tag), request.id)

    def note_held(self, client: Client) -> None:
        """What a client holds has changed, which others are told of where they could go on with it."""
        if self.keeps_sessions:
            self.admission.presence.on_changed(client.connection_id)

    def obey_waiting(self, client: Client) -> None:
        """Do what was asked for while nobody could do it, in order."""
        while client.waiting and not client.is_delayed and client.connection.is_open:
            text, *rest = client.waiting
            client.waiting = tuple(rest)
            self.obey(client.connection, text)

    def _has_to_wait(self, client: Client, request: Any) -> bool:
        """Whether a request is done later, because other instances are still to be heard on what it names."""
        elsewhere = self.targets.elsewhere
        if elsewhere is None:
            return False
        missing: frozenset[int] = frozenset()
        for kind, names in self.named(request):
            missing |= elsewhere.missing(kind, names)
        if not missing:
            return False
        client.is_delayed = True

        def go_on() -> None:
            client.is_delayed = False
            if not client.connection.is_open:
                return
            try:
                self.dispatch(client, request)
            except Exception:
                self.fail(client, str(request.__struct_config__.tag), request.id)
                return
            self.obey_waiting(client)

        elsewhere.when_heard(missing, go_on)
        return True

    def fail(self, client: Client, request: str, request_id: RequestId | UnsetType = UNSET) -> None:
        """End a connection over the exception that is being handled: it is a fault of ours.

        `request` is what the client had asked for.
        """
        log_limited(
            self._log,
            f"failed {request}",
            "a request failed",
            level="error",
            request=request,
            connection=client.connection_id[:8],
            peer=client.arrival.address,
            exc_info=True,
        )
        text = "The server failed to do this, by a fault of its own; connect again"
        self.refuse(client.connection, ErrorCode.INTERNAL_ERROR, text, {}, request_id)
        client.connection.close(CloseCode.INTERNAL_ERROR, CloseCode.INTERNAL_ERROR.meaning)

    # Tokens.

    def _may_ask(self, client: Client, request_id: RequestId | UnsetType, *, is_for_all: bool) -> bool:
        if client.identity is not None or self.admission.allow_anonymous or is_for_all:
            return True
        text = "A token is required: send auth first"
        self.refuse(client.connection, ErrorCode.AUTH_REQUIRED, text, {}, request_id)
        return False

    def replace_token(
        self,
        client: Client,
        token: str,
        request_id: RequestId | UnsetType,
        refusal: ErrorCode,
        accepted: Callable[[Identity], None],
        *,
        same_user: bool,
    ) -> None:
        """Give a connection a token: `accepted` answers, or it is refused with `refusal`."""
        connection = client.connection
        # Never so much that what usually follows a token is over the limit.
        connection.charge(max(0, min(_TOKEN_MESSAGES, self.hub.rate_limit // 4) - 1))

        def failed(text: str, reason: str) -> None:
            self.refuse(connection, refusal, text, {"reason": reason}, request_id)

        def denied(topics: list[Topic]) -> None:
            self.refuse(
                connection,
                ErrorCode.FORBIDDEN,
                "The token does not allow what this connection holds; connect again with it",
                {"rejected": [Rejected(topic.name, "forbidden") for topic in topics]},
                request_id,
            )

        self.admission.credentials.replace(
            client, token, same_user=same_user, done=accepted, failed=failed, denied=denied
        )

    def _log_closed(self, client: Client, code: int, by: Closer) -> None:
        """One line for a connection that ended: for operators when we ended it, else for debugging only."""
        if by == "client" and not self._levels.isEnabledFor(logging.DEBUG):
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
            log_limited(self._log, f"closed {code}", "connection closed", level="info", **fields)
        else:
            self._log.debug("connection ended", **fields)


def _closed_by(connection: Connection) -> Closer:
    """Who has ended a connection: the core has a reason whenever it was the server."""
    return "client" if connection.close_reason is None else "server"
