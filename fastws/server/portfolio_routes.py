"""The HTTP endpoint that tells users which portfolios are theirs; what those are worth is for the WebSockets."""

from __future__ import annotations

from typing import Final, Protocol

from aiohttp import web

from fastws.market.portfolios import Portfolio
from fastws.server.callers import CallersView, identify
from fastws.server.http import Endpoint, add_endpoints, json_response

MAX_LISTED: Final = 1000


class PortfolioList(Protocol):
    """What the route reads; see :class:`fastws.market.portfolios.Portfolios`."""

    async def owned_by(self, owner: str, /) -> list[Portfolio]: ...


class PortfoliosView(CallersView, Protocol):
    """What the route needs of the server."""

    @property
    def portfolios(self) -> PortfolioList: ...


def add_portfolio_routes(app: web.Application, server: PortfoliosView) -> None:
    """Add the endpoint to an application of :mod:`fastws.server.http`."""
    routes = _Routes(server)
    add_endpoints(
        app, (Endpoint("GET", "/v1/portfolios", routes.portfolios, f"your own, the first {MAX_LISTED}"),)
    )


class _Routes:
    def __init__(self, server: PortfoliosView) -> None:
        self._server = server

    async def portfolios(self, request: web.Request) -> web.Response:
        """Answer ``{"portfolios":[{"id":…,"name":…,"currency":…}],"total":n}``, by id; `total` counts all of them.

        Of a token that names portfolios those only that it names, as on the WebSockets.
        """
        identity = await identify(request, self._server)
        owned = await self._server.portfolios.owned_by(identity.user_key)
        shown = [portfolio for portfolio in owned if identity.allows("portfolio", portfolio.id)]
        return json_response(
            {
                "portfolios": [
                    {"id": portfolio.id, "name": portfolio.name, "currency": portfolio.currency}
                    for portfolio in shown[:MAX_LISTED]
                ],
                "total": len(shown),
            }
        )
