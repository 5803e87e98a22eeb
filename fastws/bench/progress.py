"""How far a run has come: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import time
from typing import Final, TextIO

from fastws.bench.plot import bar, can_draw_blocks

LINE_INTERVAL_S: Final = 10.0

_BAR_WIDTH: Final = 16


class Progress:
    """Writes to `stream`; nothing of it stays on a terminal once it was cleared. What nobody reads any more ends no
    run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._has_blocks = can_draw_blocks(stream.encoding)
        self._phase = ""
        self._written_at = 0.0

    def show(self, phase: str, share: float, text: str) -> None:
        """Tell that `share` of a phase is done."""
        if self._is_terminal:
            filled = bar(min(share, 1.0), _BAR_WIDTH, has_blocks=self._has_blocks)
            line = f"{phase:<10} [{filled:<{_BAR_WIDTH}}] {text}"
            # One column stays free: a full line would wrap.
            columns = shutil.get_terminal_size().columns
            self._write(f"\r{line[: columns - 1]}\x1b[K")
        elif phase != self._phase or time.monotonic() - self._written_at >= LINE_INTERVAL_S:
            self._phase = phase
            self._written_at = time.monotonic()
            self._write(f"{phase}: {text}\n")

    def clear(self) -> None:
        """Take the bar away, so that something else can be written."""
        if self._is_terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the terminal is closed, or a pipe's reader has ended
            self._stream.write(text)
            self._stream.flush()
