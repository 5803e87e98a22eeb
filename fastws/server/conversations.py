"""Who may connect, and what is spoken then: admission, sessions, and the dialects of both WebSocket paths."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from fastws._core import Connection, Hub
from fastws.auth import Authenticator
from fastws.dialects.admission import Admission
from fastws.dialects.conversation import Conversation
from fastws.dialects.permits import Permits
from fastws.dialects.realtime import RealtimeDialect
from fastws.dialects.screener import ScreenerDialect
from fastws.dialects.targets import Targets
from fastws.limits import Limits
from fastws.market.market import Market
from fastws.market.portfolios import Portfolios
from fastws.server.arrivals import arrival_of
from fastws.server.handshake import Request
from fastws.server.realtime_routes import REALTIME_PATH
from fastws.server.websocket_upgrades import OpenConnection
from fastws.sessions import Sessions
from fastws.settings import Settings


class Conversations:
    """Opens a conversation with whoever comes, in the dialect of the path. They share sessions, targets and limits."""

    def __init__(
        self,
        settings: Settings,
        hub: Hub,
        market: Market,
        portfolios: Portfolios,
        authenticator: Authenticator,
        limits: Limits,
    ) -> None:
        self._hub = hub
        self._authenticator = authenticator
        self._message_bytes = settings.message_bytes
        self.sessions = Sessions(ttl=settings.session_ttl, limit=settings.session_limit)
        permits = Permits(portfolios)
        self.admission = Admission(
            hub,
            authenticator,
            self.sessions,
            limits,
            allow_anonymous=settings.allow_anonymous,
            auth_timeout=settings.auth_timeout,
            connections_per_user=settings.connections_per_user,
            evicts_oldest=settings.on_connection_limit == "evict_oldest",
            kept_messages_per_user=settings.kept_messages_per_user,
            permits=permits,
        )
        portfolios.on_owner_changed = self.admission.revoke
        self.targets = Targets(
            hub,
            market,
            permits,
            limit=settings.subscription_limit,
            accept_unknown_symbols=settings.unknown_symbols == "accept",
        )
        self.screener = ScreenerDialect(
            hub,
            market,
            admission=self.admission,
            targets=self.targets,
            message_bytes=settings.message_bytes,
        )
        self.realtime = RealtimeDialect(hub, market, admission=self.admission, targets=self.targets)
        self.by_path: dict[str, OpenConnection] = {
            "/v1/ws": partial(self.open, self.screener),
            REALTIME_PATH: partial(self.open, self.realtime),
        }

    def configure(self, settings: Settings) -> None:
        """Take other settings over. None of this can fail: they are within the bounds that `Settings` declares."""
        self._message_bytes = settings.message_bytes
        self.sessions.ttl = settings.session_ttl
        self.sessions.limit = settings.session_limit
        self.targets.limit = settings.subscription_limit
        self.targets.accept_unknown_symbols = settings.unknown_symbols == "accept"
        self.screener.configure(message_bytes=settings.message_bytes)
        self.admission.configure(
            allow_anonymous=settings.allow_anonymous,
            auth_timeout=settings.auth_timeout,
            connections_per_user=settings.connections_per_user,
            evicts_oldest=settings.on_connection_limit == "evict_oldest",
        )
        self.admission.mail.configure(
            ttl=settings.session_ttl, limit_per_user=settings.kept_messages_per_user
        )

    def open(
        self,
        conversation: Conversation,
        transport: asyncio.Transport,
        request: Request,
        leftover: bytes,
        window_bits: int,
    ) -> None:
        """Go on with a connection whose handshake was answered; see `OpenConnection`."""
        connection = Connection(
            self._hub,
            transport,
            conversation,
            conversation.dialect,
            max_message_size=self._message_bytes,
            window_bits=window_bits,
        )
        connection.context = arrival_of(
            request, self._authenticator, has_sessions=conversation.keeps_sessions
        )
        connection.open(leftover)


def announce_shutdown(connection: Connection, reconnect_after_ms: int) -> None:
    """Tell a client of `Conversations` when to come back."""
    conversation: Any = connection.handler
    conversation.announce_shutdown(connection, reconnect_after_ms)
