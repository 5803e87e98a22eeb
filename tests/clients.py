"""An independent WebSocket client (`websockets`), and what every stream of one connection has to keep."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from decimal import Decimal
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.certificates import files

Message = dict[str, Any]
PUBLISHED = ("price_update", "orderbook_update", "market_status", "feed_status", "symbol_status")
WAIT_SECONDS = 30.0


def parse(text: str) -> Message:
    """A message with its numbers as they are written."""
    message: Message = json.loads(text, parse_float=Decimal)
    return message


def updates(message: Message) -> list[Message]:
    """The published messages of a live message, bare or in a batch; none for snapshots and answers."""
    if message["type"] == "batch":
        return [] if "snapshot" in message else message["messages"]
    return [message] if message["type"] in PUBLISHED else []


class Client:
    """One connection. Everything it gets passes `on_message` first, as text and parsed."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.on_message: Callable[[Message], None] = lambda message: None
        self.greeting: Message = {}

    async def send(self, **message: object) -> None:
        await self.connection.send(json.dumps(message))

    async def subscribe(self, kind: str, *targets: str, **options: object) -> None:
        await self.send(type="subscribe", subscription_type=kind, targets=targets, **options)

    async def unsubscribe(self, kind: str, *targets: str) -> None:
        await self.send(type="unsubscribe", subscription_type=kind, targets=targets)

    async def receive_text(self, seconds: float = WAIT_SECONDS) -> str:
        async with asyncio.timeout(seconds):
            text = await self.connection.recv(decode=True)
        assert isinstance(text, str)
        return text

    async def receive(self, seconds: float = WAIT_SECONDS) -> Message:
        message = parse(await self.receive_text(seconds))
        self.on_message(message)
        return message

    async def until(self, is_it: Callable[[Message], object], seconds: float = WAIT_SECONDS) -> Message:
        """Receive until `is_it` holds for a message, and return that one."""
        async with asyncio.timeout(seconds):
            while True:
                message = await self.receive(seconds)
                if is_it(message):
                    return message

    async def until_type(self, name: str, seconds: float = WAIT_SECONDS) -> Message:
        return await self.until(lambda message: message["type"] == name, seconds)

    async def until_snapshot(self) -> Message:
        return await self.until(lambda message: message.get("snapshot"))

    async def sync(self) -> None:
        """Receive everything that was sent before the answer to a request made now."""
        await self.send(type="ping", id="sync")
        await self.until(lambda message: message["type"] == "pong" and message.get("id") == "sync")

    async def closed(self, seconds: float = WAIT_SECONDS) -> int:
        """Receive until the end of the connection; returns its close code, 1006 where there was none."""
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(seconds):
                while True:
                    await self.receive(seconds)
        code = self.connection.close_code
        assert code is not None
        return code


def client(url: str, *, greeted: bool = True, **options: Any) -> AbstractAsyncContextManager[Client]:
    """Connect and take the greeting, if there is to be one; `options` are those of `websockets`."""
    return _client(url, greeted, options)


@asynccontextmanager
async def _client(url: str, greeted: bool, options: dict[str, Any]) -> Any:
    # A proxy of the surroundings is not meant for the loopback address.
    arguments: dict[str, Any] = {"proxy": None, "max_size": None, "max_queue": None, "ping_interval": None}
    if url.startswith("wss:"):
        arguments["ssl"] = files().authority.client_context()
    async with connect(url, **(arguments | options)) as connection:
        joined = Client(connection)
        if greeted:
            joined.greeting = await joined.receive()
            assert joined.greeting["type"] == "connection", joined.greeting
        yield joined


class Stream:
    """Checks what one connection gets by the rules of the wire contract for mode `all`, and keeps count.

    1. Live updates have rising sequences, within a batch and from message to message; a batch's own is not lower
       than those inside, and nothing that comes after has one as low.
    2. After a snapshot, only what was published after it.
    3. Per symbol and message type `seq` goes up by one, also from a snapshot to the first live update; the first one
       of a symbol that was in no snapshot is 1. With `from_any` it may be any. A symbol subscribed to again goes on
       from its new snapshot.

    With `has_latest` there may be holes, and only the numbers of each symbol have to rise.
    """

    def __init__(self, *, has_latest: bool = False, from_any: bool = False) -> None:
        self.has_latest = has_latest
        self.from_any = from_any
        self.sequence = 0
        self.seqs: dict[tuple[str, str], int] = {}
        self.n_updates = 0
        self.n_batches = 0
        self.n_bare = 0

    def take(self, message: Message) -> None:
        if message["type"] == "batch":
            assert message["batch_size"] == len(message["messages"])
            if "snapshot" in message:
                self._take_snapshot(message)
                return
            assert message["batch_size"] > 1, "a single message is sent bare"
            self.n_batches += 1
            for update in message["messages"]:
                self._take_update(update)
            assert message["sequence"] >= self.sequence
            self.sequence = message["sequence"]
        elif message["type"] in PUBLISHED:
            self.n_bare += 1
            self._take_update(message)

    def _take_snapshot(self, message: Message) -> None:
        sequences = [update["sequence"] for update in message["messages"]]
        assert sequences == sorted(sequences)
        assert message["sequence"] >= max([self.sequence, *sequences]), (
            "a snapshot older than what came before it"
        )
        self.sequence = message["sequence"]
        for update in message["messages"]:
            if "seq" in update:
                key = (update["code"], update["type"])
                assert update["seq"] >= self.seqs.get(key, 0)
                self.seqs[key] = update["seq"]

    def _take_update(self, update: Message) -> None:
        self.n_updates += 1
        if not self.has_latest:
            assert update["sequence"] > self.sequence, f"{update} after sequence {self.sequence}"
            self.sequence = update["sequence"]
        if "seq" not in update:
            return
        key = (update["code"], update["type"])
        last = self.seqs.get(key)
        if self.has_latest:
            assert update["seq"] > (last or 0), f"{update} after seq {last}"
        elif last is not None or not self.from_any:
            assert update["seq"] == (last or 0) + 1, f"{update} after seq {last}"
        self.seqs[key] = update["seq"]
