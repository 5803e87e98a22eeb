"""What is news of a symbol, what a silent registration is, and what outages cost."""

from __future__ import annotations

import structlog.testing

from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws.feeds.kis.outages import Outages
from fastws.feeds.kis.published import Published
from fastws.feeds.kis.silence import Silences
from fastws.kis.volume import VolumeGaps, day_of

SAMSUNG = Instrument("005930", "Samsung", "KOSPI")
CODE = SAMSUNG.code
TR = "H0UNCNT0"
DAY = 20_000


def price(value: int, volume: int | None) -> PriceUpdate:
    return PriceUpdate(SAMSUNG, value, volume=volume)


def test_an_older_poll_is_no_news() -> None:
    known = Published()
    assert known.take_poll(price(70_100, 200), 2.0, DAY, 2.5)
    assert not known.take_poll(price(70_000, 300), 1.0, DAY, 6.0)
    known.take_trade(price(70_200, 400), DAY, 7.0)
    assert not known.take_poll(price(70_100, 500), 7.0, DAY, 8.0)
    assert known.take_poll(price(70_100, 500), 7.1, DAY, 8.0)


def test_a_poll_without_news_confirms_the_last_price() -> None:
    known = Published()
    known.take_trade(price(70_000, 200), DAY, 10.0)
    assert not known.is_confirmed(10.0, 90.0)
    # It was asked for before the trade.
    known.take_poll(price(70_000, 200), 9.0, DAY, 11.0)
    assert not known.is_confirmed(11.0, 90.0)
    known.take_poll(price(70_000, 200), 12.0, DAY, 12.5)
    assert known.is_confirmed(12.5, 90.0)
    assert known.is_confirmed(102.0, 90.0)
    assert not known.is_confirmed(102.1, 90.0)
    known.take_trade(price(70_100, 210), DAY, 20.0)
    assert not known.is_confirmed(20.0, 90.0)
    # One that is behind tells nothing.
    known.take_poll(price(70_000, 200), 21.0, DAY, 21.5)
    assert not known.is_confirmed(21.5, 90.0)


def test_a_volume_that_is_behind_is_no_news_for_some_seconds() -> None:
    known = Published()
    known.take_trade(price(70_000, 200), DAY, 0.0)
    assert not known.take_poll(price(70_100, 150), 1.0, DAY, 1.5)
    # It stays: KIS has begun the day anew, or has taken a trade back.
    assert known.take_poll(price(70_100, 3), 11.0, DAY, 11.5)
    assert known.take_poll(price(70_100, 1), 12.0, DAY + 1, 12.5)


def test_a_trade_that_a_poll_was_quicker_than_is_no_news() -> None:
    known = Published()
    known.take_poll(price(70_100, 200), 0.0, DAY, 0.5)
    assert not known.take_trade(price(70_000, 190), DAY, 0.6)
    assert not known.take_trade(price(70_100, 200), DAY, 0.7)
    assert known.take_trade(price(70_200, 210), DAY, 0.8)
    # What is pushed is in order: one with less volume is a trade that was taken back.
    assert known.take_trade(price(70_200, 205), DAY, 0.9)
    known.take_poll(price(70_100, 300), 1.0, DAY, 1.5)
    assert known.take_trade(price(70_000, 10), DAY, 12.0)


def test_a_price_of_another_day_is_news() -> None:
    known = Published()
    assert known.take_trade(price(70_000, 200), DAY, 0.0)
    assert not known.take_trade(price(70_000, 200), DAY, 1.0)
    assert known.take_trade(price(70_000, 200), DAY + 1, 86_400.0)


def test_a_polled_book_is_news_when_it_differs() -> None:
    known = Published()
    book, other = (BookUpdate(SAMSUNG, [(1, n)], [(2, 1)]) for n in (1, 2))
    assert known.take_polled_book(book, 1.0, 1.1)
    assert not known.take_polled_book(BookUpdate(SAMSUNG, [(1, 1)], [(2, 1)]), 2.0, 2.1)
    assert known.take_polled_book(other, 3.0, 3.1)
    known.take_book(book, 4.0)
    assert not known.take_polled_book(other, 4.0, 4.1)
    assert not known.take_polled_book(book, 5.0, 5.1)


def test_a_book_is_missing_when_several_trades_have_come_without_it() -> None:
    known = Published()
    known.expect_book(0.0)
    for n in range(10):
        assert not known.lacks_book(9.0)
        known.take_trade(price(1, n), DAY, float(n))
    assert known.lacks_book(10.0)
    known.take_book(BookUpdate(SAMSUNG, [(1, 1)], [(2, 1)]), 11.0)
    known.take_polled_book(BookUpdate(SAMSUNG, [(1, 2)], [(2, 1)]), 12.0, 12.5)
    assert known.book_since == 11.0
    known.take_trade(price(1, 20), DAY, 30.0)
    assert not known.lacks_book(30.0), "one trade may have passed its book"


