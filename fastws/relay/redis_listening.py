"""The connection to Redis by which messages come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ResponseError

from fastws._relay import MAX_ENVELOPE_SIZE
from fastws.feeds.together import run_together
from fastws.relay.redis_access import RedisAccess, RelayLostError, pubsub_limit, tell

REDIS_SILENCE_SECONDS: Final = 3.0
"""After how long without a message, where at least one's own come every second, the connection is given up. A process
that stands still does not hear: its time does not count."""

# Silence is counted in looks that are so long. One that ends late, because the process stood still, counts as one.
_LOOK_SECONDS: Final = 0.25
# Between two turns of the loop, while messages are there already.
_SLICE_SECONDS: Final = 0.002
# So many connections in a row that Redis ends soon after they could hear are no accident.
_SUSPICIOUS: Final = 3

_log = structlog.get_logger("fastws.relay")


class RedisListener:
    """Hears the channels that are wanted, over the connections that `use` is given one after the other.

    `on_open` is called when something can be heard by a connection; until it ends, `can_hear` is set. `on_listening`
    is called with each channel once Redis delivers what is sent to it.
    """

    def __init__(
        self,
        access: RedisAccess,
        *,
        on_message: Callable[[bytes], None],
        on_listening: Callable[[str], None],
        on_open: Callable[[], object],
    ) -> None:
        self.can_hear = asyncio.Event()
        self._access = access
        self._on_message = on_message
        self._on_listening = on_listening
        self._on_open = on_open
        self._wanted: dict[str, None] = {}
        self._listening: set[str] = set()
        self._changes = asyncio.Event()
        self._limit: int | None = None
        # Connections in a row that Redis has ended soon.
        self._n_ended = 0

    @property
    def first(self) -> str:
        """The channel that was wanted first; empty where there is none."""
        return next(iter(self._wanted), "")

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

    async def use(self, connection: AbstractConnection) -> None:
        """Hear by a connection until it fails.

        Raises:
            RedisError, RelayLostError, OSError, TimeoutError: it has.
        """
        await self._look_at_limit(connection)
        uses = [self._read(connection), self._subscribe(connection)]
        if self._access.address.sentinels:
            uses.append(self._access.watch_master(connection))
        began = time.monotonic()
        try:
            await run_together(*uses)
        except ResponseError as error:
            self._access.follow(error)
            raise
        except LostError as error:
            is_soon = time.monotonic() - began < REDIS_SILENCE_SECONDS
            self._n_ended = self._n_ended + 1 if is_soon and self.can_hear.is_set() else 0
            if self._limit is not None or self._n_ended >= _SUSPICIOUS:
                raise RelayLostError(self._why_ended()) from error
            raise
        finally:
            self.can_hear.clear()
            self._listening.clear()

    async def _look_at_limit(self, connection: AbstractConnection) -> None:
        limit = await pubsub_limit(connection)
        before, self._limit = self._limit, None if limit is None or limit > MAX_ENVELOPE_SIZE else limit
        if self._limit is not None and self._limit != before:
            _log.warning(
                "Redis may end connections to instances for one full message; raise its "
                "client-output-buffer-limit for pubsub to 32mb 8mb 60, which is its default",
                limit=self._limit,
                message=MAX_ENVELOPE_SIZE,
            )

    def _why_ended(self) -> str:
        if self._limit is None:
            return (
                f"Redis has ended {self._n_ended} connections in a row that listened; if its log names "
                "client-output-buffer-limit, raise that of pubsub, else see what is between here and there"
            )
        return (
            f"Redis has ended the connection, as it does where more than {self._limit} bytes wait: raise its "
            f"client-output-buffer-limit for pubsub, for one message may have {MAX_ENVELOPE_SIZE}"
        )

    async def _read(self, connection: AbstractConnection) -> None:
        turn_ends = time.monotonic() + _SLICE_SECONDS
        n_silent = 0
        while True:
            reply = await connection.read_response(timeout=_LOOK_SECONDS)
            if reply is None:
                n_silent += 1
                if n_silent * _LOOK_SECONDS >= REDIS_SILENCE_SECONDS:
                    raise RelayLostError(f"nothing was heard for {REDIS_SILENCE_SECONDS:g} s")
                continue
            n_silent = 0
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
            if not self.can_hear.is_set():
                self.can_hear.set()
                self._on_open()
            self._on_listening(channel)

    async def _subscribe(self, connection: AbstractConnection) -> None:
        """Tell Redis what is listened to, now and whenever that has changed."""
        prefix = "S" if self._access.is_cluster else ""
        told: set[str] = set()
        while True:
            self._changes.clear()
            wanted = set(self._wanted)
            # In the order in which they were asked for: the first ones are those that instances talk by.
            if added := [channel for channel in self._wanted if channel not in told]:
                await tell(connection, f"{prefix}SUBSCRIBE", *added)
            if gone := told - wanted:
                await tell(connection, f"{prefix}UNSUBSCRIBE", *gone)
            told = wanted
            await self._changes.wait()
