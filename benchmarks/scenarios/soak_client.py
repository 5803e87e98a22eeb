"""Clients of `fastws.client` that tell all they are told; the orders and lines are those of soak_client.mjs.

Run as ``python -m benchmarks.scenarios.soak_client``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import Any

import orjson

from fastws.client import (
    Backoff,
    Client,
    EndedError,
    Error,
    Gap,
    Interrupted,
    Message,
    OrderbookUpdate,
    Overflow,
    PriceUpdate,
    RefreshFailed,
    RequestError,
    Restored,
    Unreadable,
    Withdrawn,
)

TELL_S = 0.02
Item = list[Any]


def items_of(message: Message) -> Iterable[Item]:
    match message:
        case PriceUpdate():
            yield ["value", "price_update", message.code, message.extra["n"], message.price, message.snapshot]
        case OrderbookUpdate():
            price = message.bids[0].price
            yield ["value", "orderbook_update", message.code, message.extra["n"], price, message.snapshot]
        case Overflow():
            for lost in message.items:
                yield ["lost", lost.channel, lost.code, lost.from_seq, lost.to_seq]
        case Gap():
            yield ["gap", message.channel, message.code, message.from_seq, message.to_seq]
        case Restored():
            yield ["open", message.recovered]
        case Interrupted():
            yield ["waiting", message.code]
        case Error():
            yield ["error", f"{message.code}: {message.message}"]
        case Unreadable() | Withdrawn() | RefreshFailed():
            yield ["fault", repr(message)]


class Told:
    """One client."""

    def __init__(self, name: str, url: str, token: str) -> None:
        async def source() -> str:
            return token

        self.name = name
        self.items: list[Item] = []
        self.client = Client(
            url,
            refresh_token=source,
            backoff=Backoff(0.005, 0.08),
            connect_attempts=0,
            connect_timeout=5,
            request_timeout=60,
            ping_interval=0.3,
            ping_timeout=0.3,
        )

    async def live(self, all_symbols: list[str], latest: list[str]) -> None:
        try:
            async with self.client as client:
                await client.subscribe("stock", all_symbols)
                await client.subscribe("stock", latest, mode="latest", max_rate=10)
                async for message in client:
                    self.items.extend(items_of(message))
        except EndedError as error:
            self.items.append(["closed", error.code])

    async def again(self, symbols: list[str]) -> None:
        try:
            await self.client.subscribe("stock", symbols)
        except (RequestError, EndedError) as error:
            self.items.append(["error", str(error)])


def tell(told: Iterable[Told]) -> None:
    for one in told:
        if one.items:
            _write({"client": one.name, "items": one.items})
            one.items.clear()


def _write(line: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(line, default=str) + b"\n")
    sys.stdout.buffer.flush()


async def main() -> None:
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    all_told: dict[str, Told] = {}

    async def tell_often() -> None:
        while True:
            await asyncio.sleep(TELL_S)
            tell(all_told.values())

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(tell_often())]
        async for line in reader:
            order = orjson.loads(line)
            if "make" in order:
                told = all_told[order["make"]] = Told(order["make"], order["url"], order["token"])
                tasks.append(group.create_task(told.live(order["all"], order["latest"])))
            else:
                tasks.append(group.create_task(all_told[order["again"]].again(order["symbols"])))
        tell(all_told.values())
        for told in all_told.values():
            _write({"client": told.name, "repeated": told.client.statistics.repeated})
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
