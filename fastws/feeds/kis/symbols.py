"""Which symbols KIS has, and telling of those that it has not. Sans-IO."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, TypeVar

import structlog

from fastws.kis.control import check_code
from fastws.logs import LogLimiter

if TYPE_CHECKING:
    from fastws._market import Instrument
    from fastws.feeds.base import MarketSink

T = TypeVar("T")

_WON: Final = "KRW"
_TELL_AGAIN: Final = 300.0
_SHOWN: Final = 10

_log = structlog.get_logger("fastws.feeds.kis")


def is_servable(code: str, currency: str | None = None) -> bool:
    """Whether KIS may have a symbol: its code looks like one of a Korean stock, and its currency, where there is one,
    is the won."""
    if currency not in (None, _WON):
        return False
    try:
        check_code(code)
    except ValueError:
        return False
    return True


def has_servable(instruments: Iterable[Instrument]) -> bool:
    return any(is_servable(instrument.code, instrument.currency) for instrument in instruments)


class Symbols:
    """Picks the symbols that KIS may have, and tells of the others: each once, in one line for all that were found
    within five minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._known: dict[str, bool] = {}
        self._untold: list[str] = []
        self._limiter = LogLimiter(_TELL_AGAIN, clock=clock)

    def servable(self, codes: Iterable[str], market: MarketSink | None = None) -> list[str]:
        """Those of `codes` that KIS may have, by what `market` knows of them."""
        return [code for code in codes if self._is_servable(code, market)]

    def chosen(self, wanted: Mapping[str, T], market: MarketSink) -> dict[str, T]:
        """The same of what is wanted now."""
        return {code: value for code, value in wanted.items() if self._is_servable(code, market)}

    def tell(self) -> None:
        if self._untold and self._limiter.take("") is not None:
            codes, self._untold = self._untold, []
            _log.warning(
                "KIS does not have symbols that are wanted: its codes are such as 005930; they get no prices from it",
                symbols=len(codes),
                first=codes[:_SHOWN],
            )

    def _is_servable(self, code: str, market: MarketSink | None) -> bool:
        found = self._known.get(code)
        if found is None:
            instrument = None if market is None else market.instrument(code)
            found = is_servable(code, None if instrument is None else instrument.currency)
            if market is not None or not found:
                self._known[code] = found
            if not found:
                self._untold.append(code)
        return found
