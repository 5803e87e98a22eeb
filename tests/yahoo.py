"""A stand-in for Yahoo Finance on this machine: its hosts behind a proxy, with TLS, cookies, crumbs and answers.

The answers have the members and the digits of real ones. Programs find it by the variables of `variables`: a proxy for
https, and the authority that signed for Yahoo's names.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from tests.certificates import Authority

CRUMB = "aB3.dE/fG1"
HOSTS = ("fc.yahoo.com", "query1.finance.yahoo.com", "query2.finance.yahoo.com", "guce.yahoo.com")


def quote(symbol: str, price: Any, **members: Any) -> dict[str, Any]:
    """A row of v7/finance/quote, with the members that are asked for and those that come unasked."""
    return {
        "language": "en-US",
        "region": "US",
        "quoteType": "EQUITY",
        "typeDisp": "Equity",
        "quoteSourceName": "Nasdaq Real Time Price",
        "triggerable": True,
        "currency": "USD",
        "exchange": "NMS",
        "exchangeTimezoneName": "America/New_York",
        "gmtOffSetMilliseconds": -18000000,
        "marketState": "REGULAR",
        "priceHint": 2,
        "sourceInterval": 15,
        "exchangeDataDelayedBy": 0,
        "regularMarketPrice": price,
        "regularMarketTime": int(time.time()) - 5,
        "symbol": symbol,
    } | members


def chart(symbol: str, days: list[tuple[int, Any]], **meta: Any) -> dict[str, Any]:
    """An answer of v8/finance/chart; `days` are when each opened (Unix time) and its close."""

    def of(change: float) -> list[Any]:
        return [None if close is None else close + change for _, close in days]

    return {
        "chart": {
            "result": [
                {
                    "meta": {
                        "currency": "USD",
                        "symbol": symbol,
                        "exchangeName": "NMS",
                        "fullExchangeName": "NasdaqGS",
                        "instrumentType": "EQUITY",
                        "gmtoffset": -18000,
                        "timezone": "EST",
                        "exchangeTimezoneName": "America/New_York",
                        "priceHint": 2,
                        "currentTradingPeriod": {"regular": {"start": 0, "end": 0, "gmtoffset": -18000}},
                        "dataGranularity": "1d",
                        "range": "",
                        "validRanges": ["1d", "5d", "1mo"],
                    }
                    | meta,
                    "timestamp": [at for at, _ in days],
                    "indicators": {
                        "quote": [
                            {
                                "open": of(-0.5),
                                "high": of(1.0),
                                "low": of(-1.0),
                                "close": of(0.0),
                                "volume": [None if close is None else 48_000_000 for _, close in days],
                            }
                        ],
                        "adjclose": [{"adjclose": of(-0.25)}],
                    },
                }
            ],
            "error": None,
        }
    }


NOT_FOUND = {
    "chart": {
        "result": None,
        "error": {"code": "Not Found", "description": "No data found, symbol may be delisted"},
    }
}


class FakeYahoo:
    """Listens while it is entered. `rows` are quotes by symbol, `charts` answers by symbol.

    `spoil` is asked first for every call of quotes and charts, and may give another response. `calls` are the symbols
    that each was for.
    """

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.charts: dict[str, dict[str, Any]] = {}
        self.spoil: Callable[[], web.StreamResponse | None] = lambda: None
        self.delay = 0.0
        self.calls: list[str] = []
        self.variables: dict[str, str] = {}
        self._tunnels: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/", self._cookie)
        app.router.add_get("/v1/test/getcrumb", self._crumb)
        app.router.add_get("/v7/finance/quote", self._quote)
        app.router.add_get("/v8/finance/chart/{symbol}", self._chart)
        self._directory = tempfile.TemporaryDirectory(prefix="fastws-yahoo-")
        directory = Path(self._directory.name)
        authority = Authority()
        authority_file = authority.write(directory / "authority.pem")
        authority.issue(directory / "yahoo.pem", name="yahoo.com", others=HOSTS)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "yahoo.pem")
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self._proxy = await asyncio.start_server(self._tunnel, "127.0.0.1", 0)
        proxy = f"http://127.0.0.1:{self._proxy.sockets[0].getsockname()[1]}"
        self.variables = {
            "https_proxy": proxy,
            "HTTPS_PROXY": proxy,
            "REQUESTS_CA_BUNDLE": str(authority_file),
            "XDG_CACHE_HOME": str(directory / "cache"),
        }
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.vanish()
        await self._runner.cleanup()
        self._directory.cleanup()

    async def vanish(self) -> None:
        """Listen no more, and end every connection."""
        self._proxy.close()
        tunnels = list(self._tunnels.items())
        for _, writer in tunnels:
            writer.close()
        if tunnels:
            await asyncio.wait([task for task, _ in tunnels])
        await self._proxy.wait_closed()

    # The proxy.

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        task = asyncio.current_task()
        assert task is not None
        self._tunnels[task] = writer
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            target = head.split(b" ", 2)[1].decode()
            assert head.startswith(b"CONNECT "), head
            assert target.removesuffix(":443") in HOSTS, target
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            ends.append(far_writer)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_pass(reader, far_writer), _pass(far_reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            pass  # the other side has gone
        finally:
            del self._tunnels[task]
            for end in ends:
                end.close()

    # The hosts.

    async def _cookie(self, request: web.Request) -> web.Response:
        # A page that says "not found" brings the cookie, as at Yahoo.
        response = web.Response(status=404, text="Not Found", content_type="text/html")
        response.set_cookie("A3", "d=AQABBI&S=AQAAA", domain=".yahoo.com", max_age=31_557_600, secure=True)
        return response

    async def _crumb(self, request: web.Request) -> web.Response:
        if "A3" not in request.cookies:
            return web.Response(status=401, text="")
        return web.Response(text=CRUMB)

    async def _quote(self, request: web.Request) -> web.StreamResponse:
        symbols = request.query.get("symbols", "")
        if (other := await self._other(symbols)) is not None:
            return other
        if request.query.get("crumb") != CRUMB:
            error = {"code": "Unauthorized", "description": "Invalid Crumb"}
            return web.json_response({"finance": {"result": None, "error": error}}, status=401)
        assert request.query["formatted"] == "false"
        rows = [self.rows[symbol] for symbol in symbols.split(",") if symbol in self.rows]
        return web.json_response({"quoteResponse": {"result": rows, "error": None}})

    async def _chart(self, request: web.Request) -> web.StreamResponse:
        symbol = request.match_info["symbol"]
        if (other := await self._other(symbol)) is not None:
            return other
        assert request.query["interval"] == "1d"
        found = self.charts.get(symbol)
        return web.json_response(found or NOT_FOUND, status=200 if found else 404)

    async def _other(self, symbols: str) -> web.StreamResponse | None:
        self.calls.append(symbols)
        if self.delay:
            await asyncio.sleep(self.delay)
        return self.spoil()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):  # it may be closed already
        writer.write_eof()
