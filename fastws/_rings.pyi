"""The last order books of one symbol, as numpy arrays without copying."""

from typing import NamedTuple, SupportsIndex, final

import numpy as np
from numpy.typing import NDArray

from fastws._market import BookUpdate

class BookWindow(NamedTuple):
    """Consecutive books of one symbol, oldest first: n rows in every column.

    Level columns have the shape (n, 10), best level first; levels that a book does not have are 0. A price is
    ``price * 10.0 ** -price_scales[row]``: the scale belongs to the row, for it may change from book to book.
    """

    bid_prices: NDArray[np.int64]
    bid_quantities: NDArray[np.int64]
    ask_prices: NDArray[np.int64]
    ask_quantities: NDArray[np.int64]
    times: NDArray[np.int64]
    """The exchange's time, Unix epoch in milliseconds; 0 = not given."""
    published_times: NDArray[np.int64]
    """When the server published the book, Unix epoch in milliseconds; 0 = not given."""
    price_scales: NDArray[np.int8]
    """Digits after the point of all prices of the row."""
    bid_counts: NDArray[np.int8]
    """Levels the book has on its bid side, 0 to 10."""
    ask_counts: NDArray[np.int8]

class Book(NamedTuple):
    """One book: level arrays of the shape (10,) and the scalars of its row, as in `BookWindow`."""

    bid_prices: NDArray[np.int64]
    bid_quantities: NDArray[np.int64]
    ask_prices: NDArray[np.int64]
    ask_quantities: NDArray[np.int64]
    time_ms: int
    published_ms: int
    price_scale: int
    n_bids: int
    n_asks: int

@final
class BookRing:
    """The last `depth` (1 to 1,000,000) order books of one symbol.

    Takes no memory before its first book, then 678 bytes for each place: 4 at first, twice as many whenever they
    are full, `depth` in the end (42 KiB for 64 books). From then on `push` writes in place and allocates nothing.

    The arrays that `last` and `latest` return are contiguous read-only views of the ring. They may see what the
    ring writes later: the rows of a window of n books are sure to stay as they are for the next ``depth -
    n`` pushes, after that they may turn, oldest first, into newer books (those of a ring that has grown since
    never do). Whoever keeps books longer copies them (``window.bid_prices.copy()``). A view stays readable after
    the ring has grown, and after it is gone.

    One thread only, the one that pushes; other threads must be given copies.
    """

    def __new__(cls, depth: SupportsIndex) -> BookRing: ...
    @property
    def depth(self) -> int: ...
    @property
    def n_written(self) -> int:
        """Books pushed since the ring was made."""
    @property
    def memory_size(self) -> int:
        """Bytes held; 0 before the first book."""
    def __len__(self) -> int:
        """Books held: `n_written`, at most `depth`."""
    def push(self, update: BookUpdate, published_ms: int = 0) -> None:
        """Append a book, over the oldest one when the ring is full.

        ValueError for a time outside the years 1970 to 9999.
        """
    def last(self, n: SupportsIndex) -> BookWindow:
        """Return the last `n` books, fewer when fewer are held. ValueError for a negative `n`."""
    def latest(self) -> Book | None:
        """Return the last book, None when there is none."""
    def encode(self, n: SupportsIndex, depth: SupportsIndex = 10) -> bytes:
        """Return the last `n` books as a JSON array, oldest first, with at most `depth` levels a side.

        An element is
        ``{"bids":[{"price":72900,"quantity":1000}],"asks":[],"event_time":…,"timestamp":…}``, with the
        digits of the source and without the times that are not given. ValueError for a negative `n` or a
        `depth` under 1.
        """
