"""The KIS feed: what clients want is registered where there is room and polled where there is none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import structlog

from fastws.feeds.base import Feed, Figure, MarketSink
from fastws.feeds.kis.allocation import Allocation
from fastws.feeds.kis.figures import figures_of
from fastws.feeds.kis.options import KISOptions
from fastws.feeds.kis.polling import PollPlan
from fastws.feeds.kis.publisher import Publisher
from fastws.feeds.kis.quotations import SYMBOLS_PER_CALL
from fastws.feeds.kis.renewals import Renewals
from fastws.feeds.kis.rest import Poller
from fastws.feeds.kis.session import Session
from fastws.feeds.kis.symbols import Symbols
from fastws.kis.auth import KISAuthManager
from fastws.kis.control import OPERATION, QUOTE, TICK, Registration, tr_for
from fastws.kis.events import Changed, Event, Live, Lost, Timing
from fastws.kis.registration import Limits, State
from fastws.logs import LogLimiter
from fastws.market.interest import NO_INTEREST

if TYPE_CHECKING:
    from fastws.market.interest import Interest

_TICK: Final = 0.5
_STALE_AFTER: Final = 120.0
# What KIS refuses is not asked for again for so long; a code that it does not know twice as long each time.
_REFUSED: Final = 600.0
_LONGEST_REFUSED: Final = 86_400.0
_INVALID_TR: Final = "OPSP8991"
_INVALID_KEY: Final = frozenset({"OPSP8992", "OPSP8993"})
_OPERATIONS: Final = frozenset(OPERATION.values())
# What is polled is worked out again when something has changed, and this often anyway.
_REPLAN: Final = 5.0
# What is pushed is polled this often, to see that it still comes; in paper trading, which has a call a second, less.
_CHECK_INTERVAL: Final = 60.0
_PAPER_CHECK_INTERVAL: Final = 300.0
_TELL_AGAIN: Final = 300.0

_log = structlog.get_logger("fastws.feeds.kis")


class KISFeed(Feed):
    """Brings prices and books of Korean stocks from KIS.

    `keys` are pooled: each has one session. `interest` says what clients want now and is asked twice a second;
    `fixed` symbols have priority over it. See `Allocation` for who gets a place, and `PollPlan` for the others.

    1. Every price says by its quality whether it was pushed or polled. A symbol that has a place is polled, too, until
       KIS has confirmed its registration, and once after that: KIS sends nothing until it trades. From then on it is
       polled once a minute; what does not come although there is something is registered anew (see `Renewals`).
    2. Nothing is published twice, and nothing old after something new (see `Published`); of what should be pushed a
       polled price counts when it was not within five seconds. Nor is published what a session still sends of a symbol
       that another one has by now. Books are polled only of what somebody looks at.
    3. A lost connection ends nothing: `market.set_connected` tells, and the others go on. `run` ends when it is
       cancelled only.
    4. Trades that were lost meanwhile are counted by their volume, and told in one line for all (see `Outages`).
    5. Symbols that KIS does not have are left out, and told in one line for all (see `Symbols`).

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
        self._symbols = Symbols(clock)
        fixed = self._symbols.servable(fixed)
        self._symbols.tell()
        self.allocation = Allocation(
            len(keys),
            size=2 if self.options.has_books else 1,
            fixed=fixed,
            min_dwell=self.options.min_dwell,
        )
        self.publisher = Publisher(
            len(keys),
            session_of=self.allocation.session_of,
            is_pushed=lambda code: self._is_pushed(code, self._trade_tr),
            is_book_pushed=lambda code: self.options.has_books and self._is_pushed(code, self._book_tr),
            clock=clock,
            wall_clock=wall_clock,
        )
        limits = Limits(cap=self.options.registrations, min_dwell=self.options.min_dwell)
        self.sessions = [
            Session(
                number,
                auth,
                limits=limits,
                timing=timing,
                on_frame=lambda session, *frame: self.publisher.on_frame(session.number - 1, *frame),
                on_event=self._on_event,
                clock=clock,
            )
            for number, auth in enumerate(keys, 1)
        ]
        rate = self.options.poll_rate
        if rate is None:
            rate = 0.8 if is_paper else 15.0
        self._check_interval = _PAPER_CHECK_INTERVAL if is_paper else _CHECK_INTERVAL
        self.plan = PollPlan(
            self.options.poll_interval, 1 if is_paper else SYMBOLS_PER_CALL, self._check_interval
        )
        self.pollers = [
            Poller(
                auth,
                self.plan,
                number=number,
                rate=rate,
                exchange=self.exchange,
                resolve=self.publisher.resolve,
                on_prices=self.publisher.on_polled_prices,
                on_book=self.publisher.on_polled_book,
                clock=clock,
            )
            for number, auth in enumerate(keys if rate else (), 1)
        ]
        self._planned_for: Mapping[str, Interest] = {}
        self._replan_at = -float("inf")
        self._limiter = LogLimiter(_TELL_AGAIN, clock=clock)
        self._renewals = Renewals(
            self.sessions,
            self.allocation,
            self.publisher,
            trade_tr=self._trade_tr,
            book_tr=self._book_tr if self.options.has_books else None,
            has_polls=bool(self.pollers),
            limiter=self._limiter,
        )
        self._is_full_told = False
        self._warn_of_length(len(fixed))

    def fix(self, codes: Iterable[str]) -> None:
        """Give other symbols than before priority over those that clients want."""
        codes = self._symbols.servable(codes)
        self.allocation.fixed = {code: order for order, code in enumerate(codes)}
        self.publisher.has_changed = True
        self._warn_of_length(len(codes))

    async def run(self, market: MarketSink) -> None:
        self.publisher.market = market
        market.set_connected(False)
        self.publisher.phases.publish(market)
        try:
            async with asyncio.TaskGroup() as group:
                for session in self.sessions:
                    session.connection.start()
                for poller in self.pollers:
                    group.create_task(poller.run(), name="fastws KIS poller")
                while True:
                    self._step(market)
                    await asyncio.sleep(_TICK)
        finally:
            # The socket is closed with a close frame, which frees the app key; taking everything back first takes
            # longer than a server may take to stop.
            await asyncio.gather(*(session.connection.close(is_quick=True) for session in self.sessions))
            self.publisher.market = None

    # Twice a second.

    def _step(self, market: MarketSink) -> None:
        now = self._clock()
        interest = self._symbols.chosen(self._interest(), market)
        self._symbols.tell()
        self._allocate(interest, market, now)
        self.publisher.phases.on_time(market)
        self.stale_after = _STALE_AFTER if self.publisher.phases.is_open and len(self.allocation) else None
        self._renewals.step(now, self.stale_after)
        self._plan_polls(interest, now)
        self.publisher.outages.report(now)
        self._tell_connected(market)

    def _allocate(self, interest: Mapping[str, Interest], market: MarketSink, now: float) -> None:
        room = [session.room() for session in self.sessions]
        for placing in self.allocation.update(interest, room, now):
            session = self.sessions[placing.session]
            registrations = self._registrations_of(placing.code)
            self.publisher.has_changed = True
            if placing.is_removal:
                session.unwant(registrations)
                self.publisher.silences.forget(placing.code)
                self.publisher.book_silences.forget(placing.code)
                if session.is_well:  # else it is moved because of an outage, which goes on
                    self.publisher.outages.forget(self._trade_tr, placing.code)
                continue
            # It may be registered there still, without a word from KIS: what came meanwhile was not published.
            known = self.publisher.of(placing.code)
            known.is_current, known.active_at = False, now
            session.want(registrations)
            self._watch_market(session, market, placing.code)
        self.publisher.outages.forget_unwanted(self._trade_tr, interest, self.allocation.fixed)
        for session in self.sessions:
            if session.needs_proof:
                for code in (*interest, *self.allocation.fixed):
                    if self._watch_market(session, market, code):
                        break

    def _watch_market(self, session: Session, market: MarketSink, code: str) -> bool:
        name = market.ensure_instrument(code).market
        if name is None:
            return False
        return session.watch_market(name, Registration(tr_for(self.exchange, OPERATION), code))

    def _plan_polls(self, interest: Mapping[str, Interest], now: float) -> None:
        publisher = self.publisher
        if not publisher.has_changed and now < self._replan_at and interest == self._planned_for:
            return
        publisher.has_changed, self._replan_at, self._planned_for = False, now + _REPLAN, interest
        prices: list[str] = []
        later: list[str] = []
        checks: list[str] = []
        books: list[str] = []
        for code in dict.fromkeys((*self.allocation.fixed, *interest)):
            is_watched = interest.get(code, NO_INTEREST).n_viewers > 0
            is_silent = code in publisher.silences
            if is_silent or not self._is_pushed(code, self._trade_tr) or not publisher.of(code).is_current:
                (prices if is_watched else later).append(code)
            else:
                checks.append(code)
            if self.options.has_books and is_watched:
                is_silent |= code in publisher.book_silences
                if is_silent or not self._is_pushed(code, self._book_tr):
                    books.append(code)
        self.plan.want(prices, books, later=later, checks=checks)

    def _is_pushed(self, code: str, tr_id: str) -> bool:
        place = self.allocation.session_of(code)
        return place is not None and self.sessions[place].is_active(Registration(tr_id, code))

    def _tell_connected(self, market: MarketSink) -> None:
        needed = [session for session in self.sessions if self.allocation.codes_of(session.number - 1)]
        market.set_connected(
            all(session.is_live for session in needed) and any(session.is_well for session in self.sessions)
        )

    # What becomes of sessions and registrations.

    def _on_event(self, session: Session, event: Event) -> None:
        if isinstance(event, Changed):
            self._on_changed(session, event)
        elif isinstance(event, Live | Lost):
            self.publisher.has_changed = True
            if isinstance(event, Lost):
                self.publisher.outages.on_lost(self.allocation.codes_of(session.number - 1), self._clock())
            if self.publisher.market is not None:
                self._tell_connected(self.publisher.market)

    def _on_changed(self, session: Session, event: Changed) -> None:
        registration, state, kis_code, text, is_full = event.change
        tr_id, code = registration
        self.publisher.has_changed = True
        if is_full:
            if not self._is_full_told:
                self._is_full_told = True
                _log.warning(
                    "KIS gives this app key fewer registrations than asked for; symbols without one are polled",
                    key=session.number,
                    asked=self.options.registrations,
                    given=session.connection.registrations.cap,
                )
        elif state is State.FAILED and not kis_code:
            self._limiter.log(
                _log,
                f"{tr_id} unanswered",
                "KIS does not answer a registration; it is asked again, and polled meanwhile",
                tr_id=tr_id,
                symbol=code,
                key=session.number,
            )
        elif state is State.FAILED:
            is_operations = tr_id in _OPERATIONS
            self._limiter.log(
                _log,
                f"{tr_id} {kis_code}",
                "KIS refuses market operations, which tell of halts; those of another symbol are tried"
                if is_operations
                else "KIS refuses a registration; what it refuses is polled",
                tr_id=tr_id,
                symbol=code,
                code=kis_code,
                text=text,
                key=session.number,
            )
            if is_operations:
                self._on_operations_refused(session, registration, kis_code)
            else:
                self._on_refused(session, code, kis_code)
        elif state is State.ACTIVE and tr_id == self._book_tr:
            self.publisher.of(code).expect_book(self._clock())
        elif state is State.ACTIVE and tr_id == self._trade_tr:
            now = self._clock()
            known = self.publisher.of(code)
            known.is_current, known.active_at, known.n_refusals = False, now, 0
            self.publisher.outages.on_confirmed(tr_id, code, now)

    def _on_refused(self, session: Session, code: str, kis_code: str) -> None:
        pause = _REFUSED
        if kis_code == _INVALID_TR:
            session.shut(_REFUSED)
        elif kis_code in _INVALID_KEY:
            known = self.publisher.of(code)
            pause = min(_REFUSED * 2.0**known.n_refusals, _LONGEST_REFUSED)
            known.n_refusals += 1
        self.publisher.outages.forget(self._trade_tr, code)
        removed = self.allocation.refuse(code, self._clock() + pause)
        if removed is not None:
            self.sessions[removed.session].unwant(self._registrations_of(code))

    def _on_operations_refused(self, session: Session, registration: Registration, kis_code: str) -> None:
        """Have the operations of the market by another symbol, or do without them."""
        name, market = session.on_operations_refused(registration), self.publisher.market
        if name is None or kis_code == _INVALID_TR or market is None:
            return
        for code in self.allocation.codes_of(session.number - 1):
            instrument = market.instrument(code)
            is_of_it = instrument is not None and instrument.market == name
            if is_of_it and self._watch_market(session, market, code):
                return

    # Symbols.

    def _registrations_of(self, code: str) -> list[Registration]:
        tr_ids = (self._trade_tr, self._book_tr) if self.options.has_books else (self._trade_tr,)
        return [Registration(tr_id, code) for tr_id in tr_ids]

    def _warn_of_length(self, n_fixed: int) -> None:
        n_places = len(self.sessions) * (self.options.registrations // self.allocation.size)
        if n_fixed > n_places:
            _log.warning(
                "symbols_file has more symbols than KIS takes registrations: the first ones are registered, the others "
                "polled; kis_fixed_symbols = 0 lets the number of viewers decide",
                symbols=n_fixed,
                registered=n_places,
            )

    def is_quiet(self, code: str) -> bool:
        """It is not wanted, or a poll says that it does not trade: a halt of a single symbol shows so."""
        if code not in self._planned_for and code not in self.allocation.fixed:
            return True
        # A check may be late by half of its interval.
        return self.publisher.of(code).is_confirmed(self._clock(), 1.5 * self._check_interval)

    def figures(self) -> Iterable[Figure]:
        return figures_of(self)
