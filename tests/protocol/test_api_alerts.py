"""Alert rules over HTTP: what is done, and what a wrong request is told."""

from __future__ import annotations

import asyncio
import json

import pytest
from api_site import RULE, SAMSUNG, TIMESTAMP, bearer, site, token
from listening import scenario

from fastws._market import PriceUpdate


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
        async with asyncio.timeout(30):
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
