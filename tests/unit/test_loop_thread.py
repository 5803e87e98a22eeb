"""The thread with a loop of its own: what is given to it, and how it ends, however many see to that."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fastws.kis.loop_thread import LoopThread


@pytest.fixture
def thread() -> LoopThread:
    thread = LoopThread("test loop")
    thread.start()
    return thread


@pytest.fixture
def at_exit(monkeypatch: pytest.MonkeyPatch) -> list[Callable[..., object]]:
    """What is to be done at the end of the program; here it is not."""
    kept: list[Callable[..., object]] = []
    monkeypatch.setattr(atexit, "register", lambda function, *arguments: kept.append(function))
    return kept


class Slow:
    """A task that holds up the end of the loop while it is being cancelled, until it is let go."""

    def __init__(self, thread: LoopThread) -> None:
        self.is_ending = threading.Event()
        self.let_go = threading.Event()
        assert thread.call(lambda: setattr(self, "task", asyncio.ensure_future(self._run())))

    async def _run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.is_ending.set()
            assert self.let_go.wait(10.0)


async def test_what_is_run_there_returns_or_raises_here(thread: LoopThread) -> None:
    async def name() -> str:
        return threading.current_thread().name

    async def fail() -> None:
        raise ValueError("there")

    assert await thread.run(name()) == "test loop"
    with pytest.raises(ValueError, match="there"):
        await thread.run(fail())
    thread.stop()
    with pytest.raises(RuntimeError, match="ended"):
        await thread.run(name())
    assert not thread.call(print)
    thread.stop()


async def test_what_still_runs_at_the_end_is_told_to_who_waits_for_it(thread: LoopThread) -> None:
    async def wait() -> None:
        await asyncio.Event().wait()

    waiting = asyncio.create_task(thread.run(wait()))
    await asyncio.sleep(0)
    await asyncio.get_running_loop().run_in_executor(None, thread.stop)
    with pytest.raises(RuntimeError, match="ended"):
        await waiting


async def test_who_gives_up_waiting_is_cancelled_and_no_error(thread: LoopThread) -> None:
    ended = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(thread.run(wait()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await asyncio.to_thread(ended.wait, 10.0)
    thread.stop()


def test_it_is_finished_once(thread: LoopThread, at_exit: list[Callable[..., object]]) -> None:
    n_done = 0
    go_on = threading.Event()

    async def work() -> None:
        nonlocal n_done
        n_done += 1
        await asyncio.get_running_loop().run_in_executor(None, go_on.wait)

    assert [thread.finish(work) for _ in range(6)] == [True, False, False, False, False, False]
    go_on.set()
    thread._thread.join(10.0)
    assert not thread._thread.is_alive()
    assert (n_done, at_exit) == (1, [thread._thread.join])
    assert not thread.finish(work)


async def test_nothing_is_taken_while_the_loop_is_ending(
    thread: LoopThread, at_exit: list[Callable[..., object]], caplog: pytest.LogCaptureFixture
) -> None:
    """A loop that is closing takes callbacks and never runs what they begin: a task would be left pending."""
    slow = Slow(thread)

    async def work() -> None:
        pass

    thread.call(lambda: thread._stop.set())
    assert await asyncio.to_thread(slow.is_ending.wait, 10.0)
    called: list[Any] = []
    assert not thread.call(called.append, 1)
    assert not thread.finish(work)
    with pytest.raises(RuntimeError, match="ended"):
        await thread.run(work())
    slow.let_go.set()
    await asyncio.to_thread(thread.stop)
    assert (called, at_exit, caplog.records) == ([], [], [])


async def test_what_was_taken_just_before_the_end_is_begun_or_told(thread: LoopThread) -> None:
    """The order in which threads come is theirs: whatever it is, everybody gets an answer."""
    begun: list[int] = []

    async def work(n: int) -> int:
        begun.append(n)
        return n

    async def ask(n: int) -> int | None:
        try:
            return await thread.run(work(n))
        except RuntimeError:
            return None

    asking = [asyncio.create_task(ask(n)) for n in range(200)]
    await asyncio.sleep(0)
    thread.call(lambda: thread._stop.set())
    asking += [asyncio.create_task(ask(n)) for n in range(200, 400)]
    answers = await asyncio.wait_for(asyncio.gather(*asking), 10.0)
    assert answers[:200] == list(range(200))
    assert {n for n in answers if n is not None} <= set(begun)
    await asyncio.to_thread(thread.stop)
