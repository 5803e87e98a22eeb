"""Which symbol is registered in which session. Sans-IO.

KIS grants some forty registrations a session, and blocks who registers and unregisters without end. So places are
given by who wants what, and taken back slowly.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from fastws.market.interest import NO_INTEREST, Interest

_NEVER: Final = -float("inf")


class Placing(NamedTuple):
    """`code` is to be registered in the session `session`, or with `is_removal` no longer."""

    code: str
    session: int
    is_removal: bool


class _Place:
    __slots__ = ("placed_at", "session", "wanted_at")

    def __init__(self, session: int, now: float) -> None:
        self.session = session
        self.placed_at = now
        self.wanted_at = now


class Allocation:
    """The symbols that are registered, each with all its registrations in one session.

    1. A session never has more registrations than the room that was last given for it, and a symbol is in one session
       at most.
    2. What has a place keeps it for `min_dwell` seconds, whoever wants it, unless the room of its session shrinks.
    3. Places go to the `fixed` symbols first, in their order, then by viewers, then by those who look at a whole market
       or sector; between equals, to who has one, then to who came first.
    4. A symbol with viewers and no place gets that of the last of those whose dwell is over, when it has more than
       `margin` times the viewers. So interest that sways does not make symbols change places. Fixed symbols get it from
       those that are not fixed, and those that nobody looks at by themselves from none.
    5. What nobody wants any more loses its place after `min_dwell` seconds without interest, at once for somebody else.
    6. A free place does not stay free while somebody wants it, but for what KIS refuses (see :meth:`refuse`).

    `size` is the registrations of a symbol. Times are seconds of a monotonic clock.
    """

    def __init__(
        self,
        n_sessions: int,
        *,
        size: int = 2,
        fixed: Iterable[str] = (),
        min_dwell: float = 60.0,
        margin: float = 1.25,
    ) -> None:
        self.size = size
        self.min_dwell = min_dwell
        self.margin = margin
        self.fixed = {code: order for order, code in enumerate(dict.fromkeys(fixed))}
        self.n_sessions = n_sessions
        self._places: dict[str, _Place] = {}
        self._interest: Mapping[str, Interest] = {}
        self._order: dict[str, int] = {}  # of those that are wanted, who came first
        self._n_seen = 0
        self._refused_until: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, code: object) -> bool:
        return code in self._places

    def session_of(self, code: str) -> int | None:
        """Return the session that `code` has its place in, None where it has none."""
        place = self._places.get(code)
        return None if place is None else place.session

    def codes_of(self, session: int) -> list[str]:
        return [code for code, place in self._places.items() if place.session == session]

    def refuse(self, code: str, until: float) -> Placing | None:
        """KIS does not take `code`: it loses its place, and gets none before `until`."""
        self._refused_until[code] = until
        place = self._places.pop(code, None)
        return None if place is None else Placing(code, place.session, is_removal=True)

    def update(self, interest: Mapping[str, Interest], room: Sequence[int], now: float) -> list[Placing]:
        """Take what is wanted now, and the registrations that each session has for it; returns what changes.

        A removal comes before what takes its place.
        """
        self._note(interest, now)
        changes: list[Placing] = []
        capacities = [registrations // self.size for registrations in room]
        used = [0] * self.n_sessions
        for place in self._places.values():
            used[place.session] += 1
        self._shrink(capacities, used, changes)
        self._release(used, changes, now)
        rest = []
        n_free = sum(max(0, capacities[i] - used[i]) for i in range(self.n_sessions))
        for code in self._candidates(n_free, now):
            if n_free == 0:
                rest.append(code)
                continue
            session = max(range(self.n_sessions), key=lambda i: capacities[i] - used[i])
            n_free -= 1
            used[session] += 1
            self._place(code, session, changes, now)
        self._challenge(rest, changes, now)
        return changes

    @property
    def waiting(self) -> list[str]:
        """What is wanted and has no place, the first to get one first."""
        return sorted(self._order.keys() - self._places.keys(), key=self._rank)

    def _candidates(self, n_free: int, now: float) -> list[str]:
        """Those that may get a place now, the first first. There may be thousands of fixed ones, and a market has
        thousands of which nobody looks at any one: of these no more are ranked than there are places for."""
        fixed = (code for code in self.fixed if code not in self._places and not self._is_refused(code, now))
        first = list(islice(fixed, n_free + len(self._places)))
        watched, others = [], []
        for code, found in self._interest.items():
            if code in self._places or code in self.fixed or self._is_refused(code, now):
                continue
            if found.n_viewers:
                watched.append(code)
            elif n_free:
                others.append(code)
        watched.sort(key=self._rank)
        return first + watched + heapq.nsmallest(n_free, others, key=self._rank)

    def _note(self, interest: Mapping[str, Interest], now: float) -> None:
        self._interest = interest
        wanted = dict.fromkeys((*self.fixed, *interest))
        for code in self._order.keys() - wanted.keys():
            del self._order[code]
        for code in wanted:
            if code not in self._order:
                self._n_seen += 1
                self._order[code] = self._n_seen
            place = self._places.get(code)
            if place is not None:
                place.wanted_at = now
        for code in [code for code, until in self._refused_until.items() if until <= now]:
            del self._refused_until[code]

    def _is_refused(self, code: str, now: float) -> bool:
        return self._refused_until.get(code, _NEVER) > now

    def _rank(self, code: str) -> tuple[int, int, int, bool, int]:
        """What is lower comes first."""
        found = self._interest.get(code, NO_INTEREST)
        fixed = self.fixed.get(code, len(self.fixed))
        order = self._order.get(code, self._n_seen + 1)
        return fixed, -found.n_viewers, -found.n_others, code not in self._places, order

    def _shrink(self, capacities: Sequence[int], used: list[int], changes: list[Placing]) -> None:
        for session, capacity in enumerate(capacities):
            if used[session] > capacity:
                for code in sorted(self.codes_of(session), key=self._rank)[capacity:]:
                    self._remove(code, changes)
                used[session] = capacity

    def _release(self, used: list[int], changes: list[Placing], now: float) -> None:
        for code, place in list(self._places.items()):
            if code not in self._order and now >= max(place.placed_at, place.wanted_at) + self.min_dwell:
                used[place.session] -= 1
                self._remove(code, changes)

    def _challenge(self, waiting: Sequence[str], changes: list[Placing], now: float) -> None:
        """Let those who wait take places of others."""
        loose = [code for code, place in self._places.items() if now >= place.placed_at + self.min_dwell]
        loose.sort(key=self._rank)  # the last one goes first
        for code in waiting:
            if not loose or not self._beats(code, loose[-1]):
                return  # nor does any that comes after it
            loser = loose.pop()
            session = self._places[loser].session
            self._remove(loser, changes)
            self._place(code, session, changes, now)

    def _beats(self, code: str, holder: str) -> bool:
        if holder not in self._order:
            return code in self.fixed or self._interest[code].n_viewers > 0
        last = len(self.fixed)
        one, other = self.fixed.get(code, last), self.fixed.get(holder, last)
        if one != other:
            return one < other
        n_viewers = self._interest.get(code, NO_INTEREST).n_viewers
        return n_viewers > self._interest.get(holder, NO_INTEREST).n_viewers * self.margin

    def _place(self, code: str, session: int, changes: list[Placing], now: float) -> None:
        self._places[code] = _Place(session, now)
        changes.append(Placing(code, session, is_removal=False))

    def _remove(self, code: str, changes: list[Placing]) -> None:
        changes.append(Placing(code, self._places.pop(code).session, is_removal=True))
