"""An event loop on a thread of its own, for what must go on while the program's loop is held up."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

# What a program that ends may be held up by a thread that is finishing, in seconds.
_PATIENCE: Final = 5.0


class LoopThread:
    """A thread that runs an event loop from :meth:`start` to :meth:`stop`.

    It is a daemon: a program that ends without stopping it is not held up.
    """

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._is_ready = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event

    def start(self) -> None:
        """Start the thread; returns when its loop runs. Raises OSError when the system has nothing left for it."""
        self._thread.start()
        self._is_ready.wait()
        if self._failure is not None:
            raise self._failure

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and return, here, what it returns or raises.

        Raises:
            RuntimeError: the thread has ended.
        """
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise
        return await asyncio.wrap_future(future)

    def call(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Have `function` called there soon; any thread may ask for it. Returns False when the thread has ended."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return False
        return True

    def finish(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Have `work` done there, then end; any thread may ask for it, and nobody waits but, for five seconds, the
        program's end."""
        if self.call(self._finish, work):
            atexit.register(self._thread.join, _PATIENCE)

    def stop(self) -> None:
        """End the loop, cancelling what still runs on it, and the thread."""
        if self._thread.ident is not None and self._failure is None:
            self.call(lambda: self._stop.set())
            self._thread.join()

    def _finish(self, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._last = asyncio.ensure_future(work())
        self._last.add_done_callback(lambda _: self._stop.set())

    def _run(self) -> None:
        try:
            # Not asyncio.run, which notebooks replace by one for the loop that they are running in.
            with asyncio.Runner() as runner:
                runner.run(self._main())
        except BaseException as failure:
            if self._is_ready.is_set():
                raise
            self._failure = failure
            self._is_ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._is_ready.set()
        await self._stop.wait()
