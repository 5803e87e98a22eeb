"""The HTTP endpoint in which instruments are looked for, as pages do while somebody types.

It shows what :mod:`fastws.server.stocks` shows, to the same callers, but never the whole of a large table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
from aiohttp import web

from fastws._market import Instrument
from fastws.market.instrument_search import search
from fastws.server.callers import identify_reader
from fastws.server.handshake import Refusal
from fastws.server.http import Endpoint, HttpError, add_endpoints, json_response
from fastws.server.stocks import StocksView, whole_number

MAX_FOUND: Final = 100
MAX_QUERY: Final = 64
_DEFAULT_FOUND: Final = 20


def add_instrument_routes(app: web.Application, server: StocksView) -> None:
    """Add the endpoint to an application of :mod:`fastws.server.http`."""
    routes = _Routes(server)
    add_endpoints(
        app,
        (
            Endpoint(
                "GET",
                "/v1/instruments",
                routes.instruments,
                f"instruments whose code or name has the words of ?q=, the best ?limit=1..{MAX_FOUND}; "
                f"or those of ?code=, up to {MAX_FOUND} times",
            ),
        ),
    )


class _Routes:
    def __init__(self, server: StocksView) -> None:
        self._server = server

    async def instruments(self, request: web.Request) -> web.Response:
        """Answer ``{"instruments":[…],"total":n}``; with `q`, `total` counts also those that are over the limit.

        Codes that are in no table, and those that the token does not allow, are left out.
        """
        identity = await identify_reader(request, self._server)
        table = self._server.market.instruments

        def is_shown(instrument: Instrument) -> bool:
            return identity is None or identity.allows("stock", instrument.code)

        codes = request.query.getall("code", [])
        query = request.query.get("q", "")
        if codes and query:
            raise _wrong("q", "left out where codes are named")
        if len(codes) > MAX_FOUND:
            raise _wrong("code", f"there {MAX_FOUND} times at most; ask for the others after that")
        if len(query) > MAX_QUERY:
            raise _wrong("q", f"{MAX_QUERY} characters at most")
        limit = whole_number(request, "limit", _DEFAULT_FOUND, 1, MAX_FOUND)
        if codes:
            named = (table.get(code) for code in dict.fromkeys(codes))
            known = [instrument for instrument in named if instrument is not None and is_shown(instrument)]
            return _response(known, len(known))
        found = await search(table, query, limit, is_shown)
        return _response(found.instruments, found.total)


def _response(instruments: Iterable[Instrument], total: int) -> web.Response:
    body = {"instruments": list(_described(instruments)), "total": total}
    # Unlike orjson it writes a Decimal, as the number that it is.
    return json_response(_encoder.encode(body))


_encoder: Final = msgspec.json.Encoder(decimal_format="number")


def _described(instruments: Iterable[Instrument]) -> Iterator[dict[str, Any]]:
    for instrument in instruments:
        yield {
            "code": instrument.code,
            "name": instrument.name,
            "market": instrument.market,
            "sector": instrument.sector,
            "currency": instrument.currency,
            "previous_close": instrument.previous_close,
        }


def _wrong(name: str, what: str) -> HttpError:
    return HttpError(Refusal(400, "INVALID_PARAMETER", f"{name} must be {what}"))
