"""Runs the feed of a server: alone, or in turn with other instances that have the same one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from fastws.feeds.base import RECONNECTING, STOPPED, Feed, FeedState, FeedSupervisor
from fastws.feeds.kis import KISFeed
from fastws.feeds.poll import NO_SOURCE, PollFeed
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.server.parts import fixed_symbols
from fastws.settings import Settings

if TYPE_CHECKING:
    from fastws.relay.keeper import FeedKeeper
    from fastws.relay.relay import Relay
    from fastws.server.predecessor import Predecessor

_log = structlog.get_logger("fastws")


class FeedRunner:
    """Has `feed` run while it is this instance's turn. Belongs to the thread of the event loop.

    1. Without :meth:`join` it always is.
    2. With it, `market` has the state of the feed wherever that is run, and those of the feeds of others.
    3. `feed` is None where nothing is run here; others may run some even so.
    """

    def __init__(self, feed: Feed | None, market: Market) -> None:
        self.feed = feed
        self.supervisor = None if feed is None else FeedSupervisor(feed, market, tell=self._on_status)
        # None where there is no feed, or nobody else who could run it.
        self.keeper: FeedKeeper | None = None
        self._market = market
        self._relay: Relay | None = None
        self._rank = 0
        self._patience = 0.0
        self._is_clustered = False

    def join(
        self,
        relay: Relay,
        *,
        rank: int,
        patience: float,
        is_clustered: bool,
        is_owner: bool,
        predecessor: Predecessor | None,
    ) -> None:
        """Take turns with the instances that `relay` joins this one to; for `rank` and the rest see `FeedKeeper`.

        `is_clustered`: they are instances of their own, and not workers or a predecessor of this one only.
        """
        self._relay = relay
        self._rank, self._patience = rank, patience
        self._is_clustered = is_clustered
        relay.meetings.on_feed = self._on_elsewhere
        relay.forcing.on_request = self._force_here
        self._make_keeper(is_owner=is_owner, before=0 if predecessor is None else predecessor.origin)
        if self.keeper is not None and predecessor is not None:
            owner = predecessor.owners.get(self.keeper.feed)
            if owner is not None:
                self.keeper.hear_of(*owner)

    def _make_keeper(self, *, is_owner: bool, before: int = 0) -> None:
        relay, supervisor = self._relay, self.supervisor
        if relay is None or supervisor is None:
            return
        from fastws.relay.keeper import FeedKeeper  # noqa: PLC0415 - for those who are not alone

        self.keeper = FeedKeeper(
            relay,
            supervisor.feed.name,
            rank=self._rank,
            patience=self._patience,
            status=lambda: supervisor.status,
            on_change=self._show,
            is_owner=is_owner,
            before=before,
        )

    @property
    def is_here(self) -> bool:
        """Whether there is a feed, and it is this instance that runs it."""
        return self.supervisor is not None and (self.keeper is None or self.keeper.is_owner)

    @property
    def roles(self) -> dict[str, str]:
        """Which part this instance has in its feed; alone it is always the owner."""
        if self.feed is None:
            return {}
        return {self.feed.name: "owner" if self.keeper is None else self.keeper.role}

    def start(self) -> None:
        supervisor = self.supervisor
        if supervisor is None:
            return
        if self.keeper is None:
            supervisor.start()
        else:
            self._show()
            self.keeper.start(supervisor.run, has_given_up=lambda: supervisor.has_given_up)

    async def stop(self, seconds: float) -> None:
        """End the feed, which gets so long for it; whatever it died of is logged."""
        if self.supervisor is None:
            return
        try:
            async with asyncio.timeout(seconds):
                await (self.supervisor if self.keeper is None else self.keeper).stop()
        except TimeoutError:
            _log.warning("the feed did not end and was left behind", seconds=seconds)
        except Exception:
            # Whatever it died of, the clients are still to get what it has published.
            _log.exception("the feed failed while it was stopped")

    def start_anew(self, *, was_owner: bool) -> None:
        """Start a joined feed again after :meth:`stop`, before which this instance was its owner or not."""
        if self.supervisor is None or self._relay is None or self.supervisor.is_running:
            return
        # Of others who run it something would be heard, unless nobody can be.
        is_owner = not self._is_clustered or (was_owner and not self._relay.is_up)
        self._make_keeper(is_owner=is_owner)
        self.start()

    def fix_symbols(self, settings: Settings, instruments: Instruments) -> None:
        """Give the symbols of a newer `symbols_file` the priority that those of the one before had."""
        if isinstance(self.feed, KISFeed):
            self.feed.fix(fixed_symbols(settings, instruments))
        elif isinstance(self.feed, PollFeed) and settings.symbols_file is not None:
            self.feed.fix(instrument.code for instrument in instruments)

    def is_quiet(self, code: str) -> bool:
        """Whether there is a reason why nothing comes of a symbol: its feed has one; or it comes from other instances,
        and nobody here has it sent."""
        if self.feed is not None and self.is_here:
            return self.feed.is_quiet(code)
        channels = self._market.channels_of(code)
        if self._relay is None or channels is None:
            return False
        has_viewers = any(topic.n_subscribers for topic in channels.prices.topics)
        return not has_viewers or bool(self._relay.missing("stock", (code,)))

    async def force_update(self, codes: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Poll symbols now, or have them polled by the instance that runs the feed; see `PollFeed.force`.

        Without a poll feed none can be. Raises `FeedAwayError` where whoever runs it cannot be asked.
        """
        if self._relay is not None and self._is_clustered:
            if isinstance(self.feed, PollFeed) and self.keeper is not None and not self.keeper.is_owner:
                return await self._relay.forcing.ask(self.feed.name, codes)
            if self.feed is None and self._relay.forcing.owners(None):
                return await self._relay.forcing.ask(None, codes)
        return await self._force_here(codes)

    async def _force_here(self, codes: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        if not isinstance(self.feed, PollFeed):
            return [], dict.fromkeys(codes, NO_SOURCE)
        return await self.feed.force(codes)

    # The state of the feed.

    def _on_elsewhere(self, feed: str, status: str) -> None:
        if self.keeper is not None and feed == self.keeper.feed:
            self._show()
        else:
            self._market.set_feed_status(feed, status)

    def _on_status(self, feed: str, status: FeedState) -> None:
        if self.keeper is None:
            self._market.set_feed_status(feed, status)
        else:
            self._show()
            self.keeper.tell()

    def _show(self) -> None:
        """Tell the state of the feed that this instance can run, wherever it is run."""
        keeper, supervisor, relay = self.keeper, self.supervisor, self._relay
        if keeper is None or supervisor is None or relay is None:
            return
        status = supervisor.status if keeper.post.is_owner else relay.meetings.state_of(keeper.feed)
        is_vacant = keeper.post.is_next and not relay.forcing.owners(keeper.feed)
        if status == STOPPED and (keeper.post.is_settling or is_vacant):
            status = RECONNECTING
        self._market.set_feed_status(keeper.feed, status)
