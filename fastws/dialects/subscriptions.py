"""What a screener client is subscribed to: the requests about it. Sans-IO."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import UNSET, UnsetType

from fastws import messages
from fastws._core import CHANNEL_ORDERBOOK, CHANNEL_PRICE, Connection, Hub, Options, Topic
from fastws.dialects import answers
from fastws.dialects.clients import Client
from fastws.dialects.targets import Held, Targets
from fastws.messages import Rejected, RequestId

# For overview pages: newest values only, five times a second.
GROUP_MAX_RATE: Final = 5.0

_CHANNEL_BITS: Final = {"price": CHANNEL_PRICE, "orderbook": CHANNEL_ORDERBOOK}


class Subscriptions:
    """Does what clients ask about their subscriptions, and answers."""

    def __init__(self, hub: Hub, targets: Targets) -> None:
        self.hub = hub
        self.targets = targets
        self._options = {
            "stock": hub.options(),
            "market": hub.options(max_rate=GROUP_MAX_RATE),
            "sector": hub.options(max_rate=GROUP_MAX_RATE),
            "portfolio": hub.options(latest=True, channels=CHANNEL_PRICE),
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
        if request.subscription_type == "portfolio" and request.mode == "all":
            answers.invalid(connection, "portfolios have mode latest only - at `$.mode`", request.id)
            return
        self.targets.charge(client, request.targets)
        held = connection.subscriptions()
        options = self._options_of(request)
        accepted: Held = {}
        kind = request.subscription_type
        rejected = self.targets.accept(held, kind, request.targets, options, accepted, client.identity)
        if not accepted:
            answers.error(
                connection, *self.targets.refusal(kind, len(held), rejected, client.identity), request.id
            )
            return
        if not request.has_options:
            # Said again without options, a subscription stays as it is.
            accepted = {topic: held.get(topic, options) for topic in accepted}
        self.targets.hold(client, held | accepted)
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
            self.targets.send_snapshot(client, accepted.items())

    def unsubscribe(self, client: Client, request: messages.Unsubscribe) -> None:
        connection = client.connection
        self.targets.charge(client, request.targets)
        held = connection.subscriptions()
        for target in request.targets:
            topic = self.hub.find_topic(request.subscription_type, target)
            if topic is not None:
                held.pop(topic, None)
        self.targets.hold(client, held)
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
            self.targets.charge(client, targets)
            options = self._options[kind]
            rejected += self.targets.accept(wanted, kind, targets, options, wanted, client.identity)
        wanted = {topic: held.get(topic, options) for topic, options in wanted.items()}
        self.targets.hold(client, wanted)
        self.show(connection, rejected, request.id)
        added = [(topic, options) for topic, options in wanted.items() if topic not in held]
        if added and not connection.is_paused:
            self.targets.send_snapshot(client, added)

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

    def _options_of(self, request: messages.Subscribe) -> Options:
        default = self._options[request.subscription_type]
        channels = default.channels
        if request.channels is not UNSET and request.subscription_type != "portfolio":
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
