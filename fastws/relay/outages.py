"""The log lines that the relay is away, and that it is there. The clock is given."""

from __future__ import annotations

from typing import Final

import structlog

AGAIN_SECONDS: Final = 10.0
"""Between two lines of the same kind: a Redis that comes and goes several times a second fills no disk."""

_log = structlog.get_logger("fastws.relay")


class OutageLog:
    """Logs each change, but of those that follow each other within `AGAIN_SECONDS` only some; and always how it is in
    the end, at the latest that much later, if `tell` is called now and then.

    One that is away for another reason than before, as when Redis comes back and refuses the password, has a limit of
    its own: that is what somebody has to mend.

    `place` is where the relay is, for people. Of one that is nowhere, and so never away, there is nothing to tell.
    """

    def __init__(self, place: str, instance: str) -> None:
        self._place = place
        self._instance = instance
        # Why it is away, None while it is there; as it is, and as it was told last. Before the first change: neither.
        self._reason: str | None = ""
        self._told: str | None = ""
        self._away = 0.0
        # Whether it is away for another reason than when it went.
        self._is_other = False
        # By what is told: whether it is away, and whether for another reason.
        self._tell_from: dict[tuple[bool, bool], float] = {}

    def note_away(self, now: float, reason: str) -> None:
        if self._reason and reason != self._reason:
            self._is_other = True
        self._reason = reason
        self.tell(now)

    def note_there(self, now: float, away: float) -> None:
        """It is there, after `away` seconds."""
        self._reason, self._away, self._is_other = None, away, False
        self.tell(now)

    def tell(self, now: float) -> None:
        """Log how it is, where that is to be told."""
        is_away = self._reason is not None
        kind = is_away, self._is_other
        if not self._place or self._reason == self._told or now < self._tell_from.get(kind, now):
            return
        self._told = self._reason
        self._tell_from[kind] = now + AGAIN_SECONDS
        if is_away:
            _log.warning("the relay is away; local clients go on", relay=self._place, error=self._reason)
        else:
            _log.info(
                "the relay is there",
                relay=self._place,
                after_s=round(self._away, 3),
                instance=self._instance,
            )
