"""How sources are found, what is taken of what they say, and when they are left alone."""

from __future__ import annotations

import datetime
import json
import random
import sys
import textwrap
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from fastws._market import Instrument
from fastws.feeds.breaker import Breaker
from fastws.feeds.sources import (
    Quote,
    SourceError,
    SourceLimitError,
    SourceSetupError,
    base,
    open_source,
    seconds_of,
    source_names,
)
from fastws.feeds.sources.base import Day
from fastws.feeds.sources.checks import Checks, RefusedError, check_days
from fastws.settings import Settings

APPLE = Instrument("AAPL", "Apple", "NASDAQ", previous_close="147.75", currency="USD")
SAMSUNG = Instrument("005930", "Samsung", "KOSPI", currency="KRW")
NOW_MS = 1_763_713_800_000
NOW = NOW_MS / 1000

PLUGIN = """
from fastws.feeds.sources import Answer, Quote, Source, SourceSetupError

class BankSource(Source):
    name = "bank"

    def __init__(self, argument, settings):
        if not argument:
            raise SourceSetupError("the source bank needs its address")
        self.address = argument

    async def quotes(self, instruments):
        return Answer([Quote(code=instrument.code, price=1) for instrument in instruments])

not_a_source = 5
"""


def take(checks: Checks | None = None, instrument: Instrument = APPLE, **members: Any) -> Any:
    quote = Quote(code=instrument.code, **{"price": "150.25", **members})
    return (checks or Checks(300.0)).take(quote, instrument, "polled", NOW_MS)


def refusal(checks: Checks | None = None, **members: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        take(checks, **members)
    assert str(caught.value).startswith(caught.value.kind + ": ")
    return str(caught.value)


# Finding them.


def test_sources_have_names() -> None:
    assert source_names()[:4] == ["kis", "yahoo", "csv", "simulator"]
    assert open_source("simulator", Settings()).name == "simulator"
    with pytest.raises(SourceSetupError, match="no source 'bank'; there are kis, yahoo, csv, simulator"):
        open_source("bank:x", Settings())
    with pytest.raises(SourceSetupError, match="takes no argument"):
        open_source("simulator:x", Settings())


def install(directory: Path, monkeypatch: pytest.MonkeyPatch, points: str) -> None:
    """Put an installed package where Python looks for such."""
    (directory / "bank_prices.py").write_text(PLUGIN)
    metadata = directory / "bank_prices-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: bank-prices\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[fastws.sources]\n{points}\n")
    monkeypatch.syspath_prepend(str(directory))
    monkeypatch.delitem(sys.modules, "bank_prices", raising=False)


async def test_an_installed_package_can_bring_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "bank = bank_prices:BankSource\nsimulator = bank_prices:BankSource")
    assert source_names() == ["kis", "yahoo", "csv", "simulator", "bank"]
    source = open_source("bank:https://bank.example", Settings())
    assert vars(source) == {"address": "https://bank.example"}
    assert (await source.quotes([APPLE])).quotes == [Quote(code="AAPL", price=1)]
    with pytest.raises(SourceSetupError, match="needs its address"):
        open_source("bank", Settings())
    # The name of one of fastws is not taken from it.
    assert open_source("simulator", Settings()).symbols_per_call == 1000
    with pytest.raises(SourceSetupError, match="the source bank has no daily prices"):
        await source.days(APPLE, datetime.date(2026, 1, 1), datetime.date(2026, 1, 2))


@pytest.mark.parametrize(
    ("point", "problem"),
    [
        ("bank = bank_prices:nothing", "bank of bank-prices cannot be loaded: AttributeError"),
        ("bank = no_such_module:Bank", "bank of bank-prices cannot be loaded: ModuleNotFoundError"),
        ("bank = bank_prices:not_a_source", "bank of bank-prices is no class derived from Source"),
    ],
)
def test_a_source_that_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, problem: str
) -> None:
    install(tmp_path, monkeypatch, point)
    with pytest.raises(SourceSetupError, match=problem):
        open_source("bank", Settings())


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fastws.feeds.sources.yahoo", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "yfinance"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "yfinance", None)
    with pytest.raises(SourceSetupError, match=r'needs yfinance.*pip install "yfinance<2"'):
        open_source("yahoo", Settings())


