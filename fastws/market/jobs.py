"""A thread that does one job after the other for the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, Generic, NamedTuple, TypeVar

Result = TypeVar("Result")
Argument = TypeVar("Argument")

MAX_JOBS: Final = 1000
"""How many jobs may wait for a thread."""


class Job(NamedTuple, Generic[Argument, Result]):
    """What is to be done, and who waits for it."""

    function: Callable[[Argument], Result]
    future: Future[Result]


class Worker(Generic[Argument]):
    """A thread that hands jobs to `do`, in their order, and calls `finish` when it ends.

    `do` sets the future of its job, whatever happens. The thread is a daemon, so that a job that never ends does not
    keep the process from ending. `add`, `start` and `end` belong to one thread.
    """

    def __init__(
        self, name: str, do: Callable[[Job[Argument, Any]], None], finish: Callable[[], None] = lambda: None
    ) -> None:
        self._do = do
        self._finish = finish
        self._jobs: SimpleQueue[Job[Argument, Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.is_started = False
        self.ended: Future[None] = Future()
        """Done when the thread is."""

    @property
    def is_full(self) -> bool:
        return self._jobs.qsize() >= MAX_JOBS

    def start(self) -> None:
        self.is_started = True
        self._thread.start()

    def add(self, function: Callable[[Argument], Result]) -> Future[Result]:
        """Let `function` be done. Nobody does it when its future is cancelled before it begins."""
        future: Future[Result] = Future()
        self._jobs.put(Job(function, future))
        return future

    def end(self) -> None:
        """Let the thread end after the jobs that wait; it may not have been started."""
        self._jobs.put(None)
        if not self.is_started:
            self.ended.set_result(None)

    def _work(self) -> None:
        self.ended.set_running_or_notify_cancel()  # so that who gives up waiting does not cancel it
        while (job := self._jobs.get()) is not None:
            if job.future.set_running_or_notify_cancel():
                self._do(job)
            del job  # nothing of it is to live until the next one comes
        self._finish()
        self.ended.set_result(None)
