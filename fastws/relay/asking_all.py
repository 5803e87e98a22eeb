"""How often all instances are asked for sessions of which nothing is known. Sans-IO; times are given."""

from __future__ import annotations

import math
from typing import Final

import structlog

from fastws.logs import log_limited

# Sessions a second, and more of them where others may know what is not known here.
_MAX_ASKED: Final = 200
_MAX_ASKED_EARLY: Final = 2000

_log = structlog.get_logger("fastws.relay")


class AskingAll:
    """Counts the questions of each second: ids are easily made up, and all have to look for each."""

    def __init__(self) -> None:
        self._n_asked = 0
        self._since = -math.inf

    def may(self, now: float, *, is_early: bool) -> bool:
        """Count a question, and return whether it may be asked. `is_early`: others may know what is not known here."""
        if now - self._since >= 1.0:
            self._since, self._n_asked = now, 0
        self._n_asked += 1
        if self._n_asked <= (_MAX_ASKED_EARLY if is_early else _MAX_ASKED):
            return True
        log_limited(_log, "relay-unknown", "many clients come with sessions that nobody knows")
        return False
