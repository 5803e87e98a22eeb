"""An event loop on a thread of its own, for what must go on while the program's loop is held up."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")

# What a program that ends may be held up by a thread that is finishing, in seconds.
_PATIENCE: Final = 5.0


class LoopThread:
    """A thread that runs an event loop from :meth:`start` to :meth:`stop`, or to the end of what :meth:`finish` began.

    1. It is a daemon: a program that ends without stopping it is not held up.
    2. What is given to it, by whichever thread, is either begun before the loop ends or refused. Nothing is taken in
       between, while the loop is cancelling what is left: that would be left pending for ever.
    3. It is finished once, however many ask for that.
    """

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._is_ready = threading.Event()
        self._lock = threading.Lock()  # for the two flags, and for giving something to the loop
        self._is_over = self._is_finishing = False
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
            RuntimeError: the thread has ended, or does so before the coroutine.
        """
        with self._lock:
            if self._is_over:
                coroutine.close()
                raise RuntimeError("the thread has ended")
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise RuntimeError("the thread has ended") from None

    def call(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Have `function` called there soon; any thread may ask for it. Returns False when the thread has ended."""
        with self._lock:
            if not self._is_over:
                self._loop.call_soon_threadsafe(function, *arguments)
            return not self._is_over

    def finish(self, work: Callable[[], Coroutine[Any, Any, object]]) -> bool:
        """Have `work` done there, then end; any thread may ask for it, and nobody waits but, for five seconds, the
        program's end. Returns False when it was asked for before, or the thread has ended: then `work` is not done."""
        with self._lock:
            if self._is_over or self._is_finishing:
                return False
            self._is_finishing = True
            self._loop.call_soon_threadsafe(self._finish, work)
        atexit.register(self._thread.join, _PATIENCE)
        return True

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
            self._run_loop()
        except BaseException as failure:
            if self._is_ready.is_set():
                raise
            self._failure = failure
            self._is_ready.set()
        finally:
            with self._lock:
                self._is_over = True

    def _run_loop(self) -> None:
        # Not asyncio.run, which notebooks replace by one for the loop that they are running in, nor asyncio.Runner:
        # that waits for the executor on a thread that it starts, which since Python 3.12 a program that ends may not.
        loop = asyncio.new_event_loop()
        executor = ThreadPoolExecutor(thread_name_prefix=self._thread.name)
        loop.set_default_executor(executor)
        try:
            loop.run_until_complete(self._main())
        finally:
            try:
                loop.run_until_complete(_cancel_all())
                loop.run_until_complete(loop.shutdown_asyncgens())
                executor.shutdown()
            finally:
                loop.close()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._is_ready.set()
        await self._stop.wait()
        with self._lock:
            self._is_over = True
        # What was taken before begins within this turn, so that it is found when what is left is cancelled.
        await asyncio.sleep(0)


async def _cancel_all() -> None:
    """Cancel all other tasks of the running loop, and wait for them."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    for task, result in zip(left, await asyncio.gather(*left, return_exceptions=True), strict=True):
        if isinstance(result, Exception):
            asyncio.get_running_loop().call_exception_handler(
                {
                    "message": f"unhandled at the end of a thread: {result!r}",
                    "exception": result,
                    "task": task,
                }
            )
