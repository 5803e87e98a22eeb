"""What a program has subscribed to, in its own words, and the registrations that this takes. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal, NamedTuple

from fastws.kis.control import NOTICE, PAPER_NOTICE, QUOTE, TICK, Registration, check_code, tr_for
from fastws.kis.registrations import Change, State

DataType = Literal["quote", "tick", "notice"]

_TABLES: Final = {"quote": QUOTE, "tick": TICK}
VENUES: Final[dict[str, tuple[DataType, str]]] = {
    **{tr_id: ("quote", exchange) for exchange, tr_id in QUOTE.items()},
    **{tr_id: ("tick", exchange) for exchange, tr_id in TICK.items()},
    NOTICE: ("notice", ""),
    PAPER_NOTICE: ("notice", ""),
}
"""What the data of a TR is, and of which exchange."""


class Wish(NamedTuple):
    """A subscription as it was asked for. The symbol of notices is the HTS id, their exchange ""."""

    symbol: str
    data_type: DataType
    exchange: str

    @property
    def registration(self) -> Registration:
        return Registration(tr_for(self.exchange, _TABLES[self.data_type]), self.symbol)


class Wishes:
    """The subscriptions of a handler. SOR and UN are two wishes for one registration.

    Changed by one thread; `wanted` may be read by any.
    """

    def __init__(self) -> None:
        self.wanted: frozenset[tuple[str, str]] = frozenset()
        """The registrations of all wishes; replaced, never changed."""
        self._registrations: dict[Wish, Registration] = {}

    def __iter__(self) -> Iterator[tuple[Wish, Registration]]:
        return iter(list(self._registrations.items()))

    def add(self, wish: Wish, registration: Registration) -> None:
        self._registrations[wish] = registration
        self.wanted = frozenset(self._registrations.values())

    def remove(self, wish: Wish) -> Registration | None:
        """Forget a wish; returns its registration when no other wish needs it."""
        registration = self._registrations.pop(wish, None)
        self.wanted = frozenset(self._registrations.values())
        return registration if registration not in self.wanted else None


def read_codes(stock_codes: Iterable[str] | str) -> list[str]:
    """Return the codes of an argument that is one or several. Raises ValueError for a malformed one."""
    codes = [stock_codes] if isinstance(stock_codes, str) else list(stock_codes)
    return [check_code(code) for code in codes]


def explain_waiting(waiting: Iterable[Registration], cap: int) -> str:
    """Say that there is no room for these."""
    names = sorted(_label(item) for item in waiting)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"no free registration: a session of KIS has {cap} at most, so {', '.join(names[:5])}{more} "
        "wait for one; unsubscribe something, or use another app key for them"
    )


def explain_change(change: Change, cap: int, *, is_paper: bool) -> str:
    """Say what has become of a registration, "" when that is good."""
    name = _label(change.registration)
    if change.is_full:
        return (
            f"no free registration: KIS has no room for {name} ({change.code}); it waits for one. "
            f"This session has {cap}"
        )
    if change.state is not State.FAILED:
        return ""
    if not change.code:
        return f"KIS does not answer the request for {name}; it is asked again in some minutes"
    is_unified = VENUES[change.registration.tr_id][1] in ("UN", "NXT")
    hint = "; on paper trading use exchange='KRX'" if is_paper and is_unified else ""
    return f"KIS refuses {name}: {change.text} ({change.code}){hint}"


def _label(registration: Registration) -> str:
    data_type, exchange = VENUES[registration.tr_id]
    return "execution notices" if data_type == "notice" else f"{registration.tr_key} {data_type} {exchange}"
