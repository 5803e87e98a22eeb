"""What and when to publish: the rules of `benchmarks.peers` for the servers that are written in Python."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator

SUBSCRIBED = '{"type":"subscribed"}'
# Between two looks at the sockets; the simulator of fastws advances in chunks of as many.
BURST = 32
# The resolution of the loops' timers; a shorter sleep would only turn the loop.
MIN_SLEEP_S = 0.001


def arguments() -> tuple[float, str]:
    """The rate in messages/s and what every message begins with."""
    return float(sys.argv[1]), sys.argv[2]


def announce(port: int, *pids: int) -> None:
    """Say that the server accepts; without `pids` the server is this process."""
    print(json.dumps({"port": port, "pids": pids or [os.getpid()]}), flush=True)


def messages(head: str) -> Iterator[str]:
    """Endless messages, each stamped when it is taken."""
    second, text = -1, ""
    for n in itertools.count(1):
        at, ms = divmod(time.time_ns() // 1_000_000, 1000)
        if at != second:
            second, text = at, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
        yield f'{head}{text}.{ms:03d}Z","sequence":{n},"seq":{n}}}'


def publish_evenly(loop: asyncio.AbstractEventLoop, publish: Callable[[str], object]) -> None:
    """Call `publish` with each message when it is due, for as long as the loop runs."""
    rate, head = arguments()
    texts = messages(head)
    began = loop.time()
    n = 0

    def turn() -> None:
        nonlocal n
        due = min(int((loop.time() - began) * rate), n + BURST)
        while n < due:
            publish(next(texts))
            n += 1
        late = loop.time() - began - (n + 1) / rate
        if late >= 0:
            loop.call_soon(turn)
        else:
            loop.call_later(max(-late, MIN_SLEEP_S), turn)

    turn()
