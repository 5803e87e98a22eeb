"""fastws: a market-data push server. One feed in, tens of thousands of WebSocket clients out.

`Server` runs one inside another program, `get_include` is for extensions in C and Cython (see include/fastws.h),
`fastws.client` is the client and `fastws.kis` the feed handler of KIS.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastws._version import __version__

if TYPE_CHECKING:
    from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate
    from fastws.auth import AuthError, AuthRequest
    from fastws.dialects.own_requests import Caller
    from fastws.errors import FastwsError, SettingsError
    from fastws.feeds.base import Feed, FeedOverError
    from fastws.server.embedding import Hub, Server
    from fastws.settings import Settings

__all__ = [
    "AuthError",
    "AuthRequest",
    "BookUpdate",
    "Caller",
    "FastwsError",
    "Feed",
    "FeedOverError",
    "Hub",
    "Instrument",
    "MarketStatus",
    "PriceUpdate",
    "Server",
    "Settings",
    "SettingsError",
    "__version__",
    "get_include",
]

# Imported when they are asked for: the client needs none of the server.
_HOMES = {
    "AuthError": "fastws.auth",
    "AuthRequest": "fastws.auth",
    "BookUpdate": "fastws._market",
    "Caller": "fastws.dialects.own_requests",
    "FastwsError": "fastws.errors",
    "Feed": "fastws.feeds.base",
    "FeedOverError": "fastws.feeds.base",
    "Hub": "fastws.server.embedding",
    "Instrument": "fastws._market",
    "MarketStatus": "fastws._market",
    "PriceUpdate": "fastws._market",
    "Server": "fastws.server.embedding",
    "Settings": "fastws.settings",
    "SettingsError": "fastws.errors",
}


def get_include() -> str:
    """The directory of fastws.h, for the compiler."""
    return str(Path(__file__).parent / "include")


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
