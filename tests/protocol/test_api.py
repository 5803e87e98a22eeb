"""The HTTP endpoints that act: who may, and the list of connections."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from api_site import ADMIN, PRICE, RULE, bearer, site, token
from listening import Response, scenario

from fastws.auth.tokens import sign

# Who may.

ADMIN_REQUESTS: list[tuple[str, str, object, int]] = [
    ("GET", "/v1/ws/connections", None, 200),
    ("GET", "/v1/ws/ledger", None, 200),
    ("POST", "/v1/admin/kick", {"jti": "x"}, 200),
    ("POST", "/v1/publish", PRICE, 202),
    ("POST", "/v1/portfolios/reload", None, 200),
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
        assert len(endpoints) == 9
        for endpoint in endpoints:
            assert endpoint["about"]
            path = endpoint["path"].format(id=1)
            assert (await server.ask(endpoint["method"], path)).status in (401, 403)


# Reading portfolios again.


@scenario
async def test_portfolios_are_read_again_all_or_some() -> None:
    async with site() as server:
        asked: list[tuple[object, object]] = [
            (None, None), (b" ", None), ({}, None), ({"ids": []}, []),
            ({"ids": [1, -2, 2**63 - 1]}, [1, -2, 2**63 - 1]),
        ]  # fmt: skip
        for body, ids in asked:
            named = [{"id": None, "problem": "id"}, *({"id": n, "problem": f"of {n}"} for n in range(1, 10))]
            answer = await server.json("POST", "/v1/portfolios/reload", body, headers=bearer(ADMIN))
            assert answer == {
                "portfolios": 100,
                "positions": 2000,
                "owners_changed": 1,
                "left_out": 12,
                "first_left_out": named,
                "seconds": 0.25,
            }
            assert server.view.reloaded.pop() == ids
        for wrong in (
            {"ids": 1},
            {"ids": ["1"]},
            {"ids": [1.5]},
            {"ids": [2**63]},
            {"ids": list(range(10_001))},
        ):
            error = await server.error(
                "POST", "/v1/portfolios/reload", wrong, headers=bearer(ADMIN), status=400
            )
            assert (error["code"], error["details"]) == ("INVALID_MESSAGE", {"field": "ids"})
        error = await server.error("POST", "/v1/portfolios/reload", b"[", headers=bearer(ADMIN), status=400)
        assert error["code"] == "INVALID_MESSAGE"
        assert server.view.reloaded == []
        error = await server.error(
            "POST", "/v1/portfolios/reload", {"ids": [13]}, headers=bearer(ADMIN), status=503
        )
        assert error["code"] == "SERVICE_UNAVAILABLE"


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
        async with asyncio.timeout(30):
            while (await server.ask("GET", "/v1/alerts", headers=bearer(token()) | known)).status != 200:
                await asyncio.sleep(0.02)


@scenario
async def test_the_connection_list_and_kicking() -> None:
    async with site() as server:

        async def kick(body: object) -> int:
            answer = await server.json("POST", "/v1/admin/kick", body, headers=bearer(ADMIN))
            # The names of others that have not said how many of theirs they have closed.
            assert answer.pop("missing", []) == (["another"] if body == {"connection_id": "c3"} else [])
            assert list(answer) == ["closed"]
            n: int = answer["closed"]
            return n

        async def ids() -> list[str]:
            found = await server.json("GET", "/v1/ws/connections", headers=bearer(ADMIN))
            assert all(connection["subscriptions"] == {"stock": ["005930"]} for connection in found)
            return [connection["connection_id"] for connection in found]

        assert await ids() == ["c1", "c2", "c3"]
        short = await server.json("GET", "/v1/ws/connections?subscriptions=false", headers=bearer(ADMIN))
        assert short == server.view.open
        for query in ("subscriptions=no", "scope=cluster"):
            error = await server.error(
                "GET", f"/v1/ws/connections?{query}", headers=bearer(ADMIN), status=400
            )
            assert error["code"] == "INVALID_PARAMETER"
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

        def connections(*, has_subscriptions: bool) -> Iterator[dict[str, Any]]:
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
