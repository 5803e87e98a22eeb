"""Connections of all workers together, in memory that they share: for limits that hold for the port."""

from __future__ import annotations

import hashlib
import mmap
import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

_ROWS: Final = 4
_SLOTS: Final = 1 << 18
_HASHES: Final = struct.Struct("<4I")
# Of a worker: its connections in all, then the rows.
_SIZE: Final = 1 + _ROWS * _SLOTS


class CommonCounts:
    """Counts of each worker that all of them can read, made by their parent.

    1. Nobody writes but the worker whose counts they are, so there are no locks.
    2. The connections of an address are counted in a count-min sketch (Cormode and Muthukrishnan 2005): it never tells
       too few. Too many it tells of an address that shares a slot with others in each of the four rows; with 10,000
       addresses that is one in 500,000.
    """

    def __init__(self, n_workers: int) -> None:
        self._memory = mmap.mmap(-1, 4 * _SIZE * n_workers)
        self._counts: NDArray[np.int32] = np.frombuffer(self._memory, np.int32).reshape(n_workers, _SIZE)

    def of_worker(self, number: int) -> Elsewhere:
        """What worker `number`, counted from 1, tells the others and knows of them."""
        return Elsewhere(self._counts, number - 1)

    def clear(self, number: int) -> None:
        """Forget the connections of a worker that has ended."""
        counts = self._counts[number - 1]
        # Slots that were never used take no memory, and should not begin to.
        counts[np.flatnonzero(counts)] = 0


class Elsewhere:
    """The connections of other workers; see `CommonCounts`."""

    def __init__(self, counts: NDArray[np.int32], worker: int) -> None:
        self._counts = counts
        self._worker = worker
        self._own = counts[worker]

    def add(self, key: str, n: int) -> None:
        """Tell the others of `n` connections more of an address."""
        self._own[0] += n
        self._own[_positions(key)] += n

    @property
    def n_connections(self) -> int:
        return int(self._counts[:, 0].sum() - self._own[0])

    def of_key(self, key: str) -> int:
        """Connections of an address."""
        positions = _positions(key)
        return int((self._counts[:, positions].sum(axis=0) - self._own[positions]).min())


def _positions(key: str) -> list[int]:
    hashes = _HASHES.unpack(hashlib.blake2b(key.encode(), digest_size=_HASHES.size).digest())
    return [1 + row * _SLOTS + number % _SLOTS for row, number in enumerate(hashes)]
