"""The HTTP endpoints that act, on a real market, hub and database, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from listening import Client, Response, listening

from fastws._core import Hub
from fastws._market import Instrument
from fastws.auth import Authenticator
from fastws.auth.tokens import sign
from fastws.dialects.mail import Mail
from fastws.limits import Limits
from fastws.market.alert_messages import Alert
from fastws.market.alerts import AlertBook
from fastws.market.instruments import Instruments
from fastws.market.market import Market
from fastws.market.portfolio_reader import Reloaded
from fastws.market.store import Store, StoreError
from fastws.server.api import add_admin_routes, add_user_routes
from fastws.server.http import bare_app
from fastws.server.ledger import Ledger
from fastws.server.peers import Peers
from fastws.sessions import Sessions
from fastws.settings import Settings

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
SECRET = "a secret of at least thirty-two bytes"
ADMIN = "admin token ÄÖ"
SAMSUNG = Instrument("005930", "Samsung Electronics", "KOSPI", "Tech", 72000, "KRW")
RULE = {"code": "005930", "alert_type": "price_above", "threshold": 75000}
PRICE = {"type": "price_update", "code": "005930", "price": 73000}


def token(sub: str | int = "user-1", **claims: object) -> str:
    return sign({"sub": sub, **claims}, SECRET.encode(), "HS256")


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


class View:
    """A server as the routes see it: real market, hub, alerts and tokens, and connections that are only named."""

    def __init__(self, *, alerts_per_user: int = 1000, handshake_rate: int = 0) -> None:
        self.is_draining = False
        self.is_cut_off = False
        self.allow_anonymous = True
        self.takes_updates = True
        self.n_connections = 0
        self.feeds: dict[str, str] = {}
        self.admin_token: str | None = ADMIN
        self.hub = Hub(asyncio.get_running_loop(), epoch="test")
        self.market = Market(self.hub, Instruments([SAMSUNG]))
        self.authenticator = Authenticator(Settings(jwt_secret=SECRET))
        self.peers = Peers(["127.0.0.1"])
        self.limits = Limits(handshake_rate=handshake_rate)
        self.store = Store()
        self.told: list[tuple[str, Alert]] = []
        self.reloaded: list[Sequence[int] | None] = []
        self.mail = Mail(self.hub, Sessions(), {}, limit_per_user=10)
        self.alerts = AlertBook(
            self.store,
            self.market.instruments,
            lambda user_id, alert: self.told.append((user_id, alert)),
            alerts_per_user=alerts_per_user,
        )
        self.open: list[dict[str, str | None]] = [
            {"connection_id": "c1", "user_id": "123", "jti": "t1"},
            {"connection_id": "c2", "user_id": "123", "jti": "t2"},
            {"connection_id": "c3", "user_id": None, "jti": None},
        ]

    def cluster_stats(self) -> Mapping[str, Any]:
        return self.stats()

    def stats(self) -> Mapping[str, Any]:
        return {}

    def tell(self, user_key: str, alert: Alert) -> int:
        self.told.append((user_key, alert))
        return self.mail.tell(user_key, alert)

    def connections(self, *, has_subscriptions: bool = True) -> list[dict[str, Any]]:
        named = {"subscriptions": {"stock": ["005930"]}} if has_subscriptions else {}
        return [{**connection, **named} for connection in self.open]

    async def encode_ledger(self, *, has_topics: bool, has_connections: bool) -> bytes:
        ledger = Ledger(self.hub, {})
        return await ledger.encode(has_topics=has_topics, has_connections=has_connections)

    async def reload_portfolios(self, ids: Sequence[int] | None) -> Reloaded:
        self.reloaded.append(ids)
        if ids == [13]:
            raise StoreError("database sqlite:///x.db: disk I/O error")
        return Reloaded(100, 2000, 1, 0.25049, {None: "id"} | {n: f"of {n}" for n in range(1, 12)})

    async def kick(self, **wanted: str | None) -> tuple[int, list[str]]:
        name, value = next((name, value) for name, value in wanted.items() if value is not None)
        assert set(wanted) == {"user_id", "jti", "connection_id"}
        assert sum(value is not None for value in wanted.values()) == 1
        left = [connection for connection in self.open if connection[name] != value]
        n_closed = len(self.open) - len(left)
        self.open = left
        return n_closed, ["another"] if value == "c3" else []


class Site:
    """The routes, asked over one kept-alive connection, so that an answer out of step would be seen."""

    def __init__(self, view: View, client: Client) -> None:
        self.view = view
        self.client = client

    async def ask(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"Host": "localhost", "Content-Length": str(len(data)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.client.send(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
        return await self.client.response(has_body=method != "HEAD")

    async def json(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        status: int = 200,
    ) -> Any:
        response = await self.ask(method, path, body, headers)
        assert response.status == status, response.body
        assert response.headers["content-type"] == "application/json; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        assert (status == 401) == ("www-authenticate" in response.headers)
        return json.loads(response.body)

    async def error(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        status: int,
    ) -> Any:
        answer = await self.json(method, path, body, headers=headers, status=status)
        assert set(answer) == {"error"}
        error = answer["error"]
        assert set(error) in ({"code", "message"}, {"code", "message", "details"})
        assert error["message"]
        return error

    async def publish(self, body: object, status: int = 202) -> Any:
        return await self.json("POST", "/v1/publish", body, headers=bearer(ADMIN), status=status)

    async def refused(self, body: object) -> Any:
        """Publish what is to be refused, and see that nothing was changed by it."""
        before = self.view.hub.sequence, len(self.view.market.instruments)
        error = (await self.publish(body, 400))["error"]
        assert (self.view.hub.sequence, len(self.view.market.instruments)) == before
        assert error["code"] == "INVALID_MESSAGE"
        return error


@contextlib.asynccontextmanager
async def site(**options: Any) -> AsyncIterator[Site]:
    view = View(**options)
    await view.store.open()
    app = bare_app()
    add_user_routes(app, view)
    add_admin_routes(app, view)
    try:
        async with listening(app) as harness:
            yield Site(view, await harness.connect())
    finally:
        await view.alerts.stop()
        await view.store.close()
        view.hub.stop()
