"""When to connect again, and when not to. Sans-IO; the source of chance is given."""

from __future__ import annotations

from collections.abc import Callable
from random import random
from typing import Final, Literal

import msgspec

from fastws.client.errors import UsageError

Verdict = Literal["again", "token", "end"]

# Where the same client would only be refused the same way; texts complete "the server closed the connection: …".
ENDS: Final = {
    1002: "it says that the client broke the protocol; a proxy between may have",
    1003: "it does not accept binary messages",
    1007: "it got text that is no UTF-8",
    1009: "a message was too big: subscribe to fewer targets at once",
    4410: "the session went on in another client; let each have a session of its own",
}
NEW_TOKEN: Final = {4401: "the token is not accepted or has expired", 4403: "the token does not allow it"}
_ABUSE: Final = 4429
# A server that refuses for abuse or for want of room is given time from the first attempt on.
_ABUSE_STEPS: Final = 3
# A connection that has lived so long was a good one.
_STABLE_SECONDS: Final = 5.0
# No server stops for longer; what announces more cannot be meant.
_MOST_ANNOUNCED: Final = 300.0


class Backoff(msgspec.Struct, frozen=True):
    """Full jitter: the n-th attempt waits a random time between 0 and ``first * 2**n``, at most `most`, in seconds."""

    first: float = 0.5
    most: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.most:
            raise UsageError("backoff: 0 < first <= most must hold, in seconds")


class Reconnection:
    """Decides after each end of a connection. Clock and chance come from outside."""

    def __init__(self, backoff: Backoff, chance: Callable[[], float] = random) -> None:
        self._backoff = backoff
        self._chance = chance
        self._n_failures = 0
        self._announced: float | None = None
        self._has_believed = False
        self._live_at: float | None = None

    def note_live(self, now: float) -> None:
        self._live_at = now
        self._announced = None

    def note_shutdown(self, seconds: float) -> None:
        """The server will end the connection and wants to be left alone until then."""
        if 0 <= seconds <= _MOST_ANNOUNCED:
            self._announced = seconds

    @property
    def is_announced(self) -> bool:
        return self._announced is not None

    def verdict(self, code: int) -> Verdict:
        """What to do about a close code (1006: none came)."""
        if code in NEW_TOKEN:
            return "token"
        return "end" if code in ENDS else "again"

    def delay(self, now: float, code: int = 1006) -> float:
        """Seconds to wait before the next attempt."""
        if self._live_at is not None and now - self._live_at >= _STABLE_SECONDS:
            self._n_failures = 0
            self._has_believed = False
        self._live_at = None
        announced, self._announced = self._announced, None
        if announced is not None and not self._has_believed:
            self._has_believed = True
            return announced
        if code == _ABUSE:
            self._n_failures = max(self._n_failures, _ABUSE_STEPS)
        # Beyond 64 doublings it is at its most anyway.
        most = min(self._backoff.most, self._backoff.first * 2.0 ** min(self._n_failures, 64))
        self._n_failures += 1
        # A server that announces the same again and again must not be asked for it again and again.
        return max(announced or 0.0, most * self._chance())
