"""Tables that every instance has of its own and knows of all others: texts with two numbers each. Sans-IO.

What is in them is absolute, so that repeating it changes nothing; changes are numbered, so that a missing one shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

from fastws.relay.control import MAX_KEY_SIZE, NOTHING, Entries, Pair, TableName, TablePart
from fastws.relay.numbering import Numbering

PART_ENTRIES: Final = 1000
"""Entries of one message: some 25 KB, and a millisecond for who reads it."""

CHANGES: Final = 4000
"""Changes told in one go: all of a hundred thousand users would hold clients up for a tenth of a second."""

MAX_ENTRIES: Final = 1_000_000
"""Of another instance's table; more is nothing that an instance can have."""

_MAX_BETWEEN: Final = 1000


class OwnTable:
    """A table of this instance, told to the others.

    1. `put` is cheap and tells nothing; `changes` tells what differs from what was told.
    2. Every message of changes has the next number. What is put and taken back in between is never told, and beyond
       `CHANGES` the rest is for the next time.
    3. Keys of more than `MAX_KEY_SIZE` characters are not told.
    """

    def __init__(self, origin: int, name: TableName) -> None:
        self.name = name
        self.serial = 0
        self._origin = origin
        self._told: dict[str, Pair] = {}
        self._changed: dict[str, Pair] = {}

    def __len__(self) -> int:
        return len(self._told)

    def put(self, key: str, pair: Pair) -> None:
        """Set an entry; `NOTHING` removes it."""
        if len(key) <= MAX_KEY_SIZE:
            self._changed[key] = pair

    def replace(self, entries: Mapping[str, Pair]) -> None:
        """Make `entries` all that the table holds."""
        self._changed = {}
        for key in self._told:
            if key not in entries:
                self.put(key, NOTHING)
        for key, pair in entries.items():
            if self._told.get(key) != pair:
                self.put(key, pair)

    def differs(self, key: str, pair: Pair) -> bool:
        """Whether the others know, or are to be told, anything else of `key`."""
        return self._changed.get(key, self._told.get(key, NOTHING)) != pair

    def changes(self) -> Iterator[TablePart]:
        """Yield what is to be told. To be exhausted."""
        if not self._changed:
            return
        changed, told = self._changed, self._told
        if len(changed) <= CHANGES:
            self._changed = {}
        else:
            changed = {key: changed.pop(key) for key in list(islice(changed, CHANGES))}
        news = {key: pair for key, pair in changed.items() if told.get(key, NOTHING) != pair}
        for key, pair in news.items():
            if pair == NOTHING:
                del told[key]
            else:
                told[key] = pair
        for part in _parts(news):
            self.serial += 1
            yield TablePart(self._origin, self.name, self.serial, part)

    def whole(self) -> list[TablePart]:
        """Return all that was told, in parts; changes that are told between two of them do no harm."""
        parts = list(_parts(self._told)) or [{}]
        return [
            TablePart(self._origin, self.name, self.serial, part, part=i, is_last=i == len(parts) - 1)
            for i, part in enumerate(parts)
        ]


class PeerTable:
    """A table of another instance, as far as it is known.

    1. Before the whole table has come it is empty, unless nothing was ever told.
    2. It has `MAX_ENTRIES` at most; what is over is left out.
    3. Where changes are missing (see `Numbering`), what is known stays, and changes that do come count, until the whole
       table has come again.
    """

    def __init__(self) -> None:
        self.entries: dict[str, Pair] = {}
        self._numbering = Numbering()
        # The whole table, while it comes in parts, and the changes that came between them.
        self._coming: dict[str, Pair] = {}
        self._between: list[Entries] = []

    @property
    def is_whole(self) -> bool:
        return self._numbering.is_whole

    def get(self, key: str) -> Pair:
        return self.entries.get(key, NOTHING)

    def announced(self, serial: int) -> None:
        """Hear from the instance that `serial` is the number of its last change."""
        if serial == 0 and not self._numbering.number:
            self._numbering.is_whole = True
        self._numbering.announced(serial)

    def is_to_be_asked(self, now: float, again: float) -> bool:
        """Whether the whole table is to be asked for now; see `Numbering`."""
        return self._numbering.is_to_be_asked(now, again)

    def receive(self, part: TablePart) -> None:
        if part.part is not None:
            self._receive_whole(part, part.part)
        elif self._numbering.take_change(part.serial):
            self._apply(part.entries)
            if self._numbering.is_coming:
                self._between.append(part.entries)
                if len(self._between) > _MAX_BETWEEN:
                    self._numbering.give_up()
        if not self._numbering.is_coming:
            self._coming, self._between = {}, []

    def _receive_whole(self, part: TablePart, number: int) -> None:
        if number == 0:
            self._coming, self._between = {}, []
        if not self._numbering.take_part(number, part.serial, is_last=part.is_last):
            return
        self._coming.update(part.entries)
        if len(self._coming) > MAX_ENTRIES:
            self._numbering.give_up()
        elif part.is_last:
            self.entries = self._coming
            for entries in self._between:
                self._apply(entries)

    def _apply(self, entries: Entries) -> None:
        for key, pair in entries.items():
            if pair == NOTHING:
                self.entries.pop(key, None)
            elif key in self.entries or len(self.entries) < MAX_ENTRIES:
                self.entries[key] = pair


def _parts(entries: Entries) -> Iterator[Entries]:
    items = iter(entries.items())
    while part := dict(islice(items, PART_ENTRIES)):
        yield part
