"""Keys and what is done with them: read from settings, PEM texts and JWK Sets, checked against the one algorithm.

Sans-IO. A key is checked when it is read, so that verifying needs no check: RFC 7518 §3 for the kinds and
sizes that an algorithm needs. That one algorithm is configured and its keys are of its kind is what makes
confusing RS and HS impossible (RFC 8725 §3.1).
"""

from __future__ import annotations

from typing import Any, Final, get_args

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey, Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt.algorithms import Algorithm, get_default_algorithms

from fastws.errors import FastwsError
from fastws.settings import JwtAlgorithm

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey
Key = bytes | PublicKey
PrivateKey = bytes | RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey | Ed448PrivateKey

MAX_TRIED: Final = 8
"""Keys tried on a token that does not say which one it was signed with."""
MIN_RSA_BITS: Final = 2048

_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}

_implementations: Final[dict[str, Algorithm]] = {
    name: implementation
    for name, implementation in get_default_algorithms().items()
    if name in get_args(JwtAlgorithm)
}


class KeyMaterialError(FastwsError):
    """A key cannot be used. `problem` completes "the key …", `fix` says what to do; neither shows the key."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}; {fix}")
        self.problem = problem
        self.fix = fix


class Keys(msgspec.Struct, frozen=True):
    """Keys for one algorithm: `named` by key id, several where two have the same one, and `unnamed`."""

    named: dict[str, tuple[Any, ...]] = {}
    unnamed: tuple[Any, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.named or self.unnamed)

    def __repr__(self) -> str:
        return f"<Keys named={len(self.named)} unnamed={len(self.unnamed)}>"

    def candidates(self, kid: str | None) -> tuple[Key, ...]:
        """Return the keys that may have signed a token with this key id, best guess first.

        A key id that is not known leaves the unnamed keys: issuers add ids that nobody has configured.
        """
        if kid is not None:
            return self.named.get(kid, self.unnamed[:MAX_TRIED])
        return (*self.unnamed, *(key for keys in self.named.values() for key in keys))[:MAX_TRIED]

    def __or__(self, other: Keys) -> Keys:
        named = dict(self.named)
        for kid, keys in other.named.items():
            named[kid] = (*named.get(kid, ()), *keys)
        return Keys(named, (*self.unnamed, *other.unnamed))


def is_symmetric(algorithm: str) -> bool:
    """Whether the key that verifies is the one that signs."""
    return algorithm.startswith("HS")


def has_signed(algorithm: str, key: Key, signed: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of `key`, which fits `algorithm`, for `signed`."""
    return _implementations[algorithm].verify(signed, key, signature)


def signature_of(algorithm: str, signed: bytes, key: PrivateKey) -> bytes:
    """Sign with a key that fits `algorithm`."""
    return _implementations[algorithm].sign(signed, key)


def read_key(text: str, algorithm: str) -> Key:
    """Read the key that verifies: a secret for HS algorithms, else a public key in PEM.

    Raises:
        KeyMaterialError: it is no such key, or does not fit `algorithm`.
    """
    if is_symmetric(algorithm):
        return read_secret(text, algorithm)
    # An environment file cannot hold line breaks, so there they are often written as \n.
    pem = text.replace("\\n", "\n").encode()
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if key is None:
        if b"PRIVATE KEY" in pem:
            raise KeyMaterialError(
                "is a private key, which has no place in a server that only verifies",
                "write the public one of it: openssl pkey -in FILE -pubout",
            )
        if b"CERTIFICATE" in pem:
            raise KeyMaterialError(
                "is a certificate", "write its public key: openssl x509 -in FILE -pubkey -noout"
            )
        raise KeyMaterialError("is not a public key in PEM", "give the text that begins with -----BEGIN")
    check_public_key(key, algorithm)
    return key  # type: ignore[return-value]  # of a kind that check_public_key lets pass