async def test_the_example_of_the_documentation_works() -> None:
    source_text = textwrap.dedent((base.__doc__ or "").partition("A whole one::\n")[2])
    assert source_text.strip().startswith("class BankSource(Source):")
    names: dict[str, Any] = {**vars(base), "aiohttp": aiohttp, "json": json, "time": time, "Decimal": Decimal}
    names |= {"Settings": Settings, "Instrument": Instrument, "__name__": "example"}
    exec(compile(source_text, "example", "exec", dont_inherit=True), names)
    answers = [
        web.Response(text='[{"code":"AAPL","last":150.20}]'),
        web.Response(status=429, headers={"Retry-After": "7"}),
        web.Response(status=500),
        web.Response(text="<html>"),
    ]

    async def answer(request: web.Request) -> web.Response:
        assert request.query["of"] == "AAPL,005930"
        return answers.pop(0)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        source = names["BankSource"](f"http://127.0.0.1:{runner.addresses[0][1]}/", Settings())
        found = await source.quotes([APPLE, SAMSUNG])
        assert [(quote.code, str(quote.price)) for quote in found.quotes] == [("AAPL", "150.20")]
        with pytest.raises(SourceLimitError) as caught:
            await source.quotes([APPLE, SAMSUNG])
        assert caught.value.retry_after == 7.0
        for _ in range(2):
            with pytest.raises(SourceError, match="it gave no usable answer"):
                await source.quotes([APPLE, SAMSUNG])
    finally:
        await runner.cleanup()
    with pytest.raises(SourceSetupError, match="needs its address"):
        names["BankSource"]("", Settings())


# What is taken.


def test_digits_stay_and_changes_are_worked_out() -> None:
    update = take(price="150.25", previous_close="147.75", volume="50000000", high="151.00", low="148.50")
    assert [str(value) for value in (update.price, update.change, update.change_percent)] == [
        "150.25",
        "2.50",
        "1.69",
    ]
    assert (str(update.high), str(update.low), update.volume) == ("151.00", "148.50", 50_000_000)
    assert (update.quality, update.event_time_ms) == ("polled", 0)
    won = take(instrument=SAMSUNG, price=73000, change=1000, change_percent="1.39")
    assert (won.price, won.change, str(won.change_percent)) == (73000, 1000, "1.39")
    assert isinstance(won.price, int)
    assert str(take(price=150.1).price) == "150.1"
    assert str(take(price=Decimal("0.00001")).price) == "0.00001"


@pytest.mark.parametrize(
    ("price", "kind"),
    [
        (0, "not positive"),
        ("0.00", "not positive"),
        (-1, "not positive"),
        ("-0.5", "not positive"),
        (float("nan"), "malformed"),
        (Decimal("NaN"), "malformed"),
        ("NaN", "malformed"),
        (float("inf"), "malformed"),
        ("Infinity", "malformed"),
        ("", "malformed"),
        ("N/A", "malformed"),
        ("1,234", "malformed"),
        ("1_234", "malformed"),
        ("--5", "malformed"),
        ("٣", "malformed"),
        (True, "malformed"),
        ("1e99", "malformed"),
        ("9" * 30, "malformed"),
    ],
)
def test_what_is_no_price_is_refused(price: Any, kind: str) -> None:
    assert refusal(price=price).startswith(kind)


def test_a_stale_price_is_refused() -> None:
    assert take(time_ms=NOW_MS - 300_000).event_time_ms == NOW_MS - 300_000
    assert "stale: it is 301 s old, more than 300" in refusal(time_ms=NOW_MS - 301_000)
    # Late by agreement, or the last one of a market that is closed.
    assert take(time_ms=NOW_MS - 1_400_000, delay_s=1200)
    assert "stale" in refusal(time_ms=NOW_MS - 1_501_000, delay_s=1200)
    assert take(time_ms=NOW_MS - 3 * 86_400_000, is_closed=True)
    assert "stale" in refusal(time_ms=NOW_MS - 15 * 86_400_000, is_closed=True)
    assert "early: its time is 600 s ahead" in refusal(time_ms=NOW_MS + 600_000)
    assert take(time_ms=NOW_MS + 60_000)
    # The epoch is a time like any other.
    assert "stale" in refusal(time_ms=0)
    assert "stale" in refusal(time_ms=0, is_closed=True)


def test_time_does_not_go_back() -> None:
    checks = Checks(300.0)
    take(checks, time_ms=NOW_MS - 1000)
    take(checks, time_ms=NOW_MS - 1000)
    assert "stale: it is 9 s older than the last one" in refusal(checks, time_ms=NOW_MS - 10_000)
    take(checks, instrument=SAMSUNG, price=1, time_ms=NOW_MS - 10_000)
    take(checks, time_ms=NOW_MS)


def test_another_currency_is_refused() -> None:
    assert "currency: the price is in GBp, the instrument in USD" in refusal(currency="GBp")
    assert take(currency="USD")
    # A portfolio would count it in its own currency.
    with pytest.raises(
        RefusedError, match="the price is in KRW, the instrument has no currency; give it one"
    ):
        take(instrument=Instrument("NOCUR"), price=75000, currency="KRW")
    assert take(instrument=Instrument("NOCUR"))


