"""Verifying a token: what each handshake with a token costs, by algorithm, beside PyJWT."""

from __future__ import annotations

from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.calibration import Yardstick
from benchmarks.conftest import Measure
from fastws.auth import Authenticator
from fastws.auth.tokens import sign
from fastws.settings import JwtAlgorithm, Settings

NOW = 1_800_000_000.0
SECRET = "an HS secret of 32 bytes and more"
CLAIMS: dict[str, Any] = {
    "sub": "user-123",
    "exp": 4_000_000_000,
    "iat": 1_700_000_000,
    "iss": "https://issuer.example",
    "aud": "fastws",
    "jti": "550e8400-e29b-41d4-a716-446655440000",
}
ALGORITHMS: dict[JwtAlgorithm, int] = {"HS256": 50, "RS256": 10, "ES256": 10, "EdDSA": 10}


@cache
def private_key(algorithm: str) -> Any:
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
    return SECRET.encode()


def public_key(algorithm: str) -> str:
    if algorithm == "HS256":
        return SECRET
    key = private_key(algorithm).public_key()
    return str(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_verify(measure: Measure, algorithm: JwtAlgorithm) -> None:
    """Authenticator.verify: signature, expiry, issuer, audience, revocation"""
    n = ALGORITHMS[algorithm]
    key: dict[str, Any] = {"jwt_secret" if algorithm == "HS256" else "jwt_public_key": public_key(algorithm)}
    settings = Settings(jwt_algorithm=algorithm, jwt_issuer=CLAIMS["iss"], jwt_audience=CLAIMS["aud"], **key)
    authenticator = Authenticator(settings, clock=lambda: NOW)
    token = sign(CLAIMS, private_key(algorithm), algorithm)

    def verify() -> str:
        for _ in range(n):
            user_id = authenticator.verify(token).user_id
        return str(user_id)

    like: Yardstick = "python" if algorithm == "HS256" else "native"
    assert measure(verify, unit="tokens", items=n, like=like) == "user-123"
    assert authenticator.failures == {}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_verify_with_pyjwt(measure: Measure, algorithm: JwtAlgorithm) -> None:
    """PyJWT, jwt.decode with a key that is loaded already"""
    n = ALGORITHMS[algorithm]
    key = private_key(algorithm)
    key = key if algorithm == "HS256" else key.public_key()
    token = sign(CLAIMS, private_key(algorithm), algorithm)

    def verify() -> str:
        for _ in range(n):
            claims = jwt.decode(
                token, key, algorithms=[algorithm], issuer=CLAIMS["iss"], audience=CLAIMS["aud"]
            )
        return str(claims["sub"])

    like: Yardstick = "python" if algorithm == "HS256" else "native"
    against = f"auth.verify[{algorithm}]"
    assert measure(verify, unit="tokens", items=n, like=like, against=against) == "user-123"
