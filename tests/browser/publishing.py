"""What the servers of clients and pages are started with here, and what is published there."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from typing import Any

from tests.serving import Server

ADMIN = "the administrator of the tests"
SECRET = "a secret of more than thirty-two bytes"
# Back soon, and alone.
SETTINGS = {
    "admin_token": ADMIN,
    "jwt_secret": SECRET,
    "shutdown_spread": "0",
    "rate_limit": 1000,
    "allowed_origins": "*",
}


def publish(server: Server, *messages: dict[str, Any], connection: HTTPConnection | None = None) -> None:
    own = connection or server.http_connection()
    own.request("POST", "/v1/publish", json.dumps(messages), {"Authorization": f"Bearer {ADMIN}"})
    response = own.getresponse()
    body = response.read()
    assert response.status == 202, body
    if connection is None:
        own.close()


def price(code: str, value: int, **members: Any) -> dict[str, Any]:
    return {"type": "price_update", "code": code, "price": value, **members}


def book(code: str, value: int, **members: Any) -> dict[str, Any]:
    levels = {"bids": [{"price": value - 10, "quantity": 1}], "asks": [{"price": value, "quantity": 2}]}
    return {"type": "orderbook_update", "code": code, **levels, **members}
