"""Portfolios as the store loads them, and what they are worth by another way of counting: `decimal`, from scratch."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np

from fastws._core import CHANNEL_PRICE, Connection, Dialect, Hub, Topic
from fastws._frames import FrameReader
from fastws._market import Instrument, PriceUpdate
from fastws._portfolios import encode_screener
from fastws.market.portfolio_store import QUANTITY_SCALE, Closes, Loaded

MS = 1_762_853_400_000  # 2025-11-11T09:30:00.000Z
TODAY = datetime.date(2025, 11, 11)
# No sum of these tests has more digits.
EXACT = decimal.Context(prec=400, rounding=ROUND_HALF_UP)

INSTRUMENTS = {
    "005930": Instrument("005930", "Samsung Electronics", "KOSPI", "IT", 72000, "KRW"),
    "000660": Instrument("000660", "SK hynix", "KOSPI", "IT", 250_000, "KRW"),
    "AAPL": Instrument("AAPL", "Apple", "NASDAQ", "IT", "269.43", "USD"),
    "MSFT": Instrument("MSFT", "Microsoft", "NASDAQ", "IT", "496.82", "USD"),
    "NEW": Instrument("NEW", "Just listed"),
}


@dataclass
class Held:
    """A portfolio: quantities by symbol."""

    quantities: dict[str, Decimal | int]
    owner: str = "kim"
    name: str = "Growth Portfolio"
    currency: str | None = "USD"


def loaded(
    portfolios: Mapping[int, Held], closes: Mapping[str, Closes] | None = None, version: int = 1
) -> Loaded:
    ids = sorted(portfolios)
    symbols = list(dict.fromkeys(code for number in ids for code in portfolios[number].quantities))
    rows = [
        (place, symbols.index(code), int(EXACT.scaleb(Decimal(quantity), QUANTITY_SCALE)))
        for place, number in enumerate(ids)
        for code, quantity in portfolios[number].quantities.items()
    ]
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return Loaded(
        version=version,
        ids=np.array(ids, np.int64),
        owners=[portfolios[number].owner for number in ids],
        names=[portfolios[number].name for number in ids],
        currencies=[portfolios[number].currency for number in ids],
        symbols=symbols,
        position_portfolios=np.array(columns[0], np.int32),
        position_symbols=np.array(columns[1], np.int32),
        quantities=np.array(columns[2], np.int64),
        closes=dict(closes or {}),
        n_orphans=0,
    )


@dataclass
class Worth:
    """What a portfolio is to be worth."""

    total: Decimal
    base: Decimal
    unpriced: list[str] = field(default_factory=list)

    def members(self, number: int, held: Held) -> dict[str, Any]:
        """The members of its message, numbers as texts."""
        places = 0 if held.currency in ("KRW", "JPY") else 3 if held.currency == "KWD" else 2
        change = EXACT.subtract(self.total, self.base)
        percent = Decimal(0)
        if self.base:
            percent = EXACT.divide(EXACT.multiply(change, Decimal(100)), abs(self.base))
        found: dict[str, Any] = {
            "portfolio_id": str(number),
            "name": held.name,
            "total_value": _shown(self.total, places),
            "daily_change": _shown(change, places),
            "daily_change_percent": _shown(percent, 2),
        }
        return found | ({"unpriced": self.unpriced} if self.unpriced else {})


def _shown(number: Decimal, places: int) -> str:
    text = format(number.quantize(Decimal(1).scaleb(-places), context=EXACT), "f")
    return text.removeprefix("-") if not text.strip("-0.") else text


def worth(
    held: Held,
    prices: Mapping[str, PriceUpdate],
    closes: Mapping[str, Closes] | None = None,
    instruments: Mapping[str, Instrument] = INSTRUMENTS,
    today: datetime.date = TODAY,
) -> Worth:
    """Count a portfolio from scratch; every price is of `today`."""
    total = base = Decimal(0)
    unpriced = []
    for code, quantity in held.quantities.items():
        known = (closes or {}).get(code, Closes())
        instrument = instruments.get(code)
        currency = (instrument and instrument.currency) or known.currency
        if held.currency and currency and held.currency != currency:
            unpriced.append(code)
            continue
        table = instrument.previous_close if instrument is not None else None
        table = known.previous if table is None else table
        update = prices.get(code)
        if update is None:
            unpriced.append(code)
            price = known.days[0].close if known.days else table if table is not None else 0
            before = price
        elif update.change is not None:
            price = update.price
            before = EXACT.subtract(Decimal(price), Decimal(update.change))
        else:
            price = update.price
            earlier = [day.close for day in known.days if day.date < today]
            before = earlier[0] if earlier else table if table is not None else price
        total = EXACT.add(total, EXACT.multiply(Decimal(quantity), Decimal(price)))
        base = EXACT.add(base, EXACT.multiply(Decimal(quantity), Decimal(before)))
    return Worth(total, base, unpriced)


def read(text: bytes) -> dict[str, Any]:
    """A JSON object, numbers as the texts that they are."""
    found: dict[str, Any] = json.loads(text, parse_int=str, parse_float=str)
    return found


def members(text: bytes) -> dict[str, Any]:
    return read(b"{%b}" % text)


class Listener:
    """A client on a socket; what it gets is read all the time. An asynchronous context manager."""

    def __init__(self, hub: Hub) -> None:
        self.received: list[dict[str, Any]] = []
        self._hub = hub
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Listener:
        opened: list[Connection] = []

        class Front(asyncio.Protocol):
            def connection_made(front, transport: Any) -> None:  # noqa: N805
                connection = Connection(self._hub, transport, self, DIALECT, max_message_size=65536)
                transport.set_protocol(connection)
                connection.open()
                opened.append(connection)

        near, far = socket.socketpair()
        await asyncio.get_running_loop().create_connection(Front, sock=near)
        reader, self._writer = await asyncio.open_connection(sock=far)
        self.connection = opened[0]
        self._reading = asyncio.create_task(self._read(reader))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.connection.abort(1001, "the test is over")
        assert self._reading is not None
        await self._reading
        self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = FrameReader(is_client=True, max_message_size=1 << 20)
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(65536):
                for event in frames.feed(data):
                    if event[0] == "message":
                        message = read(event[3])
                        self.received += message["messages"] if message["type"] == "batch" else [message]

    def subscribe(self, *topics: Topic) -> None:
        options = self._hub.options(latest=True, channels=CHANNEL_PRICE)
        self.connection.set_subscriptions(dict.fromkeys(topics, options))

    # What the core calls.

    def on_open(self, connection: Connection) -> None:
        pass

    def on_message(self, connection: Connection, data: bytes, is_text: bool) -> None:
        raise AssertionError("it says nothing")

    def on_rate_limited(self, connection: Connection) -> None:
        raise AssertionError("it says nothing")

    def on_close(self, connection: Connection, code: int) -> None:
        pass


DIALECT = Dialect("portfolios", encode_screener)
