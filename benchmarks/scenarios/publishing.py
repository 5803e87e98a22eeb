"""A publisher that keeps a record of all it published, and readers that are held against it."""

from __future__ import annotations

import asyncio
import http
import itertools
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import orjson

from benchmarks.scenarios.process import ADMIN_TOKEN, Server

TICK_S = 0.01
UPDATE_TYPES = ("price_update", "orderbook_update")
# Of the faults of a run so many are told one by one.
MAX_FAULTS = 20

Key = tuple[str, str]
"""Message type and code, each of which is numbered by itself."""


class Record:
    """What was published: `numbers[key][seq - 1]` is a number of its own for every message, `at` when it was sent, and
    `prices` at what. When the server has been started anew, `seq` begins behind `begins[key]`."""

    def __init__(self) -> None:
        self.numbers: dict[Key, list[int]] = {}
        self.at: list[float] = []
        self.prices: list[int] = []
        self.begins: dict[Key, int] = {}

    def add(self, key: Key, price: int) -> int:
        number = len(self.at)
        self.at.append(time.monotonic())
        self.prices.append(price)
        self.numbers.setdefault(key, []).append(number)
        return number

    def restart(self) -> None:
        """The server counts from 1 again."""
        self.begins = {key: len(numbers) for key, numbers in self.numbers.items()}


class Publisher:
    """Publishes prices (and a book for every fifth) at `rate` a second over ``/v1/publish`` of a fresh server.

    Open loop: what a slow server delays is made up for. `n_accepted` messages were acknowledged; with `until_refused`
    it goes on until the server takes no more, which is no error then. `record` is one to go on with.
    """

    def __init__(
        self,
        server: Server,
        symbols: Sequence[str],
        rate: float,
        *,
        until_refused: bool = False,
        record: Record | None = None,
    ) -> None:
        self.record = Record() if record is None else record
        # What is due beside `rate`: what was there already, and bursts.
        self._n_before = len(self.record.at)
        self.n_accepted = 0
        self._url = f"{server.http_url}/v1/publish"
        self._symbols = symbols
        self._rate = rate
        self._until_refused = until_refused
        self._is_stopped = self._is_held = False
        self._random = random.Random(1)
        self._prices = {symbol: 50_000 + 100 * i for i, symbol in enumerate(symbols)}
        self._turns = itertools.cycle(symbols)
        self.accepted: dict[Key, int] = {}
        """The highest `seq` of each stream that was acknowledged."""

    def stop(self) -> None:
        self._is_stopped = True

    def burst(self, n: int) -> None:
        """Publish so many at once, as fast as they are taken, beside those that are due."""
        self._n_before += n

    def hold(self, is_held: bool) -> None:
        """Publish nothing for a while, which is not made up for."""
        self._is_held = is_held

    async def run(self) -> None:
        """Publish until `stop`.

        Raises:
            RuntimeError: the server did not take an update.
        """
        began = time.monotonic()
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            while not self._is_stopped:
                if self._is_held:
                    held_at = time.monotonic()
                    await asyncio.sleep(TICK_S)
                    began += time.monotonic() - held_at
                    continue
                n_due = int((time.monotonic() - began) * self._rate) + self._n_before - len(self.record.at)
                n = min(500, n_due)
                if n > 0:
                    try:
                        await self._publish(session, [self._next() for _ in range(n)])
                    except (aiohttp.ClientError, OSError):
                        if not self._until_refused:
                            raise
                        return
                    if self._is_stopped:
                        return
                await asyncio.sleep(TICK_S)

    async def _publish(self, session: aiohttp.ClientSession, updates: list[dict[str, Any]]) -> None:
        numbers = {
            (update["type"], update["code"]): len(self.record.numbers[(update["type"], update["code"])])
            for update in updates
        }
        async with session.post(self._url, data=orjson.dumps(updates)) as response:
            if response.status != http.HTTPStatus.ACCEPTED:
                if self._until_refused:
                    self._is_stopped = True
                    return
                raise RuntimeError(f"publishing was answered with {response.status}: {await response.text()}")
            await response.read()
        self.n_accepted += len(updates)
        self.accepted |= numbers

    def _next(self) -> dict[str, Any]:
        code = next(self._turns)
        number = len(self.record.at)
        price = self._prices[code] = max(1000, self._prices[code] + 10 * self._random.randint(-5, 5))
        if number % 5 == 4:
            levels = range(5)
            return {
                "type": "orderbook_update",
                "code": code,
                "bids": [{"price": price - 10 * level, "quantity": 100 + level} for level in levels],
                "asks": [{"price": price + 10 * level + 10, "quantity": 100 + level} for level in levels],
                "n": self.record.add(("orderbook_update", code), price),
            }
        return {
            "type": "price_update",
            "code": code,
            "price": price,
            "change": price - 50_000,
            "volume": number,
            "n": self.record.add(("price_update", code), price),
        }


