"""A made-up exchange: the next trade or order book, by the step and without a clock."""

from collections.abc import Callable, Iterable
from typing import Self, final

from fastws._market import BookUpdate, Instrument, PriceUpdate

def is_traded_in_won(instrument: Instrument) -> bool:
    """Whether the instrument has KRX ticks and venue; without a currency, unless its market is American."""

@final
class SimulatedExchange:
    """One trading day of `instruments`: a walk of each price around its previous close, and the books of it.

    1. The sequence of updates depends on `instruments`, `seed`, `book_share` and `volatility` alone, never
       on how `advance` is called.
    2. Prices lie on the tick grid (KRX tick sizes for won, else 0.01) and within 30 % of the previous
       close, 50,000 won or 100.00 where the table has none. Only where those limits admit less than two
       prices the next one is admitted too.
    3. A trade is at the best bid or the best ask, which are one tick apart. `volume` never falls.
    4. A book has ten levels a side, one tick apart, with positive quantities; fewer only where the limits
       cut it off, which happens to prices whose whole range is under twenty ticks.
    5. `book_share` of the updates (0 to 1) are books, spread evenly; a book right after a trade is that
       symbol's.

    At `volatility` 1 a price stays within a few percent of its previous close; at 30 it runs into its limits.

    Raises ValueError for no instruments, values out of range, or a previous close that is no price.
    """

    def __new__(
        cls,
        instruments: Iterable[Instrument],
        *,
        seed: int,
        book_share: float = 0.5,
        volatility: float = 1.0,
    ) -> Self: ...
    @property
    def book_share(self) -> float: ...
    @property
    def n_steps(self) -> int:
        """Updates so far, also those that raised in their callback."""

    def advance(
        self,
        publish_price: Callable[[PriceUpdate], object],
        publish_book: Callable[[BookUpdate], object],
        n: int,
        event_time_ms: int,
    ) -> None:
        """Hand the next `n` updates to the callbacks, stamped with `event_time_ms` (Unix epoch).

        What a callback raises passes through; its update is not handed out again.
        """
