"""What clients can subscribe to, and what they are given of it; the same in every dialect. Sans-IO."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Final, Protocol

from fastws._core import Hub, Options, Topic
from fastws.auth import Identity
from fastws.dialects.clients import Client
from fastws.dialects.permits import Permits
from fastws.errors import ErrorCode
from fastws.market.instruments import MAX_INSTRUMENTS
from fastws.market.market import Market
from fastws.messages import Rejected

_SYMBOL: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:/-]{0,31}")
# A request that names more targets counts as several against the rate limit: it is the work that is limited.
_TARGETS_PER_MESSAGE: Final = 100
# So do values in a snapshot.
_VALUES_PER_MESSAGE: Final = 100
_CHANNELS_PER_STOCK: Final = 2
# By itself, by its market and by its sector.
_WAYS_TO_STOCK: Final = 3

Held = dict[Topic, Options]


class Elsewhere(Protocol):
    """Other instances, whose prices are to be heard of here before somebody subscribes to them."""

    def missing(self, kind: str, names: Iterable[str], /) -> frozenset[int]:
        """Listen for topics from now on; returns what is to be waited for, which may be nothing."""

    def when_heard(self, missing: frozenset[int], then: Callable[[], None], /) -> None:
        """Call `then` once nothing of `missing` is missing, and in any case soon."""


class Targets:
    """Finds the topics of what clients name.

    1. A connection holds at most `limit` topics; those that it held when the limit was lowered stay.
    2. It is subscribed only to what it may hold; see `Permits`.
    3. Snapshots cost what they are large; see :meth:`send_snapshot`.
    4. Targets that cannot be had are told one by one and keep no other from being had.
    """

    def __init__(
        self, hub: Hub, market: Market, permits: Permits, *, limit: int, accept_unknown_symbols: bool
    ) -> None:
        self.hub = hub
        self.market = market
        self.permits = permits
        self.limit = limit
        # None where this instance is alone.
        self.elsewhere: Elsewhere | None = None
        self.accept_unknown_symbols = accept_unknown_symbols

    def accept(
        self,
        held: Held,
        kind: str,
        targets: Iterable[str],
        options: Options,
        accepted: Held,
        identity: Identity | None,
    ) -> list[Rejected]:
        """Add the topics of `targets` to `accepted`, in order; returns those refused. `held` counts to the limit."""
        rejected = []
        n_held = len(held)
        for target in dict.fromkeys(targets):
            topic = self._topic(kind, target, identity)
            if isinstance(topic, str):
                rejected.append(Rejected(target, topic))
            elif topic in held or topic in accepted:
                accepted[topic] = options
            elif n_held >= self.limit:
                rejected.append(Rejected(target, "limit"))
            else:
                accepted[topic] = options
                n_held += 1
        return rejected

    def restorable(self, held: Held, wanted: Held, identity: Identity | None) -> Held:
        """What of `wanted`, which another connection held, one that holds `held` can have besides.

        The token may be another one than that of the other connection, and allow less.
        """
        if self.elsewhere is not None:
            # What is not heard yet comes as live updates.
            for topic in wanted:
                self.elsewhere.missing(topic.kind, (topic.name,))
        room = max(0, self.limit - len(held))
        allowed = [
            (topic, options)
            for topic, options in wanted.items()
            if topic not in held and self.permits.allows(identity, topic.kind, topic.name)
        ]
        return dict(allowed[:room])

    def hold(self, client: Client, wanted: Held, *, is_paused: bool | None = None) -> None:
        """Let a client hold exactly `wanted` from now on; see `Connection.set_subscriptions`."""
        if not (client.connection.is_paused if is_paused is None else is_paused):
            self.permits.ensure(wanted)
        client.connection.set_subscriptions(wanted, is_paused)
        client.speaker.note_held(client)

    def charge(self, client: Client, targets: Collection[str]) -> None:
        """Count a request by the targets that it names."""
        client.connection.charge(len(targets) // _TARGETS_PER_MESSAGE)

    def send_snapshot(self, client: Client, topics: Collection[tuple[Topic, Options]]) -> None:
        """Send the last values of topics, which counts to the rate limit once a client has had everything.

        So a client that subscribes to all there is, by stock, by market and by sector, is charged nothing for it, and
        one that has snapshots sent over and over is.
        """
        size = sum(len(topic.channels) for topic, _ in topics)
        free = _CHANNELS_PER_STOCK * _WAYS_TO_STOCK * len(self.market.instruments)
        excess = min(size, client.n_in_snapshots + size - free)
        client.n_in_snapshots += size
        if excess > 0:
            # Never so much that what usually follows is over the limit.
            client.connection.charge(min(excess // _VALUES_PER_MESSAGE, self.hub.rate_limit // 2))
        client.connection.send_snapshot(topics)

    def refusal(
        self, kind: str, n_held: int, rejected: list[Rejected], identity: Identity | None
    ) -> tuple[ErrorCode, str, dict[str, object]]:
        """Why targets could not be had, none of those that are not in `rejected`: code, text and details."""
        details: dict[str, object] = {"rejected": rejected}
        if any(item.reason == "limit" for item in rejected):
            text = f"A connection may hold {self.limit} subscriptions; unsubscribe from some first"
            details = {"limit": self.limit, "current": n_held, "rejected": rejected}
            return ErrorCode.LIMIT_EXCEEDED, text, details
        if all(item.reason == "forbidden" for item in rejected):
            text = "The token does not allow any of the targets"
            if kind == "portfolio" and identity is not None:
                text = "You have no such portfolio"
            elif kind == "portfolio":
                text = "Portfolios are for their owners, with a token or a session that says who they are"
            return ErrorCode.FORBIDDEN, text, details
        names = ", ".join(item.target for item in rejected[:5]) + (", …" if len(rejected) > 5 else "")
        return ErrorCode.SUBSCRIPTION_FAILED, f"What could not be subscribed to: {names}", details

    def _topic(self, kind: str, target: str, identity: Identity | None) -> Topic | str:
        """The topic of a target, or why there is none."""
        if not self.permits.allows(identity, kind, target):
            return "forbidden"
        if kind == "stock":
            if self.market.instrument(target) is None:
                if not self.accept_unknown_symbols or _SYMBOL.fullmatch(target) is None:
                    return "unknown symbol"
                if len(self.market.instruments) >= MAX_INSTRUMENTS:
                    return "too many symbols"
                self.market.ensure_instrument(target)
        elif kind == "market":
            if target not in self.market.instruments.markets:
                return "unknown market"
        elif kind == "sector" and target not in self.market.instruments.sectors:
            return "unknown sector"
        return self.hub.topic(kind, target)
