"""The relay's link between two processes of one server, one of which takes over from the other.

There is no parent between them as between workers: the two hold the ends of one Unix socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Final

from fastws.relay.address import RedisAddress
from fastws.relay.exchange_frames import ALIVE, IGNORE, LISTEN, LISTENING, Frame
from fastws.relay.worker_links import ExchangeEnd

ADDRESS: Final = RedisAddress("", "another process of this server", 0)
"""Where the relay of a server is that has no other and lets itself be taken over."""


class PairEnd(ExchangeEnd):
    """An end of the socket. Belongs to the thread of the event loop.

    It tells the other end what is said on channels to which that listens, and `on_frame` what is no matter of channels.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_frame: Callable[[Frame], object],
        on_lost: Callable[[], object],
    ) -> None:
        super().__init__(sock, on_frame=self._take, on_lost=on_lost)
        self._pair_sock = sock
        self._on_other = on_frame
        self._theirs: set[bytes] = set()
        self._has_heard = False
        # Whether the other end has said anything at all.
        self.has_spoken = False
        self._is_over = False

    async def open(self) -> None:
        await super().open()
        if self._is_over:
            # The other end was gone at once. The loop has closed the descriptor and may not have said so to the socket,
            # which would close the one that has its number by then.
            self._pair_sock.detach()

    def connection_lost(self, error: Exception | None) -> None:
        self._is_over = True
        super().connection_lost(error)

    def send(self, channel: str, data: bytes) -> None:
        # Until it has said what it listens to, it may be anything; it leaves out the rest.
        if not self._has_heard or channel.encode() in self._theirs:
            super().send(channel, data)

    def _take(self, frame: Frame) -> None:
        self.has_spoken = True
        if frame.kind == LISTEN:
            self._has_heard = True
            self._theirs.add(frame.channel)
            self.tell(LISTENING, frame.channel)
        elif frame.kind == IGNORE:
            self._theirs.discard(frame.channel)
        elif frame.kind != ALIVE:
            self._on_other(frame)


class PairLink:
    """The relay's link over whichever `PairEnd` is attached; an `AnyLink`, as `RedisLink` is one.

    It is always up: without another process there is nobody who could be missed, and nothing is waited for.
    """

    def __init__(
        self,
        *,
        on_message: Callable[[bytes], None],
        on_change: Callable[[str | None], None],
        on_listening: Callable[[str], None],
    ) -> None:
        self.n_connects = 0
        # The other end takes all that it reads.
        self.n_refused = 0
        self._on_message = on_message
        self._on_change = on_change
        self._on_listening = on_listening
        self._channels: dict[str, None] = {}
        self._is_started = False
        self._end: PairEnd | None = None
        self._n_dropped_before = 0

    @property
    def is_up(self) -> bool:
        return self._is_started

    @property
    def n_dropped(self) -> int:
        return self._n_dropped_before + (0 if self._end is None else self._end.n_dropped)

    @property
    def queue_size(self) -> int:
        return 0 if self._end is None else self._end.queue_size

    def attach(self, end: PairEnd) -> None:
        """Go over `end` from now on, which is open."""
        self._end = end
        for channel in self._channels:
            self._listen(channel, end)
        self._note_up()

    def detach(self) -> None:
        """Be alone from now on."""
        self._n_dropped_before = self.n_dropped
        self._end = None

    def start(self) -> None:
        self._is_started = True
        self._note_up()

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
                if self._end is not None:
                    self._listen(channel, self._end)

    def ignore(self, channels: Iterable[str]) -> None:
        for channel in channels:
            if self._channels.pop(channel, self) is None and self._end is not None:
                self._end.ignore(channel)

    def is_listening(self, channel: str) -> bool:
        return self._end is None or self._end.is_listening(channel)

    def _listen(self, channel: str, end: PairEnd) -> None:
        end.listen(channel, self._on_message, lambda: self._on_listening(channel))

    def _note_up(self) -> None:
        self.n_connects += 1
        self._on_change(None)
