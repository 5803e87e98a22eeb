"""What happens to a connection to KIS, and how long it waits for what. Sans-IO."""

from __future__ import annotations

from typing import NamedTuple

from fastws.kis.errors import KISConnectionError
from fastws.kis.registrations import Change


class Timing(NamedTuple):
    """How long things take at most and how long is waited, in seconds.

    A connection that brings nothing for `silence`, not even PINGPONG, is dead. Between two tries lie `first_delay` to
    `last_delay` (see `Backoff`), or while another session has the app key `in_use_delay` (drawn between the two), from
    the third time on `slow_delay`; `slow_delay` too where KIS refuses the credentials. Between the end of a socket and
    the next one lies `least_gap` at least: KIS wants a second, from when it has noticed the end.
    """

    connect_timeout: float = 10.0
    silence: float = 75.0
    first_delay: float = 1.0
    last_delay: float = 45.0
    in_use_delay: tuple[float, float] = (60.0, 90.0)
    slow_delay: float = 300.0
    least_gap: float = 1.5


class Opened(NamedTuple):
    """A socket is open; nothing is confirmed on it yet."""


class Live(NamedTuple):
    """The first data or confirmation of this session has come."""

    gap_seconds: float | None
    """Since the last session that was live had ended; None when this is the first."""


class Lost(NamedTuple):
    """The connection could not be made or has ended."""

    error: KISConnectionError
    retry_in: float | None
    """Seconds to the next try; None: there is none."""
    n_failures: int
    """In a row."""


class Changed(NamedTuple):
    """A registration has got into another state."""

    change: Change


Event = Opened | Live | Lost | Changed
