"""Order books as numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastws.client.messages import Level, OrderbookUpdate

DEPTH: Final = 10
"""Levels of a side that the server publishes, at most."""


class BookArrays(NamedTuple):
    """Both sides of a book, or of n books: float64 of shape ``(depth, 2)``, or ``(n, depth, 2)``.

    A row is (price, quantity), the best first; levels that the book does not have are NaN. Prices of up to 15 digits
    are what the text says; those of longer ones are the nearest.
    """

    bids: NDArray[np.float64]
    asks: NDArray[np.float64]

    @property
    def mid(self) -> NDArray[np.float64]:
        """Between the best bid and the best ask, of shape ``()`` or ``(n,)``; NaN where a side is empty."""
        return np.asarray((self.bids[..., 0, 0] + self.asks[..., 0, 0]) / 2)

    @property
    def imbalance(self) -> NDArray[np.float64]:
        """(bid - ask) / (bid + ask) of all quantities, of shape ``()`` or ``(n,)``; NaN where a book is empty."""
        bid, ask = np.nansum(self.bids[..., 1], axis=-1), np.nansum(self.asks[..., 1], axis=-1)
        total = np.asarray(bid + ask)
        found = np.full(total.shape, np.nan)
        np.divide(bid - ask, total, out=found, where=total > 0)
        return found


def book_arrays(book: OrderbookUpdate, depth: int = DEPTH) -> BookArrays:
    """The first `depth` levels of each side of one book."""
    found = books_arrays([book], depth)
    return BookArrays(found.bids[0], found.asks[0])


def books_arrays(books: Iterable[OrderbookUpdate], depth: int = DEPTH) -> BookArrays:
    """The first `depth` levels of each side of books, in their order."""
    many = list(books)
    bids, asks = (np.full((len(many), depth, 2), np.nan) for _ in range(2))
    for place, book in enumerate(many):
        _fill(bids[place], book.bids)
        _fill(asks[place], book.asks)
    return BookArrays(bids, asks)


def _fill(side: NDArray[np.float64], levels: list[Level]) -> None:
    for row, level in zip(side, levels, strict=False):
        row[0], row[1] = float(level.price), float(level.quantity)
