"""The faults that stand, and whom they hit. Sans-IO; `now` is monotonic, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fastws.kis.testing.actions import Fault, Mute, RequestFault
from fastws.kis.testing.replies import Refusal, Registration, Request

_F = TypeVar("_F", bound=Fault)


class _Standing:
    __slots__ = ("fault", "left", "until")

    def __init__(self, fault: Fault, now: float) -> None:
        self.fault = fault
        # Once, unless it is said how often or for how long.
        once = 1.0 if fault.seconds is None else float("inf")
        self.left = once if fault.times is None else float(fault.times)
        self.until = float("inf") if fault.seconds is None else now + fault.seconds

    def stands(self, now: float) -> bool:
        return self.left > 0 and now < self.until


class Faults:
    """Holds each fault until it has happened often enough, its time is over, or `clear`."""

    def __init__(self) -> None:
        self._standing: list[_Standing] = []
        self._mutes: list[tuple[Mute, list[int]]] = []

    def add(self, fault: Fault, now: float) -> None:
        self._standing = [one for one in self._standing if one.stands(now)]
        self._standing.append(_Standing(fault, now))

    def add_mute(self, mute: Mute) -> None:
        """Mute as many registrations to come as it says."""
        self._mutes.append((mute, [mute.coming]))

    def clear(self) -> int:
        n = len(self._standing) + len(self._mutes)
        self._standing.clear()
        self._mutes.clear()
        return n

    def standing(self, now: float) -> list[Fault]:
        return [one.fault for one in self._standing if one.stands(now)]

    def take(
        self, kind: type[_F], now: float, app_key: str = "", is_met: Callable[[_F], bool] | None = None
    ) -> _F | None:
        """The first fault of a kind that is met, which thereby has happened once more."""
        for one in self._standing:
            fault = one.fault
            if not isinstance(fault, kind) or not one.stands(now) or fault.app_key not in (None, app_key):
                continue
            if is_met is None or is_met(fault):
                one.left -= 1
                return fault
        return None

    def take_for(self, kind: type[_RF], now: float, app_key: str, message: Request | Refusal) -> _RF | None:
        """The same of the faults of requests."""
        return self.take(kind, now, app_key, lambda fault: concerns(fault, (message.tr_id, message.tr_key)))

    def is_mute(self, registration: Registration) -> bool:
        """Whether a new registration gets no data."""
        for mute, left in self._mutes:
            if left[0] and concerns(mute, registration):
                left[0] -= 1
                return True
        return False


_RF = TypeVar("_RF", bound=RequestFault)


def concerns(action: RequestFault | Mute, registration: Registration) -> bool:
    return action.tr_id in (None, registration[0]) and action.tr_key in (None, registration[1])
