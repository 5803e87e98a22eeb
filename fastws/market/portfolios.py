"""Live values of portfolios: who is watched, when values leave, and how others take their place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from fastws._core import CHANNEL_PRICE
from fastws._portfolios import PortfolioTable
from fastws.clock import wall_ms
from fastws.logs import log_limited
from fastws.market.portfolio_owners import PortfolioOwners
from fastws.market.portfolio_reader import PortfolioReader

if TYPE_CHECKING:
    from fastws._core import Channel, Topic
    from fastws._market import PriceUpdate
    from fastws.market.market import Market
    from fastws.market.portfolio_store import Loaded, PortfolioStore

_SLICE: Final = 0.002  # seconds of work before the loop runs on
_SWEEP_SECONDS: Final = 1.0
_SWEPT: Final = 1000  # looked at in one sweep, some 0.2 ms
_CHECKED: Final = 20  # summed up anew in one sweep, some 0.5 ms
_KEPT_SECONDS: Final = 60.0  # that a portfolio is watched when nobody listens any more

_log = structlog.get_logger("fastws.portfolios")


class Portfolio(NamedTuple):
    """Whose a portfolio is, and how it is called. `owner` is the id of a user as a text."""

    id: int
    owner: str
    name: str
    currency: str | None


class _Watch:
    """A portfolio that somebody has looked at. Topic and channel stay, as their numbers must go on."""

    __slots__ = ("channel", "deserted_at", "id", "index", "is_moved", "next_index", "topic")

    def __init__(self, portfolio_id: int, topic: Topic, channel: Channel) -> None:
        self.id = portfolio_id
        self.topic = topic
        self.channel = channel
        self.index = -1  # in the table; -1: not watched
        self.next_index = -1  # in the table that is being filled
        self.is_moved = False  # to another owner, or gone: nobody who listens is to hear of it
        self.deserted_at: float | None = None  # when it was seen that nobody listens


class Portfolios(PortfolioReader):
    """The portfolios of all users, and what those are worth that somebody looks at.

    1. A portfolio is watched from :meth:`ensure` on, and for a minute when nobody listens to its topic any more. A
       listener that comes without that, as one does that has caught up with history, is found within seconds.
    2. A price changes sums and no more. `interval_ms` after the last time, and at the end of the turn of the loop after
       a quiet interval, what has changed is published: a portfolio once, and not when it reads as before.
    3. What is read again is read and built on other threads. While the watched ones enter the new table, slice by
       slice, both get every price; then one replaces the other between two turns of the loop. So nothing pauses, and
       every value is of one table.
    4. `on_owner_changed` is called in the turn in which portfolios that somebody has looked at came to other owners or
       went, with their ids. Nothing of them is published to those who listened before.
    5. Some watched portfolios are summed up anew every second. None ever was wrong, or it is corrected, counted as
       `n_mismatches`, and logged as an error.

    Belongs to the thread of the event loop. It hears of the prices of `market` by itself.
    """

    def __init__(
        self, market: Market, store: PortfolioStore, *, interval_ms: int = 90, poll_interval: float = 5.0
    ) -> None:
        super().__init__(store, poll_interval=poll_interval)
        self.interval_ms = interval_ms
        self.on_owner_changed: Callable[[Collection[int]], object] | None = None
        self._market = market
        self._hub = market.hub
        self._table = self._make_table(self._loaded)
        self._owners: PortfolioOwners | None = None  # of the tables that were asked for them
        self._sorting = asyncio.Lock()
        self._next: PortfolioTable | None = None
        self._known: dict[int, _Watch] = {}
        self._order: list[_Watch] = []  # the same, to go round
        self._moved: set[int] = set()  # in the next table
        self._is_scheduled = False
        self._is_following = False
        self._rests_until = 0.0
        self._sweeping: asyncio.TimerHandle | None = None
        self._n_swept = 0
        self._n_checked = 0
        self.n_mismatches = 0
        self._n_wide = 0

    # Figures.

    @property
    def n_portfolios(self) -> int:
        return self._table.n_portfolios

    @property
    def n_positions(self) -> int:
        return self._table.n_positions

    @property
    def n_watched(self) -> int:
        return self._table.n_watched

    @property
    def n_wide(self) -> int:
        """Values that did not fit 128 bits and were made another way, as exact."""
        return self._n_wide + self._table.n_wide

    def codes(self) -> set[str]:
        """The symbols that watched portfolios hold."""
        return self._table.codes()

    # Life.

    def start(self) -> None:
        """Look for changes in the database from now on, and after those that are watched."""
        super().start()
        self._sweeping = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def configure(self, *, interval_ms: int, poll_interval: float) -> None:
        """Set the intervals of a running one."""
        self.interval_ms = interval_ms
        self.poll(poll_interval)

    async def stop(self) -> None:
        """Publish what is due, and look for nothing any more."""
        await super().stop()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        while self._table.take_due():
            self._table.publish_due(self._hub, _SLICE)

    # What dialects ask.

    def find(self, portfolio_id: int) -> Portfolio | None:
        """Return the portfolio of this id, or None."""
        if not -(2**63) <= portfolio_id < 2**63:
            return None
        index = self._table.find(portfolio_id)
        return None if index < 0 else Portfolio(*self._table.describe(index))

    async def owned_by(self, owner: str) -> list[Portfolio]:
        """Return the portfolios of a user, by id, as they are at the end of the call.

        The first call after something has changed sorts them all on another thread.
        """
        async with self._sorting:
            while self._owners is None or self._owners.loaded is not self._loaded:
                self._owners = await asyncio.to_thread(PortfolioOwners, self._loaded)
        loaded = self._owners.loaded
        return [
            Portfolio(int(loaded.ids[place]), owner, loaded.names[place], loaded.currencies[place])
            for place in self._owners.places_of(owner)
        ]

    def note(self, portfolio_id: int) -> None:
        """Tell of a portfolio from now on when it comes to another owner, watched or not.

        To be called when somebody is let have it, who may be paused and want no value for hours.

        Raises:
            KeyError: there is none of this id.
        """
        self._look_up(portfolio_id)

    def ensure(self, portfolio_id: int) -> Topic:
        """Watch a portfolio and return its topic, whose channel has its present value as the last one.

        To be called before each snapshot of it.

        Raises:
            KeyError: there is none of this id.
        """
        watch = self._look_up(portfolio_id)
        watch.is_moved = False
        watch.deserted_at = None
        self._watch(watch)
        self._publish_one(watch)
        return watch.topic

    def _look_up(self, portfolio_id: int) -> _Watch:
        if self.find(portfolio_id) is None:
            raise KeyError(portfolio_id)
        watch = self._known.get(portfolio_id)
        if watch is None:
            topic = self._hub.topic("portfolio", str(portfolio_id))
            channel = self._hub.channel(
                str(portfolio_id), "portfolio", (topic,), bit=CHANNEL_PRICE, numbered=False, private=True
            )
            self._known[portfolio_id] = watch = _Watch(portfolio_id, topic, channel)
            self._order.append(watch)
            if self._next is not None:
                # It is behind those that are being carried over.
                self._carry(watch, self._next)
        return watch

    def _watch(self, watch: _Watch) -> None:
        if watch.index < 0:
            index = self._table.find(watch.id)
            if index >= 0:
                self._table.watch(index, watch.channel)
                watch.index = index
            if self._next is not None:
                self._carry(watch, self._next)
            self._follow()

    def _unwatch(self, watch: _Watch) -> None:
        if watch.index >= 0:
            self._table.unwatch(watch.index)
            watch.index = -1
        if watch.next_index >= 0 and self._next is not None:
            self._next.unwatch(watch.next_index)
            watch.next_index = -1
        self._follow()

    # Prices.

    def _follow(self) -> None:
        """Hear of prices while anything is watched, and cost them nothing else."""
        if (self._table.n_watched > 0) == self._is_following:
            return
        if self._is_following:
            self._market.on_price.remove(self._on_price)
        else:
            self._market.on_price.append(self._on_price)
        self._is_following = not self._is_following

    def _on_price(self, update: PriceUpdate) -> None:
        if self._table.set_price(update) and not self._is_scheduled:
            self._schedule()
        if self._next is not None:
            self._next.set_price(update)

    def _schedule(self) -> None:
        self._is_scheduled = True
        loop = self._hub.loop
        wait = self._rests_until - time.monotonic()
        if wait <= 0:
            loop.call_soon(self._publish)
        else:
            loop.call_later(wait, self._publish)

    def _publish(self) -> None:
        """Publish what has changed, for a slice of time."""
        self._is_scheduled = False
        began = time.monotonic()
        if not self._table.n_due:
            self._table.take_due()
            self._rests_until = began + self.interval_ms / 1000
        try:
            self._table.publish_due(self._hub, _SLICE)
        except Exception:
            log_limited(_log, "not-valued", "a portfolio could not be valued", level="error", exc_info=True)
        # Never more than half of the time.
        now = time.monotonic()
        self._rests_until = max(self._rests_until, 2 * now - began)
        if self._table.n_due:
            self._is_scheduled = True
            self._hub.loop.call_soon(self._publish)
        elif self._table.n_dirty:
            self._schedule()

    def _publish_one(self, watch: _Watch) -> None:
        if watch.index >= 0:
            self._table.publish(self._hub, watch.index)

    # Who listens.

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(_SWEEP_SECONDS, self._sweep)
        try:
            self._look_after(self._some(self._n_swept, _SWEPT), loop.time())
            self._check(self._some(self._n_checked, _CHECKED))
        except Exception:
            log_limited(_log, "sweep-failed", "looking after portfolios failed", level="error", exc_info=True)
        self._n_swept += _SWEPT
        self._n_checked += _CHECKED

    def _some(self, first: int, n: int) -> Iterator[_Watch]:
        """The next `n` of those that somebody has looked at, round and round; each once."""
        size = len(self._order)
        return (self._order[i % size] for i in range(first, first + min(n, size)))

    def _look_after(self, watches: Iterable[_Watch], now: float) -> None:
        for watch in watches:
            if watch.topic.n_subscribers:
                watch.deserted_at = None
                if watch.index < 0 and not watch.is_moved:
                    self._watch(watch)
                    self._publish_one(watch)
            elif watch.index >= 0:
                if watch.deserted_at is None:
                    watch.deserted_at = now
                elif now - watch.deserted_at >= _KEPT_SECONDS:
                    self._unwatch(watch)

    def _check(self, watches: Iterable[_Watch]) -> None:
        for watch in watches:
            if watch.index >= 0 and not self._table.check(watch.index):
                self.n_mismatches += 1
                log_limited(
                    _log,
                    "portfolio-mismatch",
                    "a portfolio was not worth what its positions are, and was corrected",
                    level="error",
                    portfolio=watch.id,
                )
                if not self._is_scheduled:
                    self._schedule()

    # The database.

    def _make_table(self, loaded: Loaded) -> PortfolioTable:
        """On any thread: what is asked of the market is asked later."""
        market = self._market
        return PortfolioTable(loaded, market.last_price, market.instruments.get, wall_ms)

    async def _adopt(self, loaded: Loaded) -> int:
        """Go on with `loaded`; return how many of those looked at came to other owners, or went."""
        table = await asyncio.to_thread(self._make_table, loaded)
        self._next = table
        self._moved = set()
        try:
            await self._fill(table)
        except BaseException:
            self._next = None
            for watch in self._order:
                watch.next_index = -1
            raise
        # From here to the end nobody else has a turn.
        self._n_wide += self._table.n_wide
        self._table, self._next, self._loaded = table, None, loaded
        for watch in self._order:
            watch.index, watch.next_index = watch.next_index, -1
        self._follow()
        moved, self._moved = sorted(self._moved), set()
        for portfolio_id in moved:
            self._known[portfolio_id].is_moved = True
        if moved and self.on_owner_changed is not None:
            self.on_owner_changed(moved)
        if table.n_dirty and not self._is_scheduled:
            self._schedule()
        return len(moved)

    async def _fill(self, table: PortfolioTable) -> None:
        """Carry everybody over; whoever is watched anew meanwhile is carried as it is."""
        began = time.monotonic()
        # New ones are behind, and done already.
        for watch in self._order[:]:
            self._carry(watch, table)
            if time.monotonic() - began > _SLICE:
                await asyncio.sleep(0)
                began = time.monotonic()

    def _carry(self, watch: _Watch, table: PortfolioTable) -> None:
        """Have a portfolio watched in the next table too, if it is; note that it belongs to somebody else there."""
        index = self._table.find(watch.id)
        if index < 0 or watch.next_index >= 0:
            return
        next_index = table.find(watch.id)
        if next_index < 0 or table.describe(next_index)[1] != self._table.describe(index)[1]:
            self._moved.add(watch.id)
        elif watch.index >= 0:
            table.watch(next_index, watch.channel)
            watch.next_index = next_index