@pytest.mark.parametrize(
    "members",
    [
        {"high": "NaN", "low": 0},
        {"high": "149", "low": "148"},  # the price is above its day's limits
        {"volume": "-1"},
        {"volume": "1.5"},
        {"volume": float("nan")},
        {"change": "x", "change_percent": "y"},
        {"previous_close": "0"},
        {"previous_close": float("inf")},
    ],
)
def test_what_goes_with_a_price_and_is_wrong_is_left_out(members: dict[str, Any]) -> None:
    update = take(**members)
    assert str(update.price) == "150.25"
    assert {update.high, update.low, update.volume, update.change, update.change_percent} == {None}


@given(
    st.one_of(st.text(max_size=30), st.floats(), st.integers(), st.decimals(), st.booleans(), st.none()),
    st.one_of(st.text(max_size=30), st.floats(), st.integers(), st.decimals(), st.none()),
)
def test_whatever_is_said_a_price_is_above_zero(price: Any, other: Any) -> None:
    quote = Quote(code="AAPL", price=price, previous_close=other, volume=other, high=other, change=other)
    try:
        update = Checks(300.0).take(quote, APPLE, "polled", NOW_MS)
    except RefusedError:
        return
    assert 0 < update.price < 2**63
    assert update.high is None or update.high >= update.price
    assert update.volume is None or update.volume >= 0


def test_days_are_checked() -> None:
    def on(n: int) -> datetime.date:
        return datetime.date(2026, 11, n)

    days = [
        Day(date=on(20), close="150.25", open="0", high="nan", low="148.50", volume="5"),
        Day(date=on(19), close="0"),
        Day(date=on(18), close=Decimal("149.10"), volume=-1),
        Day(date=on(20), close="1"),
        Day(date=on(1), close="2"),
        Day(date=on(17), close=None),
    ]
    taken, refused = check_days(days, APPLE, on(10), on(20), on(21))
    assert [(day.date, str(day.close), day.open, day.high, day.low, day.volume) for day in taken] == [
        (on(18), "149.10", None, None, None, None),
        (on(20), "150.25", None, None, Decimal("148.50"), 5),
    ]
    assert {day.symbol for day in taken} == {"AAPL"}
    assert refused == {on(19): "not positive: close: 0", on(17): "malformed: close: there is none"}


def test_days_of_another_currency_and_of_the_future_are_refused() -> None:
    def on(n: int) -> datetime.date:
        return datetime.date(2026, 11, n)

    days = [
        Day(date=on(18), close="71.5", currency="GBp"),
        Day(date=on(19), close="0.715", currency="GBP"),
        Day(date=on(20), close="0.716"),
        Day(date=on(21), close="99.5", currency="GBP"),
    ]
    taken, refused = check_days(days, Instrument("VOD", currency="GBP"), on(10), on(22), on(20))
    assert [day.date for day in taken] == [on(19), on(20)]
    assert refused == {
        on(18): "currency: the price is in GBp, the instrument in GBP",
        on(21): "early: the day is not over",
    }
    taken, refused = check_days(days, Instrument("VOD"), on(10), on(20), on(20))
    assert [day.date for day in taken] == [on(20)]
    assert refused[on(19)] == "currency: the price is in GBP, the instrument has no currency; give it one"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("Fri, 21 Nov 2025 08:31:00 GMT", 60.0),
        ("Fri, 21 Nov 2025 08:29:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert seconds_of({"Retry-After": text}, NOW) == seconds
    assert seconds_of({}, NOW) is None


# Leaving them alone.


def test_the_breaker_opens_after_failures_in_a_row() -> None:
    breaker = Breaker(first=2.0, last=10.0, rng=random.Random(1))
    for n in range(2):
        breaker.fail("down", float(n))
        assert not breaker.is_open
    breaker.succeed()
    for n in range(3):
        breaker.fail("down", float(n))
    assert breaker.is_open
    wait = breaker.wait(2.0)
    assert 2.0 <= wait <= 4.0
    # Half-open: one failure opens it anew, for longer, and one success closes it.
    now = 2.0 + wait
    assert breaker.wait(now) == 0.0
    longest = 0.0
    for _ in range(20):
        breaker.fail("down", now)
        longest = max(longest, breaker.wait(now))
        now += breaker.wait(now)
    assert 4.0 < longest <= 10.0
    breaker.succeed()
    assert (breaker.is_open, breaker.wait(now), breaker.reason) == (False, 0.0, "")
    breaker.fail("down", now)
    assert not breaker.is_open


def test_a_source_is_left_alone_for_as_long_as_it_asks() -> None:
    breaker = Breaker(first=2.0, last=10.0)
    breaker.hold("429", 100.0, 30.0)
    assert (breaker.is_open, breaker.wait(100.0), breaker.wait(131.0)) == (True, 30.0, 0.0)
    breaker.hold("429", 100.0, 1e9)
    assert breaker.wait(100.0) == 3600.0
    breaker.succeed()
    breaker.hold("429", 100.0, None)
    assert 2.0 <= breaker.wait(100.0) <= 4.0
