"""Prices from Yahoo Finance through `yfinance`, which knows its cookies and crumbs; the extra ``fastws[yahoo]``."""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote as quoted

from yfinance.cache import _CookieDBManager
from yfinance.const import _BASE_URL_, _QUERY1_URL_
from yfinance.data import YfData
from yfinance.exceptions import YFRateLimitError

from fastws._market import Instrument
from fastws.feeds.sources.base import (
    Answer,
    Day,
    NoPricesError,
    Number,
    Quote,
    Source,
    SourceError,
    SourceLimitError,
    SourceSetupError,
)
from fastws.market.jobs import Job, Worker

if TYPE_CHECKING:
    from fastws.settings import Settings

Result = TypeVar("Result")

_SUFFIXES: Final = {"KOSPI": ".KS", "KOSDAQ": ".KQ"}
_FIELDS: Final = (
    "currency,exchangeDataDelayedBy,marketState,priceHint,regularMarketDayHigh,regularMarketDayLow,"
    "regularMarketPreviousClose,regularMarketPrice,regularMarketTime,regularMarketVolume"
)
# Prices of these have no decimals; what Yahoo appends is none of the source's digits.
_WHOLE: Final = frozenset({"KRW", "VND", "CLP", "PYG", "ISK"})
_TIMEOUT: Final = 8.0
_DIGITS: Final = 2
_FAR_TOO_MUCH: Final = 10**15


