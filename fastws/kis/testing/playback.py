"""Playing recorded messages to the sessions that have registered for them."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from pathlib import Path

from fastws.feeds.lines import LineError, split_line
from fastws.feeds.replay import Timeline
from fastws.kis.testing.replies import Registration
from fastws.kis.testing.settings import ScriptError

Deliver = Callable[[bytes, "Registration | None", int], object]
"""Takes a message, the registration that it belongs to (None: of no registration), and its number of records."""


def read_messages(path: str) -> list[tuple[int | None, bytes]]:
    """The messages of a file with their receive times in ms. Raises ScriptError naming file and line."""
    file = Path(path)
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError) as error:
        raise ScriptError(
            f"file: {path} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    messages = []
    for number, line in enumerate(content.split(b"\n"), 1):
        line = line.removesuffix(b"\r")
        if not line.strip() or line.startswith(b"#"):
            continue
        try:
            received_ms, message = split_line(line)
            message.decode()
        except (LineError, UnicodeDecodeError) as error:
            raise ScriptError(f"file: {path} line {number}: {error}") from None
        messages.append((received_ms, message))
    if not messages:
        raise ScriptError(f"file: {path} has no messages")
    return messages


def registration_of(message: bytes) -> tuple[Registration | None, int]:
    """The registration whose data a message is, and its records; (None, 0) for what is no data frame.

    The key of an encrypted frame cannot be seen; it is "".
    """
    parts = message.split(b"|", 3)
    if len(parts) != 4 or parts[0] not in (b"0", b"1") or not parts[2].isdigit():
        return None, 0
    key = b"" if parts[0] == b"1" else parts[3].partition(b"^")[0]
    return (parts[1].decode("ascii", "replace"), key.decode("utf-8", "replace")), int(parts[2])


async def play(messages: list[tuple[int | None, bytes]], speed: float, loop: bool, deliver: Deliver) -> None:
    """Hand out the messages, as far apart as they were received; `speed` divides that, 0 leaves pauses out."""
    clock = asyncio.get_running_loop().time
    started = clock()
    timeline = Timeline()
    while True:
        for i, (received_ms, message) in enumerate(messages):
            due = timeline.place(received_ms) / 1000.0 / speed if speed else 0.0
            wait = started + due - clock()
            if wait > 0.0:
                await asyncio.sleep(wait)
            elif i % 64 == 0:
                await asyncio.sleep(0.0)
            registration, n_records = registration_of(message)
            deliver(message, registration, n_records)
        if not loop:
            return
        timeline.restart()
        await asyncio.sleep(0.0)
