"""An end of a socket over which processes of one server say to each other what is for the relay."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, cast

import structlog

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

SILENCE_SECONDS: Final = 3.0
"""After how long without a word of the other end, which says one at least every second, it counts as away."""

_LOOK_SECONDS: Final = 0.5

_log = structlog.get_logger("fastws.relay")


class ExchangeEnd(asyncio.Protocol):
    """One of the two ends. Belongs to the thread of the event loop.

    At the other one is the parent of workers (see `fastws.relay.exchange`), or another process of this server (see
    `fastws.relay.pair_links`).

    1. Sending never waits. While the other end does not read, up to `queue_limit` bytes of messages wait; beyond, the
       oldest are dropped and counted. What is told to the process there itself is little, and not among them.
    2. What it says that is no message of a channel goes to `on_frame`, and `on_lost` is called once when it is gone.
    3. While it is not heard, `is_up` is false; `on_change` is told whenever that changes. It hears of this end twice a
       second.
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
        # Looks, which a process that stands still does not take: that time is not the other's.
        self._n_silent = 0
        self._watch: asyncio.TimerHandle | None = None
        self._is_closing = False
        self._is_paused = False
        self._is_drained = asyncio.Event()
        self._is_drained.set()

    async def open(self) -> None:
        """Begin to hear. What was listened to before is told now."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=self._sock)

    def close(self) -> None:
        self._is_closing = True
        if self._watch is not None:
            self._watch.cancel()
        if self._transport is not None:
            self._transport.close()

    @property
    def queue_size(self) -> int:
        """Bytes that the other end has not read yet."""
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
        """Say something to the process at the other end, before all messages that wait."""
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
        """Wait until the other end has read everything, for `seconds` at most."""
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
        self._n_silent = 0
        if not self.is_up and not self._is_closing:
            self._set_up(True)

    def _look(self) -> None:
        if self.is_up and self._n_silent * _LOOK_SECONDS >= SILENCE_SECONDS:
            self._set_up(False)
        self._n_silent += 1
        self.tell(ALIVE)
        self._watch = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _set_up(self, is_up: bool) -> None:
        if self.is_up != is_up:
            self.is_up = is_up
            for tell in list(self.on_change):
                tell(is_up)
