"""Signed tokens as texts: where a request carries one, how it is taken apart, how a test token is made.

Sans-IO. Nothing here decides whether a token is genuine; :mod:`fastws.auth.authenticator` does.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeVar

import msgspec

from fastws.auth.keys import PrivateKey, signature_of
from fastws.errors import FastwsError

MAX_TOKEN_SIZE: Final = 8 << 10
"""Longest token looked at, in characters: as long as the longest line of a request head."""

Reason = Literal[
    "malformed",
    "algorithm",
    "unknown_key",
    "signature",
    "expired",
    "not_yet_valid",
    "issuer",
    "audience",
    "claim",
    "revoked",
    "unavailable",
    "refused",
    "forbidden",
    "application",
]

_TEXTS: Final[dict[Reason, str]] = {
    "malformed": "the token is not a signed JWT",
    "algorithm": "the token is signed with an algorithm that this server does not accept",
    "unknown_key": "the token is signed with a key that this server does not know",
    "signature": "the signature of the token is wrong",
    "expired": "the token has expired",
    "not_yet_valid": "the token is not valid yet",
    "issuer": "the token comes from another issuer",
    "audience": "the token is meant for another audience",
    "claim": "a claim of the token is missing or cannot be used",
    "revoked": "the token has been revoked",
    "unavailable": "the keys of the issuer cannot be had at the moment; try again later",
    "refused": "the application does not accept the token",
    "forbidden": "the application does not let this user in",
    "application": "the application cannot be asked at the moment who this is; try again later",
}


class AuthError(FastwsError):
    """A token is not accepted.

    `reason` is for programs, the text for people. Neither has any part of the token in it, so both may be
    sent and logged.
    """

    def __init__(self, reason: Reason, text: str = "") -> None:
        if reason not in _TEXTS:
            # It goes into close reasons and metrics, and a program that fastws runs in may raise this.
            raise ValueError(f"reason: {reason!r} is none of {', '.join(_TEXTS)}")
        super().__init__(text or _TEXTS[reason])
        self.reason: Reason = reason


class SignedToken(NamedTuple):
    """A token taken apart (RFC 7515 §7.1). Everything in it is as the sender wants it until it is verified."""

    algorithm: str
    kid: str | None
    signed: bytes
    payload: bytes
    signature: bytes


class _Header(msgspec.Struct):
    # What is not named here is not even read: jku, x5u, jwk and x5c would let a token bring its own key.
    alg: str
    kid: str | None = None
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_header_decoder: Final = msgspec.json.Decoder(_Header)
_claims_decoder: Final = msgspec.json.Decoder(dict[str, Any])

_T = TypeVar("_T")

_FROM_URL: Final = bytes.maketrans(b"-_", b"+/")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_ABSENT: Final = frozenset({"", "undefined", "null"})


def token_of(
    headers: Mapping[str, str], query: Mapping[str, str], subprotocols: Iterable[str] | None = None
) -> str | None:
    """Return the token that a request brings; None when it brings none.

    The first of: ``Authorization: Bearer``, the subprotocol ``bearer.<jwt>``, the query parameter ``token``.
    An empty one counts as absent, and so do ``undefined`` and ``null``, which pages send that have no token.
    `headers` has lower-case names (or compares names without case), `query` is decoded. `subprotocols` are
    those the client offers; None reads them from `headers`.
    """
    scheme, _, token = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() == "bearer" and (token := token.strip()) not in _ABSENT:
        return token
    if subprotocols is None:
        subprotocols = headers.get("sec-websocket-protocol", "").split(",")
    for subprotocol in subprotocols:
        scheme, _, token = subprotocol.strip().partition(".")
        if scheme.lower() == "bearer" and token not in _ABSENT:
            return token
    token = query.get("token", "").strip()
    return None if token in _ABSENT else token


def parse(token: str) -> SignedToken:
    """Take a token in compact form apart.

    Raises:
        AuthError: "malformed".
    """
    # Refused here, a non-ASCII text raises nothing that would carry the token along.
    if len(token) > MAX_TOKEN_SIZE or not token.isascii():
        raise AuthError("malformed")
    signed, _, signature_part = token.encode("ascii").rpartition(b".")
    header_part, separator, payload_part = signed.partition(b".")
    header = _decode(_from_base64url(header_part), _header_decoder)
    payload = _from_base64url(payload_part)
    signature = _from_base64url(signature_part)
    if not separator or header is None or payload is None or signature is None:
        raise AuthError("malformed")
    if header.crit is not msgspec.UNSET:
        raise AuthError("malformed", "the token demands an extension of JWT that this server does not have")
    return SignedToken(header.alg, header.kid, signed, payload, signature)


def parse_claims(payload: bytes) -> dict[str, Any]:
    """Return the claims in the payload of a token.

    Raises:
        AuthError: "malformed": the payload is not a JSON object in UTF-8.
    """
    claims = _decode(payload, _claims_decoder)
    if claims is None:
        raise AuthError("malformed")
    return claims


def sign(claims: Mapping[str, Any], key: PrivateKey, algorithm: str, kid: str | None = None) -> str:
    """Return a token with `claims`, signed with `key`, which fits `algorithm`; for tests and trials."""
    header = {"alg": algorithm, "typ": "JWT"} | ({} if kid is None else {"kid": kid})
    signed = _to_base64url(msgspec.json.encode(header)) + b"." + _to_base64url(msgspec.json.encode(claims))
    return (signed + b"." + _to_base64url(signature_of(algorithm, signed, key))).decode("ascii")


def _decode(data: bytes | None, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    if data is None:
        return None
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _from_base64url(part: bytes) -> bytes | None:
    """Decode base64url without padding (RFC 7515 §2); None when `part` is not the one way to write its bytes."""
    standard = part.translate(_FROM_URL)
    try:
        data = a2b_base64(standard + b"=" * (-len(standard) % 4), strict_mode=True)
    except ValueError:  # of which binascii.Error is one
        return None
    # Unused bits that are not zero, "+", "/" and "=" decode too, but only a tampered token has them.
    return data if _to_base64url(data) == part else None


def _to_base64url(data: bytes) -> bytes:
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL)
