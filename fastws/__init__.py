"""fastws: a market-data push server. One feed in, tens of thousands of WebSocket clients out."""

from fastws._version import __version__

__all__ = ["__version__"]
