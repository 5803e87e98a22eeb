"""Tasks that are to last as long as what has started them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

AGAIN_SECONDS: Final = 1.0
"""After how long one that has ended is begun again."""

_log = structlog.get_logger("fastws.relay")


class Lasting:
    """Runs what `run` makes until :meth:`stop`. Belongs to the thread of the event loop.

    One that ends before, in whatever way, is an error of the log with its traceback, and is begun again. `name` says
    in the log what it is.
    """

    def __init__(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.name = name
        self._run = run
        self._task: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._again = None
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self.name)
        self._task.add_done_callback(self._on_end)

    async def stop(self) -> None:
        """End it, and wait until it has ended; what never was started is over."""
        task, self._task = self._task, None
        if self._again is not None:
            self._again.cancel()
        elif task is not None:
            task.cancel()
            await asyncio.wait((task,))

    def _on_end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if self._task is not task:
            return
        _log.error("a task of the relay has ended and is begun again", task=self.name, exc_info=error)
        self._again = task.get_loop().call_later(AGAIN_SECONDS, self.start)
