"""Tasks that are begun again when they end, whatever ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import structlog

from fastws.relay import lasting
from fastws.relay.lasting import Lasting


def fail() -> None:
    raise RuntimeError("unexpected")


def cancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize("end", [fail, cancel, lambda: None])
async def test_one_that_ends_is_said_and_begun_again(
    end: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lasting, "AGAIN_SECONDS", 0.0)
    n_runs = 0

    async def run() -> None:
        nonlocal n_runs
        n_runs += 1
        if n_runs < 3:
            end()
            await asyncio.sleep(0)
        else:
            await asyncio.Event().wait()

    with structlog.testing.capture_logs() as logs:
        task = Lasting("the one", run)
        task.start()
        async with asyncio.timeout(30):
            while n_runs < 3:
                await asyncio.sleep(0)
        await task.stop()
        await asyncio.sleep(0)
    assert [(line["log_level"], line["task"]) for line in logs] == [("error", "the one")] * 2
    assert n_runs == 3


async def test_one_that_is_stopped_is_not_begun_again() -> None:
    n_runs = 0

    async def run() -> None:
        nonlocal n_runs
        n_runs += 1
        fail()

    task = Lasting("the one", run)
    await task.stop()
    with structlog.testing.capture_logs() as logs:
        task.start()
        async with asyncio.timeout(30):
            while not logs:
                await asyncio.sleep(0)
        await task.stop()
    assert n_runs == 1
