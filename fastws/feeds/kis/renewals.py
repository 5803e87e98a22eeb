"""Registers anew what KIS has confirmed and sends nothing of although there is something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import structlog

from fastws.kis.control import Registration

if TYPE_CHECKING:
    from fastws.feeds.kis.allocation import Allocation
    from fastws.feeds.kis.publisher import Publisher
    from fastws.feeds.kis.session import Session
    from fastws.logs import LogLimiter

# A book that was pushed within this time, in seconds, is not silent.
_SILENT_BOOK: Final = 60.0

_log = structlog.get_logger("fastws.feeds.kis")


class Renewals:
    """Has registrations of `sessions` renewed; `KISConnection.renew` sees to it that this is not done too often.

    1. Trades of a symbol are, when a poll tells of some that do not come, and its book with them, unless that comes.
    2. The book of a symbol is, when its trades come and the book does not.
    3. Where nothing is polled, all of a session is when a market is open and nothing comes at all: of a single symbol
       nobody knows then whether it trades.
    """

    def __init__(
        self,
        sessions: Sequence[Session],
        allocation: Allocation,
        publisher: Publisher,
        *,
        trade_tr: str,
        book_tr: str | None,
        has_polls: bool,
        limiter: LogLimiter,
    ) -> None:
        self._sessions = sessions
        self._allocation = allocation
        self._publisher = publisher
        self._trade_tr = trade_tr
        self._book_tr = book_tr
        self._has_polls = has_polls
        self._limiter = limiter

    def step(self, now: float, stale_after: float | None) -> None:
        """Renew what is due; a session without data for `stale_after` seconds is silent, none where that is None."""
        publisher = self._publisher
        n_suspects = len(publisher.silences) + len(publisher.book_silences)
        for code in publisher.silences.take_due(now):
            self._renew_trades(code, now)
        for code in publisher.book_silences.take_due(now):
            self._renew_book(code)
        publisher.has_changed |= len(publisher.silences) + len(publisher.book_silences) != n_suspects
        if stale_after is not None and not self._has_polls:
            for session in self._sessions:
                self._renew_all(session, now - stale_after)

    def _renew_trades(self, code: str, now: float) -> None:
        place = self._allocation.session_of(code)
        if place is None or not self._sessions[place].renew(Registration(self._trade_tr, code)):
            return
        session = self._sessions[place]
        if self._book_tr is not None and now - self._publisher.of(code).book_since >= _SILENT_BOOK:
            session.renew(Registration(self._book_tr, code))
        session.renew_operations()
        self._tell(
            "trades", "KIS sends no trades of a symbol that has some; it is registered anew, and polled", code
        )

    def _renew_book(self, code: str) -> None:
        place = self._allocation.session_of(code)
        if place is None or self._book_tr is None:
            return
        if self._sessions[place].renew(Registration(self._book_tr, code)):
            self._tell(
                "book", "KIS sends no book of a symbol that trades; it is registered anew, and polled", code
            )

    def _renew_all(self, session: Session, since: float) -> None:
        place = session.number - 1
        codes = self._allocation.codes_of(place)
        if not codes or max(session.opened_at, self._publisher.heard_at[place]) > since:
            return
        tr_ids = [tr_id for tr_id in (self._trade_tr, self._book_tr) if tr_id is not None]
        renewed = [session.renew(Registration(tr_id, code)) for code in codes for tr_id in tr_ids]
        if any(renewed):
            session.renew_operations()
            self._limiter.log(
                _log,
                "silent session",
                "KIS sends nothing of the symbols of an app key while the market is open; they are registered anew",
                symbols=len(codes),
                key=session.number,
            )

    def _tell(self, kind: str, event: str, code: str) -> None:
        place = self._allocation.session_of(code)
        key = None if place is None else self._sessions[place].number
        self._limiter.log(_log, f"silent {kind}", event, symbol=code, key=key)
