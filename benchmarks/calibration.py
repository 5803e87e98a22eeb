"""Fixed work that no change of fastws touches: how fast the machine is at this moment.

A benchmark's time is only worth something beside the time of a yardstick that was measured right before and right
after it. There are several, because a machine does not slow down evenly: a neighbour on the same core costs an
interpreter more than a loop over bytes, one that uses the same caches costs those that walk through memory, and the
kernel has a life of its own.
"""

from __future__ import annotations

import random
import socket
import time
import zlib
from collections.abc import Callable
from typing import Final, Literal, get_args

Yardstick = Literal["python", "native", "memory", "kernel"]
YARDSTICKS: Final[tuple[Yardstick, ...]] = get_args(Yardstick)

# Each takes about as long as one call in a benchmark: a shorter one would find quiet moments that a benchmark does not,
# a longer one none.
_REPETITIONS: Final = 8

_TEXT: Final = b"".join(b'{"code":"%06d","price":%d,"volume":%d},' % (i, i * 7919, i * i) for i in range(150))


def python() -> int:
    """Interpreter: calls, attributes, dicts, small objects. Some 0.3 ms."""
    table: dict[str, tuple[int, str]] = {}
    total = 0
    for i in range(1800):
        key = str(i % 200)
        table[key] = (total, key)
        total += len(table) + len(key.upper())
    return total


def native() -> int:
    """Branches and tables in C, out of the nearest caches: deflate of 6 kB, several times. Some 0.2 ms."""
    return sum(len(zlib.compress(_TEXT, 1)) for _ in range(12))


def memory() -> float:
    """Objects that lie scattered over 4 MB. Some 0.5 ms."""
    global _scattered
    if not _scattered:
        _scattered = [float(i) for i in range(120_000)]
        random.Random(1).shuffle(_scattered)
    return sum(_scattered)


_scattered: list[float] = []


class _Pipe:
    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()

    def __call__(self) -> int:
        send, receive = self.near.send, self.far.recv
        return sum(send(_TEXT) + len(receive(65536)) for _ in range(160))


_pipe: _Pipe | None = None


def kernel() -> int:
    """The kernel: 6 kB into a socket and out of it, many times. Some 0.3 ms."""
    global _pipe
    if _pipe is None:
        _pipe = _Pipe()
    return _pipe()


_WORK: Final[dict[Yardstick, Callable[[], float]]] = {
    "python": python,
    "native": native,
    "memory": memory,
    "kernel": kernel,
}


def calibrate() -> dict[Yardstick, float]:
    """Return the seconds that each yardstick takes now: the least of several repetitions."""
    found = {}
    for name, work in _WORK.items():
        expected = work()
        times = []
        for _ in range(_REPETITIONS):
            before = time.perf_counter()
            result = work()
            times.append(time.perf_counter() - before)
            assert result == expected
        found[name] = min(times)
    return found
