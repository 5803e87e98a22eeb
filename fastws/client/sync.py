"""The client for programs without an event loop: a thread of its own runs the asynchronous one."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from fastws.client.base import Accepted, Statistics, SubscribeOptions
from fastws.client.client import Client
from fastws.client.errors import ClosedError, UsageError
from fastws.client.messages import Message

_T = TypeVar("_T")


class SyncClient:
    """`fastws.client.Client` with blocking methods.

    ::

        with SyncClient("ws://127.0.0.1:8000") as client:
            client.subscribe("stock", ["005930"])
            for message in client:
                ...

    Thread rules: all methods may be called from any thread but that of the loop, which is named ``fastws client``.
    Messages are for one taker: either one thread iterates, or, with `on_message`, a thread named ``fastws callbacks``
    calls that for one message after the other. It may call every method, also :meth:`close`. A function that takes its
    time is a slow consumer. What it raises ends the client, and comes out of :meth:`close` and of the requests.

    Parameters: `on_message`, and all others of `Client`; `refresh_token` is a coroutine function, run in the loop.
    """

    def __init__(
        self, url: str, *, on_message: Callable[[Message], object] | None = None, **options: Any
    ) -> None:
        self._url = url
        self._options = options
        self._on_message = on_message
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client | None = None
        self._taken: deque[Message] = deque()
        self._callback_failure: Exception | None = None
        self._has_raised = False
        self._lock = threading.Lock()
        # What is asked of the loop is asked before it is stopped, or not at all.
        self._submission = threading.Lock()
        self._is_stopping = False
        self._loop_thread: threading.Thread | None = None
        self._caller: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Connect; raises as `Client.open` does."""
        if self._loop_thread is not None:
            raise ClosedError("a client is opened once; make another one")
        loop = self._loop = asyncio.new_event_loop()
        self._loop_thread = threading.Thread(
            target=self._run, args=(loop,), name="fastws client", daemon=True
        )
        self._loop_thread.start()
        try:
            self._client = self._call(self._make())
        except BaseException:
            self._end_loop()
            raise
        if self._on_message is not None:
            self._caller = threading.Thread(
                target=self._deliver,
                args=(self._client, self._on_message),
                name="fastws callbacks",
                daemon=True,
            )
            self._caller.start()

    async def _make(self) -> Client:
        client = Client(self._url, **self._options)
        await client.open()
        return client

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            # Who waits for one of them, e.g. for a connection that is not to be made any more, is told.
            loop.run_until_complete(_cancel_all())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def close(self) -> None:
        """Say goodbye and end both threads; an `open` that waits in another one raises ClosedError. Raises what a
        callback has raised, once."""
        self._check_thread()
        with self._lock:
            if self._client is not None and not self._is_stopping:
                self._call(self._client.close())
            self._end_loop()
        if self._caller is not None and self._caller is not threading.current_thread():
            self._caller.join()
        self._taken.clear()
        if self._callback_failure is not None and not self._has_raised:
            self._has_raised = True
            raise self._callback_failure

    def _end_loop(self) -> None:
        if self._loop is None or self._loop_thread is None:
            return
        with self._submission:
            if not self._is_stopping:
                self._is_stopping = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._loop_thread.join()

    def _call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        try:
            self._check_thread()
        except UsageError:
            coroutine.close()
            raise
        with self._submission:
            if self._loop is None or self._is_stopping:
                coroutine.close()
                raise self._callback_failure or ClosedError("the client is closed")
            future: Future[_T] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except (ClosedError, CancelledError):
            raise self._callback_failure or ClosedError("the client was closed") from None
        except BaseException:
            future.cancel()
            raise

    def _check_thread(self) -> None:
        if self._loop_thread is threading.current_thread():
            raise UsageError(
                "the thread of the loop must not wait for itself; use fastws.client.Client there"
            )

    @property
    def _opened(self) -> Client:
        if self._client is None:
            raise ClosedError("the client is not open: use `with SyncClient(…) as client`")
        return self._client

    # Messages.

    def __iter__(self) -> Iterator[Message]:
        return self

    def __next__(self) -> Message:
        message = self.get()
        if message is None:
            raise StopIteration
        return message

    def get(self, timeout: float | None = None) -> Message | None:
        """The next message; None when the client was closed. Raises TimeoutError when none comes within `timeout`
        seconds, and EndedError as `Client` does."""
        if self._on_message is not None:
            raise UsageError("on_message: it gets all messages; leave it out to iterate")
        if not self._taken:
            # Going to the other thread costs more than a message, so all that are there come at once.
            self._taken.extend(self._take(self._opened, timeout))
        return self._taken.popleft() if self._taken else None

    def _take(self, client: Client, timeout: float | None) -> list[Message]:
        async def take() -> list[Message]:
            async with asyncio.timeout(timeout):
                return await client.take()

        try:
            return self._call(take())
        except ClosedError:
            return []

    def _deliver(self, client: Client, on_message: Callable[[Message], object]) -> None:
        try:
            while found := self._take(client, None):
                for message in found:
                    on_message(message)
        except Exception as failure:
            self._callback_failure = failure
            self._end_client(client)

    def _end_client(self, client: Client) -> None:
        with self._submission:
            if self._loop is not None and not self._is_stopping:
                asyncio.run_coroutine_threadsafe(client.close(), self._loop)

    # Requests, as those of `Client`.

    def subscribe(
        self, subscription_type: str, targets: Sequence[str], **options: Unpack[SubscribeOptions]
    ) -> Accepted:
        """See `Client.subscribe`."""
        return self._call(self._opened.subscribe(subscription_type, targets, **options))

    def unsubscribe(self, subscription_type: str, targets: Sequence[str]) -> None:
        """See `Client.unsubscribe`."""
        self._call(self._opened.unsubscribe(subscription_type, targets))

    def pause(self) -> None:
        """See `Client.pause`."""
        self._call(self._opened.pause())

    def resume(self) -> None:
        """See `Client.resume`."""
        self._call(self._opened.resume())

    def ping(self) -> float:
        """See `Client.ping`."""
        return self._call(self._opened.ping())

    def replace_token(self, token: str) -> None:
        """See `Client.replace_token`."""
        self._call(self._opened.replace_token(token))

    # State, which is read without waiting.

    @property
    def is_live(self) -> bool:
        """See `Client.is_live`."""
        return self._client is not None and self._client.is_live

    def age(self, code: str) -> float | None:
        """See `Client.age`."""
        return None if self._client is None else self._client.age(code)

    def is_stale(self, code: str) -> bool:
        """See `Client.is_stale`."""
        return self._client is not None and self._client.is_stale(code)

    @property
    def subscriptions(self) -> dict[str, list[str]]:
        """See `Client.subscriptions`."""

        async def read() -> dict[str, list[str]]:
            return self._opened.subscriptions

        return self._call(read())

    @property
    def statistics(self) -> Statistics:
        """See `Client.statistics`."""
        return self._opened.statistics


async def _cancel_all() -> None:
    """Cancel every other task of this loop, and those that begin meanwhile, until there is none."""
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
