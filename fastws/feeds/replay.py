"""The replay feed: a recorded or captured session, delivered again at its own or another pace."""

from __future__ import annotations

import asyncio
import gzip
import io
import math
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias, cast

import structlog

from fastws._kis import KISParser
from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate
from fastws.errors import SettingsError
from fastws.feeds.base import Feed, FeedOverError, MarketSink
from fastws.feeds.lines import LineError, decode_body, split_line

MAX_LINE_SIZE: Final = 1 << 20

_UNTIMED_GAP_MS: Final = 100
_JITTER_MS: Final = 1000
_SLICE_S: Final = 0.002
_SLICE_LINES: Final = 256
_LONG_PAUSE_S: Final = 60.0
_LONGEST_SLEEP_S: Final = 3600.0  # timers of event loops have limits; the pause of a slow replay has none
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_SHOWN_SIZE: Final = 120
_NO_FRAME: Final = "not a frame"  # the parser's word for what is no frame at all
# How far into a file something to replay is looked for before it is taken.
_CHECKED_LINES: Final = 10_000
_CHECKED_SIZE: Final = 16 << 20

_Update: TypeAlias = PriceUpdate | BookUpdate | MarketStatus
_OnBad: TypeAlias = Callable[[str, str, bytes], None]  # kind, reason, line

_log = structlog.get_logger("fastws.feeds.replay")


class Timeline:
    """Places lines in time: milliseconds at speed 1 since the start of the replay.

    1. Positions never decrease; the first line is at 0.
    2. A line without a receive time comes 100 ms after the one before it.
    3. Lines with receive times are as far apart as these. The first of them, and the first after `restart`,
       comes 100 ms after the line before it.
    4. A time up to a second before the last position is jitter and due at once. One further back begins a new
       recording (files are appended to): it is due at once and the next ones are placed by it.
    5. No line comes more than `max_gap_ms` after the one before it, and what follows moves up with it.
    """

    def __init__(self, max_gap_ms: float = math.inf) -> None:
        self._max_gap_ms = max_gap_ms
        self._position: float | None = None
        self._shift: float | None = None

    def place(self, received_ms: int | None) -> float:
        latest = self._position
        following = 0.0 if latest is None else latest + min(_UNTIMED_GAP_MS, self._max_gap_ms)
        if received_ms is None:
            position = following
        elif self._shift is None:
            self._shift = following - received_ms
            position = following
        else:
            position = received_ms + self._shift
            latest = latest or 0.0
            if position < latest:
                if position < latest - _JITTER_MS:
                    self._shift = latest - received_ms
                position = latest
            elif position > latest + self._max_gap_ms:
                position = latest + self._max_gap_ms
                self._shift = position - received_ms
        self._position = position
        return position

    def restart(self) -> None:
        self._shift = None


