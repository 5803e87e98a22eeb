"""Makes sessions of this instance from what others say of theirs. Sans-IO."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import Final

import msgspec
import structlog

from fastws._core import (
    CHANNEL_ORDERBOOK,
    CHANNEL_PRICE,
    CHANNEL_STATUS,
    Channel,
    Hub,
    Options,
    Topic,
)
from fastws._relay import is_json_members
from fastws.dialects.clients import Arrival, Client
from fastws.logs import log_limited
from fastws.market.alert_messages import Alert
from fastws.market.instruments import MAX_INSTRUMENTS
from fastws.market.market import Market
from fastws.relay.peer_sessions import Left
from fastws.relay.session_messages import (
    MAX_MOVES,
    Group,
    HandedAlert,
    Mark,
    SessionAnswer,
    read_answer,
    read_groups,
)
from fastws.sessions import HandedState, Session

_MESSAGES: Final = {
    CHANNEL_PRICE: "price_update",
    CHANNEL_ORDERBOOK: "orderbook_update",
    CHANNEL_STATUS: "market_status",
}

_log = structlog.get_logger("fastws.relay")


class MovedSessions:
    """Knows the topics and channels here that others name."""

    def __init__(self, hub: Hub, market: Market) -> None:
        self.hub = hub
        self.market = market

    def make(
        self,
        session_id: str,
        client: Client,
        groups: Iterable[Group],
        *,
        is_paused: bool,
        moves: int,
        heard: int,
        handed: HandedState,
        was_open: bool,
    ) -> Session:
        """The session that `client` has come with. `moves`: how often it had gone to another instance before."""
        return Session(
            session_id=session_id,
            user_key=client.user_key,
            subscriptions=self.subscriptions(groups),
            is_paused=is_paused,
            cursor=-1,
            epoch=self.hub.epoch,
            saved_at=time.monotonic(),
            heard=heard,
            address_key=client.arrival.address_key,
            moves=min(moves + 1, MAX_MOVES),
            is_moved=True,
            handed=handed,
            was_open=was_open,
        )

    def subscriptions(self, groups: Iterable[Group]) -> dict[Topic, Options]:
        """What these are here; what cannot be held here is left out."""
        subscriptions: dict[Topic, Options] = {}
        for group in groups:
            options = self.hub.options(latest=group.latest, max_rate=group.max_rate, channels=group.channels)
            for name in group.names:
                if (topic := self._topic(group.kind, name)) is not None:
                    subscriptions[topic] = options
        return subscriptions

    def marks(self, marks: Iterable[Mark]) -> list[tuple[Channel, int, int]] | None:
        """See `Hub.starts`; None: they name a symbol that is not here."""
        try:
            return [
                (self.market.channel_of(_MESSAGES[mark.bit], mark.code), mark.first, mark.last)
                for mark in marks
            ]
        except ValueError:
            return None

    def has_others(
        self, subscriptions: dict[Topic, Options], marks: Collection[tuple[Channel, int, int]]
    ) -> bool:
        """Whether there are updates of channels held in mode `all` of which nobody has told anything."""
        marked = {channel for channel, _, _ in marks}
        return any(
            channel.topics
            and channel not in marked
            and channel.last_payload is not None
            and not options.latest
            and channel.bit & (options.channels | CHANNEL_STATUS)
            for topic, options in subscriptions.items()
            for channel in topic.channels
        )

    def _topic(self, kind: str, name: str) -> Topic | None:
        """A topic that somebody holds elsewhere; what the client may hold here is looked at when it is restored."""
        instruments = self.market.instruments
        if kind == "stock" and self.market.instrument(name) is None:
            if len(instruments) >= MAX_INSTRUMENTS:
                return None
            try:
                self.market.ensure_instrument(name)
            except ValueError:
                return None
        elif (kind == "market" and name not in instruments.markets) or (
            kind == "sector" and name not in instruments.sectors
        ):
            return None
        return self.hub.topic(kind, name)


def groups_in(subscriptions: bytes) -> list[Group]:
    """Those of a `SessionState`, none if it cannot be read."""
    try:
        return read_groups(subscriptions)
    except msgspec.DecodeError as error:
        log_limited(_log, "relay-refused", "what came over the relay was left out", error=str(error))
        return []


def read_left(left: Left, arrival: Arrival) -> SessionAnswer | None:
    """What an instance that has gone would answer a client that says `arrival` of itself, None if it cannot be read.

    It has marks if the client has seen what was handed to the kernel for it.
    """
    try:
        state = read_answer(left.session.state)
    except msgspec.DecodeError as error:
        log_limited(_log, "relay-refused", "what came over the relay was left out", error=str(error))
        return None
    seen = arrival.last_sequence
    is_as_told = seen is None or (
        arrival.epoch in (None, left.epoch) and left.session.least <= seen <= left.session.cursor
    )
    return msgspec.structs.replace(
        state, marks=state.marks if is_as_told else None, is_early=True, positions=left.positions
    )


def alerts_of(handed: Iterable[HandedAlert]) -> list[Alert]:
    """What was handed over for the user of a session, but for what is no JSON."""
    return [
        Alert(
            one.code,
            one.alert_type,
            Decimal(one.threshold),
            Decimal(one.current_price),
            one.message,
            one.extra,
            id=one.id,
        )
        for one in handed
        if one.extra is None or is_json_members(one.extra)
    ]
