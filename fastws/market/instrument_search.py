"""Finds instruments by what somebody types: a code, a name, or parts of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from fastws._market import Instrument
    from fastws.market.instruments import Instruments

# Looked at in a row, which is about a millisecond.
_SLICE: Final = 2000
_N_RANKS: Final = 5


class Found(NamedTuple):
    """The best `instruments` of a search, and how many there are in `total`."""

    instruments: list[Instrument]
    total: int


async def search(table: Instruments, query: str, limit: int, is_shown: Callable[[Instrument], bool]) -> Found:
    """Return up to `limit` instruments that `is_shown` and whose code and name have all the words of `query`.

    First comes the one with this very code, then those whose code begins so, whose name does, one of whose words does,
    and the others; in each of these groups the order is that of the table. Upper and lower case are the same. Without
    words all instruments are found. The loop runs on in between.
    """
    wanted = query.casefold().strip()
    words = wanted.split()
    ranked: list[list[Instrument]] = [[] for _ in range(_N_RANKS)]
    total = 0
    for n, instrument in enumerate(tuple(table), 1):
        if n % _SLICE == 0:
            await asyncio.sleep(0)
        code, name = instrument.code.casefold(), instrument.name.casefold()
        if all(word in code or word in name for word in words) and is_shown(instrument):
            total += 1
            same = ranked[_rank(code, name, wanted)]
            if len(same) < limit:
                same.append(instrument)
    return Found([instrument for same in ranked for instrument in same][:limit], total)


def _rank(code: str, name: str, wanted: str) -> int:
    if code == wanted:
        return 0
    if code.startswith(wanted):
        return 1
    if name.startswith(wanted):
        return 2
    return 3 if f" {wanted}" in name else 4
