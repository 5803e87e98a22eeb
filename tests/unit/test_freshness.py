"""Symbols that nothing comes of any more, on a real hub."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastws._core import Channel, Hub
from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate
from fastws.dialects.realtime import make_encode
from fastws.dialects.screener import encode
from fastws.market.freshness import Freshness, SymbolStatus, encode_symbol_status
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.market.sessions import KOREAN, KST, AlwaysOpen, KoreanCalendar

LEAST = 10.0
# A Monday, a quarter past nine in Seoul.
MORNING = datetime.datetime(2026, 11, 23, 9, 15, tzinfo=KST).timestamp()


class Desk:
    """A market whose symbols are updated now, and a clock that runs ahead when it is told to.

    What is published bears the time of the real clock, so intervals are microseconds, and limits the least.
    """

    def __init__(self, hub: Hub, *, quiet: set[str] | None = None) -> None:
        table = [Instrument(f"A{i:03}", market="COINS", sector="IT") for i in range(40)]
        table += [Instrument(f"K{i:03}", market="KOSPI") for i in range(40)]
        self.market = Market(hub, Instruments([*table, Instrument("NONE")]))
        self.quiet = set() if quiet is None else quiet
        self.freshness = Freshness(
            self.market,
            {"COINS": AlwaysOpen(), "KOSPI": KoreanCalendar(KOREAN["UN"])},
            least=LEAST,
            most=600.0,
            learning=0.0,
            is_quiet=self.quiet.__contains__,
        )
        self.begun = time.monotonic()
        self.ahead = 0.0
        self.statuses: list[SymbolStatus] = []

    @property
    def now(self) -> float:
        return time.monotonic() + self.ahead

    def look(self, ahead: float = 0.0) -> None:
        self.ahead += ahead
        self.freshness.look(self.now, MORNING + self.now - self.begun)

    def update(self, *codes: str, event_time_ms: int = 0) -> None:
        for code in codes:
            instrument = self.market.ensure_instrument(code)
            self.market.publish_price(PriceUpdate(instrument, 100, event_time_ms=event_time_ms))

    def learn(self, *codes: str) -> None:
        """The updates that show that there is a session, the one from which intervals count, and enough of these."""
        for _ in range(3):
            self.update(*codes)
            self.look()
        for _ in range(25):
            self.update(*codes)
        self.look()

    def status(self, code: str) -> Any:
        """The last `symbol_status` of a symbol, as its subscribers have it; None where there was none."""
        topic = self.market.hub.find_topic("stock", code)
        assert topic is not None
        for channel in topic.channels:
            if channel.name == "symbol_status":
                text = encode(channel.last_payload, channel.last_published_ms) + b"}"
                return json.loads(text)["status"]
        return None


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    hub = Hub(asyncio.get_running_loop(), epoch="test", interval_ms=0)
    yield hub
    hub.stop()


async def test_a_silent_symbol_is_told_once_and_again_when_it_is_live(hub: Hub) -> None:
    desk = Desk(hub)
    desk.learn("A001", "A002")
    assert desk.freshness.counts == (2, 2, 0)
    sequence = hub.sequence
    desk.look(LEAST + 1)
    assert (desk.status("A001"), desk.status("A002")) == ("stale", "stale")
    assert desk.freshness.counts == (2, 2, 2)
    assert desk.freshness.stale_codes(5) == ["A001", "A002"]
    desk.look(1.0)
    assert hub.sequence == sequence + 2
    desk.ahead = 0.0
    desk.update("A001")
    desk.look()
    assert (desk.status("A001"), desk.status("A002")) == ("live", "live")
    assert desk.freshness.counts.stale == 0


async def test_a_book_is_a_sign_of_life(hub: Hub) -> None:
    desk = Desk(hub)
    desk.learn("A001")
    instrument = desk.market.ensure_instrument("A001")
    seen = desk.now
    desk.market.publish_book(BookUpdate(instrument, [(1, 1)], [(2, 1)]))
    desk.look()
    assert desk.freshness.cadences.silence(0, desk.now) <= desk.now - seen


async def test_who_has_a_reason_is_not_stale(hub: Hub) -> None:
    desk = Desk(hub, quiet={"A001"})
    desk.learn("A001", "A002")
    desk.look(LEAST + 1)
    assert (desk.status("A001"), desk.status("A002")) == (None, "stale")
    # It is found only now that the other has one, too.
    desk.quiet.add("A002")
    desk.look(1.0)
    assert (desk.status("A001"), desk.status("A002")) == (None, "live")
    desk.quiet.clear()
    desk.look(LEAST + 1)
    assert (desk.status("A001"), desk.status("A002")) == ("stale", "stale")


async def test_a_market_that_nobody_has_opened_is_not_judged(hub: Hub) -> None:
    """By its calendar KOSPI trades; on a holiday that nobody knew of nothing comes."""
    desk = Desk(hub)
    desk.learn("K001", "NONE")
    assert desk.freshness.counts == (2, 1, 0)
    desk.look(LEAST + 1)
    assert (desk.status("K001"), desk.status("NONE")) == ("stale", None)
    desk.look(43_200.0)
    assert desk.status("K001") == "live"
    # The next day it has not begun, whatever the clock says.
    desk.look(43_200.0)
    desk.look(LEAST + 1)
    assert desk.status("K001") == "live"
    assert desk.freshness.counts.stale == 0


async def test_halts_and_auctions_are_quiet(hub: Hub) -> None:
    desk = Desk(hub)
    desk.learn("K001", "K002", "A001")
    for status in ("halted", "closing_auction", "closed"):
        desk.market.publish_status(MarketStatus("KOSPI", status))
        desk.look(LEAST + 1)
        desk.look(600.0)
        assert (desk.status("K001"), desk.status("A001")) == (None, "stale")
    desk.market.publish_status(MarketStatus("KOSPI", "open"))
    desk.look(1.0)
    assert desk.status("K001") is None
    desk.look(LEAST + 1)
    assert desk.status("K001") == "stale"
    # A halt is a reason for those who were stale already.
    desk.market.publish_status(MarketStatus("KOSPI", "halted"))
    desk.look(1.0)
    assert desk.status("K001") == "live"


async def test_most_of_the_symbols_are_the_feed(hub: Hub) -> None:
    desk = Desk(hub)
    codes = [f"A{i:03}" for i in range(40)]
    desk.learn(*codes)
    desk.look(LEAST + 1)
    assert desk.freshness.are_most_stale
    desk.ahead = 0.0
    desk.update(*codes[:25])
    desk.look()
    # The others' last update is milliseconds ago again, on this clock.
    assert not desk.freshness.are_most_stale
    few = Desk(hub)
    few.learn("B1", "B2")
    few.look(LEAST + 1)
    assert not few.freshness.are_most_stale


async def test_a_symbol_that_comes_to_another_market_goes_with_it(hub: Hub) -> None:
    desk = Desk(hub)
    desk.learn("A001", "K001")
    desk.look(LEAST + 1)
    assert desk.status("A001") == "stale"
    newer = Instruments([Instrument("A001", market="KOSPI"), Instrument("K001", market="KOSPI")])
    for _ in desk.market.update_instruments(newer, desk.market.instruments.compare(newer)):
        pass
    desk.market.publish_status(MarketStatus("KOSPI", "halted"))
    desk.look(1.0)
    assert desk.freshness.counts == (2, 0, 0)
    assert desk.status("A001") == "live"
    topic = hub.find_topic("market", "KOSPI")
    assert topic is not None
    assert {"price", "symbol_status"} <= {each.name for each in topic.channels if each.key == "A001"}


async def test_who_stays_in_a_market_stays_as_it_is(hub: Hub) -> None:
    """Instruments are reloaded while the feed is dead: one has another sector now, and another is gone elsewhere."""
    desk = Desk(hub)
    codes = [f"K{i:03}" for i in range(40)]
    desk.learn(*codes)
    desk.look(LEAST + 1)
    assert desk.freshness.counts == (40, 40, 40)
    table = [Instrument(code, market="KOSPI") for code in codes[2:]]
    table += [Instrument("K000", market="KOSPI", sector="IT"), Instrument("K001", market="COINS")]
    newer = Instruments(table)
    for _ in desk.market.update_instruments(newer, desk.market.instruments.compare(newer)):
        pass
    sequence = hub.sequence
    desk.look(1.0)
    assert (hub.sequence - sequence, desk.status("K001")) == (1, "live")
    assert desk.freshness.counts.stale == 39
    assert desk.freshness.are_most_stale
    # And KOSPI is believed to trade, as before; COINS not yet, of which nothing has come.
    desk.ahead = 0.0
    desk.update(*codes)
    desk.look()
    assert desk.freshness.counts == (40, 39, 0)


async def test_what_is_described(hub: Hub) -> None:
    desk = Desk(hub)
    assert desk.freshness.describe("A001", desk.now, MORNING) is None
    desk.learn("A001")
    event = int(time.time() * 1000) - 250
    hub.set_received(time.monotonic_ns() - 50_000_000)
    desk.update("A001", event_time_ms=event)
    hub.set_received(0)
    desk.look()
    found = desk.freshness.describe("A001", time.monotonic(), time.time())
    assert found is not None
    assert (found["status"], found["market_phase"], found["stale_after_ms"]) == ("live", "open", 10_000)
    times = found["price"]
    assert times["event_time"] < times["received"] < times["published"]
    # Nobody is subscribed.
    assert (times["flushed"], times["sent"], found["orderbook"]) == (None, None, None)
    # 250 ms less the 50 that it was under way here, and what the clocks differ.
    assert sum(desk.freshness.lag_counts) == 1
    assert 0.15 < desk.freshness.lag_seconds < 0.25


async def test_what_was_restored_is_not_described_as_received(hub: Hub) -> None:
    desk = Desk(hub)
    instrument = desk.market.ensure_instrument("A001")
    published = 1_762_754_400_112
    desk.market.restore(PriceUpdate(instrument, 100, event_time_ms=published - 112), published)
    restored = {
        "event_time": "2025-11-10T06:00:00.000Z",
        "received": None,
        "published": "2025-11-10T06:00:00.112Z",
        "flushed": None,
        "sent": None,
        "restored": True,
    }
    for _ in range(3):
        found = desk.freshness.describe("A001", desk.now, time.time())
        assert found is not None
        assert (found["status"], found["silent_ms"], found["stale_after_ms"]) == ("restored", None, None)
        assert (found["price"], found["orderbook"]) == (restored, None)
        desk.look(1.0)
    # What comes makes it known, not what there was.
    desk.market.publish_book(BookUpdate(instrument, [(1, 1)], [(2, 1)]))
    desk.look()
    found = desk.freshness.describe("A001", desk.now, time.time())
    assert found is not None
    assert (found["status"], found["price"]) == ("unjudged", restored)
    assert found["silent_ms"] >= 0
    assert found["orderbook"]["received"] is not None
    assert "restored" not in found["orderbook"]


async def test_who_is_not_judged_is_not_described_as_live(hub: Hub) -> None:
    desk = Desk(hub)

    def status(code: str) -> Any:
        found = desk.freshness.describe(code, desk.now, MORNING)
        assert found is not None
        return found["status"]

    desk.update("A001", "NONE")
    # Not looked at yet, too new, and of no market.
    assert status("A001") == "unjudged"
    desk.look()
    assert status("A001") == "unjudged"
    desk.learn("A001", "K001", "NONE")
    assert [status(code) for code in ("A001", "K001", "NONE")] == ["live", "live", "unjudged"]
    desk.market.publish_status(MarketStatus("KOSPI", "halted"))
    desk.look(LEAST + 1)
    assert [status(code) for code in ("A001", "K001")] == ["stale", "unjudged"]


async def test_many_are_told_by_and_by(hub: Hub) -> None:
    desk = Desk(hub)
    codes = [f"X{i}" for i in range(600)]
    for code in codes:
        desk.market.instruments.add(Instrument(code, market="COINS"))
    desk.learn(*codes)
    sequence = hub.sequence
    desk.look(LEAST + 1)
    assert hub.sequence == sequence + 250
    desk.look(1.0)
    desk.look(1.0)
    assert hub.sequence == sequence + 600
    assert {desk.status(code) for code in codes} == {"stale"}


async def test_who_is_back_before_that_was_told_is_not_told(hub: Hub) -> None:
    desk = Desk(hub)
    codes = [f"X{i}" for i in range(1000)]
    for code in codes:
        desk.market.instruments.add(Instrument(code, market="COINS"))
    desk.learn(*codes)
    for _ in range(3):
        desk.look(LEAST + 1)
        sequence = hub.sequence
        desk.ahead = 0.0
        desk.update(*codes)
        desk.look()
        # The first ones were told; of the others there is nothing to say, and nobody looks at them in search of those.
        assert hub.sequence == sequence + 1000 + 250
        assert not desk.freshness._untold
    desk.look()
    # What waits does not grow with each time.
    assert len(desk.freshness._asking) <= 1000


async def test_a_look_that_is_late_blames_nobody(hub: Hub) -> None:
    desk = Desk(hub)
    desk.learn("A001", "A002")
    desk.ahead += 60.0
    desk.freshness.look(desk.now, MORNING + 60.0, 59.0)
    assert desk.freshness.counts.stale == 0
    desk.look(LEAST)
    assert desk.freshness.counts.stale == 2
    # Who was stale is still.
    desk.ahead += 60.0
    desk.freshness.look(desk.now, MORNING + 130.0, 59.0)
    assert desk.freshness.counts.stale == 2


def test_the_message_in_both_dialects() -> None:
    status = SymbolStatus('K"1', "stale", 1_762_853_400_000, 250, 10_000)
    assert encode_symbol_status(status, 1_762_853_420_000) == (
        b'{"type":"symbol_status","code":"K\\"1","status":"stale","last_update":"2025-11-11T09:30:00.000Z",'
        b'"usual_interval_ms":250,"stale_after_ms":10000,"timestamp":"2025-11-11T09:30:20.000Z"'
    )
    assert encode(status, 1_762_853_420_000) == encode_symbol_status(status, 1_762_853_420_000)
    unknown = status._replace(usual_ms=0, limit_ms=0, status="live")
    market: Any = None
    assert json.loads(make_encode(market)(unknown, 1_762_853_420_000)) == {
        "type": "symbol_status",
        "data": {"symbol": 'K"1', "status": "live", "last_update": "2025-11-11T09:30:00.000Z"},
        "timestamp": "2025-11-11T09:30:20.000Z",
    }


async def test_a_channel_says_when_its_last_update_was_where(hub: Hub) -> None:
    channel: Channel = hub.channel("x", "price", (hub.topic("stock", "x"),), bit=1, numbered=True)
    assert channel.last_times_ns is None
    before = time.monotonic_ns()
    hub.publish(channel, 1)
    assert channel.last_times_ns is not None
    received, published, flushed, sent = channel.last_times_ns
    assert before <= received == published <= time.monotonic_ns()
    assert (flushed, sent) == (0, 0)
