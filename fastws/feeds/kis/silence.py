"""Symbols of which KIS sends no trades, or no books, although it has confirmed their registration. Sans-IO."""

from __future__ import annotations

from typing import Final

# What is known to be there is pushed within this time, in seconds, if it is pushed at all.
_PATIENCE: Final = 5.0
# So long after the last sign of something that was not pushed a symbol is no longer suspected, and while it is, its
# registration may be renewed this often.
_SUSPICION: Final = 60.0


class _Suspect:
    __slots__ = ("proven_at", "renew_at", "until")

    def __init__(self, now: float) -> None:
        self.proven_at = self.renew_at = now + _PATIENCE
        self.until = now + _SUSPICION


class Silences:
    """The symbols that are suspected to be silent; times are monotonic, in seconds.

    1. A symbol is suspected when there is a sign of something that was not pushed, until something is pushed or there
       was no such sign for a minute. Of trades polls tell, of books the trades do.
    2. When nothing is pushed within five seconds its registration is to be renewed. So a trade that a poll was told of
       a moment before it was pushed changes nothing.
    """

    def __init__(self) -> None:
        self._suspects: dict[str, _Suspect] = {}

    def __len__(self) -> int:
        return len(self._suspects)

    def __contains__(self, code: object) -> bool:
        return code in self._suspects

    def on_missed(self, code: str, now: float) -> bool:
        """There is a sign of something that was not pushed; whether it would have been by now."""
        suspect = self._suspects.setdefault(code, _Suspect(now))
        suspect.until = now + _SUSPICION
        return now >= suspect.proven_at

    def forget(self, code: str) -> bool:
        """Something was pushed, or it is registered no longer; whether it was suspected."""
        return self._suspects.pop(code, None) is not None

    def take_due(self, now: float) -> list[str]:
        """Return those whose registrations are to be renewed now; those whose time is over are forgotten."""
        self._suspects = {code: suspect for code, suspect in self._suspects.items() if now < suspect.until}
        due = [code for code, suspect in self._suspects.items() if now >= suspect.renew_at]
        for code in due:
            self._suspects[code].renew_at = now + _SUSPICION
        return due
