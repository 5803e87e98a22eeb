"""The one session that KIS allows an app key, within a process."""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

from fastws.kis.errors import KISInUseError


class AppKey(NamedTuple):
    """An app key belongs to an environment, and is in use at a host."""

    environment: str
    ws_url: str
    app_key: str


class Owner(Protocol):
    """Who has a session, or tries for one."""

    @property
    def is_running(self) -> bool: ...


class Slot:
    """The place of an app key, shared by all connections of the process that have it one after the other.

    `closed_at` is when the last socket ended, by `time.monotonic`: KIS wants a second before the next one, whoever
    opens it.
    """

    def __init__(self) -> None:
        self.closed_at = -float("inf")
        self._owner: Owner | None = None

    @staticmethod
    def of(key: tuple[str, str, str]) -> Slot:
        """Return the slot of environment, host and app key."""
        return _slots.setdefault(AppKey(*key), Slot())

    def take(self, owner: Owner) -> None:
        """Raises KISInUseError when another owner, which is running, has it."""
        if self._owner is not None and self._owner is not owner and self._owner.is_running:
            raise KISInUseError(
                "connection refused: this program already has a session with this app key, and KIS allows one; "
                "use that one, or another app key"
            )
        self._owner = owner

    def leave(self, owner: Owner) -> None:
        if self._owner is owner:
            self._owner = None


_slots: Final[dict[AppKey, Slot]] = {}
