"""Envelopes: what is published at one hub comes out the same, and nothing that is damaged comes out at all."""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import zlib
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastws._core import Dialect, Hub
from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate, encode_screener
from fastws._relay import (
    FULL_SIZE,
    INSTEAD,
    KIND_BOOK,
    KIND_PRICE,
    KIND_STATUS,
    LAST_VALUES,
    LIVE,
    MAX_ENVELOPE_SIZE,
    REPEATED,
    Carried,
    EnvelopeError,
    Outgoing,
    check_shards,
    empty_envelope,
    read_envelope,
    relabel,
    shard_of,
    stamp_at,
)
from fastws.market.instruments import Instruments
from fastws.market.market import Market

ORIGIN = 0x1234_5678_9ABC_DEF1
SCREENER = Dialect("screener", encode_screener)


class Site:
    """A market whose publications are relayed."""

    def __init__(self, n_shards: int = 1) -> None:
        self.hub = Hub(asyncio.get_running_loop(), epoch="test", interval_ms=0)
        self.market = Market(self.hub, Instruments([Instrument("A", "Alpha", "KOSPI", "IT")]), book_history=3)
        self.n_filled = 0
        self.outgoing = Outgoing(
            self.hub,
            SCREENER,
            origin=ORIGIN,
            n_shards=n_shards,
            on_filled=self._filled,
            logger=logging.getLogger("fastws.tests.relay"),
        )
        self.hub.attach(self.outgoing)

    def _filled(self) -> None:
        self.n_filled += 1

    def price(self, number: object, **members: Any) -> PriceUpdate:
        return PriceUpdate(self.market.ensure_instrument("A"), number, **members)  # type: ignore[arg-type]

    def only(self) -> list[Carried]:
        ((_, _, _, data),) = self.outgoing.envelopes()
        return read_envelope(data).updates


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    yield made
    made.hub.attach(None)
    made.hub.stop()


async def test_a_price_comes_out_as_it_went_in(site: Site) -> None:
    sent = site.price(
        "73000.50",
        change="-1000",
        change_percent="1.90",
        volume=2**62,
        trade_volume=7,
        high="73001",
        low="0.000000000000000001",
        venue="KRX",
        quality="실시간",
        event_time_ms=1_700_000_000_123,
        extra=b'"k":{"v":[1,2]}',
    )
    site.market.publish_price(sent)
    (found,) = site.only()
    assert (found.kind, found.code, found.number) == (KIND_PRICE, "A", 1)
    channel = site.market.channel_of("price_update", "A")
    assert found.stamp == channel.stamp
    assert found.published_ms == channel.last_published_ms
    assert found.body == encode_screener(sent, found.published_ms)
    value = found.price(sent.instrument)
    assert encode_screener(value, found.published_ms) == found.body
    assert (value.price, value.venue, value.quality) == (Decimal("73000.50"), "KRX", "실시간")
    assert site.market.stock_body("A") == found.body + b',"sequence":1,"seq":1}'


async def test_a_book_and_a_status_do_too(site: Site) -> None:
    book = BookUpdate(
        site.market.ensure_instrument("A"),
        [("99.5", 10), (99, 20)],
        [(100, 2**40)],
        venue="NXT",
        extra=b'"n":1',
    )
    site.market.publish_book(book)
    site.market.publish_status(MarketStatus("KOSPI", "open", extra=b'"by":"hand"'))
    first, second = site.only()
    assert (first.kind, second.kind, second.code) == (KIND_BOOK, KIND_STATUS, "KOSPI")
    assert encode_screener(first.book(book.instrument), first.published_ms) == first.body
    assert encode_screener(second.status(), second.published_ms) == second.body
    with pytest.raises(TypeError):
        first.price(book.instrument)
    with pytest.raises(TypeError):
        second.book(book.instrument)
    with pytest.raises(TypeError):
        first.status()


async def test_what_is_no_market_message_stays_here(site: Site) -> None:
    site.market.set_feed_status("sim", "live")
    channel = site.hub.channel("u", "alert", (), bit=4, numbered=False)
    site.hub.tell(channel, MarketStatus, [])
    assert site.outgoing.envelopes() == []
    assert site.n_filled == 0


