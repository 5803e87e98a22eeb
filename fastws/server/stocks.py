"""The HTTP endpoints that show instruments, last prices and last order books.

Without `allow_anonymous` they want a user's token, and one that names topics shows its stocks only, as on the
WebSocket.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, Protocol

from aiohttp import web

from fastws._market import Instrument
from fastws.market.instruments import Instruments
from fastws.server.callers import CallersView, check_stock, identify_reader
from fastws.server.handshake import Refusal
from fastws.server.http import Endpoint, HttpError, add_endpoints, json_response

MAX_BOOK_DEPTH: Final = 10
MAX_BOOKS: Final = 1000


class MarketView(Protocol):
    """What the routes read of the market; see :class:`fastws.market.market.Market`."""

    @property
    def instruments(self) -> Instruments:
        """The instrument table."""

    def instrument(self, code: str, /) -> Instrument | None: ...

    def stock_body(self, code: str, /) -> bytes | None: ...

    def orderbook_body(self, code: str, /, depth: int, history: int) -> bytes | None: ...


class StocksView(CallersView, Protocol):
    """What the routes need of the server."""

    @property
    def market(self) -> MarketView: ...

    def describe_freshness(self, code: str, /) -> dict[str, Any] | None:
        """See :meth:`fastws.market.freshness.Freshness.describe`."""

    async def hear(self, code: str, /) -> None:
        """Wait for what other instances have published of `code`, half a second at most; one that is alone does not."""


def add_stock_routes(app: web.Application, server: StocksView) -> None:
    """Add the endpoints to an application of :mod:`fastws.server.http`."""
    routes = _Routes(server)
    add_endpoints(
        app,
        (
            Endpoint("GET", "/v1/stocks", routes.stocks, "instruments; ?market= and ?sector= choose"),
            Endpoint("GET", "/v1/stocks/{code}", routes.stock, "last price"),
            Endpoint(
                "GET",
                "/v1/stocks/{code}/freshness",
                routes.freshness,
                "how old the last values are, and how long they were under way",
            ),
            Endpoint(
                "GET",
                "/v1/stocks/{code}/orderbook",
                routes.order_book,
                f"last order books; ?depth=1..{MAX_BOOK_DEPTH} and ?history=0..{MAX_BOOKS}",
            ),
        ),
    )


class _Routes:
    def __init__(self, server: StocksView) -> None:
        self._server = server

    async def stocks(self, request: web.Request) -> web.Response:
        identity = await identify_reader(request, self._server)
        table = self._server.market.instruments
        market = _choice(request, "market", table.markets)
        sector = _choice(request, "sector", table.sectors)
        chosen = [
            {
                "code": instrument.code,
                "name": instrument.name,
                "market": instrument.market,
                "sector": instrument.sector,
                "currency": instrument.currency,
            }
            for instrument in (table if market is None else table.members_of_market(market))
            if (sector is None or instrument.sector == sector)
            and (identity is None or identity.allows("stock", instrument.code))
        ]
        return json_response({"stocks": chosen})

    async def stock(self, request: web.Request) -> web.Response:
        code = await self._code(request)
        return self._known(code, "price", self._server.market.stock_body(code))

    async def freshness(self, request: web.Request) -> web.Response:
        code = await self._code(request)
        found = self._server.describe_freshness(code)
        if found is None:
            raise HttpError(Refusal(404, "NO_DATA", f"no update of {code} yet"))
        return json_response(found)

    async def order_book(self, request: web.Request) -> web.Response:
        code = await self._code(request)
        depth = whole_number(request, "depth", MAX_BOOK_DEPTH, 1, MAX_BOOK_DEPTH)
        history = whole_number(request, "history", 1, 0, MAX_BOOKS)
        return self._known(code, "order book", self._server.market.orderbook_body(code, depth, history))

    async def _code(self, request: web.Request) -> str:
        identity = await identify_reader(request, self._server)
        code = request.match_info["code"]
        check_stock(identity, code)
        await self._server.hear(code)
        if self._server.market.instrument(code) is None:
            raise HttpError(Refusal(404, "UNKNOWN_SYMBOL", f"unknown symbol {code[:64]}"))
        return code

    def _known(self, code: str, what: str, body: bytes | None) -> web.Response:
        if body is None:
            raise HttpError(Refusal(404, "NO_DATA", f"no {what} of {code} yet"))
        return json_response(body)


def _choice(request: web.Request, name: str, known: Collection[str]) -> str | None:
    text = request.query.get(name)
    if text is not None and text not in known:
        choices = f"one of {', '.join(known)}" if known else "left out: the instruments have none"
        raise HttpError(Refusal(400, "INVALID_PARAMETER", f"{name} must be {choices}"))
    return text


def whole_number(request: web.Request, name: str, default: int, lowest: int, highest: int) -> int:
    """Return a parameter of the query.

    Raises:
        HttpError: 400, it is no number from `lowest` to `highest`.
    """
    text = request.query.get(name)
    if text is None:
        return default
    # The length keeps int() from working on a megabyte of digits.
    if not (len(text) <= 9 and text.isascii() and text.isdigit() and lowest <= int(text) <= highest):
        raise HttpError(
            Refusal(400, "INVALID_PARAMETER", f"{name} must be a whole number from {lowest} to {highest}")
        )
    return int(text)
