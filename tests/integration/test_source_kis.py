"""The source kis against the fake KIS server, over a real socket."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastws._market import Instrument
from fastws.feeds.asker import Asker, SourceAwayError
from fastws.feeds.breaker import Breaker
from fastws.feeds.sources import NoPricesError, SourceSetupError, open_source
from fastws.kis import auth
from fastws.kis.testing import FakeKIS
from fastws.market.sessions import KST
from fastws.settings import Settings

SAMSUNG = Instrument("005930", "Samsung", "KOSPI", currency="KRW")
HYNIX = Instrument("000660", "Hynix", "KOSPI", currency="KRW")
QUOTATIONS = "quotations"


@pytest.fixture(autouse=True)
def no_tokens() -> Iterator[None]:
    """Tokens are kept for the process, and those of another fake server are not good for this one."""
    yield
    auth._tokens.clear()


async def briefly(seconds: float) -> None:
    await asyncio.sleep(seconds / 20)


@asynccontextmanager
async def asking(
    monkeypatch: pytest.MonkeyPatch, time_limit: float = 5.0, **settings: Any
) -> AsyncIterator[tuple[FakeKIS, Asker]]:
    async with FakeKIS(rate=50, token_interval=0, **settings) as kis:
        for name, value in kis.variables().items():
            monkeypatch.setenv(name, value)
        source = open_source("kis", Settings())
        source.min_interval = 0.0
        breaker = Breaker(first=0.5, last=1.0)
        try:
            yield kis, Asker(source, max_age=300.0, time_limit=time_limit, breaker=breaker, sleep=briefly)
        finally:
            await source.close()


async def test_prices_come_thirty_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(monkeypatch) as (kis, asker):
        assert asker.source.symbols_per_call == 30
        assert asker.source.serves(SAMSUNG)
        assert not asker.source.serves(Instrument("AAPL", currency="USD"))
        assert not asker.source.serves(Instrument("BRK-B"))
        updates, failed = await asker.quotes([SAMSUNG, HYNIX], 0.0)
        assert failed == {}
        calls = [call for call in kis.journal.calls if "quotations" in call.path]
        assert [call.symbols for call in calls] == [2]
        for update, code in zip(updates, ("005930", "000660"), strict=True):
            row = kis.market.quote(code, "UN")
            assert row is not None
            assert update.instrument.code == code
            assert isinstance(update.price, int)
            assert update.price > 0
            assert update.change == update.price - int(row["stck_sdpr"])
            assert (update.venue, update.quality) == ("UN", "polled")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"inter2_prpr": "0"}, "not positive: price: 0"),
        ({"inter2_prpr": ""}, "not positive: price: None"),
        ({"inter2_prpr": "nan"}, "malformed: price"),
        ({"inter2_prpr": "-72000"}, "not positive: price: -72000"),
        ({"inter2_prpr": "7x"}, "malformed: price"),
        ({"inter_shrn_iscd": "123456"}, "missing: not in the answer"),
    ],
)
async def test_a_wrong_price_is_refused_and_named(
    monkeypatch: pytest.MonkeyPatch, row: dict[str, str], reason: str
) -> None:
    good = {"inter_shrn_iscd": "000660", "inter2_prpr": "210500", "prdy_vrss_sign": "3", "acml_vol": "5"}
    bad = {"inter_shrn_iscd": "005930", "inter2_prpr": "72000", "prdy_vrss_sign": "3"} | row
    async with asking(monkeypatch) as (kis, asker):
        kis.do("rest", of=QUOTATIONS, body=json.dumps({"rt_cd": "0", "msg_cd": "", "output": [bad, good]}))
        updates, failed = await asker.quotes([SAMSUNG, HYNIX], 0.0)
        assert [(update.instrument.code, update.price) for update in updates] == [("000660", 210500)]
        assert failed["005930"].startswith(reason)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 503}, "HTTP 503"),
        ({"body": "<html>"}, "HTTP 200"),
        ({"delay": 0.4}, "it gave no answer within 0.1 s"),
    ],
)
async def test_a_call_that_fails_is_made_again(
    monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any], reason: str
) -> None:
    time_limit = 0.1 if "delay" in fault else 5.0
    async with asking(monkeypatch, time_limit) as (kis, asker):
        await asker.quotes([SAMSUNG], 0.0)
        kis.do("rest", of=QUOTATIONS, times=3, **fault)
        with pytest.raises(SourceAwayError) as caught:
            await asker.quotes([SAMSUNG], 0.0)
        assert reason in str(caught.value)
        assert asker.counts["failed"] == 3
        # It was the source, which is back.
        assert (await asker.quotes([SAMSUNG], 5.0)).updates


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        ({"status": 500, "code": "EGW00201"}, 1.0),
        ({"status": 429}, 1.0),
        ({"status": 429, "retry_after": 4}, 4.0),
    ],
)
async def test_too_many_calls(monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any], seconds: float) -> None:
    async with asking(monkeypatch) as (kis, asker):
        kis.do("rest", of=QUOTATIONS, **fault)
        with pytest.raises(SourceAwayError, match="too many calls") as caught:
            await asker.quotes([SAMSUNG], 0.0)
        assert seconds - 0.5 < caught.value.retry_in <= seconds
        assert asker.counts["limited"] == 1
        # `briefly` makes the wait short; the source is not asked before.
        assert (await asker.quotes([SAMSUNG], 5.0)).updates


async def test_a_bad_symbol_is_refused_and_the_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Instrument("999999", currency="KRW")
    refusal = json.dumps({"rt_cd": "1", "msg_cd": "OPSQ2001", "msg1": "no such symbol"})
    async with asking(monkeypatch) as (kis, asker):
        # KIS refuses the three together, and then, of those that are asked for alone, the first.
        kis.do("rest", of=QUOTATIONS, times=2, body=refusal)
        updates, failed = await asker.quotes([bad, SAMSUNG, HYNIX], 0.0)
        assert [update.instrument.code for update in updates] == ["005930", "000660"]
        assert failed == {"999999": "refused: KIS says: no such symbol (OPSQ2001)"}
        assert asker.counts["failed"] == 0
        assert not asker.breaker.is_open
        # It is left out for a while, and the others go together again.
        n = len(kis.journal.calls)
        updates, failed = await asker.quotes([bad, SAMSUNG, HYNIX], 0.0)
        assert len(updates) == 2
        assert failed.keys() == {"999999"}
        assert [call.symbols for call in list(kis.journal.calls)[n:]] == [2]
        # Also when it is asked for alone it is no failure of KIS.
        kis.do("rest", of=QUOTATIONS, body=refusal)
        other = Instrument("888888", currency="KRW")
        assert (await asker.quotes([other], 0.0)).failed.keys() == {"888888"}
        kis.do("rest", of=QUOTATIONS, body=refusal)
        today = datetime.datetime.now(KST).date()
        with pytest.raises(NoPricesError, match="KIS says: no such symbol"):
            await asker.days(bad, today - datetime.timedelta(days=5), today, 0.0)
        assert asker.counts["failed"] == 0


async def test_a_kis_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(monkeypatch) as (kis, asker):
        await asker.quotes([SAMSUNG], 0.0)
        await kis.stop()
        with pytest.raises(SourceAwayError, match="cannot be reached"):
            await asker.quotes([SAMSUNG], 0.0)


async def test_daily_prices_of_days_that_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(monkeypatch) as (kis, asker):
        now = datetime.datetime.now(KST)
        first = now.date() - datetime.timedelta(days=200)
        rows, refused = await asker.days(SAMSUNG, first, now.date() + datetime.timedelta(days=1), 0.0)
        assert refused == {}
        is_over = now.time() >= datetime.time(15, 40)
        last = now.date() if is_over else now.date() - datetime.timedelta(days=1)
        weekdays = [first + datetime.timedelta(days=n) for n in range((last - first).days + 1)]
        assert [row.date for row in rows] == [date for date in weekdays if date.weekday() < 5]
        assert all(isinstance(row.close, int) and row.close > 0 for row in rows)
        assert all(row.low <= row.open <= row.high for row in rows if row.low and row.open and row.high)
        assert sum("itemchartprice" in call.path for call in kis.journal.calls) >= 2


async def test_paper_trading_is_asked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(monkeypatch, environment="paper", rest_rate=100) as (_, asker):
        assert asker.source.symbols_per_call == 1
        (update,) = (await asker.quotes([SAMSUNG], 0.0)).updates
        assert update.venue == "KRX"


def test_without_keys_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KIS_APP_KEY", "KIS_APP_SECRET", "KIS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SourceSetupError, match="set KIS_APP_KEY"):
        open_source("kis", Settings())
    with pytest.raises(SourceSetupError, match="takes no argument"):
        open_source("kis:x", Settings())


async def test_no_token_yet_is_a_pause_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with asking(monkeypatch) as (kis, asker):
        kis.do("rest", of="token", code="EGW00133", times=1)
        with pytest.raises(SourceAwayError, match="one access token a minute") as caught:
            await asker.quotes([SAMSUNG], 1.0)
        assert caught.value.retry_in == pytest.approx(60.0, abs=5.0)
