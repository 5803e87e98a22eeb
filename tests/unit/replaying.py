"""Replays of small files, on a clock that moves only in pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate, encode_screener
from fastws.feeds.replay import ReplayFeed

TRADE = (
    b"0|H0STCNT0|001|005930^140610^%d^2^3750^1.37^280395.69^283000^283500^276500^278000^277500^5^11955000^3352130122500"
    b"^83251^86830^3579^120.39^5217059^6280658^5^0.53^53.70^090023^5^-5250^090048^5^-5750^135824^2^1250^20260922^20^N"
    b"^47588^70626^794823^496479^0.20^17123443^69.82^0^^283000^2"
)


class FakeTime:
    """A clock that moves only in pauses and when told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Sink:
    """Keeps what it is given, with the time since `time` began."""

    def __init__(self, time: FakeTime | None = None) -> None:
        self._time = time if time is not None else FakeTime()
        self._start = self._time.now
        self._by_code: dict[str, Instrument] = {}
        self.instruments = ()
        self.times: list[float] = []
        self.updates: list[PriceUpdate | BookUpdate | MarketStatus] = []
        self.receipts: list[float] = []
        self.received_ns = 0
        self.on_update: Callable[[int], None] = lambda n: None

    def publish_price(self, update: PriceUpdate) -> int:
        return self._keep(update)

    def publish_book(self, update: BookUpdate) -> int:
        return self._keep(update)

    def set_received(self, at_ns: int) -> None:
        self.received_ns = at_ns

    def set_status(self, market: str, status: str) -> int:
        return self._keep(MarketStatus(market, status))

    def set_feed_status(self, feed: str, status: str) -> int:
        return 0

    def instrument(self, code: str) -> Instrument | None:
        return self._by_code.get(code)

    def ensure_instrument(self, code: str) -> Instrument:
        return self._by_code.setdefault(code, Instrument(code))

    def _keep(self, update: PriceUpdate | BookUpdate | MarketStatus) -> int:
        self.times.append(round(self._time.now - self._start, 9))
        self.receipts.append(self.received_ns / 1e9 - self._start)
        self.updates.append(update)
        self.on_update(len(self.updates))
        return len(self.updates)

    @property
    def prices(self) -> list[object]:
        return [update.price for update in self.updates if isinstance(update, PriceUpdate)]

    @property
    def bodies(self) -> list[bytes]:
        return [encode_screener(update, 0) for update in self.updates]


def feed_of(path: Path, time: FakeTime, **options: object) -> ReplayFeed:
    return ReplayFeed(path, clock=time.clock, sleep=time.sleep, wall_clock=lambda: 1.8e9, **options)  # type: ignore[arg-type]


def timed(ms: int, price: int) -> bytes:
    return b"@%d %b" % (ms, TRADE % price)
