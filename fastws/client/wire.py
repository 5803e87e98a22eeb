"""The screener dialect as a client speaks it: text to typed messages, requests to text. Sans-IO."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from fastws import messages as wire
from fastws.client import messages
from fastws.client.messages import Unreadable, Update, in_utc, unreadable
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

# A book of ten levels a side has some fifty values in a kilobyte, and a value of a hostile text has two bytes, of which
# a hundred and more are made: the largest message could be gigabytes.
_MOST_VALUES: Final = 2_000_000
# What cannot be read is told piece by piece as long as it is an exception.
_MOST_UNREADABLE: Final = 100

encode = msgspec.json.Encoder().encode
_parse = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


def request_text(request: Request) -> bytes:
    return encode(request)


def decode(text: bytes) -> Received | Reply | Unreadable | None:
    """What a text message holds; None for a type that this client does not know, as the contract wants it."""
    try:
        check_density(text)
        body = _parse(text)
        kind = body.get("type")
        if kind == "batch":
            return _batch(body)
        if kind in _REPLIES:
            reply: Reply = msgspec.convert(body, _REPLIES[kind])
            _check(reply)
            return reply
        found = _live(body, False)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        return unreadable(text, error)
    return None if found is None else Received([found])


def check_density(text: bytes) -> None:
    """Raises ValueError for a text of so many values that they are not to be made."""
    if len(text) > 2 * _MOST_VALUES and text.count(b",") > _MOST_VALUES:
        raise ValueError(f"it has more than {_MOST_VALUES} values")


def _check(reply: Reply) -> None:
    """Raises ValueError for what has the form that the contract wants and cannot be."""
    if isinstance(reply, (wire.Greeting, wire.Pong)):
        datetime.fromisoformat(reply.timestamp)
    if isinstance(reply, wire.Greeting):
        msgspec.convert(reply.sequence, messages.Counter)
    if isinstance(reply, wire.ServerShutdown):
        msgspec.convert(reply.reconnect_after_ms, messages.Counter)
    if isinstance(reply, messages.Error):
        in_utc(reply)


def _batch(body: dict[str, Any]) -> Received:
    is_snapshot = bool(body.get("snapshot"))
    items = []
    n_unreadable = 0
    for part in body["messages"]:
        item = _live(part, is_snapshot)
        if item is None:
            continue
        if type(item) is Unreadable:
            n_unreadable += 1
            if n_unreadable > _MOST_UNREADABLE:
                raise ValueError(
                    f"more than {_MOST_UNREADABLE} of its messages; of the last one: {item.reason}"
                )
        items.append(item)
    return Received(items, is_snapshot, msgspec.convert(body["sequence"], messages.Counter))


def _live(body: dict[str, Any], is_snapshot: bool) -> Live | None:
    try:
        name = body["type"]
        if name == "overflow":
            return in_utc(msgspec.convert(body, messages.Overflow))
        kind = _UPDATES.get(name)
        if kind is None:
            return None
        update = in_utc(msgspec.convert(body, kind))
    except (msgspec.MsgspecError, KeyError, TypeError, OverflowError) as error:
        # Also what is no object, or has no type.
        return unreadable(encode(body), error)
    if is_snapshot:
        update.snapshot = True
    if not body.keys() <= _KNOWN[kind]:
        update.extra = {key: value for key, value in body.items() if key not in _KNOWN[kind]}
    return update
