"""What the clients that are killed deliver, held against what was published."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.scenarios.publishing import MAX_FAULTS, Key, Record

CHANNELS = {"price": "price_update", "orderbook": "orderbook_update"}


@dataclass
class Stream:
    """One symbol and message type, as one client has got it. Places are indexes of `Record.numbers`."""

    place: int = -1
    """Of the last live update, or of the snapshot where it began."""
    shown: int = -1
    """Of the last value given to the program."""
    may_jump: bool = True
    """It begins, or the client has said that it does not know what was missed: the next value may be any later one."""
    is_shown: bool = False
    """It began with a snapshot and no update has come: that may be ahead of what a restored session still gets."""
    declared: set[int] = field(default_factory=set)


class Ledger:
    """Holds everything that a client delivers against what was published, as it comes.

    1. Of mode all each update comes once and in order. What is left out was declared lost, or lies between a return of
       which the client said that it is no recovery and the snapshot after it.
    2. A snapshot is never older than what came before it. Of mode latest no value is.
    3. Every value is what was published by that number.
    """

    def __init__(self, name: str, record: Record, all_symbols: Sequence[str], latest: Sequence[str]) -> None:
        self.name = name
        self.all = list(all_symbols)
        self.latest = list(latest)
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.is_away = False
        """It has said that it is cut off, and not that it is back."""
        self._has_begun = False
        self._record = record
        self._mode_all = frozenset(all_symbols)
        self._streams = {
            (kind, code): Stream() for kind in CHANNELS.values() for code in (*all_symbols, *latest)
        }

    def fault(self, text: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(f"{self.name}: {text}")

    def take(self, item: list[Any]) -> None:
        match item:
            case ["value", kind, code, number, price, is_snapshot]:
                self._take_value((kind, code), number, price, is_snapshot)
            case ["open", is_recovered]:
                # One that ended before its first value has left nothing to recover.
                self.is_away = False
                outcome = "recovered" if is_recovered else "not recovered"
                self.counts[outcome if self._has_begun else "began"] += 1
                if not is_recovered:
                    self._has_begun = False
                    for stream in self._streams.values():
                        stream.may_jump = True
            case ["waiting", code]:
                self.is_away = True
                self.closes[code] += 1
            case ["lost", channel, code, first, last]:
                self.counts["declared lost"] += last - first + 1
                key = (CHANNELS[channel], code)
                begin = self._record.begins.get(key, 0)
                self._streams[key].declared |= set(range(begin + first - 1, begin + last))
            case ["error", text]:
                self.errors[text] += 1
            case _:
                # A gap is what the server must never leave, and a client that gives up what no kill is a reason for.
                self.fault(f"it said {item}")

    def _take_value(self, key: Key, number: int, price: object, is_snapshot: bool) -> None:
        self._has_begun = True
        stream = self._streams[key]
        numbers = self._record.numbers.get(key, [])
        place = bisect.bisect_left(numbers, number)
        if place == len(numbers) or numbers[place] != number:
            self.fault(f"{key}: number {number} was never published")
            return
        if self._record.prices[number] != price:
            self.fault(f"{key} number {number}: {price}, published was {self._record.prices[number]}")
        if key[1] not in self._mode_all:
            self._take_latest(key, stream, place, is_snapshot)
        elif is_snapshot:
            self._take_snapshot(key, stream, place)
        else:
            self._take_live(key, stream, place)
        stream.shown = place

    def _take_latest(self, key: Key, stream: Stream, place: int, is_snapshot: bool) -> None:
        self.counts["values of mode latest"] += 1
        if place < stream.shown or (place == stream.shown and not is_snapshot):
            self.fault(f"{key}, mode latest: update {place} after {stream.shown}")

    def _take_snapshot(self, key: Key, stream: Stream, place: int) -> None:
        self.counts["values of snapshots"] += 1
        if place < stream.place:
            self.fault(f"{key}: a snapshot of update {place} after {stream.place}")
        if stream.may_jump:
            stream.place, stream.may_jump, stream.is_shown = place, False, True
            stream.declared.clear()

    def _take_live(self, key: Key, stream: Stream, place: int) -> None:
        self.counts["updates"] += 1
        is_ahead, stream.is_shown = stream.is_shown, False
        if place <= stream.place and not is_ahead:
            self.fault(f"{key}: update {place} after {stream.place}")
            return
        missing = set(range(stream.place + 1, place)) - stream.declared
        # A stream begins with its snapshot, or, where the connection ended before that, with what comes on the next.
        if missing and not stream.may_jump:
            self.fault(f"{key}: update {place} after {stream.place}, and nothing was said of those between")
        stream.place, stream.may_jump = place, False
        stream.declared = {lost for lost in stream.declared if lost > place}

    @property
    def is_complete(self) -> bool:
        """It is connected, and has the last value of everything."""
        return not self.is_away and not self.missing()

    def missing(self) -> dict[Key, tuple[int, int]]:
        """What has not ended on the last update: how far it is, and how far it should be."""
        wanted = {key: len(numbers) - 1 for key, numbers in self._record.numbers.items()}
        return {
            key: (stream.shown, wanted[key])
            for key, stream in self._streams.items()
            if key in wanted and stream.shown != wanted[key]
        }
