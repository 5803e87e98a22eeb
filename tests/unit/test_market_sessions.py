"""When markets trade."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.market.sessions import (
    AFTER_MARKET,
    CLOSED,
    CLOSING_AUCTION,
    EXTENDED,
    HALTED,
    KOREAN,
    KST,
    OPEN,
    OPENING_AUCTION,
    PRE_MARKET,
    QUIET,
    REGULAR,
    AlwaysOpen,
    Calendar,
    KoreanCalendar,
    ListedCalendar,
    MarketSessions,
    SpecialDay,
    kind_of,
    parse_day,
)

MONDAY = "2026-11-23"


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=KST).timestamp()


def phases(calendar: Calendar, day: str, *times: str) -> list[str]:
    return [calendar.phase_at(at(f"{day} {time}")) for time in times]


def test_a_working_day_of_each_market() -> None:
    times = (
        "07:59",
        "08:00",
        "08:49:59",
        "08:50",
        "09:00",
        "15:20",
        "15:30",
        "15:40",
        "16:00",
        "19:59",
        "20:00",
    )
    assert phases(KoreanCalendar(KOREAN["KRX"]), MONDAY, *times) == [
        CLOSED, CLOSED, OPENING_AUCTION, OPENING_AUCTION, OPEN, CLOSING_AUCTION, CLOSED, CLOSED, AFTER_MARKET,
        AFTER_MARKET, CLOSED,
    ]  # fmt: skip
    assert phases(KoreanCalendar(KOREAN["NXT"]), MONDAY, *times) == [
        CLOSED, PRE_MARKET, PRE_MARKET, CLOSED, OPEN, CLOSED, CLOSED, AFTER_MARKET, AFTER_MARKET, AFTER_MARKET, CLOSED,
    ]  # fmt: skip
    assert phases(KoreanCalendar(KOREAN["UN"]), MONDAY, *times) == [
        CLOSED, PRE_MARKET, PRE_MARKET, OPENING_AUCTION, OPEN, CLOSING_AUCTION, CLOSED, AFTER_MARKET, AFTER_MARKET,
        AFTER_MARKET, CLOSED,
    ]  # fmt: skip
    assert phases(KoreanCalendar(KOREAN["UN"]), "2026-11-22", "10:00") == [CLOSED]


def test_holidays_and_days_of_other_hours() -> None:
    days = map(parse_day, ("2026-12-25", "2026-11-19 10:00-16:30", "2027-01-04 10:00"))
    calendar = KoreanCalendar(KOREAN["UN"], days)
    assert phases(calendar, "2026-12-25", "08:10", "10:00", "18:00") == [CLOSED] * 3
    times = ("08:59", "09:00", "09:50", "09:59", "10:00", "15:20", "16:20", "16:30", "16:40", "20:00")
    assert phases(calendar, "2026-11-19", *times) == [
        CLOSED, CLOSED, OPENING_AUCTION, OPENING_AUCTION, OPEN, OPEN, CLOSING_AUCTION, CLOSED, AFTER_MARKET, CLOSED,
    ]  # fmt: skip
    assert phases(calendar, "2027-01-04", "08:10", "09:30", "10:00", "15:20") == [
        CLOSED, CLOSED, OPEN, CLOSING_AUCTION,
    ]  # fmt: skip
    assert phases(calendar, "2027-01-05", "09:30") == [OPEN]


@pytest.mark.parametrize(
    "text", ["", "2026-13-01", "25.12.2026", "2026-12-25 9:00", "2026-12-25 16:00-10:00", "x"]
)
def test_a_day_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|month|opening"):
        parse_day(text)


@given(
    st.sampled_from(sorted(KOREAN)),
    st.integers(0, 1439),
    st.integers(0, 1438).flatmap(lambda opens: st.tuples(st.just(opens), st.integers(opens + 1, 1439))),
)
def test_every_day_begins_and_ends_closed(name: str, minute: int, hours: tuple[int, int]) -> None:
    """Whatever the hours of a day are: it has a phase at every time, and ends when days end."""
    day = datetime.date(2026, 11, 19)
    calendar = KoreanCalendar(KOREAN[name], [SpecialDay(day, *hours)])
    start = datetime.datetime.combine(day, datetime.time(), KST).timestamp()
    assert calendar.phase_at(start + 60 * minute)
    assert calendar.phase_at(start + 20 * 3600) == CLOSED


def test_listed_sessions() -> None:
    calendar = ListedCalendar([(100.0, 200.0), (300.0, 400.0)])
    assert [calendar.phase_at(t) for t in (0, 99.9, 100, 199.9, 200, 299, 300, 399, 400, 1e12)] == [
        CLOSED, CLOSED, OPEN, OPEN, CLOSED, CLOSED, OPEN, OPEN, CLOSED, CLOSED,
    ]  # fmt: skip
    assert AlwaysOpen().phase_at(0.0) == OPEN


def test_what_is_said_holds_until_the_clock_comes_to_another_phase() -> None:
    sessions = MarketSessions({"KOSPI": KoreanCalendar(KOREAN["UN"])})
    assert sessions.phase("KOSPI", at(f"{MONDAY} 09:10")) == (OPEN, False)
    sessions.on_status("KOSPI", HALTED, at(f"{MONDAY} 09:10"))
    assert sessions.phase("KOSPI", at(f"{MONDAY} 15:19")) == (HALTED, True)
    assert sessions.phase("KOSPI", at(f"{MONDAY} 15:20")) == (CLOSING_AUCTION, False)
    # Said on a Sunday by somebody who plays, and nobody who plays says when it ends.
    sessions.on_status("KOSPI", OPEN, at("2026-11-22 12:00"))
    assert sessions.phase("KOSPI", at("2026-11-22 23:00")) == (OPEN, True)
    assert sessions.phase("KOSPI", at(f"{MONDAY} 08:55")) == (OPENING_AUCTION, False)


@pytest.mark.parametrize("status", [HALTED, OPEN])
def test_what_was_said_does_not_hold_again_on_another_day(status: str) -> None:
    sessions = MarketSessions({"KOSPI": KoreanCalendar(KOREAN["UN"])})
    sessions.on_status("KOSPI", status, at(f"{MONDAY} 10:00"))
    sessions.pass_on(at(f"{MONDAY} 15:19"))
    assert sessions.phase("KOSPI", at(f"{MONDAY} 15:19")) == (status, True)
    sessions.pass_on(at(f"{MONDAY} 15:20"))
    assert sessions.phase("KOSPI", at("2026-11-24 09:00")) == (OPEN, False)
    assert sessions.phase("KOSPI", at("2026-11-30 10:00")) == (OPEN, False)


def test_a_market_without_a_calendar_is_what_is_said_of_it() -> None:
    sessions = MarketSessions({})
    assert sessions.phase("MOON", 0.0) == (None, False)
    sessions.on_status("MOON", OPEN, 0.0)
    assert sessions.phase("MOON", 1e9) == (OPEN, True)


def test_kinds() -> None:
    assert [kind_of(phase) for phase in (OPEN, PRE_MARKET, AFTER_MARKET)] == [REGULAR, EXTENDED, EXTENDED]
    silent = (None, CLOSED, HALTED, OPENING_AUCTION, CLOSING_AUCTION, "lunch")
    assert {kind_of(phase) for phase in silent} == {QUIET}
