"""The server's side of the C API: what threads of other extensions publish goes into the market.

`_C_API` is the capsule that include/fastws.h imports.
"""

import asyncio
from collections.abc import Callable
from typing import Self, final

from fastws.market.market import Market

@final
class Inlet:
    """A bounded ring that any thread fills without the GIL, and that the event loop empties into `market`.

    `size` (bytes) is rounded up to a power of two. ``publish_json(data)`` publishes an object as POST /v1/publish takes
    it, and raises where it cannot; ``on_rejected(error)`` is told of every publication that could not be done. All of
    it belongs to the thread of the loop, but for `intern` and the counts, which any thread may call with the GIL.

    Raises ValueError for a `size` under 256 KiB, MemoryError when there is none for it.
    """

    loop: asyncio.AbstractEventLoop
    market: Market
    def __new__(
        cls,
        loop: asyncio.AbstractEventLoop,
        market: Market,
        *,
        publish_json: Callable[[bytes], object],
        on_rejected: Callable[[Exception], object],
        size: int,
    ) -> Self: ...
    @property
    def __fastws_inlet__(self) -> Inlet: ...
    def intern(self, code: str) -> int:
        """Return the number of an instrument's code, which C publishes under.

        Raises ValueError for a code that cannot be one, and when there are as many as a server takes.
        """
    def counts(self) -> dict[str, int]:
        """Publications so far.

        `taken` from the ring, which are `published`, `rejected` and `undelivered`; refused before that: `full` and
        `invalid`.
        """
    @property
    def waiting_bytes(self) -> int:
        """What is in the ring, heads included."""
    def drain(self) -> None: ...
    def close(self) -> int:
        """Take nothing any more, publish what waits, and return how many publications are left undelivered."""
    def count_subscribers(self) -> None: ...
    def subscribers_of(self, known: object) -> int: ...
