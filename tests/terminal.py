"""A terminal of which a program has the inner end: what it shows, as an emulator has it, and keys typed into it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pyte

# What a login shell does for its programs: a session of their own, whose terminal this is. Ctrl-C comes by it then,
# and the hang-up.
_LOGIN = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execve(sys.argv[1], sys.argv[1:], os.environ)
"""


# What is between these is shown at once (synchronized output, DEC private mode 2026).
_BEGIN = b"\x1b[?2026h"
_END = b"\x1b[?2026l"


class Terminal:
    """Runs `command` in a terminal of `columns` and `lines`; to be used in ``with``, which ends it.

    `raw` is all that the program has written, `process` the program.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        directory: Path,
        environment: Mapping[str, str],
        columns: int = 80,
        lines: int = 24,
    ) -> None:
        self.raw = bytearray()
        self._n_shown = 0
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._outer, inner = pty.openpty()
        try:
            self._set_size(inner, columns, lines)
            self.before = termios.tcgetattr(inner)
            self.process = subprocess.Popen(
                [sys.executable, "-c", _LOGIN, *command],
                cwd=directory,
                env={**environment, "TERM": "xterm-256color"},
                stdin=inner,
                stdout=inner,
                stderr=inner,
            )
        finally:
            # Kept by the program alone, so that its end is seen here.
            os.close(inner)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.hang_up()

    @property
    def lines(self) -> list[str]:
        """The screen."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def colours(self) -> set[str]:
        """Those of all that is on the screen."""
        return {char.fg for row in self._screen.buffer.values() for char in row.values()}

    @property
    def attributes(self) -> list[Any]:
        """How the terminal is set, as `termios.tcgetattr` has it."""
        return termios.tcgetattr(self._outer)

    def type(self, keys: bytes) -> None:
        os.write(self._outer, keys)

    def resize(self, columns: int, lines: int) -> None:
        self._screen.resize(lines, columns)
        self._set_size(self._outer, columns, lines)
        # The kernel tells those whose terminal it is.

    def hang_up(self) -> None:
        """Go away, as a window that is closed."""
        if self._outer >= 0:
            os.close(self._outer)
            self._outer = -1

    def until(self, condition: Callable[[str], Any], what: str, seconds: float = 30.0) -> Any:
        """Take what comes until `condition` of the screen's text is true; returns its value."""
        deadline = time.monotonic() + seconds
        while not (value := condition(self.text)):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {seconds:g} s\n{self.text}")
            if not self._read(0.05) and self.process.poll() is not None:
                raise AssertionError(f"{what}: it ended with {self.process.returncode}\n{self.text}")
        return value

    def wait(self, seconds: float = 10.0) -> int:
        """Take what comes until the program ends; returns its exit status."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end\n{self.text}"
            self._read(0.02)
        self.drain()
        return self.process.returncode

    def drain(self) -> None:
        """Take what has come."""
        while self._read(0.0):
            pass

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def _read(self, seconds: float) -> bool:
        if self._outer < 0:
            time.sleep(seconds)
            return False
        if not select.select([self._outer], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._outer, 65536)
        except OSError:  # nobody has the inner end any more
            return False
        self.raw += data
        self._show()
        return True

    def _show(self) -> None:
        """Bring what has come to the screen, but for a frame of which the end has not."""
        come = bytes(self.raw[self._n_shown :])
        begin = come.rfind(_BEGIN)
        if begin <= come.rfind(_END):
            begun = [n for n in range(1, len(_BEGIN)) if come.endswith(_BEGIN[:n])]
            begin = len(come) - max(begun, default=0)
        self._stream.feed(come[:begin])
        self._n_shown += begin

    @staticmethod
    def _set_size(fd: int, columns: int, lines: int) -> None:
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
