"""The positions of all portfolios, and what those are worth that somebody watches.

Everything is exact: no number passes through binary floating point, and only what is shown is rounded, half away
from zero, to the decimals of the portfolio's currency (ISO 4217; two where it has none) and percentages to two.
Belongs to one thread; only a `PortfolioTable` may be made on another one, before it is used.
"""

from collections.abc import Callable
from typing import final

from fastws._core import Channel, Hub
from fastws._market import Instrument, PriceUpdate
from fastws.market.portfolio_store import Loaded

@final
class PortfolioValue:
    """What a portfolio was worth at one moment; comes from `PortfolioTable.value`."""

    @property
    def portfolio_id(self) -> int: ...
    @property
    def members(self) -> bytes:
        """The members of the message as JSON without braces, from ``"portfolio_id":`` on; made anew at each look."""

def encode_screener(value: PortfolioValue, published_ms: int) -> bytes:
    """Return the `portfolio_update` of the screener dialect without ``sequence`` and the closing brace.

    Raises ValueError for a time outside the years 1970 to 9999.
    """

def encode_realtime(value: PortfolioValue, published_ms: int) -> bytes:
    """Return the `portfolio_update` of the realtime dialect, whose members are in ``data``; see `encode_screener`."""

@final
class PortfolioTable:
    """Portfolios as they were loaded; what changes is which are watched, and prices.

    `last_price` and `find_instrument` tell what is known of a symbol when the first of its holders is watched:
    a symbol that nobody watches is not followed. `clock` gives milliseconds since the Unix epoch; it dates a price
    that comes without a time and without its change.

    A position counts its quantity times the last price; with no price yet, times the newest close that is known, of
    a day or of the instrument table. It counts nothing where the currencies of symbol and portfolio are known and
    differ, or nothing is known of its price. All of those are named as unpriced. The daily change is against the price
    less the change of the feed; where a price has no change, against the newest close of a day before its own, or
    else of the instrument table, or else it has not changed.

    Portfolios are named by their `index`, 0 to `n_portfolios` - 1; IndexError for another. Raises ValueError when the
    columns of `loaded` do not fit together.
    """

    def __new__(
        cls,
        loaded: Loaded,
        last_price: Callable[[str], PriceUpdate | None],
        find_instrument: Callable[[str], Instrument | None],
        clock: Callable[[], int],
    ) -> PortfolioTable: ...
    @property
    def n_portfolios(self) -> int: ...
    @property
    def n_positions(self) -> int: ...
    @property
    def n_watched(self) -> int: ...
    @property
    def n_dirty(self) -> int:
        """Watched portfolios with something new since others were taken, those that are due not among them."""
    @property
    def n_due(self) -> int:
        """Portfolios that were taken and have not left; those are among them that are watched no more."""
    @property
    def n_wide(self) -> int:
        """Values that did not fit 128 bits, or came from too many decimals; they were exact all the same."""
    def find(self, portfolio_id: int) -> int:
        """Return the index of a portfolio, -1 where there is none of this id."""
    def describe(self, index: int) -> tuple[int, str, str, str | None]:
        """Return id, owner, name and currency."""
    def codes(self) -> set[str]:
        """Return the symbols that watched portfolios hold, of those positions that count."""
    def watch(self, index: int, channel: Channel) -> None:
        """Value a portfolio from now on; its values go to `channel`. It begins as one with something new.

        Raises ValueError when it is watched already.
        """
    def unwatch(self, index: int) -> None:
        """Value a portfolio no more; nothing happens where it is not watched."""
    def set_price(self, update: PriceUpdate) -> bool:
        """Take over a price; return whether any portfolio has something new, also from before.

        The same price again is nothing new. Costs by the watched holders of the symbol, 5 to 10 ns each.
        """
    def take_due(self) -> int:
        """Take those with something new, in the order in which they got it, to leave next; return how many are due.

        While others are due nothing is taken.
        """
    def publish_due(self, hub: Hub, seconds: float) -> None:
        """Publish what is due, and end after about `seconds` with whatever is left.

        Each leaves once, with what it is worth by then, and not where the last value of its channel reads the same. One
        that raises is done, so that the next call goes on behind it.
        """
    def publish(self, hub: Hub, index: int) -> None:
        """Publish what a watched portfolio is worth now unless the last value of its channel reads the same.

        Raises KeyError for one that is not watched.
        """
    def value(self, index: int) -> PortfolioValue:
        """Return what a watched portfolio is worth now. Raises KeyError for one that is not watched."""
    def amounts(self, index: int) -> tuple[int, int]:
        """Return the total and the same at the previous closes, in units of 10**-26, as they are kept up to date.

        Raises KeyError for a portfolio that is not watched.
        """
    def check(self, index: int) -> bool:
        """Sum up a watched portfolio from its positions, in Python's integers; return whether it was right.

        Where it was not, it is from now on, and counts as new. Raises KeyError for one that is not watched.
        """
