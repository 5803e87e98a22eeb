"""What the KIS feed has to tell in ``/metrics``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastws.feeds.base import Figure
from fastws.feeds.kis.rest import total
from fastws.kis.registration import State

if TYPE_CHECKING:
    from fastws.feeds.kis.feed import KISFeed


def figures_of(feed: KISFeed) -> Iterator[Figure]:
    """The figures of a feed."""
    sessions = feed.sessions
    n_live = sum(session.is_live for session in sessions)
    # One that nothing is wanted of brings nothing, and is not away for that.
    n_idle = sum(session.is_well and not session.is_live for session in sessions)
    yield Figure(
        "gauge", "kis_sessions", "app keys by the state of their session",
        {"live": n_live, "idle": n_idle, "away": len(sessions) - n_live - n_idle}, ("state",),
    )  # fmt: skip
    counts = [session.counts() for session in sessions]
    yield Figure(
        "gauge", "kis_registrations", "registrations that are wanted of KIS",
        {str(state): sum(each[state] for each in counts) for state in State}, ("state",),
    )  # fmt: skip
    yield Figure(
        "gauge", "kis_symbols", "symbols by how their prices come",
        {"realtime": len(feed.allocation), "polled": len(feed.plan)}, ("quality",),
    )  # fmt: skip
    yield Figure(
        "gauge",
        "kis_waiting",
        "symbols that are wanted and have no registration",
        len(feed.allocation.waiting),
    )
    yield Figure(
        "counter", "kis_reconnects", "connections to KIS that were lost and are back",
        sum(session.n_reconnects for session in sessions),
    )  # fmt: skip
    yield Figure(
        "counter", "kis_gaps", "symbols that had trades while KIS was away", feed.publisher.outages.n_gaps
    )
    yield Figure(
        "counter", "kis_lost_volume", "shares traded while KIS was away", feed.publisher.outages.lost_volume
    )
    yield Figure(
        "counter", "kis_frames", "data frames from KIS",
        sum(session.connection.n_frames for session in sessions),
    )  # fmt: skip
    yield Figure(
        "counter", "kis_bad_frames", "messages from KIS that cannot be read",
        sum(session.connection.n_bad for session in sessions) + feed.publisher.n_bad,
    )  # fmt: skip
    yield Figure(
        "counter", "kis_duplicates", "prices that KIS sent again, or too late", feed.publisher.n_duplicates
    )
    yield Figure("counter", "kis_polls", "calls of KIS's REST interface", total(feed.pollers), ("outcome",))
