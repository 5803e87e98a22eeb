"""The screener dialect as a client speaks it: text to typed messages, requests to text. Sans-IO."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from fastws import messages as wire
from fastws.client import messages
from fastws.client.messages import Unreadable, Update
from fastws.messages.client import Request

Reply: TypeAlias = (
    wire.Greeting
    | wire.Subscribed
    | wire.Unsubscribed
    | wire.Pong
    | wire.TokenRefreshed
    | wire.Reconnected
    | wire.Paused
    | wire.Resumed
    | wire.ServerShutdown
    | messages.Error
)
Live: TypeAlias = Update | messages.Overflow | Unreadable


class Received(NamedTuple):
    """A frame's content. `items` are one or several in order, or those of a snapshot; `sequence` is the batch's, 0
    for a bare message."""

    items: list[Live]
    is_snapshot: bool = False
    sequence: int = 0


_UPDATES: Final[dict[str, type[Update]]] = {
    "price_update": messages.PriceUpdate,
    "orderbook_update": messages.OrderbookUpdate,
    "market_status": messages.MarketStatus,
    "feed_status": messages.FeedStatus,
    "symbol_status": messages.SymbolStatus,
    "alert": messages.Alert,
    "portfolio_update": messages.PortfolioUpdate,
}
_REPLIES: Final[dict[str, Any]] = {
    "connection": wire.Greeting,
    "subscribed": wire.Subscribed,
    "unsubscribed": wire.Unsubscribed,
    "pong": wire.Pong,
    "token_refreshed": wire.TokenRefreshed,
    "reconnected": wire.Reconnected,
    "paused": wire.Paused,
    "resumed": wire.Resumed,
    "server_shutdown": wire.ServerShutdown,
    "error": messages.Error,
}
_KNOWN: Final = {kind: frozenset(("type", *kind.__struct_encode_fields__)) for kind in _UPDATES.values()}

encode = msgspec.json.Encoder().encode
_parse = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


def request_text(request: Request) -> bytes:
    return encode(request)


def decode(text: bytes) -> Received | Reply | Unreadable | None:
    """What a text message holds; None for a type that this client does not know, as the contract wants it."""
    try:
        body = _parse(text)
        kind = body.get("type")
        if kind == "batch":
            is_snapshot = bool(body.get("snapshot"))
            items = [item for part in body["messages"] if (item := _live(part, is_snapshot)) is not None]
            return Received(items, is_snapshot, int(body["sequence"]))
        if kind in _REPLIES:
            reply: Reply = msgspec.convert(body, _REPLIES[kind])
            return reply
        found = _live(body, False)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, RecursionError) as error:
        return Unreadable(text.decode("utf-8", "replace"), str(error))
    return None if found is None else Received([found])


def _live(body: dict[str, Any], is_snapshot: bool) -> Live | None:
    try:
        name = body["type"]
        if name == "overflow":
            return msgspec.convert(body, messages.Overflow)
        kind = _UPDATES.get(name)
        if kind is None:
            return None
        update = msgspec.convert(body, kind)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        # Also what is no object, or has no type.
        return Unreadable(encode(body).decode(), str(error))
    if is_snapshot:
        update.snapshot = True
    if not body.keys() <= _KNOWN[kind]:
        update.extra = {key: value for key, value in body.items() if key not in _KNOWN[kind]}
    return update
