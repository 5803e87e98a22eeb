"""A connection to the fake KIS server that wants three registrations, for tests of what happens to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from itertools import pairwise
from typing import Any

from fastws.kis import KISAuthManager, KISConnectionError
from fastws.kis.connection import Event, KISConnection, Lost, Timing
from fastws.kis.control import Registration, Request
from fastws.kis.registrations import Limits, Registrations, State
from fastws.kis.testing import FakeKIS

TICK = Registration("H0UNCNT0", "005930")
QUOTE = Registration("H0UNASP0", "005930")
OTHER = Registration("H0STCNT0", "000660")
WANTED = (TICK, QUOTE, OTHER)

LIMITS = Limits(
    pace=0.2, min_dwell=1.0, ack_timeout=0.6, retry_delays=(0.3, 0.5, 1.0), slow_retry=2.0, silent_after=2.5
)
TIMING = Timing(
    connect_timeout=1.0, silence=1.5, first_delay=1.0, last_delay=1.2, in_use_delay=(1.0, 1.1), slow_delay=1.5
)


async def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        await asyncio.sleep(0.01)


class TimedRegistrations(Registrations):
    """Keeps when what was sent."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self.sent_at: list[float] = []
        self.gaps: list[float] = []
        self._gone_at = float("-inf")

    def next_request(self, now: float) -> Request | None:
        request = super().next_request(now)
        if request is not None:
            self.sent_at.append(time.monotonic())
        return request

    def on_connected(self, now: float) -> None:
        self.gaps.append(now - self._gone_at)
        super().on_connected(now)

    def on_disconnected(self, now: float) -> None:
        self._gone_at = now
        super().on_disconnected(now)


class Client:
    """A connection that wants three registrations, and what has come of it."""

    def __init__(
        self, kis: FakeKIS, *, timing: Timing = TIMING, limits: Limits = LIMITS, **options: Any
    ) -> None:
        self.kis = kis
        self.frames: list[tuple[str, bytes]] = []
        self.events: list[Event] = []
        self.auth = KISAuthManager(
            options.pop("app_key", kis.app_key),
            options.pop("app_secret", kis.app_secret),
            rest_url=options.pop("rest_url", kis.rest_url),
            ws_url=options.pop("ws_url", kis.ws_url),
        )
        self.registrations = TimedRegistrations(limits)
        self.connection = KISConnection(
            self.auth,
            self.registrations,
            on_frame=lambda tr_id, message, at: self.frames.append((tr_id, message)),
            on_event=self.events.append,
            timing=timing,
            **options,
        )
        for registration in WANTED:
            self.connection.want(registration)

    @property
    def errors(self) -> list[KISConnectionError]:
        return [event.error for event in self.events if isinstance(event, Lost)]

    @property
    def is_subscribed(self) -> bool:
        return all(self.registrations.state(item) is State.ACTIVE for item in WANTED)

    async def subscribed(self, seconds: float = 30.0) -> None:
        await until(lambda: self.is_subscribed, "subscribed", seconds)

    async def receiving(self) -> None:
        """Wait for a frame of each registration that comes from now on."""
        self.frames.clear()
        await until(
            lambda: {tr_id for tr_id, _ in self.frames} >= {item.tr_id for item in WANTED}, "receiving"
        )


def keeps_the_rules(client: Client, *, also: Collection[str] = ()) -> None:
    """Check that KIS would not have minded; `also` are kinds of violations that lie in what the test does.

    Times are those of sending and not those of the fake server, which shares a loop with the client and a machine with
    other tests: what it gets late it finds hasty.
    """
    journal = client.kis.journal
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(client.registrations.sent_at))
    assert all(gap >= 1.0 for gap in client.registrations.gaps), "connected too soon"
    assert journal.max_sessions() <= 1, "two sessions of one app key"
    assert journal.max_registrations() <= LIMITS.cap
    kinds = {entry.kind for entry in journal.violations} - {"hasty_request", "hasty_connect"}
    assert kinds <= set(also), list(journal.violations)
    assert all(session.n_rfc_pings == 0 for session in journal.sessions)