class YahooSource(Source):
    """Asks Yahoo for quotes, up to 50 at a time, and for daily charts.

    A Korean code gets the suffix that Yahoo knows it by (005930.KS); `symbol` elsewhere is Yahoo's own. Yahoo writes
    doubles, some of which were single-precision before (5753.77978515625), and says with each how many decimals its
    price has. Prices of quotes are rounded to two more than that, because trades happen between ticks, and zeros at the
    end are taken off again down to that many; those of charts, which are less exact, to just that many. Prices in won
    are whole.

    Yahoo allows this by tolerance and not by contract: a few thousand calls an hour and address. Those that it refuses
    (HTTP 429) do not say for how long.
    """

    name = "yahoo"
    symbols_per_call = 50
    min_interval = 1.0

    def __init__(self, argument: str, settings: Settings) -> None:
        if argument:
            raise SourceSetupError(f"the source yahoo takes no argument, not {argument!r}")
        # yfinance blocks. In a thread of its own neither the loop nor the end of the process waits for it.
        self._worker: Worker[None] | None = None

    async def quotes(self, instruments: Sequence[Instrument]) -> Answer:
        codes = {_symbol(instrument): instrument.code for instrument in instruments}
        parameters = {"symbols": ",".join(codes), "fields": _FIELDS, "formatted": "false"}
        body = await self._get(f"{_QUERY1_URL_}/v7/finance/quote", parameters)
        rows = _member(body, "quoteResponse").get("result")
        if not isinstance(rows, list):
            raise SourceError("its answer has no quotes")
        quotes = []
        for row in rows:
            code = codes.get(row.get("symbol", "").upper()) if isinstance(row, dict) else None
            if code is not None:
                quotes.append(_quote(code, row))
        return Answer(quotes)

    async def days(self, instrument: Instrument, first: datetime.date, last: datetime.date) -> Sequence[Day]:
        # With room on both sides for what is another day there; what is too much is left out by who asked.
        since = datetime.datetime.combine(first, datetime.time(), datetime.UTC) - datetime.timedelta(days=1)
        until = datetime.datetime.combine(last, datetime.time(), datetime.UTC) + datetime.timedelta(days=2)
        parameters = {
            "period1": str(int(since.timestamp())),
            "period2": str(int(until.timestamp())),
            "interval": "1d",
            "includePrePost": "false",
        }
        path = f"/v8/finance/chart/{quoted(_symbol(instrument), safe='')}"
        chart = _member(await self._get(_BASE_URL_ + path, parameters), "chart")
        if isinstance(error := chart.get("error"), dict):
            raise NoPricesError(f"it says: {str(error.get('description'))[:200]}")
        try:
            return list(_chart_days(chart["result"][0], time.time()))
        except (KeyError, IndexError, TypeError) as error:
            raise SourceError(f"its chart of {instrument.code} cannot be read: {error!r}") from None

    async def close(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    async def _get(self, url: str, parameters: dict[str, str]) -> dict[str, Any]:
        status, text = await self._in_thread(lambda: _fetch(url, parameters))
        try:
            body = json.loads(text, parse_float=Decimal, parse_constant=str)
        except ValueError:
            body = None
        if status >= 500 or not isinstance(body, dict):
            raise SourceError(f"it answers with HTTP {status}" + ("" if status >= 400 else " and no JSON"))
        return body

    async def _in_thread(self, function: Callable[[], Result]) -> Result:
        """Wait for `function`; one that was given up goes on to its own end, and the next waits for that."""
        if self._worker is None:
            self._worker = Worker("fastws-yahoo", _do, _close_cache)
            self._worker.start()
        return await asyncio.wrap_future(self._worker.add(lambda _: function()))


def _do(job: Job[None, Any]) -> None:
    try:
        result = job.function(None)
    except BaseException as error:  # whatever it is, it belongs to the asker, and the thread goes on
        job.future.set_exception(error)
    else:
        job.future.set_result(result)


def _close_cache() -> None:
    # yfinance keeps its cookie in a database, to which each thread has a connection of its own.
    _CookieDBManager.close_db()


def _fetch(url: str, parameters: dict[str, str]) -> tuple[int, str]:
    try:
        response = YfData().get(url, parameters, timeout=_TIMEOUT)
    except YFRateLimitError:
        raise SourceLimitError("it takes no more calls from this address (HTTP 429)") from None
    except Exception as error:
        # What the session raises depends on which of two HTTP libraries yfinance has found.
        reason = str(error).partition(" See https://")[0].rstrip(".") or type(error).__name__
        raise SourceError(f"it cannot be reached: {reason[:200]}") from None
    if response.status_code == 429:
        raise SourceLimitError("it takes no more calls from this address (HTTP 429)")
    return response.status_code, response.text


def _symbol(instrument: Instrument) -> str:
    """What Yahoo calls an instrument."""
    return (instrument.code + _SUFFIXES.get(instrument.market or "", "")).upper()


def _member(body: dict[str, Any], name: str) -> dict[str, Any]:
    found = body.get(name)
    if not isinstance(found, dict):
        # A refusal is {"finance":{"error":{"code":…,"description":…}}}.
        finance = body.get("finance")
        error = finance.get("error") if isinstance(finance, dict) else None
        said = (
            f": {str(error.get('description') or error.get('code'))[:200]}" if isinstance(error, dict) else ""
        )
        raise SourceError(f"its answer has no {name}{said}")
    return found


def _quote(code: str, row: dict[str, Any]) -> Quote:
    hint, currency = row.get("priceHint"), row.get("currency")

    def price(name: str) -> Number | None:
        return _rounded(row.get(name), hint, currency, n_more=_DIGITS)

    last = price("regularMarketPrice")
    at, delay = row.get("regularMarketTime"), row.get("exchangeDataDelayedBy")
    volume = row.get("regularMarketVolume")
    return Quote(
        code=code,
        price="" if last is None else last,
        previous_close=price("regularMarketPreviousClose"),
        volume=volume if isinstance(volume, (int, Decimal)) else None,
        high=price("regularMarketDayHigh"),
        low=price("regularMarketDayLow"),
        currency=currency if isinstance(currency, str) else None,
        time_ms=int(at) * 1000 if isinstance(at, int) else None,
        delay_s=60.0 * float(delay) if isinstance(delay, (int, Decimal)) else 0.0,
        # A fund has one price a day, also while the market is open.
        is_closed=row.get("marketState") not in ("REGULAR", None) or row.get("quoteType") == "MUTUALFUND",
    )


def _chart_days(result: dict[str, Any], now: float) -> Iterator[Day]:
    meta, times = result["meta"], result.get("timestamp") or []
    values = result["indicators"]["quote"][0]
    zone = datetime.timezone(datetime.timedelta(seconds=int(meta["gmtoffset"])))
    today = datetime.datetime.fromtimestamp(now, zone).date()
    currency = meta.get("currency")
    regular = meta.get("currentTradingPeriod", {}).get("regular", {})
    end = regular.get("end")
    is_over = isinstance(end, int) and now >= end and _date(end, zone) >= today

    def price(name: str, i: int) -> Number | None:
        return _rounded(values[name][i], meta.get("priceHint"), currency, n_more=0)

    for i, at in enumerate(times):
        date = _date(at, zone)
        if date > today or (date == today and not is_over):
            continue
        # A day on which nothing was traded has nulls.
        if values["close"][i] is not None:
            yield Day(
                date=date,
                close=price("close", i),
                open=price("open", i),
                high=price("high", i),
                low=price("low", i),
                volume=values["volume"][i],
                currency=currency if isinstance(currency, str) else None,
            )


def _date(at: int, zone: datetime.timezone) -> datetime.date:
    return datetime.datetime.fromtimestamp(at, zone).date()


def _rounded(value: Any, hint: Any, currency: Any, *, n_more: int) -> Number | None:
    """A price of Yahoo's with the digits that it has; what is no price is returned as a text."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        return str(value)
    if not -_FAR_TOO_MUCH < value < _FAR_TOO_MUCH:
        return str(value)
    n_digits = hint if isinstance(hint, int) and hint in range(9) else _DIGITS
    if currency in _WHOLE and value == int(value):
        return int(value)
    number = Decimal(value).quantize(Decimal(1).scaleb(-n_digits - n_more), ROUND_HALF_EVEN)
    for _ in range(n_more):
        shorter = number.quantize(Decimal(1).scaleb(int(number.as_tuple().exponent) + 1))
        if shorter != number:
            break
        number = shorter
    return number
