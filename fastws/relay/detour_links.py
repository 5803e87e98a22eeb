"""The link of a relay with a Redis, and another way to a process that takes over from this one while Redis is away."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastws.relay.address import RedisAddress
from fastws.relay.pair_links import PairEnd, PairLink
from fastws.relay.redis_links import RedisLink


class DetourLink:
    """A `RedisLink` that may be given a second way, to another process of this server; an `AnyLink`.

    1. Until :meth:`attach` all goes over Redis. From then on, until :meth:`detach`, all is said both ways. What is
       heard twice is taken once, as where Redis is sent something again because its answer was lost.
    2. While there is a second way and no Redis, the link is up, `is_detoured`, and reaches the other process alone.
    """

    is_only_way = False

    def __init__(
        self,
        address: RedisAddress,
        *,
        on_message: Callable[[bytes], None],
        on_change: Callable[[str | None], None],
        on_listening: Callable[[str], None],
    ) -> None:
        self._on_change = on_change
        # Why Redis is away, as far as it was.
        self._reason = "it was not reached yet"
        self._redis = RedisLink(
            address, on_message=on_message, on_change=self._note_redis, on_listening=on_listening
        )
        self._pair = PairLink(on_message=on_message, on_change=lambda reason: None, on_listening=on_listening)

    @property
    def is_up(self) -> bool:
        return self._redis.is_up or self._pair.is_attached

    @property
    def is_detoured(self) -> bool:
        return self._pair.is_attached and not self._redis.is_up

    @property
    def n_connects(self) -> int:
        return self._redis.n_connects

    @property
    def n_dropped(self) -> int:
        return self._redis.n_dropped + self._pair.n_dropped

    @property
    def n_refused(self) -> int:
        return self._redis.n_refused

    @property
    def queue_size(self) -> int:
        # What waits for a Redis that is away is no reason to be slow with what can be said.
        return self._pair.queue_size if self.is_detoured else self._redis.queue_size

    def attach(self, end: PairEnd) -> None:
        """Go over `end`, too, which is open."""
        self._pair.attach(end)
        if not self._redis.is_up:
            self._on_change(None)

    def detach(self) -> None:
        """Go over Redis alone from now on."""
        if self._pair.is_attached:
            self._pair.detach()
            if not self._redis.is_up:
                self._on_change(self._reason)

    def start(self) -> None:
        self._pair.start()
        self._redis.start()

    async def stop(self, seconds: float) -> None:
        await self._pair.stop(seconds)
        await self._redis.stop(seconds)

    def send(self, channel: str, data: bytes) -> None:
        self._redis.send(channel, data)
        self._pair.send(channel, data)

    def listen(self, channels: Iterable[str]) -> None:
        names = list(channels)
        self._redis.listen(names)
        self._pair.listen(names)

    def ignore(self, channels: Iterable[str]) -> None:
        names = list(channels)
        self._redis.ignore(names)
        self._pair.ignore(names)

    def is_listening(self, channel: str) -> bool:
        return (self._pair if self.is_detoured else self._redis).is_listening(channel)

    def _note_redis(self, reason: str | None) -> None:
        if reason is not None:
            self._reason = reason
        if reason is None or not self._pair.is_attached:
            self._on_change(reason)
