"""A recording for a server to replay: an even flow of KIS trades over many symbols, whose end is known beforehand."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from benchmarks.scenarios.process import Server
from fastws.bench import LoadClient, LoadError

BEGIN_MS = 1_762_819_200_000
PRICE = 72_000
WAIT_S = 60.0
LOOK_S = 0.1
# After the last update; whoever has not got it by then will not get it.
SETTLE_S = 10.0
# Places of values in a trade record of KIS (H0STCNT0).
_CODE, _PRICE = 0, 2


@dataclass(frozen=True)
class LastTrade:
    """What a symbol ends on: the number of its last message, on a server that has begun with the recording."""

    seq: int
    price: str


def codes(n: int) -> list[str]:
    """So many codes, written as those of KRX are."""
    return [f"{100_000 + i}" for i in range(n)]


def write(
    path: Path, symbols: Sequence[str], *, rate: float, pause: float, seconds: float, seed: int
) -> dict[str, LastTrade]:
    """Write a recording that `fastws serve --feed replay:FILE` delivers: a trade of each symbol at once, nothing for
    `pause` seconds, then `rate` trades/s of random symbols for `seconds`.

    KIS frames cost the server least to read, so what it costs is what it sends. Returns what each symbol ends on.
    """
    sample = (files("fastws.data") / "kis_frames.txt").read_text().splitlines()
    head, _, values = next(line for line in sample if line.startswith("0|H0STCNT0|001|")).rpartition("|")
    record = values.split("^")
    after = "^".join(record[_PRICE + 1 :])
    between = "^".join(record[_CODE + 1 : _PRICE])
    generator = random.Random(seed)
    prices = dict.fromkeys(symbols, PRICE)
    counts = dict.fromkeys(symbols, 0)

    def line(at_ms: float, code: str) -> str:
        prices[code] = max(1000, prices[code] + 100 * generator.randint(-5, 5))
        counts[code] += 1
        return f"@{BEGIN_MS + int(at_ms)} {head}|{code}^{between}^{prices[code]}^{after}\n"

    with path.open("w") as file:
        file.writelines(line(0, code) for code in symbols)
        file.writelines(
            line(1000 * (pause + i / rate), generator.choice(symbols)) for i in range(int(rate * seconds))
        )
    return {code: LastTrade(counts[code], str(prices[code])) for code in symbols}


def read_until(client: LoadClient, condition: Callable[[], bool], problem: str) -> None:
    """Let the client read until the condition holds; LoadError with the problem when it does not in time."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise LoadError(problem)
        client.run(LOOK_S)


def await_flow(server: Server, client: LoadClient) -> None:
    """Let the client, which has connected during the pause, read until the flow has begun."""
    before = server.stats()["sequence"]
    read_until(client, lambda: server.stats()["sequence"] > before, "the flow does not begin")


def settled(
    client: LoadClient, lists: Sequence[Sequence[str]], last: Mapping[str, LastTrade]
) -> tuple[int, str]:
    """Read until everybody has the last value of all symbols, or the time for it is over; how many are not there, with
    an example."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        client.run(2 * LOOK_S)
        is_over = time.monotonic() > deadline
        n, example = 0, ""
        for i, symbols in enumerate(lists):
            states = client.streams(i)
            for code in symbols:
                state = states.get(("price_update", code))
                if state is None or (state["seq"], state["price"]) != (last[code].seq, last[code].price):
                    n += 1
                    example = example or f"connection {i} has {state} of {code}, not {last[code]}"
        if not n or is_over:
            return n, example
