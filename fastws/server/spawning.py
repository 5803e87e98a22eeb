"""Starts this program once more, to take over from the process that it runs in."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

import structlog

from fastws.server.process_name import name_process, process_name

SPAWNED: Final = "_FASTWS_SPAWNED"
"""The variable that tells a process that the running server has started it."""
NAME: Final = "_FASTWS_NAME"
"""The variable that tells it what the running server is called in lists of processes."""

_LOOK_SECONDS: Final = 0.1
_END_SECONDS: Final = 5.0
_WAIT_SECONDS: Final = 0.02

_log = structlog.get_logger("fastws.upgrade")


class Child:
    """A process that was started here. Belongs to the thread of the event loop.

    `on_end` is called with its exit status when it has ended by itself. `pid` is 0 once it has.
    """

    def __init__(self, pid: int, on_end: Callable[[int], object]) -> None:
        self.pid = pid
        self._on_end = on_end
        self._look_later()

    def signal(self, number: signal.Signals) -> None:
        # Its number is nobody else's until it is waited for.
        if self.pid:
            os.kill(self.pid, number)

    def forget(self) -> None:
        """Be told no more of its end."""
        self._timer.cancel()

    async def end(self) -> None:
        """Let it end, and end it where it does not."""
        self.forget()
        self.signal(signal.SIGTERM)
        ends = time.monotonic() + _END_SECONDS
        while self._reap() is None:
            if time.monotonic() > ends:
                self.signal(signal.SIGKILL)
            await asyncio.sleep(_WAIT_SECONDS)

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        if (status := self._reap()) is None:
            self._look_later()
        else:
            self._on_end(status)

    def _reap(self) -> int | None:
        """Return its exit status, None while it runs."""
        if not self.pid:
            return 0
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return None
        self.pid = 0
        return os.waitstatus_to_exitcode(status)


def spawn(on_end: Callable[[int], object]) -> Child | None:
    """Start the program that this process was started as, with the same arguments; None where that cannot be."""
    # A program that is one file has unpacked itself: the file at its path may be a newer one.
    named = shutil.which(sys.orig_argv[0]) if getattr(sys, "frozen", False) else None
    program = named or sys.executable
    # Not the first argument of this one: it may be relative to another directory, or made up, and an interpreter looks
    # for its libraries, and so its virtual environment, where that says it is.
    command = [program, *sys.orig_argv[1:]]
    # The kernel names a process by the file, which is that of the interpreter and not of a script such as fastws.
    told = {SPAWNED: "1", NAME: process_name()}
    try:
        pid = os.posix_spawn(program, command, os.environ | told, setsigmask=(), setsigdef=(signal.SIGPIPE,))
    except OSError as error:
        _log.error("no process can be started to take over", command=command[0], error=error.strerror)
        return None
    _log.info("a process is started to take over", pid=pid)
    return Child(pid, on_end)


def was_spawned() -> bool:
    """Whether the running server has started this process, which then takes over its name, too.

    Asked once, for it is no matter of what that starts.
    """
    name = os.environ.pop(NAME, "")
    if os.environ.pop(SPAWNED, None) is None:
        return False
    if name:
        name_process(name)
    return True
