"""A client of the realtime dialect: the newest prices of symbols, and the values of portfolios.

::

    async with RealtimeClient("ws://127.0.0.1:8000", token=token) as client:
        await client.subscribe("asset", ["AAPL", "MSFT"])
        await client.subscribe("portfolio", [123])
        async for message in client:
            match message:
                case AssetUpdate(symbol=symbol, price=price): ...
                case PortfolioUpdate(total_value=value): ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from fastws.client.backoff import Backoff, Reconnection
from fastws.client.base import BaseClient, Options
from fastws.client.errors import UsageError
from fastws.client.link import refusal
from fastws.client.messages import Rejected
from fastws.client.realtime_messages import (
    Alert,
    AssetUpdate,
    FeedStatus,
    Message,
    PortfolioUpdate,
    SymbolStatus,
)
from fastws.client.realtime_session import Outcome, RealtimeSession, Target

__all__ = [
    "Accepted",
    "Alert",
    "AssetUpdate",
    "FeedStatus",
    "Message",
    "PortfolioUpdate",
    "RealtimeClient",
    "SymbolStatus",
]


class Accepted(NamedTuple):
    """The targets that are held now, and those that the server refused, with its reasons."""

    targets: list[Target]
    rejected: list[Rejected]


class RealtimeClient(BaseClient[Message]):
    """A connection of the realtime dialect that lives on over interruptions.

    It lives, and gives its messages, as `fastws.client.Client` does, whose parameters it has; `url` without a path gets
    that of this dialect. There are no sessions: after an interruption `Restored(recovered=False)` comes, and then
    the last values of everything that is held. Nothing comes but newest values, so nothing that is passed over is told.
    """

    def __init__(self, url: str, *, backoff: Backoff | None = None, **options: Unpack[Options]) -> None:
        self._session = RealtimeSession(Reconnection(backoff or Backoff()))
        super().__init__(self._session, "/ws/realtime/", url, **options)

    @property
    def subscriptions(self) -> dict[str, list[Target]]:
        """The targets that are held: symbols of "asset", ids of "portfolio"."""
        found: dict[str, list[Target]] = {}
        for kind, target in self._session.held:
            found.setdefault(kind, []).append(target)
        return found

    async def subscribe(self, kind: str, targets: Sequence[Target]) -> Accepted:
        """Begin to receive the values of targets, the last known ones first.

        Parameters:
            kind: "asset" for symbols, "portfolio" for ids (int) of the user's own portfolios.

        Raises UsageError, RequestError when none of the targets was accepted, RequestTimeoutError, ClosedError.
        """
        _check(kind, targets)
        self._check_open()
        outcomes: list[Outcome] = await self._answers(self._session.subscribe(kind, targets))
        accepted = Accepted([], [])
        for outcome in outcomes:
            accepted.targets.extend(outcome.targets)
            accepted.rejected.extend(outcome.rejected)
        errors = [outcome.error for outcome in outcomes if outcome.error is not None]
        if errors and not accepted.targets:
            raise refusal(errors[0])
        return accepted

    async def unsubscribe(self, kind: str, targets: Sequence[Target]) -> None:
        """Receive nothing more about targets; those not held count as done. Raises as `subscribe`."""
        _check(kind, targets)
        self._check_open()
        outcomes: list[Outcome] = await self._answers(self._session.unsubscribe(kind, targets))
        for outcome in outcomes:
            if outcome.error is not None:
                raise refusal(outcome.error)


def _check(kind: str, targets: Sequence[Target]) -> None:
    if kind not in ("asset", "portfolio"):
        raise UsageError(f'kind: expected "asset" or "portfolio", not {kind!r}')
    if isinstance(targets, (str, bytes)):
        raise UsageError(f"targets: expected a list; write [{targets!r}]")
    if not targets:
        raise UsageError("targets: it is empty; name at least one")
    for target in targets:
        if kind == "portfolio" and (not isinstance(target, int) or isinstance(target, bool)):
            raise UsageError(f"targets: expected ids of portfolios, which are integers, not {target!r}")
        if kind == "asset" and not (isinstance(target, str) and 1 <= len(target) <= 64):
            raise UsageError(f"targets: expected texts of 1 to 64 characters, not {target!r}")
