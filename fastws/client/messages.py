"""What a client yields: the server's messages as typed values, and what the client itself has to say. Sans-IO.

The types follow :mod:`fastws.messages`, which describes the wire, with what a program wants instead of what JSON has:
numbers keep their digits (``int``, or `decimal.Decimal` where there is a point), times are aware `datetime` objects in
UTC, what the source passed through stands in `extra`, and codes of a newer server are no error.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from fastws.messages.server import Rejected

__all__ = [
    "Alert",
    "Error",
    "FeedStatus",
    "Gap",
    "Interrupted",
    "Level",
    "Lost",
    "MarketStatus",
    "Message",
    "Number",
    "OrderbookUpdate",
    "Overflow",
    "PortfolioUpdate",
    "PriceUpdate",
    "RefreshFailed",
    "Rejected",
    "Restored",
    "SymbolStatus",
    "Unreadable",
    "Update",
    "Withdrawn",
]

Number: TypeAlias = int | Decimal
Counter: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""What the server counts; a number that no server can have reached would be a cursor that nothing goes on from."""
Time: TypeAlias = Annotated[datetime, Meta(tz=True)]
"""A time that says of which zone it is; `in_utc` brings it to UTC."""
S = TypeVar("S")
_TIMES: Final = ("timestamp", "event_time", "last_update")
# Characters of what cannot be read: enough to know it by, where a queue of them may be kept.
_TEXT_LENGTH: Final = 4096


class Update(msgspec.Struct, kw_only=True):
    """Root of what is published.

    `snapshot` marks the last known value that follows a subscription, in place of a live update. `extra` has the
    members that the source passed through and no field here is for, numbers in them as everywhere.
    """

    timestamp: Time
    sequence: Counter
    # No publisher has members of these names.
    snapshot: bool = msgspec.field(default=False, name="(snapshot)")
    extra: dict[str, Any] = msgspec.field(default_factory=dict, name="(extra)")


class PriceUpdate(Update, tag_field="type", tag="price_update", kw_only=True):
    """A trade, or a polled price. None: the source does not say. `volume` is the day's total in shares, `change` and
    `change_percent` are against the previous close. `stale`: from before the last start of the server."""

    code: str
    name: str
    price: Number
    change: Number | None = None
    change_percent: Number | None = None
    volume: Number | None = None
    trade_volume: Number | None = None
    high: Number | None = None
    low: Number | None = None
    venue: str | None = None
    quality: str | None = None
    event_time: Time | None = None
    stale: bool = False
    seq: Counter


class Level(msgspec.Struct):
    """One price of an order book; `quantity` in shares."""

    price: Number
    quantity: Number


class OrderbookUpdate(Update, tag_field="type", tag="orderbook_update", kw_only=True):
    """A whole order book, up to ten levels a side, the best first. See :func:`fastws.client.arrays.book_arrays`."""

    code: str
    bids: list[Level]
    asks: list[Level]
    venue: str | None = None
    quality: str | None = None
    event_time: Time | None = None
    stale: bool = False
    seq: Counter


class MarketStatus(Update, tag_field="type", tag="market_status", kw_only=True):
    """The trading status of a market, as the source names it."""

    market: str
    status: str


class FeedStatus(Update, tag_field="type", tag="feed_status", kw_only=True):
    """An upstream feed of the server is live, stale, reconnecting or stopped."""

    feed: str
    status: str


class SymbolStatus(Update, tag_field="type", tag="symbol_status", kw_only=True):
    """A symbol is stale, that is silent for longer than can be while its market trades, or it is live again.

    `last_update` is when its last price or book was published; `usual_interval_ms` how long it usually is from one to
    the next, and `stale_after_ms` from how much silence on it counts as stale; None where that is not known."""

    code: str
    status: str
    last_update: Time
    usual_interval_ms: int | None = None
    stale_after_ms: int | None = None


class Alert(Update, tag_field="type", tag="alert", kw_only=True):
    """A price alert of the user's has fired."""

    code: str
    alert_type: str
    threshold: Number
    current_price: Number
    message: str


