"""Keys, tokens good and bad, and what is said of those that are refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import logging
import traceback
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fastws import logs
from fastws.auth import Authenticator, AuthError
from fastws.settings import Settings

NOW = 1_800_000_000.0
SECRET = "an HS secret that is long enough for every algorithm, SHA-512 included"
OTHER_SECRET = "another HS secret that is long enough for every algorithm, SHA-512 included"
CLAIMS: dict[str, Any] = {"sub": "user-123", "exp": NOW + 60}
ASYMMETRIC = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


def private_key(kind: str, number: int = 0) -> Any:
    """Return key `number` that signs with algorithm `kind`."""
    # RSA keys take long to make.
    return _new_key("RSA" if kind.startswith(("RS", "PS")) else kind, number)


@cache
def _new_key(kind: str, number: int) -> Any:
    if kind == "RSA":
        return rsa.generate_private_key(65537, 2048)
    if kind == "weak RSA":
        return rsa.generate_private_key(65537, 1024)
    if kind == "Ed448":
        return ed448.Ed448PrivateKey.generate()
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(
        {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1(), "K": ec.SECP256K1()}[kind]
    )


def public_pem(kind: str, number: int = 0) -> str:
    key = private_key(kind, number).public_key()
    return str(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def private_pem(kind: str, number: int = 0) -> str:
    key = private_key(kind, number)
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def authenticator(**settings: Any) -> Authenticator:
    if not settings.keys() & {"jwt_secret", "jwt_public_key", "jwt_keys"}:
        settings["jwt_secret"] = SECRET
    return Authenticator(Settings(**settings), clock=lambda: NOW)


def token(
    claims: dict[str, Any] | None = None, key: Any = SECRET, algorithm: str = "HS256", **header: Any
) -> str:
    return jwt.encode(CLAIMS if claims is None else claims, key, algorithm, headers=header)


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_token(header: bytes, payload: bytes, secret: str = SECRET) -> str:
    """Sign arbitrary bytes, which no library would."""
    signed = f"{base64url(header)}.{base64url(payload)}"
    signature = hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)
    return f"{signed}.{base64url(signature)}"


def signed_payload(payload: bytes) -> str:
    return raw_token(b'{"alg":"HS256"}', payload)


def error_of(verify: Callable[[], object], text: str) -> AuthError:
    """Return the error of `verify`, which must not tell anything of the token `text`."""
    with pytest.raises(AuthError) as caught:
        verify()
    error = caught.value
    assert "\n" not in str(error)
    report = "".join(traceback.format_exception(error)) + repr(error)
    assert not any(part in report for part in text.split(".") if len(part) > 7)
    assert error.__cause__ is None
    assert error.__context__ is None or isinstance(error.__context__, AuthError)
    return error


def reason(subject: Authenticator, text: str) -> str:
    return error_of(lambda: subject.verify(text), text).reason


def logged() -> Iterator[io.StringIO]:
    """Yield what is logged until the end, as JSON lines."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
