"""Who wants the prices of what: for feeds that cannot bring all there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from fastws._core import Hub
    from fastws.market.instruments import Instruments


class Interest(NamedTuple):
    """How many want a symbol: `n_viewers` connections that have subscribed to it, and `n_others` that want its whole
    market or sector, or wait for its price without looking."""

    n_viewers: int
    n_others: int


NO_INTEREST: Final = Interest(0, 0)


def find_interest(hub: Hub, instruments: Instruments, awaited: Iterable[str] = ()) -> dict[str, Interest]:
    """Return what is wanted now, by code; a code of `awaited` is wanted by one more.

    It reads the hub's topics and costs nothing in between: subscribing and publishing know nothing of it. About a
    millisecond for 2,500 symbols, so ask for it now and then.
    """
    viewers: dict[str, int] = {}
    others: dict[str, int] = dict.fromkeys(awaited, 1)
    for (kind, name), topic in list(hub.topics.items()):
        n = topic.n_subscribers
        if n == 0:
            continue
        if kind == "stock":
            viewers[name] = n
        elif kind in ("market", "sector"):
            members = (
                instruments.members_of_market(name)
                if kind == "market"
                else instruments.members_of_sector(name)
            )
            for instrument in members:
                others[instrument.code] = others.get(instrument.code, 0) + n
    return {
        code: Interest(viewers.get(code, 0), others.get(code, 0))
        for code in dict.fromkeys((*viewers, *others))
    }