def test_what_is_ahead_of_all_that_is_known() -> None:
    known = Published()
    assert not known.is_ahead(price(1, 5), 9.0, DAY)
    known.take_trade(price(1, 5), DAY, 0.0)
    assert not known.is_ahead(price(1, 6), 0.0, DAY), "it was asked for before"
    assert not known.is_ahead(price(1, 5), 9.0, DAY)
    assert not known.is_ahead(price(1, 4), 9.0, DAY)
    assert not known.is_ahead(price(1, None), 9.0, DAY)
    assert known.is_ahead(price(1, 6), 9.0, DAY)
    # Before the market opens, and after.
    assert not known.is_ahead(price(1, 5), 9.0, DAY + 3)
    assert not known.is_ahead(price(1, 0), 9.0, DAY + 3)
    assert known.is_ahead(price(1, 3), 9.0, DAY + 3)


def test_a_trade_that_is_pushed_a_moment_later_is_no_silence() -> None:
    silences = Silences()
    silences.on_missed(CODE, 0.0)
    assert CODE in silences
    assert silences.take_due(4.9) == []
    assert silences.forget(CODE)
    assert silences.take_due(5.0) == []


def test_silence_is_mended_and_over_when_nothing_is_missed_any_more() -> None:
    silences = Silences()
    silences.on_missed(CODE, 0.0)
    assert silences.take_due(5.0) == [CODE]
    silences.on_missed(CODE, 50.0)
    assert silences.take_due(64.0) == []
    assert silences.take_due(65.0) == [CODE]
    assert silences.take_due(110.0) == []
    assert len(silences) == 0


def test_a_day_begins_at_midnight_in_seoul() -> None:
    before = 1_795_186_799.0  # 2026-11-20T23:59:59+09:00
    assert day_of(before + 1) == day_of(before) + 1
    assert day_of(before + 86_400) == day_of(before) + 1


def test_each_instrument_has_its_own_outages() -> None:
    gaps = VolumeGaps()
    gaps.on_trade(TR, "halted", 1, 1, DAY)
    for n in range(10):
        gaps.on_trade(TR, "liquid", 100 * n + 1, 1, DAY)
        gaps.on_reconnected(30.0)
        gap = gaps.on_trade(TR, "liquid", 100 * n + 52, 1, DAY)
        assert gap == (TR, "liquid", 50, 30.0)
    assert gaps.on_trade(TR, "halted", 3, 1, DAY) == (TR, "halted", 1, 300.0)


def test_the_volume_of_another_day_tells_nothing() -> None:
    gaps = VolumeGaps()
    gaps.on_trade(TR, CODE, 1_000, 1, DAY)
    gaps.on_reconnected(1.0)
    assert gaps.on_trade(TR, CODE, 5_000, 1, DAY + 1) == (TR, CODE, None, 1.0)


def test_an_outage_lasts_until_any_session_has_the_symbol() -> None:
    outages = Outages()
    outages.on_trade(TR, CODE, 1_000, 1, DAY, 0.0)
    outages.on_lost([CODE], 10.0)
    outages.on_lost([CODE], 30.0)  # another try
    outages.on_confirmed(TR, CODE, 35.0)
    outages.on_trade(TR, CODE, 501_001, 1, DAY, 36.0)
    assert (outages.n_gaps, outages.lost_volume) == (1, 500_000)
    with structlog.testing.capture_logs() as logs:
        outages.report(60.0)
        assert not logs
        outages.report(66.0)
        outages.report(100.0)
    (line,) = logs
    assert (line["symbols"], line["shares"], line["seconds"]) == (1, 500_000, 25.0)


def test_an_outage_that_cost_nothing_is_not_told() -> None:
    outages = Outages()
    for day, volume in ((DAY, 1_000), (DAY, 1_005), (DAY + 1, 5_000)):
        outages.on_trade(TR, CODE, volume, 5, day, 0.0)
        outages.on_lost([CODE], 1.0)
        outages.on_confirmed(TR, CODE, 2.0)
    with structlog.testing.capture_logs() as logs:
        outages.report(1000.0)
    assert not logs
    assert (outages.n_gaps, outages.lost_volume) == (0, 0)


def test_what_nobody_wants_has_no_outage() -> None:
    outages = Outages()
    for code in ("000001", "000002", "000003"):
        outages.on_trade(TR, code, 10, 1, DAY, 0.0)
    outages.on_lost(["000001", "000002", "000003"], 1.0)
    outages.forget_unwanted(TR, {"000001": 1}, ["000002"])
    for code in ("000001", "000002", "000003"):
        outages.on_confirmed(TR, code, 2.0)
        outages.on_trade(TR, code, 20, 1, DAY, 3.0)
    assert outages.n_gaps == 2
