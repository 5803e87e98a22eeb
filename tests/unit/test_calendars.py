"""Calendars as settings name them."""

from __future__ import annotations

import datetime
import sys

import pytest

from fastws.errors import SettingsError
from fastws.market.calendars import CalendarError, make_calendars
from fastws.market.sessions import CLOSED, KST, OPEN, OPENING_AUCTION, PRE_MARKET
from fastws.settings import Settings

TODAY = datetime.date(2026, 11, 22)


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=KST).timestamp()


def test_the_usual_ones() -> None:
    calendars = make_calendars((), ("2026-12-25",), TODAY)
    assert set(calendars) == {"KOSPI", "KOSDAQ", "KONEX"}
    assert calendars["KOSPI"].phase_at(at("2026-12-24 08:10")) == PRE_MARKET
    assert calendars["KONEX"].phase_at(at("2026-12-24 08:40")) == OPENING_AUCTION
    assert calendars["KOSPI"].phase_at(at("2026-12-25 10:00")) == CLOSED


def test_others() -> None:
    calendars = make_calendars(("KOSPI=KRX", "COINS=always"), (), TODAY)
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
        make_calendars(("NYSE=XNYS",), (), TODAY)
    with pytest.raises(CalendarError, match="XKRX needs"):
        make_calendars((), ("XKRX",), TODAY)


@pytest.mark.filterwarnings("default")  # of the library's dependencies
def test_days_of_the_library() -> None:
    pytest.importorskip("exchange_calendars", reason="of the extra calendars, which is not installed")
    today = datetime.datetime.now(KST).date()
    calendars = make_calendars(("NYSE=XNYS",), ("XKRX", f"{today.year}-06-10"), today)
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
