"""Messages that wait to be sent. Sans-IO."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Outbox(Generic[T]):
    """Messages with their sizes in bytes, the oldest first.

    1. What waits and what is on its way has `limit` bytes at most; of more, the oldest that wait are dropped and
       counted.
    2. What was taken is on its way until it is `settled`, or `put_back`, in the order in which it was taken.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.n_dropped = 0
        self._waiting: deque[tuple[T, int]] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def put(self, message: T, size: int) -> None:
        self._waiting.append((message, size))
        self.size += size
        while self.size > self.limit and self._waiting:
            self.size -= self._waiting.popleft()[1]
            self.n_dropped += 1

    def take(self, n: int, size: int) -> list[tuple[T, int]]:
        """Take up to `n` messages, and no further one once they have `size` bytes."""
        taken: list[tuple[T, int]] = []
        while self._waiting and len(taken) < n and size > 0:
            taken.append(self._waiting.popleft())
            size -= taken[-1][1]
        return taken

    def settled(self, message: tuple[T, int]) -> None:
        """A message has arrived, or will not be sent any more."""
        self.size -= message[1]

    def put_back(self, taken: list[tuple[T, int]]) -> None:
        self._waiting.extendleft(reversed(taken))
