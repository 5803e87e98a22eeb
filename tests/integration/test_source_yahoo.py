"""The source yahoo with the real yfinance, against a stand-in for Yahoo's hosts."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from fastws._market import Instrument
from fastws.feeds.asker import Asker, Polled, SourceAwayError
from fastws.feeds.breaker import Breaker
from fastws.feeds.sources import NoPricesError, open_source
from fastws.settings import Settings
from tests.serving import require_module
from tests.yahoo import FakeYahoo, chart, quote

yfinance = require_module("yfinance")

APPLE = Instrument("AAPL", "Apple", "NASDAQ", currency="USD")
MICROSOFT = Instrument("MSFT", "Microsoft", "NASDAQ", currency="USD")
SAMSUNG = Instrument("005930", "Samsung", "KOSPI", currency="KRW")
KAKAO = Instrument("035720", "Kakao", "KOSDAQ", currency="KRW")
TODAY = datetime.datetime.now(datetime.UTC).date()


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """yfinance keeps its cookie in one place for the process, which is not to be that of who runs the tests."""
    yfinance.set_tz_cache_location(str(tmp_path_factory.mktemp("yfinance")))


@pytest.fixture
async def yahoo(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeYahoo]:
    async with FakeYahoo() as stand_in:
        for name, value in stand_in.variables.items():
            monkeypatch.setenv(name, value)
        # It has one session and one crumb for the process, too.
        data = yfinance.data.YfData(session=yfinance._http.new_session())
        data._crumb = data._cookie = None
        data._cookie_strategy = "basic"
        yield stand_in
        data._session.close()


@pytest.fixture
async def asker() -> AsyncIterator[Asker]:
    source = open_source("yahoo", Settings())
    source.min_interval = 0.0
    yield Asker(source, max_age=300.0, breaker=Breaker(first=0.5, last=1.0), sleep=briefly)
    await source.close()


async def briefly(seconds: float) -> None:
    """The pauses between tries are proven elsewhere."""
    await asyncio.sleep(seconds / 20)


async def ask(asker: Asker, *instruments: Instrument, patience: float = 0.0) -> Polled:
    return await asker.quotes(instruments, patience)


async def test_quotes_come_in_one_call_with_their_digits(yahoo: FakeYahoo, asker: Asker) -> None:
    at = int(time.time()) - 7
    yahoo.rows = {
        "AAPL": quote(
            "AAPL",
            150.25,
            regularMarketPreviousClose=147.75,
            regularMarketDayHigh=151.0,
            regularMarketDayLow=148.495,
            regularMarketVolume=50_000_000,
            regularMarketTime=at,
        ),
        "MSFT": quote("MSFT", 410.3, regularMarketPreviousClose=411.10000999),
        "005930.KS": quote(
            "005930.KS", 73000.0, currency="KRW", exchangeDataDelayedBy=20, regularMarketPreviousClose=72000.0,
            regularMarketTime=at - 1300,
        ),
        "035720.KQ": quote("035720.KQ", 41550.0, currency="KRW", marketState="CLOSED", regularMarketTime=at - 200_000),
    }  # fmt: skip
    updates, failed = await ask(asker, APPLE, MICROSOFT, SAMSUNG, KAKAO)
    assert failed == {}
    assert yahoo.calls == ["AAPL,MSFT,005930.KS,035720.KQ"]
    shown = {
        update.instrument.code: [
            str(value)
            for value in (update.price, update.change, update.change_percent, update.high, update.low)
        ]
        for update in updates
    }
    assert shown == {
        "AAPL": ["150.25", "2.50", "1.69", "151.00", "148.495"],
        "MSFT": ["410.30", "-0.80", "-0.19", "None", "None"],
        "005930": ["73000", "1000", "1.39", "None", "None"],
        "035720": ["41550", "None", "None", "None", "None"],
    }
    assert (updates[0].volume, updates[0].event_time_ms, updates[0].quality) == (
        50_000_000,
        at * 1000,
        "polled",
    )


async def test_a_fund_has_one_price_a_day(yahoo: FakeYahoo, asker: Asker) -> None:
    fund = Instrument("VFIAX", currency="USD")
    yahoo.rows = {
        "VFIAX": quote("VFIAX", 612.34, quoteType="MUTUALFUND", regularMarketTime=int(time.time()) - 80_000)
    }
    updates, failed = await ask(asker, fund)
    assert ([str(update.price) for update in updates], failed) == (["612.34"], {})


async def test_a_wrong_price_is_refused_and_named(yahoo: FakeYahoo, asker: Asker) -> None:
    prices: dict[str, tuple[Any, dict[str, Any], str]] = {
        "ZERO": (0.0, {}, "not positive: price: 0"),
        "BELOW": (-3.5, {}, "not positive: price: -3.50"),
        "NAN": (float("nan"), {}, "malformed: price: 'NaN' is no number"),
        "INF": (float("inf"), {}, "malformed: price: 'Infinity' is no number"),
        "NULL": (None, {}, "malformed: price: there is none"),
        "TEXT": ("1.5", {}, ""),
        "WORD": ("n/a", {}, "malformed: price: 'n/a' is no number"),
        "DICT": ({"raw": 1}, {}, "malformed: price: \"{'raw': 1}\" is no number"),
        "HUGE": (1e300, {}, "malformed: price: "),
        "OLD": (150.0, {"regularMarketTime": int(time.time()) - 4000}, "stale: it is 400"),
        "PENCE": (150.0, {"currency": "GBp"}, "currency: the price is in GBp, the instrument in GBP"),
        "NONE": (150.0, {}, "currency: the price is in USD, the instrument has no currency"),
        "GOOD": (1.0, {}, ""),
    }
    yahoo.rows = {symbol: quote(symbol, price, **others) for symbol, (price, others, _) in prices.items()}
    instruments = [Instrument(symbol, currency="GBP" if symbol == "PENCE" else "USD") for symbol in prices]
    instruments[list(prices).index("NONE")] = Instrument("NONE")
    updates, failed = await ask(asker, *instruments, Instrument("GONE"))
    assert {update.instrument.code: str(update.price) for update in updates} == {
        "TEXT": "1.5",
        "GOOD": "1.00",
    }
    for symbol, (_, _, reason) in prices.items():
        assert failed.get(symbol, "").startswith(reason), symbol
    assert failed["GONE"] == "missing: not in the answer"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ((500, "<html>oops</html>", "text/html"), "it answers with HTTP 500"),
        ((200, "<html>consent</html>", "text/html"), "no JSON"),
        ((200, '{"quoteResponse":', "application/json"), "no JSON"),
        ((200, "[]", "application/json"), "no JSON"),
        ((200, '{"quoteResponse":{"result":null}}', "application/json"), "its answer has no quotes"),
        (
            (401, '{"finance":{"error":{"code":"Unauthorized","description":"Invalid Crumb"}}}', "application/json"),
            "its answer has no quoteResponse: Invalid Crumb",
        ),
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_is_asked_for_again(
    yahoo: FakeYahoo, asker: Asker, response: tuple[int, str, str], reason: str
) -> None:
    status, text, kind = response
    yahoo.rows = {"AAPL": quote("AAPL", 150.25)}
    yahoo.spoil = lambda: web.Response(status=status, text=text, content_type=kind)
    with pytest.raises(SourceAwayError) as caught:
        await ask(asker, APPLE)
    assert reason in str(caught.value)
    assert asker.counts["failed"] == 3
    yahoo.spoil = lambda: None
    assert (await ask(asker, APPLE, patience=10.0)).updates


async def test_too_many_calls(yahoo: FakeYahoo, asker: Asker) -> None:
    yahoo.rows = {"AAPL": quote("AAPL", 150.25)}
    yahoo.spoil = lambda: web.Response(status=429, text="Too Many Requests\r\n")
    with pytest.raises(
        SourceAwayError, match=r"takes no more calls from this address \(HTTP 429\)"
    ) as caught:
        await ask(asker, APPLE)
    assert asker.counts == {"answered": 0, "failed": 0, "limited": 1, "refused": 0}
    assert caught.value.retry_in > 0.0
    yahoo.spoil = lambda: None
    assert (await ask(asker, APPLE, patience=10.0)).updates


async def test_a_slow_yahoo_is_given_up(yahoo: FakeYahoo) -> None:
    yahoo.rows = {"AAPL": quote("AAPL", 150.25)}
    yahoo.delay = 0.5
    source = open_source("yahoo", Settings())
    source.min_interval = 0.0
    asker = Asker(source, max_age=300.0, time_limit=0.2, breaker=Breaker(first=0.1, last=0.2), sleep=briefly)
    with pytest.raises(SourceAwayError, match=r"it gave no answer within 0\.2 s"):
        await ask(asker, APPLE)
    yahoo.delay = 0.0
    # What was given up has its own end, and is waited for by nobody.
    async with asyncio.timeout(20):
        while True:
            try:
                assert (await ask(asker, APPLE, patience=5.0)).updates
                return
            except SourceAwayError:
                continue


async def test_a_yahoo_that_is_away(yahoo: FakeYahoo, asker: Asker) -> None:
    await yahoo.vanish()
    with pytest.raises(SourceAwayError, match="it cannot be reached: "):
        await ask(asker, APPLE)
    assert asker.counts["failed"] == 3


async def test_daily_prices(yahoo: FakeYahoo, asker: Asker) -> None:
    # Single precision, as charts have it; a day without trades; and today, whose session is under way.
    days = [TODAY - datetime.timedelta(days=n) for n in (4, 3, 2)]

    def opening(date: datetime.date) -> int:
        return int(datetime.datetime.combine(date, datetime.time(14, 30), datetime.UTC).timestamp())

    now = int(time.time())
    local_today = datetime.datetime.fromtimestamp(now, datetime.timezone(datetime.timedelta(hours=-5))).date()
    closes = [150.25999450683594, None, 5753.77978515625, 999.0]
    yahoo.charts = {
        "AAPL": chart(
            "AAPL",
            list(zip(map(opening, [*days, local_today]), closes, strict=True)),
            currentTradingPeriod={"regular": {"start": now - 60, "end": now + 3600, "gmtoffset": -18000}},
        )
    }
    first = TODAY - datetime.timedelta(days=30)
    rows, refused = await asker.days(APPLE, first, TODAY, 0.0)
    assert refused == {}
    assert [
        (row.date, str(row.open), str(row.high), str(row.low), str(row.close), row.volume) for row in rows
    ] == [
        (days[0], "149.76", "151.26", "149.26", "150.26", 48_000_000),
        (days[2], "5753.28", "5754.78", "5752.78", "5753.78", 48_000_000),
    ]
    with pytest.raises(NoPricesError, match="No data found, symbol may be delisted"):
        await asker.days(Instrument("GONE"), first, TODAY, 0.0)
    assert asker.counts["failed"] == 0
    # An instrument in another currency has none of these, nor has one without any.
    for instrument in (Instrument("AAPL", currency="GBP"), Instrument("AAPL")):
        rows, refused = await asker.days(instrument, first, TODAY, 0.0)
        assert rows == []
        assert all(reason.startswith("currency: the price is in USD") for reason in refused.values())
    # Once the session is over, today is a day like any other.
    yahoo.charts["AAPL"]["chart"]["result"][0]["meta"]["currentTradingPeriod"]["regular"]["end"] = now - 5
    rows, _ = await asker.days(APPLE, first, TODAY, 0.0)
    assert [row.date for row in rows][-1] == local_today
