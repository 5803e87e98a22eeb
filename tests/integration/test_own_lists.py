"""The endpoints in which pages look for instruments, and users for their portfolios."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from tests.conftest import StartServer
from tests.serving import Server, run, until

SECRET = "a secret of more than thirty-two bytes"
ADMIN = "the administrator of the tests"


def bearer(user: object, **claims: Any) -> dict[str, str]:
    token = jwt.encode({"sub": user, "exp": time.time() + 600, **claims}, SECRET, "HS256")
    return {"Authorization": f"Bearer {token}"}


def ask(server: Server, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    status, body = server.get(path, headers=headers)
    return status, json.loads(body)


# Instruments.


def test_instruments_are_found_and_described(shared_server: StartServer) -> None:
    target = shared_server("--feed", "none", jwt_secret=SECRET)
    status, body = ask(target, "/v1/instruments?q=samsung%20elec&limit=1")
    assert status == 200
    assert body["instruments"] == [
        {
            "code": "005930",
            "name": "Samsung Electronics",
            "market": "KOSPI",
            "sector": "IT",
            "currency": "KRW",
            "previous_close": 72000,
        }
    ]
    assert body["total"] >= 1
    # A price with decimals is a number with those.
    assert b'"previous_close":269.43' in target.get("/v1/instruments/?code=AAPL")[1]
    status, body = ask(target, "/v1/instruments?code=AAPL&code=none&code=005930&code=AAPL")
    assert [one["code"] for one in body["instruments"]] == ["AAPL", "005930"]
    everything = ask(target, "/v1/instruments")[1]
    assert len(everything["instruments"]) == 20
    assert everything["total"] == len(ask(target, "/v1/stocks")[1]["stocks"])


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=many", "limit"),
        (f"q={'a' * 65}", "q"),
        ("q=a&code=AAPL", "q"),
        ("&".join(f"code={number}" for number in range(101)), "code"),
    ],
)
def test_what_is_asked_for_is_bounded(shared_server: StartServer, query: str, named: str) -> None:
    target = shared_server("--feed", "none", jwt_secret=SECRET)
    status, body = ask(target, f"/v1/instruments?{query}")
    assert (status, body["error"]["code"]) == (400, "INVALID_PARAMETER")
    assert body["error"]["message"].startswith(f"{named} must be")


def test_instruments_are_shown_to_those_who_may_have_their_prices(shared_server: StartServer) -> None:
    target = shared_server("--feed", "none", jwt_secret=SECRET, allow_anonymous="false")
    assert ask(target, "/v1/instruments?q=apple")[0] == 401
    assert ask(target, "/v1/instruments?q=apple", {"Authorization": "Bearer a.b.c"})[0] == 401
    mine = bearer("me", topics=["stock:AAPL", "stock:0059*"])
    body = ask(target, "/v1/instruments", mine)[1]
    assert {one["code"] for one in body["instruments"]} >= {"005930", "AAPL"}
    assert all(one["code"] == "AAPL" or one["code"].startswith("0059") for one in body["instruments"])
    assert ask(target, "/v1/instruments?code=000660&code=AAPL", mine)[1]["total"] == 1
    assert ask(target, "/v1/instruments?q=hynix", mine)[1] == {"instruments": [], "total": 0}


# Portfolios.


def imported(tmp_path: Path, *lines: str) -> None:
    (tmp_path / "portfolios.csv").write_text("\n".join(["id,owner,name,currency", *lines, ""]))
    database = f"sqlite:///{tmp_path / 'fastws.db'}"
    done = run(tmp_path, "import", "portfolios", str(tmp_path / "portfolios.csv"), "--database", database)
    assert done.returncode == 0, done.stderr


def listed(server: Server, headers: dict[str, str]) -> list[int]:
    status, body = ask(server, "/v1/portfolios", headers)
    assert status == 200
    assert body["total"] == len(body["portfolios"])
    return [one["id"] for one in body["portfolios"]]


def test_users_are_told_their_own_portfolios_only(server: StartServer, tmp_path: Path) -> None:
    imported(
        tmp_path, "3,trader,Growth,KRW", "1,trader,US Tech,USD", "2,other,Secret,KRW", "9,123,Numbered,KRW"
    )
    target = server(
        *("--feed", "none", "--database", f"sqlite:///{tmp_path / 'fastws.db'}"),
        jwt_secret=SECRET,
        admin_token=ADMIN,
        portfolio_poll_interval="0.2",
    )
    assert ask(target, "/v1/portfolios") == (
        401,
        {
            "error": {
                "code": "AUTH_REQUIRED",
                "message": "send a token as Authorization: Bearer, or as ?token=",
            }
        },
    )
    assert ask(target, "/v1/portfolios", {"Authorization": f"Bearer {ADMIN}"})[0] == 401
    assert ask(target, "/v1/portfolios", bearer("trader")) == (
        200,
        {
            "portfolios": [
                {"id": 1, "name": "US Tech", "currency": "USD"},
                {"id": 3, "name": "Growth", "currency": "KRW"},
            ],
            "total": 2,
        },
    )
    assert listed(target, bearer("other")) == [2]
    assert listed(target, bearer("nobody")) == []
    # 123 and "123" are one user; a token may name fewer than there are.
    assert listed(target, bearer("123")) == [9]
    assert listed(target, bearer("trader", portfolios=[3, 2])) == [3]
    assert listed(target, bearer("trader", portfolios=[])) == []
    # Whoever gets one from somebody has it in the list at once, and the other one has it no more.
    imported(tmp_path, "3,other,Growth,KRW", "1,trader,US Tech,USD", "2,other,Secret,KRW")
    until(lambda: listed(target, bearer("other")) == [2, 3], "the new owner")
    assert listed(target, bearer("trader")) == [1]
