"""Who waits for a request, by address. Sans-IO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

import structlog

from fastws.limits import Limits
from fastws.logs import log_limited

# What has waited for less may only be on its way: ten thousand clients behind one address connect within a second
# after a restart, and all of them are accepted before the first has been heard.
PATIENCE_SECONDS: Final = 2.0

# How many that have something to do are passed over in search of one that has not.
_MAX_LOOKED_AT: Final = 8

T = TypeVar("T", bound=Hashable)

_log = structlog.get_logger("fastws.listener")


class Waiting(Generic[T]):
    """Things with a key each, and when they were last heard from.

    1. A thing is there from :meth:`add` to :meth:`discard`, at most once.
    2. Things of a key are in the order in which they were heard from; a key without things is not kept.
    3. No call takes longer because there are many.
    """

    __slots__ = ("_by_key", "_key_of")

    def __init__(self) -> None:
        # Dictionaries that lose their front would be searched through for it, these are not.
        self._by_key: dict[str, OrderedDict[T, float]] = {}
        self._key_of: dict[T, str] = {}

    def __len__(self) -> int:
        return len(self._key_of)

    def add(self, thing: T, key: str, now: float) -> None:
        self._key_of[thing] = key
        things = self._by_key.get(key)
        if things is None:
            self._by_key[key] = OrderedDict({thing: now})
        else:
            things[thing] = now

    def touch(self, thing: T, now: float) -> None:
        """Note that it was heard from; one that is not there is left alone."""
        key = self._key_of.get(thing)
        if key is not None:
            things = self._by_key[key]
            things[thing] = now
            things.move_to_end(thing)

    def discard(self, thing: T) -> None:
        key = self._key_of.pop(thing, None)
        if key is not None:
            things = self._by_key[key]
            del things[thing]
            if not things:
                del self._by_key[key]

    def excess(
        self,
        key: str,
        limit: int,
        now: float,
        *,
        is_scarce: bool,
        is_idle: Callable[[T], bool] = lambda _: True,
    ) -> T | None:
        """Return which thing of `key` has to go, None when none has.

        One has to when there are over `limit` (0: never) of them. It is the one that was heard from least recently
        and is idle, if that is long enough ago. Where there is no room for others (`is_scarce`) it is never too
        early, and one goes that is not idle, too.
        """
        things = self._by_key.get(key)
        if not limit or things is None or len(things) <= limit:
            return None
        oldest = None
        for n, (thing, heard_at) in enumerate(things.items()):
            if n == _MAX_LOOKED_AT or not (is_scarce or now - heard_at >= PATIENCE_SECONDS):
                break
            if is_idle(thing):
                return thing
            oldest = oldest or thing
        return oldest if is_scarce else None


def note_closed(limits: Limits, address: str) -> None:
    """Note that a connection of `address` is closed because too many of its address wait for a request."""
    limits.note_half_open()
    log_limited(
        _log,
        "half_open_per_ip closed",
        "an address has too many connections that wait for a request, the oldest are closed; "
        "if this peer is a proxy, name it in trusted_proxies",
        limit=f"half_open_per_ip {limits.half_open_per_ip}",
        peer=address,
    )