class ReplayFeed(Feed):
    """Delivers the lines of a file (format: :mod:`fastws.feeds.lines`; may be gzipped) to the market.

    `speed` divides all pauses, ``"max"`` leaves them out; then none is longer than `max_gap` seconds, unless
    that is 0. Pauses come from the receive times of the lines, never from the clocks inside the messages, and
    are kept against the start of the run: what a line is late does not delay the next. Those over a minute
    are logged before they begin. With `loop` the file starts over 100 ms (at speed 1) after its end;
    otherwise `run` returns there.

    1. The file is read line by line; a line over 1 MiB is skipped without being held in memory.
    2. No stretch without a pause is longer than 2 ms or 256 lines: then the loop runs.
    3. A line that cannot be used is counted in `bad_kinds`, the first of each kind is logged, and the
       replay goes on. A gzip file that breaks off ends there, like a file that ends.

    Raises SettingsError for a file that cannot be read, or whose first 10,000 lines are none that can be used
    (setting `feed`), for a wrong `speed` (`replay_speed`) and a wrong `max_gap` (`replay_max_gap`). `run` raises
    FeedOverError for a file that holds nothing to deliver.
    `clock` is monotonic and `wall_clock` the Unix time, both in seconds; `sleep` is awaited for every
    pause.
    """

    name = "replay"

    def __init__(
        self,
        path: str | Path,
        *,
        speed: float | Literal["max"] = 1.0,
        loop: bool = False,
        max_gap: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.path = Path(path)
        self.speed = _checked_speed(speed)
        self.loop = loop
        self.max_gap = _checked_gap(max_gap)
        # Of the last run, all its passes together:
        self.n_lines = 0
        self.n_updates = 0
        self._bad_lines: dict[str, int] = {}
        self._bad_frames: dict[str, int] = {}
        self._kinds_logged: set[str] = set()
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._place = 0  # line of the file, for the log
        self._received_ms: int | None = None
        self._check_file()

    @property
    def n_bad(self) -> int:
        """Lines of the last run that could not be used."""
        return sum(self.bad_kinds.values())

    @property
    def bad_kinds(self) -> dict[str, int]:
        """The same by kind: those of LineError, those of KISParser, "line too long" and "damaged gzip"."""
        return self._bad_lines | self._bad_frames

    async def run(self, market: MarketSink) -> None:
        """Deliver the file once, or over and over."""
        parser = KISParser(
            market.ensure_instrument,
            clock=self._message_time,
            on_bad=self._on_bad_frame,
            on_new_width=self._on_new_width,
        )
        self.n_lines = self.n_updates = 0
        self._bad_lines = {}
        self._bad_frames = parser.bad_kinds  # the parser goes on counting in it
        timeline = self._timeline()
        started_at = self._clock()
        slice_end = started_at + _SLICE_S
        n_slice = 0
        while True:
            n_updates_before = self.n_updates
            with self._open() as file:
                for message in self._messages(file, self._count_bad):
                    n_slice += 1
                    due = now = self._clock()
                    if message is not None and self.speed != "max":
                        due = started_at + timeline.place(self._received_ms) / 1000.0 / self.speed
                    if due > now or n_slice > _SLICE_LINES or now >= slice_end:
                        if due - now > _LONG_PAUSE_S:
                            self._log_pause(due - now)
                        await self._wait_until(due)
                        slice_end = self._clock() + _SLICE_S
                        n_slice = 1
                    if message is not None:
                        # It counts as received when it is due, however late this is.
                        market.set_received(int(due * 1e9))
                        try:
                            self._deliver(message, market, parser)
                        finally:
                            market.set_received(0)
            if self.n_updates == n_updates_before:
                raise FeedOverError(
                    f"{self.path} holds nothing to replay: of {self.n_lines} lines none is a price, an order book or a "
                    "market status; name a recording, or a file with JSON messages or KIS frames"
                )
            if not self.loop:
                _log.info("replay ended", file=str(self.path), updates=self.n_updates, bad_lines=self.n_bad)
                return
            timeline.restart()

    def _timeline(self) -> Timeline:
        if not self.max_gap or self.speed == "max":
            return Timeline()
        return Timeline(max_gap_ms=self.max_gap * 1000.0 * self.speed)

    def _log_pause(self, seconds: float) -> None:
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes_of_hour = divmod(minutes, 60)
        text = f"{hours} h {minutes_of_hour} min" if hours else f"{minutes} min {rest} s"
        _log.info(
            f"replay waits {text} for line {self._place} (replay_speed or replay_max_gap shortens it)",
            file=str(self.path),
        )

    async def _wait_until(self, due: float) -> None:
        """Let the loop run, at least once and until `due`."""
        pause = due - self._clock()
        while pause > _LONGEST_SLEEP_S:
            await self._sleep(_LONGEST_SLEEP_S)
            pause = due - self._clock()
        await self._sleep(max(pause, 0.0))

    def _check_file(self) -> None:
        try:
            if not self.path.is_file():
                exists = self.path.exists()
                raise OSError(
                    "is a directory"
                    if self.path.is_dir()
                    else "not a regular file"
                    if exists
                    else "no such file"
                )
            with self._open() as file:
                file.peek(1)
                self._check_lines(file)
        except OSError as error:
            raise SettingsError(
                f"feed: cannot replay {self.path}: {error.strerror or error}; name a readable file",
                setting="feed",
            ) from None
        except (EOFError, zlib.error):
            return  # a gzip file that breaks off this early; `run` tells

    def _check_lines(self, file: io.BufferedReader) -> None:
        """Refuse a file that begins like none to replay. One without messages is none yet; `run` tells of that."""
        faults: list[str] = []
        instruments: dict[str, Instrument] = {}

        def on_bad(kind: str, reason: str, line: bytes) -> None:
            if not faults:
                text = line[:_SHOWN_SIZE].decode("utf-8", "backslashreplace")
                faults.append(f"line {self._place} is {text!r} ({reason})")

        def ensure_instrument(code: str) -> Instrument:
            return instruments.setdefault(code, Instrument(code))

        parser = KISParser(
            ensure_instrument,
            clock=self._message_time,
            on_bad=lambda kind, message: on_bad(
                kind, "neither JSON nor a KIS frame" if kind == _NO_FRAME else f"KIS frame: {kind}", message
            ),
        )
        for message in self._messages(file, on_bad):
            if message is not None and self._read(message, ensure_instrument, parser, on_bad):
                return
            if self._place >= _CHECKED_LINES or file.tell() >= _CHECKED_SIZE:
                break
        self.n_lines = 0
        if faults:
            raise SettingsError(
                f"feed: cannot replay {self.path}: {faults[0]}, and what follows cannot be used either; name a "
                "recording, or a file with JSON messages or KIS frames",
                setting="feed",
            )

    def _open(self) -> io.BufferedReader:
        file = self.path.open("rb")
        try:
            # The magic number decides, not the name: recordings get renamed.
            is_gzip = file.peek(2).startswith(_GZIP_MAGIC)
        except OSError:
            file.close()
            raise
        if not is_gzip:
            return file
        file.close()
        # The buffer on top finds line ends in C.
        return io.BufferedReader(cast(io.RawIOBase, gzip.open(self.path, "rb")))

    def _messages(self, file: io.BufferedReader, on_bad: _OnBad) -> Iterator[bytes | None]:
        """The messages of the file, their receive time in `_received_ms`; None for a line without one."""
        self._place = 0
        while True:
            try:
                line = file.readline(MAX_LINE_SIZE)
                self._place += 1
                if len(line) == MAX_LINE_SIZE and not line.endswith(b"\n"):
                    on_bad("line too long", f"over {MAX_LINE_SIZE} bytes", line)
                    while line and not line.endswith(b"\n"):
                        line = file.readline(MAX_LINE_SIZE)
                        yield None
                    continue
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                on_bad("damaged gzip", f"the file ends here: {error}", b"")
                return
            if not line:
                return
            line = line.rstrip(b"\r\n")
            if self._place == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if not line or line.startswith(b"#"):
                yield None
                continue
            self.n_lines += 1
            try:
                self._received_ms, message = split_line(line)
            except LineError as error:
                on_bad(error.kind, str(error), line)
                yield None
            else:
                yield message

    def _deliver(self, message: bytes, market: MarketSink, parser: KISParser) -> None:
        for update in self._read(message, market.ensure_instrument, parser, self._count_bad):
            self._publish(update, market)

    def _read(
        self,
        message: bytes,
        ensure_instrument: Callable[[str], Instrument],
        parser: KISParser,
        on_bad: _OnBad,
    ) -> Sequence[_Update]:
        if not message.startswith(b"{"):
            return parser.parse(message)
        try:
            update = decode_body(message, ensure_instrument)
        except LineError as error:
            on_bad(error.kind, str(error), message)
            return ()
        return () if update is None else (update,)

    def _publish(self, update: _Update, market: MarketSink) -> None:
        if isinstance(update, PriceUpdate):
            market.publish_price(update)
        elif isinstance(update, BookUpdate):
            market.publish_book(update)
        else:
            market.set_status(update.market, update.status)
        self.n_updates += 1

    def _message_time(self) -> float:
        return self._wall_clock() if self._received_ms is None else self._received_ms / 1000.0

    def _count_bad(self, kind: str, reason: str, line: bytes) -> None:
        self._bad_lines[kind] = self._bad_lines.get(kind, 0) + 1
        self._log_bad(kind, reason, line)

    def _on_bad_frame(self, kind: str, message: bytes) -> None:
        self._log_bad(kind, "not a usable KIS frame", message)

    def _log_bad(self, kind: str, reason: str, line: bytes) -> None:
        if kind in self._kinds_logged:
            return
        self._kinds_logged.add(kind)
        _log.warning(
            "replay leaves out lines like this one",
            file=str(self.path),
            line=self._place,
            kind=kind,
            reason=reason,
            text=line[:_SHOWN_SIZE].decode("utf-8", "backslashreplace"),
        )

    def _on_new_width(self, tr_id: str, width: int) -> None:
        _log.warning(
            "KIS records have a width that is in no table", tr_id=tr_id, width=width, line=self._place
        )


def _checked_speed(speed: float | Literal["max"]) -> float | Literal["max"]:
    if speed == "max":
        return speed
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0.0 < speed < math.inf:
        raise SettingsError(
            f'replay_speed: expected a number above 0 or "max", got {speed!r}', setting="replay_speed"
        )
    return speed


def _checked_gap(seconds: float) -> float:
    if not 0.0 <= seconds < math.inf:
        raise SettingsError(
            f"replay_max_gap: expected seconds, 0 or more, got {seconds}", setting="replay_max_gap"
        )
    return seconds
