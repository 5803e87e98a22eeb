"""Prices that wait until they can be published. Sans-IO."""

from __future__ import annotations

from typing import NamedTuple

from fastws._market import PriceUpdate


class Waiting(NamedTuple):
    """A price and when it was offered, by the clock of whoever keeps it."""

    update: PriceUpdate
    offered_at: float


def take_expired(waiting: dict[str, Waiting], oldest: float) -> list[str]:
    """Remove what was offered before `oldest`; returns the codes."""
    expired = [code for code, one in waiting.items() if one.offered_at < oldest]
    for code in expired:
        del waiting[code]
    return expired
