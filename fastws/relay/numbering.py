"""How far what another instance tells of its own is known: numbered changes, and all of it part by part. Sans-IO."""

from __future__ import annotations


class Numbering:
    """What has come of one instance.

    1. Changes have numbers, one after the other; each is taken once. A number that was skipped shows that a change is
       missing: then not all is known, until all has come again.
    2. All comes in parts, counted from 0; each says the number of the last change before it. Parts are taken in their
       order, each once. Behind one that is missing nothing more is taken of them.
    3. Changes that come between parts are taken as ever. With the last part all is known, unless a change is missing.
    """

    __slots__ = ("_ask_at", "_part", "is_whole", "number")

    def __init__(self) -> None:
        # Of the last change that is known.
        self.number = 0
        self.is_whole = False
        # The part that is expected next; None: all is not on its way.
        self._part: int | None = None
        self._ask_at = 0.0

    @property
    def is_coming(self) -> bool:
        """Whether all is on its way, and not all of it is here."""
        return self._part is not None

    def announced(self, number: int) -> None:
        """Hear that `number` is that of the last change."""
        # An announcement comes after the changes that it counts.
        if number > self.number:
            self.is_whole = False

    def take_change(self, number: int) -> bool:
        """Return whether the change with that number is new."""
        if number <= self.number:
            return False
        if number > self.number + 1:
            self.give_up()
        self.number = number
        return True

    def take_part(self, part: int, number: int, *, is_last: bool) -> bool:
        """Return whether this is the part that comes next."""
        if part == 0:
            self._part, self.number, self.is_whole = 0, number, False
        if self._part is None or part < self._part:
            return False
        if part > self._part:
            self.give_up()
            return False
        self._part += 1
        if is_last:
            self._part = None
            self.is_whole = self.number >= number
        return True

    def give_up(self) -> None:
        """Wait for no more of what is on its way."""
        self._part = None
        self.is_whole = False

    def is_to_be_asked(self, now: float, again: float) -> bool:
        """Whether all is to be asked for now; then it is not again within `again` seconds."""
        if self.is_whole or now < self._ask_at:
            return False
        self._ask_at = now + again
        return True
