"""Made-up prices, for trying a poll feed or a price-feed service out without a provider."""

from __future__ import annotations

import datetime
import time
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws._simulator import SimulatedExchange
from fastws.feeds.sources.base import Answer, Day, Quote, Source, SourceSetupError

if TYPE_CHECKING:
    from fastws.settings import Settings

_STEPS: Final = 3  # trades of a symbol between two polls
_DAY_STEPS: Final = 32  # and of a day in the past
_SATURDAY: Final = 5


class SimulatorSource(Source):
    """Each symbol walks on by a few trades whenever it is asked for; see `SimulatedExchange` for the walk.

    With the setting `simulator_seed` the same questions get the same prices, daily ones in any case.
    """

    name = "simulator"
    symbols_per_call = 1000
    quality = "simulated"

    def __init__(self, argument: str, settings: Settings) -> None:
        if argument:
            raise SourceSetupError(f"the source simulator takes no argument, not {argument!r}")
        seed = settings.simulator_seed
        self._seed = seed if seed is not None else np.random.SeedSequence().generate_state(1).item()
        self._exchanges: dict[str, SimulatedExchange] = {}

    async def quotes(self, instruments: Sequence[Instrument]) -> Answer:
        now_ms = int(time.time() * 1000)
        quotes = []
        for instrument in instruments:
            exchange = self._exchanges.get(instrument.code)
            if exchange is None:
                exchange = self._exchanges[instrument.code] = self._exchange(instrument, self._seed)
            last = _advance(exchange, _STEPS, now_ms)[-1]
            quotes.append(
                Quote(
                    code=instrument.code,
                    price=last.price,
                    previous_close=instrument.previous_close,
                    change=last.change,
                    change_percent=last.change_percent,
                    volume=last.volume,
                    high=last.high,
                    low=last.low,
                    venue=last.venue,
                    time_ms=now_ms,
                )
            )
        return Answer(quotes)

    async def days(self, instrument: Instrument, first: datetime.date, last: datetime.date) -> Sequence[Day]:
        """A day of every weekday before today, UTC."""
        last = min(last, datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=1))
        days = []
        for n in range((last - first).days + 1):
            date = first + datetime.timedelta(days=n)
            if date.weekday() < _SATURDAY:
                trades = _advance(self._exchange(instrument, date.toordinal()), _DAY_STEPS, 0)
                prices = [trade.price for trade in trades]
                days.append(
                    Day(
                        date=date,
                        open=prices[0],
                        high=max(prices),
                        low=min(prices),
                        close=prices[-1],
                        volume=trades[-1].volume,
                    )
                )
        return days

    def _exchange(self, instrument: Instrument, seed: int) -> SimulatedExchange:
        seed = (seed + zlib.crc32(instrument.code.encode())) % 2**32
        return SimulatedExchange([instrument], seed=seed, book_share=0.0)


def _advance(exchange: SimulatedExchange, n: int, now_ms: int) -> list[PriceUpdate]:
    trades: list[PriceUpdate] = []

    def on_book(update: BookUpdate) -> None:
        raise AssertionError("an exchange without books has made one")

    exchange.advance(trades.append, on_book, n, now_ms)
    return trades
