"""What comes from one origin: in its order, each once, and what is missing asked for, waited for and counted."""

from __future__ import annotations

import asyncio
import logging
import random
import zlib
from typing import NamedTuple

import pytest

from fastws._core import Dialect, Hub
from fastws._market import Instrument, PriceUpdate, encode_screener
from fastws._relay import INSTEAD, LAST_VALUES, REPEATED, Outgoing, empty_envelope, read_envelope, relabel
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.relay.ring import SentRing
from fastws.relay.streams import ASK_AGAIN_SECONDS, GRACE_SECONDS, HOLD_SECONDS, Arrived, Gap, Stream

ORIGIN = 0xABC1


class Source:
    """An origin of one shard. `send` publishes the next prices as one envelope."""

    def __init__(self, loop: asyncio.AbstractEventLoop, history: int = 1 << 20) -> None:
        self.hub = Hub(loop, epoch="test", interval_ms=0)
        self.market = Market(self.hub, Instruments([Instrument("A")]))
        self.outgoing = Outgoing(
            self.hub,
            Dialect("screener", encode_screener),
            origin=ORIGIN,
            n_shards=1,
            on_filled=lambda: None,
            logger=logging.getLogger("fastws.tests.relay"),
        )
        self.hub.attach(self.outgoing)
        self.ring = SentRing(1, history)
        self.n = 0

    def send(self, *codes: str) -> bytes:
        for code in codes:
            self.n += 1
            self.market.publish_price(PriceUpdate(self.market.ensure_instrument(code), self.n))
        ((shard, first, n, data),) = self.outgoing.envelopes()
        self.ring.add(shard, first, n, data)
        return data

    def repeat(self, gap: Gap) -> list[bytes]:
        found = self.ring.find(0, gap.first, gap.last)
        return [relabel(data, REPEATED, data is found[-1]) for data in found] or self.outgoing.last_values(
            0, INSTEAD
        )


@pytest.fixture
async def source() -> object:
    made = Source(asyncio.get_running_loop())
    yield made
    made.hub.attach(None)
    made.hub.stop()


class Seen(NamedTuple):
    value: int
    n_missed: int


def take(stream: Stream, data: bytes, now: float = 0.0) -> list[Seen]:
    return seen(stream.receive(read_envelope(data), len(data), now))


def seen(arrived: object) -> list[Seen]:
    instrument = Instrument("X")
    found: list[Arrived] = list(arrived)  # type: ignore[call-overload]
    return [Seen(int(one.update.price(instrument).price), one.n_missed) for one in found]


def joined(source: Source) -> Stream:
    stream = Stream()
    assert stream.wants_values
    for data in source.outgoing.last_values(0):
        take(stream, data)
    assert not stream.wants_values
    return stream


async def test_in_order_each_once(source: Source) -> None:
    stream = joined(source)
    first, second = source.send("A", "B"), source.send("A")
    assert take(stream, first) == [(1, 0), (2, 0)]
    assert take(stream, first) == []
    assert take(stream, second) == [(3, 0)]
    assert take(stream, relabel(first, REPEATED, True)) == []
    assert stream.due(100.0) is None


async def test_what_is_behind_a_gap_waits_for_it(source: Source) -> None:
    stream = joined(source)
    first, second, third, fourth = (source.send("A") for _ in range(4))
    assert take(stream, first) == [(1, 0)]
    assert take(stream, fourth, 10.0) == []
    assert stream.has_gap
    assert stream.due(10.0) == Gap(2, 3, False)
    assert stream.due(10.1) is None
    assert stream.due(10.0 + ASK_AGAIN_SECONDS) == Gap(2, 3, False)
    assert take(stream, third, 10.5) == []
    assert take(stream, second, 10.6) == [(2, 0), (3, 0), (4, 0)]
    assert not stream.has_gap
    assert stream.take_counts() == (1, 0)
    assert stream.take_counts() == (0, 0)


async def test_a_lost_last_one_is_announced(source: Source) -> None:
    stream = joined(source)
    assert take(stream, source.send("A")) == [(1, 0)]
    lost = source.send("A", "A")
    stream.announced(3, 5.0)
    # It may be on its way.
    assert stream.due(5.0) is None
    assert stream.due(5.0 + GRACE_SECONDS) == Gap(2, 3, False)
    assert take(stream, lost, 5.2) == [(2, 0), (3, 0)]
    assert not stream.has_gap
    stream.announced(3, 6.0)
    assert not stream.has_gap


