"""Symbols of which KIS sends nothing although it has confirmed their registration. Sans-IO."""

from __future__ import annotations

from typing import Final

# A trade that a poll tells of is pushed within this time, in seconds, if it is pushed at all.
_PATIENCE: Final = 5.0
# So long after the last poll that told of something a symbol is no longer suspected, and while it is, its registration
# may be renewed this often.
_SUSPICION: Final = 60.0


class _Suspect:
    __slots__ = ("renew_at", "until")

    def __init__(self, now: float) -> None:
        self.renew_at = now + _PATIENCE
        self.until = now + _SUSPICION


class Silences:
    """The symbols that are suspected to be silent; times are monotonic, in seconds.

    1. A symbol is suspected when a poll tells of a trade that was not pushed, until a trade is pushed or polls have had
       nothing new for a minute.
    2. When nothing is pushed within five seconds its registration is to be renewed. So a trade that a poll was told of
       a moment before it was pushed changes nothing.
    """

    def __init__(self) -> None:
        self._suspects: dict[str, _Suspect] = {}

    def __len__(self) -> int:
        return len(self._suspects)

    def __contains__(self, code: object) -> bool:
        return code in self._suspects

    def on_missed(self, code: str, now: float) -> None:
        """A poll has told of a trade that was not pushed."""
        suspect = self._suspects.setdefault(code, _Suspect(now))
        suspect.until = now + _SUSPICION

    def forget(self, code: str) -> bool:
        """A trade was pushed, or it is registered no longer; whether it was suspected."""
        return self._suspects.pop(code, None) is not None

    def take_due(self, now: float) -> list[str]:
        """Return those whose registrations are to be renewed now; those whose time is over are forgotten."""
        self._suspects = {code: suspect for code, suspect in self._suspects.items() if now < suspect.until}
        due = [code for code, suspect in self._suspects.items() if now >= suspect.renew_at]
        for code in due:
            self._suspects[code].renew_at = now + _SUSPICION
        return due
