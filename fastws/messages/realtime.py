"""Every message of the realtime dialect: what clients may send, and what they get. The docstrings are the contract's.

All of them are ``{"type":…,"data":{…},"timestamp":…}``. Field order is the order on the wire. What is published stands
here to be described: it is written by the market's own encoders.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from fastws.errors import ErrorCode
from fastws.messages.client import RequestId, Token
from fastws.messages.client import Target as Name
from fastws.messages.fields import FeedState, LastUpdate, StaleAfter, SymbolState, Timestamp, UsualInterval
from fastws.messages.published import (
    Change,
    ChangePercent,
    DailyChange,
    DailyChangePercent,
    Lost,
    PortfolioId,
    PortfolioName,
    Price,
    Quality,
    TotalValue,
    Unpriced,
    Volume,
)
from fastws.messages.server import Expiry, UserId

Symbol = Annotated[Name, Meta(description="A symbol.", examples=["AAPL"])]
SentAt = Annotated[
    Any,
    Meta(
        description="When the client sent it, in any form; nothing depends on it.",
        examples=["2025-11-11T09:30:00Z"],
    ),
]


# What clients send.


class Request(msgspec.Struct, tag_field="type", kw_only=True):
    """Root of what a client sends. `id` is echoed on the reply or the error."""

    is_for_all: ClassVar[bool] = False
    """Whether it is answered also to a client that has yet to say who it is, where nobody else is served."""

    id: RequestId | UnsetType = UNSET
    timestamp: SentAt | UnsetType = UNSET


class Symbols(msgspec.Struct):
    """One symbol, or several, or both."""

    symbol: Symbol | UnsetType = UNSET
    symbols: Annotated[list[Symbol], Meta(min_length=1)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.symbol is UNSET and self.symbols is UNSET:
            raise ValueError("names no symbol; give it as symbol, or several as symbols")

    @property
    def names(self) -> list[str]:
        """All of them."""
        names = [] if self.symbol is UNSET else [self.symbol]
        return names if self.symbols is UNSET else names + self.symbols


SomeSymbols = Annotated[
    Symbols, Meta(extra_json_schema={"anyOf": [{"required": ["symbol"]}, {"required": ["symbols"]}]})
]


class Portfolio(msgspec.Struct):
    """The portfolio that is meant. Its id may come as a text, as the screener dialect has it."""

    portfolio_id: PortfolioId | Annotated[str, Meta(pattern="^-?[0-9]{1,18}$")]

    def __post_init__(self) -> None:
        self.portfolio_id = int(self.portfolio_id)


class AnyData(msgspec.Struct):
    """Nothing that matters."""


class RealtimePing(Request, tag="ping"):
    """Health check message

    Answered by `pong`.
    """

    is_for_all: ClassVar[bool] = True

    data: AnyData | UnsetType = UNSET


class SubscribeAsset(Request, tag="subscribe_asset"):
    """Subscribe to asset price updates

    Answered by one `subscribed` for each symbol that is held now, then by its last known `asset_update`, if there is
    one. Symbols that cannot be had are told in one `error`.
    """

    data: SomeSymbols


class UnsubscribeAsset(Request, tag="unsubscribe_asset"):
    """Unsubscribe from asset price updates

    Answered by one `unsubscribed` for each symbol; those not held count as done.
    """

    data: SomeSymbols


class SubscribePortfolio(Request, tag="subscribe_portfolio"):
    """Subscribe to the values of a portfolio of one's own

    Answered by `subscribed`, then by the current `portfolio_update`. A portfolio of another user is `FORBIDDEN`, and
    so is one that there is not.
    """

    data: Portfolio


class UnsubscribePortfolio(Request, tag="unsubscribe_portfolio"):
    """Unsubscribe from the values of a portfolio

    Answered by `unsubscribed`; one that is not held counts as done.
    """

    data: Portfolio


class GivenToken(msgspec.Struct):
    """A token."""

    token: Token


class RealtimeAuth(Request, tag="auth"):
    """Give the connection a token, a newer one, or another user's

    Answered by `authenticated`. A token that is not accepted is answered by `INVALID_TOKEN`, and the connection goes
    on as it was.
    """

    is_for_all: ClassVar[bool] = True

    data: GivenToken


ClientMessage = (
    RealtimePing
    | SubscribeAsset
    | UnsubscribeAsset
    | SubscribePortfolio
    | UnsubscribePortfolio
    | RealtimeAuth
)


# What the server sends.


class Message(msgspec.Struct, tag_field="type", omit_defaults=True, kw_only=True):
    """Root of what the server sends. Fields left at UNSET are left out."""


class GreetingData(msgspec.Struct):
    status: Literal["connected"]
    connection_id: Annotated[
        str,
        Meta(
            description="Id of this connection.",
            examples=["550e8400-e29b-41d4-a716-446655440000"],
        ),
    ]
    authenticated: bool
    user_id: Annotated[UserId | None, Meta(description="null for a connection without a user.")]


class RealtimeGreeting(Message, tag="connection"):
    """The first message on every connection."""

    data: GreetingData
    timestamp: Timestamp


class Nothing(msgspec.Struct):
    """An empty object."""


class RealtimePong(Message, tag="pong"):
    """A sign of life, ahead of all data that waits."""

    data: Nothing
    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class Target(msgspec.Struct, omit_defaults=True):
    """A symbol, or a portfolio."""

    symbol: Symbol | UnsetType = UNSET
    portfolio_id: PortfolioId | UnsetType = UNSET


class RealtimeSubscribed(Message, tag="subscribed"):
    """This symbol, or this portfolio, is held now. Its last known value follows."""

    data: Target
    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class RealtimeUnsubscribed(Message, tag="unsubscribed"):
    """This symbol, or this portfolio, is not held any more."""

    data: Target
    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class AuthenticatedData(msgspec.Struct):
    user_id: UserId
    expires_at: Expiry


class RealtimeAuthenticated(Message, tag="authenticated"):
    """The connection is this user's now."""

    data: AuthenticatedData
    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


