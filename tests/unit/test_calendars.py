"""Calendars as settings name them."""

from __future__ import annotations

import datetime
import sys

import pytest
from structlog.testing import capture_logs

from fastws.errors import SettingsError
from fastws.market.calendars import CalendarError, find_days, make_calendars
from fastws.market.korean_days import KOREAN_DAYS, LISTED_UNTIL
from fastws.market.sessions import CLOSED, KST, OPEN, OPENING_AUCTION, PRE_MARKET, Calendar, parse_day
from fastws.server.freshness_watch import warn_of_end
from fastws.server.parts import find_calendars
from fastws.settings import Settings

TODAY = datetime.date(2026, 11, 22)


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=KST).timestamp()


def made(calendars: tuple[str, ...] = (), holidays: tuple[str, ...] = ()) -> dict[str, Calendar]:
    return make_calendars(calendars, find_days(holidays, TODAY).values(), TODAY)


def test_the_usual_ones() -> None:
    calendars = made()
    assert set(calendars) == {"KOSPI", "KOSDAQ", "KONEX"}
    assert calendars["KOSPI"].phase_at(at("2026-12-24 08:10")) == PRE_MARKET
    assert calendars["KONEX"].phase_at(at("2026-12-24 08:40")) == OPENING_AUCTION
    assert calendars["KOSPI"].phase_at(at("2026-12-25 10:00")) == CLOSED


def test_others() -> None:
    calendars = made(("KOSPI=KRX", "COINS=always"))
    assert calendars["KOSPI"].phase_at(at("2026-12-24 08:10")) == CLOSED
    assert calendars["COINS"].phase_at(at("2026-12-25 03:00")) == OPEN


@pytest.mark.parametrize(
    ("setting", "text"),
    [("calendars", "KOSPI"), ("calendars", "=KRX"), ("calendars", "A=b"), ("holidays", "x")],
)
def test_a_text_that_is_none_is_told_with_its_setting(setting: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**{setting: (text,)})  # type: ignore[arg-type]
    assert caught.value.setting == setting


def test_days_of_exchanges_need_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)
    with pytest.raises(CalendarError, match=r"XNYS needs .*fastws\[calendars\]"):
        made(("NYSE=XNYS",))
    with pytest.raises(CalendarError, match="XKRX needs"):
        find_days(("XKRX",), TODAY)


@pytest.mark.filterwarnings("default")  # of the library's dependencies
def test_days_of_the_library() -> None:
    pytest.importorskip("exchange_calendars", reason="of the extra calendars, which is not installed")
    today = datetime.datetime.now(KST).date()
    days = find_days(("XKRX", f"{today.year}-06-10"), today)
    calendars = make_calendars(("NYSE=XNYS",), days.values(), today)
    christmas = f"{today.year}-12-25"
    # A day of the week, a holiday at both; 10:30 in New York.
    if datetime.date.fromisoformat(christmas).weekday() < 5:
        assert calendars["KOSPI"].phase_at(at(f"{christmas} 10:00")) == CLOSED
        assert calendars["NYSE"].phase_at(at(f"{christmas} 23:59")) == CLOSED
    assert calendars["KOSPI"].phase_at(at(f"{today.year}-06-10 10:00")) == CLOSED
    # The first session of a year begins an hour later.
    first = next(
        day for day in (datetime.date(today.year + 1, 1, n) for n in range(2, 8)) if day.weekday() < 5
    )
    assert calendars["KOSPI"].phase_at(at(f"{first} 09:55")) == OPENING_AUCTION
    assert calendars["KOSPI"].phase_at(at(f"{first} 10:05")) == OPEN
    with pytest.raises(CalendarError, match="XXXX"):
        make_calendars(("NYSE=XXXX",), (), today)


def test_the_listed_days_are_working_days_in_order_up_to_the_last_of_a_year() -> None:
    days = [parse_day(text) for text in KOREAN_DAYS]
    assert all(day.date.weekday() < 5 for day in days)
    assert days == sorted(set(days))
    assert days[-1].date == LISTED_UNTIL
    # Each whole year that is listed has its fixed days, or a Monday for those that have one.
    resting = {day.date for day in days if day.is_holiday}
    for year in range(days[0].date.year + 1, LISTED_UNTIL.year + 1):
        for month, day in ((1, 1), (3, 1), (5, 1), (5, 5), (7, 17), (8, 15), (10, 3), (10, 9), (12, 25)):
            date = datetime.date(year, month, day)
            if date.weekday() >= 5 and date.month > 1:
                date += datetime.timedelta(days=7 - date.weekday())
            assert date in resting, date


def test_a_day_that_is_listed_can_be_taken_back_and_others_be_added() -> None:
    calendars = made(holidays=("2027-05-03 09:00-15:30", "2027-05-04"))
    assert made()["KOSPI"].phase_at(at("2027-05-03 10:00")) == CLOSED
    assert calendars["KOSPI"].phase_at(at("2027-05-03 08:10")) == PRE_MARKET
    assert calendars["KOSPI"].phase_at(at("2027-05-03 10:00")) == OPEN
    assert calendars["KOSPI"].phase_at(at("2027-05-04 10:00")) == CLOSED


@pytest.mark.parametrize(("today", "n_said"), [("2027-11-30", 0), ("2027-12-20", 1), ("2028-03-02", 1)])
def test_the_end_of_the_list_is_said(today: str, n_said: int) -> None:
    date = datetime.date.fromisoformat(today)
    # That a day beyond it was named does not make the list longer.
    for settings in (Settings(), Settings(holidays=("2028-04-12",))):
        with capture_logs() as lines:
            warn_of_end(find_calendars(settings, date).last_day, date)
        assert [line["day"] for line in lines] == [str(LISTED_UNTIL)] * n_said