async def test_positions_go_on_and_filled_is_said_once(site: Site) -> None:
    for number in (1, 2, 3):
        site.market.publish_price(site.price(number))
    assert site.n_filled == 1
    ((shard, first, n, data),) = site.outgoing.envelopes()
    assert (shard, first, n) == (0, 1, 3)
    envelope = read_envelope(data)
    assert (envelope.kind, envelope.is_last, envelope.n_shards) == (LIVE, False, 1)
    assert (envelope.origin, envelope.first, envelope.shard) == (ORIGIN, 1, 0)
    assert site.outgoing.envelopes() == []
    site.market.publish_price(site.price(4))
    assert site.n_filled == 2
    ((_, first, n, _),) = site.outgoing.envelopes()
    assert (first, n) == (4, 1)
    assert site.outgoing.positions() == [4]


async def test_shards_have_envelopes_of_their_own() -> None:
    made = Site(8)
    try:
        for i in range(100):
            code = f"{i:06}"
            made.market.publish_price(PriceUpdate(made.market.ensure_instrument(code), i))
        taken = made.outgoing.envelopes()
        assert {shard for shard, *_ in taken} == set(range(8))
        for shard, _, n, data in taken:
            updates = read_envelope(data).updates
            assert len(updates) == n
            assert all(shard_of(update.code, 8) == shard for update in updates)
        assert sum(made.outgoing.positions()) == 100 == made.outgoing.n_updates
    finally:
        made.hub.attach(None)
        made.hub.stop()


async def test_a_burst_makes_several_envelopes(site: Site) -> None:
    extra = b'"pad":"%s"' % (b"x" * 50_000)
    for number in range(20):
        site.market.publish_price(site.price(number + 1, extra=extra))
    taken = site.outgoing.envelopes()
    assert len(taken) > 2
    assert all(len(data) < 2 * FULL_SIZE for *_, data in taken)
    positions = [first + i for _, first, n, _ in taken for i in range(n)]
    assert positions == list(range(1, 21))


