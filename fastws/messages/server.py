"""What the server answers and announces in the screener dialect. The docstrings are the contract's texts.

Field order is the order on the wire.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from fastws.errors import ErrorCode
from fastws.messages.client import TYPES_ONLY, RequestId, SessionId, SubscriptionType, Target
from fastws.messages.fields import Epoch, FeedState, Sequence, Timestamp

ByType = Annotated[
    dict[str, list[Target]],
    Meta(
        extra_json_schema=TYPES_ONLY,
        description="Targets by subscription type.",
        examples=[{"stock": ["005930"], "market": ["KOSPI"]}],
    ),
]
UserId = Annotated[
    str | int, Meta(description="The user's id, as the token has it.", examples=["user-123", 123])
]
Expiry = Annotated[
    Timestamp | None, Meta(description="When the token expires; null: it does not expire by itself.")
]


class Rejected(msgspec.Struct):
    """A target that was not accepted, and why."""

    target: Annotated[str, Meta(examples=["999999"])]
    reason: Annotated[
        str,
        Meta(
            description="unknown symbol, unknown market, unknown sector, limit, forbidden or too many symbols",
            examples=["unknown symbol"],
        ),
    ]


class Limits(msgspec.Struct):
    """What a connection may do; 0 is no limit."""

    subscriptions: Annotated[int, Meta(description="Subscriptions held.")]
    rate_limit: Annotated[int, Meta(description="Messages per second from the client, and in a burst.")]
    message_bytes: Annotated[int, Meta(description="Bytes of a message from the client.")]


class Reply(msgspec.Struct, tag_field="type", omit_defaults=True, kw_only=True):
    """Root of what the server answers. Fields left at UNSET are left out."""


class Greeting(Reply, tag="connection", kw_only=True):
    """The first message on every connection.

    `epoch` and `sequence` are where the connection begins: keep the highest sequence seen, to go on from there after
    an interruption.
    """

    status: Literal["connected"]
    connection_id: Annotated[
        str,
        Meta(
            description="Id of this connection, and the session id to restore it by.",
            examples=["550e8400-e29b-41d4-a716-446655440000"],
        ),
    ]
    authenticated: bool
    user_id: Annotated[UserId | None, Meta(description="null for a connection without a token.")]
    epoch: Epoch
    sequence: Sequence
    batch_interval_ms: Annotated[
        int,
        Meta(ge=0, description="Milliseconds in which updates are gathered; 0: not at all.", examples=[30]),
    ]
    limits: Limits
    feeds: Annotated[
        dict[str, FeedState],
        Meta(description="State of each upstream feed by its name.", examples=[{"kis": "live"}]),
    ]
    timestamp: Timestamp


class Subscribed(Reply, tag="subscribed", kw_only=True):
    """These targets are held now. The snapshot follows."""

    subscription_type: SubscriptionType
    targets: Annotated[list[Target], Meta(description="The targets that were accepted, in their order.")]
    rejected: Annotated[list[Rejected], Meta(description="Those that were not.")] | UnsetType = UNSET
    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class Unsubscribed(Reply, tag="unsubscribed", kw_only=True):
    """These targets are not held any more."""

    subscription_type: SubscriptionType
    targets: list[Target]
    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class Subscriptions(Reply, tag="subscriptions", kw_only=True):
    """All that is held: the answer to `list_subscriptions` and `set_subscriptions`."""

    subscriptions: ByType
    rejected: Annotated[
        list[Rejected], Meta(description="What was asked for and not accepted; empty for list_subscriptions.")
    ]
    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class Pong(Reply, tag="pong", kw_only=True):
    """A sign of life, ahead of all data that waits."""

    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class Authenticated(Reply, tag="authenticated", kw_only=True):
    """The connection is this user's now."""

    user_id: UserId
    expires_at: Expiry
    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class TokenRefreshed(Reply, tag="token_refreshed", kw_only=True):
    """The connection lives by the new token now."""

    expires_at: Expiry
    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class Reconnected(Reply, tag="reconnected", kw_only=True):
    """The session goes on here. What was missed follows, or a snapshot.

    With `recovered: true` the missed messages of targets of mode all follow in order, each once, before any live
    message, and the current values of those of mode latest; then a snapshot, if the client has not said what it has
    seen (`last_sequence`), as what was on its way may be lost. With `recovered: false` a snapshot follows.
    """

    session_id: SessionId
    restored_subscriptions: ByType
    missed_messages_count: Annotated[
        int, Meta(ge=0, description="Messages published to the session's targets since the cursor.")
    ]
    recovered: bool
    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class Paused(Reply, tag="paused", kw_only=True):
    """Nothing but control messages comes from now on."""

    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class Resumed(Reply, tag="resumed", kw_only=True):
    """Data comes again, beginning with a snapshot."""

    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class ServerShutdown(Reply, tag="server_shutdown", kw_only=True):
    """The server stops as planned; the connection is closed with 1012 next.

    The delay differs from client to client, so that they do not all come at once.
    """

    reconnect_after_ms: Annotated[
        int, Meta(ge=0, description="Milliseconds after which to connect again.", examples=[4200])
    ]
    timestamp: Timestamp


class Error(Reply, tag="error", kw_only=True):
    """Something asked for was not done, or the connection ends; `code` says what, `message` says it to people.

    `error_code` repeats `code`, which in market messages is the symbol.
    """

    code: ErrorCode
    error_code: ErrorCode
    message: Annotated[str, Meta(description="For people; programs go by the code.")]
    details: Annotated[
        dict[str, Any], Meta(description="What programs can use; see the table of error codes.")
    ]
    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET
