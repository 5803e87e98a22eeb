"""How old what a client knows of each symbol is, by the clock of the server. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

# More symbols than the markets of the world have, so that a server that makes names up costs no more.
_MOST_CODES: Final = 100_000


class Ages:
    """When symbols were updated last, and which of them the server calls stale. `now` is monotonic, in seconds.

    1. Times are the server's, and so is the clock that they are compared with: a greeting or a pong says how far it is
       from this one, within the time that it was under way.
    2. A symbol that the server calls stale is so until it says otherwise, or until a live update of it comes. What it
       was is forgotten with the session: the snapshot of the next one says it again.
    3. So is one of which the server has nothing but values from before its last start, which say so themselves: it
       judges none of these before it knows them.
    """

    def __init__(self) -> None:
        self._ahead: float | None = None
        self._at: dict[str, datetime] = {}
        self._stale: set[str] = set()
        # Of those that something came of in this session, whether all of it was from before the server's start.
        self._restored: dict[str, bool] = {}

    def set_clock(self, timestamp: str, now: float) -> None:
        """Note what time it is at the server."""
        self._ahead = datetime.fromisoformat(timestamp).timestamp() - now

    def take(self, code: str, at: datetime, *, is_live: bool = True, is_restored: bool = False) -> None:
        """Note an update that was published at `at`; it `is_live` unless it is of a snapshot, and `is_restored` where
        it says that it is from before the server's start."""
        if is_restored and self._restored.get(code) is False:
            # The price is old and the order book is not, or the other way round.
            return
        if code in self._at or len(self._at) < _MOST_CODES:
            self._at[code] = at
            self._restored[code] = is_restored
        if is_live and not is_restored and self._stale:
            self._stale.discard(code)

    def note(self, code: str, status: str) -> None:
        """Note what the server says of a symbol."""
        if status == "stale":
            if len(self._stale) < _MOST_CODES:
                self._stale.add(code)
        else:
            self._stale.discard(code)

    def begin(self) -> None:
        """Another session begins."""
        self._stale.clear()
        self._restored.clear()

    def change_server(self) -> None:
        """Another server goes on with the session. What it has from before its start it will say."""
        self._restored.clear()

    def forget(self, codes: Iterable[str]) -> None:
        """These are held no more."""
        for code in codes:
            self._at.pop(code, None)
            self._restored.pop(code, None)
            self._stale.discard(code)

    def age(self, code: str, now: float) -> float | None:
        """Seconds since the last update of a symbol was published; None before the first."""
        at = self._at.get(code)
        if at is None or self._ahead is None:
            return None
        return max(0.0, now + self._ahead - at.timestamp())

    def is_stale(self, code: str) -> bool:
        """Whether the server has said that a symbol is silent for longer than can be, or has given nothing of it but
        values from before its last start."""
        return code in self._stale or self._restored.get(code, False)
