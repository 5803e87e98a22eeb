"""Runs what belongs together, and ends what was begun."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def run_together(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run all until one of them ends, and raise what that one raised; the others are over then, too.

    Unlike in a task group, an error comes out as it is.
    """
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled():
                # One error is raised. Another one of the same moment has the same cause, and asyncio would log it.
                task.exception()


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end; raises what it died of, if it did."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result()
