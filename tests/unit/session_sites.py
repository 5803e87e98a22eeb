"""Instances whose sessions move, joined within the process: their clock stands still until the test moves it, and what
one of them says can be held back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, cast

from fastws._core import Dialect, Hub
from fastws._market import Instrument, PriceUpdate, encode_screener
from fastws.dialects.clients import Arrival, Client
from fastws.dialects.holdings import Holdings
from fastws.dialects.mail import Mail
from fastws.dialects.presence import Presence
from fastws.dialects.takeover import Takeover
from fastws.limits import Limits
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.relay.address import RedisAddress
from fastws.relay.control import Announcement, ControlError, decode
from fastws.relay.relay import Relay
from fastws.relay.session_messages import SessionAnswer
from fastws.server.shared_alerts import SharedAlerts
from fastws.sessions import Session, Sessions
from tests.relays import until

CODES = ("A", "B", "C")
NOTHING = Arrival()
"""What a client says of itself that has counted nothing."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Wire:
    """What the relays are joined by. `held` are messages of those who are held back; `is_lost` drops a message."""

    def __init__(self) -> None:
        self.links: list[WireLink] = []
        self.is_lost: Callable[[bytes], bool] = lambda data: False

    def carry(self, sender: WireLink, channel: str, data: bytes) -> None:
        if sender not in self.links:
            return  # it was killed
        for link in self.links:
            if link is not sender and channel in link.channels and not self.is_lost(data):
                asyncio.get_running_loop().call_soon(link.on_message, data)


class WireLink:
    """An end of it; see `AnyLink`. While it `is_held` it neither hears nor says anything, and does so afterwards."""

    is_up = True
    is_detoured = False
    n_connects = 1
    n_dropped = 0
    n_refused = 0
    queue_size = 0
    n_sent = 0

    def __init__(self, wire: Wire, **callbacks: Any) -> None:
        self.wire = wire
        self.channels: set[str] = set()
        self.is_held = False
        self._on_message: Callable[[bytes], None] = callbacks["on_message"]
        self._on_change = callbacks["on_change"]
        self._on_listening = callbacks["on_listening"]
        self._waiting: list[Callable[[], None]] = []
        wire.links.append(self)

    def start(self) -> None:
        self._on_change(None)

    async def stop(self, seconds: float) -> None:
        if self in self.wire.links:
            self.wire.links.remove(self)

    def send(self, channel: str, data: bytes) -> None:
        self.n_sent += 1
        if self.is_held:
            self._waiting.append(lambda: self.wire.carry(self, channel, data))
        else:
            self.wire.carry(self, channel, data)

    def on_message(self, data: bytes) -> None:
        if self.is_held:
            self._waiting.append(lambda: self._on_message(data))
        else:
            self._on_message(data)

    def let_go(self) -> None:
        self.is_held = False
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each()

    def listen(self, channels: Iterable[str]) -> None:
        for channel in channels:
            self.channels.add(channel)
            asyncio.get_running_loop().call_soon(self._on_listening, channel)

    def ignore(self, channels: Iterable[str]) -> None:
        self.channels.difference_update(channels)

    def is_listening(self, channel: str) -> bool:
        return channel in self.channels


