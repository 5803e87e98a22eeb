"""The screen of ``fastws top``: looks at a server now and then, and answers to keys meanwhile."""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Callable
from typing import Final

from fastws.top.asking import AskError, Reader
from fastws.top.history import History
from fastws.top.readings import Reading
from fastws.top.screen import SORTS, Screen, View
from fastws.top.terminal import Terminal

_TICK_SECONDS: Final = 1.0
# For an answer that is on its way when the user wants to go.
_PATIENCE_SECONDS: Final = 0.3


class _Failure:
    """There was no answer."""

    def __init__(self, reason: str) -> None:
        self.at = time.monotonic()
        self.wall = time.time()
        self.reason = reason


class Poller:
    """Reads every `interval` seconds in a thread of its own, so that nobody waits for a server that takes its time.

    What has come is in `news`, in order; after each, `wake` is called in that thread, but not after :meth:`stop`, which
    closes the reader as well.
    """

    def __init__(self, reader: Reader, interval: float, wake: Callable[[], None]) -> None:
        self.news: queue.SimpleQueue[Reading | _Failure | Exception] = queue.SimpleQueue()
        self._reader = reader
        self._interval = interval
        self._wake = wake
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        # The process ends without it: it may wait for an answer.
        self._thread = threading.Thread(target=self._run, name="fastws top", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopped.set()
        self._thread.join(_PATIENCE_SECONDS)
        if not self._thread.is_alive():
            self._reader.close()

    def _run(self) -> None:
        due = time.monotonic() + self._interval
        while not self._stopped.wait(max(0.0, due - time.monotonic())):
            due = max(due, time.monotonic() - self._interval) + self._interval
            try:
                self._tell(self._reader.read())
            except AskError as error:
                self._tell(_Failure(str(error)))
            except Exception as error:  # a fault of ours, which is the main thread's to raise
                self._tell(error)
                return

    def _tell(self, news: Reading | _Failure | Exception) -> None:
        self.news.put(news)
        with self._lock:
            if not self._stopped.is_set():
                self._wake()


def watch(reader: Reader, history: History, url: str, terminal: Terminal, *, has_token: bool) -> None:
    """Show `history` and what comes after it, until the user or the terminal ends it; closes `reader`."""
    screen = Screen()
    sort = 0
    has_help = False
    paused: tuple[float, History] | None = None
    with terminal:
        poller = Poller(reader, history.interval, terminal.wake)
        poller.start()
        try:
            while True:
                _take(history, poller)
                paused_wall, shown = (None, history) if paused is None else paused
                view = View(url, shown, time.monotonic(), SORTS[sort], has_token, has_help, paused_wall)
                terminal.draw(screen.render(view, *terminal.size))
                event = terminal.wait(_TICK_SECONDS)
                if event.is_end:
                    return
                for key in event.keys:
                    if key in "qQ":
                        return
                    if has_help:
                        has_help = False
                    elif key in "?hH":
                        has_help = True
                    elif key in "pP ":
                        # It stays as it is, whatever comes meanwhile.
                        paused = (time.time(), copy.deepcopy(history)) if paused is None else None
                    elif key in "sS":
                        sort = (sort + 1) % len(SORTS)
        finally:
            poller.stop()


def _take(history: History, poller: Poller) -> None:
    while True:
        try:
            news = poller.news.get_nowait()
        except queue.Empty:
            return
        if isinstance(news, Exception):
            raise news
        if isinstance(news, _Failure):
            history.lose(news.at, news.wall, news.reason)
        else:
            history.take(news)
