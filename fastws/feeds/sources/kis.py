"""Prices of Korean stocks from KIS, asked for over REST."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from fastws._market import Instrument, PriceUpdate
from fastws.feeds.kis.keys import find_keys
from fastws.feeds.kis.quotations import (
    DAYS_PER_CALL,
    SYMBOLS_PER_CALL,
    Call,
    days_call,
    price_call,
    read_days,
    read_prices,
)
from fastws.feeds.kis.rest import CallRefusedError, RestClient, TooFastError
from fastws.feeds.kis.symbols import is_servable
from fastws.feeds.sources.base import (
    Answer,
    Day,
    NoPricesError,
    Quote,
    Source,
    SourceError,
    SourceLimitError,
    SourceSetupError,
)
from fastws.kis.errors import KISConnectionError, KISCredentialsError
from fastws.market.sessions import KST

if TYPE_CHECKING:
    from fastws.settings import Settings

# The closing auction of KRX ends at 15:30; the close is known a little later.
_CLOSE_KNOWN: Final = datetime.time(15, 40)
_RATE: Final = 15.0
_PAPER_RATE: Final = 0.8
_TOO_FAST_SECONDS: Final = 1.0
_WON: Final = "KRW"
# How much of a call's time goes by with symbols that are asked for alone; the others come with the next.
_ALONE_SECONDS: Final = 4.0
_REFUSED_SECONDS: Final = 60.0
_SUSPECT: Final = "refused: it is asked for alone in its turn"
_AT_ONCE: Final = -float("inf")


class KISSource(Source):
    """Asks KIS for domestic stocks, with the first app key of `kis_keys` or that of the KIS_* variables.

    `kis_exchange` says whose prices, and `kis_poll_rate` how many calls a second. KIS does not say when a price was
    made, so its age is that of the answer. Daily prices are those of KRX, as they were traded.

    One symbol that KIS does not know has it refuse all that are asked for with it. Then each is asked for alone, and
    what is refused alone is left out for a minute.
    """

    name = "kis"

    def __init__(self, argument: str, settings: Settings) -> None:
        if argument:
            raise SourceSetupError(f"the source kis takes no argument, not {argument!r}")
        try:
            auth = find_keys(settings.kis_keys)[0]
        except KISCredentialsError as error:
            raise SourceSetupError(str(error)) from None
        is_paper = auth.credentials.is_paper
        exchange = settings.kis_exchange
        if exchange == "auto":
            exchange = "KRX" if is_paper else "UN"
        self._exchange = "UN" if exchange == "SOR" else exchange
        self.symbols_per_call = 1 if is_paper else SYMBOLS_PER_CALL
        self.min_interval = 1.0 / (settings.kis_poll_rate or (_PAPER_RATE if is_paper else _RATE))
        self._client = RestClient(auth)
        self._next_call_at = -float("inf")
        # Of codes that are asked for alone: why there is no price, and when they are asked for again.
        self._alone: dict[str, tuple[str, float]] = {}

    def serves(self, instrument: Instrument) -> bool:
        return is_servable(instrument.code, instrument.currency)

    async def quotes(self, instruments: Sequence[Instrument]) -> Answer:
        by_code = {instrument.code: instrument for instrument in instruments}
        refused: dict[str, str] = {}
        updates: list[PriceUpdate] = []

        async def ask(codes: Sequence[str]) -> None:
            answer = await self._get(price_call(codes, self._exchange))
            updates.extend(read_prices(answer, codes, self._exchange, by_code.get, refused.__setitem__))

        codes = [code for code in by_code if code not in self._alone]
        if codes:
            try:
                await ask(codes)
            except CallRefusedError as error:
                if len(codes) == 1:
                    self._note_refused(codes[0], error)
                else:
                    self._alone |= dict.fromkeys(codes, (_SUSPECT, _AT_ONCE))
        until = time.monotonic() + _ALONE_SECONDS
        for code in by_code:
            reason, at = self._alone.get(code, ("", _AT_ONCE))
            if reason and at <= time.monotonic() < until:
                try:
                    await ask((code,))
                except CallRefusedError as error:
                    self._note_refused(code, error)
                else:
                    self._note_answered(code)
            if code in self._alone:
                refused[code] = self._alone[code][0]
        return Answer([_quote(update) for update in updates], refused)

    async def days(self, instrument: Instrument, first: datetime.date, last: datetime.date) -> Sequence[Day]:
        now = datetime.datetime.fromtimestamp(time.time(), KST)
        finished = now.date() if now.time() >= _CLOSE_KNOWN else now.date() - datetime.timedelta(days=1)
        last = min(last, finished)
        days: list[Day] = []
        # Newest first, as KIS answers; a hundred trading days are at least as many calendar days.
        while first <= last:
            since = max(first, last - datetime.timedelta(days=DAYS_PER_CALL - 1))
            try:
                answer = await self._get(days_call(instrument.code, "KRX", since, last))
            except CallRefusedError as error:
                raise NoPricesError(_refusal(error)) from None
            days += [_day(date, row) for date, row in read_days(answer)]
            last = since - datetime.timedelta(days=1)
        return days

    async def close(self) -> None:
        await self._client.close()

    def _note_refused(self, code: str, error: CallRefusedError) -> None:
        self._alone[code] = _refusal(error), time.monotonic() + _REFUSED_SECONDS

    def _note_answered(self, code: str) -> None:
        _, at = self._alone.pop(code)
        if at != _AT_ONCE:
            # It was refused alone before: that was not for the symbol, and so it may be with the others.
            self._alone = {other: (reason, _AT_ONCE) for other, (reason, _) in self._alone.items()}

    async def _get(self, call: Call) -> dict[str, Any]:
        """Make a call at the pace that KIS allows, which holds for each of several, too; raises `CallRefusedError`."""
        seconds = self._next_call_at - time.monotonic()
        if seconds > 0.0:
            await asyncio.sleep(seconds)
        self._next_call_at = time.monotonic() + self.min_interval
        try:
            return await self._client.get(call)
        except TooFastError as error:
            seconds = _TOO_FAST_SECONDS if error.retry_after is None else error.retry_after
            raise SourceLimitError(str(error), seconds) from None
        except CallRefusedError:
            raise
        except KISConnectionError as error:
            raise SourceError(str(error)) from None


def _refusal(error: CallRefusedError) -> str:
    return f"refused: KIS says: {error.text[:200]} ({error.code})"


def _quote(update: PriceUpdate) -> Quote:
    return Quote(
        code=update.instrument.code,
        price=update.price,
        change=update.change,
        change_percent=update.change_percent,
        volume=update.volume,
        high=update.high,
        low=update.low,
        venue=update.venue,
        currency=_WON,
    )


def _day(date: datetime.date, row: Mapping[str, Any]) -> Day:
    return Day(
        date=date,
        close=row.get("stck_clpr"),
        open=row.get("stck_oprc"),
        high=row.get("stck_hgpr"),
        low=row.get("stck_lwpr"),
        volume=row.get("acml_vol"),
        currency=_WON,
    )
