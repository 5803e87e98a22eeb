"""The feed of KIS: app keys pooled, symbols registered by who wants them, the rest polled."""

from fastws.feeds.kis.feed import KISFeed, KISOptions
from fastws.feeds.kis.keys import find_keys

__all__ = ["KISFeed", "KISOptions", "find_keys"]
