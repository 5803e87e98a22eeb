"""Finds what never came: the numbers (`seq`) of each symbol and channel. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from fastws.client.messages import Gap, Lost, OrderbookUpdate, PriceUpdate

Key = tuple[str, str]
Numbered = PriceUpdate | OrderbookUpdate
# Of symbols and channels: more than the markets of the world have, so that a server that makes names up costs no more.
_MOST_KEYS: Final = 200_000
# Declared losses that do not touch each other and nothing has come behind, of one symbol and channel and of all: who
# reads slowly is told of one after the other, and each of them ends where the next begins.
_MOST_LOSSES: Final = 1_000
_MOST_LOSSES_IN_ALL: Final = 200_000
_CHANNELS: Final = {PriceUpdate: "price", OrderbookUpdate: "orderbook"}


class Modes(NamedTuple):
    """What of the subscriptions matters to numbers.

    `stocks` says of each stock held whether it is of mode ``all``. Everything else comes by markets and sectors, and
    the client does not know by which: `others` is True where all of these are of mode ``all``.
    """

    stocks: Mapping[str, bool]
    others: bool

    def is_all(self, code: str) -> bool:
        return self.stocks.get(code, self.others)


NOTHING: Final = Modes({}, False)


class Numbers:
    """Keeps the last number of each symbol and channel.

    1. A symbol is *exact* while it is held in mode ``all`` and its last number is known for sure. A hole in the numbers
       of such a symbol is a `Gap`, unless an ``overflow`` declared it, and one that does not rise came twice. What
       was declared may still come: a restored session gets what there is. What was not, and is between two losses
       that were, may come as well; so it is missing once something later has come.
    2. It becomes so by a snapshot: what comes between the acknowledgement of a changed mode and the snapshot may be of
       the mode before. A symbol that was never seen becomes so by its first update.
    3. A snapshot says nothing of what is exact already. While a session is restored its values may be ahead of updates
       that are still to come, in order; then what is not exact becomes so by the first of these.
    4. Of a stock that is in no snapshot asked for it nothing was published in this epoch; its first number is 1.
    5. It ceases to be so when its mode is ``latest``, when it is held no more, with a pause, and with the epoch.
    6. No more than `_MOST_KEYS` are kept; what comes of others is passed on, and never exact. Nor are losses declared
       without end: what `declare` does not note is a `Gap` when something behind it has come.
    """

    def __init__(self) -> None:
        self._last: dict[Key, int] = {}
        # The numbers that are known to be lost, first and last, behind the last one that came.
        self._declared: dict[Key, list[tuple[int, int]]] = {}
        self._n_declared = 0
        self._exact: set[Key] = set()
        self._modes = NOTHING

    def forget(self) -> None:
        """The counters have started over, or what came in between is lost and known to be."""
        self._last.clear()
        self._declared.clear()
        self._n_declared = 0
        self._exact.clear()

    def hold(self, modes: Modes) -> None:
        """The subscriptions are these from now on."""
        self._modes = modes
        self._exact = {key for key in self._exact if modes.is_all(key[0])}

    def unknown(self, code: str) -> None:
        """A stock is subscribed to without a snapshot: its numbers begin anywhere."""
        for channel in _CHANNELS.values():
            self._exact.discard((code, channel))
            self._last.pop((code, channel), None)
            self._pop_declared((code, channel))

    def take_snapshot(self, updates: Iterable[Numbered], stocks: Iterable[str], sequence: int) -> None:
        """`stocks` are those that the snapshot was asked for. Updates up to `sequence` have come."""
        seqs = dict.fromkeys(((code, channel) for code in stocks for channel in _CHANNELS.values()), 0)
        ahead = set()
        for update in updates:
            key = (update.code, _CHANNELS[type(update)])
            seqs[key] = update.seq
            if update.sequence > sequence:
                ahead.add(key)
        for key, seq in seqs.items():
            if key in self._exact or (key not in self._last and len(self._last) >= _MOST_KEYS):
                continue
            self._last[key] = seq
            self._pop_declared(key)
            if self._modes.is_all(key[0]) and key in ahead:
                del self._last[key]
            elif self._modes.is_all(key[0]):
                self._exact.add(key)

    def take(self, update: Numbered) -> list[Gap] | bool | None:
        """Note a live update. Returns what is missing before it, True where nothing is, False where it came before, and
        None where it is of mode ``latest`` and nothing newer than what came before: a restored session gets the
        current value in any case."""
        channel = _CHANNELS[type(update)]
        key = (update.code, channel)
        last, seq = self._last.get(key), update.seq
        if last is not None and key in self._exact:
            if seq <= last:
                return False
            self._last[key] = seq
            if key not in self._declared:
                return True if seq == last + 1 else [Gap(update.code, channel, last + 1, seq - 1)]
            return [Gap(update.code, channel, *hole) for hole in self._holes(key, last, seq)] or True
        if last is not None and seq <= last:
            return None
        if last is None and len(self._last) >= _MOST_KEYS:
            return True
        self._last[key] = seq
        if last is None and self._modes.is_all(update.code):
            self._exact.add(key)
        return True

    def declare(self, lost: Lost) -> bool:
        """Note a declared loss; False where more were declared than a server can have to, and it is not noted."""
        key = (lost.code, lost.channel)
        if key not in self._exact or lost.to_seq <= self._last[key]:
            return True
        declared = self._declared.get(key, [])
        if declared and declared[-1][0] <= lost.from_seq <= declared[-1][1] + 1:
            # A client that reads slowly is told of the same symbols again and again.
            first, end = declared.pop()
            declared.append((first, max(end, lost.to_seq)))
            return True
        if len(declared) >= _MOST_LOSSES or self._n_declared >= _MOST_LOSSES_IN_ALL:
            return False
        declared.append((lost.from_seq, lost.to_seq))
        self._declared[key] = declared
        self._n_declared += 1
        return True

    def _pop_declared(self, key: Key) -> list[tuple[int, int]]:
        declared = self._declared.pop(key, [])
        self._n_declared -= len(declared)
        return declared

    def _holes(self, key: Key, last: int, seq: int) -> list[tuple[int, int]]:
        """What is neither declared nor there between two numbers that came; forgets what was declared up to there."""
        holes = []
        declared = sorted(self._pop_declared(key))
        reach = last
        for first, end in declared:
            if first >= seq:
                break
            if first > reach + 1:
                holes.append((reach + 1, first - 1))
            reach = max(reach, end)
        if reach + 1 < seq:
            holes.append((reach + 1, seq - 1))
        if left := [part for part in declared if part[1] > seq]:
            self._declared[key] = left
            self._n_declared += len(left)
        return holes
