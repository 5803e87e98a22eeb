"""What others have published, published here: each over no newer value, and what is missed counted once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from fastws._core import Dialect, Hub
from fastws._market import Instrument, PriceUpdate, encode_screener
from fastws._relay import INSTEAD, LAST_VALUES, Outgoing, read_envelope
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.relay.carrier import Carrier
from fastws.relay.counts import RelayCounts
from fastws.relay.streams import Stream


class Instance:
    """A market with what it sends and what it has got from others, without anything between them."""

    def __init__(self, origin: int) -> None:
        self.hub = Hub(asyncio.get_running_loop(), epoch="test", interval_ms=0)
        self.market = Market(self.hub, Instruments([Instrument("A")]))
        self.outgoing = Outgoing(
            self.hub,
            Dialect("screener", encode_screener),
            origin=origin,
            n_shards=1,
            on_filled=lambda: None,
            logger=logging.getLogger("fastws.tests.relay"),
        )
        self.hub.attach(self.outgoing)
        self.counts = RelayCounts()
        self.carrier = Carrier(self.hub, self.market, self.counts)
        self.streams: dict[int, Stream] = {}
        self.seen: list[int] = []
        self.market.on_price.append(lambda update: self.seen.append(int(update.price)))

    def publish(self, number: int) -> bytes:
        self.market.publish_price(PriceUpdate(self.market.ensure_instrument("A"), number))
        ((_, _, _, data),) = self.outgoing.envelopes()
        return data

    def values(self, kind: int = LAST_VALUES) -> bytes:
        (data,) = self.outgoing.last_values(0, kind)
        return data

    def take(self, data: bytes) -> None:
        envelope = read_envelope(data)
        stream = self.streams.setdefault(envelope.origin, Stream())
        for arrived in stream.receive(envelope, len(data), 0.0):
            self.carrier.publish(arrived)

    @property
    def n_missed(self) -> int:
        return self.counts.updates["missed"]

    @property
    def seq(self) -> int:
        return self.market.channel_of("price_update", "A").seq


@pytest.fixture
async def start() -> AsyncIterator[Callable[[int], Instance]]:
    async with AsyncExitStack() as stack:

        def made(origin: int) -> Instance:
            instance = Instance(origin)
            stack.callback(instance.hub.stop)
            stack.callback(instance.hub.attach, None)
            return instance

        yield made


def joined(start: Callable[[int], Instance]) -> tuple[Instance, Instance, Instance]:
    """One that publishes, and two that have heard it from its first update on."""
    author, other, here = (start(origin) for origin in (0x7001, 0x7002, 0x7003))
    for data in (author.values(), author.publish(1)):
        other.take(data)
        here.take(data)
    here.take(other.values())
    assert here.seen == [1]
    return author, other, here


async def test_a_value_that_another_one_had_first_is_not_counted_as_missed(
    start: Callable[[int], Instance],
) -> None:
    author, other, here = joined(start)
    for number in (2, 3):
        other.take(author.publish(number))
    # Who asks another instance for its last values gets the author's of it, ahead of those between.
    here.take(other.values(INSTEAD))
    assert here.seen == [1, 3]
    for number in (4, 5):
        author.publish(number)
    here.take(author.values(INSTEAD))
    assert here.seen == [1, 3, 5]
    assert here.n_missed == 2
    here.take(author.publish(6))
    assert (here.seen, here.seq) == ([1, 3, 5, 6], author.seq)


async def test_what_it_has_overtaken_counts_once_it_comes(start: Callable[[int], Instance]) -> None:
    author, other, here = joined(start)
    late = [author.publish(number) for number in (2, 3, 4)]
    for data in late:
        other.take(data)
    here.take(other.values(INSTEAD))
    for data in late:
        here.take(data)
    # 2 and 3 were overtaken, and the copy of 4 is none.
    assert (here.seen, here.n_missed) == ([1, 4], 2)
    here.take(author.publish(5))
    assert here.seq == author.seq
    # A gap of later has nothing to do with it.
    author.publish(6)
    author.publish(7)
    here.take(author.values(INSTEAD))
    assert (here.seen, here.n_missed) == ([1, 4, 5, 7], 3)


async def test_an_author_that_is_gone_is_forgotten(start: Callable[[int], Instance]) -> None:
    author, other, here = joined(start)
    other.take(author.publish(2))
    here.take(other.values(INSTEAD))
    here.carrier.forget(0x7001)
    author.publish(3)
    here.take(author.values(INSTEAD))
    # Nothing is known any more of what was shown early.
    assert (here.seen, here.n_missed) == ([1, 2, 3], 1)
