"""Every message of the screener dialect as a typed structure: what clients may send, and what they get.

`decode` reads a client's message, `encode` writes an answer. What is published stands here to be described: it is
written by the market's own encoders and by the core. The document of :mod:`fastws.server.asyncapi` is made from
these types.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from fastws.messages.client import (
    Auth,
    ClientMessage,
    ListSubscriptions,
    Pause,
    Ping,
    Reconnect,
    RefreshToken,
    Request,
    RequestId,
    Resume,
    SetSubscriptions,
    Subscribe,
    Unsubscribe,
)
from fastws.messages.published import (
    Alert,
    Batch,
    FeedStatus,
    Level,
    Lost,
    MarketStatus,
    OrderbookUpdate,
    Overflow,
    PortfolioUpdate,
    PriceUpdate,
    SymbolStatus,
)
from fastws.messages.server import (
    Authenticated,
    Error,
    Greeting,
    Limits,
    Paused,
    Pong,
    Reconnected,
    Rejected,
    Reply,
    Resumed,
    ServerShutdown,
    Subscribed,
    Subscriptions,
    TokenRefreshed,
    Unsubscribed,
)

__all__ = [
    "Alert",
    "Auth",
    "Authenticated",
    "Batch",
    "ClientMessage",
    "Error",
    "FeedStatus",
    "Greeting",
    "Level",
    "Limits",
    "ListSubscriptions",
    "Lost",
    "MarketStatus",
    "OrderbookUpdate",
    "Overflow",
    "Pause",
    "Paused",
    "Ping",
    "Pong",
    "PortfolioUpdate",
    "PriceUpdate",
    "Reconnect",
    "Reconnected",
    "RefreshToken",
    "Rejected",
    "Reply",
    "Request",
    "RequestId",
    "Resume",
    "Resumed",
    "ServerMessage",
    "ServerShutdown",
    "SetSubscriptions",
    "Subscribe",
    "Subscribed",
    "Subscriptions",
    "SymbolStatus",
    "TokenRefreshed",
    "Unsubscribe",
    "Unsubscribed",
    "decode",
    "encode",
    "request_id",
]

ServerMessage = (
    Greeting
    | Subscribed
    | Unsubscribed
    | Subscriptions
    | Pong
    | Authenticated
    | TokenRefreshed
    | Reconnected
    | Paused
    | Resumed
    | ServerShutdown
    | Error
    | PriceUpdate
    | OrderbookUpdate
    | MarketStatus
    | FeedStatus
    | SymbolStatus
    | Alert
    | PortfolioUpdate
    | Batch
    | Overflow
)


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
