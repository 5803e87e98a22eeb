"""A Python client of fastws: typed messages, and nothing lost without a word.

`Client` is for asyncio, :class:`fastws.client.sync.SyncClient` for programs without a loop, and
:class:`fastws.client.realtime.RealtimeClient` for the realtime dialect. DataFrames are in :mod:`fastws.client.frames`
(extra ``pandas``), numpy arrays of books in :mod:`fastws.client.arrays`.
"""

from fastws.client.address import TokenSource
from fastws.client.backoff import Backoff
from fastws.client.base import Accepted, Statistics
from fastws.client.client import Client
from fastws.client.errors import (
    ClientError,
    ClosedError,
    ConnectError,
    EndedError,
    RequestError,
    RequestTimeoutError,
    TokenError,
    UsageError,
)
from fastws.client.messages import (
    Alert,
    Error,
    FeedStatus,
    Gap,
    Interrupted,
    Level,
    Lost,
    MarketStatus,
    Message,
    OrderbookUpdate,
    Overflow,
    PortfolioUpdate,
    PriceUpdate,
    RefreshFailed,
    Rejected,
    Restored,
    SymbolStatus,
    Unreadable,
    Update,
    Withdrawn,
)

__all__ = [
    "Accepted",
    "Alert",
    "Backoff",
    "Client",
    "ClientError",
    "ClosedError",
    "ConnectError",
    "EndedError",
    "Error",
    "FeedStatus",
    "Gap",
    "Interrupted",
    "Level",
    "Lost",
    "MarketStatus",
    "Message",
    "OrderbookUpdate",
    "Overflow",
    "PortfolioUpdate",
    "PriceUpdate",
    "RefreshFailed",
    "Rejected",
    "RequestError",
    "RequestTimeoutError",
    "Restored",
    "Statistics",
    "SymbolStatus",
    "TokenError",
    "TokenSource",
    "Unreadable",
    "Update",
    "UsageError",
    "Withdrawn",
]
