"""The KIS feed: what clients want is registered where there is room and polled where there is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import structlog

from fastws._kis import KISFrameError, KISParser, columns_for, split_frame
from fastws._market import PriceUpdate
from fastws.feeds.base import Feed, Figure, MarketSink
from fastws.feeds.kis.allocation import Allocation
from fastws.feeds.kis.phases import MARKETS, OPEN, Phases, phase_of
from fastws.feeds.kis.polling import PollPlan
from fastws.feeds.kis.quotations import SYMBOLS_PER_CALL
from fastws.feeds.kis.rest import Poller, total
from fastws.feeds.kis.session import Session
from fastws.kis.auth import KISAuthManager
from fastws.kis.control import OPERATION, QUOTE, TICK, Registration, check_code, tr_for
from fastws.kis.events import Changed, Event, Live, Lost, Timing
from fastws.kis.registration import Limits, State

if TYPE_CHECKING:
    from fastws._market import BookUpdate, Instrument
    from fastws.kis.volume import Gap
    from fastws.market.interest import Interest

_TICK: Final = 0.5
_STALE_AFTER: Final = 120.0
_REFUSED: Final = 600.0
_GAP_REPORT: Final = 30.0
_INVALID_TR: Final = "OPSP8991"
_OPERATIONS: Final = frozenset(OPERATION.values())
_TRADES: Final = frozenset(TICK.values())
# Of each market so often a record is read for its phase.
_LOOK_INTERVAL: Final = 0.5
_PHASE_COLUMNS: Final = ("HOUR_CLS_CODE", "NEW_MKOP_CLS_CODE", "MARKET_CLS_CODE")

_log = structlog.get_logger("fastws.feeds.kis")


class KISOptions(NamedTuple):
    """How the feed goes about it; durations in seconds.

    `exchange` is KRX, NXT or UN (SOR is UN); "auto" is UN, and in paper trading, which has no other, KRX. A session has
    up to `registrations` of them, two for a symbol, or one without books. `min_dwell` is how long a symbol keeps its
    place at least. `poll_rate` is calls a second and app key (None: 15, in paper trading 0.8; 0 polls nothing), and
    `poll_interval` what lies at least between two polls of a symbol.
    """

    exchange: str = "auto"
    has_books: bool = True
    registrations: int = 40
    min_dwell: float = 60.0
    poll_rate: float | None = None
    poll_interval: float = 1.0


class _Known:
    """What has been published of a symbol."""

    __slots__ = ("active_at", "book_at", "is_current", "said", "trade_at")

    def __init__(self) -> None:
        self.said: tuple[object, ...] | None = None  # volume and price, which tell one price from the next
        self.active_at = self.trade_at = self.book_at = -float("inf")
        self.is_current = False  # something has come since its registration was confirmed


class KISFeed(Feed):
    """Brings prices and books of Korean stocks from KIS.

    `keys` are pooled: each has one session. `interest` says what clients want now and is asked twice a second;
    `fixed` symbols have priority over it. See `Allocation` for who gets a place, and `PollPlan` for the others.

    1. Every price says by its quality whether it was pushed or polled. A symbol that has a place is polled, too, until
       KIS has confirmed its registration, and once after that: KIS sends nothing until it trades.
    2. Nothing is published twice: neither a price that says what the last one said, nor what a session still sends of a
       symbol that another one has by now. A polled price that was asked for before the last trade came is dropped.
    3. A lost connection ends nothing: `market.set_connected` tells, and the others go on. `run` ends when it is
       cancelled only.
    4. Trades that were lost meanwhile are counted by their volume, and told in one line for all symbols.

    Raises ValueError for no keys.
    """

    name = "kis"

    def __init__(
        self,
        keys: Sequence[KISAuthManager],
        *,
        interest: Callable[[], Mapping[str, Interest]],
        fixed: Iterable[str] = (),
        options: KISOptions | None = None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if not keys:
            raise ValueError("keys: at least one app key is needed")
        self.options = options or KISOptions()
        is_paper = keys[0].credentials.is_paper
        exchange = self.options.exchange
        if exchange == "auto":
            exchange = "KRX" if is_paper else "UN"
        self.exchange = "UN" if exchange == "SOR" else exchange
        self._trade_tr = tr_for(self.exchange, TICK)
        self._book_tr = tr_for(self.exchange, QUOTE)
        self._interest = interest
        self._clock = clock
        self._wall_clock = wall_clock
        fixed = [code for code in fixed if _is_servable(code)]
        self.allocation = Allocation(
            len(keys),
            size=2 if self.options.has_books else 1,
            fixed=fixed,
            min_dwell=self.options.min_dwell,
        )
        limits = Limits(cap=self.options.registrations, min_dwell=self.options.min_dwell)
        self.sessions = [
            Session(
                number,
                auth,
                limits=limits,
                timing=timing,
                on_frame=self._on_frame,
                on_event=self._on_event,
                clock=clock,
            )
            for number, auth in enumerate(keys, 1)
        ]
        self._parsers = [
            KISParser(self._resolve, clock=wall_clock, on_bad=_on_bad, on_new_width=_on_new_width)
            for _ in keys
        ]
        rate = self.options.poll_rate
        if rate is None:
            rate = 0.8 if is_paper else 15.0
        self.plan = PollPlan(self.options.poll_interval, 1 if is_paper else SYMBOLS_PER_CALL)
        self._pollers = [
            Poller(
                auth,
                self.plan,
                number=number,
                rate=rate,
                exchange=self.exchange,
                resolve=self._resolve,
                on_prices=self._on_polled_prices,
                on_book=self._on_polled_book,
                clock=clock,
            )
            for number, auth in enumerate(keys if rate else (), 1)
        ]
        self.phases = Phases()
        self.n_duplicates = 0
        self.n_gaps = 0
        self.lost_volume = 0
        self._market: MarketSink | None = None
        self._known: dict[str, _Known] = {}
        self._servable: dict[str, bool] = {}
        self._places: dict[tuple[str, int], tuple[int, ...]] = {}
        self._look_at: dict[str, float] = {}
        self._refusals_told: set[tuple[str, str]] = set()
        self._gap_codes: dict[str, Gap] = {}
        self._gap_report_at: float | None = None
        self._is_full_told = False
        self._warn_of_length(len(fixed))

    def fix(self, codes: Iterable[str]) -> None:
        """Give other symbols than before priority over those that clients want."""
        codes = [code for code in codes if _is_servable(code)]
        self.allocation.fixed = {code: order for order, code in enumerate(codes)}
        self._warn_of_length(len(codes))

    async def run(self, market: MarketSink) -> None:
        self._market = market
        market.set_connected(False)
        for name, status in self.phases.statuses.items():
            market.set_status(name, status)
        try:
            async with asyncio.TaskGroup() as group:
                for session in self.sessions:
                    session.connection.start()
                for poller in self._pollers:
                    group.create_task(poller.run(), name="fastws KIS poller")
                while True:
                    self._step(market)
                    await asyncio.sleep(_TICK)
        finally:
            # The socket is closed with a close frame, which frees the app key; taking everything back first takes
            # longer than a server may take to stop.
            await asyncio.gather(*(session.connection.close(is_quick=True) for session in self.sessions))
            self._market = None

    # Twice a second.

    def _step(self, market: MarketSink) -> None:
        now = self._clock()
        interest = {code: found for code, found in self._interest().items() if self._can_serve(code, market)}
        self._allocate(interest, market, now)
        self._plan_polls(interest)
        for name in self.phases.on_time(self._wall_clock()):
            market.set_status(name, self.phases.statuses[name])
        is_open = OPEN in self.phases.statuses.values()
        self.stale_after = _STALE_AFTER if is_open and len(self.allocation) else None
        self._report_gaps(now)
        self._tell_connected(market)

    def _allocate(self, interest: Mapping[str, Interest], market: MarketSink, now: float) -> None:
        room = [session.room() for session in self.sessions]
        for placing in self.allocation.update(interest, room, now):
            session = self.sessions[placing.session]
            registrations = self._registrations_of(placing.code)
            if placing.is_removal:
                session.unwant(registrations)
                continue
            session.want(registrations)
            instrument = market.ensure_instrument(placing.code)
            if instrument.market is not None:
                operation = Registration(tr_for(self.exchange, OPERATION), placing.code)
                session.watch_market(instrument.market, operation)

    def _plan_polls(self, interest: Mapping[str, Interest]) -> None:
        wanted = dict.fromkeys((*self.allocation.fixed, *interest))
        prices, books = [], []
        for code in wanted:
            if not self._is_pushed(code, self._trade_tr) or not self._known_of(code).is_current:
                prices.append(code)
            is_watched = code in self.allocation.fixed or interest[code].n_viewers > 0
            if self.options.has_books and is_watched and not self._is_pushed(code, self._book_tr):
                books.append(code)
        self.plan.want(prices, books)

    def _is_pushed(self, code: str, tr_id: str) -> bool:
        place = self.allocation.session_of(code)
        return place is not None and self.sessions[place].is_active(Registration(tr_id, code))

    def _tell_connected(self, market: MarketSink) -> None:
        needed = [session for session in self.sessions if self.allocation.codes_of(session.number - 1)]
        market.set_connected(
            all(session.is_live for session in needed) and any(session.is_well for session in self.sessions)
        )

    def _report_gaps(self, now: float) -> None:
        if self._gap_report_at is None or now < self._gap_report_at:
            return
        self._gap_report_at = None
        if self._gap_codes:
            gaps = self._gap_codes.values()
            _log.warning(
                "trades were lost while KIS was away",
                symbols=sum(gap.lost_volume != 0 for gap in gaps),
                shares=sum(gap.lost_volume or 0 for gap in gaps),
                seconds=round(max(gap.seconds for gap in gaps), 1),
            )
            self._gap_codes = {}

    # What KIS sends.

    def _on_frame(self, session: Session, tr_id: str, message: bytes, received_ns: int) -> None:
        market = self._market
        if market is None:
            return
        if tr_id in _OPERATIONS:
            self._on_operation(market, tr_id, message)
            return
        place = session.number - 1
        updates = self._parsers[place].parse(message)
        if not updates:
            return
        session_of = self.allocation.session_of
        now = self._clock()
        market.set_received(received_ns)
        try:
            for update in updates:
                code = update.instrument.code
                if session_of(code) != place:
                    continue
                if isinstance(update, PriceUpdate):
                    self._publish_trade(market, session, tr_id, update, now)
                else:
                    self._known_of(code).book_at = now
                    market.publish_book(update)
        finally:
            market.set_received(0)
        self._look_at_phase(market, updates[0].instrument, tr_id, message, now)

    def _publish_trade(
        self, market: MarketSink, session: Session, tr_id: str, update: PriceUpdate, now: float
    ) -> None:
        code, volume = update.instrument.code, update.volume
        known = self._known_of(code)
        if volume is not None:
            gap = session.gaps.on_trade(tr_id, code, volume, update.trade_volume or 0)
            if gap is not None:
                self._note_gap(gap, now)
        said = (volume, update.price)
        known.trade_at = now
        known.is_current = True
        if known.said == said:
            self.n_duplicates += 1
            return
        known.said = said
        market.publish_price(update)

    def _note_gap(self, gap: Gap, now: float) -> None:
        self._gap_codes[gap.code] = gap
        if gap.lost_volume:
            self.n_gaps += 1
            self.lost_volume += gap.lost_volume
        if self._gap_report_at is None:
            self._gap_report_at = now + _GAP_REPORT

    def _on_operation(self, market: MarketSink, tr_id: str, message: bytes) -> None:
        try:
            records = split_frame(message).records
            for record in records:
                values = dict(zip(columns_for(tr_id, len(record)), record, strict=True))
                instrument = market.instrument(values.get("MKSC_SHRN_ISCD", ""))
                name = None if instrument is None else instrument.market
                code = values.get("MKOP_CLS_CODE", "")
                if name is not None and self.phases.on_operation(name, code, self._wall_clock()):
                    _log.info("market operation", market=name, code=code, status=self.phases.statuses[name])
                    market.set_status(name, self.phases.statuses[name])
        except KISFrameError as error:
            _on_bad(error.kind, message)

    def _look_at_phase(
        self, market: MarketSink, instrument: Instrument, tr_id: str, message: bytes, now: float
    ) -> None:
        """Read the phase of the day off a record, now and then."""
        name = instrument.market
        if name not in MARKETS or now < self._look_at.get(name, -float("inf")):
            return
        self._look_at[name] = now + _LOOK_INTERVAL
        record = split_frame(message).records[0]
        place = self._places.get((tr_id, len(record)))
        if place is None:
            columns = columns_for(tr_id, len(record))
            place = tuple(columns.index(column) if column in columns else -1 for column in _PHASE_COLUMNS)
            self._places[(tr_id, len(record))] = place
        phase = phase_of(*("" if i < 0 else record[i] for i in place))
        is_trade = tr_id in _TRADES
        if phase is not None and self.phases.on_record(name, phase, self._wall_clock(), is_trade=is_trade):
            market.set_status(name, phase)

    def _on_event(self, session: Session, event: Event) -> None:
        if isinstance(event, Changed):
            self._on_changed(session, event)
        elif isinstance(event, Live | Lost) and self._market is not None:
            self._tell_connected(self._market)

    def _on_changed(self, session: Session, event: Changed) -> None:
        registration, state, kis_code, text, is_full = event.change
        tr_id, code = registration
        if is_full:
            if not self._is_full_told:
                self._is_full_told = True
                _log.warning(
                    "KIS gives this app key fewer registrations than asked for; symbols without one are polled",
                    key=session.number,
                    asked=self.options.registrations,
                    given=session.connection.registrations.cap,
                )
            return
        if tr_id not in (self._trade_tr, self._book_tr):
            return
        if state is State.ACTIVE:
            if tr_id == self._trade_tr:
                known = self._known_of(code)
                known.is_current, known.active_at = False, self._clock()
        elif state is State.FAILED and kis_code:
            if (tr_id, kis_code) not in self._refusals_told:
                self._refusals_told.add((tr_id, kis_code))
                _log.warning(
                    "KIS refuses a registration; what it refuses is polled",
                    tr_id=tr_id,
                    symbol=code,
                    code=kis_code,
                    text=text,
                    key=session.number,
                )
            if kis_code == _INVALID_TR:
                session.shut()
            removed = self.allocation.refuse(code, self._clock() + _REFUSED)
            if removed is not None:
                self.sessions[removed.session].unwant(self._registrations_of(code))

    # What is polled.

    def _on_polled_prices(self, codes: Sequence[str], updates: list[PriceUpdate], asked_at: float) -> None:
        for code in codes:
            known = self._known_of(code)
            # What has never traded is not in the answer, and need not be asked for again.
            known.is_current |= asked_at >= known.active_at
        for update in updates:
            known = self._known_of(update.instrument.code)
            said = (update.volume, update.price)
            if known.trade_at >= asked_at or known.said == said:
                continue
            known.said = said
            if self._market is not None:
                self._market.publish_price(update)

    def _on_polled_book(self, update: BookUpdate, asked_at: float) -> None:
        known = self._known_of(update.instrument.code)
        if known.book_at < asked_at and self._market is not None:
            known.book_at = self._clock()
            self._market.publish_book(update)

    # Symbols.

    def _known_of(self, code: str) -> _Known:
        known = self._known.get(code)
        if known is None:
            known = self._known[code] = _Known()
        return known

    def _registrations_of(self, code: str) -> list[Registration]:
        tr_ids = (self._trade_tr, self._book_tr) if self.options.has_books else (self._trade_tr,)
        return [Registration(tr_id, code) for tr_id in tr_ids]

    def _resolve(self, code: str) -> Instrument | None:
        return None if self._market is None else self._market.instrument(code)

    def _can_serve(self, code: str, market: MarketSink) -> bool:
        found = self._servable.get(code)
        if found is None:
            instrument = market.instrument(code)
            currency = None if instrument is None else instrument.currency
            found = self._servable[code] = currency in (None, "KRW") and _is_servable(code)
        return found

    def _warn_of_length(self, n_fixed: int) -> None:
        n_places = len(self.sessions) * (self.options.registrations // self.allocation.size)
        if n_fixed > n_places:
            _log.warning(
                "symbols_file has more symbols than KIS takes registrations: the first ones are registered, the others "
                "polled; kis_fixed_symbols = 0 lets the number of viewers decide",
                symbols=n_fixed,
                registered=n_places,
            )

    def figures(self) -> Iterable[Figure]:
        sessions = self.sessions
        n_live = sum(session.is_live for session in sessions)
        yield Figure(
            "gauge", "kis_sessions", "app keys by the state of their session",
            {"live": n_live, "away": len(sessions) - n_live}, ("state",),
        )  # fmt: skip
        counts = [session.counts() for session in sessions]
        yield Figure(
            "gauge", "kis_registrations", "registrations that are wanted of KIS",
            {str(state): sum(each[state] for each in counts) for state in State}, ("state",),
        )  # fmt: skip
        yield Figure(
            "gauge", "kis_symbols", "symbols by how their prices come",
            {"realtime": len(self.allocation), "polled": len(self.plan)}, ("quality",),
        )  # fmt: skip
        yield Figure(
            "gauge",
            "kis_waiting",
            "symbols that are wanted and have no registration",
            len(self.allocation.waiting),
        )
        yield Figure(
            "counter", "kis_reconnects", "connections to KIS that were lost and are back",
            sum(session.n_reconnects for session in sessions),
        )  # fmt: skip
        yield Figure("counter", "kis_gaps", "symbols that had trades while KIS was away", self.n_gaps)
        yield Figure("counter", "kis_lost_volume", "shares traded while KIS was away", self.lost_volume)
        yield Figure(
            "counter", "kis_frames", "data frames from KIS",
            sum(session.connection.n_frames for session in sessions),
        )  # fmt: skip
        yield Figure(
            "counter", "kis_bad_frames", "messages from KIS that cannot be read",
            sum(session.connection.n_bad for session in sessions) + sum(p.n_bad for p in self._parsers),
        )  # fmt: skip
        yield Figure("counter", "kis_duplicates", "prices that KIS sent again", self.n_duplicates)
        yield Figure(
            "counter", "kis_polls", "calls of KIS's REST interface", total(self._pollers), ("outcome",)
        )


def _is_servable(code: str) -> bool:
    try:
        check_code(code)
    except ValueError:
        return False
    return True


def _on_bad(kind: str, message: bytes) -> None:
    _log.warning(
        "KIS sent what cannot be read", kind=kind, text=message[:120].decode("utf-8", "backslashreplace")
    )


def _on_new_width(tr_id: str, width: int) -> None:
    _log.warning("KIS records have a width that is in no table", tr_id=tr_id, width=width)