async def test_what_cannot_be_written_is_counted_and_publishing_goes_on(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    too_large = site.price(1, extra=b'"pad":"%s"' % (b"x" * MAX_ENVELOPE_SIZE))
    for _ in range(3):
        site.market.publish_price(too_large)
    site.market.publish_price(site.price(2))
    assert [update.number for update in site.only()] == [4]
    assert site.outgoing.n_failed == 3
    assert sum("could not be relayed" in record.message for record in caplog.records) == 1


async def test_stamps_are_over_the_last_one_whoever_gave_it(site: Site) -> None:
    channel = site.market.channel_of("price_update", "A")
    far_ahead = (1_000_000_000_000_000 << 12) | 0x123
    site.market.carry(site.price(5), stamp=far_ahead, published_ms=1_700_000_000_000, head=b'{"type":"x"')
    assert channel.stamp == far_ahead
    assert site.outgoing.envelopes() == []
    site.market.publish_price(site.price(6))
    assert channel.stamp > far_ahead
    assert channel.stamp & 0xFFF == ORIGIN & 0xFFF
    (found,) = site.only()
    # Of this instance's own it is the first.
    assert (found.number, found.stamp) == (1, channel.stamp)


async def test_last_values_have_all_that_is_known(site: Site) -> None:
    site.market.publish_price(site.price(1))
    site.market.publish_price(site.price(2))
    stranger = site.market.ensure_instrument("B")
    site.market.channel_of("price_update", "B")
    site.market.carry(
        PriceUpdate(stranger, 9),
        stamp=1 << 12,
        published_ms=1_700_000_000_000,
        head=b'{"type":"price_update"',
    )
    (data,) = site.outgoing.last_values(0)
    envelope = read_envelope(data)
    assert (envelope.kind, envelope.is_last, envelope.first) == (LAST_VALUES, True, 3)
    found = {update.code: (update.price(stranger).price, update.number) for update in envelope.updates}
    assert found == {"A": (2, 2), "B": (9, 0)}
    assert next(update.body for update in envelope.updates if update.code == "B") == b'{"type":"price_update"'
    assert read_envelope(site.outgoing.last_values(0, INSTEAD)[0]).kind == INSTEAD


async def test_last_values_are_parted_and_the_last_part_says_so() -> None:
    made = Site(2)
    try:
        extra = b'"pad":"%s"' % (b"x" * 100_000)
        codes = [f"C{i}" for i in range(30)]
        for code in codes:
            made.market.publish_price(PriceUpdate(made.market.ensure_instrument(code), 1, extra=extra))
        found = []
        for shard in range(2):
            parts = [read_envelope(data) for data in made.outgoing.last_values(shard)]
            assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
            assert len(parts) > 1
            found += [update.code for part in parts for update in part.updates]
        assert sorted(found) == sorted(codes)
    finally:
        made.hub.attach(None)
        made.hub.stop()


async def test_a_value_of_before_the_start_is_not_handed_on(site: Site) -> None:
    site.hub.attach(None)
    site.market.restore(site.price(1), 1_600_000_000_000)
    site.hub.attach(site.outgoing)
    (data,) = site.outgoing.last_values(0)
    assert read_envelope(data).updates == []


def test_relabelled_and_empty_ones_are_envelopes() -> None:
    data = empty_envelope(LIVE, n_shards=4, shard=3, origin=7, first=12)
    envelope = read_envelope(data)
    assert (envelope.shard, envelope.origin, envelope.first, envelope.is_last) == (3, 7, 12, True)
    again = read_envelope(relabel(data, REPEATED, False))
    assert (again.kind, again.is_last, again.first) == (REPEATED, False, 12)
    assert read_envelope(data).kind == LIVE


def test_shards() -> None:
    assert all(shard_of(f"{i:06}", 1) == 0 for i in range(10))
    counts = [0] * 8
    for i in range(8000):
        counts[shard_of(f"{i:06}", 8)] += 1
    # Codes are consecutive numbers, and no shard is to have half as much again as its share.
    assert max(counts) < 1500
    assert min(counts) > 500
    for wrong in (0, 3, -1, 2048):
        with pytest.raises(ValueError, match="power of two"):
            check_shards(wrong)


# What is damaged.


def resigned(data: bytes) -> bytes:
    return data[:4] + struct.pack("<I", zlib.crc32(data[8:])) + data[8:]


async def sample() -> bytes:
    made = Site()
    try:
        made.market.publish_price(
            made.price("1.5", change=2, venue="KRX", quality="polled", event_time_ms=5, extra=b'"a":1')
        )
        made.market.publish_book(BookUpdate(made.market.ensure_instrument("A"), [(1, 2)], [(3, 4)]))
        made.market.publish_status(MarketStatus("KOSPI", "open"))
        ((_, _, _, data),) = made.outgoing.envelopes()
        return data
    finally:
        made.hub.attach(None)
        made.hub.stop()


SAMPLE = asyncio.run(sample())


def test_the_sample_is_whole() -> None:
    assert [update.kind for update in read_envelope(SAMPLE).updates] == [KIND_PRICE, KIND_BOOK, KIND_STATUS]


def test_every_beginning_of_one_is_refused() -> None:
    for size in range(len(SAMPLE)):
        with pytest.raises(EnvelopeError):
            read_envelope(SAMPLE[:size])
        if size >= 36:
            with pytest.raises(EnvelopeError):
                read_envelope(resigned(SAMPLE[:size]))
    with pytest.raises(EnvelopeError, match="behind its last"):
        read_envelope(resigned(SAMPLE + b"x"))


def test_every_flipped_bit_is_seen() -> None:
    for i in range(len(SAMPLE)):
        for bit in range(8):
            damaged = bytearray(SAMPLE)
            damaged[i] ^= 1 << bit
            with pytest.raises(EnvelopeError):
                read_envelope(bytes(damaged))


@settings(max_examples=400, deadline=None)
@given(st.integers(8, len(SAMPLE) - 1), st.binary(min_size=1, max_size=9))
def test_one_with_a_right_checksum_is_read_or_refused(at: int, replaced: bytes) -> None:
    damaged = resigned((SAMPLE[:at] + replaced + SAMPLE[at + len(replaced) :])[: len(SAMPLE)])
    instrument = Instrument("A")
    try:
        envelope = read_envelope(damaged)
    except EnvelopeError:
        return
    for update in envelope.updates:
        # What was read can be used; a text that no instrument can have is refused where it is made one.
        if update.kind == KIND_PRICE:
            assert update.price(instrument).price is not None
        elif update.kind == KIND_BOOK:
            assert len(update.book(instrument).bids) <= 10
        else:
            assert update.status().market == update.code


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_anything_else_is_refused(data: bytes) -> None:
    for text in (data, b"FWR\x01" + data, resigned(b"FWR\x01\0\0\0\0" + data)):
        try:
            read_envelope(text)
        except EnvelopeError:
            continue
        assert len(data) >= 28


@pytest.mark.parametrize(
    ("at", "what", "problem"),
    [
        (3, b"\x02", "run the same release"),
        (8, b"\x05", "kind is not known"),
        (9, b"\x02", "kind is not known"),
        (10, b"\x03\x00", "number of shards"),
        (12, b"\x01\x00", "no shard 1 of 1"),
        (24, b"\0" * 8, "no position"),
        (32, b"\xff\xff\xff\x7f", "too short"),
    ],
)
def test_what_is_wrong_with_a_header_is_said(at: int, what: bytes, problem: str) -> None:
    damaged = resigned(SAMPLE[:at] + what + SAMPLE[at + len(what) :])
    with pytest.raises(EnvelopeError, match=problem):
        read_envelope(damaged)


def test_one_that_is_too_large_is_not_looked_at() -> None:
    with pytest.raises(EnvelopeError, match="are the most"):
        read_envelope(b"FWR" + bytes(MAX_ENVELOPE_SIZE))


def test_a_body_is_a_message() -> None:
    assert json.loads(read_envelope(SAMPLE).updates[0].body + b"}")["type"] == "price_update"


def replaced(old: bytes, new: bytes) -> bytes:
    """The sample with something of the same size in the place of `old`."""
    assert len(old) == len(new)
    assert old in SAMPLE
    return resigned(SAMPLE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"price":1.5', b'"price":NaN'),
        (b'"quality":"polled"', b'"quality":"poll\xffd"'),
        (b'{"type":"price_update"', b'{"type":"order_update"'),
        (b'"code":"A"', b'"code":1},'),
    ],
)
def test_a_body_that_no_message_may_hold_is_marked(old: bytes, new: bytes) -> None:
    updates = read_envelope(replaced(old, new)).updates
    assert [update.is_sound for update in updates] == [False, True, True]


