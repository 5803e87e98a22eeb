"""What links over an end of a socket have in common: to the parent of workers, or to another process of one server."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fastws.relay.exchange_ends import ExchangeEnd


class ExchangeLink:
    """Sends messages to channels over an `ExchangeEnd` and hears those of channels that are listened to.

    An `AnyLink`, as `RedisLink` is one, except that nobody hears what it has said itself. What is listened to is kept,
    and told to whichever end there is once it may be; see `_listener`.
    """

    is_detoured = False

    def __init__(
        self,
        end: ExchangeEnd | None,
        *,
        on_message: Callable[[bytes], None],
        on_change: Callable[[str | None], None],
        on_listening: Callable[[str], None],
    ) -> None:
        self.n_connects = 0
        # The other end takes all that it reads.
        self.n_refused = 0
        self._end = end
        self._on_message = on_message
        self._on_change = on_change
        self._on_listening = on_listening
        self._channels: dict[str, None] = {}
        self._is_started = False

    @property
    def is_up(self) -> bool:
        return self._is_started

    @property
    def n_dropped(self) -> int:
        return 0 if self._end is None else self._end.n_dropped

    @property
    def queue_size(self) -> int:
        return 0 if self._end is None else self._end.queue_size

    def start(self) -> None:
        self._is_started = True

    async def stop(self, seconds: float) -> None:
        """Bring away what waits, within `seconds`, and hear no more; the end stays open."""
        self._is_started = False
        if self._end is not None:
            await self._end.drain(seconds)
            for channel in self._channels:
                self._end.ignore(channel)

    def send(self, channel: str, data: bytes) -> None:
        if self._end is not None:
            self._end.send(channel, data)

    def listen(self, channels: Iterable[str]) -> None:
        for channel in channels:
            if channel not in self._channels:
                self._channels[channel] = None
                if (end := self._listener()) is not None:
                    self._listen(channel, end)

    def ignore(self, channels: Iterable[str]) -> None:
        for channel in channels:
            if channel in self._channels:
                del self._channels[channel]
                if self._end is not None:
                    self._end.ignore(channel)

    def is_listening(self, channel: str) -> bool:
        return self._end is None or self._end.is_listening(channel)

    def _listener(self) -> ExchangeEnd | None:
        """The end that is to be told now what is listened to."""
        return self._end

    def _listen_to_all(self, end: ExchangeEnd) -> None:
        for channel in self._channels:
            self._listen(channel, end)

    def _listen(self, channel: str, end: ExchangeEnd) -> None:
        end.listen(channel, self._on_message, lambda: self._on_listening(channel))

    def _note_up(self) -> None:
        self.n_connects += 1
        self._on_change(None)
