"""The two connections of an instance to Redis. The only module that knows redis."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from fastws.errors import FastwsError
from fastws.feeds.together import run_together
from fastws.relay.address import RedisAddress
from fastws.relay.lasting import Lasting

SILENCE_SECONDS: Final = 3.0
"""After how long without a message, where at least one's own come every second, the connection is given up."""

CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 2.0
_WATCH_SECONDS: Final = 2.0
_LEAST_DELAY_SECONDS: Final = 0.02
_BATCH: Final = 256
_BATCH_SIZE: Final = 1 << 20
# Between two turns of the loop, while messages are there already.
_SLICE_SECONDS: Final = 0.002
_MOVED: Final = re.compile(r"(?:MOVED )?\d+ (\S+):(\d+)\Z")

_log: Final = logging.getLogger("fastws.relay")


class RelayLostError(FastwsError):
    """A connection to Redis cannot be used any longer; the text says why."""


class Delays(Protocol):
    """How long to wait before the next attempt."""

    def next_delay(self) -> float: ...

    def reset(self) -> None: ...


class AnyLink(Protocol):
    """What a relay needs of what its messages go over; see :class:`Link`."""

    @property
    def is_up(self) -> bool: ...

    @property
    def n_connects(self) -> int: ...

    @property
    def n_dropped(self) -> int: ...

    @property
    def queue_size(self) -> int: ...

    def start(self) -> None: ...

    async def stop(self, seconds: float, /) -> None: ...

    def send(self, channel: str, data: bytes, /) -> None: ...

    def listen(self, channels: Iterable[str], /) -> None: ...

    def ignore(self, channels: Iterable[str], /) -> None: ...

    def is_listening(self, channel: str, /) -> bool: ...


