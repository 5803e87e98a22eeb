"""What the programs of the benchmarks have in common: their help, how they begin, and how they end."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop

from fastws.cli import flushed, is_unread
from fastws.cli.parsers import INTERRUPTED, UNREAD

UNUSABLE: Final = 2
"""The exit status when the load could not be set up, an argument is wrong, or a result cannot be written."""
BROKEN_OFF: Final = 3
"""What was measured ended before its time: nothing is known of what it has lost."""

_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None)
_T = TypeVar("_T")


class BrokenOffError(Exception):
    """Something that a scenario needs has ended under it."""


def make_parser(name: str, text: str | None) -> argparse.ArgumentParser:
    """A parser for ``python -m NAME``, whose help is the text of its module."""
    description, _, epilog = (text or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def prepare() -> None:
    """Have the servers that are started allowed all the connections there may be, and ended with this program."""
    # An exception, which passes through the clean-up. Where a loop runs, `run_loop` hears the signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # They inherit the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_loop(main: Coroutine[Any, Any, _T]) -> _T:
    """Run `main` on a loop of its own, on the main thread. SIGINT and SIGTERM cancel it: an exception of a signal's
    handler would be raised wherever Python is at that moment, and ignored in a callback or a destructor.

    Raises:
        KeyboardInterrupt, SystemExit: there was a signal, whatever else broke off when `main` cleaned up after it.
    """
    told: list[signal.Signals] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    async def watched() -> _T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def tell(number: signal.Signals) -> None:
            told.append(number)
            task.cancel()

        for number in before:
            loop.add_signal_handler(number, tell, number)
        try:
            return await main
        finally:
            for number in before:
                loop.remove_signal_handler(number)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(watched())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if told:
            raise KeyboardInterrupt if told[0] == signal.SIGINT else SystemExit(128 + told[0])


def ended_with_us(number: int) -> Callable[[], None]:
    """What a child does first (`preexec_fn`), so that it gets signal `number` when the thread that starts it is gone:
    a program that is killed cleans up nothing."""
    parent = os.getpid()

    def arrange() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it was gone before
            os.kill(os.getpid(), number)

    return arrange


def json_path(text: str) -> Path:
    """The type of ``--json``: refuses before the load what could not be written after it."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a directory; name a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written")
    return path


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write a result.

    Raises:
        BrokenOffError: it cannot be; the text names the file.
    """
    try:
        path.write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise BrokenOffError(f"--json: {path} cannot be written: {error.strerror}") from None


def ended(name: str, run: Callable[[], int]) -> int:
    """Run a program and return its exit status, with a line for each way in which it may break off."""
    try:
        status = _status_of(name, run)
    except BrokenPipeError:  # not even that line is read
        status = UNREAD
    return flushed(status)


def _status_of(name: str, run: Callable[[], int]) -> int:
    try:
        return run()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenOffError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return BROKEN_OFF
    except TimeoutError as error:
        print(
            f"{name}: broke off, as an answer did not come in time ({error})".replace(" ()", ""),
            file=sys.stderr,
        )
        return BROKEN_OFF
    except OSError as error:
        if is_unread(error):
            return UNREAD
        where = f" ({error.filename})" if error.filename else ""
        print(f"{name}: broke off: {error.strerror or error}{where}; has the server ended?", file=sys.stderr)
        return BROKEN_OFF
