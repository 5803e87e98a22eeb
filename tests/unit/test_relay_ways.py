"""What is sent and received between instances, without anything between them: what is kept, asked for and let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack

import pytest

from fastws._core import Dialect, Hub
from fastws._market import Instrument, PriceUpdate, encode_screener
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.relay import receiving
from fastws.relay.carrier import Carrier
from fastws.relay.channels import Channels
from fastws.relay.control import TablePart, ValuesRequest, decode
from fastws.relay.counts import RelayCounts
from fastws.relay.interest import ShardInterest
from fastws.relay.peers import Peers
from fastws.relay.receiving import Receiving
from fastws.relay.sending import Sending
from fastws.relay.sharing import MIN_CHANGED, Sharing
from tests.relays import until

INTERVAL = 0.02


class Wire:
    """What was sent, in place of what brings it to others."""

    n_connects, n_dropped, n_refused, queue_size = 1, 0, 0, 0

    def __init__(self) -> None:
        self.is_up = True
        self.sent: list[tuple[str, bytes]] = []

    def start(self) -> None: ...

    async def stop(self, seconds: float) -> None: ...

    def send(self, channel: str, data: bytes) -> None:
        self.sent.append((channel, data))

    def listen(self, channels: Iterable[str]) -> None: ...

    def ignore(self, channels: Iterable[str]) -> None: ...

    def is_listening(self, channel: str) -> bool:
        return True

    def take(self) -> list[bytes]:
        sent, self.sent = self.sent, []
        return [data for _, data in sent]


class Site:
    """An instance as far as it sends and receives, with a clock that stands still."""

    def __init__(self, origin: int) -> None:
        self.now = 100.0
        self.wire = Wire()
        self.hub = Hub(asyncio.get_running_loop(), epoch="test", interval_ms=0)
        self.market = Market(self.hub, Instruments([Instrument("A")]))
        self.counts = RelayCounts()
        self.channels = Channels("test", 0, 1)
        self.peers = Peers(self.clock)
        self.sending = Sending(
            self.hub,
            Dialect("screener", encode_screener),
            self.wire,
            self.channels,
            self.counts,
            origin=origin,
            n_shards=1,
            interval=INTERVAL,
            history_bytes=1 << 20,
            clock=self.clock,
        )
        self.sending.start()
        interest = ShardInterest(1, self.clock)
        interest.want([0])
        self.receiving = Receiving(
            self.hub,
            Carrier(self.hub, self.market, self.counts),
            self.wire,
            self.channels,
            interest,
            self.peers,
            self.counts,
            origin=origin,
            n_shards=1,
            clock=self.clock,
        )
        self.sharing = Sharing(
            self.hub, self.wire, self.channels, self.peers, origin=origin, clock=self.clock
        )

    def clock(self) -> float:
        return self.now

    def close(self) -> None:
        self.sending.stop()
        self.receiving.stop()
        self.hub.stop()

    def publish(self, code: str = "A", number: int = 1) -> bytes:
        self.market.publish_price(PriceUpdate(self.market.ensure_instrument(code), number))
        self.sending.flush()
        (data,) = self.wire.take()
        return data

    def requests(self) -> list[object]:
        return [decode(data) for data in self.wire.take()]


Start = Callable[[int], Site]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        def made(origin: int) -> Site:
            site = Site(origin)
            stack.callback(site.close)
            return site

        yield made


async def test_what_all_hold_back_is_bounded_together(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "MAX_HELD_SIZE", 20_000)
    here, greedy, modest = start(1), start(2), start(3)
    for site in (greedy, modest):
        here.receiving.take(site.publish())
        site.publish()
    for _ in range(3):
        here.receiving.take(modest.publish())
    modest_size = here.receiving.held_size
    for _ in range(200):
        # Each behind a gap of its own.
        greedy.publish()
        here.receiving.take(greedy.publish())
        assert here.receiving.held_size <= 20_000
    assert here.receiving.held_size > modest_size
    assert here.counts.gaps["given_up"] > 100
    # Who holds little back still waits for what is missing.
    here.receiving.end(2)
    assert here.receiving.held_size == modest_size
    assert here.receiving.n_with_gaps == 1
    here.receiving.give_up(3)
    assert here.receiving.held_size == 0


async def test_a_shard_that_is_wanted_again_is_asked_for_at_once(start: Start) -> None:
    here = start(1)
    here.peers.add(2, "two")
    for _ in range(2):
        here.receiving.ask_soon()
        await until(lambda: here.wire.sent)
        (request,) = here.requests()
        assert isinstance(request, ValuesRequest)
        # Nothing was heard yet: that is no position, which others would have to refuse.
        assert here.receiving.positions() == []
        here.receiving.leave_out([0])
    here.receiving.take(start(2).publish())
    assert here.receiving.positions() == [(2, 0, 1)]


async def test_what_was_sent_early_is_not_waited_for_as_well(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Announcements and questions of others bring along what waits."""
    flush = Sending.flush
    n_flushed = 0

    def counting(sending: Sending) -> None:
        nonlocal n_flushed
        n_flushed += 1
        flush(sending)

    monkeypatch.setattr(Sending, "flush", counting)
    here = start(1)
    for number in range(5):
        here.publish(number=number)
    # By then all timers are over that were set before.
    over = asyncio.Event()
    here.hub.loop.call_later(2 * INTERVAL, over.set)
    await over.wait()
    assert n_flushed == 5


async def test_users_who_change_while_nothing_can_be_told_are_bounded(start: Start) -> None:
    here = start(1)
    users = {"staying": (1, 5)}
    here.sharing.user = lambda key: users.get(key, (0, 0))
    here.sharing.note_user("staying")
    here.wire.is_up = False
    for i in range(5 * MIN_CHANGED):
        # Each comes and goes.
        here.sharing.note_user(f"u{i}")
        assert here.sharing.n_waiting <= MIN_CHANGED
    users["new"] = (2, 7)
    here.sharing.note_user("new")
    here.wire.is_up = True
    while here.sharing.n_waiting:
        here.sharing.tell()
    told = [message for message in here.requests() if isinstance(message, TablePart)]
    assert {key: pair for part in told for key, pair in part.entries.items()} == users
