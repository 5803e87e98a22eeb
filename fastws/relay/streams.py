"""What comes from one origin in one shard: its order, its gaps, and what they have cost. Sans-IO."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Final, NamedTuple

from fastws._relay import INSTEAD, LAST_VALUES, Carried, Envelope

HOLD_SECONDS: Final = 1.0
"""How long what comes behind a gap is held back."""

ASK_AGAIN_SECONDS: Final = 0.4
"""After how long a question that nobody has answered is asked again."""

GRACE_SECONDS: Final = 0.1
"""How long an announced position may be ahead: what it counts may be on its way."""

AUTHOR_MASK: Final = 0xFFF
"""The bits of a stamp that are its origin's."""

DISAGREEMENT_SECONDS: Final = 3.0
"""After how long of announcing less than was received an origin is believed: something else has spoken for it."""

# What an update needs in memory beside its own bytes.
_UPDATE_SIZE: Final = 400
# What one gap can have cost a code.
_MAX_MISSED: Final = 1 << 31


class Arrived(NamedTuple):
    """An update whose turn it is, as `origin` has handed it on.

    `n_missed` others of the same channel will not come. `is_counted`: where there is a newer value already, this one
    is missed as well.
    """

    update: Carried
    origin: int
    n_missed: int
    is_counted: bool

    @property
    def is_own(self) -> bool:
        """Whether it is one that the origin itself has published; see `Outgoing` for stamps.

        Two instances have the same number in their stamps once in 4096 times, so what the origin has never published
        is not its own either way.
        """
        return self.update.number > 0 and (self.update.stamp ^ self.origin) & AUTHOR_MASK == 0


class Gap(NamedTuple):
    """The positions `first` to `last` are missing. `is_given_up`: only the last values can help."""

    first: int
    last: int
    is_given_up: bool


