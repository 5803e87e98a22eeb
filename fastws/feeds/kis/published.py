"""What has been published of a symbol, and what of what comes is news. Sans-IO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastws._market import BookUpdate, PriceUpdate

_NEVER: Final = -float("inf")
# Answers to polls, which come from several machines of KIS, are behind each other and the pushed trades by no more than
# this, in seconds. A lower volume that stays is true: KIS begins the day anew before the market opens.
_LAG: Final = 10.0
# Each trade changes the book: when so many have come without it, over so many seconds, the book is missing.
_TRADES_WITHOUT_BOOK: Final = 5
_BOOK_PATIENCE: Final = 10.0


class Published:
    """The last price and book of a symbol. `now` is monotonic, in seconds, and `day` as of `volume.day_of`.

    1. A price is news when its day, the day's volume or the price differs from the last one.
    2. What was asked for before the last trade came, or before what another poll has brought, is older than that and no
       news; nor is a polled volume that is lower than one that was published seconds ago, nor a pushed one that is
       lower than a polled one of seconds ago: the poll was quicker.
    3. A polled book is news when it was asked for after the last book came, and differs from it.
    """

    __slots__ = (
        "_asked_at",
        "_book",
        "_book_at",
        "_confirmed_at",
        "_is_polled",
        "_n_trades",
        "_said",
        "_said_at",
        "_trade_at",
        "active_at",
        "book_since",
        "is_current",
        "n_refusals",
    )

    def __init__(self) -> None:
        self.active_at = _NEVER
        """When its registration was made or confirmed."""
        self.is_current = False
        """Whether something has come since then."""
        self.book_since = _NEVER
        """When the last pushed book came, or its registration was confirmed."""
        self.n_refusals = 0
        """How often KIS has said that it does not know it, in a row."""
        self._said: tuple[int, int | None, object] | None = None  # day, volume and price
        self._said_at = _NEVER
        self._is_polled = False  # what was said
        self._asked_at = _NEVER
        self._confirmed_at = _NEVER
        self._trade_at = _NEVER
        self._book: BookUpdate | None = None
        self._book_at = _NEVER
        self._n_trades = 0  # pushed since `book_since`

    def take_trade(self, update: PriceUpdate, day: int, now: float) -> bool:
        """Note a pushed trade; whether it is news."""
        self._trade_at = now
        self.is_current = True
        self._n_trades += 1
        if self._is_polled and self._is_behind(update, day, now):
            return False
        return self._say(update, day, now, is_polled=False)

    def take_poll(self, update: PriceUpdate, asked_at: float, day: int, now: float) -> bool:
        """Note a polled price; whether it is news."""
        if self._is_outdated(asked_at):
            return False
        self._asked_at = asked_at
        if self._is_behind(update, day, now):
            return False
        is_news = self._say(update, day, now, is_polled=True)
        if not is_news:
            self._confirmed_at = asked_at
        return is_news

    def is_confirmed(self, now: float, within: float) -> bool:
        """Whether a poll, asked for so lately, has brought again what was said last, so that there is nothing newer."""
        return self._confirmed_at >= self._said_at and now - self._confirmed_at <= within

    def is_ahead(self, update: PriceUpdate, asked_at: float, day: int) -> bool:
        """Whether a polled price tells of a trade that nothing before it has told of."""
        if self._said is None or not update.volume or self._is_outdated(asked_at):
            return False
        said_day, said_volume, _ = self._said
        if said_volume is None:
            return False
        return update.volume > said_volume if day == said_day else update.volume != said_volume

    def take_book(self, update: BookUpdate, now: float) -> None:
        """Note a pushed book, which is always news."""
        self._book, self._book_at = update, now
        self.expect_book(now)

    def expect_book(self, now: float) -> None:
        """From now on its books are to come, if it trades."""
        self.book_since, self._n_trades = now, 0

    def lacks_book(self, now: float) -> bool:
        """Whether its trades come and its book, which each of them changes, does not."""
        return self._n_trades >= _TRADES_WITHOUT_BOOK and now - self.book_since >= _BOOK_PATIENCE

    def take_polled_book(self, update: BookUpdate, asked_at: float, now: float) -> bool:
        """Note a polled book; whether it is news."""
        if self._book_at >= asked_at:
            return False
        self._book_at = now
        last, self._book = self._book, update
        return last is None or (last.bids, last.asks) != (update.bids, update.asks)

    def _is_outdated(self, asked_at: float) -> bool:
        return self._trade_at >= asked_at or self._asked_at > asked_at

    def _is_behind(self, update: PriceUpdate, day: int, now: float) -> bool:
        """Whether its volume is lower than that of what was said seconds ago."""
        if self._said is None or update.volume is None:
            return False
        said_day, said_volume, _ = self._said
        is_lower = day == said_day and said_volume is not None and update.volume < said_volume
        return is_lower and now - self._said_at < _LAG

    def _say(self, update: PriceUpdate, day: int, now: float, *, is_polled: bool) -> bool:
        said = (day, update.volume, update.price)
        if said == self._said:
            return False
        self._said, self._said_at, self._is_polled = said, now, is_polled
        return True