class Asset(msgspec.Struct, omit_defaults=True, kw_only=True):
    symbol: Symbol
    price: Price
    change: Change | UnsetType = UNSET
    change_percent: ChangePercent | UnsetType = UNSET
    volume: Volume | UnsetType = UNSET
    high: (
        Annotated[
            Price,
            Meta(
                description="The day's highest price: the feed's, else of what the server has seen.",
                examples=[151.00],
            ),
        ]
        | UnsetType
    ) = UNSET
    low: (
        Annotated[
            Price,
            Meta(
                description="The day's lowest price: the feed's, else of what the server has seen.",
                examples=[148.50],
            ),
        ]
        | UnsetType
    ) = UNSET
    quality: Quality | UnsetType = UNSET
    stale: (
        Annotated[Literal[True], Meta(description="A value from before the last start of the server.")]
        | UnsetType
    ) = UNSET


class AssetUpdate(Message, tag="asset_update"):
    """The newest price of a symbol that is held."""

    data: Asset
    timestamp: Timestamp


class PortfolioData(msgspec.Struct, omit_defaults=True, kw_only=True):
    portfolio_id: PortfolioId
    name: PortfolioName
    total_value: TotalValue
    daily_change: DailyChange
    daily_change_percent: DailyChangePercent
    unpriced: Unpriced | UnsetType = UNSET


class RealtimePortfolioUpdate(Message, tag="portfolio_update"):
    """The newest value of a portfolio that is held; at most one per flush."""

    data: PortfolioData
    timestamp: Timestamp


class FeedData(msgspec.Struct):
    feed: Annotated[str, Meta(description="The name of the feed.", examples=["kis"])]
    status: FeedState


class RealtimeFeedStatus(Message, tag="feed_status"):
    """An upstream feed changed its state; comes to every connection."""

    data: FeedData
    timestamp: Timestamp


class SymbolStatusData(msgspec.Struct):
    symbol: Symbol
    status: SymbolState
    last_update: LastUpdate
    usual_interval_ms: UsualInterval | UnsetType = UNSET
    stale_after_ms: StaleAfter | UnsetType = UNSET


class RealtimeSymbolStatus(Message, tag="symbol_status"):
    """A symbol has become stale, or is no longer; to its subscribers."""

    data: SymbolStatusData
    timestamp: Timestamp


class AlertData(msgspec.Struct):
    """As in the screener dialect; members that are not named here are passed through."""

    code: Symbol
    alert_type: Annotated[str, Meta(examples=["price_above"])]
    threshold: Annotated[float, Meta(description="In the unit of alert_type.", examples=[75000])]
    current_price: Price
    message: Annotated[str, Meta(description="For people.")]


class RealtimeAlert(Message, tag="alert"):
    """A price alert of the user's has fired; comes to every connection of the user."""

    data: AlertData
    timestamp: Timestamp


class OverflowData(msgspec.Struct):
    items: Annotated[list[Lost], Meta(min_length=1)]


class RealtimeOverflow(Message, tag="overflow"):
    """What came to every connection, such as `feed_status`, and not to this one, because it was too slow."""

    data: OverflowData
    timestamp: Timestamp


class StopData(msgspec.Struct):
    reconnect_after_ms: Annotated[
        int, Meta(ge=0, description="Milliseconds after which to connect again.", examples=[4200])
    ]


class RealtimeServerShutdown(Message, tag="server_shutdown"):
    """The server stops as planned; the connection is closed with 1012 next.

    The delay differs from client to client, so that they do not all come at once.
    """

    data: StopData
    timestamp: Timestamp


class ErrorData(msgspec.Struct):
    code: ErrorCode
    error_code: Annotated[ErrorCode, Meta(description="The same.")]
    message: Annotated[str, Meta(description="For people; programs go by the code.")]
    details: Annotated[
        dict[str, Any], Meta(description="What programs can use; see the table of error codes.")
    ]


class RealtimeError(Message, tag="error"):
    """Something asked for was not done, or the connection ends; `code` says what, `message` says it to people."""

    data: ErrorData
    timestamp: Timestamp
    id: RequestId | UnsetType = UNSET


ServerMessage = (
    RealtimeGreeting
    | RealtimePong
    | RealtimeSubscribed
    | RealtimeUnsubscribed
    | RealtimeAuthenticated
    | AssetUpdate
    | RealtimePortfolioUpdate
    | RealtimeFeedStatus
    | RealtimeSymbolStatus
    | RealtimeAlert
    | RealtimeOverflow
    | RealtimeServerShutdown
    | RealtimeError
)

decode = msgspec.json.Decoder(ClientMessage).decode
encode = msgspec.json.Encoder().encode
