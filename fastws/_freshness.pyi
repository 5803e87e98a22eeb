"""How often each symbol is usually updated, and which have been silent for longer than that can be. Sans-IO.

Symbols are numbered 0, 1, … in the order of adding. Times are seconds of the monotonic clock. Everything belongs to the
thread of the event loop.
"""

from collections.abc import Iterable
from typing import Final, final

import numpy as np
import numpy.typing as npt

from fastws._core import Channel

N_KINDS: Final[int]
"""Kinds of sessions; each has a cadence of its own."""

@final
class Cadences:
    """The cadences of symbols: 64 bytes for each, one look for all.

    1. A symbol is silent from its last update, or from the begin of the session if that is later. It is stale when it
       has been silent for longer than its limit: 10 times its typical interval, and more while few were seen, or
       twice its longest one of late, whichever is longer, and `least` at least.
    2. The typical interval is that which a random moment lies in: the mean, weighted by the intervals' lengths. Of
       independent arrivals it is twice the mean; a rush and bursts count as long as they last and not as often as
       something comes in them.
    3. A symbol is judged once `learning` seconds and 20 intervals of it were seen within sessions of the kind, and not
       at all where its limit is over `most`: of what is updated so seldom silence says nothing.
    4. Only intervals that lie within one session count, for half after an hour, and as long as the limit was and no
       longer: after a false alarm it doubles. One of more than twice the limit that comes later than 10 limits after
       the last such one is an outage and teaches nothing, so the next one is noticed as early. What comes sooner is
       how the symbol is. The same holds before it is judged, by the limit that it would have.
    5. What happened between two looks is known by its number and the time of the last; of the first interval that part
       is known that was over at the last look.

    Raises ValueError unless 0 < `least` <= `most` and 0 <= `learning` <= 3600.
    """

    def __init__(self, *, least: float, most: float, learning: float) -> None: ...
    @property
    def least(self) -> float: ...
    @property
    def most(self) -> float: ...
    @property
    def learning(self) -> float: ...
    @property
    def n(self) -> int: ...
    @property
    def n_stale(self) -> int: ...
    @property
    def n_judged(self) -> int:
        """Symbols whose silence would be noticed."""
    def configure(self, *, least: float, most: float, learning: float) -> None:
        """Set other limits; they hold from the next look on."""
    def add(self, n: int, now: float) -> None:
        """Take `n` more symbols, of which nothing is known. They are in no session yet."""
    def enter(self, symbols: Iterable[int], kind: int, now: float) -> None:
        """Let a session of `kind` (0, 1; -1: none) begin for `symbols`. None of them is stale then."""
    def excuse(self, symbol: int, now: float) -> None:
        """There is a reason for the silence of a symbol until now; it counts from here on, and teaches nothing."""
    def stand_still(self, seconds: float) -> None:
        """Leave out `seconds` that have just passed, in which nothing could be taken. ValueError below 0."""
    def look(
        self, seq: npt.NDArray[np.int64], at: npt.NDArray[np.float64], now: float
    ) -> tuple[list[int], list[int]]:
        """Take how often each symbol was updated and when it was last; return those that are stale from now on, and
        those that are no longer.

        To be called about once a second. The first look at a symbol only notes its number.
        """
    def silence(self, symbol: int, now: float) -> float:
        """How long a symbol has been silent, as it counts."""
    def interval(self, symbol: int) -> float | None:
        """The mean interval of a symbol in a session such as there is; None where it is not known."""
    def limit(self, symbol: int) -> float | None:
        """After how much silence a symbol is stale; None where it is not judged."""
    def is_stale(self, symbol: int) -> bool: ...

@final
class Sampler:
    """Reads off the channels of symbols what has been published."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def add(self, prices: Channel, books: Channel) -> None:
        """Take one more symbol."""
    def read(
        self, seq: npt.NDArray[np.int64], at: npt.NDArray[np.float64], lags: npt.NDArray[np.float32]
    ) -> int:
        """Bring `seq`, the number of updates of each symbol, and `at`, when the last of them was published, up to now.

        `lags` gets how long after the exchange's time the last price was received, seconds, for symbols with a new one
        that was pushed and says its time, one after another; returns how many. The arrays have room for all symbols.
        """
