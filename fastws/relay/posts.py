"""Which of several instances runs a feed. Sans-IO; the clock is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

START_SECONDS: Final = 2.0
"""How long the first in the row waits for a relay that is away, before it runs its feed without having asked."""

SETTLE_SECONDS: Final = 1.2
"""After Redis is there, everyone else has said within this whether the feed is run: announcements come every second."""

HANDOVER_SECONDS: Final = 1.0
"""Between the end of the feed at one instance and its beginning at another: KIS wants so long between two sessions."""


class Candidate(NamedTuple):
    """Another instance that can run the feed. `status` is the state of its feed, `announced_at` when it said all this.

    Times are seconds of the clock that is given to `Post`.
    """

    origin: int
    name: str
    rank: int
    is_owner: bool
    status: str
    announced_at: float


class Change(NamedTuple):
    """This instance begins or ceases to run the feed, or hears that another one does. `owner` is that other one, or
    the one before, empty where there is none; `reason` is for people."""

    is_owner: bool
    owner: str
    reason: str


class Post:
    """Decides whether this instance is the one to run a feed. `rank` is its place in the row, 0 the first.

    1. Who runs a feed goes on running it: whoever comes back stands by. A change costs a gap, and KIS keeps the old
       session for a while.
    2. It goes on also while the relay is away, so that its own clients notice nothing.
    3. Who does not run it begins to only while the relay is there, and only after it was there for as long as is to be
       waited. So nobody takes a feed over because Redis is away, or was.
    4. The wait is `patience` seconds since the owner was heard last, `HANDOVER_SECONDS` after it has given the feed up
       or said good-bye, and `SETTLE_SECONDS` where the first in the row has heard of no owner. Then the one begins that
       is first in the row of those that are heard; between equal ranks the origin decides.
    5. The first in the row begins without the relay if that is away at the start: it may stay away, and the feed is
       its own. Not so where it has heard of another owner.
    6. An instance that only Redis cannot reach looks like one that has ended, and is not: then two run the feed. As
       soon as they hear of each other, one gives it up: the one whose feed is not `live`, else the one that is later
       in the row. Only what was said after one's own beginning counts.
    7. Who has given up for good takes no part any more.
    8. What the process `before` has left, which this one takes over from, is this one's also while the relay is away.
    """

    def __init__(
        self,
        origin: int,
        rank: int,
        *,
        patience: float,
        now: float,
        is_owner: bool = False,
        before: int = 0,
    ) -> None:
        self.origin = origin
        self.rank = rank
        self.patience = patience
        self.is_owner = is_owner
        self.is_over = False
        self.n_takeovers = 0
        self._before = before
        self._began = now
        self._taken_at = now
        # The owner that was heard last, and when it has left the feed to others since.
        self._owner: Candidate | None = None
        self._left_at: float | None = None

    @property
    def owner(self) -> str:
        """The name of the other instance that runs the feed, as far as is known; empty: none does."""
        return "" if self.elsewhere is None else self.elsewhere.name

    @property
    def elsewhere(self) -> Candidate | None:
        """The other instance that runs the feed, as far as is known."""
        return None if self._left_at is not None or self.is_owner else self._owner

    @property
    def is_settling(self) -> bool:
        """Whether the first in the row has not found out yet if another one runs the feed."""
        return self.rank == 0 and self._owner is None and not self.is_owner and not self.is_over

    @property
    def is_next(self) -> bool:
        """Whether another one has run the feed, and this one or one before it in the row does once that is gone."""
        return self._owner is not None and not self.is_owner and not self.is_over

    def decide(
        self, now: float, up_since: float | None, status: str, others: Sequence[Candidate]
    ) -> Change | None:
        """Look around; return what has changed.

        `up_since` is when the relay came to be there, None while it is away; `status` the state of the feed here, and
        `others` those that are heard.
        """
        if self.is_over:
            return None
        if self.is_owner:
            return self._defend(status, others)
        owners = [other for other in others if other.is_owner and now - other.announced_at < self.patience]
        if owners:
            return self._stand_by(min(owners, key=_precedence))
        if up_since is None:
            if self._owner is not None and self._owner.origin == self._before and self._left_at is not None:
                is_free = now >= self._left_at + HANDOVER_SECONDS
                return self._take(now, "it was left to this one") if is_free else None
            may_begin = self.is_settling and now - self._began >= START_SECONDS
            return self._take(now, "the relay is away") if may_begin else None
        before = self._owner
        if before is not None and any(
            other.origin == before.origin and not other.is_owner for other in others
        ):
            # Whoever is there and does not run it has given it up.
            self.left(before.origin, now)
        if now < self._free_from(up_since):
            return None
        if any(
            (other.rank, other.origin) < (self.rank, self.origin)
            for other in others
            if not other.is_owner and now - other.announced_at < self.patience
        ):
            return None
        if before is None:
            return self._take(now, "no other instance does")
        is_left = self._left_at is not None
        return self._take(now, "it was left to others" if is_left else "the owner is not heard any more")

    def hear_of(self, owner: Candidate) -> None:
        """Know from elsewhere who runs the feed."""
        self._owner, self._left_at = owner, None

    def left(self, origin: int, now: float) -> None:
        """An instance has said good-bye, or says that it takes no part any more."""
        if self._owner is not None and self._owner.origin == origin and self._left_at is None:
            self._left_at = now

    def resign(self) -> None:
        """Take no part any more."""
        self.is_owner = False
        self.is_over = True

    def _defend(self, status: str, others: Sequence[Candidate]) -> Change | None:
        rivals = [other for other in others if other.is_owner and other.announced_at > self._taken_at]
        if not rivals:
            return None
        rival = min(rivals, key=_precedence)
        if (status != "live", self.rank, self.origin) < _precedence(rival):
            return None
        self.is_owner = False
        self._owner, self._left_at = rival, None
        return Change(False, rival.name, "two have run it")

    def _stand_by(self, owner: Candidate) -> Change | None:
        before, was_left = self._owner, self._left_at is not None
        self._owner, self._left_at = owner, None
        if before is not None and before.origin == owner.origin and not was_left:
            return None
        return Change(False, owner.name, "")

    def _free_from(self, up_since: float) -> float:
        """When the feed may be taken, if nobody is before this instance."""
        if self._owner is None:
            return up_since + (SETTLE_SECONDS if self.rank == 0 else self.patience)
        if self._left_at is not None:
            return max(up_since + SETTLE_SECONDS, self._left_at + HANDOVER_SECONDS)
        return max(up_since, self._owner.announced_at) + self.patience

    def _take(self, now: float, reason: str) -> Change:
        before = "" if self._owner is None else self._owner.name
        self.is_owner = True
        self._taken_at = now
        self.n_takeovers += self._owner is not None
        self._owner = None
        return Change(True, before, reason)


def _precedence(candidate: Candidate) -> tuple[bool, int, int]:
    """Who of several that run a feed is to go on: the least."""
    return candidate.status != "live", candidate.rank, candidate.origin
