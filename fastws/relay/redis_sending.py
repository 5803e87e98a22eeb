"""The connection to Redis by which messages leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from fastws.logs import log_limited
from fastws.relay.outbox import Outbox
from fastws.relay.redis_access import RedisAccess, ask, end_if_cancelled, is_about_the_message, reason_of
from fastws.relay.redis_listening import RedisListener

_BATCH: Final = 256
_BATCH_SIZE: Final = 1 << 20
# So many connections in a row that end with the same message are no accident.
_SUSPICIOUS: Final = 3

_Message: TypeAlias = tuple[tuple[str, bytes], int]

_log = structlog.get_logger("fastws.relay")


class RedisSender:
    """Sends messages, over the connections that `use` is given one after the other.

    `on_open` is called when Redis has taken something by a connection, with False when it is not sure any more that
    it will.

    1. A message leaves the outbox when Redis has acknowledged it. One whose acknowledgement was lost is sent again.
    2. One that Redis refuses is left out and counted, and all others are sent as ever. So is one with which three
       connections in a row have ended. Where Redis refuses everything, or does so for a while, the connection fails.
    3. After two connections in a row that have ended with the same message as the first on its way, all that are on
       their way are sent one by one: one of them may be why. Once is no reason, for each then costs a round trip.
    4. Nothing is sent while nothing can be heard: who is asked for what it has sent is to hear it.
    """

    def __init__(
        self, access: RedisAccess, listener: RedisListener, limit: int, *, on_open: Callable[[bool], object]
    ) -> None:
        self.n_refused = 0
        self.outbox: Outbox[tuple[str, bytes]] = Outbox(limit)
        self.is_empty = asyncio.Event()
        self.is_empty.set()
        self._access = access
        self._listener = listener
        self._on_open = on_open
        # What is to be looked at: messages, or that nothing can be heard.
        self._filled = asyncio.Event()
        self._command = ""
        self._n_alone = 0
        self._suspect: _Message | None = None
        self._n_ended = 0

    def put(self, channel: str, data: bytes) -> None:
        self.outbox.put((channel, data), len(data))
        self._filled.set()
        self.is_empty.clear()

    def note_deaf(self) -> None:
        """Nothing can be heard any more."""
        self._filled.set()

    async def use(self, connection: AbstractConnection) -> None:
        """Send by a connection until it fails.

        Raises:
            RedisError, RelayLostError, OSError, TimeoutError: it has.
        """
        self._command = "SPUBLISH" if self._access.is_cluster else "PUBLISH"
        try:
            await self._try(connection)
            while True:
                await self._filled.wait()
                if not self._listener.can_hear.is_set():
                    # What has ended the other connection may have ended this one, which would not be noticed before.
                    self._on_open(False)
                    await self._listener.can_hear.wait()
                    await self._try(connection)
                batch = self.outbox.take(1 if self._n_alone else _BATCH, _BATCH_SIZE)
                if batch:
                    await self._send(connection, batch)
                else:
                    self._filled.clear()
                    self.is_empty.set()
                    self._n_alone = 0
                    self._on_open(True)
        except ResponseError as error:
            self._access.follow(error)
            raise

    async def _try(self, connection: AbstractConnection) -> None:
        """Send nothing to whom everything goes: a user that may not publish is not to count as being there."""
        await ask(connection, self._command, self._listener.first, "")
        if not self._n_alone:
            self._on_open(True)

    async def _send(self, connection: AbstractConnection, batch: list[_Message]) -> None:
        n_done = n_refused = 0
        try:
            await connection.send_packed_command(
                connection.pack_commands((self._command, *message) for message, _ in batch)
            )
            end_if_cancelled()
            for one in batch:
                try:
                    await connection.read_response()
                except ResponseError as error:
                    if not is_about_the_message(error):
                        raise
                    self._refused(one, reason_of(error))
                    n_refused += 1
                else:
                    self.outbox.settled(one)
                    if self._n_alone:
                        self._on_open(True)
                n_done += 1
        except BaseException as error:
            self._put_back(batch[n_done:], error)
            raise
        self._suspect = None
        self._n_alone = max(0, self._n_alone - len(batch))
        if n_refused:
            # It may refuse everything; this fails then.
            await self._try(connection)

    def _refused(self, one: _Message, error: str) -> None:
        self.outbox.settled(one)
        self.n_refused += 1
        (channel, data), size = one
        log_limited(
            _log,
            "relay-refused-by-redis",
            "Redis does not take a message of the relay, which is left out",
            channel=channel,
            message=data[:3].decode("ascii", "replace"),
            bytes=size,
            error=error,
        )

    def _put_back(self, rest: list[_Message], error: BaseException) -> None:
        if rest and not isinstance(error, (asyncio.CancelledError, ResponseError)):
            if rest[0] is self._suspect:
                self._n_ended += 1
                self._n_alone = max(self._n_alone, len(rest))
            else:
                self._suspect, self._n_ended = rest[0], 1
            if self._n_ended >= _SUSPICIOUS:
                self._suspect = None
                self._refused(
                    rest.pop(0), f"{_SUSPICIOUS} connections have ended with it: {reason_of(error)}"
                )
        self.outbox.put_back(rest)