def test_so_are_further_members() -> None:
    size = struct.pack("<I", 5)
    updates = read_envelope(replaced(size + b'"a":1', size + b'"a":]')).updates
    assert [update.is_sound for update in updates] == [False, True, True]


def test_an_honest_one_is_sound() -> None:
    for update in read_envelope(SAMPLE).updates:
        assert update.is_sound
        assert json.loads(update.body + b"}")


@settings(max_examples=300, deadline=None)
@given(st.integers(36, len(SAMPLE) - 1), st.binary(min_size=1, max_size=4))
def test_what_is_sound_can_be_sent_to_clients(at: int, put: bytes) -> None:
    damaged = resigned((SAMPLE[:at] + put + SAMPLE[at + len(put) :])[: len(SAMPLE)])
    try:
        updates = read_envelope(damaged).updates
    except EnvelopeError:
        return
    for update in updates:
        if update.is_sound:
            assert isinstance(json.loads((update.body + b"}").decode()), dict)


def test_levels_are_numbers() -> None:
    (at,) = [i for i in range(len(SAMPLE)) if SAMPLE[i : i + 16] == struct.pack("<qq", 1, 2)]
    with pytest.raises(EnvelopeError, match="level is no number"):
        read_envelope(resigned(SAMPLE[:at] + struct.pack("<q", -(2**63)) + SAMPLE[at + 8 :]))


def test_numbers_of_updates_are_bounded() -> None:
    number = slice(36 + 24, 36 + 32)
    assert struct.unpack("<q", SAMPLE[number]) == (1,)
    for value, is_fine in ((2**48, True), (2**48 + 1, False)):
        data = resigned(SAMPLE[: number.start] + struct.pack("<q", value) + SAMPLE[number.stop :])
        if is_fine:
            assert read_envelope(data).updates[0].number == value
        else:
            with pytest.raises(EnvelopeError, match="out of range"):
                read_envelope(data)


def test_more_updates_than_one_can_have_are_not_read() -> None:
    one = SAMPLE[36:]
    n = FULL_SIZE // 32 + 2
    data = SAMPLE[:32] + struct.pack("<I", n) + one * (n // 3 + 1)
    with pytest.raises(EnvelopeError, match="more than one can have"):
        read_envelope(resigned(data))


def test_stamps_are_of_their_time() -> None:
    assert stamp_at(1_577_836_800.0) == 0
    assert stamp_at(1_577_836_801.5) == 1_500_000 << 12
