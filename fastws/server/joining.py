"""How a server is joined to others: over which link, and under which name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from fastws._core import Dialect, Hub
from fastws.market.market import Market
from fastws.relay.address import parse_address
from fastws.relay.naming import instance_name
from fastws.relay.pair_links import ADDRESS as PAIR
from fastws.relay.pair_links import PairLink
from fastws.relay.worker_links import ADDRESS as WORKERS
from fastws.relay.worker_links import WorkerLink
from fastws.server.workers import Worker
from fastws.settings import Settings

if TYPE_CHECKING:
    from fastws.relay.relay import Relay


def make_relay(
    settings: Settings,
    hub: Hub,
    market: Market,
    dialect: Dialect,
    *,
    worker: Worker | None,
    place: tuple[str, int] | None,
    wanted: Callable[[], Iterable[str]],
) -> Relay | None:
    """The relay to other instances, to the other workers, or to whoever takes over; None for who is always alone.

    `place` is where the server listens by its own settings, if it does: one of its name. `wanted` says which codes are
    looked at here.
    """
    if settings.relay is None and worker is None and settings.upgrade_socket is None:
        return None
    # They take 60 ms, for those who are not alone.
    from fastws.relay.detour_links import DetourLink  # noqa: PLC0415
    from fastws.relay.relay import Relay  # noqa: PLC0415

    link: dict[str, Any] = {}
    address = WORKERS if settings.relay is None else parse_address(settings.relay)
    if settings.relay is None and worker is not None:
        link = {"link": partial(WorkerLink, worker.end)}
    elif settings.relay is None:
        link, address = {"link": PairLink}, PAIR
    elif worker is None and settings.upgrade_socket is not None:
        link = {"link": partial(DetourLink, address)}
    of = "" if worker is None else f" worker {worker.number}"
    return Relay(
        hub,
        market,
        dialect,
        address,
        name=instance_name(settings.relay_name, place) + of,
        prefix=settings.relay_prefix,
        n_shards=settings.relay_shards,
        interval_ms=settings.relay_interval_ms,
        history_bytes=settings.relay_history_bytes,
        wanted=wanted,
        linger=settings.session_ttl,
        **link,
    )
