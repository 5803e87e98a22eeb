"""KIS's rules of conduct: who has the slot of an app key, how fast one may ask, and who is blocked. Sans-IO.

Times are seconds since the start of the server, passed in by the caller.
"""

from __future__ import annotations

from collections.abc import Callable

from fastws.kis.testing.credentials import Credentials, Window
from fastws.kis.testing.journal import Journal, RequestEntry, SessionEntry, Violation
from fastws.kis.testing.replies import Registration
from fastws.kis.testing.settings import FakeSettings


class Discipline:
    """Notes what KIS forbids, and blocks the app keys of those who keep on.

    1. An app key has one slot. It belongs to the first session that asks for something with it, until that ends, and
       `slot_hold` longer when it ended without a close frame.
    2. KIS names two patterns that it blocks: to connect and close, and to register and unregister, again and again
       without receiving. Sessions that the server ended do not count, but those that it refused do.
    3. What is only hasty is noted, and blocked after `max_hasty` times in a minute.
    4. `on_blocked` is called with an app key when it is blocked.
    """

    def __init__(
        self, journal: Journal, credentials: Credentials, on_blocked: Callable[[str, float], object]
    ) -> None:
        self._journal = journal
        self._credentials = credentials
        self._on_blocked = on_blocked
        self._slots: dict[str, SessionEntry] = {}
        self._held_until: dict[str, float] = {}
        self._last_move: dict[str, float] = {}  # app key -> when a session of it was opened or ended
        self._last_request: dict[str, float] = {}
        self._hasty = Window()
        self._fruitless_connects = Window()
        self._fruitless_registrations = Window()
        self._cycles = Window()

    def note(
        self, kind: str, now: float, app_key: str, session: SessionEntry | None = None, detail: str = ""
    ) -> None:
        """Put a violation into the journal."""
        number = None if session is None else session.number
        self._journal.violations.append(
            Violation(at=now, kind=kind, app_key=app_key, session=number, detail=detail)
        )

    def block(self, app_key: str, now: float, seconds: float) -> None:
        self._credentials.block(app_key, now + seconds)
        self._on_blocked(app_key, seconds)

    def take_slot(self, settings: FakeSettings, session: SessionEntry, app_key: str, now: float) -> bool:
        """Make `session` that of the app key, unless there is one or the last one still counts."""
        waited = session.opened_at - self._last_move.get(app_key, float("-inf"))
        if waited < settings.min_connect_interval - settings.request_tolerance:
            self.note("hasty_connect", now, app_key, session, f"{waited:.2f} s after the last one")
        self._last_move[app_key] = now
        is_taken = app_key in self._slots
        if is_taken or now < self._held_until.get(app_key, 0.0):
            what = "another session is open" if is_taken else "the slot is held"
            self.note("second_session", now, app_key, session, what)
            self._count_fruitless_connect(settings, session, app_key, now)
            return False
        self._slots[app_key] = session
        session.app_key = app_key
        session.bound_at = now
        return True

    def leave(self, settings: FakeSettings, session: SessionEntry, now: float) -> None:
        """A session has ended, which had a slot or not."""
        app_key = session.app_key
        if self._slots.get(app_key) is not session:
            return
        del self._slots[app_key]
        self._last_move[app_key] = now
        if session.close_code is None:
            self._held_until[app_key] = now + settings.slot_hold
        if session.n_frames == 0 and session.closed_by != "server":
            self._count_fruitless_connect(settings, session, app_key, now)

    def gap(self, app_key: str, now: float) -> float | None:
        """The time since the last request with an app key; None at the first one."""
        last = self._last_request.get(app_key)
        self._last_request[app_key] = now
        return None if last is None else now - last

    def check_pace(self, settings: FakeSettings, session: SessionEntry, entry: RequestEntry) -> None:
        """Look at how soon a request came after the one before it."""
        if entry.gap is None or entry.gap >= settings.min_request_interval - settings.request_tolerance:
            return
        app_key, now = entry.app_key, entry.at
        self.note("hasty_request", now, app_key, session, f"{entry.gap * 1000.0:.0f} ms after the one before")
        if settings.max_hasty and self._hasty.add(app_key, now) > settings.max_hasty:
            self._hasty.forget(app_key)
            self.block(app_key, now, settings.block_seconds)

    def count_registration(
        self, settings: FakeSettings, session: SessionEntry, registration: Registration, now: float
    ) -> bool:
        """Count a registration that is made; False when that was once too often, and the app key is blocked."""
        app_key = session.app_key
        n = self._cycles.add((session.number, registration), now)
        if not settings.max_cycles or n <= settings.max_cycles:
            return True
        self.note("cycle", now, app_key, session, " ".join(registration))
        self.block(app_key, now, settings.block_seconds)
        return False

    def count_fruitless_registration(self, settings: FakeSettings, session: SessionEntry, now: float) -> None:
        """Count a registration that was ended before there was data."""
        app_key, limit = session.app_key, settings.max_fruitless_registrations
        if self._fruitless_registrations.add(app_key, now) > limit > 0:
            self._fruitless_registrations.forget(app_key)
            self.note("fruitless_registrations", now, app_key, session)
            self.block(app_key, now, settings.block_seconds)

    def _count_fruitless_connect(
        self, settings: FakeSettings, session: SessionEntry, app_key: str, now: float
    ) -> None:
        if self._fruitless_connects.add(app_key, now) > settings.max_fruitless_connects > 0:
            self._fruitless_connects.forget(app_key)
            self.note("fruitless_connects", now, app_key, session)
            self.block(app_key, now, settings.block_seconds)
