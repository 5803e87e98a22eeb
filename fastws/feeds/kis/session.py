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
from fastws.kis.errors import KISInUseError
from fastws.kis.events import Changed, Event, Live, Lost, Opened, Timing
from fastws.kis.registration import Limits, State
from fastws.kis.registrations import Registrations

_FAILOVER: Final = 20.0
"""Seconds without a connection after which other app keys take over."""
_PROBATION: Final = 3.0
"""Seconds for which a socket without data must last before it gets symbols again: a key that is in use is told so at
once."""
_TELL_AGAIN: Final = 300.0
# After all symbols: for what is only nice to have.
_LAST: Final = 1

_log = structlog.get_logger("fastws.feeds.kis")


class Session:
    """What the feed has of one app key. `number` is 1 for the first one.

    1. It has room for symbols while it is well, and for a while after it was: a reconnect is quicker than another key.
    2. A connection that was refused has not been well. After KIS has said that the key is in use elsewhere only data or
       an answer counts as being so: KIS may say it only when something is registered.

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
        self.opened_at = float("inf")
        """When the connection was opened; infinity while there is none."""
        self._was_well = False  # in this connection
        self._lost_at = clock()
        self._refused_until = -float("inf")
        self._is_doubtful = False
        self._operations: dict[str, Registration] = {}
        self._bad_operations: set[Registration] = set()
        self._told = ""
        self._told_at = 0.0

    @property
    def is_live(self) -> bool:
        return self.connection.is_live

    @property
    def is_well(self) -> bool:
        """Whether it has data, or has had no reason to get any and did not end."""
        return self.is_live or (not self._is_doubtful and self.connection.is_connected and self._has_lasted())

    @property
    def needs_proof(self) -> bool:
        """Whether it has to register something to show that the key is free again, and has nothing to register."""
        return (
            self._is_doubtful
            and not self.is_live
            and self.connection.is_connected
            and not self._registrations
        )

    def room(self) -> int:
        """How many registrations it has for symbols now: none when it has been down for long."""
        now = self._clock()
        if now < self._refused_until:
            return 0
        if self.is_well or now - self._lost_at < _FAILOVER:
            return self._registrations.cap
        return 0

    def shut(self, seconds: float) -> None:
        """KIS does not know the TR of the symbols here: for so long there is no room for any."""
        self._refused_until = self._clock() + seconds

    def is_active(self, registration: Registration) -> bool:
        """Whether its data comes, or would if there was any."""
        return self.is_live and self._registrations.state(registration) is State.ACTIVE

    def want(self, registrations: Iterable[Registration]) -> None:
        for registration in registrations:
            self.connection.want(registration)

    def unwant(self, registrations: Iterable[Registration]) -> None:
        for registration in registrations:
            self.connection.unwant(registration)

    def renew(self, registration: Registration) -> bool:
        """Register once more what has gone silent; whether that is going to be done."""
        return self.connection.renew(registration)

    def renew_operations(self) -> None:
        """Register those of the markets once more, because others have gone silent: of them silence tells nothing."""
        for registration in self._operations.values():
            self.connection.renew(registration)

    def watch_market(self, market: str, registration: Registration) -> bool:
        """Have the operations of a market, by those of one of its symbols, where a registration is left over; whether
        they are asked for by this one now."""
        if market not in MARKETS or market in self._operations or registration in self._bad_operations:
            return False
        self._operations[market] = registration
        self.connection.want(registration, _LAST)
        return True

    def on_operations_refused(self, registration: Registration) -> str | None:
        """KIS does not take this one: it is not asked for again. Returns the market that it was for."""
        market = next((name for name, other in self._operations.items() if other == registration), None)
        if market is not None:
            del self._operations[market]
            self._bad_operations.add(registration)
            self.connection.unwant(registration)
        return market

    def counts(self) -> dict[str, int]:
        """Registrations by state."""
        states = [self._registrations.state(registration) for registration in self._registrations]
        return {str(state): states.count(state) for state in State}

    def _take_event(self, event: Event) -> None:
        now = self._clock()
        if isinstance(event, Opened):
            self.opened_at = now
        elif isinstance(event, Live):
            if event.gap_seconds is not None:
                self.n_reconnects += 1
            self._was_well, self._is_doubtful = True, False
            self._told = ""
            _log.info("KIS is live", key=self.number, **_seconds(away_s=event.gap_seconds))
        elif isinstance(event, Lost):
            is_in_use = isinstance(event.error, KISInUseError)
            self._is_doubtful |= is_in_use
            if self._was_well or (not self._is_doubtful and self._has_lasted()):
                self._lost_at = now
            self._was_well, self.opened_at = False, float("inf")
            text = str(event.error)
            if text != self._told or now - self._told_at >= _TELL_AGAIN:
                self._told, self._told_at = text, now
                _log.warning(
                    "KIS is away", key=self.number, error=text, failures=event.n_failures,
                    **_seconds(retry_in_s=event.retry_in),
                )  # fmt: skip
        elif isinstance(event, Changed) and event.change.code:
            self._is_doubtful = False  # it was refused something else
        self._on_event(self, event)

    def _has_lasted(self) -> bool:
        return self._clock() - self.opened_at >= _PROBATION


def _seconds(**values: float | None) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items() if value is not None}
