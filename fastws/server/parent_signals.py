"""Signals of a process that runs no event loop and forks: they come out of its selector, one after the other."""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)


class ParentSignals:
    """Catches signals for the process that makes it, whose `selector` notices them."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._caught: list[int] = []
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        selector.register(self._read, selectors.EVENT_READ, lambda events: self._receive())

    def catch(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, lambda number, frame: None)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)

    def take(self) -> list[int]:
        """Those that have come since the last time."""
        caught, self._caught = self._caught, []
        return caught

    @contextmanager
    def held_back(self) -> Iterator[set[signal.Signals] | set[int]]:
        """While a fork is made: until it has handlers of its own, what comes for it must not be taken for ours.

        Gives the mask of before, which the fork hands to :meth:`leave`.
        """
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            yield mask
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def leave(self, mask: set[signal.Signals] | set[int]) -> None:
        """In a fork: know no signal but SIGTERM, and catch nothing for the parent."""
        signal.set_wakeup_fd(-1)
        for each in _SIGNALS:
            is_ours = each in (signal.SIGTERM, signal.SIGCHLD)
            signal.signal(each, signal.SIG_DFL if is_ours else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self.close()

    def close(self) -> None:
        self._read.close()
        self._write.close()

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._caught += self._read.recv(4096)


def name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of those for real-time programs
        return str(number)