class Link:
    """Sends messages to channels of Redis and hears those of channels that are listened to.

    1. Whoever sends never waits. Up to `queue_limit` bytes wait; beyond, the oldest are dropped and counted.
    2. A message is dropped from the queue when Redis has acknowledged it. One whose acknowledgement was lost is sent
       again.
    3. Both connections come back by themselves, with what is listened to. `on_change` is called with None when both are
       there, and with a reason when one is lost or cannot be had; while that is so, only once more for Redis being away
       and once for it refusing what it is asked, whenever that changes.
    4. `on_listening` is called with a channel once Redis delivers what is sent to it, again after each reconnection.
    5. Nothing is sent while nothing can be heard: who is asked for what it has sent is to hear it.
    6. In a cluster, sharded pub/sub is used, and the node that the channels' common hash tag belongs to.
    """

    def __init__(
        self,
        address: RedisAddress,
        *,
        on_message: Callable[[bytes], None],
        on_change: Callable[[str | None], None],
        on_listening: Callable[[str], None],
        delays: Callable[[], Delays],
        queue_limit: int,
    ) -> None:
        self.n_dropped = 0
        self.n_connects = 0
        self.queue_size = 0
        self._address = address
        self._on_message = on_message
        self._on_change = on_change
        self._on_listening = on_listening
        self._make_delays = delays
        self._queue_limit = queue_limit
        self._queue: deque[tuple[str, bytes]] = deque()
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._wanted: dict[str, None] = {}
        self._listening: set[str] = set()
        self._changes = asyncio.Event()
        self._is_cluster = False
        self._moved_to: tuple[str, int] | None = None
        self._is_open = [False, False]
        self._can_hear = asyncio.Event()
        self._told = ""
        self._tasks = [
            Lasting("the connection to Redis that listens", partial(self._keep, 0, self._hear)),
            Lasting("the connection to Redis that sends", partial(self._keep, 1, self._send)),
        ]

    @property
    def is_up(self) -> bool:
        return all(self._is_open)

    def start(self) -> None:
        for task in self._tasks:
            task.start()

    async def stop(self, seconds: float) -> None:
        """Bring away what waits, within `seconds` and if Redis is there; then disconnect."""
        if self.is_up:
            try:
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
            except TimeoutError:
                pass  # the others see the gap, and that this instance is gone
        for task in self._tasks:
            await task.stop()

    def send(self, channel: str, data: bytes) -> None:
        self._queue.append((channel, data))
        self.queue_size += len(data)
        while self.queue_size > self._queue_limit and self._queue:
            self.queue_size -= len(self._queue.popleft()[1])
            self.n_dropped += 1
        self._filled.set()
        self._empty.clear()

    def listen(self, channels: Iterable[str]) -> None:
        self._wanted.update(dict.fromkeys(channels))
        self._changes.set()

    def ignore(self, channels: Iterable[str]) -> None:
        for channel in channels:
            self._wanted.pop(channel, None)
            self._listening.discard(channel)
        self._changes.set()

    def is_listening(self, channel: str) -> bool:
        return channel in self._listening

    # Connections.

    async def _keep(self, which: int, use: Callable[[AbstractConnection], Any]) -> None:
        """Connect, use the connection until it fails, and begin anew."""
        delays = self._make_delays()
        while True:
            connection = None
            began = time.monotonic()
            try:
                connection = await self._connect()
                delays_are_over = time.monotonic() + SILENCE_SECONDS
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
                if connection is not None:
                    await _disconnect(connection)
            # Where nothing answers, an attempt takes its time itself, and what heals meanwhile is not seen by it.
            tried = time.monotonic() - began if connection is None else 0.0
            await asyncio.sleep(max(_LEAST_DELAY_SECONDS, delays.next_delay() - tried))

    def _note_open(self, which: int) -> None:
        self._is_open[which] = True
        if self.is_up:
            self.n_connects += 1
            self._tell("up", None)

    def _note_lost(self, which: int, error: Exception) -> None:
        self._is_open[which] = False
        # A server that is away fails in many words, which are all the same to whoever reads them.
        refuses = isinstance(error, (AuthenticationError, ResponseError)) or _is_refused_by_sentinel(error)
        self._tell("refused" if refuses else "away", reason_of(error))

    def _tell(self, state: str, reason: str | None) -> None:
        if state != self._told:
            self._told = state
            self._on_change(reason)

    async def _connect(self) -> AbstractConnection:
        options = {
            "protocol": 2,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": ANSWER_SECONDS,
            # How often and when is decided here, for both connections alike.
            "retry": Retry(NoBackoff(), 0),
            "client_name": "fastws",
        }
        url = self._address.url
        if self._address.sentinels:
            host, port = await self._find_master()
            url = url.replace("{}", f"[{host}]:{port}" if ":" in host else f"{host}:{port}", 1)
        connection: AbstractConnection = _new_connection(url, options)
        if self._moved_to is not None:
            connection.host, connection.port = self._moved_to  # type: ignore[attr-defined]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            self._is_cluster = await _is_cluster(connection)
            if self._address.sentinels and (await _ask(connection, "ROLE"))[0] != b"master":
                raise RelayLostError("the sentinels name a server that is no master yet")
        except BaseException:
            self._moved_to = None
            await _disconnect(connection)
            raise
        return connection

    async def _find_master(self) -> tuple[str, int]:
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            list(self._address.sentinels),
            sentinel_kwargs={
                "socket_connect_timeout": CONNECT_SECONDS,
                "socket_timeout": ANSWER_SECONDS,
                "password": self._address.sentinel_password,
                "protocol": 2,
                # Else one that is away is tried for seconds before the next one is asked.
                "retry": Retry(NoBackoff(), 0),
            },
        )
        try:
            host, port = await sentinel.discover_master(self._address.service)
            return str(host), int(port)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()

    async def _watch_master(self, connection: AbstractConnection) -> None:
        """End when the sentinels name another server, which the old one may not notice for long.

        Raises:
            RelayLostError: they do.
        """
        known = (connection.host, connection.port)  # type: ignore[attr-defined]
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            try:
                found = await self._find_master()
            except (RedisError, OSError, TimeoutError):
                continue  # the server itself may be well
            if found != (str(known[0]), int(known[1])):
                raise RelayLostError("the sentinels name another master")

    # Sending.

    async def _send(self, connection: AbstractConnection) -> None:
        command = "SPUBLISH" if self._is_cluster else "PUBLISH"
        try:
            # Nothing, to whom everything is: a user that may not publish is not to count as being there.
            await _ask(connection, command, next(iter(self._wanted), ""), "")
        except ResponseError as error:
            self._follow(error)
            raise
        self._note_open(1)
        while True:
            await self._filled.wait()
            if not self._can_hear.is_set():
                # What has ended the other connection may have ended this one, which would not be noticed before.
                self._is_open[1] = False
                await self._can_hear.wait()
                await _ask(connection, "PING")
                self._note_open(1)
            batch = self._take_batch()
            if not batch:
                self._filled.clear()
                self._empty.set()
                continue
            n_arrived = 0
            try:
                await connection.send_packed_command(
                    connection.pack_commands((command, channel, data) for channel, data in batch)
                )
                for _, data in batch:
                    await connection.read_response()
                    n_arrived += 1
                    self.queue_size -= len(data)
            except BaseException as error:
                self._queue.extendleft(reversed(batch[n_arrived:]))
                self._follow(error)
                raise

    def _take_batch(self) -> list[tuple[str, bytes]]:
        batch: list[tuple[str, bytes]] = []
        size = 0
        while self._queue and len(batch) < _BATCH and size < _BATCH_SIZE:
            batch.append(self._queue.popleft())
            size += len(batch[-1][1])
        return batch

    def _follow(self, error: BaseException) -> None:
        if isinstance(error, ResponseError) and (found := _MOVED.search(str(error))):
            self._moved_to = found[1], int(found[2])

    # Hearing.

    async def _hear(self, connection: AbstractConnection) -> None:
        uses = [self._read(connection), self._subscribe(connection)]
        if self._address.sentinels:
            uses.append(self._watch_master(connection))
        try:
            await run_together(*uses)
        except ResponseError as error:
            self._follow(error)
            raise
        finally:
            self._can_hear.clear()
            self._filled.set()
            self._listening.clear()

    async def _read(self, connection: AbstractConnection) -> None:
        turn_ends = time.monotonic() + _SLICE_SECONDS
        while True:
            reply = await connection.read_response(timeout=SILENCE_SECONDS)
            if reply is None:
                raise RelayLostError(f"nothing was heard for {SILENCE_SECONDS:g} s")
            kind = reply[0]
            if kind in (b"message", b"smessage"):
                if reply[2]:
                    self._on_message(reply[2])
            elif kind in (b"subscribe", b"ssubscribe"):
                self._note_listening(reply[1].decode())
            if time.monotonic() >= turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + _SLICE_SECONDS

    def _note_listening(self, channel: str) -> None:
        if channel in self._wanted:
            self._listening.add(channel)
            self._can_hear.set()
            if not self._is_open[0]:
                self._note_open(0)
            self._on_listening(channel)

    async def _subscribe(self, connection: AbstractConnection) -> None:
        """Tell Redis what is listened to, now and whenever that has changed."""
        prefix = "S" if self._is_cluster else ""
        told: set[str] = set()
        while True:
            self._changes.clear()
            wanted = set(self._wanted)
            # In the order in which they were asked for: the first ones are those that instances talk by.
            if added := [channel for channel in self._wanted if channel not in told]:
                await connection.send_command(f"{prefix}SUBSCRIBE", *added)
            if gone := told - wanted:
                await connection.send_command(f"{prefix}UNSUBSCRIBE", *gone)
            told = wanted
            await self._changes.wait()


