"""Publishes what the sessions of KIS push and what polls bring, as far as it is news."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from fastws._kis import KISFrameError, KISParser
from fastws._market import PriceUpdate
from fastws.feeds.kis.outages import Outages
from fastws.feeds.kis.phase_reader import PhaseReader
from fastws.feeds.kis.published import Published
from fastws.feeds.kis.silence import Silences
from fastws.kis.control import OPERATION
from fastws.kis.volume import day_of

if TYPE_CHECKING:
    from fastws._market import BookUpdate, Instrument
    from fastws.feeds.base import MarketSink

_OPERATIONS: Final = frozenset(OPERATION.values())

_log = structlog.get_logger("fastws.feeds.kis")


class Publisher:
    """Takes data of `n_sessions` sessions, which are numbered from 0, and of polls.

    `session_of(code)` is the session that has a symbol, `is_pushed(code)` whether KIS has confirmed that its trades
    come, and `is_book_pushed(code)` that its books do. `market` is None while the feed does not run: then nothing is
    taken. `has_changed` is set when prices or books of a symbol begin or cease to come by themselves. `clock` is
    monotonic, `wall_clock` Unix time, both in seconds.
    """

    def __init__(
        self,
        n_sessions: int,
        *,
        session_of: Callable[[str], int | None],
        is_pushed: Callable[[str], bool],
        is_book_pushed: Callable[[str], bool],
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        self.market: MarketSink | None = None
        self.has_changed = True
        self.n_duplicates = 0
        self.phases = PhaseReader(wall_clock)
        self.outages = Outages()
        self.silences = Silences()
        """Symbols whose trades are missing."""
        self.book_silences = Silences()
        """Symbols whose books are."""
        self.heard_at = [-float("inf")] * n_sessions
        """When each session brought trades or books last."""
        self._session_of = session_of
        self._is_pushed = is_pushed
        self._is_book_pushed = is_book_pushed
        self._clock = clock
        self._wall_clock = wall_clock
        self._symbols: dict[str, Published] = {}
        self._parsers = [
            KISParser(self.resolve, clock=wall_clock, on_bad=_on_bad, on_new_width=_on_new_width)
            for _ in range(n_sessions)
        ]

    @property
    def n_bad(self) -> int:
        """Data frames that could not be read."""
        return sum(parser.n_bad for parser in self._parsers)

    def of(self, code: str) -> Published:
        """What has been published of a symbol."""
        known = self._symbols.get(code)
        if known is None:
            known = self._symbols[code] = Published()
        return known

    def resolve(self, code: str) -> Instrument | None:
        return None if self.market is None else self.market.instrument(code)

    def on_frame(self, session: int, tr_id: str, message: bytes, received_ns: int) -> None:
        """Take a data frame, in clear; `received_ns` is of the monotonic clock."""
        market = self.market
        if market is None:
            return
        if tr_id in _OPERATIONS:
            try:
                self.phases.on_operation(market, tr_id, message)
            except KISFrameError as error:
                _on_bad(error.kind, message)
            return
        updates = self._parsers[session].parse(message)
        if not updates:
            return
        now, day = self._clock(), day_of(self._wall_clock())
        self.heard_at[session] = now
        market.set_received(received_ns)
        try:
            for update in updates:
                if self._session_of(update.instrument.code) != session:
                    continue
                if isinstance(update, PriceUpdate):
                    self.on_trade(market, tr_id, update, day, now)
                else:
                    self.on_book(market, update, now)
        finally:
            market.set_received(0)
        self.phases.on_data(market, updates[0].instrument, tr_id, message, now)

    def on_trade(self, market: MarketSink, tr_id: str, update: PriceUpdate, day: int, now: float) -> None:
        """Take a pushed trade."""
        code, volume = update.instrument.code, update.volume
        known = self.of(code)
        if volume is not None:
            self.outages.on_trade(tr_id, code, volume, update.trade_volume or 0, day, now)
        if not known.is_current or (self.silences and self.silences.forget(code)):
            self.has_changed = True
        if known.take_trade(update, day, now):
            market.publish_price(update)
        else:
            self.n_duplicates += 1
        if known.lacks_book(now) and self._is_book_pushed(code):
            self.has_changed |= code not in self.book_silences
            self.book_silences.on_missed(code, now)

    def on_book(self, market: MarketSink, update: BookUpdate, now: float) -> None:
        """Take a pushed book."""
        code = update.instrument.code
        if self.book_silences and self.book_silences.forget(code):
            self.has_changed = True
        self.of(code).take_book(update, now)
        market.publish_book(update)

    def on_polled_prices(self, codes: Sequence[str], updates: list[PriceUpdate], asked_at: float) -> None:
        """Take the answer to a poll of `codes`, which was asked for at `asked_at`."""
        market = self.market
        if market is None:
            return
        now, day = self._clock(), day_of(self._wall_clock())
        for update in updates:
            code = update.instrument.code
            known = self.of(code)
            if known.is_current and self._is_pushed(code) and known.is_ahead(update, asked_at, day):
                self.has_changed |= code not in self.silences
                if not self.silences.on_missed(code, now):
                    continue  # it may be on its way, with others before it
            if known.take_poll(update, asked_at, day, now):
                market.publish_price(update)
        for code in codes:
            known = self.of(code)
            if not known.is_current and asked_at >= known.active_at:
                # What has never traded is not in the answer, and need not be asked for again.
                known.is_current = self.has_changed = True

    def on_polled_book(self, update: BookUpdate, asked_at: float) -> None:
        """Take a polled book, which was asked for at `asked_at`."""
        market = self.market
        if market is not None and self.of(update.instrument.code).take_polled_book(
            update, asked_at, self._clock()
        ):
            market.publish_book(update)


def _on_bad(kind: str, message: bytes) -> None:
    _log.warning(
        "KIS sent what cannot be read", kind=kind, text=message[:120].decode("utf-8", "backslashreplace")
    )


def _on_new_width(tr_id: str, width: int) -> None:
    _log.warning("KIS records have a width that is in no table", tr_id=tr_id, width=width)