def read_secret(text: str, algorithm: str) -> bytes:
    """Read the secret of an HS algorithm.

    Raises:
        KeyMaterialError: it is a key file, which anyone may have: a token "signed" with a public key as
            secret would be accepted.
    """
    try:
        secret: bytes = _implementations[algorithm].prepare_key(text)
    except jwt.InvalidKeyError:
        secret = b""
    if not secret:
        raise KeyMaterialError(
            f"is no secret for {algorithm}: it is empty, or a key in PEM, SSH or JWK form",
            "write a long random text, or set jwt_algorithm to that of the key",
        )
    return secret


def recommended_secret_size(algorithm: str) -> int:
    """Return how many bytes the secret of an HS algorithm should have at least (RFC 7518 §3.2)."""
    return int(algorithm.removeprefix("HS")) // 8


def read_private_key(text: str, algorithm: str) -> PrivateKey:
    """Read the private key in PEM with which tokens of an RS, PS, ES or EdDSA `algorithm` are signed.

    Raises:
        KeyMaterialError: it is no such key, or does not fit `algorithm`.
    """
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if key is None:
        raise KeyMaterialError(
            "is not a private key in PEM without a password", "make one with openssl genpkey"
        )
    check_public_key(key.public_key(), algorithm)
    return key  # type: ignore[return-value]  # of a kind that check_public_key lets pass


def check_public_key(key: object, algorithm: str) -> None:
    """See that a public key is of the kind and size that `algorithm` needs.

    Raises:
        KeyMaterialError: it is not.
    """
    fitting: tuple[str, ...]
    if isinstance(key, RSAPublicKey):
        kind, fitting = "an RSA key", ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
    elif isinstance(key, EllipticCurvePublicKey):
        kind = f"a key on the curve {key.curve.name}"
        fitting = tuple(name for name, curve in _CURVES.items() if curve == key.curve.name)
    elif isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        kind, fitting = "an Ed25519 or Ed448 key", ("EdDSA",)
    else:
        kind, fitting = "a key of a kind that signs no tokens", ()
    if algorithm not in fitting:
        raise KeyMaterialError(
            f"is {kind} and does not fit jwt_algorithm {algorithm}",
            f"set jwt_algorithm to {fitting[0]}" if fitting else "use an RSA, EC or Ed25519 key",
        )
    if isinstance(key, RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise KeyMaterialError(
            f"is an RSA key of {key.key_size} bits", f"use one of {MIN_RSA_BITS} bits or more"
        )


def read_key_set(data: bytes, algorithm: str) -> Keys:
    """Read a JWK Set (RFC 7517 §5) for an RS, PS, ES or EdDSA algorithm.

    Keys for other uses and other algorithms, private ones and broken ones are left out, as §5 demands.

    Raises:
        KeyMaterialError: it is no key set, or has no key for `algorithm`.
    """
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise KeyMaterialError("is not a JWK Set", "name the address of the issuer's jwks.json")
    named: dict[str, tuple[PublicKey, ...]] = {}
    unnamed: tuple[PublicKey, ...] = ()
    for member in members:
        key = _read_jwk(member, algorithm) if isinstance(member, dict) else None
        if key is None:
            continue
        kid = member.get("kid")
        if isinstance(kid, str):
            named[kid] = (*named.get(kid, ()), key)
        else:
            unnamed += (key,)
    keys = Keys(named, unnamed)
    if not keys:
        raise KeyMaterialError(
            f"has no key for {algorithm} among its {len(members)}",
            "set jwt_algorithm to that of the issuer's keys",
        )
    return keys


def _read_jwk(jwk: dict[str, Any], algorithm: str) -> PublicKey | None:
    operations = jwk.get("key_ops", ["verify"])
    if (
        jwk.get("use", "sig") != "sig"
        or not (isinstance(operations, list) and "verify" in operations)
        or jwk.get("alg", algorithm) != algorithm
    ):
        return None
    try:
        key = jwt.PyJWK(jwk, algorithm=algorithm).key
        check_public_key(key, algorithm)
    except (jwt.PyJWTError, KeyMaterialError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        # Whatever is wrong in a member of somebody else's document, the other keys are still good.
        return None
    return key  # type: ignore[no-any-return]  # of a kind that check_public_key lets pass
