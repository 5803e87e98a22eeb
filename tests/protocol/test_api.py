"""The HTTP endpoints that act, over a real socket: who may, what is done, and what a wrong request is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from decimal import Decimal
from typing import Any

import pytest
from listening import Client, Response, listening, scenario

from fastws._core import Hub
from fastws._market import BookUpdate, Instrument, MarketStatus, PriceUpdate, encode_screener
from fastws.auth import Authenticator
from fastws.auth.tokens import sign
from fastws.dialects.mail import Mail
from fastws.feeds.lines import decode_body
from fastws.limits import Limits
from fastws.market.alert_messages import Alert, encode_alert
from fastws.market.alerts import AlertBook
from fastws.market.instruments import MAX_INSTRUMENTS, Instruments
from fastws.market.market import Market
from fastws.market.store import Store
from fastws.server.api import MAX_UPDATES, add_admin_routes, add_user_routes
from fastws.server.http import MAX_BODY_SIZE, bare_app
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

    def stats(self) -> Mapping[str, Any]:
        return {}

    def tell(self, user_key: str, alert: Alert) -> int:
        self.told.append((user_key, alert))
        return self.mail.tell(user_key, alert)

    def connections(self) -> list[dict[str, Any]]:
        return [{**connection, "subscriptions": {"stock": ["005930"]}} for connection in self.open]

    def kick(self, **wanted: str | None) -> int:
        name, value = next((name, value) for name, value in wanted.items() if value is not None)
        assert set(wanted) == {"user_id", "jti", "connection_id"}
        assert sum(value is not None for value in wanted.values()) == 1
        left = [connection for connection in self.open if connection[name] != value]
        n_closed = len(self.open) - len(left)
        self.open = left
        return n_closed


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


# Who may.

ADMIN_REQUESTS: list[tuple[str, str, object, int]] = [
    ("GET", "/v1/ws/connections", None, 200),
    ("POST", "/v1/admin/kick", {"jti": "x"}, 200),
    ("POST", "/v1/publish", PRICE, 202),
]
USER_REQUESTS: list[tuple[str, str, object, int]] = [
    ("GET", "/api/v1/users/me", None, 200),
    ("GET", "/v1/alerts", None, 200),
    ("POST", "/v1/alerts", RULE, 201),
    ("DELETE", "/v1/alerts/99", None, 404),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), ADMIN_REQUESTS)
@scenario
async def test_only_the_admin_token_opens_what_is_the_administrators(
    method: str, path: str, body: object, status: int
) -> None:
    async with site() as server:
        for variant in (path, path + "/"):
            for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": ADMIN}):
                error = await server.error(method, variant, body, headers=headers, status=401)
                assert error["code"] == "AUTH_REQUIRED"
            for wrong in ("", "x", ADMIN[:-1], ADMIN + "x", "\u00ff", token(), token("admin")):
                error = await server.error(method, variant, body, headers=bearer(wrong), status=401)
                assert error["code"] == "INVALID_TOKEN"
                assert ADMIN not in error["message"]
            # The query is no place for the admin token: it ends up in logs of proxies.
            await server.error(method, f"{variant}?token=x", body, status=401)
            assert server.view.hub.sequence == (0 if variant == path or path != "/v1/publish" else 1)
            response = await server.ask(method, variant, body, {"Authorization": f"bearer  {ADMIN}"})
            assert response.status == status


@pytest.mark.parametrize("admin_token", [None, ""])
@pytest.mark.parametrize(("method", "path", "body", "status"), ADMIN_REQUESTS)
@scenario
async def test_without_an_admin_token_nobody_is_administrator(
    method: str, path: str, body: object, status: int, admin_token: str | None
) -> None:
    async with site() as server:
        server.view.admin_token = admin_token
        for headers in ({}, bearer(""), bearer("None"), bearer(ADMIN)):
            error = await server.error(method, path, body, headers=headers, status=403)
            assert error["code"] == "FORBIDDEN"
            assert "admin_token" in error["message"]
        assert server.view.hub.sequence == 0


@scenario
async def test_a_header_that_is_no_utf8_is_a_wrong_token() -> None:
    async with site() as server:
        server.client.send(
            b"GET /v1/ws/connections HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n"
        )
        response = await server.client.response()
        assert response.status == 401
        assert json.loads(response.body)["error"]["code"] == "INVALID_TOKEN"


@pytest.mark.parametrize(("method", "path", "body", "status"), USER_REQUESTS)
@scenario
async def test_only_a_users_token_opens_what_is_theirs(
    method: str, path: str, body: object, status: int
) -> None:
    now = int(time.time())
    forged = sign({"sub": "user-1"}, b"another secret of at least 32 bytes!", "HS256")
    async with site() as server:
        for variant in (path, path + "/"):
            for query in ("", "?token=", "?token=null", "?token=undefined"):
                error = await server.error(method, variant + query, body, status=401)
                assert (error["code"], "details" in error) == ("AUTH_REQUIRED", False)
            for bad, reason in (
                ("x", "malformed"),
                (ADMIN, "malformed"),
                (forged, "signature"),
                (token(exp=now - 10), "expired"),
                (token(nbf=now + 100), "not_yet_valid"),
                (token(aud="others"), "audience"),
            ):
                error = await server.error(method, variant, body, headers=bearer(bad), status=401)
                assert error["code"] == "INVALID_TOKEN"
                assert error["details"] == {"reason": reason}
                assert bad not in error["message"]
            assert server.view.alerts.n_waiting == (1 if variant != path and status == 201 else 0)
            response = await server.ask(method, variant, body, bearer(token()))
            assert response.status == status
        response = await server.ask(method, f"{path}?token={token()}", body)
        assert response.status == status


@scenario
async def test_other_methods_are_refused_like_elsewhere() -> None:
    async with site() as server:
        for method, path, allowed in (
            ("GET", "/v1/publish", "POST"),
            ("GET", "/v1/admin/kick", "POST"),
            ("POST", "/v1/ws/connections", "GET,HEAD"),
            ("PUT", "/v1/alerts", "GET,HEAD,POST"),
            ("GET", "/v1/alerts/1", "DELETE"),
        ):
            response = await server.ask(method, path, headers=bearer(ADMIN))
            assert (response.status, response.headers["allow"]) == (405, allowed)
            assert json.loads(response.body)["error"]["code"] == "METHOD_NOT_ALLOWED"


@scenario
async def test_every_listed_endpoint_is_there() -> None:
    async with site() as server:
        endpoints = (await server.json("GET", "/"))["endpoints"]
        assert len(endpoints) == 7
        for endpoint in endpoints:
            assert endpoint["about"]
            path = endpoint["path"].format(id=1)
            assert (await server.ask(endpoint["method"], path)).status in (401, 403)


# Who a token is.


@scenario
async def test_who_a_token_is() -> None:
    async with site() as server:
        answer = await server.json("GET", "/api/v1/users/me", headers=bearer(token()))
        assert answer == {"user_id": "user-1", "expires_at": None, "tier": None}
        long_lived = token(2**53 + 1, exp=4_102_444_800.25, tier="gold")
        answer = await server.json("GET", f"/api/v1/users/me/?token={long_lived}")
        assert answer == {"user_id": 2**53 + 1, "expires_at": "2100-01-01T00:00:00.250Z", "tier": "gold"}


@scenario
async def test_a_token_in_the_header_comes_before_one_in_the_query() -> None:
    async with site() as server:
        path = f"/api/v1/users/me?token={token('query')}"
        assert (await server.json("GET", path, headers=bearer(token("header"))))["user_id"] == "header"
        assert (await server.json("GET", path, headers=bearer("null")))["user_id"] == "query"
        await server.error("GET", path, headers=bearer("x"), status=401)


# Connections.


@scenario
async def test_an_address_may_be_wrong_so_often_a_second() -> None:
    async with site(handshake_rate=3) as server:
        known = {"X-Forwarded-For": "203.0.113.1"}
        # Right ones are not charged.
        for _ in range(10):
            await server.json("GET", "/api/v1/users/me", headers=bearer(token()) | known)

        async def refused(forwarded_for: str) -> Response:
            for number in range(100):
                path = ("/api/v1/users/me", "/v1/alerts")[number % 2]
                headers = bearer("junk") | {"X-Forwarded-For": forwarded_for}
                response = await server.ask("GET", path, headers=headers)
                if response.status != 401:
                    assert number >= 3 or forwarded_for != "203.0.113.1"
                    return response
            raise AssertionError("never refused")

        response = await refused("203.0.113.1")
        assert response.status == 429
        assert response.headers["retry-after"] == "1"
        assert json.loads(response.body)["error"] == {
            "code": "RATE_LIMIT_EXCEEDED",
            "message": "too many tokens from this address were not accepted; wait a moment",
            "details": {"retry_after": 1},
        }
        # Whatever the client itself writes on the left; and others are not concerned.
        for number in range(20):
            assert (await refused(f"198.51.100.{number}, 203.0.113.1")).status == 429
        other = {"X-Forwarded-For": "203.0.113.2"}
        await server.error("GET", "/v1/alerts", headers=bearer("junk") | other, status=401)
        async with asyncio.timeout(5):
            while (await server.ask("GET", "/v1/alerts", headers=bearer(token()) | known)).status != 200:
                await asyncio.sleep(0.02)


@scenario
async def test_the_connection_list_and_kicking() -> None:
    async with site() as server:

        async def kick(body: object) -> int:
            answer = await server.json("POST", "/v1/admin/kick", body, headers=bearer(ADMIN))
            assert list(answer) == ["closed"]
            n: int = answer["closed"]
            return n

        async def ids() -> list[str]:
            found = await server.json("GET", "/v1/ws/connections", headers=bearer(ADMIN))
            assert all(connection["subscriptions"] == {"stock": ["005930"]} for connection in found)
            return [connection["connection_id"] for connection in found]

        assert await ids() == ["c1", "c2", "c3"]
        assert await kick({"jti": "t3"}) == 0
        assert await kick({"jti": "t2", "user_id": None}) == 1
        assert await kick({"connection_id": "c3"}) == 1
        assert await ids() == ["c1"]
        assert await kick({"user_id": 123}) == 1
        assert await ids() == []


@scenario
async def test_others_have_their_turn_while_many_connections_are_listed() -> None:
    async with site() as server:
        n_turns = 0
        turns = []

        async def take_turns() -> None:
            nonlocal n_turns
            while len(turns) < 1000:
                n_turns += 1
                await asyncio.sleep(0)

        def connections() -> Iterator[dict[str, Any]]:
            for i in range(1000):
                turns.append(n_turns)
                yield {"connection_id": f"c{i}"}

        server.view.connections = connections  # type: ignore[assignment,method-assign]
        others = asyncio.create_task(take_turns())
        found = await server.json("GET", "/v1/ws/connections", headers=bearer(ADMIN))
        await others
        assert [connection["connection_id"] for connection in found] == [f"c{i}" for i in range(1000)]
        assert len(set(turns)) >= 10


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "user_id"),
        ({"user": "x"}, "user_id"),
        ({"user_id": None}, "user_id"),
        ({"user_id": "123", "jti": "t1"}, "jti"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": True}, "user_id"),
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": ["123"]}, "user_id"),
        ({"jti": 1}, "jti"),
        ({"connection_id": {}}, "connection_id"),
        ([], None),
        ([{"jti": "t1"}], None),
        (b"", None),
        (b"{", None),
        (b'{"jti":"\xff"}', None),
        (b'{"jti":' + b"[" * 100_000, None),
    ],
)
@scenario
async def test_wrong_kicks(body: object, field: str | None) -> None:
    async with site() as server:
        error = await server.error("POST", "/v1/admin/kick", body, headers=bearer(ADMIN), status=400)
        assert error["code"] == "INVALID_MESSAGE"
        assert error.get("details") == (None if field is None else {"field": field})
        assert field is None or field in error["message"]
        assert len(server.view.open) == 3


# Publishing.


@scenario
async def test_publish_one_and_many() -> None:
    async with site() as server:
        market = server.view.market
        answer = await server.publish(PRICE)
        assert answer == {"accepted": 1, "first_sequence": 1, "last_sequence": 1}
        answer = await server.publish(
            [
                {**PRICE, "price": 73100},
                {
                    "type": "orderbook_update",
                    "code": "NEW1",
                    "bids": [{"price": 1.5, "quantity": 2}],
                    "asks": [],
                },
                {"type": "market_status", "market": "KOSPI", "status": "open", "note": "x"},
                {"type": "price_update", "code": "NEW1", "name": "Not This", "price": 1},
            ]
        )
        assert answer == {"accepted": 4, "first_sequence": 2, "last_sequence": 5}
        price = market.last_price("005930")
        assert price is not None
        assert (price.price, price.instrument) == (73100, SAMSUNG)
        book = market.last_book("NEW1")
        new = market.last_price("NEW1")
        assert book is not None
        assert new is not None
        assert new.instrument is book.instrument is market.instrument("NEW1")
        assert new.instrument.name == "NEW1"
        body = market.stock_body("NEW1")
        assert body is not None
        assert json.loads(body)["sequence"] == 5
        topic = server.view.hub.find_topic("market", "KOSPI")
        assert topic is not None
        status = next(channel for channel in topic.channels if channel.name == "market_status").last_payload
        assert encode_screener(status, 0) == (
            b'{"type":"market_status","market":"KOSPI","status":"open","note":"x",'
            b'"timestamp":"1970-01-01T00:00:00.000Z"'
        )


@scenario
async def test_members_are_passed_through_as_they_are_written() -> None:
    async with site() as server:
        await server.publish(
            b' { "type" : "price_update", "code" : "AAPL", "price" : 150.250, "change" : -0.50,\r\n'
            b' "venue": "X", "event_time": "2025-11-11T18:30:00+09:00", "trade_id" : 9223372036854775807,\n'
            b' "big": 18446744073709551616, "meta" : { "a b" : [ 1.10 , null, true ] , "s": " \\" \\u00e9 " },'
            b' "exp": 1E+5, "\xec\x82\xbc": "\xec\x84\xb1"}\n'
        )
        body = server.view.market.stock_body("AAPL")
        assert body is not None
        assert body.startswith(
            b'{"type":"price_update","code":"AAPL","name":"AAPL","price":150.250,"change":-0.50,"venue":"X",'
            b'"event_time":"2025-11-11T09:30:00.000Z","trade_id":9223372036854775807,"big":18446744073709551616,'
            b'"meta":{"a b":[1.10,null,true],"s":" \\" \\u00e9 "},"exp":1E+5,"\xec\x82\xbc":"\xec\x84\xb1",'
            b'"timestamp":"'
        )
        assert body.endswith(b'Z","sequence":1,"seq":1}')


ALERT: dict[str, Any] = {
    "type": "alert",
    "user_id": "user-1",
    "code": "005930",
    "alert_type": "price_above",
    "threshold": 75000,
    "current_price": 75100,
    "message": "Samsung Electronics exceeded 75,000 KRW",
}
BOOK = {"type": "orderbook_update", "code": "NEW2", "bids": [], "asks": []}
NEW = {"type": "price_update", "code": "NEW1", "price": 1}


@pytest.mark.parametrize(
    ("element", "field"),
    [
        ({}, "type"),
        ({"header": {}}, "type"),
        ({**PRICE, "type": None}, "type"),
        ({**PRICE, "type": 1}, "type"),
        ({**PRICE, "type": "trade"}, "type"),
        ({**PRICE, "type": "feed_status"}, "type"),
        ({"type": "price_update", "price": 1}, "code"),
        ({**PRICE, "code": 5930}, "code"),
        ({**PRICE, "code": ""}, "code"),
        ({**PRICE, "code": "a b"}, "code"),
        ({**PRICE, "code": "x" * 65}, "code"),
        ({"type": "price_update", "code": "NEW2"}, "price"),
        ({**PRICE, "price": None}, "price"),
        ({**PRICE, "price": "73000"}, "price"),
        ({**PRICE, "price": True}, "price"),
        ({**PRICE, "price": [1]}, "price"),
        ({**PRICE, "price": 2**63}, "price"),
        ({**PRICE, "volume": 1.5}, "volume"),
        ({**PRICE, "change": "x"}, "change"),
        ({**PRICE, "venue": 1}, "venue"),
        ({**PRICE, "event_time": "2025-11-11T09:30:00"}, "event_time"),
        ({**PRICE, "timestamp": "2025-11-11T09:30:00Z"}, "timestamp"),
        ({**PRICE, "sequence": 1}, "sequence"),
        ({**PRICE, "seq": None}, "seq"),
        ({**PRICE, "snapshot": True}, "snapshot"),
        ({**BOOK, "sequence": 1}, "sequence"),
        ({**BOOK, "bids": None}, "bids"),
        ({"type": "orderbook_update", "code": "NEW2", "bids": []}, "asks"),
        ({**BOOK, "asks": [{"price": 1}]}, "asks[0].quantity"),
        ({**BOOK, "asks": [{"price": 1, "quantity": 1}, []]}, "asks[1]"),
        ({**BOOK, "bids": [{"price": 1, "quantity": 1}, {"price": 1, "quantity": "x"}]}, "bids[1].quantity"),
        ({**BOOK, "bids": [{"price": 1, "quantity": 1}] * 11}, "bids"),
        ({"type": "market_status", "status": "open"}, "market"),
        ({"type": "market_status", "market": "KOSPI"}, "status"),
        ({"type": "market_status", "market": "", "status": "open"}, "market"),
        ({"type": "market_status", "market": "KOPSI", "status": "open"}, "market"),
        ({"type": "market_status", "market": "KOSPI", "status": "open", "seq": 1}, "seq"),
        ([], None),
        ([PRICE], None),
        (None, None),
        (1, None),
    ],
)
@scenario
async def test_a_wrong_element_is_named_and_nothing_is_published(element: object, field: str | None) -> None:
    async with site() as server:
        error = await server.refused([NEW, BOOK, element, {"type": "also wrong"}])
        assert error["details"] == ({"index": 2} if field is None else {"index": 2, "field": field})
        assert error["message"].startswith("element 2: " + (field or ""))
        if isinstance(element, dict):
            error = await server.refused(element)
            assert error["details"] == {"index": 0, "field": field}
        assert server.view.market.instrument("NEW1") is None


@scenario
async def test_a_member_of_the_server_is_found_however_it_is_written() -> None:
    async with site() as server:
        error = await server.refused(b'{"type":"price_update","code":"005930","price":1,"\\u0073equence":7}')
        assert error["details"]["field"] == "sequence"


@scenario
async def test_alerts_are_published_among_the_others() -> None:
    async with site() as server:
        answer = await server.publish(
            b'[{"type":"price_update","code":"005930","price":1},'
            b'{"type":"alert","user_id":"user-1","code":"005930","alert_type":"price_above","threshold":75000.50,'
            b'"current_price":75100,"message":"Samsung \xec\x82\xbc \\"up\\"","news_id":18446744073709551616,'
            b'"meta":{"k":[1.10]}},'
            b'{"\\u0074ype":"alert","user_id":123,"code":"NEW9","alert_type":"halt","threshold":0,'
            b'"current_price":-1.0,"message":"m"},'
            b'{"type":"price_update","code":"005930","price":2}]'
        )
        assert answer == {"accepted": 4, "first_sequence": 1, "last_sequence": 4}
        (user, first), (other, second) = server.view.told
        assert (user, other) == ("user-1", "123")
        assert encode_alert(first, 0) == (
            b'{"type":"alert","code":"005930","alert_type":"price_above","threshold":75000.50,"current_price":75100,'
            b'"message":"Samsung \xec\x82\xbc \\"up\\"","news_id":18446744073709551616,"meta":{"k":[1.10]},'
            b'"timestamp":"1970-01-01T00:00:00.000Z"'
        )
        assert second == Alert("NEW9", "halt", 0, Decimal("-1.0"), "m")
        # It is no instrument for that.
        assert server.view.market.instrument("NEW9") is None
        assert (await server.publish({**ALERT, "user_id": "7"}))["last_sequence"] == 5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *(({name: None}, name) for name in ("user_id", "code", "alert_type", "message")),
        *(({name: ...}, name) for name in ALERT if name != "type"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": "x" * 256}, "user_id"),
        ({"user_id": "a\nb"}, "user_id"),
        ({"user_id": True}, "user_id"),
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": ["user-1"]}, "user_id"),
        ({"code": 5930}, "code"),
        ({"code": "a b"}, "code"),
        ({"alert_type": ""}, "alert_type"),
        ({"alert_type": 1}, "alert_type"),
        ({"threshold": "75000"}, "threshold"),
        ({"threshold": None}, "threshold"),
        ({"threshold": 1e300}, "threshold"),
        ({"current_price": True}, "current_price"),
        ({"current_price": 2**63}, "current_price"),
        ({"message": 1}, "message"),
        ({"timestamp": "2025-11-11T09:30:00Z"}, "timestamp"),
        ({"sequence": 1}, "sequence"),
    ],
)
@scenario
async def test_a_wrong_alert_is_named_and_nothing_is_published(change: dict[str, Any], field: str) -> None:
    element = {name: value for name, value in {**ALERT, **change}.items() if value is not ...}
    async with site() as server:
        error = await server.refused([NEW, element, PRICE])
        assert error["details"] == {"index": 1, "field": field}
        assert error["message"].startswith(f"element 1: {field}: ")
        assert server.view.told == []


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"[]", b"1", b'"x"', b"null", b"{", b"[{]", b'{"type":"price_update"} {}', b"\xef\xbb\xbf{}",
     b'{"type":"price_update","code":"005930","price":1,"x":"\xff"}', b"[" * 100_000,
     b'{"type":"price_update","code":"005930","price":1,"x":"\\ud800"}',
     b'{"type":"price_update","code":"005930","price":1,"x":NaN}',
     b'{"type":"price_update","code":"005930","price":01}',
     b'{"type":"price_update","code":"005930","price":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"],
    ids=range(16),
)  # fmt: skip
@scenario
async def test_bodies_that_are_no_updates(body: bytes) -> None:
    async with site() as server:
        await server.refused(body)
        assert (await server.publish(PRICE))["accepted"] == 1


@scenario
async def test_the_largest_body_and_a_larger_one() -> None:
    async with site() as server:
        element = json.dumps(PRICE | {"note": "x" * 200}).encode()
        n = (MAX_BODY_SIZE - 2) // (len(element) + 1)
        body = b"[" + b",".join([element] * n) + b"]"
        body += b" " * (MAX_BODY_SIZE - len(body))
        answer = await server.publish(body)
        assert answer == {"accepted": n, "first_sequence": 1, "last_sequence": n}
        error = await server.error("POST", "/v1/publish", body + b" ", headers=bearer(ADMIN), status=413)
        assert error["message"] == f"the body is over {MAX_BODY_SIZE} bytes"
        assert server.view.hub.sequence == n


@scenario
async def test_a_request_has_so_many_elements() -> None:
    async with site() as server:
        assert (await server.publish([PRICE] * MAX_UPDATES))["accepted"] == MAX_UPDATES
        for body, n in (([PRICE] * (MAX_UPDATES + 1), MAX_UPDATES + 1), ([{}] * 300_000, 300_000)):
            compact = json.dumps(body, separators=(",", ":")).encode()
            error = await server.error("POST", "/v1/publish", compact, headers=bearer(ADMIN), status=413)
            assert error["code"] == "LIMIT_EXCEEDED"
            assert error["details"] == {"limit": MAX_UPDATES, "current": n}
            assert str(MAX_UPDATES) in error["message"]
        compact = json.dumps([{}] * 7 + [1] * 400_000, separators=(",", ":")).encode()
        error = await server.error("POST", "/v1/publish", compact, headers=bearer(ADMIN), status=400)
        assert (error["message"], error["details"]) == ("element 7: expected an object", {"index": 7})
        assert server.view.hub.sequence == MAX_UPDATES


@scenario
async def test_publishing_makes_so_many_instruments() -> None:
    async with site() as server:
        server.view.market.instruments.extend(Instrument(f"I{i}") for i in range(MAX_INSTRUMENTS - 2))
        new = [{**PRICE, "code": "N1"}, {**PRICE, "code": "N1"}, PRICE, {**PRICE, "code": "N2"}]
        error = await server.error("POST", "/v1/publish", new, headers=bearer(ADMIN), status=403)
        assert error["code"] == "LIMIT_EXCEEDED"
        assert error["details"] == {"limit": MAX_INSTRUMENTS, "current": MAX_INSTRUMENTS - 1}
        assert server.view.hub.sequence == 0
        # What there is already can be published on.
        await server.publish(new[:3])
        assert len(server.view.market.instruments) == MAX_INSTRUMENTS
        await server.error("POST", "/v1/publish", new, headers=bearer(ADMIN), status=403)
        assert (await server.publish(new[:3]))["last_sequence"] == 6


@scenario
async def test_the_sequences_of_a_request_have_no_gaps_while_others_publish() -> None:
    async with site() as server:
        is_over = False

        async def feed() -> None:
            while not is_over:
                server.view.market.publish_price(PriceUpdate(SAMSUNG, 1))
                await asyncio.sleep(0)

        feeding = asyncio.create_task(feed())
        element = {"type": "price_update", "code": "NEW1", "price": 2}
        answer = await server.publish([element] * 5000)
        is_over = True
        await feeding
        assert answer["last_sequence"] - answer["first_sequence"] == 4999
        assert answer["first_sequence"] > 5  # the feed went on while the request was read


def test_a_status_is_read_with_what_the_server_does_not_know() -> None:
    update = decode_body(
        b'{"type":"market_status","market":"KOSPI","status":"open","venue":"KRX","n":1.10,"sequence":3}',
        Instrument,
    )
    assert isinstance(update, MarketStatus)
    assert update.extra == b'"venue":"KRX","n":1.10'
    assert isinstance(decode_body(json.dumps(BOOK).encode(), Instrument), BookUpdate)


# Alerts.


@scenario
async def test_alerts_are_made_listed_and_deleted() -> None:
    mine, other = bearer(token(7)), bearer(token("other"))
    async with site() as server:
        assert await server.json("GET", "/v1/alerts", headers=mine) == []
        rule = await server.json("POST", "/v1/alerts", RULE, headers=mine, status=201)
        assert TIMESTAMP.fullmatch(rule["created_at"])
        assert {**rule, "created_at": None} == {
            **RULE, "id": rule["id"], "created_at": None, "fired_at": None, "fired_price": None,
        }  # fmt: skip
        exact = b'{"code":"005930","alert_type":"change_percent_below","threshold":-1.50,"note":"ignored"}'
        response = await server.ask("POST", "/v1/alerts/", exact, mine)
        assert response.status == 201
        assert b'"threshold":-1.50,' in response.body
        # The id 7 and the id "7" are one user.
        listed = await server.json("GET", "/v1/alerts", headers=bearer(token("7")))
        assert listed == [rule, json.loads(response.body)]
        assert await server.json("GET", "/v1/alerts", headers=other) == []

        path = f"/v1/alerts/{rule['id']}"
        assert (await server.error("DELETE", path, headers=other, status=404))["code"] == "NOT_FOUND"
        gone = await server.ask("DELETE", path, headers=mine)
        assert (gone.status, gone.body) == (204, b"")
        await server.error("DELETE", path, headers=mine, status=404)
        assert await server.json("GET", "/v1/alerts", headers=mine) == listed[1:]
        assert server.view.alerts.n_waiting == 1


@scenario
async def test_alerts_are_on_what_the_token_allows() -> None:
    """Else the price at which it has fired would tell what is forbidden."""
    async with site() as server:
        headers = bearer(token(topics=["stock:AAPL"]))
        for code in ("005930", "NOBODY"):
            rule = {**RULE, "code": code}
            error = await server.error("POST", "/v1/alerts", rule, headers=headers, status=403)
            assert (error["code"], error["details"]) == ("FORBIDDEN", {"field": "code"})
        assert await server.json("GET", "/v1/alerts", headers=headers) == []
        headers = bearer(token(topics=["005930"]))
        await server.json("POST", "/v1/alerts", RULE, headers=headers, status=201)


@scenario
async def test_an_alert_fires_and_shows_it() -> None:
    async with site() as server:
        await server.json("POST", "/v1/alerts", RULE, headers=bearer(token()), status=201)
        server.view.alerts.on_price(PriceUpdate(SAMSUNG, 75100))
        async with asyncio.timeout(10):
            while not server.view.told:
                await asyncio.sleep(0.002)
        assert [user_id for user_id, _ in server.view.told] == ["user-1"]
        [rule] = await server.json("GET", "/v1/alerts", headers=bearer(token()))
        assert TIMESTAMP.fullmatch(rule["fired_at"])
        assert rule["fired_price"] == 75100


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "code"),
        ({**RULE, "code": None}, "code"),
        ({**RULE, "code": 5930}, "code"),
        ({**RULE, "code": "999999"}, "code"),
        ({**RULE, "alert_type": "price_equals"}, "alert_type"),
        ({**RULE, "alert_type": 1}, "alert_type"),
        ({"code": "005930", "threshold": 1}, "alert_type"),
        ({"code": "005930", "alert_type": "price_above"}, "threshold"),
        ({**RULE, "threshold": None}, "threshold"),
        ({**RULE, "threshold": "75000"}, "threshold"),
        ({**RULE, "threshold": True}, "threshold"),
        ({**RULE, "threshold": 0}, "threshold"),
        ({**RULE, "threshold": 2**63}, "threshold"),
        ({**RULE, "threshold": [1]}, "threshold"),
        ([], None),
        (b"", None),
        (b'{"code":"\xff"}', None),
    ],
)
@scenario
async def test_wrong_alerts(body: object, field: str | None) -> None:
    async with site() as server:
        error = await server.error("POST", "/v1/alerts", body, headers=bearer(token()), status=400)
        assert error["code"] == "INVALID_MESSAGE"
        assert error.get("details") == (None if field is None else {"field": field})
        assert error["message"].startswith("" if field is None else f"{field}: ")
        assert server.view.alerts.n_waiting == 0


@scenario
async def test_a_user_whose_id_cannot_be_stored() -> None:
    async with site() as server:
        headers = bearer(token("x" * 256))
        for method, path, body in (
            ("GET", "/v1/alerts", None),
            ("POST", "/v1/alerts", RULE),
            ("DELETE", "/v1/alerts/1", None),
        ):
            error = await server.error(method, path, body, headers=headers, status=400)
            assert error["details"] == {"field": "user_id"}


@scenario
async def test_ids_that_no_alert_can_have() -> None:
    async with site() as server:
        for text in ("0", "-1", "x", "1.0", "%EF%BC%91", str(2**63), "9" * 19, "1" * 5000):
            error = await server.error("DELETE", f"/v1/alerts/{text}", headers=bearer(token()), status=404)
            assert error["code"] == "NOT_FOUND"


@scenario
async def test_a_user_may_have_so_many_alerts() -> None:
    async with site(alerts_per_user=2) as server:
        for status in (201, 201):
            await server.json("POST", "/v1/alerts", RULE, headers=bearer(token()), status=status)
        error = await server.error("POST", "/v1/alerts", RULE, headers=bearer(token()), status=403)
        assert error["code"] == "LIMIT_EXCEEDED"
        assert error["details"] == {"limit": 2, "current": 2}
        await server.json("POST", "/v1/alerts", RULE, headers=bearer(token("other")), status=201)


@scenario
async def test_a_database_that_is_gone() -> None:
    async with site() as server:
        await server.view.store.close()
        for method, path, body in (
            ("GET", "/v1/alerts", None),
            ("POST", "/v1/alerts", RULE),
            ("DELETE", "/v1/alerts/1", None),
        ):
            error = await server.error(method, path, body, headers=bearer(token()), status=503)
            assert error["code"] == "SERVICE_UNAVAILABLE"
            assert "sqlite" not in error["message"]
