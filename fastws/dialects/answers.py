"""What screener clients are answered, and the texts of its errors. Sans-IO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import UNSET, UnsetType

from fastws import messages
from fastws._core import Connection
from fastws._market import utc_text
from fastws.auth import Identity
from fastws.clock import wall_ms
from fastws.errors import ErrorCode
from fastws.messages import RequestId
from fastws.wording import explain

# What may stand in a field, where the decoder only says that something else does.
_EXPECTED: Final = {
    "type": "subscribe, unsubscribe, set_subscriptions, list_subscriptions, pause, resume, ping, auth, "
    "refresh_token or reconnect",
    "subscription_type": "stock, market, sector or portfolio",
    "subscriptions": "stock, market, sector or portfolio, each with a list of targets",
    "mode": "all or latest",
    "channels": "a list of price and orderbook",
    "targets": "a list of 1 or more texts of 1 to 64 characters",
    "max_rate": "a number from 0.001 to 1000",
    "snapshot": "true or false",
    "id": "a text or an integer",
    "last_sequence": "an integer from 0 to 9223372036854775807",
}
# What a client sent comes back in a text at this length at most.
_MAX_REASON: Final = 200


def reply(connection: Connection, message: messages.Reply, *, is_followed: bool = False) -> None:
    """`is_followed`: see `Connection.send_control`."""
    connection.send_control(messages.encode(message), is_followed=is_followed)


def error(
    connection: Connection,
    code: ErrorCode,
    text: str,
    details: dict[str, object],
    request_id: RequestId | UnsetType = UNSET,
) -> None:
    reply(
        connection,
        messages.Error(
            code=code, error_code=code, message=text, details=details, timestamp=now(), id=request_id
        ),
    )


def invalid(connection: Connection, reason: str, request_id: RequestId | UnsetType) -> None:
    """Answer a message that cannot be read: `reason` is what the decoder of `fastws.messages` says of it."""
    error(connection, ErrorCode.INVALID_MESSAGE, *what_is_wrong(reason, _EXPECTED), request_id)


def what_is_wrong(reason: str, expectations: Mapping[str, str]) -> tuple[str, dict[str, object]]:
    """Text and details about a message that cannot be read. `expectations` is what may stand in which field."""
    field, reason = explain(reason)
    details: dict[str, object] = {}
    if len(reason) > _MAX_REASON:
        reason = reason[:_MAX_REASON] + "…"
    if not field:
        reason = reason[:1].upper() + reason[1:]
    else:
        details["field"] = field
        expected = expectations.get(field.partition("[")[0])
        if expected is not None and not reason.startswith("expected "):
            reason = f"{reason}; expected {expected}"
        elif field in expectations:
            got = reason.partition(", got ")[2]
            reason = f"expected {expected}" + (f", got {got}" if got else "")
        reason = f"{field}: {reason}"
    return reason, details


def expiry(identity: Identity) -> str | None:
    """When a token ends, as messages have it."""
    return None if identity.expires_at is None else utc_text(int(identity.expires_at * 1000))


def now() -> str:
    """The time that an answer carries."""
    return utc_text(wall_ms())
