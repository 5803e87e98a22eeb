"""What lost connections cost: how many shares were traded meanwhile, by symbol, whichever session brings it again."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Final

import structlog

from fastws.kis.volume import Gap, VolumeGaps

# Gaps are told together, so many seconds after the first one.
_REPORT: Final = 30.0

_log = structlog.get_logger("fastws.feeds.kis")


class Outages:
    """Counts what was traded while symbols were not registered because a session was lost. Times are monotonic, in
    seconds.

    1. An outage of a symbol begins when the session is lost that has it, and ends when KIS confirms a registration of
       it, in that session or in another one. Its first trade then tells what it cost.
    2. What nobody wants any more has no outage.
    3. Only outages in which something was traded are counted and told.
    """

    def __init__(self) -> None:
        self.n_gaps = 0
        """Symbols that had trades meanwhile."""
        self.lost_volume = 0
        """The shares that were traded meanwhile."""
        self._volumes = VolumeGaps()
        self._lost_at: dict[str, float] = {}
        self._gaps: dict[str, Gap] = {}
        self._report_at: float | None = None

    def on_lost(self, codes: Iterable[str], now: float) -> None:
        """The session that has these is lost."""
        for code in codes:
            self._lost_at.setdefault(code, now)

    def on_confirmed(self, tr_id: str, code: str, now: float) -> None:
        """The trades of a symbol come again."""
        lost_at = self._lost_at.pop(code, None)
        if lost_at is not None:
            self._volumes.on_reconnected(now - lost_at, ((tr_id, code),))

    def forget(self, tr_id: str, code: str) -> None:
        """It is taken back, and not because of an outage."""
        self._lost_at.pop(code, None)
        self._volumes.forget(tr_id, code)

    def forget_unwanted(self, tr_id: str, *wanted: Container[str]) -> None:
        """Forget those that are away and in none of `wanted`."""
        for code in [code for code in self._lost_at if not any(code in group for group in wanted)]:
            self.forget(tr_id, code)

    def on_trade(
        self, tr_id: str, code: str, day_volume: int, trade_volume: int, day: int, now: float
    ) -> None:
        """Note a trade (ACML_VOL, CNTG_VOL) of `day`; see `VolumeGaps`."""
        gap = self._volumes.on_trade(tr_id, code, day_volume, trade_volume, day)
        if gap is None or not gap.lost_volume:
            return
        self.n_gaps += 1
        self.lost_volume += gap.lost_volume
        self._gaps[code] = gap
        if self._report_at is None:
            self._report_at = now + _REPORT

    def report(self, now: float) -> None:
        """Tell of what was lost, in one line for all symbols, once the first trades of most have come."""
        if self._report_at is None or now < self._report_at:
            return
        gaps, self._gaps, self._report_at = self._gaps.values(), {}, None
        _log.warning(
            "trades were lost while KIS was away",
            symbols=len(gaps),
            shares=sum(gap.lost_volume or 0 for gap in gaps),
            seconds=round(max(gap.seconds for gap in gaps), 1),
        )
