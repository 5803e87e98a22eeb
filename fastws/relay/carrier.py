"""Publishes here what others have published. Sans-IO."""

from __future__ import annotations

import time
from typing import Final

import structlog

from fastws._core import Channel, Hub
from fastws._market import BookUpdate, MarketStatus, PriceUpdate
from fastws._relay import KIND_BOOK, KIND_PRICE, KIND_STATUS, Carried, stamp_at
from fastws.logs import log_limited
from fastws.market.instruments import MAX_INSTRUMENTS
from fastws.market.market import Market
from fastws.relay.counts import RelayCounts
from fastws.relay.streams import AUTHOR_MASK, Arrived

_MESSAGES: Final = {KIND_PRICE: "price_update", KIND_BOOK: "orderbook_update", KIND_STATUS: "market_status"}

_log = structlog.get_logger("fastws.relay")


_MAX_MARKETS: Final = 1000
# A value that is far ahead would be the last one for as long. Instances whose clocks differ by more are told so.
_MAX_AHEAD_SECONDS: Final = 86_400.0
# So many are remembered; of those before, one may be counted as missed.
_MAX_EARLY: Final = 100_000


class Carrier:
    """Brings updates of other instances to the market, each over no newer value; see the package for stamps.

    Last values of an instance are also those that it has of others. One that is shown before what its author has sent
    of it was shown *early*: it is not among those that are missed, whatever the author's numbers say then.
    """

    def __init__(self, hub: Hub, market: Market, counts: RelayCounts) -> None:
        self.hub = hub
        self.market = market
        self.counts = counts
        self._latest = 0
        self._markets: set[str] = set()
        # Stamps of what was shown early, by channel and author.
        self._early: dict[tuple[Channel, int], list[int]] = {}

    def publish(self, arrived: Arrived) -> None:
        """Publish an update whose turn it is, or count what is wrong with it."""
        update = arrived.update
        self.counts.updates["received"] += 1
        try:
            self._check(update)
            channel = self.market.channel_of(_MESSAGES[update.kind], update.code)
            is_late = update.stamp < channel.stamp
            n_missed = arrived.n_missed + (is_late and arrived.is_counted)
            if self._early:
                n_missed -= min(arrived.n_missed, self._take_early(channel, arrived))
            if n_missed:
                self.counts.updates["missed"] += n_missed
                self.hub.note_missed(channel, n_missed)
            if update.stamp <= channel.stamp:
                self.counts.updates["outdated"] += is_late
                return
            if not arrived.is_own:
                self._note_early(channel, update.stamp)
            value: PriceUpdate | BookUpdate | MarketStatus
            if update.kind == KIND_STATUS:
                value = update.status()
            else:
                instrument = self.market.ensure_instrument(update.code)
                value = update.price(instrument) if update.kind == KIND_PRICE else update.book(instrument)
            self.market.carry(value, stamp=update.stamp, published_ms=update.published_ms, head=update.body)
        except ValueError as error:
            self.counts.updates["refused"] += 1
            log_limited(
                _log,
                "relay-update-refused",
                "an update of another instance was left out",
                code=update.code[:64],
                error=str(error),
            )

    def _check(self, update: Carried) -> None:
        """Refuse what would harm those who trust this instance; whoever reaches Redis can write this.

        Raises:
            ValueError: with the reason.
        """
        if not update.is_sound:
            raise ValueError("its text is no JSON of its type, in UTF-8")
        if update.stamp > self._latest:
            self._latest = stamp_at(time.time() + _MAX_AHEAD_SECONDS)
            if update.stamp > self._latest:
                raise ValueError("it is stamped more than a day ahead: set the clocks of all instances")
        if update.kind == KIND_STATUS:
            if update.code not in self._markets:
                if len(self._markets) >= _MAX_MARKETS:
                    raise ValueError("there are too many markets")
                self._markets.add(update.code)
        elif self.market.instrument(update.code) is None and len(self.market.instruments) >= MAX_INSTRUMENTS:
            raise ValueError("there are too many symbols")

    def forget(self, origin: int) -> None:
        """Nothing comes of this origin any more."""
        author = origin & AUTHOR_MASK
        self._early = {key: stamps for key, stamps in self._early.items() if key[1] != author}

    def _note_early(self, channel: Channel, stamp: int) -> None:
        if len(self._early) >= _MAX_EARLY:
            del self._early[next(iter(self._early))]
        self._early.setdefault((channel, stamp & AUTHOR_MASK), []).append(stamp)

    def _take_early(self, channel: Channel, arrived: Arrived) -> int:
        """How many updates that its origin has published before this one were shown early, since the last one."""
        key, stamp = (channel, arrived.origin & AUTHOR_MASK), arrived.update.stamp
        stamps = self._early.pop(key, None)
        if stamps is None:
            return 0
        if later := [each for each in stamps if each > stamp]:
            self._early[key] = later
        return sum(each < stamp for each in stamps)
