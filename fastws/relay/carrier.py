"""Publishes here what others have published. Sans-IO."""

from __future__ import annotations

from typing import Final

import structlog

from fastws._core import Hub
from fastws._market import BookUpdate, MarketStatus, PriceUpdate
from fastws._relay import KIND_BOOK, KIND_PRICE, KIND_STATUS
from fastws.logs import log_limited
from fastws.market.instruments import MAX_INSTRUMENTS
from fastws.market.market import Market
from fastws.relay.counts import RelayCounts
from fastws.relay.streams import Arrived

_MESSAGES: Final = {KIND_PRICE: "price_update", KIND_BOOK: "orderbook_update", KIND_STATUS: "market_status"}

_log = structlog.get_logger("fastws.relay")


class Carrier:
    """Brings updates of other instances to the market, each over no newer value; see the package for stamps."""

    def __init__(self, hub: Hub, market: Market, counts: RelayCounts) -> None:
        self.hub = hub
        self.market = market
        self.counts = counts

    def publish(self, arrived: Arrived) -> None:
        """Publish an update whose turn it is, or count what is wrong with it."""
        update = arrived.update
        self.counts.updates["received"] += 1
        try:
            if (
                update.kind != KIND_STATUS
                and self.market.instrument(update.code) is None
                and len(self.market.instruments) >= MAX_INSTRUMENTS
            ):
                raise ValueError("there are too many symbols")
            channel = self.market.channel_of(_MESSAGES[update.kind], update.code)
            is_late = update.stamp < channel.stamp
            if n_missed := arrived.n_missed + (is_late and arrived.is_counted):
                self.counts.updates["missed"] += n_missed
                self.hub.note_missed(channel, n_missed)
            if update.stamp <= channel.stamp:
                self.counts.updates["outdated"] += is_late
                return
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
