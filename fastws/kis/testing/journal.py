"""What the clients did: every request, session and call, with its time, and what KIS would not have liked. Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import msgspec

MAX_ENTRIES: Final = 100_000


class RequestEntry(msgspec.Struct, kw_only=True):
    """A text message of a client that is no PINGPONG.

    `gap` is the time since the request before it with the same app key (of the same session while that is not
    known), `answer` the message code, "" when there was none.
    """

    at: float
    session: int
    app_key: str
    approval_key: str
    tr_type: str
    tr_id: str
    tr_key: str
    gap: float | None
    answer: str = ""


class SessionEntry(msgspec.Struct, kw_only=True):
    """A WebSocket connection. `closed_by` is "" while it is open, then client, server or network.

    `app_key` is "" until the first request with a valid approval key; `bound_at` is when that came and the slot
    of the app key was granted.
    """

    number: int
    address: str
    path: str
    opened_at: float
    app_key: str = ""
    bound_at: float | None = None
    closed_at: float | None = None
    closed_by: str = ""
    close_code: int | None = None
    reason: str = ""
    n_requests: int = 0
    n_registrations: int = 0
    max_registrations: int = 0
    n_frames: int = 0
    n_records: int = 0
    n_pingpongs: int = 0
    n_text_replies: int = 0
    n_frame_replies: int = 0
    n_own_pingpongs: int = 0
    n_rfc_pings: int = 0


class CallEntry(msgspec.Struct, kw_only=True):
    """A request by HTTP. `code` is KIS's message or error code, "" for a success."""

    at: float
    path: str
    app_key: str
    status: int
    code: str = ""
    symbols: int = 0


class Violation(msgspec.Struct, kw_only=True):
    """Something that KIS forbids or punishes; see VIOLATIONS for the kinds."""

    at: float
    kind: str
    app_key: str
    session: int | None
    detail: str = ""


VIOLATIONS: Final = {
    "hasty_request": "a registration came sooner after the one before than allowed",
    "hasty_connect": "a session was opened sooner after the last one opened or ended than allowed",
    "second_session": "a session was opened while the app key was in use",
    "over_cap": "a registration more than a session may have",
    "repeated": "a registration that was there already",
    "not_registered": "the end of a registration that was not there",
    "unknown_approval": "an approval key that is unknown or too old",
    "malformed": "a request that cannot be read or names what does not exist",
    "fruitless_connects": "sessions opened and ended again and again without data",
    "fruitless_registrations": "registrations made and ended again and again without data",
    "cycle": "one registration made and ended again and again",
    "blocked": "something was tried with a blocked app key",
    "hasty_approval": "an approval key was asked for too soon after the last one",
    "hasty_token": "an access token was asked for too soon after the last one",
    "rest_rate": "more calls in a second than allowed",
    "no_pong": "PINGPONG was not answered",
    "slow_reader": "the client did not read what it was sent",
}


class Journal:
    """Keeps the latest 100,000 entries of each kind. Times are seconds since the start of the server.

    Entries are live objects: those of open sessions go on counting.
    """

    def __init__(self) -> None:
        self.requests: deque[RequestEntry] = deque(maxlen=MAX_ENTRIES)
        self.sessions: deque[SessionEntry] = deque(maxlen=MAX_ENTRIES)
        self.calls: deque[CallEntry] = deque(maxlen=MAX_ENTRIES)
        self.violations: deque[Violation] = deque(maxlen=MAX_ENTRIES)

    def clear(self) -> None:
        """Forget everything but the sessions that are open."""
        self.requests.clear()
        self.calls.clear()
        self.violations.clear()
        still_open = [entry for entry in self.sessions if entry.closed_at is None]
        self.sessions.clear()
        self.sessions.extend(still_open)

    def n_violations(self, kind: str) -> int:
        return sum(1 for entry in self.violations if entry.kind == kind)

    def gaps(self, app_key: str | None = None) -> Iterator[float]:
        """Times between requests that followed each other with one app key, as they arrived here.

        The network and this process may bring two of them closer together than they were sent.
        """
        for entry in self.requests:
            if entry.gap is not None and app_key in (None, entry.app_key):
                yield entry.gap

    def fastest_gap(self, app_key: str | None = None) -> float | None:
        return min(self.gaps(app_key), default=None)

    def fastest(self, n: int, app_key: str | None = None) -> float | None:
        """The shortest time in which `n` requests of one app key arrived; None where there were fewer.

        Over many requests the jitter of single ones does not matter: 11 that were sent 0.1 s apart take one second.
        """
        times: dict[str, list[float]] = {}
        for entry in self.requests:
            if app_key in (None, entry.app_key):
                times.setdefault(entry.app_key, []).append(entry.at)
        spans = [at[i + n - 1] - at[i] for at in times.values() for i in range(len(at) - n + 1)]
        return min(spans, default=None)

    def max_sessions(self, app_key: str | None = None) -> int:
        """The most sessions of one app key that were granted at a time; the server grants one."""
        most = 0
        for key in {entry.app_key for entry in self.sessions if entry.app_key}:
            if app_key in (None, key):
                moves = sorted(self._moves(key))
                n = 0
                for _, move in moves:
                    n += move
                    most = max(most, n)
        return most

    def _moves(self, app_key: str) -> Iterator[tuple[float, int]]:
        for entry in self.sessions:
            if entry.app_key == app_key and entry.bound_at is not None:
                yield entry.bound_at, 1
                if entry.closed_at is not None:
                    yield entry.closed_at, -1

    def max_registrations(self, app_key: str | None = None) -> int:
        """The most registrations that a session had."""
        return max(
            (entry.max_registrations for entry in self.sessions if app_key in (None, entry.app_key)),
            default=0,
        )

    def shortest_reconnect(self) -> float | None:
        """The shortest time between the end of a session and the opening of the next one."""
        ordered = sorted(self.sessions, key=lambda entry: entry.opened_at)
        return min(
            (
                later.opened_at - earlier.closed_at
                for earlier, later in pairwise(ordered)
                if earlier.closed_at
            ),
            default=None,
        )

    def summary(self) -> dict[str, Any]:
        kinds: dict[str, int] = {}
        for entry in self.violations:
            kinds[entry.kind] = kinds.get(entry.kind, 0) + 1
        answers: dict[str, int] = {}
        for request in self.requests:
            answers[request.answer] = answers.get(request.answer, 0) + 1
        return {
            "requests": len(self.requests),
            "answers": answers,
            "sessions": len(self.sessions),
            "open_sessions": sum(1 for entry in self.sessions if entry.closed_at is None),
            "calls": len(self.calls),
            "frames": sum(entry.n_frames for entry in self.sessions),
            "records": sum(entry.n_records for entry in self.sessions),
            "violations": kinds,
            "fastest_gap": self.fastest_gap(),
            "max_sessions_per_key": self.max_sessions(),
            "max_registrations": self.max_registrations(),
        }
