"""How connections to Redis are had, where Redis is now, and why they were lost."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, Final

import structlog
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from fastws.errors import FastwsError
from fastws.relay.address import RedisAddress

CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 2.0
_WATCH_SECONDS: Final = 2.0
_MOVED: Final = re.compile(r"(?:MOVED )?\d+ (\S+):(\d+)\Z")
# Redis refuses everything for a while, or this node does.
_PASSING: Final = (AskError, TryAgainError, ClusterDownError, ReadOnlyError)
_PASSING_CODES: Final = ("BUSY", "MISCONF", "NOREPLICAS", "UNKILLABLE")

_log = structlog.get_logger("fastws.relay")


class RelayLostError(FastwsError):
    """A connection to Redis cannot be used any longer; the text says why."""


class RedisAccess:
    """Connects to the Redis of an address: to the one that the sentinels name, or the node that others have named.

    `is_cluster` says what was found at the last connection: whether sharded pub/sub is to be used.
    """

    def __init__(self, address: RedisAddress) -> None:
        self.address = address
        self.is_cluster = False
        self._moved_to: tuple[str, int] | None = None

    async def connect(self) -> AbstractConnection:
        """Return an open connection, which the caller is to `disconnect`.

        Raises:
            RedisError, RelayLostError, OSError, TimeoutError: there is none to be had now; see `reason_of`.
        """
        options = {
            "protocol": 2,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_timeout": ANSWER_SECONDS,
            # How often and when is decided elsewhere, for all connections alike.
            "retry": Retry(NoBackoff(), 0),
            "client_name": "fastws",
        }
        url = self.address.url
        if self.address.sentinels:
            host, port = await self._find_master()
            url = url.replace("{}", f"[{host}]:{port}" if ":" in host else f"{host}:{port}", 1)
        connection: AbstractConnection = _new_connection(url, options)
        if self._moved_to is not None:
            connection.host, connection.port = self._moved_to  # type: ignore[attr-defined]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            self.is_cluster = await _is_cluster(connection)
            if self.address.sentinels and (await ask(connection, "ROLE"))[0] != b"master":
                raise RelayLostError("the sentinels name a server that is no master yet")
        except BaseException:
            self._moved_to = None
            await disconnect(connection)
            raise
        return connection

    def follow(self, error: BaseException) -> None:
        """Connect to the node that Redis names in an error, if it names one."""
        if isinstance(error, ResponseError) and (found := _MOVED.search(str(error))):
            self._moved_to = found[1], int(found[2])

    async def watch_master(self, connection: AbstractConnection) -> None:
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

    async def _find_master(self) -> tuple[str, int]:
        sentinel = Sentinel(  # type: ignore[no-untyped-call]
            list(self.address.sentinels),
            sentinel_kwargs={
                "socket_connect_timeout": CONNECT_SECONDS,
                "socket_timeout": ANSWER_SECONDS,
                "password": self.address.sentinel_password,
                "protocol": 2,
                # Else one that is away is tried for seconds before the next one is asked.
                "retry": Retry(NoBackoff(), 0),
            },
        )
        try:
            host, port = await sentinel.discover_master(self.address.service)
            return str(host), int(port)
        finally:
            for client in sentinel.sentinels:
                await client.aclose()


async def ask(connection: AbstractConnection, *command: str) -> Any:
    await tell(connection, *command)
    return await connection.read_response()


async def tell(connection: AbstractConnection, *command: str) -> None:
    """Send a command, whose answer somebody else reads."""
    await connection.send_command(*command)
    end_if_cancelled()


def end_if_cancelled() -> None:
    """End the task that runs, if it is to end.

    Redis-py writes with `asyncio.wait_for`, which in Python 3.11 forgets a cancellation that comes as it is done, and
    makes errors of its own of others while it connects.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def disconnect(connection: AbstractConnection) -> None:
    try:
        await connection.disconnect(nowait=True)
    except Exception:
        # It was lost already, in one of many ways; whoever uses it has been told how.
        _log.debug("a connection to Redis was not closed in order", exc_info=True)


async def pubsub_limit(connection: AbstractConnection) -> int | None:
    """Bytes that may wait for a listener before Redis ends its connection at once; None: any number, or unknown."""
    try:
        _, text = await ask(connection, "CONFIG", "GET", "client-output-buffer-limit")
        words = text.decode().split()
        return int(words[words.index("pubsub") + 1]) or None
    except (ResponseError, ValueError, IndexError):
        return None  # one need not be allowed to ask, and not every server that talks like Redis has it


def is_about_the_message(error: ResponseError) -> bool:
    """Whether Redis refuses what it was sent just now, rather than everything, or everything for a while."""
    # The address of a node that has the channel now stands in its text.
    return (
        not isinstance(error, _PASSING)
        and _MOVED.search(str(error)) is None
        and not str(error).startswith(_PASSING_CODES)
    )


def is_refusal(error: Exception) -> bool:
    """Whether Redis is there, and does not want to do what it is asked."""
    return isinstance(error, (AuthenticationError, ResponseError)) or _is_refused_by_sentinel(error)


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
    return str(error)[:300] or type(error).__name__


def _is_refused_by_sentinel(error: BaseException) -> bool:
    return isinstance(error, MasterNotFoundError) and "AuthenticationError" in str(error)


def _new_connection(url: str, options: Mapping[str, Any]) -> AbstractConnection:
    """One of the kind that `url` asks for: over TCP, TLS or a Unix socket. It is not open yet."""
    pool = ConnectionPool.from_url(url, **options)
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    return connection


async def _is_cluster(connection: AbstractConnection) -> bool:
    try:
        return b"cluster_enabled:1" in await ask(connection, "INFO", "cluster")
    except ResponseError:
        return False  # the user may publish and subscribe, and not ask
