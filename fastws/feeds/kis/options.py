"""What can be chosen of the KIS feed."""

from __future__ import annotations

from typing import NamedTuple


class KISOptions(NamedTuple):
    """How the feed goes about it; durations in seconds.

    `exchange` is KRX, NXT or UN (SOR is UN); "auto" is UN, and in paper trading, which has no other, KRX. A session has
    up to `registrations` of them, two for a symbol, or one without books. `min_dwell` is how long a symbol keeps its
    place at least. `poll_rate` is calls a second and app key (None: 15, in paper trading 0.8; 0 polls nothing), and
    `poll_interval` what lies at least between two polls of a symbol.
    """

    exchange: str = "auto"
    has_books: bool = True
    registrations: int = 40
    min_dwell: float = 60.0
    poll_rate: float | None = None
    poll_interval: float = 1.0
