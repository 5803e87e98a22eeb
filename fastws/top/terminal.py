"""A terminal as a screen: taken and given back, drawn on, and asked for keys, until it goes away."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import termios
import tty
from types import FrameType, TracebackType
from typing import Any, Final, NamedTuple

ENDINGS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_HANDLED: Final = (*ENDINGS, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)

# Another screen, so that the shell's is there again at the end; no cursor.
_ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[2J"
_LEAVE: Final = b"\x1b[0m\x1b[?25h\x1b[?1049l"
# A frame is shown as a whole where the terminal can do that, and looks the same where it cannot.
_BEGIN: Final = b"\x1b[?2026h\x1b[H"
_END: Final = b"\x1b[J\x1b[?2026l"
# Arrows and the like, which are several bytes and no letters.
_SEQUENCES: Final = re.compile(rb"\x1b(?:[\[O][0-?]*[ -/]*[@-~]|.)?", re.DOTALL)
_LEAVE_SECONDS: Final = 0.5


class _Ended(BaseException):
    """Gets out of writing to a terminal that takes nothing."""


class Event(NamedTuple):
    """What has come: characters that were typed, and whether it is time to end."""

    keys: str
    is_end: bool


class Terminal:
    """The terminal of `output`, with keys from `source`, both file descriptors; `source` None: there are no keys.

    1. Inside of ``with`` it is another screen without echo, and after it what it was, whatever has happened.
    2. SIGINT, SIGTERM, SIGHUP, the end of `source` and a terminal that is gone are an end, told by :meth:`wait`, and
       never an exception.
    3. SIGTSTP gives the terminal back until the process goes on.

    To be used from the main thread, which alone gets signals.
    """

    def __init__(self, output: int, source: int | None) -> None:
        self._output = output
        self._source = source
        self._is_ended = False
        self._is_writing = False
        self._signals: set[int] = set()
        self._saved: list[Any] | None = None
        self._handlers: dict[int, Any] = {}
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)

    def __enter__(self) -> Terminal:
        for number in _HANDLED:
            self._handlers[number] = signal.signal(number, self._on_signal)
        self._wakeup = signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._wake_read)
        os.close(self._wake_write)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            size = os.get_terminal_size(self._output)
        except OSError:  # it has gone
            return 80, 24
        if not size.columns or not size.lines:  # a serial line does not know
            return shutil.get_terminal_size()
        return size.columns, size.lines

    def wake(self) -> None:
        """Have :meth:`wait` return; may be called from any thread."""
        with contextlib.suppress(BlockingIOError):  # then it is awake already
            os.write(self._wake_write, b"\0")

    def draw(self, lines: list[str]) -> None:
        """Show `lines`, which must fit, from the top; the rest of the screen is empty."""
        text = "\x1b[K\r\n".join(lines).encode(errors="replace")
        self._write(_BEGIN + text + b"\x1b[K" + _END)

    def wait(self, seconds: float) -> Event:
        """Wait for a key, a signal or :meth:`wake`, for so long at most."""
        sources = [self._wake_read] if self._source is None else [self._wake_read, self._source]
        ready = select.select(sources, [], [], max(0.0, seconds))[0] if not self._is_ended else []
        keys = ""
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        if self._source is not None and self._source in ready:
            keys = self._read_keys(self._source)
        signals, self._signals = self._signals, set()
        if signals & ENDINGS:
            self._is_ended = True
        if signal.SIGTSTP in signals and not self._is_ended:
            self._stop()
        elif signal.SIGCONT in signals:
            self._take()
        return Event(keys, self._is_ended)

    def _read_keys(self, source: int) -> str:
        try:
            data = os.read(source, 1024)
        except OSError:
            data = b""
        if not data:
            self._is_ended = True
        return _SEQUENCES.sub(b"", data).decode("ascii", "ignore")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.add(number)
        if self._is_writing and number in ENDINGS:
            raise _Ended

    def _write(self, data: bytes) -> None:
        if self._is_ended:
            return
        try:
            try:
                self._is_writing = True
                while data:
                    data = data[os.write(self._output, data) :]
            finally:
                self._is_writing = False
        except (_Ended, OSError):  # the latter: it has gone
            self._is_ended = True

    def _take(self) -> None:
        if self._source is not None:
            with contextlib.suppress(termios.error):  # it has gone, which reading tells
                self._saved = self._saved or termios.tcgetattr(self._source)
                tty.setcbreak(self._source, termios.TCSANOW)
        self._write(_ENTER)

    def _give_back(self) -> None:
        # One that takes nothing is not waited for.
        if select.select([], [self._output], [], _LEAVE_SECONDS)[1]:
            with contextlib.suppress(OSError):  # it has gone
                os.write(self._output, _LEAVE)
        if self._source is not None and self._saved is not None:
            with contextlib.suppress(termios.error):  # it has gone
                termios.tcsetattr(self._source, termios.TCSANOW, self._saved)
            # Whoever has it now may set it otherwise.
            self._saved = None

    def _stop(self) -> None:
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here it goes on.
        signal.signal(signal.SIGTSTP, self._on_signal)
        self._signals.discard(signal.SIGCONT)
        self._take()
