"""An instance with a relay within the process of a test, over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastws._core import Dialect, Hub
from fastws._market import Instrument, PriceUpdate, encode_screener
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.relay.address import parse_address
from fastws.relay.relay import Relay


class Instance:
    """A market with a relay that wants its one instrument, whose prices are in `seen` as they came."""

    def __init__(self, url: str) -> None:
        self.hub = Hub(asyncio.get_running_loop(), epoch="test", interval_ms=0)
        self.market = Market(self.hub, Instruments([Instrument("A", None, "KOSPI")]))
        self.seen: list[int] = []
        self.market.on_price.append(lambda update: self.seen.append(int(update.price)))
        self.relay = Relay(
            self.hub,
            self.market,
            Dialect("screener", encode_screener),
            parse_address(url),
            name=f"test/{id(self)}",
            prefix="test",
            n_shards=1,
            interval_ms=1,
            history_bytes=16 << 20,
            wanted=lambda: ["A"],
        )
        self.relay.start()

    async def stop(self) -> None:
        await self.relay.stop()
        self.hub.stop()

    def publish(self, number: int) -> None:
        self.market.publish_price(PriceUpdate(self.market.ensure_instrument("A"), number))

    def last(self) -> int:
        update = self.market.last_price("A")
        return 0 if update is None else int(update.price)


@asynccontextmanager
async def two_instances(first: str, second: str) -> AsyncIterator[tuple[Instance, Instance]]:
    """Two that know each other and have each other's last values, at these addresses of Redis."""
    one, two = Instance(first), Instance(second)
    try:
        await until(lambda: len(one.relay.peers) == len(two.relay.peers) == 1)
        await until(lambda: not one.relay.missing("stock", ["A"]) and not two.relay.missing("stock", ["A"]))
        yield one, two
    finally:
        await one.stop()
        await two.stop()


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