class PortfolioUpdate(Update, tag_field="type", tag="portfolio_update", kw_only=True):
    """What a portfolio is worth now; `unpriced` are the symbols that have no price yet or another currency."""

    portfolio_id: int | str
    name: str
    total_value: Number
    daily_change: Number
    daily_change_percent: Number
    unpriced: list[str] = []


class Lost(msgspec.Struct):
    """Consecutive updates of one symbol and channel that the server dropped; `code` is a market's of market_status."""

    code: str
    channel: str
    dropped: int
    from_seq: Counter
    to_seq: Counter


class Overflow(msgspec.Struct, tag_field="type", tag="overflow"):
    """What subscriptions of mode ``all`` lost because this client was too slow, as the server declares it."""

    items: list[Lost]
    timestamp: Time


class Error(msgspec.Struct, tag_field="type", tag="error"):
    """An error that answers no request of this client; programs go by `code`, people by `message`."""

    code: str
    message: str
    timestamp: Time
    details: dict[str, Any] = {}
    id: str | int | None = None


class Gap(msgspec.Struct, frozen=True):
    """Updates `from_seq` to `to_seq` of a symbol in mode ``all`` never came and were not declared: a fault somewhere.

    `channel` is price or orderbook. What the client knows of the symbol is right again with the next update.
    """

    code: str
    channel: str
    from_seq: int
    to_seq: int


class Interrupted(msgspec.Struct, frozen=True):
    """The connection has ended; the client connects again in `retry_in` seconds. Values it knows get old meanwhile.

    `code` is the WebSocket close code, 1006 where there was none. `is_planned`: the server announced that it stops.
    """

    code: int
    reason: str
    retry_in: float
    is_planned: bool = False


class Restored(msgspec.Struct, frozen=True):
    """The client is connected again.

    With `recovered`, `n_missed` messages that were published meanwhile follow, those of mode ``all`` in order and each
    once, and nothing is lost. Without it, what was published meanwhile is lost, for the `reason` given, and the
    last known values follow with `snapshot` set. `n_missed` is None where the server cannot know.
    """

    recovered: bool
    n_missed: int | None = None
    reason: str = ""


class Withdrawn(msgspec.Struct, frozen=True):
    """Targets that were held before an interruption and were not accepted again: nothing comes of them any more."""

    subscription_type: str
    rejected: list[Rejected]


class RefreshFailed(msgspec.Struct, frozen=True):
    """A new token could not be had or was not accepted; it is tried again in `retry_in` seconds."""

    reason: str
    retry_in: float


class Unreadable(msgspec.Struct, frozen=True):
    """A message of a known type that cannot be read, or that no server has to send where it comes, such as an answer to
    what was not asked or a second greeting, with the reason: a fault of the server, or of this client. `text` is its
    beginning, up to 4,096 bytes."""

    text: str
    reason: str


Message: TypeAlias = (
    PriceUpdate
    | OrderbookUpdate
    | MarketStatus
    | FeedStatus
    | SymbolStatus
    | Alert
    | PortfolioUpdate
    | Overflow
    | Error
    | Gap
    | Interrupted
    | Restored
    | Withdrawn
    | RefreshFailed
    | Unreadable
)


def in_utc(told: S) -> S:
    """The same message, its times in UTC. Raises OverflowError for one that is in no year of the calendar there."""
    for name in _TIMES:
        at = getattr(told, name, None)
        if at is not None and at.tzinfo is not UTC:
            setattr(told, name, at.astimezone(UTC))
    return told


def unreadable(text: bytes, reason: object) -> Unreadable:
    return Unreadable(text[:_TEXT_LENGTH].decode("utf-8", "replace"), str(reason))


def rejections(error: Error) -> list[Rejected]:
    """The targets that an error names as refused; none where it does not name them as the contract has it."""
    try:
        return msgspec.convert(error.details.get("rejected", []), list[Rejected])
    except msgspec.ValidationError:
        return []