class Reader:
    """What one client has got over all its connections, held against the record as it comes.

    `seqs` is the last number of each stream; `cursor` the highest `sequence` seen. `faults` tells what was missing,
    came twice or out of order, or is not what was published. A hole that ends before the moment `cut_at`, allowed once
    after a restoration without a cursor, is what was on its way when the connection was cut (`n_in_flight`).
    """

    def __init__(self, name: str, symbols: Sequence[str], record: Record) -> None:
        self.name = name
        self.symbols = symbols
        self.record = record
        self.seqs: dict[Key, int] = dict.fromkeys(itertools.product(UPDATE_TYPES, symbols), -1)
        self.cursor = 0
        self.epoch = ""
        self.session_id = ""
        self.n_updates = 0
        self.n_in_flight = 0
        self.faults: list[str] = []
        self.answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._may_miss: dict[Key, float] = {}

    def allow_holes(self, cut_at: float) -> None:
        self._may_miss = dict.fromkeys(self.seqs, cut_at)

    def fault(self, text: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(f"{self.name}: {text}")

    def take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind in UPDATE_TYPES:
            self._take_update(message)
        elif kind == "batch":
            if "snapshot" in message:
                self._take_snapshot(message)
            else:
                for update in message["messages"]:
                    self._take_update(update)
        elif kind == "overflow":
            self.fault(f"overflow while it read: {message['items'][0]}")
        elif kind == "connection":
            self.epoch = message["epoch"]
            self.answers.put_nowait(message)
        else:
            self.answers.put_nowait(message)
        self.cursor = max(self.cursor, message.get("sequence", 0))

    def _take_snapshot(self, message: dict[str, Any]) -> None:
        for update in message["messages"]:
            key = (update["type"], update["code"])
            if update["seq"] < self.seqs[key]:
                self.fault(f"{key}: a snapshot with seq {update['seq']} after {self.seqs[key]}")
            self.seqs[key] = update["seq"]
        # What the snapshot does not show has not been published.
        self.seqs = {key: max(seq, 0) for key, seq in self.seqs.items()}

    def _take_update(self, update: dict[str, Any]) -> None:
        key = (update["type"], update["code"])
        seq = update["seq"]
        last = self.seqs.get(key)
        if last is None:
            self.fault(f"{key}: not subscribed to")
            return
        numbers = self.record.numbers[key]
        if seq != last + 1:
            self._miss(key, last, seq, numbers)
        elif self._may_miss:
            self._may_miss.pop(key, None)
        if numbers[seq - 1] != update["n"]:
            self.fault(f"{key} seq {seq}: number {update['n']}, published was {numbers[seq - 1]}")
        if update["sequence"] <= self.cursor:
            self.fault(f"{key} seq {seq}: sequence {update['sequence']} after {self.cursor}")
        self.cursor = max(self.cursor, update["sequence"])
        self.seqs[key] = seq
        self.n_updates += 1

    def _miss(self, key: Key, last: int, seq: int, numbers: list[int]) -> None:
        cut_at = self._may_miss.pop(key, None)
        if cut_at is not None and seq > last and self.record.at[numbers[seq - 2]] <= cut_at:
            self.n_in_flight += seq - last - 1
        else:
            self.fault(f"{key}: seq {seq} after {last}")

    def missing(self, wanted: Mapping[Key, int] | None = None) -> int:
        """How many messages of `wanted`, by default of all that was published, have not come."""
        if wanted is None:
            wanted = {key: len(numbers) for key, numbers in self.record.numbers.items()}
        return sum(max(0, wanted.get(key, 0) - seq) for key, seq in self.seqs.items())
