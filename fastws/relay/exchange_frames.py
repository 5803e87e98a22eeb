"""What the workers of one server and their parent send each other over sockets. Sans-IO.

A frame is its size in bytes (32 bits, little-endian, itself included), its kind, the size of a channel's name, that
name, and data. Whoever hands a frame on hands on its bytes, and reads no more of it than the name.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from fastws.errors import FastwsError

MESSAGE: Final = 0
"""Something is said on a channel, to all who listen to it but the sender."""
LISTEN: Final = 1
IGNORE: Final = 2
LISTENING: Final = 3
"""To a worker: from now on it gets what is said on a channel."""
PRESENT: Final = 4
"""To all workers, every second and whenever it changes: the data is a `fastws.server.workers.Crew`."""
READY: Final = 5
"""From a worker: it serves. The data is for the parent."""
FAILED: Final = 6
"""From a worker: it cannot serve. The data says why."""
STOP: Final = 7
RELOAD: Final = 8
RELOADED: Final = 9
"""From a worker: a reload is done. The data says what was wrong, if anything was."""

ALIVE: Final = 10
"""From a worker, every half second: its loop runs."""

MAX_SIZE: Final = 32 << 20
"""Of a frame. An envelope has 8 MiB at most."""

_HEADER: Final = struct.Struct("<IBB")


class FrameError(FastwsError):
    """What is no frame. Only a fault of our own makes one."""


class Frame(NamedTuple):
    """`data` is where in `whole` the data begins."""

    kind: int
    channel: bytes
    whole: bytes
    data_at: int

    @property
    def data(self) -> bytes:
        return self.whole[self.data_at :]


def encode(kind: int, channel: bytes = b"", data: bytes = b"") -> bytes:
    """Raises ValueError where the channel's name has over 255 bytes, or the frame over `MAX_SIZE`."""
    size = _HEADER.size + len(channel) + len(data)
    if len(channel) > 255 or size > MAX_SIZE:
        raise ValueError(f"a frame of {size} bytes with a name of {len(channel)} cannot be sent")
    return b"".join((_HEADER.pack(size, kind, len(channel)), channel, data))


def kind_of(whole: bytes) -> int:
    """The kind of a whole frame."""
    return whole[4]


class Splitter:
    """Finds the frames in a stream of bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are complete with `data`.

        Raises:
            FrameError: this is no such stream; nothing can be found in it any more.
        """
        if self._rest:
            data = self._rest + data
        frames = []
        at, end = 0, len(data)
        while end - at >= _HEADER.size:
            size, kind, name_size = _HEADER.unpack_from(data, at)
            data_at = _HEADER.size + name_size
            if not data_at <= size <= MAX_SIZE or kind > ALIVE:
                raise FrameError(f"no frame: kind {kind}, {size} bytes, a name of {name_size}")
            if end - at < size:
                break
            whole = data[at : at + size]
            frames.append(Frame(kind, whole[_HEADER.size : data_at], whole, data_at))
            at += size
        self._rest = data[at:]
        return frames
