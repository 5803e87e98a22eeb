"""The two connections of an instance to Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from fastws.relay.address import RedisAddress
from fastws.relay.delays import Delays
from fastws.relay.lasting import Lasting
from fastws.relay.links import QUEUE_SIZE
from fastws.relay.redis_access import (
    RedisAccess,
    RelayLostError,
    disconnect,
    end_if_cancelled,
    is_refusal,
    reason_of,
)
from fastws.relay.redis_listening import REDIS_SILENCE_SECONDS, RedisListener
from fastws.relay.redis_sending import RedisSender

_LEAST_DELAY_SECONDS: Final = 0.02
_LISTENS, _SENDS = 0, 1

_log = structlog.get_logger("fastws.relay")


class RedisLink:
    """Sends messages to channels of Redis and hears those of channels that are listened to; an `AnyLink`.

    1. Whoever sends never waits. Up to `queue_limit` bytes wait; beyond, the oldest are dropped and counted.
    2. What becomes of a message that was sent, and when one is sent again or left out, `RedisSender` says.
    3. Both connections come back by themselves, with what is listened to. `on_change` is called with None when by both
       something has gone, and with a reason when one is lost or cannot be had; while that is so, only once more for
       Redis being away and once for it refusing what it is asked, whenever that changes.
    4. `on_listening` is called with a channel once Redis delivers what is sent to it, again after each reconnection.
    5. In a cluster, sharded pub/sub is used, and the node that the channels' common hash tag belongs to.
    """

    is_detoured = False

    def __init__(
        self,
        address: RedisAddress,
        *,
        on_message: Callable[[bytes], None],
        on_change: Callable[[str | None], None],
        on_listening: Callable[[str], None],
        queue_limit: int = QUEUE_SIZE,
    ) -> None:
        self.n_connects = 0
        self._on_change = on_change
        self._access = RedisAccess(address)
        self._listener = RedisListener(
            self._access,
            on_message=on_message,
            on_listening=on_listening,
            on_open=partial(self._note_open, _LISTENS, True),
        )
        self._sender = RedisSender(
            self._access, self._listener, queue_limit, on_open=partial(self._note_open, _SENDS)
        )
        self._is_open = [False, False]
        self._told = ""
        self._tasks = [
            Lasting(
                "the connection to Redis that listens", partial(self._keep, _LISTENS, self._listener.use)
            ),
            Lasting("the connection to Redis that sends", partial(self._keep, _SENDS, self._sender.use)),
        ]

    @property
    def is_up(self) -> bool:
        return all(self._is_open)

    @property
    def n_dropped(self) -> int:
        return self._sender.outbox.n_dropped

    @property
    def n_refused(self) -> int:
        return self._sender.n_refused

    @property
    def queue_size(self) -> int:
        return self._sender.outbox.size

    def start(self) -> None:
        for task in self._tasks:
            task.start()

    async def stop(self, seconds: float) -> None:
        """Bring away what waits, within `seconds` and if Redis is there; then disconnect."""
        if self.is_up:
            try:
                async with asyncio.timeout(seconds):
                    await self._sender.is_empty.wait()
            except TimeoutError:
                pass  # the others see the gap, and that this instance is gone
        for task in self._tasks:
            await task.stop()

    def send(self, channel: str, data: bytes) -> None:
        self._sender.put(channel, data)

    def listen(self, channels: Iterable[str]) -> None:
        self._listener.listen(channels)

    def ignore(self, channels: Iterable[str]) -> None:
        self._listener.ignore(channels)

    def is_listening(self, channel: str) -> bool:
        return self._listener.is_listening(channel)

    async def _keep(self, which: int, use: Callable[[AbstractConnection], Awaitable[None]]) -> None:
        """Connect, use the connection until it fails, and begin anew."""
        delays = Delays()
        while True:
            connection = None
            began = time.monotonic()
            try:
                connection = await self._access.connect()
                delays_are_over = time.monotonic() + REDIS_SILENCE_SECONDS
                try:
                    await use(connection)
                finally:
                    if time.monotonic() >= delays_are_over:
                        delays.reset()
            except (RedisError, RelayLostError, OSError, TimeoutError) as error:
                self._note_lost(which, error)
            except Exception as error:
                # Of what is no Redis any answer may come, and this task is the only one that tries again.
                _log.debug("a connection to Redis ended in an unexpected way", exc_info=True)
                self._note_lost(which, error)
            finally:
                self._is_open[which] = False
                if which == _LISTENS:
                    self._sender.note_deaf()
                if connection is not None:
                    await disconnect(connection)
            end_if_cancelled()
            # Where nothing answers, an attempt takes its time itself, and what heals meanwhile is not seen by it.
            tried = time.monotonic() - began if connection is None else 0.0
            await asyncio.sleep(max(_LEAST_DELAY_SECONDS, delays.next_delay() - tried))

    def _note_open(self, which: int, is_open: bool) -> None:
        was_up = self.is_up
        self._is_open[which] = is_open
        if self.is_up and not was_up:
            self.n_connects += 1
            self._tell("up", None)

    def _note_lost(self, which: int, error: Exception) -> None:
        self._is_open[which] = False
        # A server that is away fails in many words, which are all the same to whoever reads them.
        self._tell("refused" if is_refusal(error) else "away", reason_of(error))

    def _tell(self, state: str, reason: str | None) -> None:
        if state != self._told:
            self._told = state
            self._on_change(reason)