async def test_one_that_was_only_slow_is_not_asked_for(source: Source) -> None:
    stream = joined(source)
    slow = source.send("A")
    stream.announced(1, 5.0)
    assert take(stream, slow, 5.05) == [(1, 0)]
    assert stream.due(9.0) is None


async def test_a_gap_that_nobody_closes_is_given_up(source: Source) -> None:
    stream = joined(source)
    take(stream, source.send("A", "B"))
    source.send("A", "A", "C")
    late = source.send("B", "A")
    assert take(stream, late, 10.0) == []
    assert stream.due(10.0 + HOLD_SECONDS) == Gap(3, 5, True)
    # What has come tells what it has cost: two prices of A.
    assert seen(stream.give_up(11.0)) == [(6, 0), (7, 2)]
    assert stream.wants_values
    (values,) = source.outgoing.last_values(0)
    # And the last values tell the rest.
    assert take(stream, values, 11.1) == [(5, 0)]
    assert not stream.wants_values
    assert take(stream, source.send("A", "C"), 11.2) == [(8, 0), (9, 0)]
    assert stream.take_counts() == (1, 1)


async def test_last_values_in_place_of_what_is_gone(source: Source) -> None:
    stream = joined(source)
    take(stream, source.send("A"))
    source.send("A", "A", "B")
    held = source.send("A")
    assert take(stream, held, 1.0) == []
    source.ring = SentRing(1, 0)
    gap = stream.due(1.0)
    assert gap is not None
    (values,) = source.repeat(gap)
    assert read_envelope(values).kind == INSTEAD
    # Two of A are gone and the last one is here; of B it is the first.
    assert sorted(take(stream, values, 1.1)) == [(4, 0), (5, 2)]
    assert not stream.has_gap
    assert take(stream, source.send("B"), 1.2) == [(6, 0)]


async def test_before_the_first_last_values_nothing_is_missed(source: Source) -> None:
    source.send("A", "A", "A")
    stream = Stream()
    assert take(stream, source.send("A", "B")) == [(4, 0), (5, 0)]
    (values,) = source.outgoing.last_values(0)
    assert take(stream, values) == []
    assert take(stream, source.send("A")) == [(6, 0)]


async def test_what_others_asked_for_changes_nothing(source: Source) -> None:
    stream = joined(source)
    take(stream, source.send("A"))
    source.send("A")
    values = source.outgoing.last_values(0)[0]
    assert take(stream, values) == []
    assert stream.next == 2


@pytest.mark.parametrize("number", [1, 0])
async def test_values_of_an_origin_that_is_gone_come_from_others(source: Source, number: int) -> None:
    """Also where that one has the same number in its stamps."""
    stream = joined(source)
    source.market.channel_of("price_update", "Z")
    source.market.carry(
        PriceUpdate(source.market.ensure_instrument("Z"), 9),
        stamp=(5 << 12) | (ORIGIN & 0xFFF) ^ number,
        published_ms=1_700_000_000_000,
        head=b'{"type":"price_update"',
    )
    values = source.outgoing.last_values(0)[0]
    assert take(stream, values) == [(9, 0)]
    assert take(Stream(), values) == [(9, 0)]


async def test_a_gap_behind_one_that_was_given_up_is_asked_for(source: Source) -> None:
    stream = joined(source)
    for _ in range(2):
        source.send("A")
        take(stream, source.send("A"), 1.0)
    assert stream.due(1.0) == Gap(1, 3, False)
    assert seen(stream.give_up(2.0)) == [(2, 1)]
    assert stream.has_gap
    assert stream.due(2.0) == Gap(3, 3, False)
    assert stream.take_counts() == (2, 1)


