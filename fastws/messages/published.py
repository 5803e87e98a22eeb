"""What is published in the screener dialect, and the envelopes it comes in. The docstrings are the contract's texts.

These types describe; they encode nothing on the way to a client. Updates are written by :mod:`fastws._market` and
:mod:`fastws.market.alerts`, the envelopes and the numbers by :mod:`fastws._core`, and every update may carry members
of its source that are passed through and stand in no type here.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from fastws.messages.fields import (
    FeedState,
    LastUpdate,
    Sequence,
    StaleAfter,
    SymbolState,
    Timestamp,
    UsualInterval,
)
from fastws.messages.server import Error

MAX_ALERT_TYPE: Final = 64
MAX_ALERT_MESSAGE: Final = 1000

Code = Annotated[str, Meta(min_length=1, max_length=64, description="The symbol.", examples=["005930"])]
Price = Annotated[
    float,
    Meta(
        description="In the currency of the instrument, with the digits of its source: KRW prices are integers and "
        "stay integers.",
        examples=[73000, 150.25],
    ),
]
Change = Annotated[Price, Meta(description="Against the previous close.", examples=[1000, 2.50])]
ChangePercent = Annotated[float, Meta(description="Against the previous close, in percent.", examples=[1.39])]
Volume = Annotated[int, Meta(description="The day's total, in shares.", examples=[12345678])]
Seq = Annotated[
    int,
    Meta(
        ge=1,
        description="+1 per symbol and message type, from 1 in every epoch: in mode all a hole is a loss, in mode "
        "latest it is conflation.",
        examples=[101],
    ),
]
Venue = Annotated[str, Meta(description="Where it was traded: KRX, NXT or UN (both).", examples=["KRX"])]
Quality = Annotated[
    str, Meta(description="How it was had: realtime, polled or simulated.", examples=["realtime"])
]
EventTime = Annotated[
    Timestamp, Meta(description="The exchange's time of the event: ISO 8601, UTC, milliseconds.")
]
Stale = Annotated[
    Literal[True], Meta(description="In snapshots: a value from before the last start of the server.")
]

PortfolioId = Annotated[
    int, Meta(ge=-(2**63), le=2**63 - 1, description="The id of a portfolio.", examples=[123])
]
PortfolioName = Annotated[str, Meta(description="Its name.", examples=["Growth Portfolio"])]
TotalValue = Annotated[
    float,
    Meta(
        description="Positions times last prices, exact, rounded to the decimals of the portfolio's currency.",
        examples=[50000.00],
    ),
]
DailyChange = Annotated[
    float, Meta(description="Of total_value against the previous closes.", examples=[125.50])
]
DailyChangePercent = Annotated[
    float,
    Meta(description="The same in percent; 0 where the portfolio was worth nothing.", examples=[0.25]),
]
Unpriced = Annotated[
    list[str],
    Meta(
        description="Symbols with no price yet, which count at their last known close, and those in another "
        "currency than the portfolio's, which do not count.",
        examples=[["AAPL"]],
    ),
]


class Update(msgspec.Struct, tag_field="type", kw_only=True):
    """Root of what is published. Members that are not named here are passed through from the source."""


class PriceUpdate(Update, tag="price_update", kw_only=True):
    """A trade, or a polled price."""

    code: Code
    name: Annotated[str, Meta(description="The name of the instrument.", examples=["Samsung Electronics"])]
    price: Price
    change: Change | UnsetType = UNSET
    change_percent: ChangePercent | UnsetType = UNSET
    volume: Volume | UnsetType = UNSET
    trade_volume: Annotated[int, Meta(description="Of this trade, in shares.", examples=[22])] | UnsetType = (
        UNSET
    )
    high: Annotated[Price, Meta(description="The day's highest price.")] | UnsetType = UNSET
    low: Annotated[Price, Meta(description="The day's lowest price.")] | UnsetType = UNSET
    venue: Venue | UnsetType = UNSET
    quality: Quality | UnsetType = UNSET
    event_time: EventTime | UnsetType = UNSET
    timestamp: Timestamp
    stale: Stale | UnsetType = UNSET
    sequence: Sequence
    seq: Seq


class Level(msgspec.Struct):
    """One price of an order book."""

    price: Price
    quantity: Annotated[int, Meta(description="In shares.", examples=[1000])]


class OrderbookUpdate(Update, tag="orderbook_update", kw_only=True):
    """A whole order book, up to ten levels a side."""

    code: Code
    bids: Annotated[list[Level], Meta(max_length=10, description="The best, that is the highest, first.")]
    asks: Annotated[list[Level], Meta(max_length=10, description="The best, that is the lowest, first.")]
    venue: Venue | UnsetType = UNSET
    quality: Quality | UnsetType = UNSET
    event_time: EventTime | UnsetType = UNSET
    timestamp: Timestamp
    stale: Stale | UnsetType = UNSET
    sequence: Sequence
    seq: Seq


class MarketStatus(Update, tag="market_status", kw_only=True):
    """The trading status of a market, to its subscribers."""

    market: Annotated[str, Meta(description="The market.", examples=["KOSPI"])]
    status: Annotated[str, Meta(description="As the source names it.", examples=["open", "closed"])]
    timestamp: Timestamp
    sequence: Sequence


class FeedStatus(Update, tag="feed_status", kw_only=True):
    """An upstream feed changed its state; comes to every connection."""

    feed: Annotated[str, Meta(description="The name of the feed.", examples=["kis"])]
    status: FeedState
    timestamp: Timestamp
    sequence: Sequence


class SymbolStatus(Update, tag="symbol_status", kw_only=True):
    """A symbol has become stale, or is no longer; to the subscribers of the symbol, its sector and its market.

    An update of the symbol that comes later says that it is live as well.
    """

    code: Code
    status: SymbolState
    last_update: LastUpdate
    usual_interval_ms: UsualInterval | UnsetType = UNSET
    stale_after_ms: StaleAfter | UnsetType = UNSET
    timestamp: Timestamp
    sequence: Sequence


class Alert(Update, tag="alert", kw_only=True):
    """A price alert of the user's has fired; comes to every connection of the user."""

    code: Code
    alert_type: Annotated[
        str,
        Meta(
            max_length=MAX_ALERT_TYPE,
            description="price_above, price_below, change_percent_above, change_percent_below or volume_above; "
            "backends may publish others.",
            examples=["price_above"],
        ),
    ]
    threshold: Annotated[float, Meta(description="In the unit of alert_type.", examples=[75000])]
    current_price: Annotated[
        Price, Meta(description="The price that came with what crossed the threshold.", examples=[75100])
    ]
    message: Annotated[
        str,
        Meta(
            max_length=MAX_ALERT_MESSAGE,
            description="For people.",
            examples=["Samsung Electronics exceeded 75,000 KRW"],
        ),
    ]
    timestamp: Timestamp
    sequence: Sequence


