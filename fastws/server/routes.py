"""Which endpoints are served where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from aiohttp import web

from fastws.market.market import Market
from fastws.server.api import ApiView, add_admin_routes, add_user_routes
from fastws.server.cors import add_cors
from fastws.server.force_update import ForceView, add_force_routes
from fastws.server.handshake import Refusal
from fastws.server.http import HttpError, ServerView, add_probe_routes, add_public_routes, bare_app
from fastws.server.instrument_routes import add_instrument_routes
from fastws.server.metrics import MetricsView, add_metrics_routes
from fastws.server.portfolio_routes import PortfoliosView, add_portfolio_routes
from fastws.server.realtime_routes import RealtimeView, add_realtime_routes
from fastws.server.stocks import StocksView, add_stock_routes
from fastws.server.together import together
from fastws.web.routes import add_web_routes

if TYPE_CHECKING:
    from fastws.server.shared import Shared


_MOVED: Final = Refusal(
    404, "NOT_FOUND", "this is for the administrator, and answered at the address of the setting admin_bind"
)


class View(ServerView, StocksView, ApiView, MetricsView, ForceView, RealtimeView, PortfoliosView, Protocol):
    """What all the routes together need of the server."""

    @property
    def market(self) -> Market: ...

    @property
    def has_pages(self) -> bool:
        """Whether the dashboard and the test page are served."""


def make_app(
    server: View,
    *,
    websocket_paths: Sequence[str] = (),
    has_admin: bool = True,
    shared: Shared | None = None,
) -> web.Application:
    """Return the application of the main places; without `has_admin` :func:`make_admin_app` makes the rest.

    Where workers share a port, it answers for all of them.
    """
    app = bare_app(websocket_paths)
    if shared is not None:
        app.middlewares.append(together(shared))
    add_probe_routes(app, server)
    add_public_routes(app, server)
    add_stock_routes(app, server)
    add_instrument_routes(app, server)
    add_portfolio_routes(app, server)
    add_user_routes(app, server)
    add_force_routes(app, server)
    add_realtime_routes(app, server)
    add_web_routes(app, has_pages=server.has_pages)
    if has_admin:
        _add_admin(app, server, is_own_place=False, shared=shared)
    else:
        _add_moved(app, server)
    add_cors(app, server)
    return app


def make_admin_app(server: View, *, shared: Shared | None = None) -> web.Application:
    """Return the application of the administrator's own place."""
    app = bare_app()
    if shared is not None:
        app.middlewares.append(together(shared))
    add_probe_routes(app, server)
    _add_admin(app, server, is_own_place=True, shared=shared)
    return app


def _add_moved(app: web.Application, server: View) -> None:
    """Say where it is what has moved: who has set `admin_bind` looks for it here first. It is in no list."""
    admin = bare_app()
    add_admin_routes(admin, server)
    paths = {resource.canonical for resource in admin.router.resources()} - {"/"}

    async def moved(request: web.Request) -> web.Response:
        raise HttpError(_MOVED)

    for path in (*sorted(paths), "/metrics", "/metrics/"):
        app.router.add_route("*", path, moved)


def _add_admin(app: web.Application, server: View, *, is_own_place: bool, shared: Shared | None) -> None:
    """Add what moves to `admin_bind` where that is set, and is nowhere else then."""
    add_admin_routes(app, server)
    add_metrics_routes(app, server, is_own_place=is_own_place, shared=shared)
