"""What a screener client is subscribed to: the requests about it, and the topics of targets. Sans-IO."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from msgspec import UNSET, UnsetType

from fastws import messages
from fastws._core import CHANNEL_ORDERBOOK, CHANNEL_PRICE, Connection, Hub, Options, Topic
from fastws.auth import Identity
from fastws.dialects import answers
from fastws.dialects.clients import Client
from fastws.errors import ErrorCode
from fastws.market.instruments import MAX_INSTRUMENTS
from fastws.market.market import Market
from fastws.messages import Rejected, RequestId

# For overview pages: newest values only, five times a second.
GROUP_MAX_RATE: Final = 5.0

_CHANNEL_BITS: Final = {"price": CHANNEL_PRICE, "orderbook": CHANNEL_ORDERBOOK}
_SYMBOL: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._:/-]{0,31}")
# A request that names more targets counts as several against the rate limit: it is the work that is limited.
_TARGETS_PER_MESSAGE: Final = 100
# So do values in a snapshot.
_VALUES_PER_MESSAGE: Final = 100
_CHANNELS_PER_STOCK: Final = 2

Held = dict[Topic, Options]


class Subscriptions:
    """Does what clients ask about their subscriptions, and answers.

    1. A connection holds at most `limit` topics; those that it held when the limit was lowered stay.
    2. It is subscribed only to what its token allows.
    3. Snapshots cost what they are large; see :meth:`send_snapshot`.
    4. Targets that cannot be had are told one by one and keep no other from being had.
    """

    def __init__(self, hub: Hub, market: Market, *, limit: int, accept_unknown_symbols: bool) -> None:
        self.hub = hub
        self.market = market
        self.limit = limit
        self.accept_unknown_symbols = accept_unknown_symbols
        self._options = {
            "stock": hub.options(),
            "market": hub.options(max_rate=GROUP_MAX_RATE),
            "sector": hub.options(max_rate=GROUP_MAX_RATE),
        }

    def subscribe(self, client: Client, request: messages.Subscribe) -> None:
        connection = client.connection
        if request.mode == "all" and request.max_rate is not UNSET:
            answers.invalid(
                connection,
                'implies mode "latest", and mode is "all": leave out one - at `$.max_rate`',
                request.id,
            )
            return
        connection.charge(len(request.targets) // _TARGETS_PER_MESSAGE)
        held = connection.subscriptions()
        options = self._options_of(request)
        accepted: Held = {}
        rejected = self._accept(
            held, request.subscription_type, request.targets, options, accepted, client.identity
        )
        if not accepted:
            self._refuse(connection, len(held), rejected, request.id)
            return
        if not request.has_options:
            # Said again without options, a subscription stays as it is.
            accepted = {topic: held.get(topic, options) for topic in accepted}
        connection.set_subscriptions(held | accepted)
        has_snapshot = request.snapshot and not connection.is_paused
        answers.reply(
            connection,
            messages.Subscribed(
                subscription_type=request.subscription_type,
                targets=[topic.name for topic in accepted],
                rejected=rejected or UNSET,
                timestamp=answers.now(),
                id=request.id,
            ),
            is_followed=has_snapshot,
        )
        if has_snapshot:
            self.send_snapshot(client, accepted.items())

    def unsubscribe(self, connection: Connection, request: messages.Unsubscribe) -> None:
        connection.charge(len(request.targets) // _TARGETS_PER_MESSAGE)
        held = connection.subscriptions()
        for target in request.targets:
            topic = self.hub.find_topic(request.subscription_type, target)
            if topic is not None:
                held.pop(topic, None)
        connection.set_subscriptions(held)
        answers.reply(
            connection,
            messages.Unsubscribed(
                subscription_type=request.subscription_type,
                targets=request.targets,
                timestamp=answers.now(),
                id=request.id,
            ),
        )

    def replace(self, client: Client, request: messages.SetSubscriptions) -> None:
        connection = client.connection
        held = connection.subscriptions()
        wanted: Held = {}
        rejected: list[Rejected] = []
        for kind, targets in request.subscriptions.items():
            connection.charge(len(targets) // _TARGETS_PER_MESSAGE)
            rejected += self._accept(wanted, kind, targets, self._options[kind], wanted, client.identity)
        wanted = {topic: held.get(topic, options) for topic, options in wanted.items()}
        connection.set_subscriptions(wanted)
        self.show(connection, rejected, request.id)
        added = [(topic, options) for topic, options in wanted.items() if topic not in held]
        if added and not connection.is_paused:
            self.send_snapshot(client, added)

    def send_snapshot(self, client: Client, topics: Collection[tuple[Topic, Options]]) -> None:
        """Send the last values of topics, which counts to the rate limit once a client has had everything.

        So a client that subscribes to all there is, by stock, by market and by sector, is charged nothing for it, and
        one that has snapshots sent over and over is.
        """
        size = sum(len(topic.channels) for topic, _ in topics)
        free = _CHANNELS_PER_STOCK * len(self._options) * len(self.market.instruments)
        excess = min(size, client.n_in_snapshots + size - free)
        client.n_in_snapshots += size
        if excess > 0:
            # Never so much that what usually follows is over the limit.
            client.connection.charge(min(excess // _VALUES_PER_MESSAGE, self.hub.rate_limit // 2))
        client.connection.send_snapshot(topics)

    def show(
        self, connection: Connection, rejected: list[Rejected], request_id: RequestId | UnsetType
    ) -> None:
        """Answer with what a connection holds."""
        by_kind = self.by_kind(connection.subscriptions())
        answers.reply(
            connection,
            messages.Subscriptions(
                subscriptions=by_kind, rejected=rejected, timestamp=answers.now(), id=request_id
            ),
        )

    def by_kind(self, topics: Iterable[Topic]) -> dict[str, list[str]]:
        """The names of topics as messages list them."""
        names: dict[str, list[str]] = {kind: [] for kind in self._options}
        for topic in topics:
            names[topic.kind].append(topic.name)
        return {kind: found for kind, found in names.items() if found}

    def restorable(self, held: Held, wanted: Held, identity: Identity | None) -> Held:
        """What of `wanted`, which another connection held, one that holds `held` can have besides.

        The token may be another one than that of the other connection, and allow less.
        """
        room = max(0, self.limit - len(held))
        allowed = [
            (topic, options)
            for topic, options in wanted.items()
            if topic not in held and (identity is None or identity.allows(topic.kind, topic.name))
        ]
        return dict(allowed[:room])

    # Targets.

    def _options_of(self, request: messages.Subscribe) -> Options:
        default = self._options[request.subscription_type]
        channels = default.channels
        if request.channels is not UNSET:
            channels = 0
            for name in request.channels:
                channels |= _CHANNEL_BITS[name]
        if request.mode == "all":
            return self.hub.options(channels=channels)
        if request.max_rate is not UNSET:
            return self.hub.options(max_rate=request.max_rate, channels=channels)
        return self.hub.options(
            latest=request.mode == "latest" or default.latest, max_rate=default.max_rate, channels=channels
        )

    def _accept(
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

    def _topic(self, kind: str, target: str, identity: Identity | None) -> Topic | str:
        """The topic of a target, or why there is none."""
        if identity is not None and not identity.allows(kind, target):
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
        elif target not in self.market.instruments.sectors:
            return "unknown sector"
        return self.hub.topic(kind, target)

    def _refuse(
        self, connection: Connection, n_held: int, rejected: list[Rejected], request_id: RequestId | UnsetType
    ) -> None:
        """Say why none of the targets could be had."""
        details: dict[str, object] = {"rejected": rejected}
        if any(item.reason == "limit" for item in rejected):
            code = ErrorCode.LIMIT_EXCEEDED
            text = f"A connection may hold {self.limit} subscriptions; unsubscribe from some first"
            details = {"limit": self.limit, "current": n_held, "rejected": rejected}
        elif all(item.reason == "forbidden" for item in rejected):
            code = ErrorCode.FORBIDDEN
            text = "The token does not allow any of the targets"
        else:
            code = ErrorCode.SUBSCRIPTION_FAILED
            names = ", ".join(item.target for item in rejected[:5]) + (", …" if len(rejected) > 5 else "")
            text = f"None of the targets could be subscribed to: {names}"
        answers.error(connection, code, text, details, request_id)
