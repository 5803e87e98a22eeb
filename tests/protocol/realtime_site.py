"""A server inside the process of a test, clients of both dialects, and portfolios in its database."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt

from fastws._market import PriceUpdate
from fastws.market.importer import read_table, write_table
from fastws.server.server import Server
from fastws.settings import Settings
from tests.clients import Client, client

SECRET = "a secret of more than thirty-two bytes"
ADMIN = "the administrator"


def token(sub: str | int = "alice", seconds: float = 600, **claims: Any) -> str:
    return jwt.encode({"sub": sub, "exp": time.time() + seconds, **claims}, SECRET, "HS256")


class Site:
    """A running server."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self.port = server.listener.port

    def url(self, path: str = "/ws/realtime/", **query: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}?" + "&".join(
            f"{name}={text}" for name, text in query.items()
        )

    def realtime(
        self, *, greeted: bool = True, **query: str
    ) -> contextlib.AbstractAsyncContextManager[Client]:
        return client(self.url(**query), greeted=greeted)

    def screener(self, **query: str) -> contextlib.AbstractAsyncContextManager[Client]:
        return client(self.url("/v1/ws", **query))

    def publish(self, code: str, price: object, **members: Any) -> None:
        instrument = self.server.market.ensure_instrument(code)
        self.server.market.publish_price(PriceUpdate(instrument, price, **members))  # type: ignore[arg-type]

    async def import_rows(self, kind: str, *lines: str, reload: bool = True) -> None:
        """Bring rows into the database, and have the server take them over."""
        path = self.directory / f"{kind}.csv"
        path.write_text("\n".join(lines))
        await write_table(self.server.store, read_table(kind, str(path)))
        if reload:
            await self.server.portfolios.refresh()

    async def import_portfolios(self, *portfolios: str) -> None:
        await self.import_rows("portfolios", "id,owner,name,currency", *portfolios)

    async def import_positions(self, *positions: str) -> None:
        await self.import_rows("positions", "portfolio_id,symbol,quantity", *positions)


@contextlib.asynccontextmanager
async def serving(directory: Path, **settings: Any) -> AsyncIterator[Site]:
    defaults = {
        "port": 0,
        "jwt_secret": SECRET,
        "admin_token": ADMIN,
        "shutdown_spread": 0,
        "portfolio_poll_interval": 0,
        "database": f"sqlite:///{directory}/fastws.db",
    }
    server = Server(Settings(**defaults | settings))
    await server.start()
    try:
        yield Site(server, directory)
    finally:
        await server.stop()


async def ask(connection: Client, kind: str, request_id: object = None, **data: Any) -> None:
    """Send a request of the realtime dialect."""
    message = {"type": kind, "data": data} | ({} if request_id is None else {"id": request_id})
    await connection.connection.send(json.dumps(message))


async def get(site: Site, path: str, **headers: str) -> tuple[int, Any]:
    """Status and JSON body of a GET."""

    def read() -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    return await asyncio.to_thread(read)
