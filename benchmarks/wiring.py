"""A hub, its market and connections on real sockets, with a loop that turns when it is told to."""

from __future__ import annotations

import asyncio
import functools
import logging
import resource
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uvloop

from fastws._core import Connection, Dialect, Hub, Options, Topic
from fastws._frames import FrameReader
from fastws._market import Instrument, PriceUpdate
from fastws.deflate import compress
from fastws.dialects.screener import encode
from fastws.market.instruments import Instruments
from fastws.market.market import Market

if TYPE_CHECKING:
    from fastws._core import Handler

PUBLISHED_MS = 1_762_819_200_000

_quiet = logging.getLogger("fastws.benchmarks")


def instrument(number: int) -> Instrument:
    return Instrument(f"{number:06d}", f"Company {number}", "KOSPI", f"Sector {number % 20}", 72_000, "KRW")


def price_of(instrument: Instrument, number: int) -> PriceUpdate:
    """A price as a KIS trade has it; each `number` gives another one."""
    return PriceUpdate(
        instrument,
        72_000 + number % 997,
        change=number % 997,
        change_percent=f"{number % 30}.{number % 100:02d}",
        volume=12_345_678 + number,
        trade_volume=1 + number % 500,
        high=73_000,
        low=71_000,
        venue="KRX",
        quality="realtime",
        event_time_ms=PUBLISHED_MS,
    )


class Turns:
    """What the core asks of an event loop, without the loop: callbacks run when `turn` is called, timers when asked.

    So a measurement holds the work of the core and no waiting.
    """

    class _Timer:
        def __init__(self, callback: Callable[[], object]) -> None:
            self.callback: Callable[[], object] | None = callback

        def cancel(self) -> None:
            self.callback = None

    def __init__(self) -> None:
        self._ready: deque[Callable[[], object]] = deque()
        self._timer: Turns._Timer | None = None

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        self._ready.append(functools.partial(callback, *arguments) if arguments else callback)

    def call_later(self, delay: float, callback: Callable[..., object], *arguments: object) -> _Timer:
        self._timer = self._Timer(
            functools.partial(callback, *arguments)
        )  # the newest replaces those before it
        return self._timer

    def ring(self) -> None:
        """Run the newest timer, whether its time has come or not."""
        timer, self._timer = self._timer, None
        if timer is not None and timer.callback is not None:
            timer.callback()

    def turn(self) -> None:
        """Run what is due, and what that asks to be run next, until nothing is."""
        ready = self._ready
        while ready:
            ready.popleft()()


class Echo:
    """Sends back what it gets."""

    def on_open(self, connection: Connection) -> None:
        pass

    def on_message(self, connection: Connection, data: bytes, is_text: bool) -> None:
        connection.send_control(data)

    def on_rate_limited(self, connection: Connection) -> None:
        connection.send_control(b"slower")

    def on_close(self, connection: Connection, code: int) -> None:
        pass


class Wiring:
    """Connections as in the server, each on a uvloop transport over one end of a socketpair; the kernel's part is that
    of a Unix socket, which is less than that of TCP. The other ends are read by `drain`, outside of what is timed.

    What is published after `drain` leaves with the next turn, as one batch for each cohort, as after a quiet interval;
    the governor never has the flusher rest.
    """

    def __init__(self, **settings: Any) -> None:
        self.turns = Turns()
        settings = {"interval_ms": 30, "flush_share": 1.0, "rate_limit": 0, "compress": compress} | settings
        self.hub = Hub(self.turns, epoch="benchmark", logger=_quiet, **settings)  # type: ignore[arg-type]
        self.market = Market(self.hub, Instruments([]))
        self.dialect = Dialect("screener", encode, 0)
        self.peers: list[socket.socket] = []
        self._loop = uvloop.new_event_loop()

    def connect(
        self, n: int = 1, *, window_bits: int = 0, handler: Handler | None = None, context: object = None
    ) -> list[Connection]:
        """Open `n` connections; their other ends are the last `n` of `peers`. `handler` defaults to `Echo`."""
        opened: list[Connection] = []

        class Front(asyncio.Protocol):
            def connection_made(front, transport: Any) -> None:  # noqa: N805
                connection = Connection(
                    self.hub,
                    transport,
                    handler or Echo(),
                    self.dialect,
                    max_message_size=65536,
                    window_bits=window_bits,
                )
                connection.context = context
                connection.open()
                opened.append(connection)

        async def open_all() -> None:
            for _ in range(n):
                near, far = socket.socketpair()
                near.setblocking(False)
                far.setblocking(False)
                self.peers.append(far)
                await self._loop.create_unix_connection(Front, sock=near)

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = 2 * (len(self.peers) + n) + 100
        if soft < needed <= hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
        self._loop.run_until_complete(open_all())
        assert len(opened) == n
        return opened

    def subscribe(self, connection: Connection, codes: list[str], **options: Any) -> dict[Topic, Options]:
        wanted = {self.hub.topic("stock", code): self.hub.options(**options) for code in codes}
        connection.set_subscriptions(wanted)
        return wanted

    def publish(self, updates: list[PriceUpdate]) -> None:
        for update in updates:
            self.market.publish_price(update)

    def turn(self) -> None:
        self.turns.turn()

    def drain(self) -> list[bytes]:
        """Return what each other end has received since the last time; every cohort's interval is over then."""
        self.hub.flusher.flush_all()
        self.turn()
        while not self.hub.flusher.is_idle:
            # When the machine stands still within a flush, the flusher may take it for work, and rests for it.
            time.sleep(0.001)
            self.turns.ring()
            self.turn()
        return [_all_of(peer) for peer in self.peers]

    def close(self) -> None:
        self.hub.stop()
        for connection in self.hub.connection_list():
            connection.transport.abort()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.run_until_complete(asyncio.sleep(0))
        for peer in self.peers:
            peer.close()
        self._loop.close()


def _all_of(peer: socket.socket) -> bytes:
    pieces: list[bytes] = []
    while True:
        try:
            piece = peer.recv(1 << 18)
        except BlockingIOError:
            return b"".join(pieces)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


def messages_of(data: bytes) -> list[bytes]:
    """The messages in what a client has received, compressed ones as they came."""
    events = FrameReader(is_client=True, max_message_size=16 << 20, rsv_allowed=0x40).feed(data)
    assert all(event[0] == "message" for event in events)
    return [event[3] for event in events if event[0] == "message"]
