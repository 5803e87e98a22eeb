"""The feed of KIS: app keys pooled, symbols registered by who wants them, the rest polled."""

from fastws.feeds.kis.feed import KISFeed
from fastws.feeds.kis.keys import find_keys
from fastws.feeds.kis.options import KISOptions
from fastws.feeds.kis.symbols import has_servable

__all__ = ["KISFeed", "KISOptions", "find_keys", "has_servable"]
