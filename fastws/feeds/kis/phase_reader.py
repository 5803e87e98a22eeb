"""Reads the phases of the markets off what KIS sends, and publishes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import structlog

from fastws._kis import columns_for, split_frame
from fastws.feeds.kis.phases import MARKETS, Phases, phase_of
from fastws.kis.control import TICK
from fastws.market.sessions import OPEN

if TYPE_CHECKING:
    from fastws._market import Instrument
    from fastws.feeds.base import MarketSink

# Of each market and TR so often a record is read for its phase, in seconds.
_LOOK_INTERVAL: Final = 0.5
_COLUMNS: Final = ("HOUR_CLS_CODE", "NEW_MKOP_CLS_CODE", "MARKET_CLS_CODE")
_TRADES: Final = frozenset(TICK.values())

_log = structlog.get_logger("fastws.feeds.kis")


class PhaseReader:
    """Keeps the statuses of KOSPI and KOSDAQ from data frames, market operations and the clock; see `Phases`.

    `wall_clock` returns Unix time in seconds. `now` is monotonic. Messages that cannot be read raise KISFrameError.
    """

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self.phases = Phases()
        self._wall_clock = wall_clock
        self._look_at: dict[tuple[str, str], float] = {}
        self._columns: dict[tuple[str, int], tuple[int, ...]] = {}  # by TR and width: where the phase stands

    @property
    def is_open(self) -> bool:
        """Whether one of the markets is."""
        return OPEN in self.phases.statuses.values()

    def publish(self, market: MarketSink) -> None:
        """Publish what is known."""
        for name, status in self.phases.statuses.items():
            market.set_status(name, status)

    def on_time(self, market: MarketSink) -> None:
        """Let the clock have its say."""
        for name in self.phases.on_time(self._wall_clock()):
            market.set_status(name, self.phases.statuses[name])

    def on_operation(self, market: MarketSink, tr_id: str, message: bytes) -> None:
        """Take a frame of market operations."""
        for record in split_frame(message).records:
            values = dict(zip(columns_for(tr_id, len(record)), record, strict=True))
            instrument = market.instrument(values.get("MKSC_SHRN_ISCD", ""))
            name = None if instrument is None else instrument.market
            code = values.get("MKOP_CLS_CODE", "")
            if name is not None and self.phases.on_operation(name, code, self._wall_clock()):
                _log.info("market operation", market=name, code=code, status=self.phases.statuses[name])
                market.set_status(name, self.phases.statuses[name])

    def on_data(
        self, market: MarketSink, instrument: Instrument, tr_id: str, message: bytes, now: float
    ) -> None:
        """Take a frame of trades or books whose first record is of `instrument`; it is read now and then only."""
        name = instrument.market
        if name not in MARKETS or now < self._look_at.get((name, tr_id), -float("inf")):
            return
        self._look_at[name, tr_id] = now + _LOOK_INTERVAL
        record = split_frame(message).records[0]
        key = (tr_id, len(record))
        indices = self._columns.get(key)
        if indices is None:
            columns = columns_for(*key)
            indices = tuple(columns.index(column) if column in columns else -1 for column in _COLUMNS)
            self._columns[key] = indices
        hour, operation, session = ("" if i < 0 else record[i] for i in indices)
        phase = phase_of(hour, operation, session)
        if phase is not None and self.phases.on_record(
            name, phase, self._wall_clock(), is_trade=tr_id in _TRADES
        ):
            market.set_status(name, phase)
