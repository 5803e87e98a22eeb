"""The relay's link between two processes of one server, one of which takes over from the other.

There is no parent between them as between workers: the two hold the ends of one Unix socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from fastws.relay.address import RedisAddress
from fastws.relay.exchange_ends import ExchangeEnd
from fastws.relay.exchange_frames import ALIVE, IGNORE, LISTEN, LISTENING, Frame
from fastws.relay.exchange_links import ExchangeLink

if TYPE_CHECKING:
    from fastws.relay.relay import Relay

ADDRESS: Final = RedisAddress("", "", 0)
"""Where the relay of a server is that has no other and lets itself be taken over: nowhere that could be away."""


class PairEnd(ExchangeEnd):
    """An end of the socket, see `ExchangeEnd`. Belongs to the thread of the event loop.

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


@runtime_checkable
class PairedLink(Protocol):
    """An `AnyLink` that goes over a `PairEnd` while there is one; `is_only_way`: it has no other."""

    is_only_way: bool

    def attach(self, end: PairEnd, /) -> None: ...

    def detach(self) -> None: ...


class PairLink(ExchangeLink):
    """The relay's link over whichever `PairEnd` is attached.

    It is always up: without another process there is nobody who could be missed, and nothing is waited for.
    """

    is_only_way = True

    def __init__(
        self,
        *,
        on_message: Callable[[bytes], None],
        on_change: Callable[[str | None], None],
        on_listening: Callable[[str], None],
    ) -> None:
        super().__init__(None, on_message=on_message, on_change=on_change, on_listening=on_listening)
        self._n_dropped_before = 0

    @property
    def n_dropped(self) -> int:
        return self._n_dropped_before + super().n_dropped

    @property
    def is_attached(self) -> bool:
        """Whether there is another process."""
        return self._end is not None

    def attach(self, end: PairEnd) -> None:
        """Go over `end` from now on, which is open."""
        self._end = end
        self._listen_to_all(end)
        self._note_up()

    def detach(self) -> None:
        """Be alone from now on."""
        self._n_dropped_before = self.n_dropped
        self._end = None

    def start(self) -> None:
        super().start()
        self._note_up()


def attach(relay: Relay, end: PairEnd, *, is_relay_away: bool) -> None:
    """Let `relay` go over `end`. One that has a Redis does so only where that is away."""
    if isinstance(relay.link, PairedLink) and (relay.link.is_only_way or is_relay_away):
        relay.link.attach(end)


def detach(relay: Relay | None, origin: int = 0) -> None:
    """The other process is gone, whatever it has said last; `origin` is what it was at the relay, if that is known."""
    if relay is None or not isinstance(relay.link, PairedLink):
        return
    relay.link.detach()
    gone = [peer.origin for peer in relay.peers] if relay.link.is_only_way else [origin]
    for each in gone:
        relay.meetings.end(each)
