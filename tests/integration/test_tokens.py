"""Tokens of every kind, brought in every way, to real servers: who is let in, and what the others are told."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.clients import Client, client
from tests.conftest import StartServer
from tests.serving import Server

SECRET = "a secret of more than thirty-two bytes"
NAMED_SECRET = "the secret of key 1, of more than thirty-two bytes"
WAYS = ["header", "subprotocol", "query", "message"]


@cache
def private_key(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def public_pem() -> str:
    return private_key(0).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def claims(**changes: Any) -> dict[str, Any]:
    return {"sub": "user-123", "aud": "fastws", "exp": time.time() + 600} | changes


def with_secret(secret: str = SECRET, kid: str | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), secret, "HS256", headers=None if kid is None else {"kid": kid})


def with_key(number: int = 0, kid: str | None = None, **changes: Any) -> str:
    return jwt.encode(
        claims(**changes), private_key(number), "RS256", headers=None if kid is None else {"kid": kid}
    )


def confused() -> str:
    """Signed with the public key as if it were a secret (CVE-2015-9235); libraries refuse to make one."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims())]
    signed = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    signature = hmac.digest(public_pem().encode(), signed.encode(), hashlib.sha256)
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


class Case(NamedTuple):
    """A token, the server it is for, and why it is refused; None: it is good."""

    server: str
    token: Callable[[], str]
    reason: str | None


CASES = {
    "good": Case("HS", with_secret, None),
    "good, of a named key": Case("HS", lambda: with_secret(NAMED_SECRET, "1"), None),
    "good, of a public key": Case("RS", with_key, None),
    "wrong secret": Case("HS", lambda: with_secret(SECRET + "x"), "signature"),
    "wrong key": Case("RS", lambda: with_key(1), "signature"),
    "secret of another key": Case("HS", lambda: with_secret(SECRET, "1"), "signature"),
    "public key as a secret": Case("RS", confused, "algorithm"),
    "private key where a secret is": Case("HS", with_key, "algorithm"),
    "none": Case("HS", lambda: jwt.encode(claims(), None, "none"), "algorithm"),
    "none where a public key is": Case("RS", lambda: jwt.encode(claims(), None, "none"), "algorithm"),
    "expired": Case("HS", lambda: with_secret(exp=time.time() - 1), "expired"),
    "not yet valid": Case("HS", lambda: with_secret(nbf=time.time() + 600), "not_yet_valid"),
    "wrong aud": Case("HS", lambda: with_secret(aud="another"), "audience"),
    "no aud": Case("HS", lambda: with_secret(aud=[]), "audience"),
    "unknown kid": Case("HS", lambda: with_secret(NAMED_SECRET, "2"), "unknown_key"),
    "JWKS down": Case("JWKS", lambda: with_key(kid="1"), "unavailable"),
    "no user": Case("HS", lambda: with_secret(sub=""), "claim"),
    "cut off": Case("HS", lambda: with_secret().rpartition(".")[0], "malformed"),
}


@pytest.fixture
def servers(shared_server: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Server]:
    keys = Path(tmp_path_factory.getbasetemp()) / "keys.toml"
    keys.write_text(f'1 = "{NAMED_SECRET}"\n')
    settings: dict[str, dict[str, object]] = {
        "HS": {"jwt_secret": SECRET, "jwt_keys": keys},
        "RS": {"jwt_algorithm": "RS256", "jwt_public_key": public_pem()},
        # Nothing listens there.
        "JWKS": {"jwt_algorithm": "RS256", "jwks_url": "http://127.0.0.1:1/keys.json"},
    }
    return lambda name: shared_server(
        "--feed", "none", jwt_audience="fastws", connections_per_user=0, **settings[name]
    )


@contextlib.asynccontextmanager
async def bringing(server: Server, token: str, way: str) -> AsyncIterator[Client]:
    """A connection that has brought a token, and heard nothing but the greeting that comes before a message."""
    options: dict[str, Any] = {}
    url = server.url
    if way == "header":
        options["additional_headers"] = {"Authorization": f"Bearer {token}"}
    elif way == "subprotocol":
        options["subprotocols"] = ["fastws", f"bearer.{token}"]
    elif way == "query":
        url += f"?token={token}"
    async with client(url, greeted=way == "message", **options) as connection:
        if way == "message":
            assert connection.greeting["authenticated"] is False
            await connection.send(type="auth", token=token)
        yield connection


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
async def test_every_kind_in_every_way(servers: Callable[[str], Server], name: str, way: str) -> None:
    case = CASES[name]
    server = servers(case.server)
    token = case.token()
    async with bringing(server, token, way) as connection:
        answer = await connection.receive()
        if case.reason is None:
            assert answer["type"] == ("authenticated" if way == "message" else "connection")
            assert answer["user_id"] == "user-123"
        else:
            assert (answer["type"], answer["code"]) == ("error", "INVALID_TOKEN")
            assert answer["details"] == {"reason": case.reason}
            assert not any(part in json.dumps(answer, default=str) for part in token.split(".") if part)
        if case.reason is None or way == "message":
            await connection.sync()
        else:
            assert await connection.closed() == 4401


# Where the keys cannot be had, there is no good token to begin with.
@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.reason and case.server != "JWKS"]
)
async def test_no_bad_token_replaces_a_good_one(servers: Callable[[str], Server], name: str) -> None:
    case = CASES[name]
    server = servers(case.server)
    good = with_secret() if case.server == "HS" else with_key()
    async with bringing(server, good, "header") as connection:
        assert (await connection.receive())["authenticated"] is True
        await connection.send(type="refresh_token", token=case.token(), id=1)
        error = await connection.receive()
        assert (error["code"], error["details"], error["id"]) == (
            "TOKEN_REFRESH_ERROR", {"reason": case.reason}, 1,
        )  # fmt: skip
        await connection.send(type="refresh_token", token=good)
        assert (await connection.receive())["type"] == "token_refreshed"
