"""Callbacks that are called in order, one after the other, and never hold up who has something for them."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

Callback = Callable[..., Any]

# Calls in a row before the loop runs for others.
_BATCH: Final = 32

# Whose `process` this is called from; tasks that are begun there inherit it.
_within: ContextVar[object] = ContextVar("fastws_kis_delivery", default=None)


class Delivery(Generic[T]):
    """Hands items to `process`, in order, on the event loop that :meth:`start` was called on.

    1. :meth:`put` may be called by any thread; it never waits.
    2. At most `max_items` wait. Beyond that the oldest is dropped, and counted; `on_loss` is called with the number
       of those dropped since the last time, before the next item is processed.
    3. One item is processed at a time. What `process` raises goes to `on_failure`, with the item, and so does the
       cancellation of what it waits for.
    4. `on_end` is called once if it ends and nobody has asked for that: its task was cancelled, as at the end of
       `asyncio.run`, or the loop was closed. Any thread may be the caller then.
    """

    def __init__(
        self,
        process: Callable[[T], Any],
        *,
        max_items: int,
        on_failure: Callable[[BaseException, T], object],
        on_loss: Callable[[int], object],
        on_end: Callable[[], object],
    ) -> None:
        self.n_dropped = 0
        self._process = process
        self._max_items = max_items
        self._on_failure = on_failure
        self._on_loss = on_loss
        self._on_end = on_end
        self._items: deque[T] = deque()
        self._n_declared = 0
        self._lock = threading.Lock()
        self._is_woken = False
        self._is_over = False  # nothing is processed after the item that is
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def is_running(self) -> bool:
        """Whether items are processed."""
        return self._task is not None and not self._is_over and not self._task.done()

    def start(self) -> None:
        """Begin to process, as a task of the running loop."""
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._is_woken = self._is_over = False
        self._task = asyncio.create_task(self._run(self._wake), name="fastws KIS callbacks")
        self._task.add_done_callback(self._on_done)

    def put(self, item: T) -> None:
        """Leave an item to be processed; after the end it is dropped."""
        with self._lock:
            if self._is_over:
                return
            if len(self._items) >= self._max_items:
                self._items.popleft()
                self.n_dropped += 1
            self._items.append(item)
            if self._is_woken or self._loop is None or self._wake is None:
                return
            self._is_woken = True
            loop, wake = self._loop, self._wake
        try:
            loop.call_soon_threadsafe(wake.set)
        except RuntimeError:  # closed
            self._give_up()

    def end_within(self) -> bool:
        """End after the present item if this is called from within `process`, or from a task that was begun there:
        nobody may wait for the callback that waits for the end. Returns whether it is."""
        is_within = _within.get() is self
        if is_within and self._wake is not None:
            self._is_over = True
            self._wake.set()
        return is_within

    async def stop(self, patience: float) -> None:
        """Process what is left, for `patience` seconds at most, and end; see :meth:`end_within`."""
        task, self._task = self._task, None
        if task is None or self.end_within() or self._is_over:
            return
        deadline = asyncio.get_running_loop().time() + patience
        while (
            (self._items or self._is_woken)
            and asyncio.get_running_loop().time() < deadline
            and not task.done()
        ):
            await asyncio.sleep(0.005)
        self._is_over = True
        task.cancel()
        await asyncio.wait((task,))
        self._declare()

    async def _run(self, wake: asyncio.Event) -> None:
        _within.set(self)
        n = 0
        while not self._is_over:
            self._declare()
            with self._lock:
                item = self._items.popleft() if self._items else None
                if item is None:
                    self._is_woken = False
                    wake.clear()
            if item is None:
                await wake.wait()
                continue
            try:
                result = self._process(item)
                if inspect.isawaitable(result):
                    await result
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                self._on_failure(error, item)
            except Exception as error:
                self._on_failure(error, item)
            n += 1
            if n % _BATCH == 0:
                await asyncio.sleep(0)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not self._is_over:
            self._give_up()

    def _give_up(self) -> None:
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            self._items.clear()
        self._on_end()

    def _declare(self) -> None:
        n_lost = self.n_dropped - self._n_declared
        if n_lost:
            self._n_declared += n_lost
            self._on_loss(n_lost)
