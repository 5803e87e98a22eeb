"""Callbacks that are called in order, one after the other, and never hold up who has something for them."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

Callback = Callable[..., Any]

# Calls in a row before the loop runs for others.
_BATCH: Final = 32


class Delivery(Generic[T]):
    """Hands items to `process`, in order, on the event loop that :meth:`start` was called on.

    1. :meth:`put` may be called by any thread; it never waits.
    2. At most `max_items` wait. Beyond that the oldest is dropped, and counted; `on_loss` is called with the number
       of those dropped since the last time, before the next item is processed.
    3. One item is processed at a time. What `process` raises goes to `on_failure`, with the item.
    """

    def __init__(
        self,
        process: Callable[[T], Any],
        *,
        max_items: int,
        on_failure: Callable[[Exception, T], object],
        on_loss: Callable[[int], object],
    ) -> None:
        self.n_dropped = 0
        self._process = process
        self._max_items = max_items
        self._on_failure = on_failure
        self._on_loss = on_loss
        self._items: deque[T] = deque()
        self._n_declared = 0
        self._lock = threading.Lock()
        self._is_woken = False
        self._is_over = False  # stopped from within
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def start(self) -> None:
        """Begin to process, as a task of the running loop."""
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._is_woken = self._is_over = False
        self._task = asyncio.create_task(self._run(self._wake), name="fastws KIS callbacks")

    def put(self, item: T) -> None:
        """Leave an item to be processed; after the end of the loop it is dropped."""
        with self._lock:
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
        except RuntimeError:
            self._loop = None  # closed: the program ends without having stopped this

    async def stop(self, patience: float) -> None:
        """Process what is left, for `patience` seconds at most, and end. May be called from within `process`."""
        task, self._task = self._task, None
        if task is None:
            return
        if task is asyncio.current_task():
            # Nobody may wait for the callback that asks for this; it is the last one.
            self._is_over = True
            return
        deadline = asyncio.get_running_loop().time() + patience
        while (
            (self._items or self._is_woken)
            and asyncio.get_running_loop().time() < deadline
            and not task.done()
        ):
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait((task,))
        self._declare()

    async def _run(self, wake: asyncio.Event) -> None:
        n = 0
        while True:
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
            except Exception as error:
                self._on_failure(error, item)
            if self._is_over:
                return
            n += 1
            if n % _BATCH == 0:
                await asyncio.sleep(0)

    def _declare(self) -> None:
        n_lost = self.n_dropped - self._n_declared
        if n_lost:
            self._n_declared += n_lost
            self._on_loss(n_lost)
