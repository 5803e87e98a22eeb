"""Every message of the screener dialect as a typed structure: what clients may send, and what the server answers.

Field order is the order on the wire. Updates (`price_update`, `orderbook_update`, `market_status`, `feed_status`) are
written by the market's own encoder and the envelopes `batch` and `overflow` by the core; neither stands here.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

SubscriptionType = Literal["stock", "market", "sector"]
Channel = Literal["price", "orderbook"]
RequestId = str | int
# A symbol, a market or a sector. The bound keeps what clients can make the server remember small.
Target = Annotated[str, Meta(min_length=1, max_length=64)]


Targets = Annotated[list[Target], Meta(min_length=1)]


class Request(msgspec.Struct, tag_field="type", kw_only=True):
    """Root of what a client sends. `id` is echoed on the reply or the error."""

    id: RequestId | UnsetType = UNSET


class Subscribe(Request, tag="subscribe"):
    subscription_type: SubscriptionType
    targets: Targets
    mode: Literal["all", "latest"] | UnsetType = UNSET
    max_rate: Annotated[float, Meta(ge=0.001, le=1000)] | UnsetType = UNSET
    snapshot: bool = True
    channels: Annotated[list[Channel], Meta(min_length=1)] | UnsetType = UNSET

    @property
    def has_options(self) -> bool:
        """Whether the request says how to deliver, and not only what."""
        return (self.mode, self.max_rate, self.channels) != (UNSET, UNSET, UNSET)


class Unsubscribe(Request, tag="unsubscribe"):
    subscription_type: SubscriptionType
    targets: Targets


class Ping(Request, tag="ping"):
    pass


class ListSubscriptions(Request, tag="list_subscriptions"):
    pass


class SetSubscriptions(Request, tag="set_subscriptions"):
    subscriptions: dict[SubscriptionType, list[Target]]


class Pause(Request, tag="pause"):
    pass


class Resume(Request, tag="resume"):
    pass


Token = Annotated[str, Meta(max_length=16_384)]


class Auth(Request, tag="auth"):
    token: Token


class RefreshToken(Request, tag="refresh_token"):
    token: Token


class Reconnect(Request, tag="reconnect"):
    session_id: Annotated[str, Meta(min_length=1, max_length=64)]
    last_sequence: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    epoch: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET


ClientMessage = (
    Subscribe
    | Unsubscribe
    | Ping
    | ListSubscriptions
    | SetSubscriptions
    | Pause
    | Resume
    | Auth
    | RefreshToken
    | Reconnect
)


class Rejected(msgspec.Struct):
    """A target that was not accepted, and why."""

    target: str
    reason: str


class Reply(msgspec.Struct, tag_field="type", omit_defaults=True, kw_only=True):
    """Root of what the server answers. Fields left at UNSET are left out."""


class Limits(msgspec.Struct):
    subscriptions: int
    rate_limit: int
    message_bytes: int


class Greeting(Reply, tag="connection", kw_only=True):
    status: str
    connection_id: str
    authenticated: bool
    user_id: str | int | None
    epoch: str
    sequence: int
    batch_interval_ms: int
    limits: Limits
    feeds: dict[str, str]
    timestamp: str


class Subscribed(Reply, tag="subscribed", kw_only=True):
    subscription_type: str
    targets: list[str]
    rejected: list[Rejected] | UnsetType = UNSET
    timestamp: str
    id: RequestId | UnsetType = UNSET


class Unsubscribed(Reply, tag="unsubscribed", kw_only=True):
    subscription_type: str
    targets: list[str]
    timestamp: str
    id: RequestId | UnsetType = UNSET


class Subscriptions(Reply, tag="subscriptions", kw_only=True):
    subscriptions: dict[str, list[str]]
    rejected: list[Rejected]
    timestamp: str
    id: RequestId | UnsetType = UNSET


class Pong(Reply, tag="pong", kw_only=True):
    timestamp: str
    id: RequestId | UnsetType = UNSET


class Authenticated(Reply, tag="authenticated", kw_only=True):
    """`expires_at` is None for a token that does not expire."""

    user_id: str | int
    expires_at: str | None
    timestamp: str
    id: RequestId | UnsetType = UNSET


class TokenRefreshed(Reply, tag="token_refreshed", kw_only=True):
    expires_at: str | None
    timestamp: str
    id: RequestId | UnsetType = UNSET


class Reconnected(Reply, tag="reconnected", kw_only=True):
    session_id: str
    restored_subscriptions: dict[str, list[str]]
    missed_messages_count: int
    recovered: bool
    timestamp: str
    id: RequestId | UnsetType = UNSET


class Paused(Reply, tag="paused", kw_only=True):
    timestamp: str
    id: RequestId | UnsetType = UNSET


class Resumed(Reply, tag="resumed", kw_only=True):
    timestamp: str
    id: RequestId | UnsetType = UNSET


class ServerShutdown(Reply, tag="server_shutdown", kw_only=True):
    """The server stops as planned; the delay differs from client to client, so that they do not all come at once."""

    reconnect_after_ms: int
    timestamp: str


class Error(Reply, tag="error", kw_only=True):
    """`error_code` repeats `code`, which in market messages is the symbol."""

    code: str
    error_code: str
    message: str
    details: dict[str, object]
    timestamp: str
    id: RequestId | UnsetType = UNSET


class _IdOnly(msgspec.Struct):
    id: RequestId | UnsetType = UNSET


decode = msgspec.json.Decoder(ClientMessage).decode
encode = msgspec.json.Encoder().encode
_decode_id = msgspec.json.Decoder(_IdOnly).decode


def request_id(text: bytes) -> RequestId | UnsetType:
    """The `id` of a message that is wrong otherwise, so that its error can name it; UNSET when it has none."""
    try:
        return _decode_id(text).id
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return UNSET