async def test_an_empty_shard_has_a_position() -> None:
    stream = Stream()
    assert take(stream, empty_envelope(LAST_VALUES, n_shards=1, shard=0, origin=ORIGIN, first=8)) == []
    assert stream.next == 8


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("history", [1 << 20, 3000])
async def test_whatever_the_network_does_each_update_is_seen_or_counted(seed: int, history: int) -> None:
    """Lost, doubled and late envelopes and answers: per code, what was seen and what was missed are all there is."""
    chance = random.Random(seed)
    source = Source(asyncio.get_running_loop(), history)
    stream = joined(source)
    numbers: dict[str, int] = {}
    late: list[tuple[float, bytes]] = []
    now = 0.0

    def check(arrived: object) -> None:
        for one in arrived:  # type: ignore[attr-defined]
            code = one.update.code
            assert one.update.number >= numbers.get(code, 0)
            if one.update.number > numbers.get(code, 0):
                # What stands for itself, and those that were missed before it, are all since the last one.
                assert one.update.number == numbers.get(code, 0) + one.n_missed + 1
            numbers[code] = one.update.number

    def deliver(data: bytes) -> None:
        if chance.random() < 0.8:
            late.append((now + chance.choice((0.0, 0.0, 0.0, 0.02, 0.3)), data))
        if chance.random() < 0.1:
            late.append((now + 0.1, data))

    for step in range(400):
        now += 0.02
        if step < 300 and chance.random() < 0.5:
            deliver(source.send(*chance.choices("ABCDE", k=chance.randrange(1, 4))))
        for item in sorted(item for item in late if item[0] <= now):
            late.remove(item)
            check(stream.receive(read_envelope(item[1]), len(item[1]), now))
        if step % 50 == 0:
            stream.announced(source.outgoing.positions()[0], now)
        gap = stream.due(now)
        if gap is not None:
            if gap.is_given_up:
                check(stream.give_up(now))
            else:
                for data in source.repeat(gap):
                    deliver(data)
        if stream.wants_values and chance.random() < 0.2:
            for data in source.outgoing.last_values(0):
                deliver(data)
    # In the end the network is good.
    late.clear()
    stream.announced(source.outgoing.positions()[0], now)
    for _ in range(5):
        now += ASK_AGAIN_SECONDS
        if (gap := stream.due(now)) is not None:
            check(stream.give_up(now) if gap.is_given_up else [])
            for data in source.repeat(gap):
                check(stream.receive(read_envelope(data), len(data), now))
        if stream.wants_values:
            for data in source.outgoing.last_values(0):
                check(stream.receive(read_envelope(data), len(data), now))
    (final,) = source.outgoing.last_values(0)
    assert {update.code: update.number for update in read_envelope(final).updates} == numbers
    source.hub.attach(None)
    source.hub.stop()


# What somebody else says in the name of an origin.


def spoken_for(first: int, n: int = 1, number: int = 1) -> bytes:
    """An envelope that looks like one of `ORIGIN` from a position on, of prices of A that count from `number`."""
    data = bytearray(SPOKEN)
    data[24:32] = first.to_bytes(8, "little")
    data[36 + 24 : 36 + 32] = number.to_bytes(8, "little")
    data[32:36] = n.to_bytes(4, "little")
    data[36:] = bytes(data[36:]) * n
    return bytes(data[:4]) + zlib.crc32(bytes(data[8:])).to_bytes(4, "little") + bytes(data[8:])


async def _spoken() -> bytes:
    made = Source(asyncio.get_running_loop())
    try:
        return made.send("A")
    finally:
        made.hub.attach(None)
        made.hub.stop()


SPOKEN = asyncio.run(_spoken())


async def test_a_false_position_does_not_silence_an_origin_for_long(source: Source) -> None:
    stream = joined(source)
    take(stream, source.send("A"))
    take(stream, spoken_for(2**61), 10.0)
    assert stream.due(10.0 + HOLD_SECONDS) == Gap(2, 2**61 - 1, True)
    list(stream.give_up(11.0))
    assert take(stream, source.send("A"), 11.5) == []
    for second in range(12, 15):
        stream.announced(2, float(second))
    assert stream.take_counts() == (1, 1)
    stream.announced(2, 15.0)
    # It is believed, and begins anew.
    assert stream.take_counts() == (1, 1)
    assert stream.wants_values
    assert not stream.has_gap
    assert take(stream, source.send("A"), 15.1) == [(3, 0)]
    (values,) = source.outgoing.last_values(0)
    take(stream, values, 15.2)
    assert not stream.wants_values


async def test_announcements_that_come_twice_are_no_disagreement(source: Source) -> None:
    stream = joined(source)
    for _ in range(4):
        take(stream, source.send("A"))
    # What was not acknowledged is sent again, all at once.
    for position in (1, 2, 3, 4):
        stream.announced(position, 20.0)
    stream.announced(3, 24.0)
    assert not stream.has_gap
    assert not stream.wants_values
    assert stream.take_counts() == (0, 0)


async def test_nobody_is_told_to_have_missed_more_than_there_can_be(source: Source) -> None:
    stream = joined(source)
    take(stream, source.send("A"))
    (only,) = take(stream, spoken_for(2, number=2**48))
    assert only.n_missed == 2**31
    stream.forget_numbers()
    assert stream.n_numbers == 0
    assert stream.wants_values
