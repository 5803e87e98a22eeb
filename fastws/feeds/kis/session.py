"""One app key of the feed: its connection, its room, and what is said about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from fastws.feeds.kis.phases import MARKETS
from fastws.kis.auth import KISAuthManager
from fastws.kis.connection import KISConnection
from fastws.kis.control import Registration
from fastws.kis.events import Event, Live, Lost, Opened, Timing
from fastws.kis.registration import Limits, State
from fastws.kis.registrations import Registrations
from fastws.kis.volume import VolumeGaps

_FAILOVER: Final = 20.0
"""Seconds without a connection after which other app keys take over."""
_PROBATION: Final = 3.0
"""Seconds for which a socket without data must last before it gets symbols again: a key that is in use is told so at
once."""
_REFUSED: Final = 600.0
"""Seconds for which a session gets no symbols when KIS does not know their TR."""
_TELL_AGAIN: Final = 300.0
# After all symbols: for what is only nice to have.
_LAST: Final = 1

_log = structlog.get_logger("fastws.feeds.kis")


class Session:
    """What the feed has of one app key. `number` is 1 for the first one.

    `on_frame(session, tr_id, message, received_ns)` and `on_event(session, event)` are those of `KISConnection`.
    """

    def __init__(
        self,
        number: int,
        auth: KISAuthManager,
        *,
        limits: Limits,
        timing: Timing | None,
        on_frame: Callable[[Session, str, bytes, int], object],
        on_event: Callable[[Session, Event], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.number = number
        self.auth = auth
        self.gaps = VolumeGaps()
        self.n_reconnects = 0
        self._clock = clock
        self._on_event = on_event
        self._registrations = Registrations(limits)
        self.connection = KISConnection(
            auth,
            self._registrations,
            on_frame=lambda tr_id, message, received_ns: on_frame(self, tr_id, message, received_ns),
            on_event=self._take_event,
            timing=timing,
            clock=clock,
        )
        self._opened_at = float("inf")
        self._lost_at = clock()
        self._refused_until = -float("inf")
        self._operations: dict[str, Registration] = {}
        self._told = ""
        self._told_at = 0.0

    @property
    def is_live(self) -> bool:
        return self.connection.is_live

    @property
    def is_well(self) -> bool:
        """Whether it has data, or has had no reason to get any and did not end."""
        return self.is_live or (
            self.connection.is_connected and self._clock() - self._opened_at >= _PROBATION
        )

    def room(self) -> int:
        """How many registrations it has for symbols now: none when it has been down for long."""
        now = self._clock()
        if now < self._refused_until:
            return 0
        if self.is_well or now - self._lost_at < _FAILOVER:
            return self._registrations.cap
        return 0

    def shut(self) -> None:
        """KIS does not know the TR of the symbols here: for ten minutes there is no room for any."""
        self._refused_until = self._clock() + _REFUSED

    def is_active(self, registration: Registration) -> bool:
        """Whether its data comes, or would if there was any."""
        return self.is_live and self._registrations.state(registration) is State.ACTIVE

    def want(self, registrations: Iterable[Registration]) -> None:
        for registration in registrations:
            self.connection.want(registration)

    def unwant(self, registrations: Iterable[Registration]) -> None:
        for registration in registrations:
            self.connection.unwant(registration)
            self.gaps.forget(*registration)

    def watch_market(self, market: str, registration: Registration) -> None:
        """Have the operations of a market, by those of one of its symbols, where a registration is left over."""
        if market in MARKETS and market not in self._operations:
            self._operations[market] = registration
            self.connection.want(registration, _LAST)

    def counts(self) -> dict[str, int]:
        """Registrations by state."""
        states = [self._registrations.state(registration) for registration in self._registrations]
        return {str(state): states.count(state) for state in State}

    def _take_event(self, event: Event) -> None:
        now = self._clock()
        if isinstance(event, Opened):
            self._opened_at = now
        elif isinstance(event, Live):
            if event.gap_seconds is not None:
                self.n_reconnects += 1
                self.gaps.on_reconnected(event.gap_seconds)
            self._told = ""
            _log.info("KIS is live", key=self.number, **_seconds(away_s=event.gap_seconds))
        elif isinstance(event, Lost):
            if self._opened_at < float("inf"):
                self._opened_at, self._lost_at = float("inf"), now
            text = str(event.error)
            if text != self._told or now - self._told_at >= _TELL_AGAIN:
                self._told, self._told_at = text, now
                _log.warning(
                    "KIS is away", key=self.number, error=text, failures=event.n_failures,
                    **_seconds(retry_in_s=event.retry_in),
                )  # fmt: skip
        self._on_event(self, event)


def _seconds(**values: float | None) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items() if value is not None}
