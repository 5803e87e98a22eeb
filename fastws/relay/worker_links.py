"""A worker's end of the exchange, and the relay's link over it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterable
from typing import Final, cast

import structlog

from fastws.relay.address import RedisAddress
from fastws.relay.exchange_frames import (
    ALIVE,
    IGNORE,
    LISTEN,
    LISTENING,
    MESSAGE,
    Frame,
    FrameError,
    Splitter,
    encode,
)
from fastws.relay.links import QUEUE_SIZE
from fastws.relay.outbox import Outbox

PARENT_SILENCE_SECONDS: Final = 3.0
"""After how long without a word of the parent, who says one every second, it counts as away."""

_LOOK_SECONDS: Final = 0.5

ADDRESS: Final = RedisAddress("", "the parent of the workers", 0)
"""Where the relay of workers is that have no other."""

_log = structlog.get_logger("fastws.relay")


class ExchangeEnd(asyncio.Protocol):
    """A worker's end of its pair of sockets; see `fastws.relay.exchange`. Belongs to the thread of the event loop.

    1. Sending never waits. While the parent does not read, up to `queue_limit` bytes of messages wait; beyond, the
       oldest are dropped and counted. What is told to the parent itself is little, and not among them.
    2. What the parent says to this worker goes to `on_frame`, and `on_lost` is called once when the parent is gone.
    3. While the parent is not heard, `is_up` is false; `on_change` is told whenever that changes. The parent hears of
       this end twice a second.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_frame: Callable[[Frame], object],
        on_lost: Callable[[], object],
        queue_limit: int = QUEUE_SIZE,
    ) -> None:
        self.is_up = False
        self.on_change: list[Callable[[bool], object]] = []
        self._sock = sock
        self._on_frame = on_frame
        self._on_lost = on_lost
        # Whole frames: what the transport was given cannot be taken back.
        self._outbox: Outbox[bytes] = Outbox(queue_limit)
        self._splitter = Splitter()
        self._transport: asyncio.Transport | None = None
        self._channels: dict[bytes, tuple[Callable[[bytes], object], Callable[[], object]]] = {}
        self._listening: set[bytes] = set()
        self._heard_at = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._is_paused = False
        self._is_drained = asyncio.Event()
        self._is_drained.set()

    async def open(self) -> None:
        """Begin to hear. What was listened to before is told to the parent now."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=self._sock)

    def close(self) -> None:
        self._is_closing = True
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.close()

    @property
    def queue_size(self) -> int:
        """Bytes that the parent has not read yet."""
        return self._outbox.size + (0 if self._transport is None else self._transport.get_write_buffer_size())

    @property
    def n_dropped(self) -> int:
        return self._outbox.n_dropped

    def send(self, channel: str, data: bytes) -> None:
        """Say something to all others who listen to a channel."""
        frame = encode(MESSAGE, channel.encode(), data)
        self._outbox.put(frame, len(frame))
        self._send()

    def tell(self, kind: int, channel: bytes = b"", data: bytes = b"") -> None:
        """Say something to the parent, before all messages that wait."""
        if (transport := self._open_transport()) is not None:
            transport.write(encode(kind, channel, data))

    def _send(self) -> None:
        transport = self._open_transport()
        # It pauses as soon as the kernel takes no more.
        while transport is not None and not self._is_paused and (taken := self._outbox.take(1, 1)):
            self._outbox.settled(taken[0])
            transport.write(taken[0][0])

    def _open_transport(self) -> asyncio.Transport | None:
        transport = self._transport
        return None if transport is None or transport.is_closing() else transport

    def listen(
        self,
        channel: str,
        on_message: Callable[[bytes], object],
        on_listening: Callable[[], object] = lambda: None,
    ) -> None:
        """Hear what others say on a channel; `on_listening` is called once nothing of it is missed any more."""
        name = channel.encode()
        if name not in self._channels:
            self._channels[name] = on_message, on_listening
            self.tell(LISTEN, name)

    def ignore(self, channel: str) -> None:
        name = channel.encode()
        if self._channels.pop(name, None) is not None:
            self._listening.discard(name)
            self.tell(IGNORE, name)

    def is_listening(self, channel: str) -> bool:
        return channel.encode() in self._listening

    async def drain(self, seconds: float) -> None:
        """Wait until the parent has read everything, for `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._is_drained.wait()
        except TimeoutError:
            pass  # it is not there, and nobody else would hear it

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=0)
        for name in self._channels:
            self.tell(LISTEN, name)
        self._send()
        self._heard()
        self._look()

    def data_received(self, data: bytes) -> None:
        self._heard()
        try:
            frames = self._splitter.feed(data)
        except FrameError as error:
            _log.error(
                "what comes from another process makes no sense, and it is let go of", error=str(error)
            )
            if (transport := self._open_transport()) is not None:
                transport.abort()
            return
        for frame in frames:
            if frame.kind == MESSAGE:
                if (known := self._channels.get(frame.channel)) is not None:
                    known[0](frame.data)
            elif frame.kind == LISTENING:
                if (known := self._channels.get(frame.channel)) is not None:
                    self._listening.add(frame.channel)
                    known[1]()
            else:
                self._on_frame(frame)

    def pause_writing(self) -> None:
        self._is_paused = True
        self._is_drained.clear()

    def resume_writing(self) -> None:
        self._is_paused = False
        self._send()
        if not self._is_paused:
            self._is_drained.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_drained.set()
        self._set_up(False)
        if not self._is_closing:
            self.close()
            self._on_lost()

    # Silence.

    def _heard(self) -> None:
        self._heard_at = time.monotonic()
        if not self.is_up and not self._is_closing:
            self._set_up(True)

    def _look(self) -> None:
        if self.is_up and time.monotonic() - self._heard_at > PARENT_SILENCE_SECONDS:
            self._set_up(False)
        self.tell(ALIVE)
        self._watch = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _set_up(self, is_up: bool) -> None:
        if self.is_up != is_up:
            self.is_up = is_up
            for tell in list(self.on_change):
                tell(is_up)


class WorkerLink:
    """Sends messages to channels of the exchange and hears those of channels that are listened to.

    An `AnyLink`, as `RedisLink` is one, except that nobody hears what it has said itself.
    """

    def __init__(
        self,
        end: ExchangeEnd,
        *,
        on_message: Callable[[bytes], None],
        on_change: Callable[[str | None], None],
        on_listening: Callable[[str], None],
    ) -> None:
        self.n_connects = 0
        # The parent takes all that it reads.
        self.n_refused = 0
        self._end = end
        self._on_message = on_message
        self._on_change = on_change
        self._on_listening = on_listening
        self._channels: dict[str, None] = {}
        self._is_started = False

    @property
    def is_up(self) -> bool:
        return self._is_started and self._end.is_up

    @property
    def n_dropped(self) -> int:
        return self._end.n_dropped

    @property
    def queue_size(self) -> int:
        return self._end.queue_size

    def start(self) -> None:
        self._is_started = True
        self._end.on_change.append(self._note)
        for channel in self._channels:
            self._listen(channel)
        if self._end.is_up:
            self._note(True)

    async def stop(self, seconds: float) -> None:
        """Bring away what waits, within `seconds`, and hear no more; the end stays open."""
        if not self._is_started:
            return
        self._is_started = False
        self._end.on_change.remove(self._note)
        await self._end.drain(seconds)
        for channel in self._channels:
            self._end.ignore(channel)

    def send(self, channel: str, data: bytes) -> None:
        self._end.send(channel, data)

    def listen(self, channels: Iterable[str]) -> None:
        for channel in channels:
            if channel not in self._channels:
                self._channels[channel] = None
                if self._is_started:
                    self._listen(channel)

    def ignore(self, channels: Iterable[str]) -> None:
        for channel in channels:
            if channel in self._channels:
                del self._channels[channel]
                self._end.ignore(channel)

    def is_listening(self, channel: str) -> bool:
        return self._end.is_listening(channel)

    def _listen(self, channel: str) -> None:
        self._end.listen(channel, self._on_message, lambda: self._on_listening(channel))

    def _note(self, is_up: bool) -> None:
        if is_up:
            self.n_connects += 1
            self._on_change(None)
        else:
            self._on_change(f"the parent has said nothing for {PARENT_SILENCE_SECONDS:g} s")
