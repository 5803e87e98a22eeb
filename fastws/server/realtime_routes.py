"""The HTTP endpoints of the realtime dialect: where its WebSocket is, and who listens (section 8 of the contract)."""

from __future__ import annotations

import inspect
from typing import Any, Final, Protocol, get_args

from aiohttp import web

from fastws.messages import realtime as messages
from fastws.server.callers import CallersView, find_caller, peer_of
from fastws.server.http import Endpoint, add_endpoints, json_response

REALTIME_PATH: Final = "/ws/realtime/"

USER_KEY: Final = web.RequestKey("user_key", str)
"""Whose statistics an answer has, for whoever adds what other workers know."""


class RealtimeView(CallersView, Protocol):
    """What the routes need of the server."""

    @property
    def is_draining(self) -> bool: ...

    @property
    def is_session_based(self) -> bool:
        """Whether the application's sessions say who a user is."""

    def realtime_totals(self) -> dict[str, Any]: ...

    def user_stats(self, user_key: str, /) -> dict[str, Any]:
        """What the connections of a user hold."""


def add_realtime_routes(app: web.Application, server: RealtimeView) -> None:
    """Add the endpoints to an application of :mod:`fastws.server.http`."""
    routes = _Routes(server)
    add_endpoints(
        app,
        (
            Endpoint(
                "GET", "/realtime/websocket-info", routes.websocket_info, "where to connect, and what to send"
            ),
            Endpoint("GET", "/realtime/status", routes.status, "connections and subscriptions"),
        ),
    )


class _Routes:
    def __init__(self, server: RealtimeView) -> None:
        self._server = server
        kinds = get_args(messages.ClientMessage)
        self._message_types = {
            kind.__struct_config__.tag: inspect.cleandoc(kind.__doc__).partition("\n")[0] for kind in kinds
        }

    async def websocket_info(self, request: web.Request) -> web.Response:
        peer = peer_of(request, self._server.peers)
        protocol = "wss" if peer.scheme == "https" else "ws"
        # An HTTP/1.0 client need not name a host.
        host = peer.host or request.headers.get("Host") or "localhost"
        path = peer.prefix + REALTIME_PATH
        return json_response(
            {
                "websocket_url": f"{protocol}://{host}{path}",
                "connection_info": {
                    "protocol": protocol,
                    "host": host,
                    "path": path,
                    "authentication": "session-based" if self._server.is_session_based else "jwt",
                },
                "message_types": self._message_types,
            }
        )

    async def status(self, request: web.Request) -> web.Response:
        identity = await find_caller(request, self._server)
        body = {
            "service_status": "stopping" if self._server.is_draining else "running",
            "global_stats": self._server.realtime_totals(),
        }
        if identity is not None:
            request[USER_KEY] = identity.user_key
            body["user_stats"] = self._server.user_stats(identity.user_key)
        return json_response(body)
