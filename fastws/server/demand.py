"""What is wanted here, and with it what others want that this instance brings prices to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Final

from fastws._core import Hub
from fastws.market.interest import NO_INTEREST, Interest, find_interest
from fastws.market.market import Market

if TYPE_CHECKING:
    from fastws.relay.relay import Relay

_AWAITED_SECONDS: Final = 3.0


class Demand:
    """Says who wants the prices of what. `awaited` returns the codes that are waited for without being looked at."""

    def __init__(self, hub: Hub, market: Market, awaited: Callable[[], Collection[str]]) -> None:
        self._hub = hub
        self._market = market
        self._find_awaited = awaited
        self._awaited: Collection[str] = ()
        self._awaited_at = -math.inf
        self._relay: Relay | None = None

    def join(self, relay: Relay) -> None:
        """Tell the instances that `relay` joins this one to what is wanted here, and hear what they want."""
        self._relay = relay
        relay.sharing.interest = self.own

    def own(self) -> Mapping[str, Interest]:
        """What clients look at, and what is awaited; the latter may be many, so they are gone through every few
        seconds."""
        now = time.monotonic()
        if now - self._awaited_at >= _AWAITED_SECONDS:
            self._awaited, self._awaited_at = self._find_awaited(), now
        return find_interest(self._hub, self._market.instruments, self._awaited)

    def whole(self) -> Mapping[str, Interest]:
        """What is to be brought: what is wanted here, and at all instances that this one brings prices to."""
        wanted = dict(self.own())
        if self._relay is not None:
            for code, (n_viewers, n_others) in self._relay.sharing.wanted_elsewhere().items():
                here = wanted.get(code, NO_INTEREST)
                wanted[code] = Interest(here.n_viewers + n_viewers, here.n_others + n_others)
        return wanted
