"""The simulator's market as KIS would show it: records for what is registered, and quotations. Sans-IO."""

from __future__ import annotations

import datetime
import random
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from fastws._market import BookUpdate, Instrument, PriceUpdate
from fastws._simulator import SimulatedExchange, is_traded_in_won
from fastws.kis.testing import records
from fastws.kis.testing.records import Book, PhaseCodes, Stock, Venue
from fastws.kis.testing.replies import KST, STOCK_KEY
from fastws.kis.testing.settings import FakeSettings

Emit = Callable[[str, str, list[str]], int]
"""Takes TR id, code and records; returns how many registrations got them."""

VENUES: Final[tuple[Venue, ...]] = ("KRX", "NXT", "UN")
REST_VENUES: Final[dict[str, Venue]] = {"J": "KRX", "NX": "NXT", "UN": "UN"}

_CHUNK: Final = 16
_WARM_UP: Final = 8_192
_MAX_STEPS: Final = 20_000  # of one call, so that a symbol that hardly trades does not stop everything else
_MAX_UNLISTED: Final = 500
_MAX_DAYS: Final = 100
_NXT_SHARE: Final = 0.25
_SEED: Final = 20_261_006


class Now(NamedTuple):
    """The time of the records, KST."""

    ms: int
    time: str
    date: str

    @classmethod
    def of(cls, unix_seconds: float) -> Now:
        now = datetime.datetime.fromtimestamp(unix_seconds, KST)
        return cls(int(unix_seconds * 1000), now.strftime("%H%M%S"), now.strftime("%Y%m%d"))


def phase_at(now: datetime.datetime) -> str:
    """The phase of the day at a time that is aware of its zone; holidays are not known, week-ends are."""
    local = now.astimezone(KST)
    if local.weekday() >= 5:
        return "closed"
    minute = local.hour * 60 + local.minute
    for end, phase in (
        (8 * 60, "closed"),
        (8 * 60 + 50, "pre_market"),
        (9 * 60, "opening_auction"),
        (15 * 60 + 20, "regular"),
        (15 * 60 + 30, "closing_auction"),
        (15 * 60 + 40, "closed"),
        (20 * 60, "after_market"),
    ):
        if minute < end:
            return phase
    return "closed"