class Stream:
    """What one origin publishes of one shard.

    1. Updates come out in the order of their positions, each once; the first envelope says where it begins.
    2. Behind a gap nothing comes out until it is closed, by envelopes that are repeated or by last values, or until it
       is given up, `HOLD_SECONDS` after it was seen.
    3. Numbers tell how many updates of a channel a gap has cost, once the next one or its last value is here. Before
       the first last values nothing counts as missed: nobody was listening.
    4. The caller asks for what is missing; see :meth:`due`.
    5. Last values that came unasked, because someone else has asked, say nothing about what this origin publishes:
       that comes in its order.
    """

    def __init__(self) -> None:
        # The position that is due; 0 before the first.
        self.next = 0
        self.has_values = False
        self._n_gaps = 0
        self._n_given_up = 0
        self._known_last = 0
        self._has_given_up = False
        # By their first positions, with what they weigh.
        self._held: dict[int, tuple[Envelope, int]] = {}
        # A heap of what is held back.
        self._firsts: list[int] = []
        # What that takes, in bytes of memory.
        self.held_size = 0
        self._disagrees_since: float | None = None
        self._numbers: dict[tuple[int, str], int] = {}
        self._gap_since: float | None = None
        self._ask_at = 0.0

    @property
    def has_gap(self) -> bool:
        return self._gap_since is not None

    @property
    def wants_values(self) -> bool:
        """Whether the origin's last values are to be asked for."""
        return not self.has_values or self._has_given_up

    def take_counts(self) -> tuple[int, int]:
        """Gaps seen, and gaps given up, since the last call."""
        counts = self._n_gaps, self._n_given_up
        self._n_gaps = self._n_given_up = 0
        return counts

    def receive(self, envelope: Envelope, size: int, now: float) -> Iterator[Arrived]:
        """Take an envelope of `size` bytes; yields the updates whose turn it is. To be exhausted."""
        if envelope.kind == INSTEAD or (envelope.kind == LAST_VALUES and self.wants_values):
            yield from self._take_values(envelope)
        elif envelope.kind == LAST_VALUES:
            for update in envelope.updates:
                arrived = Arrived(update, envelope.origin, 0, False)
                if not arrived.is_own:
                    yield arrived
        else:
            self.next = self.next or envelope.first
            if envelope.first > self.next:
                self._hold(envelope, size, now)
            else:
                yield from self._take(envelope)
        yield from self._go_on(now)

    def announced(self, last: int, now: float) -> None:
        """Hear from the origin that `last` is the position of its last update."""
        if not self.next:
            return
        if last >= self.next - 1:
            self._disagrees_since = None
        elif self._disagrees_since is None:
            self._disagrees_since = now
        elif now - self._disagrees_since >= DISAGREEMENT_SECONDS:
            self._begin_anew(last)
            return
        self._known_last = max(self._known_last, last)
        if last >= self.next and self._gap_since is None:
            self._gap_since = now
            self._ask_at = now + GRACE_SECONDS
            self._n_gaps += 1

    def due(self, now: float) -> Gap | None:
        """Return the gap that is to be asked for now, if there is one."""
        if self._gap_since is None or now < self._ask_at:
            return None
        self._ask_at = now + ASK_AGAIN_SECONDS
        return Gap(self.next, self._last_missing(), now - self._gap_since >= HOLD_SECONDS)

    def _last_missing(self) -> int:
        """The last position that is not here: there may be several gaps, which are asked for in one."""
        last = self._known_last
        for first in sorted(self._held, reverse=True):
            envelope, _ = self._held[first]
            if first + len(envelope.updates) - 1 < last:
                break
            last = first - 1
        return last

    def give_up(self, now: float) -> Iterator[Arrived]:
        """Go on behind the gap, up to the next one; yields the updates whose turn it is. To be exhausted."""
        if self._gap_since is None:
            return
        self._n_given_up += 1
        self._gap_since = None
        self._has_given_up = True
        self.next = self._firsts[0] if self._firsts else self._known_last + 1
        yield from self._go_on(now)

    @property
    def n_numbers(self) -> int:
        """Of how many codes it is known how many updates there were."""
        return len(self._numbers)

    def forget_numbers(self) -> None:
        """Know nothing any more of what has come, and ask for the last values as in the beginning."""
        self._numbers.clear()
        self.has_values = False

    def _begin_anew(self, last: int) -> None:
        self.forget_numbers()
        self._held.clear()
        self._firsts.clear()
        self.held_size = 0
        self._gap_since = self._disagrees_since = None
        self.next, self._known_last = last + 1, last
        self._n_gaps += 1
        self._n_given_up += 1

    def _hold(self, envelope: Envelope, size: int, now: float) -> None:
        if envelope.first not in self._held:
            weight = size + _UPDATE_SIZE * (1 + len(envelope.updates))
            self._held[envelope.first] = envelope, weight
            heapq.heappush(self._firsts, envelope.first)
            self.held_size += weight
        is_another = envelope.first > self._known_last + 1
        self._known_last = max(self._known_last, envelope.first + len(envelope.updates) - 1)
        if self._gap_since is None:
            self._gap_since = now
            self._n_gaps += 1
            # A position that was announced meanwhile has its time of grace; what has overtaken others has not.
            self._ask_at = now
        elif is_another:
            self._ask_at = min(self._ask_at, now + GRACE_SECONDS)

    def _take(self, envelope: Envelope) -> Iterator[Arrived]:
        skipped = self.next - envelope.first
        updates = envelope.updates[skipped:] if skipped else envelope.updates
        self.next += len(updates)
        for update in updates:
            key = update.kind, update.code
            last = self._numbers.get(key, 0 if self.has_values else update.number - 1)
            if update.number > last:
                self._numbers[key] = update.number
                yield Arrived(update, envelope.origin, min(update.number - last - 1, _MAX_MISSED), True)

    def _take_values(self, envelope: Envelope) -> Iterator[Arrived]:
        for update in envelope.updates:
            key = update.kind, update.code
            last = self._numbers.get(key, 0)
            n_new = min(max(0, update.number - last), _MAX_MISSED)
            is_own = Arrived(update, envelope.origin, 0, False).is_own
            if n_new:
                self._numbers[key] = update.number
            elif is_own:
                continue  # it was here, or a newer one
            # The value itself is one of them where it is the origin's own.
            is_counted = n_new > 0 and self.has_values and is_own
            yield Arrived(update, envelope.origin, n_new - is_counted if self.has_values else 0, is_counted)
        if envelope.is_last:
            self.has_values = True
            self._has_given_up = False
            self.next = max(self.next, envelope.first)
            self._known_last = max(self._known_last, self.next - 1)

    def _go_on(self, now: float) -> Iterator[Arrived]:
        """Let out what was held back and can come now."""
        before = self.next
        while self._held:
            first = self._firsts[0]
            if first > self.next:
                break
            heapq.heappop(self._firsts)
            envelope, weight = self._held.pop(first)
            self.held_size -= weight
            if first + len(envelope.updates) > self.next:
                yield from self._take(envelope)
        if self.next > self._known_last or not self.next:
            self._gap_since = None
        elif self._gap_since is None:
            # Another one, behind the one that was given up.
            self._gap_since = self._ask_at = now
            self._n_gaps += 1
        elif self.next != before:
            # Another one, behind the one that was closed.
            self._gap_since = now
