"""What a client of the realtime dialect yields, and how its text is read. Sans-IO.

Numbers keep their digits, and times are aware, as in :mod:`fastws.client.messages`. What the client itself has to say
(`Interrupted`, `Restored`, `Withdrawn`, `RefreshFailed`, `Unreadable`) is of that module, and so is `Error`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET

from fastws.client.messages import (
    Counter,
    Error,
    Interrupted,
    Number,
    Overflow,
    RefreshFailed,
    Restored,
    Time,
    Unreadable,
    Withdrawn,
    in_utc,
    unreadable,
)
from fastws.client.wire import check_density
from fastws.messages import realtime as wire

__all__ = [
    "Alert",
    "AssetUpdate",
    "FeedStatus",
    "Message",
    "PortfolioUpdate",
    "SymbolStatus",
    "decode",
    "encode",
]


class _Told(msgspec.Struct, kw_only=True):
    """Root. `extra` has the members that no field here is for."""

    timestamp: Time
    extra: dict[str, Any] = msgspec.field(default_factory=dict, name="(extra)")


class AssetUpdate(_Told, kw_only=True):
    """The newest price of a symbol. None: the source does not say. `volume` is the day's total, `change` and
    `change_percent` are against the previous close. `stale`: from before the last start of the server."""

    symbol: str
    price: Number
    change: Number | None = None
    change_percent: Number | None = None
    volume: Number | None = None
    high: Number | None = None
    low: Number | None = None
    quality: str | None = None
    stale: bool = False


class PortfolioUpdate(_Told, kw_only=True):
    """What a portfolio is worth now; `unpriced` are the symbols that have no price yet or another currency."""

    portfolio_id: int
    name: str
    total_value: Number
    daily_change: Number
    daily_change_percent: Number
    unpriced: list[str] = []


class FeedStatus(_Told, kw_only=True):
    """An upstream feed of the server is live, stale, reconnecting or stopped."""

    feed: str
    status: str


class SymbolStatus(_Told, kw_only=True):
    """A symbol is stale or live again; see :class:`fastws.client.messages.SymbolStatus`."""

    symbol: str
    status: str
    last_update: Time
    usual_interval_ms: int | None = None
    stale_after_ms: int | None = None


class Alert(_Told, kw_only=True):
    """A price alert of the user's has fired."""

    code: str
    alert_type: str
    threshold: Number
    current_price: Number
    message: str


Message: TypeAlias = (
    AssetUpdate
    | PortfolioUpdate
    | FeedStatus
    | SymbolStatus
    | Alert
    | Overflow
    | Error
    | Interrupted
    | Restored
    | Withdrawn
    | RefreshFailed
    | Unreadable
)
Reply: TypeAlias = (
    wire.RealtimeGreeting
    | wire.RealtimeSubscribed
    | wire.RealtimeUnsubscribed
    | wire.RealtimePong
    | wire.RealtimeAuthenticated
    | wire.RealtimeServerShutdown
)

_TOLD: Final[Mapping[str, Any]] = {
    "asset_update": AssetUpdate,
    "portfolio_update": PortfolioUpdate,
    "feed_status": FeedStatus,
    "symbol_status": SymbolStatus,
    "alert": Alert,
    "overflow": Overflow,
    "error": Error,
}
_REPLIES: Final[Mapping[str, Any]] = {
    "connection": wire.RealtimeGreeting,
    "subscribed": wire.RealtimeSubscribed,
    "unsubscribed": wire.RealtimeUnsubscribed,
    "pong": wire.RealtimePong,
    "authenticated": wire.RealtimeAuthenticated,
    "server_shutdown": wire.RealtimeServerShutdown,
}

encode = msgspec.json.Encoder().encode
_parse = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


def decode(text: bytes) -> Message | Reply | None:
    """What a text message holds; None for a type that this client does not know, as the contract wants it."""
    try:
        check_density(text)
        body = _parse(text)
        name = str(body.get("type"))
        if name in _REPLIES:
            reply: Reply = msgspec.convert(body, _REPLIES[name])
            _check(reply)
            return reply
        kind = _TOLD.get(name)
        if kind is None:
            return None
        # The types of one dialect have no envelope: what stands around `data` stands beside its members here.
        flat = body | body["data"] | {"timestamp": body["timestamp"]}
        told: Message = in_utc(msgspec.convert(flat, kind))
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        return unreadable(text, error)
    if isinstance(told, _Told):
        known = frozenset(type(told).__struct_encode_fields__)
        told.extra = {key: value for key, value in body["data"].items() if key not in known}
    return told


def _check(reply: Reply) -> None:
    """Raises ValueError for what has the form that the contract wants and cannot be."""
    if isinstance(reply, (wire.RealtimeGreeting, wire.RealtimePong)):
        datetime.fromisoformat(reply.timestamp)
    elif isinstance(reply, wire.RealtimeServerShutdown):
        msgspec.convert(reply.data.reconnect_after_ms, Counter)
    elif (
        isinstance(reply, (wire.RealtimeSubscribed, wire.RealtimeUnsubscribed))
        and reply.data.symbol is UNSET
        and reply.data.portfolio_id is UNSET
    ):
        raise ValueError("expected `symbol` or `portfolio_id` - at `$.data`")