class FakeMarket:
    """Trades and books of every Korean symbol of a table, and of any other code that is asked for.

    1. All venues share one walk of the price. A trade is at KRX or, one in four, at NXT; UN has both. A book of UN
       is the sum of both.
    2. :meth:`advance` lets the whole market go on until as many records as asked for have gone to registrations.
       What nobody registered moves along, so that quotations by REST move, too.
    3. Totals of a symbol begin with the first interest in it; volumes never fall.
    4. In an auction there are no trades, books have three levels and expected prices; outside of a venue's hours it
       sends nothing.
    """

    def __init__(self, instruments: Iterable[Instrument], settings: FakeSettings, emit: Emit) -> None:
        self._settings = settings
        self._emit = emit
        self._seed = _SEED if settings.seed is None else settings.seed
        self._random = random.Random(self._seed)  # noqa: S311 - prices, not secrets
        listed = [instrument for instrument in instruments if is_traded_in_won(instrument)]
        self._instruments = {instrument.code: instrument for instrument in listed}
        if not listed:
            raise ValueError("instruments: none is traded in won")
        self._exchanges = [self._exchange(listed, self._seed)]
        self._prices: dict[str, PriceUpdate] = {}
        self._books: dict[str, BookUpdate] = {}
        self._stocks: dict[str, Stock] = {}
        self._wanted: dict[str, set[str]] = {}  # code -> TR ids
        self._now = Now.of(0.0)
        self._n_emitted = 0
        self.phase = "regular"
        self._exchanges[0].advance(self._keep_price, self._keep_book, _WARM_UP, 0)

    def _exchange(self, instruments: list[Instrument], seed: int) -> SimulatedExchange:
        return SimulatedExchange(instruments, seed=seed, volatility=self._settings.volatility)

    def use(self, settings: FakeSettings) -> None:
        """Take over settings that have changed; rate, widths and records a frame count from now on."""
        self._settings = settings

    def want(self, tr_id: str, code: str) -> None:
        """Somebody has registered it. Beyond 500 codes that are in no table, further ones stay silent."""
        if self.stock(code) is not None:
            self._wanted.setdefault(code, set()).add(tr_id)

    def unwant(self, tr_id: str, code: str) -> None:
        wanted = self._wanted.get(code)
        if wanted is not None:
            wanted.discard(tr_id)
            if not wanted:
                del self._wanted[code]

    def stock(self, code: str) -> Stock | None:
        """The state of a symbol, which is followed from now on; None for what is no code, or one too many."""
        stock = self._stocks.get(code)
        if stock is not None:
            return stock
        instrument = self._instruments.get(code)
        if instrument is None:
            if STOCK_KEY.fullmatch(code) is None or len(self._exchanges) > _MAX_UNLISTED:
                return None
            instrument = self._instruments[code] = Instrument(code, market="KOSPI", currency="KRW")
            exchange = self._exchange([instrument], self._seed + zlib.crc32(code.encode()))
            exchange.advance(self._keep_price, self._keep_book, 64, 0)
            self._exchanges.append(exchange)
        close = int(instrument.previous_close or 50_000)
        stock = Stock(code, instrument.name, close, 1_000_000 + zlib.crc32(code.encode()) % 9_000_000)
        self._stocks[code] = stock
        last, book = self._prices.get(code), self._books.get(code)
        if book is not None:
            stock.book = _book(book)
        if last is not None and last.volume is not None:
            # What was traded before counts as one trade at each venue, at the prices of the day so far.
            at_nxt = int(last.volume * _NXT_SHARE)
            parts: dict[Venue, int] = {"KRX": last.volume - at_nxt, "NXT": at_nxt, "UN": last.volume}
            for venue, volume in parts.items():
                if volume:
                    totals = stock.totals[venue]
                    totals.add(int(last.price), volume, True, "090000")
                    totals.high, totals.low = int(last.high or last.price), int(last.low or last.price)
        return stock

    def last_price(self, code: str) -> int:
        last = self._prices.get(code)
        return int(last.price) if last is not None else self._stocks[code].previous_close

    def advance(self, n: int, unix_seconds: float) -> int:
        """Let the market go on by `n` updates at least, until `n` records have been emitted. Returns how many were."""
        self._now = Now.of(unix_seconds)
        self._n_emitted = 0
        if not records.PHASES[self.phase].venues:
            return 0
        n_steps = 0
        size = min(_CHUNK, max(1, n))
        while n_steps < n or (self._wanted and self._n_emitted < n and n_steps < _MAX_STEPS):
            self._next_exchange().advance(self._on_price, self._on_book, size, self._now.ms)
            n_steps += size
        return self._n_emitted

    def _next_exchange(self) -> SimulatedExchange:
        """The table's, or that of a code in no table, as often as such codes are among those followed."""
        n_unlisted = len(self._exchanges) - 1
        if n_unlisted == 0 or self._random.random() * len(self._stocks) >= n_unlisted:
            return self._exchanges[0]
        return self._exchanges[1 + self._random.randrange(n_unlisted)]

    def enter(self, phase: str) -> None:
        """Go over to another phase, and say so to whom has registered market operations."""
        self.phase = phase
        for code in list(self._wanted):
            self.operate(code, operation_code=records.PHASES[phase].operation)

    def operate(self, code: str, is_halted: bool | None = None, **values: str) -> int:
        """Send a market-operation record, and halt or resume the symbol. Returns how many registrations got it."""
        stock = self.stock(code)
        if stock is None:
            return 0
        if is_halted is not None:
            stock.is_halted = is_halted
        n = 0
        for venue in VENUES:
            tr_id = records.OPERATION_TRS[venue]
            if tr_id in self._wanted.get(code, ()):
                record = records.operation(venue, code, stock.is_halted, self._width(tr_id), **values)
                n += self._emit(tr_id, code, [record])
        return n

    def burst(self, frames: int, n_records: int, unix_seconds: float) -> int:
        """Emit so many frames of trades or books, the last ones again and again with their volumes going on."""
        self._now = Now.of(unix_seconds)
        phase = records.PHASES[self.phase]
        trs = {**{tr: (True, venue) for venue, tr in records.TRADE_TRS.items()},
               **{tr: (False, venue) for venue, tr in records.BOOK_TRS.items()}}  # fmt: skip
        targets = [
            (tr_id, code) for code, wanted in self._wanted.items() for tr_id in sorted(wanted & trs.keys())
        ]
        n = 0
        for i in range(frames if targets else 0):
            tr_id, code = targets[i % len(targets)]
            is_trade, venue = trs[tr_id]
            stock = self._stocks[code]
            made = []
            for _ in range(n_records):
                if is_trade:
                    made.append(self._print(stock, venue, self.last_price(code), 1, True, phase))
                else:
                    made.append(self._book_record(stock, venue, stock.book, phase))
            n += self._emit(tr_id, code, made)
        return n

    def _keep_price(self, update: PriceUpdate) -> None:
        self._prices[update.instrument.code] = update

    def _keep_book(self, update: BookUpdate) -> None:
        self._books[update.instrument.code] = update

    def _on_price(self, update: PriceUpdate) -> None:
        code = update.instrument.code
        self._prices[code] = update
        stock = self._stocks.get(code)
        if stock is None or stock.is_halted:
            return
        phase = records.PHASES[self.phase]
        if phase.is_auction or not phase.venues:
            return
        price, quantity = int(update.price), update.trade_volume or 1
        bids = stock.book.bid_prices
        is_buy = not bids or price > bids[0]
        is_at_nxt = self._random.random() < _NXT_SHARE
        if "KRX" not in phase.venues or "NXT" not in phase.venues:
            is_at_nxt = "NXT" in phase.venues
        parts = self._split(quantity)
        wanted = self._wanted.get(code, ())
        at: Venue
        for at in ("NXT" if is_at_nxt else "KRX", "UN"):
            tr_id = records.TRADE_TRS[at]
            if tr_id in wanted:
                made = [self._print(stock, at, price, part, is_buy, phase) for part in parts]
                self._n_emitted += len(made) * self._emit(tr_id, code, made)
            else:
                stock.totals[at].add(price, quantity, is_buy, self._now.time)

    def _print(
        self, stock: Stock, venue: Venue, price: int, quantity: int, is_buy: bool, phase: PhaseCodes
    ) -> str:
        stock.totals[venue].add(price, quantity, is_buy, self._now.time)
        width = self._width(records.TRADE_TRS[venue])
        return records.trade(
            stock, venue, price, quantity, is_buy, self._now.time, self._now.date, phase, width
        )

    def _split(self, quantity: int) -> list[int]:
        """The orders that a trade is filled from: mostly one, now and then several."""
        n = min(quantity, self._settings.records_per_frame)
        if n == 1 or self._random.random() < 0.6:
            return [quantity]
        n = self._random.randint(2, n)
        part = quantity // n
        return [part] * (n - 1) + [quantity - part * (n - 1)]

    def _on_book(self, update: BookUpdate) -> None:
        code = update.instrument.code
        self._books[code] = update
        stock = self._stocks.get(code)
        if stock is None or stock.is_halted:
            return
        before, stock.book = stock.book, _book(update)
        wanted = self._wanted.get(code)
        if not wanted:
            return
        phase = records.PHASES[self.phase]
        for venue in VENUES:
            if venue not in phase.venues:
                continue
            tr_id = records.BOOK_TRS[venue]
            if tr_id in wanted:
                self._n_emitted += self._emit(tr_id, code, [self._book_record(stock, venue, before, phase)])
            expected = records.EXPECTED_TRS[venue]
            if phase.is_auction and expected in wanted:
                record = records.trade(
                    stock, venue, self.last_price(code), 0, True, self._now.time, self._now.date, phase,
                    self._width(expected),
                )  # fmt: skip
                self._n_emitted += self._emit(expected, code, [record])

    def _book_record(self, stock: Stock, venue: Venue, before: Book, phase: PhaseCodes) -> str:
        width = self._width(records.BOOK_TRS[venue])
        return records.book(stock, venue, before, self.last_price(stock.code), self._now.time, phase, width)

    def _width(self, tr_id: str) -> int:
        return self._settings.widths.get(tr_id, records.USUAL_WIDTHS[tr_id])

    # Quotations

    def quote(self, code: str, venue: Venue) -> dict[str, str] | None:
        """Price of a symbol, with KIS's names of the single quotation; None for a code that cannot be had."""
        stock = self.stock(code)
        if stock is None:
            return None
        price, totals = self.last_price(code), stock.totals[venue]
        change = price - stock.previous_close
        close, (low_limit, high_limit) = stock.previous_close, stock.limits
        return {
            "iscd_stat_cls_code": "58" if stock.is_halted else "55",
            "rprs_mrkt_kor_name": self._instruments[code].market or "",
            "temp_stop_yn": "Y" if stock.is_halted else "N",
            "stck_prpr": str(price),
            "prdy_vrss": str(change),
            "prdy_vrss_sign": stock.price_sign(price),
            "prdy_ctrt": f"{change * 100 / close:.2f}",
            "acml_tr_pbmn": str(totals.amount),
            "acml_vol": str(totals.volume),
            "prdy_vrss_vol_rate": f"{totals.volume * 100 / stock.previous_volume:.2f}",
            "stck_oprc": str(totals.open),
            "stck_hgpr": str(totals.high),
            "stck_lwpr": str(totals.low),
            "stck_mxpr": str(high_limit),
            "stck_llam": str(low_limit),
            "stck_sdpr": str(close),
            "wghn_avrg_stck_prc": f"{totals.amount / (totals.volume or 1):.2f}",
            "aspr_unit": str(records.tick(price)),
            "stck_shrn_iscd": code,
            "vi_cls_code": "N",
        }

    def multi_quote(self, code: str, venue: Venue) -> dict[str, str] | None:
        """Price of a symbol, with KIS's names of the quotation of several symbols."""
        single = self.quote(code, venue)
        stock = self._stocks.get(code)
        if single is None or stock is None:
            return None
        book = stock.book.share(venue)
        return {
            "kospi_kosdaq_cls_name": single["rprs_mrkt_kor_name"],
            "mrkt_trtm_cls_name": "",
            "hour_cls_code": records.PHASES[self.phase].hour,
            "inter_shrn_iscd": code,
            "inter_kor_isnm": stock.name,
            "inter2_prpr": single["stck_prpr"],
            "inter2_prdy_vrss": single["prdy_vrss"],
            "prdy_vrss_sign": single["prdy_vrss_sign"],
            "prdy_ctrt": single["prdy_ctrt"],
            "acml_vol": single["acml_vol"],
            "inter2_oprc": single["stck_oprc"],
            "inter2_hgpr": single["stck_hgpr"],
            "inter2_lwpr": single["stck_lwpr"],
            "inter2_llam": single["stck_llam"],
            "inter2_mxpr": single["stck_mxpr"],
            "inter2_askp": str(book.ask_prices[0] if book.ask_prices else 0),
            "inter2_bidp": str(book.bid_prices[0] if book.bid_prices else 0),
            "seln_rsqn": str(book.ask_quantities[0] if book.ask_quantities else 0),
            "shnu_rsqn": str(book.bid_quantities[0] if book.bid_quantities else 0),
            "total_askp_rsqn": str(book.total_ask),
            "total_bidp_rsqn": str(book.total_bid),
            "acml_tr_pbmn": single["acml_tr_pbmn"],
            "inter2_prdy_clpr": single["stck_sdpr"],
            "inter2_sdpr": single["stck_sdpr"],
        }

    def day_quotes(self, code: str, first: datetime.date, last: datetime.date) -> list[dict[str, str]] | None:
        """Daily prices of a symbol, made up of code and date, newest first, a hundred at most, with KIS's names; None
        for a code that cannot be had."""
        stock = self.stock(code)
        if stock is None:
            return None
        rows: list[dict[str, str]] = []
        date = last
        while date >= first and len(rows) < _MAX_DAYS:
            if date.weekday() < 5:
                rows.append(self._day(stock, date))
            date -= datetime.timedelta(days=1)
        return rows

    def _day(self, stock: Stock, date: datetime.date) -> dict[str, str]:
        walk = random.Random(f"{stock.code} {date}")  # noqa: S311 - prices, not secrets
        unit = records.tick(stock.previous_close)
        prices = [stock.previous_close + unit * walk.randint(-20, 20) for _ in range(6)]
        return {
            "stck_bsop_date": date.strftime("%Y%m%d"),
            "stck_clpr": str(prices[-1]),
            "stck_oprc": str(prices[0]),
            "stck_hgpr": str(max(prices)),
            "stck_lwpr": str(min(prices)),
            "acml_vol": str(walk.randint(1_000, 9_000_000)),
            "flng_cls_code": "00",
            "prtt_rate": "0.00",
            "mod_yn": "N",
        }

    def book_quote(self, code: str, venue: Venue) -> dict[str, Any] | None:
        """The book of a symbol, with KIS's names."""
        stock = self.stock(code)
        if stock is None:
            return None
        book = stock.book.share(venue)
        output = {"aspr_acpt_hour": self._now.time}
        for name, values in (
            ("askp", book.ask_prices),
            ("bidp", book.bid_prices),
            ("askp_rsqn", book.ask_quantities),
            ("bidp_rsqn", book.bid_quantities),
        ):
            for level in range(records.LEVELS):
                output[f"{name}{level + 1}"] = str(values[level] if level < len(values) else 0)
        output["total_askp_rsqn"] = str(book.total_ask)
        output["total_bidp_rsqn"] = str(book.total_bid)
        output["new_mkop_cls_code"] = records.PHASES[self.phase].new_mkop
        return output


def _book(update: BookUpdate) -> Book:
    return Book(update.asks, update.bids)  # type: ignore[arg-type]  # won has no decimals
