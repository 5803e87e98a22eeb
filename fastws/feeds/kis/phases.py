"""The status of the markets, from what records and market operations say, and from the clock. Sans-IO.

Sources: KIS's columns NEW_MKOP_CLS_CODE, HOUR_CLS_CODE and MARKET_CLS_CODE of trades and books, MKOP_CLS_CODE of market
operations; trading hours of KRX since 2026-09-14 and of Nextrade.
"""

from __future__ import annotations

from typing import Final

from fastws.market.sessions import (
    AFTER_MARKET,
    CLOSED,
    CLOSING_AUCTION,
    HALTED,
    KOREAN,
    OPEN,
    OPENING_AUCTION,
    PRE_MARKET,
    KoreanCalendar,
)

MARKETS: Final = ("KOSPI", "KOSDAQ")

# How long what was said by data counts against the clock, and a halt against trades that were on their way, in seconds.
_FRESH: Final = 600.0
_HALT_LEAST: Final = 5.0

# Market operations that change the status; those of single symbols, side cars and countdowns do not.
_OPERATIONS: Final = {
    "110": OPENING_AUCTION,
    "112": OPEN,
    "121": CLOSING_AUCTION,
    "129": CLOSED,
    "130": PRE_MARKET,
    "140": AFTER_MARKET,
    "146": AFTER_MARKET,
    "149": CLOSED,
    "164": HALTED,
    "174": HALTED,
    "175": OPEN,
    "182": CLOSED,
    "184": HALTED,
    "185": OPEN,
}
_CLOCK: Final = KoreanCalendar(KOREAN["UN"])


def phase_at(unix_seconds: float) -> str:
    """The phase of the day by the clock in Seoul. Holidays are not known to it, week-ends are."""
    return _CLOCK.phase_at(unix_seconds)


def phase_of(hour: str, operation: str, market: str) -> str | None:
    """The phase that a record is of, by its HOUR_CLS_CODE, NEW_MKOP_CLS_CODE and MARKET_CLS_CODE; "" is none.

    None: it does not tell, as with the expected price during a volatility interruption, or a book of UN or NXT: those
    have the hour only, which is 0 before and after the regular session, too.
    """
    if market == "1":
        return PRE_MARKET
    if market == "3":
        return AFTER_MARKET
    if market == "5":
        return CLOSED
    if hour == "A":
        return CLOSING_AUCTION
    if hour == "B":
        return OPENING_AUCTION
    if hour not in ("", "0"):
        return None
    if operation[:1] == "1":
        return PRE_MARKET
    if operation == "20":
        return OPEN
    if operation == "21":
        return CLOSING_AUCTION
    return None


class Phases:
    """The status of KOSPI and KOSDAQ.

    1. What data says comes first, for ten minutes.
    2. The clock alone closes a market, and never opens it: on a holiday it would.
    3. A market that was halted by a market operation is so until an operation says otherwise, or it trades again.

    `now` is Unix time in seconds.
    """

    def __init__(self) -> None:
        self.statuses: dict[str, str] = {}
        self._said_at: dict[str, float] = {}

    def on_record(self, market: str, phase: str, now: float, *, is_trade: bool) -> bool:
        """Note the phase that a record is of; whether the status has changed."""
        is_halted = self.statuses.get(market) == HALTED
        # Books go on during a halt, and trades that were on their way still come.
        if is_halted and (not is_trade or now < self._said_at[market] + _HALT_LEAST):
            return False
        return self._set(market, phase, now)

    def on_operation(self, market: str, code: str, now: float) -> bool:
        """Note a market operation (MKOP_CLS_CODE); whether the status has changed."""
        status = _OPERATIONS.get(code)
        return status is not None and self._set(market, status, now)

    def on_time(self, now: float) -> list[str]:
        """Let the clock have its say; returns the markets whose status has changed."""
        if phase_at(now) != CLOSED:
            return []
        return [
            market
            for market in MARKETS
            if now - self._said_at.get(market, -_FRESH) >= _FRESH and self.statuses.get(market) != CLOSED
            and self._set(market, CLOSED, now - _FRESH)
        ]  # fmt: skip

    def _set(self, market: str, status: str, now: float) -> bool:
        if market not in MARKETS:
            return False
        self._said_at[market] = now
        if self.statuses.get(market) == status:
            return False
        self.statuses[market] = status
        return True
