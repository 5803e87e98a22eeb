"""Who may hold what: tokens say it, and of portfolios their owners. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from fastws._core import Topic
from fastws.auth import Identity


class Portfolio(Protocol):
    """What is to be known of a portfolio: whose it is."""

    @property
    def id(self) -> int: ...

    @property
    def owner(self) -> str: ...


class PortfolioTable(Protocol):
    """The portfolios that there are; see :class:`fastws.market.portfolios.Portfolios`."""

    def find(self, portfolio_id: int, /) -> Portfolio | None: ...

    def note(self, portfolio_id: int, /) -> None:
        """Have it told from now on when the portfolio comes to another owner."""

    def ensure(self, portfolio_id: int, /) -> Topic:
        """Make the last message of the portfolio's topic the current one."""


class Permits:
    """Decides what a client may hold.

    1. With a token that names what it allows, nothing else.
    2. A portfolio is for its owner only. One that there is not is nobody's: no answer tells the two apart.
    3. Whoever was given a portfolio can be found again when its owner changes, also one who is paused and has had
       no value of it; see :meth:`forget`.
    """

    def __init__(self, portfolios: PortfolioTable) -> None:
        self._portfolios = portfolios
        # No more than there are portfolios: the owner of each that somebody holds, or did.
        self._given: dict[str, str] = {}

    def allows(self, identity: Identity | None, kind: str, target: str) -> bool:
        """Whether one who is `identity` (None: who has not said it) may hold `target`, a text also for a portfolio."""
        if kind != "portfolio":
            return identity is None or identity.allows(kind, target)
        if identity is None or not identity.allows(kind, target):
            return False
        portfolio_id = portfolio_id_of(target)
        portfolio = None if portfolio_id is None else self._portfolios.find(portfolio_id)
        if portfolio is None or portfolio.owner != identity.user_key:
            return False
        self._portfolios.note(portfolio.id)
        self._given[target] = identity.user_key
        return True

    def ensure(self, topics: Iterable[Topic]) -> None:
        """Make the portfolios among `topics` current. Before they are subscribed to, or they would come twice."""
        for topic in topics:
            if topic.kind == "portfolio":
                portfolio_id = portfolio_id_of(topic.name)
                if portfolio_id is not None and self._portfolios.find(portfolio_id) is not None:
                    self._portfolios.ensure(portfolio_id)

    def forget(self, portfolio_ids: Iterable[int]) -> set[str]:
        """Note that portfolios have other owners now, or are gone; returns the users who may still hold one."""
        users = (self._given.pop(str(portfolio_id), None) for portfolio_id in portfolio_ids)
        return {user for user in users if user is not None}


def portfolio_id_of(target: str) -> int | None:
    """The id that a text names; None: it is none, or not spelled as ids are."""
    # The length keeps int() from working on whatever a client sends.
    if not (0 < len(target) <= 19 and target.isascii() and target.removeprefix("-").isdigit()):
        return None
    portfolio_id = int(target)
    return portfolio_id if str(portfolio_id) == target else None
