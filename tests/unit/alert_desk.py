"""A book of alert rules with its store, and what it has told whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from fastws._market import Instrument, PriceUpdate
from fastws.market.alert_messages import Alert
from fastws.market.alert_store import AlertStore
from fastws.market.alerts import AlertBook
from fastws.market.instruments import Instruments
from fastws.market.store import Store

SAMSUNG = Instrument("005930", "Samsung Electronics", "KOSPI", "IT", 72000, "KRW")
APPLE = Instrument("AAPL", "Apple", "NASDAQ", "IT", "269.43", "USD")
MS = 1_762_853_400_000  # 2025-11-11T09:30:00.000Z


def price(number: object, instrument: Instrument = SAMSUNG, **members: Any) -> PriceUpdate:
    return PriceUpdate(instrument, number, **members)  # type: ignore[arg-type]


async def until(condition: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.002)
    except TimeoutError:
        pytest.fail(f"{what}: not within 10 s")


class Desk:
    """A book with its store, and what it has told whom."""

    def __init__(self, url: str | None = None, **options: Any) -> None:
        self.told: list[tuple[str, Alert]] = []
        self.store = Store(url)
        self.rules = AlertStore(self.store)
        # Whether users are there to be told.
        self.is_heard = True
        self.book = AlertBook(self.store, Instruments([SAMSUNG, APPLE]), self.deliver, **options)

    def deliver(self, user_id: str, alert: Alert) -> None:
        if self.is_heard:
            self.told.append((user_id, alert))
            assert alert.rule_id is not None
            self.book.told(alert.rule_id)

    async def open(self) -> Desk:
        await self.store.open()
        await self.book.load()
        return self

    async def close(self) -> None:
        await self.book.stop()
        await self.store.close()

    async def settle(self) -> list[tuple[str, Alert]]:
        """Wait until what was crossed has fired; return what was told, and begin anew."""
        await until(
            lambda: self.book.n_crossed == 0 and self.book._firing is None, "every crossed rule fired"
        )
        told, self.told[:] = self.told.copy(), []
        return told