def reason_of(error: BaseException) -> str:
    """Why a connection could not be had or was lost, for people; never with a password."""
    if isinstance(error, AuthenticationError):
        return "Redis refuses the user or the password of the setting relay"
    if _is_refused_by_sentinel(error):
        return "a sentinel refuses the sentinel_password of the setting relay"
    if isinstance(error, MasterNotFoundError):
        return "no sentinel can be reached that knows a master of that name"
    if isinstance(error, TimeoutError) and not str(error):
        return "it takes too long"
    return str(error)[:200] or type(error).__name__


def _is_refused_by_sentinel(error: BaseException) -> bool:
    return isinstance(error, MasterNotFoundError) and "AuthenticationError" in str(error)


def _new_connection(url: str, options: Mapping[str, Any]) -> AbstractConnection:
    """One of the kind that `url` asks for: over TCP, TLS or a Unix socket. It is not open yet."""
    pool = ConnectionPool.from_url(url, **options)
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    return connection


async def _ask(connection: AbstractConnection, *command: str) -> Any:
    await connection.send_command(*command)
    return await connection.read_response()


async def _is_cluster(connection: AbstractConnection) -> bool:
    try:
        return b"cluster_enabled:1" in await _ask(connection, "INFO", "cluster")
    except ResponseError:
        return False  # the user may publish and subscribe, and not ask


async def _disconnect(connection: AbstractConnection) -> None:
    try:
        await connection.disconnect(nowait=True)
    except Exception:
        # It was lost already, in one of many ways; whoever uses it has been told how.
        _log.debug("a connection to Redis was not closed in order", exc_info=True)
