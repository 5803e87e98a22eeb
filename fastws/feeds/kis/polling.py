"""Which symbols are asked for next by REST. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

_NEVER = -float("inf")
# Of so many calls one is for a book while prices are due as well: a price says more.
_BOOK_TURN = 4


class Job(NamedTuple):
    """Ask for the prices of `codes`, or with `is_book` for the book of the only one."""

    codes: tuple[str, ...]
    is_book: bool


class PollPlan:
    """What is polled, each symbol in its turn.

    1. A symbol is asked for again when `interval` seconds are over, or later, when there are more than the calls allow;
       then those are next that have waited longest.
    2. Prices come `batch_size` at a time, books one by one.
    3. While both are due, one call of four is for a book.
    """

    def __init__(self, interval: float, batch_size: int) -> None:
        self.interval = interval
        self.batch_size = batch_size
        self._prices: dict[str, float] = {}  # when each was asked for last, the longest ago first
        self._books: dict[str, float] = {}
        self._n_prices = 0  # calls since the last book

    def __len__(self) -> int:
        """Symbols whose prices are polled."""
        return len(self._prices)

    def want(self, prices: Iterable[str], books: Iterable[str]) -> None:
        """From now on poll these, those that are new before the others."""
        self._prices = _renewed(self._prices, prices)
        self._books = _renewed(self._books, books)

    def take(self, now: float) -> Job | None:
        """Return what is to be asked for now, and count it as asked for; None when nothing is due."""
        price = self._first_due(self._prices, now)
        book = self._first_due(self._books, now)
        if book is not None and (price is None or self._n_prices >= _BOOK_TURN - 1):
            self._n_prices = 0
            _mark(self._books, (book,), now)
            return Job((book,), is_book=True)
        if price is None:
            return None
        codes: list[str] = []
        for code, at in self._prices.items():
            if len(codes) == self.batch_size or now < at + self.interval:
                break
            codes.append(code)
        _mark(self._prices, codes, now)
        self._n_prices += 1
        return Job(tuple(codes), is_book=False)

    def due_at(self) -> float:
        """When something is due; infinity where nothing is polled."""
        ats = [next(iter(asked.values())) for asked in (self._prices, self._books) if asked]
        return min(ats) + self.interval if ats else float("inf")

    def _first_due(self, asked: dict[str, float], now: float) -> str | None:
        for code, at in asked.items():
            return code if now >= at + self.interval else None
        return None


def _renewed(asked: dict[str, float], wanted: Iterable[str]) -> dict[str, float]:
    codes = dict.fromkeys(wanted)
    return {code: _NEVER for code in codes if code not in asked} | {
        code: at for code, at in asked.items() if code in codes
    }


def _mark(asked: dict[str, float], codes: Iterable[str], now: float) -> None:
    for code in codes:
        del asked[code]
        asked[code] = now