class PortfolioUpdate(Update, tag="portfolio_update", kw_only=True):
    """What a portfolio is worth, after the price of something that it holds has changed; only to its owner."""

    portfolio_id: PortfolioId
    name: PortfolioName
    total_value: TotalValue
    daily_change: DailyChange
    daily_change_percent: DailyChangePercent
    unpriced: Unpriced | UnsetType = UNSET
    timestamp: Timestamp
    sequence: Sequence


class Batch(msgspec.Struct, tag_field="type", tag="batch", kw_only=True):
    """What one flush has for a connection, in publish order; or, with `snapshot`, the last known messages.

    A single live message is sent bare, a snapshot always as a batch. Everything of mode all up to `sequence` has been
    sent or declared lost.
    """

    batch_size: Annotated[int, Meta(ge=0, description="The number of messages.", examples=[5])]
    snapshot: Annotated[Literal[True], Meta(description="The answer to a subscription.")] | UnsetType = UNSET
    messages: list[
        PriceUpdate
        | OrderbookUpdate
        | MarketStatus
        | FeedStatus
        | SymbolStatus
        | Alert
        | PortfolioUpdate
        | Error
    ]
    timestamp: Timestamp
    sequence: Sequence


class Lost(msgspec.Struct, kw_only=True):
    """Consecutive updates of one channel that were dropped."""

    code: Annotated[str, Meta(description="The symbol; of a market_status the market.", examples=["005930"])]
    channel: Annotated[
        Literal["price", "orderbook", "market_status", "feed_status", "symbol_status", "alert"],
        Meta(
            description="price and orderbook are those of `subscribe`, the others are messages of their own."
        ),
    ]
    dropped: Annotated[int, Meta(ge=1, description="How many.", examples=[5])]
    from_seq: Annotated[int, Meta(ge=0, description="The `seq` of the first.", examples=[101])]
    to_seq: Annotated[int, Meta(ge=0, description="The `seq` of the last.", examples=[105])]


class Overflow(msgspec.Struct, tag_field="type", tag="overflow", kw_only=True):
    """What subscriptions of mode all lost because this client was too slow; nothing is lost without it."""

    items: Annotated[list[Lost], Meta(min_length=1)]
    timestamp: Timestamp