class Asker:
    """As much of a client as a claim needs."""

    connection_id = "another"
    is_admitted = True

    def __init__(self, user_key: str | None = None) -> None:
        self.user_key = user_key
        self.arrival = Arrival(address_key="1.2.3.4")
        self.found: Session | str | None = None
        self.error: Exception | None = None

    def guarded(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception as error:
            self.error = error

    def take(self, found: Session | str) -> None:
        assert self.found is None, "it is told once"
        self.found = found


class Site:
    """A market whose sessions move; what it publishes goes into its hub's history."""

    def __init__(
        self,
        wire: Wire,
        clock: Callable[[], float],
        codes: Iterable[str] = CODES,
        *,
        interval_ms: int = 1,
    ) -> None:
        self.hub = Hub(asyncio.get_running_loop(), epoch=f"{id(self):x}", interval_ms=0, history_size=1 << 20)
        self.market = Market(self.hub, Instruments([Instrument(code, None, "KOSPI") for code in CODES]))
        self.clock = clock
        self.sessions = Sessions()
        presence = Presence(Limits(), connections_per_user=0, evicts_oldest=False)
        self.takeover = Takeover(self.hub, self.sessions, presence)
        self.mail = Mail(self.hub, self.sessions, presence.by_user, limit_per_user=100)
        self.relay = Relay(
            self.hub,
            self.market,
            Dialect("screener", encode_screener),
            RedisAddress("", "a wire", 0),
            name=f"site {id(self):x}",
            prefix="test",
            n_shards=1,
            interval_ms=interval_ms,
            history_bytes=1 << 20,
            wanted=lambda: codes,
            clock=clock,
            link=lambda **callbacks: WireLink(wire, **callbacks),
        )
        self.claims = self.relay.join_sessions(
            Holdings(self.sessions, presence, self.takeover), self.mail, limit=1 << 20
        )
        self.takeover.elsewhere = self.claims
        self.alerts = SharedAlerts(self.relay, self.mail, self.sessions.has_user)
        self.mail.on_told = self.alerts.on_told
        self.relay.start()

    @property
    def link(self) -> WireLink:
        return cast(WireLink, self.relay.link)

    def publish(self, code: str, number: int) -> None:
        self.market.publish_price(PriceUpdate(self.market.ensure_instrument(code), number))

    def hold(
        self, session_id: str, *codes: str, user_key: str | None = None, moves: int = 0, **options: bool
    ) -> None:
        """Have a session of a client that has seen everything until now."""
        self.sessions.save(
            Session(
                session_id,
                user_key,
                {self.hub.topic("stock", code): self.hub.options(**options) for code in codes},
                False,
                self.hub.sequence,
                self.hub.epoch,
                time.monotonic(),
                heard=self.hub.sequence,
                moves=moves,
            )
        )

    def last(self, code: str) -> int:
        update = self.market.last_price(code)
        return 0 if update is None else int(update.price)

    def untold(self, user_key: str) -> list[int]:
        """The thresholds of what nobody has heard of what is kept for a user."""
        boxes = self.mail.mailboxes
        kept = boxes.take_untold(user_key, time.monotonic())
        for one in kept:
            boxes.keep(user_key, one, time.monotonic(), is_told=False)
        return [int(one.payload.threshold) for one in kept]

    def ask(self, session_id: str, user_key: str | None = None, arrival: Arrival = NOTHING) -> Asker:
        """A client comes with a session."""
        asker = Asker(user_key)
        self.takeover.find(cast(Client, asker), session_id, arrival, asker.take)
        return asker

    def missed(self, session: Session | str | None) -> list[int] | None:
        """How many updates a client that takes a session over is to get, by topic; None: nobody knows."""
        assert isinstance(session, Session)
        found = self.takeover.starts_of(session)
        if found is None:
            return None
        cursor, starts = found
        return [
            self.hub.count_missed({topic: options}, cursor, starts)[0]
            for topic, options in session.subscriptions.items()
        ]


async def pass_time(clock: Clock, seconds: float, *sites: Site) -> None:
    """Let time go by in steps, in which everybody does what is to be done and all that is said is heard."""
    for _ in range(round(seconds / 0.1)):
        clock.now += 0.1
        for site in sites:
            if site.relay.sessions is not None:
                site.relay.sessions.look(site.clock())
        await settle()


async def settle() -> None:
    """Let the loop run until what was said in it has been heard."""
    for _ in range(5):
        await asyncio.sleep(0)


def is_answer(data: bytes) -> bool:
    """Whether a message says what becomes of a claim."""
    return _is(SessionAnswer, data)


def is_announcement(data: bytes) -> bool:
    """Whether an instance says that it is there."""
    return _is(Announcement, data)


def _is(kind: type, data: bytes) -> bool:
    if data[:3] == b"FWR":
        return False
    try:
        return isinstance(decode(data), kind)
    except ControlError:
        return False


@asynccontextmanager
async def sites(
    n: int = 2,
    codes: Iterable[str] = CODES,
    *,
    interval_ms: int = 1,
    clock_of: Callable[[Clock], Callable[[], float]] = lambda clock: clock,
) -> AsyncIterator[tuple[Wire, Clock, list[Site]]]:
    """Some that know each other and hear each other's values; `clock_of` makes what each goes by."""
    wire, clock = Wire(), Clock()
    all_of_them = [Site(wire, clock_of(clock), codes, interval_ms=interval_ms) for _ in range(n)]
    try:
        await until(lambda: all(len(site.relay.peers) == n - 1 for site in all_of_them))
        clock.now += 0.2
        await until(lambda: not any(site.relay.missing("stock", codes) for site in all_of_them))
        yield wire, clock, all_of_them
    finally:
        for site in all_of_them:
            site.link.is_held = False
            if site.link in wire.links:
                await site.relay.stop()
            site.hub.stop()


async def known(site: Site, n: int = 1) -> None:
    """Wait until an instance knows of `n` sessions of others."""
    await until(lambda: len(site.claims.sessions) == n)
