"""Recording a feed: what it delivers goes to a file that a replay reads, with the times of receipt."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Self

from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate
from fastws.errors import SettingsError
from fastws.feeds.base import Feed
from fastws.feeds.lines import HEADER, encode_line

FLUSH_INTERVAL_S: Final = 0.5
BUFFER_SIZE: Final = 256 << 10


class Recorder:
    """A market for feeds to deliver into that writes all of it to a file (format: :mod:`fastws.feeds.lines`).

    It has the methods of the real market that feeds and their supervisor call, and needs no hub.
    `instruments` is the instrument table; `wall_clock` gives the Unix time in seconds. An existing file is
    appended to.

    1. Only whole lines are written, and up to BUFFER_SIZE bytes wait in memory. So a killed recorder leaves
       a file that reads well and lacks at most what came since the last flush.
    2. Receive times never decrease, whatever the clock does, so that a replay keeps the order and the pace.
    3. A line that an earlier recorder left unfinished (full disk, power cut) is ended before the first new
       one.

    Flush at least every second while a feed runs, as :func:`record` does, and close at the end. Raises
    SettingsError when the file cannot be opened, and OSError, from any method, when it cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        instruments: Iterable[Instrument] = (),
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path)
        self.instruments = tuple(instruments)
        self.feeds: dict[str, str] = {}
        self.n_updates = 0
        self._is_connected = True
        self._by_code = {instrument.code: instrument for instrument in self.instruments}
        self._wall_clock = wall_clock
        self._received_ms = 0
        self._flush_due_ms = 0
        self._lines: list[bytes] = []
        self._n_buffered = 0
        self._fd, is_new, is_torn = _open_for_append(self.path)
        if is_new:
            self._add(HEADER)
        elif is_torn:
            self._add(b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish_price(self, update: PriceUpdate, /) -> int:
        """Record a price; returns how many updates there are now."""
        return self._record(update)

    def publish_book(self, update: BookUpdate, /) -> int:
        """Record an order book; returns how many updates there are now."""
        return self._record(update)

    def set_status(self, market: str, status: str, /) -> int:
        """Record the status of a market; returns how many updates there are now."""
        return self._record(MarketStatus(market, status))

    def set_received(self, at_ns: int, /) -> None:
        """Does nothing: the times in the file are from the wall clock."""

    def set_connected(self, is_connected: bool, /) -> None:
        """Note as a comment that the source is away or back."""
        if is_connected != self._is_connected:
            self._is_connected = is_connected
            self._add(b"# @%d source is %b\n" % (self._now_ms(), b"back" if is_connected else b"away"))

    def set_feed_status(self, feed: str, status: str, /) -> int:
        """Note a new state of a feed as a comment, so that a gap explains itself."""
        if self.feeds.get(feed) == status:
            return 0
        self.feeds[feed] = status
        self._add(b"# @%d feed %b is %b\n" % (self._now_ms(), feed.encode(), status.encode()))
        return self.n_updates

    def instrument(self, code: str, /) -> Instrument | None:
        """Return the instrument of `code`, None for one that is in no table."""
        return self._by_code.get(code)

    def ensure_instrument(self, code: str, /) -> Instrument:
        """Return the instrument of `code`; an unknown code becomes one."""
        instrument = self._by_code.get(code)
        if instrument is None:
            instrument = self._by_code[code] = Instrument(code)
        return instrument

    def flush(self) -> None:
        """Write what waits in memory."""
        data = b"".join(self._lines)
        self._lines.clear()
        self._n_buffered = 0
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            if 0 < len(view) < len(data):
                self._lines.append(b"\n")  # ends the line that was cut
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def close(self) -> None:
        """Flush and close the file. Closing again does nothing."""
        if self._fd < 0:
            return
        try:
            self.flush()
        finally:
            os.close(self._fd)
            self._fd = -1

    def _record(self, update: PriceUpdate | BookUpdate | MarketStatus) -> int:
        received_ms = self._now_ms()
        self._add(encode_line(received_ms, update))
        self.n_updates += 1
        # Beside the regular flush: a feed that never lets the loop run must not hold it up.
        if received_ms >= self._flush_due_ms or self._n_buffered >= BUFFER_SIZE:
            self._flush_due_ms = received_ms + int(FLUSH_INTERVAL_S * 1000)
            self.flush()
        return self.n_updates

    def _add(self, line: bytes) -> None:
        if self._fd < 0:
            raise ValueError(f"the recorder of {self.path} is closed")
        self._lines.append(line)
        self._n_buffered += len(line)

    def _now_ms(self) -> int:
        self._received_ms = max(self._received_ms, int(self._wall_clock() * 1000.0))
        return self._received_ms


async def record(feed: Feed, recorder: Recorder, *, duration: float | None = None) -> None:
    """Run `feed` into `recorder` until it is exhausted or `duration` seconds are over; then close `recorder`.

    What is recorded is on disk when this returns, raises or is cancelled. Raises what the feed raises, and
    OSError when the file cannot be written.
    """
    with recorder:
        loop = asyncio.get_running_loop()
        running = loop.create_task(feed.run(recorder), name=f"feed {feed.name}")
        flushing = loop.create_task(_flush_regularly(recorder), name="recorder flush")
        try:
            await asyncio.wait((running, flushing), timeout=duration, return_when=asyncio.FIRST_COMPLETED)
        finally:
            running.cancel()
            flushing.cancel()
            # Both have to end before the file is closed.
            outcomes = await asyncio.gather(running, flushing, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


async def _flush_regularly(recorder: Recorder) -> None:
    while True:
        await asyncio.sleep(FLUSH_INTERVAL_S)
        recorder.flush()


def _open_for_append(path: Path) -> tuple[int, bool, bool]:
    """Open for appending; whether the file was empty, and whether its last line lacks its end."""
    if path.suffix == ".gz":
        raise SettingsError(
            f"output: {path} is named like a gzip file, but a recording is plain text, so that it survives a "
            "killed recorder; compress it afterwards, a replay reads both",
            setting="output",
            source="--output",
        )
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SettingsError(
            f"output: cannot write {path}: {error.strerror}; name a file in an existing, writable directory",
            setting="output",
            source="--output",
        ) from None
    size = os.fstat(fd).st_size
    return fd, size == 0, size > 0 and os.pread(fd, 1, size - 1) != b"\n"
